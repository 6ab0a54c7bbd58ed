"""What exists is not destroyed: an output that is an input is refused, whatever the command."""

import shutil
from functools import cache

import numpy as np
import pytest
from command_tree import all_commands

from annotate.items import journal
from annotate.items.records import Header
from annotate.video.writer import VideoWriter

# Command -> its words; {in} is a file that exists, {out} the output.
COMMANDS = {
    "frames": ["{in}", "-o", "{out}"],
    "frames ": ["{in}", "--preview", "{out}"],
    "frames  ": ["x.mp4", "--ignore", "{in}", "-o", "{out}"],
    "detect": ["{in}", "-d", "colour", "-v", "designator.v1", "-o", "{out}"],
    "detect ": ["x.mp4", "-d", "colour", "-v", "{in}", "-o", "{out}"],
    "detect  ": ["x.mp4", "-d", "yolo", "-v", "x.toml", "--set", "model={in}", "-o", "{out}"],
    "detect   ": [
        "x.mp4",
        "-d",
        "vlm",
        "-v",
        "x",
        "--set",
        "reference={in}:1,2,3,4",
        "-o",
        "{out}",
    ],
    "detect    ": ["x.mp4", "-d", "yolo", "-v", "x", "--calibration", "{in}", "-o", "{out}"],
    "segment": ["{in}", "-o", "{out}"],
    "propagate": ["{in}", "-p", "x.csv", "-o", "{out}"],
    "propagate ": ["x.mp4", "-p", "{in}", "-o", "{out}"],
    "propagate  ": ["x.mp4", "--from", "{in}", "-o", "{out}"],
    "propagate   ": ["x.mp4", "--mask", "0:1:{in}", "-o", "{out}"],
    "point": ["{in}", "-o", "{out}", "--no-open"],
    "point ": ["x.mp4", "--from", "{in}", "-o", "{out}", "--no-open"],
    "review": ["{in}", "-o", "{out}"],
    "review   ": ["{in}", "--order", "{out}"],
    "review    ": ["x", "--items", "{in}", "-o", "{out}"],
    "review     ": ["x", "--model", "{in}", "-o", "{out}"],
    "review ": ["x.jsonl", "--video", "a.mp4={in}", "-o", "{out}"],
    "colours": ["{in}", "--box", "0,1,2,3,4", "-o", "{out}"],
    "propose-points": ["{in}", "--phrase", "mech", "-o", "{out}"],
    "calibrate-scores": ["{in}", "--truth", "x", "-o", "{out}"],
    "calibrate-scores ": ["x.jsonl", "--truth", "{in}", "-o", "{out}"],
    "next": ["x.jsonl", "{in}", "-o", "{out}"],
    "next ": ["x.jsonl", "--and", "{in}", "-o", "{out}"],
    "next   ": ["x.jsonl", "--model", "{in}", "-o", "{out}"],
    "next  ": ["x.jsonl", "--known", "{in}", "-o", "{out}"],
    "build": ["x.jsonl", "{in}", "-o", "{out}"],
    "build ": ["x.jsonl", "--frames", "{in}", "-o", "{out}"],
    "export": ["{in}", "--to", "coco", "-o", "{out}"],
    "import": ["{in}", "--from", "coco", "-o", "{out}"],
    "draw": ["{in}", "-o", "{out}"],
    "draw ": ["x.jsonl", "--video", "a.mp4={in}", "-o", "{out}"],
    "draw  ": ["x.jsonl", "-p", "{in}", "-o", "{out}"],
    "compare": ["{in}", "-d", "colour", "-o", "{out}"],
    "compare ": ["x.mp4", "-d", "a=yolo:model={in},tile=320", "-o", "{out}"],
    "compare  ": ["x.mp4", "-d", "colour", "--truth", "{in}", "-o", "{out}"],
    "study": ["{in}", "--frame", "0", "--box", "1,2,3,4", "--describe", "vlm", "-o", "{out}"],
    "find": ["{in}", "--reference", "x.png", "--name", "mech", "-o", "{out}"],
    "find ": ["x.mp4", "--reference", "{in}", "--name", "mech", "-o", "{out}"],
    "map": ["x.mp4", "{in}", "-o", "{out}"],
    "poster": ["{in}", "-o", "{out}"],
    "pull": ["{in}", "-o", "{out}"],
    "diff": ["{in}", "x", "-o", "{out}"],
    "train": ["{in}", "-o", "{out}"],
    "train ": ["x", "--from", "{in}", "-o", "{out}"],
    "train  ": ["x", "--gold", "{in}", "-o", "{out}"],
    "curve": ["{in}", "--val", "x", "--gold", "y", "-o", "{out}"],
    "curve ": ["x", "--val", "{in}", "--gold", "y", "-o", "{out}"],
    "curve  ": ["x", "--val", "y", "--gold", "{in}", "-o", "{out}"],
    "scenes add": ["{in}", "--db", "{out}"],
    "batch detect": ["{in}", "-d", "colour", "-v", "designator.v1", "-o", "{out}"],
    "batch segment": ["{in}", "-o", "{out}"],
    "batch propagate": ["{in}", "-p", "x.csv", "-o", "{out}"],
    "batch propagate ": ["x.mp4", "--from", "{in}", "-o", "{out}"],
    "batch frames": ["{in}", "-o", "{out}"],
    "batch scenes": ["{in}", "-o", "{out}"],
    "batch collect": ["{in}", "-o", "{out}"],
    "run": ["{in}", "-o", "{out}"],
}
OUTPUT_NAMES = {"output", "preview", "db"}
WITHOUT_INPUTS = {"demo"}
READING = {"scenes find", "scenes list", "scenes remove"}  # of the database, by its name


@cache
def commands():
    return dict(all_commands())


def test_every_command_with_an_output_is_tried_here():
    with_output = {
        name
        for name, command in commands().items()
        if OUTPUT_NAMES & {p.name for p in command.params}
    }
    assert with_output - WITHOUT_INPUTS - READING == {name.strip() for name in COMMANDS}


def words_of(case, given, output):
    name = case.strip().split()
    can_force = any(each.name == "force" for each in commands()[case.strip()].params)
    rest = [
        word.replace("{in}", str(given)).replace("{out}", str(output)) for word in COMMANDS[case]
    ]
    return [*name, *rest, *(["--force"] if can_force else [])]


@pytest.mark.parametrize("case", COMMANDS)
def test_an_output_that_is_an_input_is_refused_even_with_force(case, tmp_path, annotate):
    precious = tmp_path / "precious.bin"
    precious.write_text("a year of work")
    (tmp_path / "link.bin").symlink_to(precious)
    for output in ("./precious.bin", "link.bin"):
        code, out, err = annotate(*words_of(case, "precious.bin", output))
        assert code == 1 and out == "", (output, err)
        assert err.count("\n") == 1 and "this is an input of the run" in err, err
    assert precious.read_text() == "a year of work"


@pytest.mark.parametrize("case", COMMANDS)
def test_a_folder_that_contains_an_input_is_no_output(case, tmp_path, annotate):
    precious = tmp_path / "work" / "deep" / "precious.bin"
    precious.parent.mkdir(parents=True)
    precious.write_text("a year of work")
    code, _, err = annotate(*words_of(case, precious, "work"))
    assert code == 1 and "this folder contains an input of the run" in err, err
    assert precious.read_text() == "a year of work" and [*(tmp_path / "work").iterdir()] == [
        precious.parent
    ]


@pytest.mark.parametrize("case", ["draw", "build", "review", "calibrate-scores"])
def test_the_clip_of_a_file_of_items_is_an_input(case, tmp_path, demo, annotate):
    clip = shutil.copy(demo, tmp_path / "copy.mp4")
    header = Header("detect", videos={"copy.mp4": {"path": str(clip), "fingerprint": "ab"}})
    journal.write("boxes.jsonl", header, [])
    code, _, err = annotate(*words_of(case, "boxes.jsonl", "copy.mp4"))
    assert code == 1 and "this is an input of the run" in err, err
    assert clip.read_bytes() == demo.read_bytes()


def test_a_name_that_is_also_that_of_the_output_is_no_path(tmp_path, annotate):
    (tmp_path / "mech").mkdir()
    (tmp_path / "x.mp4").touch()
    code, _, err = annotate("find", "x.mp4", "--reference", "x.mp4", "--name", "mech", "-o", "mech")
    assert code == 1 and "input of the run" not in err


FOREIGN = {
    "detect": ["{clip}", "-d", "colour", "-v", "designator.v1", "--stop", "1"],
    "segment": ["{clip}", "--stop", "1"],
    "propagate": ["{clip}", "--box", "0,1,10,10,60,60", "--stop", "1"],
    "review": ["boxes.jsonl"],
    "propose-points": ["{clip}", "--phrase", "mech"],
    "calibrate-scores": ["boxes.jsonl", "--truth", "boxes.jsonl"],
    "poster": ["map"],
    "colours": ["{clip}", "--box", "0,10,10,60,60"],
}


@pytest.mark.parametrize("command", FOREIGN)
def test_force_replaces_only_what_annotate_can_have_made(command, tmp_path, demo, annotate):
    journal.write("boxes.jsonl", Header("detect"), [])
    other = tmp_path / ("mine.png" if command == "colours" else "mine.toml")
    other.write_text("[classes.mech]\ncolour = {}\n")
    words = [word.replace("{clip}", str(demo)) for word in FOREIGN[command]]
    code, _, err = annotate(command, *words, "-o", other.name, "--force")
    assert code == 1 and err.count("\n") == 1 and "not made by annotate" in err, err
    assert other.read_text() == "[classes.mech]\ncolour = {}\n"


def test_a_clip_is_never_replaced_by_a_drawn_one(tmp_path, demo, annotate):
    other = shutil.copy(demo, tmp_path / "other.mp4")
    with VideoWriter("small.mp4", 30, (64, 48)) as small:
        for _ in range(3):
            small.write(np.zeros((48, 64, 3), np.uint8))
    words = ["-d", "colour", "-v", "designator.v1", "-o", "boxes.jsonl"]
    assert annotate("detect", "small.mp4", *words)[0] == 0
    code, _, err = annotate("draw", "boxes.jsonl", "-o", "other.mp4", "--force")
    assert code == 1 and "not made by annotate" in err
    assert other.read_bytes() == demo.read_bytes()
    assert annotate("draw", "boxes.jsonl", "-o", "drawn.mp4")[0] == 0
    code, _, err = annotate("draw", "boxes.jsonl", "-o", "drawn.mp4", "--force")
    assert code == 0, err


def test_a_folder_of_other_pictures_is_not_drawn_into(tmp_path, demo, annotate):
    words = ["-d", "colour", "-v", "designator.v1", "--stop", "1", "-o", "boxes.jsonl"]
    assert annotate("detect", demo, *words)[0] == 0
    (tmp_path / "holiday").mkdir()
    notes = tmp_path / "holiday" / "notes.txt"
    notes.write_text("mine")
    code, _, err = annotate("draw", "boxes.jsonl", "-o", "holiday", "--force")
    assert code == 1 and "notes.txt" in err
    assert [*notes.parent.iterdir()] == [notes]


DETECT = ["-d", "colour", "-v", "designator.v1"]
PROPAGATE = ["--box", "5,1,10,10,60,60"]
SELECTIONS = {
    "--rate 2 --every 3": "only one of",
    "--keyframes --every 2": "only one of",
    "--keyframes --rate 1": "only one of",
    "--start 20 --stop 10": "from frame 20 up to, but not including, 10",
    "--start 140": "it has 140 frames",
    "--start 999": "it has 140 frames",
}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("command", ["detect", "segment", "frames", "compare"])
def test_frames_that_cannot_be_selected_are_refused(command, selection, demo, tmp_path, annotate):
    options = selection.split()
    known = {name for each in commands()[command].params for name in each.opts}
    if not {each for each in options if each.startswith("--")} <= known:
        pytest.skip("no such option")
    words = DETECT if command in ("detect", "compare") else []
    code, _, err = annotate(command, demo, *words, *options, "-o", "out")
    assert code and not list(tmp_path.glob("out*"))
    if command != "frames":
        assert err.count("\n") == 1 and SELECTIONS[selection] in err, err


MISSING = {
    "detect": ["-d", "yolo", "-v", "designator.v1"],
    "segment": ["--engine", "sam2"],
    "propagate": [*PROPAGATE, "--engine", "sam2"],
}


@pytest.mark.parametrize("command", MISSING)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_run_without_weights_leaves_what_was_there(command, earlier, demo, tmp_path, annotate):
    out = tmp_path / "out.jsonl"
    if earlier:
        journal.write(out, Header("detect"), [])
    before = [path.read_bytes() for path in tmp_path.glob("out*")]
    code, _, err = annotate(command, demo, *MISSING[command], "-o", out.name, "--force")
    assert code == 1 and err.count("\n") == 1, err
    assert [path.read_bytes() for path in tmp_path.glob("out*")] == before


def test_build_refuses_two_selections(annotate, tmp_path):
    code, _, err = annotate("build", "x.jsonl", "--every", "2", "--rate", "1", "-o", "out")
    assert code == 1 and "only one of --every, --rate and --frame" in err


@pytest.mark.parametrize(
    "words",
    [
        ["detect", "x.mp4", "-d", "colour", "-d", "yolo", "-v", "x", "-o", "y"],
        ["detect", "x.mp4", "--detector=colour", "-dyolo", "-v", "x", "-o", "y"],
        ["propagate", "x.mp4", "-p", "a.csv", "-p", "b.csv", "-o", "y"],
        ["build", "x.jsonl", "-o", "y", "--every", "2", "--every", "3"],
    ],
)
def test_an_option_of_one_value_is_given_once(words, annotate):
    code, _, err = annotate(*words)
    assert code == 2 and err.count("\n") == 1 and "is given twice" in err, err


def test_a_value_that_looks_like_an_option_does_not_count(annotate):
    words = ["--reference", "x.png", "--name", "-d", "-d", "local", "-o", "y"]
    code, _, err = annotate("find", "x.mp4", *words)
    assert code == 1 and "twice" not in err
