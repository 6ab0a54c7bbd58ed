import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from annotate.errors import ItemsError
from annotate.items import masks

RING = """
 #######
 #     #
 # ### #
 # # # #
 # ### #
 #     #
 #######
"""
DIAGONAL = """
#  #
 ##
 ##
#  #
"""
DIAMOND = """
  #
 # #
  #
"""
SINGLE_PIXEL = "\n  \n # \n"
PICTURES = {"ring": RING, "diagonal": DIAGONAL, "diamond": DIAMOND, "single pixel": SINGLE_PIXEL}

any_mask = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def mask_from_text(text):
    """Return the mask of a picture drawn in characters."""
    lines = text.strip("\n").split("\n")
    width = max(map(len, lines))
    return np.array([[c == "#" for c in line.ljust(width)] for line in lines])


def filled(ring, shape):
    """Fill one ring by cv2.fillPoly, which fills the outline too."""
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [ring.astype(np.int32)], 1)
    return canvas.astype(bool)


@given(any_mask)
def test_run_lengths_give_the_mask_back(mask):
    rle = masks.encode(mask)
    assert isinstance(rle["counts"], str) and rle["size"] == list(mask.shape)
    np.testing.assert_array_equal(masks.decode(rle), mask)
    assert coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode() == rle["counts"]
    assert masks.area(rle) == mask.sum()
    assert masks.box(rle) == masks.box(mask)


@given(any_mask)
def test_a_crop_is_the_mask_in_its_box(mask):
    part, (x, y) = masks.crop(masks.encode(mask))
    back = np.zeros_like(mask)
    back[y : y + part.shape[0], x : x + part.shape[1]] = part
    np.testing.assert_array_equal(back, mask)


def test_long_runs_are_decoded_correctly():
    mask = np.zeros((720, 1280), bool)
    mask[37:700, 3:1200] = True
    mask[300:302, 600:900] = False
    rle = masks.encode(mask)
    masks.check(rle, (1280, 720))
    part, start = masks.crop(rle)
    assert start == (3, 37)
    np.testing.assert_array_equal(part, mask[37:700, 3:1200])


def test_masks_of_noise_are_encoded_exactly():
    stack = np.random.default_rng(1).random((3, 5, 7)) < 0.5
    for mask in stack:
        np.testing.assert_array_equal(masks.decode(masks.encode(mask)), mask)


@settings(max_examples=400, deadline=None)
@given(any_mask)
def test_polygons_give_the_mask_back(mask):
    polygons = masks.to_polygons(mask)
    size_wh = mask.shape[::-1]
    np.testing.assert_array_equal(masks.from_polygons(polygons, size_wh), mask)


@settings(max_examples=200, deadline=None)
@given(any_mask)
def test_one_bridged_ring_gives_the_mask_back(mask):
    ring = masks.bridge_rings(masks.to_polygons(mask))
    whole = [masks.Polygon(ring)] if len(ring) else []
    np.testing.assert_array_equal(masks.from_polygons(whole, mask.shape[::-1]), mask)


@settings(max_examples=200, deadline=None)
@given(any_mask)
def test_polygons_have_the_area_of_the_mask(mask):
    def signed(ring):
        x, y = ring.T
        return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2

    polygons = masks.to_polygons(mask)
    assert all(signed(p.outer) > 0 for p in polygons)
    assert all(signed(hole) < 0 for p in polygons for hole in p.holes)
    assert sum(signed(ring) for p in polygons for ring in p.rings) == mask.sum()


@settings(max_examples=200, deadline=None)
@given(any_mask)
def test_polygons_through_centres_are_exact_where_outlines_are_filled(mask):
    for polygon in masks.through_pixel_centres(masks.to_polygons(mask)):
        rings = [ring.astype(np.int32) for ring in polygon.rings]
        canvas = np.zeros(mask.shape, np.uint8)
        cv2.fillPoly(canvas, rings, 1)
        assert not (canvas.astype(bool) & ~mask).any()
        mask = mask & ~canvas.astype(bool)
    assert not mask.any()


def test_a_part_with_holes_is_exact_when_bridged_and_filled():
    mask = np.ones((40, 50), bool)
    mask[10:14, 10:15] = mask[20:31, 30:42] = False
    ring = masks.bridge_rings(masks.through_pixel_centres(masks.to_polygons(mask)))
    np.testing.assert_array_equal(filled(ring, mask.shape), mask)


@pytest.mark.parametrize(
    "name, parts, holes",
    [("ring", 2, 2), ("diagonal", 5, 0), ("diamond", 4, 0), ("single pixel", 1, 0)],
)
def test_parts_and_holes_are_counted(name, parts, holes):
    polygons = masks.to_polygons(mask_from_text(PICTURES[name]))
    assert (len(polygons), sum(len(p.holes) for p in polygons)) == (parts, holes)


def test_the_polygon_of_a_full_picture_has_four_corners():
    [polygon] = masks.to_polygons(np.ones((4, 6), bool))
    assert polygon.outer.tolist() == [[0, 0], [6, 0], [6, 4], [0, 4]]


def test_an_empty_mask_has_no_polygon_and_no_box():
    mask = np.zeros((4, 6), bool)
    assert masks.to_polygons(mask) == [] and masks.box(mask) is None
    assert masks.bridge_rings([]).shape == (0, 2)
    np.testing.assert_array_equal(masks.from_polygons([], (6, 4)), mask)
    assert masks.box(masks.encode(mask)) is None


def test_run_lengths_and_arrays_give_the_same_polygons():
    mask = mask_from_text(RING)
    for a, b in zip(masks.to_polygons(mask), masks.to_polygons(masks.encode(mask)), strict=True):
        np.testing.assert_array_equal(a.outer, b.outer)


def test_iou_of_masks():
    left, right = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    left[:, :4], right[:, 2:] = True, True
    assert masks.iou(masks.encode(left), masks.encode(right)) == pytest.approx(8 / 24)
    empty = masks.encode(np.zeros((4, 6), bool))
    assert masks.iou(empty, empty) == 1 and masks.iou(empty, masks.encode(left)) == 0
    with pytest.raises(ItemsError, match="6x4, but its picture is 4x6"):
        masks.iou(empty, masks.encode(np.zeros((6, 4), bool)))


@pytest.mark.parametrize(
    "rle, message",
    [
        ({"size": [4, 5], "counts": "d0"}, "5x4, but its picture is 6x4"),
        ({"size": [4, 6], "counts": "0"}, "do not fill its 6x4"),
        ({"size": [4, 6], "counts": ""}, "compressed RLE"),
        ({"size": [4, 6], "counts": "é"}, "compressed RLE"),
        ({"size": [4, 6], "counts": [24]}, "compressed RLE"),
        ({"counts": "d0"}, "compressed RLE"),
        ({"size": 4, "counts": "d0"}, "compressed RLE"),
    ],
)
def test_invalid_run_lengths_are_refused(rle, message):
    with pytest.raises(ItemsError, match=message):
        masks.check(rle, (6, 4))


def test_columns_of_a_mask_are_encoded_as_the_whole_mask():
    random = np.random.default_rng(0)
    for _ in range(300):
        height, width = random.integers(1, 9, 2).tolist()
        start = int(random.integers(0, width))
        stop = int(random.integers(start + 1, width + 1))
        mask = np.zeros((height, width), bool)
        mask[:, start:stop] = random.random((height, stop - start)) < random.choice([0, 0.5, 1])
        assert masks.encode_columns(mask[:, start:stop], start, width) == masks.encode(mask)
