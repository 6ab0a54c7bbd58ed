from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import supervision as sv

from annotate.detectors.colour.filter import crop_windows, filter_by_colour
from annotate.detectors.run import detector_settings
from annotate.errors import AnnotateError, PluginError, PromptError, UnknownName
from annotate.items.records import Frame, Vocabulary

RED, GREEN, GREY = (230, 20, 30), (20, 200, 30), (90, 90, 90)
VOCABULARY = Vocabulary("mugs.v1", {"plate": {}, "mug": {"colour": [340, 20]}}, "5e1f")


@dataclass(frozen=True)
class Bright:
    """A detector that gives the box of all pixels that are not black; on request, with a mask."""

    vocabulary: Vocabulary
    masks: bool = False

    def propose(self, frames):
        return [self._detect(frame.image.any(2)) for frame in frames]

    def _detect(self, bright):
        if not bright.any():
            return sv.Detections(
                np.zeros((0, 4)), confidence=np.zeros(0), class_id=np.zeros(0, int)
            )
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        box = [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]
        mask = bright[None] if self.masks else None
        return sv.Detections(
            np.array(box, float),
            mask,
            confidence=np.array([np.nan]),
            class_id=np.array([0]),
            data={"phrase": np.array(["something bright"])},
        )


def frame(*boxes, colour=RED, background=GREY):
    """A 100x80 frame with each (x1, y1, x2, y2) painted."""
    image = np.full((80, 100, 3), background, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = colour
    return Frame("dock.mp4", 3, Fraction(0), image)


def test_pixels_outside_the_colour_are_black():
    masked = filter_by_colour(Bright(VOCABULARY), mask="mug")
    shown = frame((20, 30, 45, 60))
    [red, green] = masked.propose([shown, frame((20, 30, 45, 60), colour=GREEN)])
    assert red.xyxy.tolist() == [[20, 30, 45, 60]] and np.isnan(red.confidence[0])
    assert len(green) == 0
    assert (shown.image[0, 0] == GREY).all(), "the frame itself is left as it was"


def test_boxes_and_masks_of_crops_are_mapped_to_the_whole_picture():
    near = filter_by_colour(Bright(VOCABULARY, masks=True), near="mug", margin=7)
    picture = frame((60, 40, 72, 50))
    [detections, nothing] = near.propose([picture, frame((60, 40, 72, 50), colour=GREEN)])
    assert detections.xyxy.tolist() == [[53, 33, 79, 57]]
    assert detections.data["phrase"].tolist() == ["something bright"]
    assert detections.mask.shape == (1, 80, 100)
    rows, columns = np.nonzero(detections.mask[0])
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (53, 33, 78, 56)
    assert len(nothing) == 0 and nothing.class_id is not None and nothing.confidence is not None


def test_crops_of_several_frames_are_mapped_to_their_own_frames():
    near = filter_by_colour(Bright(VOCABULARY), near="mug", margin=2)
    two, none, one = near.propose(
        [frame((5, 5, 15, 15), (60, 50, 70, 60)), frame(), frame((30, 30, 40, 40))]
    )
    assert sorted(two.xyxy.tolist()) == [[3, 3, 17, 17], [58, 48, 72, 62]]
    assert len(none) == 0
    assert one.xyxy.tolist() == [[28, 28, 42, 42]]


def test_mask_and_near_can_be_combined():
    both = filter_by_colour(Bright(VOCABULARY), mask="mug", near="mug", margin=9)
    [detections] = both.propose([frame((30, 30, 40, 44))])
    assert detections.xyxy.tolist() == [[30, 30, 40, 44]]


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
def test_overlapping_windows_are_merged(boxes, margin, expected):
    xyxy = np.array(boxes, float).reshape(-1, 4)
    assert crop_windows(xyxy, margin, (100, 80)) == expected


def test_without_mask_and_near_the_detector_is_returned():
    detector = Bright(VOCABULARY)
    assert filter_by_colour(detector) is detector


def test_mask_near_and_margin_are_settings():
    both = filter_by_colour(Bright(VOCABULARY), mask="mug", near="mug", margin=9)
    settings = {"near": "mug", "margin": 9, "inner": {"mask": "mug", "inner": {"masks": False}}}
    assert detector_settings(both) == settings
    assert both.vocabulary is VOCABULARY


@pytest.mark.parametrize("option", ["mask", "near"])
def test_a_class_that_cannot_be_looked_by(option):
    with pytest.raises(UnknownName, match="no class 'mugg'; did you mean 'mug'"):
        filter_by_colour(Bright(VOCABULARY), **{option: "mugg"})
    with pytest.raises(PromptError, match=r"mugs\.v1, class 'plate': no colour entry"):
        filter_by_colour(Bright(VOCABULARY), **{option: "plate"})


def test_a_margin_below_nothing():
    with pytest.raises(AnnotateError, match="`margin` must be 0 pixels or more, got -1"):
        filter_by_colour(Bright(VOCABULARY), near="mug", margin=-1)


@dataclass(frozen=True)
class Silent(Bright):
    """A detector that gives nothing, not even an empty result for a picture."""

    def propose(self, frames):
        return []


@pytest.mark.parametrize("options", [{"mask": "mug"}, {"near": "mug"}])
def test_a_detector_that_breaks_its_contract_is_named(options):
    filtered = filter_by_colour(Silent(VOCABULARY), **options)
    with pytest.raises(PluginError, match="Silent: dock.*: it gave 0 Detections for 1 frames"):
        filtered.propose([frame((30, 30, 40, 44))])
