"""Plugins by name, their options, their optional members, and KEY=VALUE texts."""

import re
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from annotate import plugins
from annotate.errors import AnnotateError, UnknownName
from annotate.plugins import FAMILIES, Family, nested_plugins, optional_member


@dataclass(frozen=True)
class Counter:
    """Count things.

    At length.
    """

    start: int = 0
    step: float | None = None
    inner: object = None


@dataclass(frozen=True)
class ReadyCounter(Counter):
    """Count, when ready."""

    independent = True
    usage: object = field(default=3, metadata=plugins.RUNTIME_ONLY)

    def ready(self) -> None:
        raise AnnotateError("not ready")


@pytest.fixture
def counters(monkeypatch):
    """A family of two plugins, of which one cannot be imported."""
    points = {
        "broken": EntryPoint("broken", "no_such_package:Broken", "test.counters"),
        "counter": EntryPoint("counter", f"{__name__}:Counter", "test.counters"),
    }
    loaded = {"counter": Counter}
    real = plugins._entry_points
    monkeypatch.setattr(
        plugins, "_entry_points", lambda group: points if group == "test.counters" else real(group)
    )
    monkeypatch.setattr(
        EntryPoint, "load", lambda self: loaded[self.name] if self.name in loaded else _fail()
    )
    return Family("test.counters", "counter")


def _fail():
    raise ImportError("no_such_package")


def test_every_family_has_installed_plugins():
    assert all(family.names() for family in FAMILIES.values())
    assert "colour" in FAMILIES["detectors"].names()


def test_a_plugin_is_made_with_its_options(counters):
    assert counters.names() == ["broken", "counter"]
    assert counters.load("counter", start=2) == Counter(2)
    assert counters.load("counter", 2) == Counter(2)


def test_an_unknown_plugin_or_option_names_the_nearest(counters):
    with pytest.raises(UnknownName, match="no counter 'conter'; did you mean 'counter'"):
        counters.load("conter")
    with pytest.raises(UnknownName, match="no option of counter 'strat'; did you mean 'start'"):
        counters.load("counter", strat=1)
    with pytest.raises(UnknownName, match="did you mean 'step'"):
        counters.parse_options("counter", {"stepp": "1"})


def test_option_texts_become_the_types_of_the_fields(counters):
    texts = {"start": "3", "step": "none"}
    assert counters.parse_options("counter", texts) == {"start": 3, "step": None}
    assert counters.parse_options("counter", {"step": "2"}) == {"step": 2.0}
    with pytest.raises(AnnotateError, match="counter: start must be int, got 'three'"):
        counters.parse_options("counter", {"start": "three"})


def test_rows_describe_a_plugin_or_say_why_it_cannot_be_loaded(counters):
    broken, counter = counters.rows()
    assert broken == ("broken", "cannot be loaded: no_such_package", "")
    assert counter == ("counter", "Count things.", "start=0, step=None, inner=None")


def test_optional_members_have_defaults_without_a_base_class():
    plain, ready = Counter(), ReadyCounter()
    assert optional_member(plain, "ready")() is None
    assert not optional_member(plain, "independent") and optional_member(ready, "independent")
    assert optional_member(plain, "usage") is None and optional_member(ready, "usage") == 3
    with pytest.raises(AnnotateError, match="not ready"):
        optional_member(ready, "ready")()


def test_nested_plugins_are_found_alone_and_by_name():
    assert list(nested_plugins(Counter(inner=Counter(1)))) == [Counter(1)]
    assert list(nested_plugins(Counter(inner={"a": Counter(1), "b": 2}))) == [Counter(1)]
    assert list(nested_plugins(Counter(inner=Counter))) == []


@pytest.mark.parametrize(
    "text, pairs",
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1, b=2 c=3,d=4", {"a": "1", "b": "2", "c": "3", "d": "4"}),
        ("""a='1, 2' "b c"="x=y" d=""", {"a": "1, 2", "b c": "x=y", "d": ""}),
        ("m.url=http://host/?q=1,2 m.tries=2", {"m.url": "http://host/?q=1,2", "m.tries": "2"}),
        ("a=[[1, 2], [3, 4]] b=it's", {"a": "[[1, 2], [3, 4]]", "b": "it's"}),
    ],
)
def test_pairs_are_split_where_a_key_begins(text, pairs):
    assert plugins.parse_pairs(text) == pairs


def test_pairs_can_be_separated_by_commas_alone():
    text = "members=colour vlm,weights=colour=2 vlm=3,min_score=0.5"
    expected = {"members": "colour vlm", "weights": "colour=2 vlm=3", "min_score": "0.5"}
    assert plugins.parse_pairs(text, separators=",") == expected


@pytest.mark.parametrize("text", ["a", "=1", "a, b=1"])
def test_a_text_without_a_key_or_value_says_what_was_expected(text):
    with pytest.raises(AnnotateError, match="expected NAME=NUMBER, got"):
        plugins.parse_pairs(text, "NAME=NUMBER")
    if "," not in text:
        with pytest.raises(AnnotateError, match="expected NAME=NUMBER, got"):
            plugins.split_pair(text, "NAME=NUMBER")


def test_every_optional_member_is_documented():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = set(re.findall(r"[`(]([a-z_]+)[`(:) =]", text))
    assert set(plugins.OPTIONAL_MEMBERS) <= code
