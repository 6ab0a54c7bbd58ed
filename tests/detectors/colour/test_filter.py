from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import supervision as sv

from annotate.detectors.colour.filter import crop_windows, filter_by_colour
from annotate.detectors.run import detector_settings
from annotate.errors import AnnotateError, PromptError, UnknownName
from annotate.items.records import Frame, Vocabulary

RED, GREEN, GREY = (230, 20, 30), (20, 200, 30), (90, 90, 90)
WORDS = Vocabulary("mugs.v1", {"plate": {}, "mug": {"colour": [340, 20]}}, "5e1f")


@dataclass(frozen=True)
class Bright:
    """A detector: the box of everything that is not black, as a plate; with masks if asked."""

    vocabulary: Vocabulary
    masks: bool = False

    def propose(self, frames):
        return [self._one(frame.image.any(2)) for frame in frames]

    def _one(self, seen):
        if not seen.any():
            return sv.Detections(
                np.zeros((0, 4)), confidence=np.zeros(0), class_id=np.zeros(0, int)
            )
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        box = [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]
        mask = seen[None] if self.masks else None
        return sv.Detections(
            np.array(box, float),
            mask,
            confidence=np.array([np.nan]),
            class_id=np.array([0]),
            data={"phrase": np.array(["something bright"])},
        )


def frame(*boxes, colour=RED, ground=GREY):
    """A 100x80 frame with each (x1, y1, x2, y2) painted."""
    image = np.full((80, 100, 3), ground, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = colour
    return Frame("dock.mp4", 3, Fraction(0), image)


def test_the_rest_is_black():
    masked = filter_by_colour(Bright(WORDS), mask="mug")
    shown = frame((20, 30, 45, 60))
    [red, green] = masked.propose([shown, frame((20, 30, 45, 60), colour=GREEN)])
    assert red.xyxy.tolist() == [[20, 30, 45, 60]] and np.isnan(red.confidence[0])
    assert len(green) == 0
    assert (shown.image[0, 0] == GREY).all(), "the frame itself is left as it was"


def test_only_near_it_and_back_in_the_whole_picture():
    near = filter_by_colour(Bright(WORDS, masks=True), near="mug", margin=7)
    picture = frame((60, 40, 72, 50))
    [found, nothing] = near.propose([picture, frame((60, 40, 72, 50), colour=GREEN)])
    assert found.xyxy.tolist() == [[53, 33, 79, 57]]
    assert found.data["phrase"].tolist() == ["something bright"]
    assert found.mask.shape == (1, 80, 100)
    rows, columns = np.nonzero(found.mask[0])
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (53, 33, 78, 56)
    assert len(nothing) == 0 and nothing.class_id is not None and nothing.confidence is not None


def test_crops_of_several_frames_come_back_to_their_own():
    near = filter_by_colour(Bright(WORDS), near="mug", margin=2)
    two, none, one = near.propose(
        [frame((5, 5, 15, 15), (60, 50, 70, 60)), frame(), frame((30, 30, 40, 40))]
    )
    assert sorted(two.xyxy.tolist()) == [[3, 3, 17, 17], [58, 48, 72, 62]]
    assert len(none) == 0
    assert one.xyxy.tolist() == [[28, 28, 42, 42]]


def test_with_both_it_sees_the_colour_near_it():
    both = filter_by_colour(Bright(WORDS), mask="mug", near="mug", margin=9)
    [found] = both.propose([frame((30, 30, 40, 44))])
    assert found.xyxy.tolist() == [[30, 30, 40, 44]]


@pytest.mark.parametrize(
    "boxes, margin, expected",
    [
        ([[10, 10, 20, 20], [28, 10, 40, 20]], 3, [(7, 7, 23, 23), (25, 7, 43, 23)]),
        ([[10, 10, 20, 20], [28, 10, 40, 20]], 5, [(5, 5, 45, 25)]),
        ([[10, 10, 20, 20], [40, 10, 50, 20], [0, 21, 60, 30]], 1, [(0, 9, 61, 31)]),
        ([[-5, 70, 4.5, 90]], 2, [(0, 68, 7, 80)]),
        ([], 5, []),
    ],
    ids=["apart", "overlapping", "joined by a third", "over the edge", "none"],
)
def test_windows(boxes, margin, expected):
    xyxy = np.array(boxes, float).reshape(-1, 4)
    assert crop_windows(xyxy, margin, (100, 80)) == expected


def test_neither_leaves_the_detector_alone():
    alone = Bright(WORDS)
    assert filter_by_colour(alone) is alone


def test_what_was_told_is_among_the_settings():
    both = filter_by_colour(Bright(WORDS), mask="mug", near="mug", margin=9)
    told = {"near": "mug", "margin": 9, "inner": {"mask": "mug", "inner": {"masks": False}}}
    assert detector_settings(both) == told
    assert both.vocabulary is WORDS


@pytest.mark.parametrize("option", ["mask", "near"])
def test_a_class_that_cannot_be_looked_by(option):
    with pytest.raises(UnknownName, match="no class 'mugg'; did you mean 'mug'"):
        filter_by_colour(Bright(WORDS), **{option: "mugg"})
    with pytest.raises(PromptError, match=r"mugs\.v1, class 'plate': no colour entry"):
        filter_by_colour(Bright(WORDS), **{option: "plate"})


def test_a_margin_below_nothing():
    with pytest.raises(AnnotateError, match="`margin` must be 0 pixels or more, got -1"):
        filter_by_colour(Bright(WORDS), near="mug", margin=-1)
