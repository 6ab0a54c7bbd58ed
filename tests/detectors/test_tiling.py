from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate.detectors.tiling import Tiling, detect_tiled, tiles
from annotate.errors import AnnotateError
from annotate.items.records import Frame
from annotate.vocabulary import Phrase

TOLD = (Phrase("cup", 1), Phrase("mug", 1), Phrase("plate", 0))
WHOLE = Tiling(0, 0.25, 0.5, 4)


def frame(size_wh=(200, 100), boxes=(), index=0):
    """A black frame with each (x1, y1, x2, y2) painted white."""
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return Frame("dock", index, Fraction(index), image)


def white(images):
    """A network that finds the one white patch; whiter pictures are surer."""
    tables = []
    for image in images:
        rows, columns = np.nonzero(image[..., 0])
        table = np.zeros((0, 6))
        if len(rows):
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            table = np.array([[*box, (image > 0).mean(), 0]], float)
        tables.append(table)
    return tables


def fixed(*rows):
    return lambda images: [np.array(rows, float).reshape(-1, 6) for _ in images]


@given(st.tuples(st.integers(1, 700), st.integers(1, 700)), st.integers(32, 300), st.floats(0, 0.9))
def test_squares_cover_the_picture_and_stay_in_it(size_wh, tile, overlap):
    whole, *squares = tiles(size_wh, tile, overlap)
    assert whole == (0, 0, *size_wh)
    assert bool(squares) == (max(size_wh) > tile)
    seen = np.zeros((size_wh[1], size_wh[0]), bool)
    for x1, y1, x2, y2 in squares:
        assert 0 <= x1 < x2 <= size_wh[0] and 0 <= y1 < y2 <= size_wh[1]
        assert (x2 - x1, y2 - y1) == (min(tile, size_wh[0]), min(tile, size_wh[1]))
        seen[y1:y2, x1:x2] = True
    assert seen.all() or not squares
    shared = round(tile * (1 - overlap))
    lefts = sorted({x1 for x1, *_ in squares})
    assert all(b - a <= max(shared, 1) for a, b in pairwise(lefts))


def test_a_box_of_a_square_stands_in_the_whole_picture():
    [found] = detect_tiled(
        [frame(boxes=[(150, 70, 160, 85)])], TOLD, Tiling(64, 0.25, 0.5, 4), white
    )
    assert found.xyxy.tolist() == [[150, 70, 160, 85]]
    assert found.class_id.tolist() == [1] and found.data["phrase"].tolist() == ["cup"]


def test_what_squares_cut_up_is_found_once_and_whole():
    box = (20, 10, 180, 90)  # larger than any square: each sees a part of it, and is surer
    [found] = detect_tiled([frame(boxes=[box])], TOLD, Tiling(64, 0.25, 0.5, 4), white)
    assert found.xyxy.tolist() == [list(map(float, box))]


def test_what_ends_with_the_picture_is_not_cut_off_by_a_square():
    """A surer small thing in the corner stands beside the larger one that it is a part of."""

    def corner(images):
        small = np.array([[0, 0, 20, 20, 0.9, 0]], float)
        large = np.array([[0, 0, 60, 60, 0.5, 0]], float)
        whole = images[0].shape[1] == 200
        return [large if whole else small[: int(image.any())] for image in images]

    [found] = detect_tiled([frame(boxes=[(0, 0, 9, 9)])], TOLD, Tiling(64, 0.25, 0.5, 4), corner)
    assert found.confidence.tolist() == [0.9, 0.5]


def test_what_no_other_look_found_whole_is_kept_as_a_part():
    def near(images):
        return [table if images[0].shape[1] < 200 else table[:0] for table in white(images)]

    [found] = detect_tiled([frame(boxes=[(0, 0, 90, 30)])], TOLD, Tiling(100, 0.2, 0.5, 4), near)
    assert found.xyxy.tolist() == [[0, 0, 90, 30]]


@pytest.mark.parametrize(
    "agnostic, kept", [(True, [0.9]), (False, [0.9, 0.8])], ids=["any class", "each class"]
)
def test_of_two_that_overlap_the_better(agnostic, kept):
    rows = ((10, 10, 50, 50, 0.5, 1), (11, 10, 50, 50, 0.9, 0), (10, 11, 50, 50, 0.8, 2))
    slicing = Tiling(0, 0, 0.5, 4, agnostic, network_does_nms=False)
    [found] = detect_tiled([frame()], TOLD, slicing, fixed(*rows))
    assert found.confidence.tolist() == kept
    assert found.data["phrase"].tolist() == ["cup", "plate"][: len(kept)]


@pytest.mark.parametrize(
    "agnostic, kept", [(True, [0.9, 0.5, 0.4]), (False, [0.9, 0.4])], ids=["any", "each phrase"]
)
def test_what_a_network_let_stand_in_a_picture_stands(agnostic, kept):
    rows = ((10, 10, 50, 50, 0.5, 1), (11, 10, 50, 50, 0.9, 0), (12, 10, 50, 50, 0.4, 0))
    [found] = detect_tiled([frame()], TOLD, Tiling(0, 0, 0.5, 4, agnostic), fixed(*rows))
    assert found.confidence.tolist() == kept


def test_an_iou_of_one_keeps_all_best_first():
    rows = ((10, 10, 50, 50, 0.5, 1), (10, 10, 50, 50, 0.9, 0))
    [found] = detect_tiled([frame()], TOLD, Tiling(0, 0, 1, 4), fixed(*rows))
    assert found.confidence.tolist() == [0.9, 0.5]


def test_boxes_are_cut_off_at_the_edge_and_those_beyond_it_are_none():
    rows = ((-5, -5, 20, 300, 0.5, 0), (210, 10, 230, 20, 0.9, 0), (30, 30, 30, 40, 0.9, 0))
    [found] = detect_tiled([frame()], TOLD, WHOLE, fixed(*rows))
    assert found.xyxy.tolist() == [[0, 0, 20, 100]]


def test_pictures_of_one_size_go_together_and_never_more_than_a_batch():
    seen = []

    def count(images):
        seen.append([image.shape[:2] for image in images])
        return white(images)

    frames = [frame((60, 40 + 10 * (n % 2)), [(n, 5, n + 9, 20)], n) for n in range(7)]
    found = detect_tiled(frames, TOLD, Tiling(0, 0, 0.5, 3), count)
    assert [each.xyxy[0, 0] for each in found] == list(range(7))
    assert [len(sizes) for sizes in seen] == [3, 1, 3]
    assert all(len(set(sizes)) == 1 for sizes in seen)


def test_nothing_found_is_nothing_with_its_columns():
    [found] = detect_tiled([frame()], TOLD, WHOLE, fixed())
    assert len(found) == 0 and found.class_id.shape == (0,) and found.confidence.shape == (0,)
    assert found.data["phrase"].shape == (0,)


@pytest.mark.parametrize(
    "given, says",
    [
        ((8, 0.2, 0.5, 4), "tile must be 0, or 32"),
        ((64, 1, 0.5, 4), "overlap must be 0 to 0.9"),
        ((64, 0.2, 0, 4), "nms_iou must be over 0"),
        ((64, 0.2, 0.5, 0), "batch_size must be 1"),
    ],
)
def test_what_cannot_be_is_said(given, says):
    with pytest.raises(AnnotateError, match=says):
        Tiling(*given)
