import tomllib
from fractions import Fraction

import numpy as np
import pytest

from annotate.detectors.colour import suggest
from annotate.detectors.colour.detector import ColourDetector
from annotate.items.boxes import iou_matrix
from annotate.items.records import Frame, Vocabulary

RED, CYAN = (235, 30, 45), (40, 220, 230)


def frame(*boxes, colour=RED, arm=0.25, index=0, width=2):
    """A brown frame with noise; rectangles are drawn with arms of that share of a side."""
    noise = np.random.default_rng(index).integers(-12, 13, (240, 320, 3))
    image = np.full((240, 320, 3), (110, 80, 50))
    for x1, y1, x2, y2 in boxes:
        drawn = np.zeros(image.shape[:2], bool)
        drawn[y1:y2, x1:x2] = True
        drawn[y1 + width : y2 - width, x1 + width : x2 - width] = False
        y, x = np.mgrid[:240, :320]
        for at, low, high in ((x, x1, x2), (y, y1, y2)):
            reach = arm * (high - low)
            drawn &= (at < low + reach) | (at >= high - reach) | (at < low + width)
        image[drawn] = colour
    return Frame("dock.mp4", index, Fraction(index), np.clip(image + noise, 0, 255).astype("u1"))


def disc_frame(colour=RED):
    noise = np.random.default_rng(1).integers(-12, 13, (240, 320, 3))
    image = np.full((240, 320, 3), (110, 80, 50))
    y, x = np.mgrid[:240, :320]
    image[(x - 100) ** 2 + (y - 100) ** 2 < 30**2] = colour
    return Frame("dock.mp4", 0, Fraction(0), np.clip(image + noise, 0, 255).astype("u1"))


def found(toml_entry, shown, box):
    vocabulary = Vocabulary("x", tomllib.loads(toml_entry)["classes"], "")
    [proposed] = ColourDetector(vocabulary).propose([shown])
    return len(proposed) > 0 and iou_matrix([box], proposed.xyxy).max() > 0.8


@pytest.mark.parametrize("colour", [RED, CYAN])
@pytest.mark.parametrize("slack", [0, 8], ids=["tight", "loose"])
def test_corner_brackets_get_an_outline_that_finds_them_in_other_sizes(colour, slack):
    box = (100, 60, 180, 140)
    given = (100 - slack, 60 - slack // 2, 180 + slack // 2, 140 + slack)
    trial = suggest.suggest_entry([frame(box, colour=colour)], [(0, given)], "target")
    assert (trial.found_count, trial.box_count, trial.other_count) == (1, 1, 0)
    entry = tomllib.loads(trial.toml_entry)["classes"]["target"]["colour"]
    low, high = entry["outline"]["arms"]
    assert low < 0.25 < high < 0.35
    for later in ((30, 30, 230, 230), (200, 100, 240, 140)):
        assert found(trial.toml_entry, frame(later, colour=colour, index=9), later)


def test_a_whole_frame_gets_an_outline_without_openings():
    box = (100, 60, 180, 140)
    trial = suggest.suggest_entry([frame(box, arm=0.6)], [(0, box)], "target")
    entry = tomllib.loads(trial.toml_entry)["classes"]["target"]["colour"]
    assert trial.found_count == 1 and entry["outline"]["arms"] == [0.5, 0.5]


def test_a_solid_object_gets_no_outline():
    trial = suggest.suggest_entry([disc_frame()], [(0, (70, 70, 130, 130))], "ball")
    assert (trial.found_count, trial.other_count) == (1, 0)
    assert "outline" not in tomllib.loads(trial.toml_entry)["classes"]["ball"]["colour"]
    assert trial.summary.startswith("tried on its own boxes, the entry finds 1 of 1")


def test_parts_of_a_solid_object_are_joined_by_a_gap():
    shown = disc_frame()
    shown.image[98:102] = (110, 80, 50)  # two halves, 4 pixels apart
    trial = suggest.suggest_entry([shown], [(0, (70, 70, 130, 130))], "ball")
    assert trial.found_count == 1
    assert tomllib.loads(trial.toml_entry)["classes"]["ball"]["colour"]["gap"] >= 4


def test_the_trial_counts_what_is_missed_and_what_else_is_found():
    one, other = (20, 20, 80, 80), (120, 100, 220, 200)
    shown = frame(one, other)
    good = suggest.suggest_entry([shown], [(0, one), (0, other)], "target")
    assert (good.found_count, good.other_count) == (2, 0)
    trial = suggest.try_entry(good.toml_entry, [shown], [(0, one), (0, (250, 10, 300, 60))])
    assert (trial.found_count, trial.box_count, trial.other_count) == (1, 2, 1)
    assert "finds 1 of 2, and 1 others" in trial.summary and "boxes on more frames" in trial.summary


def test_the_command_prints_the_entry_alone_on_stdout(annotate, demo, tmp_path):
    words = ("colours", demo, "--box", "0,100,100,200,220", "-o", "plot.png", "--name", "target")
    code, out, err = annotate(*words)
    assert code == 0, err
    (tmp_path / "mine.toml").write_text(out)
    assert list(tomllib.loads(out)["classes"]) == ["target"]
    assert "channel\twhere" in err and "tried on its own boxes, the entry finds" in err
    assert "plot.png" in err


def test_a_box_round_the_demos_target_gives_an_entry_that_finds_it(annotate, demo, tmp_path):
    import json

    truth = json.loads((demo.parent / "demo.gt.json").read_text())
    names = {each["id"]: each["name"] for each in truth["categories"]}
    boxes = {
        each["image_id"]: each["bbox"]
        for each in truth["annotations"]
        if names[each["category_id"]] == "designator"
    }
    x, y, width, height = boxes[0]
    box = f"0,{x},{y},{x + width},{y + height}"
    _, out, err = annotate("colours", demo, "--box", box, "-o", "plot.png")
    assert "finds 1 of 1, and 0 others" in err
    later = max(boxes)
    from annotate.video import reader

    [shown] = reader.frames_at(demo, [later])
    x, y, width, height = boxes[later]
    assert found(out, shown, (x, y, x + width, y + height))
