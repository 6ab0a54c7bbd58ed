"""Find plugins by name through entry points, and parse their options.

The built-in plugins are registered exactly as third-party ones. Listing the names imports no
plugin. A plugin is a frozen dataclass; its fields with a default are its options. Beside what its
family requires, it may have the optional members of `OPTIONAL_MEMBERS`.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from annotate.errors import AnnotateError, UnknownName

_P = TypeVar("_P")

# Field metadata of an option that does not shape the result, such as a timeout or a budget. The
# option is not in the header of a file of items, so a run can be resumed with another value. The
# key stays "aside", because third-party plugins use it.
RUNTIME_ONLY = {"aside": True}


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda p: p.name)}


@dataclass(frozen=True)
class Family(Generic[_P]):
    """The plugins of one kind: their entry point group, and their noun in messages.

    Examples:
        >>> FAMILIES["detectors"].names()[:2]
        ['cascade', 'colour']
    """

    group: str
    noun: str

    def names(self) -> list[str]:
        """List the installed plugins, sorted; none is imported."""
        return list(_entry_points(self.group))

    def plugin_class(self, name: str) -> type[_P]:
        """Import the class that is registered under `name`.

        Raises:
            UnknownName: nothing is installed under that name; names the nearest.
        """
        if name not in _entry_points(self.group):
            raise UnknownName(self.noun, name, self.names())
        plugin: type[_P] = _entry_points(self.group)[name].load()
        return plugin

    def load(self, name: str, *family_args: Any, **options: Any) -> _P:
        """Make the plugin `name` with what its family gives to each plugin, and its own options.

        Raises:
            UnknownName: nothing is installed under that name, or it has no such option.
        """
        plugin = self.plugin_class(name)
        check_options(plugin, name, options)
        return plugin(*family_args, **options)

    def parse_options(self, name: str, texts: Mapping[str, str]) -> dict[str, Any]:
        """Parse option texts from the command line as the types of the plugin's fields.

        Raises:
            UnknownName: no such plugin or option; names the nearest.
            AnnotateError: a text is not of the field's type.
        """
        return parse_options(self.plugin_class(name), name, texts)

    def split_spec(self, text: str) -> tuple[str, dict[str, str]]:
        """Split `NAME` or `NAME:KEY=VALUE,KEY=VALUE` into the name and its options as text.

        A comma belongs to the value if no `KEY=` follows it; quotes round a value are removed.

        Examples:
            >>> FAMILIES["detectors"].split_spec("colour:min_score=0.6,min_area=9")
            ('colour', {'min_score': '0.6', 'min_area': '9'})

        Raises:
            UnknownName: nothing is installed under that name; names the nearest.
            AnnotateError: an option without a value.
        """
        name, _, rest = text.partition(":")
        if name not in _entry_points(self.group):
            raise UnknownName(self.noun, name, self.names())
        return name, parse_pairs(rest, f"KEY=VALUE after {name}:", separators=",")

    def rows(self) -> list[tuple[str, str, str]]:
        """List each plugin's name, the first line of its docstring, and its options with defaults.

        For a plugin that cannot be imported the reason stands in place of the docstring.
        """
        rows = []
        for name in self.names():
            try:
                plugin = self.plugin_class(name)
            except ImportError as error:
                rows.append((name, f"cannot be loaded: {error}", ""))
                continue
            lines = (plugin.__doc__ or "").strip().splitlines()
            defaults = [f"{key}={field.default}" for key, field in option_fields(plugin).items()]
            rows.append((name, lines[0] if lines else "", ", ".join(defaults)))
        return rows


FAMILIES: Mapping[str, Family[Any]] = {
    "detectors": Family("annotate.detectors", "detector"),
    "propagators": Family("annotate.propagators", "engine"),
    "segmenters": Family("annotate.segmenters", "segmenter"),
    "formats": Family("annotate.formats", "format"),
    "trainers": Family("annotate.trainers", "trainer"),
}

# Members that a plugin may have, and the value that stands for a missing one.
OPTIONAL_MEMBERS: Mapping[str, Any] = {
    "ready": lambda: None,  # raises what is missing (weights, a server), before a run begins
    "independent": False,  # of an engine: an object's masks do not depend on the other objects
    "causal": False,  # of an engine: a mask depends on no prompt of a later frame of the pass
    "forgets": False,  # of an engine: its sessions have `forget(object_ids)`
    "weights": (),  # options that name weights, beside those that are called `model` or the like
    "previews": False,  # of an engine: its sessions have `preview(frame, prompts)`
    "quick_previews": False,  # of an engine: its sessions have `quick_preview(frame, prompts)`
    "phrase": None,  # of an engine that finds objects itself: the words for them, "" if not given
    "notes": None,  # of a detector: what a run left out, by reason: a `progress.Notes`
    "usage": None,  # of a plugin that asks a model server: requests, tokens, cost: a `UsageTotal`
}


def optional_member(plugin: Any, name: str) -> Any:
    """Return an optional member of a plugin, or its default in `OPTIONAL_MEMBERS`.

    Only this function asks whether a plugin has a member: a third-party plugin need not inherit
    from a class of this package.
    """
    return getattr(plugin, name, OPTIONAL_MEMBERS[name])


def nested_plugins(plugin: Any) -> Iterator[Any]:
    """Yield the plugins in a plugin's fields: dataclasses that a field holds, alone or by name."""
    yield from (each for _, each in named_plugins(plugin))


def named_plugins(plugin: Any) -> Iterator[tuple[str, Any]]:
    """Yield what `nested_plugins` yields, each with the name of its field, or `field.name`.

    An object of a Python user that is no dataclass has none.
    """
    for field in dataclasses.fields(plugin) if dataclasses.is_dataclass(plugin) else ():
        value = getattr(plugin, field.name)
        for key, each in value.items() if isinstance(value, Mapping) else [("", value)]:
            if dataclasses.is_dataclass(each) and not isinstance(each, type):
                yield (f"{field.name}.{key}" if key else field.name), each


# Options that had other names in earlier versions, old -> new; the old ones are read as well.
RENAMED_OPTIONS = {
    "convention": "box_format",
    "way": "mode",
    "timeout": "timeout_seconds",
    "wait": "wait_seconds",
    "smallest": "min_area",
    "least": "min_score",
}


def _current_name(plugin: type[Any], key: str) -> str:
    """Return the name of an option that was given by its name in an earlier version."""
    fields, renamed = option_fields(plugin), RENAMED_OPTIONS.get(key, key)
    return renamed if key not in fields and renamed in fields else key


def option_fields(plugin: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a plugin class that a person may set: those with a default."""
    unset = (dataclasses.MISSING, dataclasses.MISSING)
    fields = dataclasses.fields(plugin)
    return {f.name: f for f in fields if (f.default, f.default_factory) != unset}


def check_options(plugin: type[Any], name: str, option_names: Iterable[str]) -> None:
    """Refuse an option that the plugin does not have.

    Raises:
        UnknownName: names the nearest.
    """
    for key in option_names:
        if key not in option_fields(plugin):
            raise UnknownName(f"option of {name}", key, option_fields(plugin))


def parse_options(plugin: type[Any], name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Parse option texts as the types of a plugin class's fields; `name` begins the errors.

    Raises:
        UnknownName: the plugin has no such option; names the nearest.
        AnnotateError: a text is not of the field's type.
    """
    texts = {_current_name(plugin, key): text for key, text in texts.items()}
    check_options(plugin, name, texts)
    hints = typing.get_type_hints(plugin)
    return {key: _parse_value(hints[key], text, f"{name}: {key}") for key, text in texts.items()}


def _parse_value(type_hint: Any, text: str, where: str) -> Any:
    kinds = typing.get_args(type_hint) if isinstance(type_hint, types.UnionType) else (type_hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in {"true", "yes", "1", "false", "no", "0"}:
        return text.lower() in {"true", "yes", "1"}
    for kind in (int, float, str):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise AnnotateError(f"{where} must be {expected}, got {text!r}")


def split_pair(text: str, expected: str = "KEY=VALUE") -> tuple[str, str]:
    """Split `KEY=VALUE` at its first equals sign.

    Examples:
        >>> split_pair("prompt=x = 2")
        ('prompt', 'x = 2')

    Raises:
        AnnotateError: no key or no equals sign; says what was expected.
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise AnnotateError(f"expected {expected}, got {text!r}")
    return key, value


def parse_pairs(text: str, expected: str = "KEY=VALUE", separators: str = ", ") -> dict[str, str]:
    """Parse several `KEY=VALUE` in one text, with any of `separators` between them.

    A separator belongs to the value where no `KEY=` comes after it. Quotes round a whole key or
    value are removed.

    Examples:
        >>> parse_pairs("a=1, b='2 3' c=4,5")
        {'a': '1', 'b': '2 3', 'c': '4,5'}
        >>> parse_pairs("a=1 b=2,c=3", separators=",")
        {'a': '1 b=2', 'c': '3'}

    Raises:
        AnnotateError: says what was expected.
    """
    pairs, position, text = {}, 0, text.strip(separators + "\t\r\n")
    while position < len(text):
        match = _pair_pattern(separators).match(text, position)
        if match is None:
            raise AnnotateError(f"expected {expected}, got {text[position:]!r}")
        key, value = split_pair(match[1], expected)
        pairs[_without_quotes(key)] = _without_quotes(value)
        position = match.end()
    return pairs


@cache
def _pair_pattern(separators: str) -> re.Pattern[str]:
    key = r"""(?:"[^"]*"|'[^']*'|[^\s,="']+)"""
    value = r"""(?:"[^"]*"|'[^']*'|.*?)"""
    gap = f"[{re.escape(separators)}]"
    return re.compile(rf"({key}={value})(?:{gap}+(?={key}=)|{gap}*$)", re.DOTALL)


def _without_quotes(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text
