"""The command line as a user sees it: messages, where they are printed, and exit codes."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from annotate.cli.options import (
    complete_detector,
    complete_engine,
    complete_format,
    complete_model,
    complete_vocabulary,
)
from annotate.dataset.folder import load_dataset
from annotate.items import journal

DETECT = ("-d", "colour", "-v", "designator.v1")


def test_help_names_every_stage(annotate):
    code, out, _ = annotate("--help")
    assert code == 0
    stages = "frames detect propagate build export import draw colours detectors propagators"
    for command in [*stages.split(), "vocabularies", "doctor", "demo"]:
        assert f"\n  {command} " in out


def test_data_goes_to_stdout_and_messages_to_stderr(annotate, demo):
    code, out, err = annotate("detect", demo, *DETECT, "-o", "b.jsonl", "--stop", 3)
    assert (code, out, err) == (0, "b.jsonl\n", "")


def test_a_clip_in_one_take_is_split_at_a_cut(annotate, demo, tmp_path):
    annotate("detect", demo, *DETECT, "-o", "b.jsonl", "--every", 10)
    annotate("build", "b.jsonl", "-o", "set")
    for wrong in ("half", "demo.mp4:half", "demo.mp4:-1"):
        code, _, err = annotate("split", "set", "--cut", wrong)
        assert code == 2 and f"expected CLIP:FRAME, such as demo.mp4:120, got '{wrong}'" in err
    assert annotate("split", "set", "--cut", 100)[0] == 0
    ranges = load_dataset(tmp_path / "set").split_ranges
    assert [(each.start, each.split) for each in ranges] == [(0, "train"), (100, "val")]


def test_options_may_follow_the_name_of_a_plugin(annotate, demo, tmp_path):
    clip = ("detect", demo, "-v", "designator.v1", "--stop", 3)
    annotate(*clip, "-d", "colour:min_score=0.9,min_area=20", "-o", "a.jsonl")
    settings = ("--set", "min_score=0.9", "--set", "min_area=20")
    annotate(*clip, "-d", "colour", *settings, "-o", "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    twice = (*clip, "-d", "colour:min_score=0.9", "--set", "min_score=0.5", "-o", "c.jsonl")
    code, out, err = annotate(*twice)
    assert (code, out) == (1, "")
    assert err == "annotate: colour:min_score=0.9: min_score is given twice: give it once\n"


def test_the_same_command_again_reports_a_complete_file(annotate, demo, tmp_path):
    words = ("detect", demo, *DETECT, "-o", "b.jsonl", "--stop", 3)
    annotate(*words)
    before = (tmp_path / "b.jsonl").read_bytes()
    code, _, err = annotate(*words)
    assert code == 0 and "b.jsonl was complete already; --force makes it again" in err
    assert (tmp_path / "b.jsonl").read_bytes() == before


def test_other_settings_are_refused_and_named(annotate, demo):
    annotate("detect", demo, *DETECT, "-o", "b.jsonl", "--stop", 3)
    code, _, err = annotate("detect", demo, *DETECT, "-o", "b.jsonl", "--stop", 4)
    assert code == 1 and "stop: 3 in the file, 4 now" in err and "--force" in err
    code, _, _ = annotate("detect", demo, *DETECT, "-o", "b.jsonl", "--stop", 4, "--force")
    assert code == 0 and len(list(journal.read("b.jsonl"))) == 4


def test_a_file_of_something_else_is_left_alone(annotate, demo, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work\n")
    code, _, err = annotate("detect", demo, *DETECT, "-o", "thesis.txt", "--stop", 3)
    assert code == 1 and "--force" in err
    assert (tmp_path / "thesis.txt").read_text() == "years of work\n"


def test_a_colour_filter_is_part_of_the_settings(annotate, demo):
    annotate("detect", demo, *DETECT, "-o", "b.jsonl", "--stop", 2, "--near", "designator")
    settings = journal.read("b.jsonl").header.settings
    assert settings["near"] == "designator" and settings["margin"] == 40


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_file_can_be_continued_after_ctrl_c(demo, tmp_path):
    words = [sys.executable, "-m", "annotate", "detect", str(demo), *DETECT, "-o", "b.jsonl"]
    default_sigint = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # also where we run behind nohup
    piped = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, preexec_fn=default_sigint, **piped) as run:
        while not (tmp_path / "b.jsonl").exists() or (tmp_path / "b.jsonl").stat().st_size < 3000:
            time.sleep(0.01)
            assert run.poll() is None, run.stderr.read()
        os.kill(run.pid, signal.SIGINT)
        message = run.stderr.read().decode()
        assert run.wait() == 130
    assert "stopped after" in message and "the same command continues from here" in message
    assert "Traceback" not in message
    subprocess.run(words, check=True, capture_output=True)
    frames = [item.frame for item in journal.read("b.jsonl")]
    assert frames == list(range(140))


def test_names_complete_in_the_shell():
    assert "colour" in complete_detector()
    assert "light" in complete_engine()
    assert {"coco", "yolo", "yolo-seg"} <= set(complete_format())
    assert "designator.v1" in complete_vocabulary()
    assert "sam2.1-tiny" in complete_model()


def test_lists_are_tables_for_programs_too(annotate):
    for command, name in (("detectors", "colour"), ("propagators", "light")):
        code, out, _ = annotate(command)
        rows = [line.split("\t") for line in out.splitlines()]
        assert code == 0 and rows[0][0] == "name" and name in [row[0] for row in rows]
        assert all(len(row) == len(rows[0]) for row in rows)
    code, out, _ = annotate("vocabularies")
    assert code == 0 and "designator.v1\tdesignator\tcolour" in out


def test_the_prompt_grid_is_drawn_from_the_same_command(annotate, demo, tmp_path):
    (tmp_path / "p.csv").write_text("frame_id,object_id,x,y,label\n0,1,605,249,1\n")
    words = ("propagate", demo, "-p", "p.csv", "-o", "m.jsonl", "--stop", 3, "--fast")
    code, _, err = annotate(*words)
    assert code == 0, err
    code, _, err = annotate("draw", "m.jsonl", "-p", "p.csv", "-o", "grid.png")
    assert code == 0, err
    assert (tmp_path / "grid.png").stat().st_size > 10_000


def test_colours_print_an_entry_that_can_be_used(annotate, demo, tmp_path):
    box = "0,298,206,410,318"
    code, out, err = annotate("colours", demo, "--box", box, "--name", "mark", "-o", "plot.png")
    assert code == 0, err
    (tmp_path / "mark.v1.toml").write_text(out[out.index("[classes.mark") :])
    words = ("detect", demo, "-d", "colour", "-v", "mark.v1.toml", "-o", "b.jsonl", "--stop", 2)
    code, _, err = annotate(*words)
    assert code == 0, err
