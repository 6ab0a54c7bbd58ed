import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from annotate.detectors.run import DETECTORS, check_ready, detect_frames
from annotate.errors import PromptError
from annotate.items.records import Frame, Vocabulary
from annotate.video import reader
from annotate.vocabulary import read_vocabulary

RED, GREY = (215, 40, 44), (90, 90, 90)
DESIGNATOR = read_vocabulary("designator.v1")
SHARED = Path(__file__).parents[4] / "shared"


def hue_vocabulary(entry=(340, 20)):
    return Vocabulary("mugs.v1", {"plate": {}, "mug": {"colour": list(entry)}}, "")


def range_vocabulary(**entry):
    table = {"ranges": [{"space": "hsv", "hue_degrees": [340, 20], "saturation": [0.3, 1]}]} | entry
    return Vocabulary("mugs.v1", {"plate": {}, "mug": {"colour": table}}, "")


def to_frame(image):
    return Frame("dock.mp4", 0, Fraction(0), image)


def frame(*boxes):
    """A grey frame with each (x1, y1, x2, y2) painted red."""
    image = np.full((40, 60, 3), GREY, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = RED
    return to_frame(image)


def propose(vocabulary, *frames, **options):
    return DETECTORS.load("colour", vocabulary, **options).propose(list(frames))


def test_a_patch_inside_the_box_of_another_is_separate():
    image = frame((0, 0, 4, 40), (0, 36, 40, 40), (20, 10, 30, 20))  # an L, and a square inside it
    [detections] = propose(hue_vocabulary(), image)
    np.testing.assert_array_equal(detections.xyxy, [[0, 0, 40, 40], [20, 10, 30, 20]])
    assert detections.confidence.tolist() == [304 / 1600, 1.0]
    assert detections.class_id.tolist() == [1, 1]


@pytest.mark.parametrize("min_area, count", [(400, 1), (401, 0)], ids=["enough", "too few"])
def test_patches_below_min_area_are_left_out(min_area, count):
    [detections] = propose(hue_vocabulary(), frame((10, 5, 30, 25)), min_area=min_area)
    assert len(detections) == count


@pytest.mark.parametrize("gap, boxes", [(4, 2), (5, 1), (6, 1)])
def test_parts_within_the_gap_are_one_patch(gap, boxes):
    [detections] = propose(range_vocabulary(gap=gap), frame((5, 5, 15, 15), (20, 5, 30, 15)))
    assert len(detections) == boxes
    assert detections.xyxy[0].tolist() == [5, 5, 30 if boxes == 1 else 15, 15]
    assert detections.confidence[0] == pytest.approx(200 / 250 if boxes == 1 else 1)


@pytest.mark.parametrize(
    "limits, count",
    [
        ({"size": [10, 20]}, 1),
        ({"size": [11, 20]}, 0),
        ({"size": [1, 19]}, 0),
        ({"aspect": [1.9, 2.1]}, 1),
        ({"aspect": [0.4, 0.6]}, 0),
        ({"fill": [0.99, 1]}, 1),
        ({"fill": [0, 0.9]}, 0),
    ],
)
def test_patches_outside_the_limits_of_shape_are_left_out(limits, count):
    [detections] = propose(range_vocabulary(**limits), frame((10, 5, 30, 15)))
    assert len(detections) == count


def test_each_frame_gets_detections_in_order():
    one, none, two = propose(
        hue_vocabulary(), frame((1, 1, 9, 9)), frame(), frame((1, 1, 9, 9), (20, 1, 30, 9))
    )
    assert [len(each) for each in (one, none, two)] == [1, 0, 2]
    assert none.confidence is not None and none.class_id is not None
    assert not none.data and not none.metadata


def brackets(image, box, arm=0.245, thickness=3, colour=RED, opacity=0.85):
    """Four corner brackets, half-transparent; the box is their outer edge."""
    x1, y1, x2, y2 = box
    drawn = image.copy()
    across, down = round(arm * (x2 - x1)), round(arm * (y2 - y1))
    for x, y, right, below in ((x1, y1, 1, 1), (x2, y1, 0, 1), (x1, y2, 1, 0), (x2, y2, 0, 0)):
        left, top = (x if right else x - across), (y if below else y - down)
        inner_y, inner_x = (y if below else y - thickness), (x if right else x - thickness)
        for xa, ya, xb, yb in (
            (left, inner_y, left + across, inner_y + thickness),
            (inner_x, top, inner_x + thickness, top + down),
        ):
            drawn[max(ya, 0) : max(yb, 0), max(xa, 0) : max(xb, 0)] = colour
    return np.rint(image * (1 - opacity) + drawn * opacity).astype(np.uint8)


def as_video(image):
    """Subsample the colour as a video does: half the size in both directions."""
    ycc = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    height, width = image.shape[:2]
    half = cv2.resize(ycc[..., 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    ycc[..., 1:] = cv2.resize(half, (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)


def wall(height=480, width=640, colour=(110, 90, 70), seed=0):
    """A textured wall."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-30, 31, (height // 8, width // 8, 1))
    image = (
        np.kron(coarse, np.ones((8, 8, 1)))
        + np.array(colour)
        + rng.integers(-6, 7, (height, width, 1))
    )
    return np.clip(image, 0, 255).astype(np.uint8)


def iou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = np.clip(sides, 0, None).prod()
    return shared / (np.subtract(a[2:], a[:2]).prod() + np.subtract(b[2:], b[:2]).prod() - shared)


@pytest.mark.parametrize(
    "ground",
    [(110, 90, 70), (150, 150, 155), (30, 30, 32), (150, 10, 8)],
    ids=["brown", "grey", "dark", "red"],
)
@pytest.mark.parametrize("side, thickness", [(28, 2), (120, 3), (300, 4)])
def test_brackets_on_walls_are_found(ground, side, thickness):
    box = np.array([200, 100, 200 + side, 100 + side])
    image = as_video(brackets(wall(colour=ground), box, thickness=thickness))
    [detections] = propose(DESIGNATOR, to_frame(image))
    best = detections.confidence.argmax()
    assert iou(detections.xyxy[best], box) > (0.8 if side < 100 else 0.95)
    assert detections.confidence[best] > 0.75


def test_text_below_the_brackets_is_not_in_the_box():
    box = np.array([200, 100, 330, 230])
    image = brackets(wall(), box)
    cv2.putText(image, "12 m", (200, 252), cv2.FONT_HERSHEY_SIMPLEX, 0.6, RED, 2, cv2.LINE_AA)
    [detections] = propose(DESIGNATOR, to_frame(as_video(image)))
    assert iou(detections.xyxy[detections.confidence.argmax()], box) > 0.95


@pytest.mark.parametrize(
    "box, visible",
    [
        ((-20, 100, 140, 260), (0, 100, 140, 260)),
        ((-60, 100, 100, 260), (61, 100, 100, 260)),
        ((200, -20, 360, 140), (200, 0, 360, 140)),
        ((200, -60, 360, 100), (200, 61, 360, 100)),
        ((510, 100, 670, 260), (510, 100, 640, 260)),
        ((200, 340, 360, 500), (200, 340, 360, 480)),
        ((200, 400, 360, 560), (200, 400, 360, 439)),
    ],
    ids=["left", "right arms", "top", "bottom arms", "right", "bottom", "top arms"],
)
def test_the_box_at_the_edge_holds_the_visible_strokes(box, visible):
    image = as_video(brackets(wall(), box))
    [detections] = propose(DESIGNATOR, to_frame(image))
    assert iou(detections.xyxy[detections.confidence.argmax()], np.array(visible)) > 0.93
    assert (detections.xyxy >= 0).all() and (detections.xyxy <= [640, 480, 640, 480]).all()


ONE_CORNER = {
    "top left": ((-80, -60, 120, 140), (0, 0, 120, 140)),
    "top right": ((520, -60, 720, 140), (520, 0, 640, 140)),
    "bottom left": ((-80, 340, 120, 540), (0, 340, 120, 480)),
    "bottom right": ((520, 340, 720, 540), (520, 340, 640, 480)),
}


@pytest.mark.parametrize("box, visible", ONE_CORNER.values(), ids=ONE_CORNER)
@pytest.mark.parametrize("ground", [(110, 90, 70), (30, 30, 32)], ids=["brown", "dark"])
def test_one_visible_corner_and_its_arms_give_the_visible_part(box, visible, ground):
    """The far arms are outside: the box ends with the visible arms."""
    arm = 0.245 * (box[2] - box[0])
    x1, y1, x2, y2 = visible
    arms_only = [
        x1 if box[0] >= 0 or box[0] + arm > 0 else x2 - arm,
        y1 if box[1] >= 0 or box[1] + arm > 0 else y2 - arm,
        x2 if box[2] <= 640 or box[2] - arm < 640 else x1 + arm,
        y2 if box[3] <= 480 or box[3] - arm < 480 else y1 + arm,
    ]
    [detections] = propose(DESIGNATOR, to_frame(as_video(brackets(wall(colour=ground), box))))
    assert iou(detections.xyxy[detections.confidence.argmax()], np.array(arms_only)) > 0.9
    assert detections.confidence.max() > 0.5


@pytest.mark.parametrize(
    "box, visible",
    [
        ((-40, 120, 120, 280), (0, 120, 120, 280)),
        ((-30, 120, 130, 280), (0, 120, 130, 280)),
        ((240, -30, 400, 130), (240, 0, 400, 130)),
        ((510, 120, 670, 280), (510, 120, 640, 280)),
        ((240, 350, 400, 510), (240, 350, 400, 480)),
    ],
    ids=["left, last pixel of the arms hidden", "left", "top", "right", "bottom"],
)
def test_far_arms_at_the_edge_belong_to_the_box(box, visible):
    """A few pixels of the far arms are all that tells a wide box from a narrow one."""
    if box[0] == -40:  # the far arms end at x = -1: only the near ones are visible
        visible = (81, 120, 120, 280)
    [detections] = propose(DESIGNATOR, to_frame(as_video(brackets(wall(), box))))
    assert iou(detections.xyxy[detections.confidence.argmax()], np.array(visible)) > 0.9


def test_brackets_on_a_yellow_flash_are_red_in_spite_of_the_blur():
    box = np.array([200, 100, 260, 160])
    flash = wall(360, 640, (250, 225, 60))
    [detections] = propose(DESIGNATOR, to_frame(as_video(brackets(flash, box, thickness=2))))
    assert iou(detections.xyxy[detections.confidence.argmax()], box) > 0.85


def fur(image, rng, box):
    """Upright and level hairs in shades of red."""
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = (120, 20, 20)
    for _ in range(150):
        x, y = int(rng.integers(x1, x2)), int(rng.integers(y1, y2))
        end = (x + int(rng.integers(8, 30)), y) if rng.random() < 0.5 else (x, y + 20)
        red = int(rng.integers(140, 250))
        cv2.line(image, (x, y), end, (red, red // 6, red // 6), int(rng.integers(1, 4)))
    return image


def test_red_fur_at_the_edge_scores_below_a_cut_designator():
    rng = np.random.default_rng(3)
    cut = brackets(wall(), (520, 340, 720, 540))
    furs = [fur(wall(seed=n), rng, (420, 280, 640, 480)) for n in range(6)]
    assert max(map(best_score, furs)) < best_score(cut) - 0.1


def test_the_number_of_corners_is_required():
    [entry] = DESIGNATOR.phrases("colour").values()
    strict = Vocabulary(
        "d.v2", {"d": {"colour": entry | {"outline": {"arms": [0.2, 0.28], "corners": 3}}}}, ""
    )
    over_the_edge = to_frame(as_video(brackets(wall(), (-20, 100, 140, 260))))
    assert propose(DESIGNATOR, over_the_edge)[0].confidence.max() > 0.7
    assert max(propose(strict, over_the_edge)[0].confidence, default=0) < 0.6


def best_score(image):
    [detections] = propose(DESIGNATOR, to_frame(as_video(image)))
    return max(detections.confidence, default=0.0)


def test_other_red_shapes_score_lower():
    true = best_score(brackets(wall(), (200, 100, 330, 230)))
    whole = best_score(brackets(wall(), (200, 100, 330, 230), arm=0.5))
    text, lamp = wall(), wall()
    cv2.putText(text, "HEAT 37%", (20, 400), cv2.FONT_HERSHEY_SIMPLEX, 1, RED, 3, cv2.LINE_AA)
    cv2.circle(lamp, (300, 200), 20, RED, -1)
    cyan = brackets(wall(), (200, 100, 330, 230), colour=(40, 200, 220))
    assert true > 0.9
    assert all(score < true - 0.2 for score in (whole, *map(best_score, (text, lamp, cyan))))


def test_a_missing_corner_lowers_the_confidence():
    image = brackets(wall(), (200, 100, 330, 230))
    damaged = image.copy()
    damaged[190:240, 290:340] = wall()[190:240, 290:340]
    assert 0.4 < best_score(damaged) < best_score(image) - 0.1


def test_a_whole_frame_is_found_by_a_vocabulary_of_frames():
    box = np.array([200, 100, 400, 220])
    vocabulary = range_vocabulary(outline={}, size=[20, 500], aspect=[1, 3])
    image = as_video(brackets(wall(), box, arm=0.5))
    [detections] = propose(vocabulary, to_frame(image))
    best = detections.confidence.argmax()
    assert iou(detections.xyxy[best], box) > 0.95 and detections.confidence[best] > 0.8
    assert detections.class_id[best] == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2), (7, 300), (333, 5), (480, 640)])
def test_noise_and_plain_colour_score_low(shape):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    plain = np.full((*shape, 3), RED, np.uint8)
    for detections in propose(DESIGNATOR, to_frame(noise), to_frame(plain)):
        assert max(detections.confidence, default=0) < 0.7


def test_the_box_is_found_at_any_size_of_the_picture():
    box = np.array([200, 100, 330, 230])
    image = brackets(wall(), box)
    for times in (2, 4):
        large = cv2.resize(image, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
        [detections] = propose(DESIGNATOR, to_frame(as_video(large)))
        assert iou(detections.xyxy[detections.confidence.argmax()], box * times) > 0.95


def test_a_wrong_vocabulary_is_refused_when_the_detector_is_loaded():
    with pytest.raises(PromptError, match=r"class 'mug', colour\.size"):
        DETECTORS.load("colour", range_vocabulary(size=[9]))


def test_detectors_with_equal_options_are_equal():
    detector = DETECTORS.load("colour", DESIGNATOR)
    assert detector == replace(detector) != replace(detector, min_score=0.5)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("clip, min_ap", [("easy", 0.95), ("medium", 0.9), ("hard", 0.8)])
def test_designators_of_real_clips_are_found(clip, min_ap, tmp_path):
    folder = SHARED / "gameplay" / "dev"
    detector = DETECTORS.load("colour", DESIGNATOR)
    frames = reader.frames(folder / f"{clip}.mp4")
    with (tmp_path / "items.jsonl").open("w") as out:
        for item in detect_frames(detector, frames, "colour"):
            objects = [{"label": o.label, "box": o.box, "score": o.score} for o in item.objects]
            print(json.dumps({"frame": item.frame, "objects": objects}), file=out)
    scorer = [sys.executable, SHARED / "score" / "score.py", "boxes", folder / f"{clip}.gt.json"]
    process = subprocess.run([*scorer, tmp_path / "items.jsonl"], capture_output=True, check=True)
    score = json.loads(process.stdout)
    assert score["AP50"] >= min_ap and score["AP75"] >= min_ap - 0.05, score


def test_a_vocabulary_without_a_colour_is_refused_and_not_an_empty_frame():
    nothing = Vocabulary("v", {"mark": {"color": [350, 10]}}, "")
    frame = Frame("a", 0, Fraction(0), np.zeros((8, 8, 3), np.uint8))
    for detector in (
        DETECTORS.load("colour", nothing),
        DETECTORS.load("ensemble", nothing, members="colour"),
    ):
        with pytest.raises(PromptError, match="no colour entry.*under .classes.mark"):
            check_ready(detector)
        with pytest.raises(PromptError, match="no colour entry"):
            detector.propose([frame])
