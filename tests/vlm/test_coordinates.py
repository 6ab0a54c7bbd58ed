"""How a model counts, told from boxes that are known."""

import numpy as np
import pytest
from vlm_server import to_coordinates

from annotate.errors import AnswerError, UnknownName
from annotate.vlm.answers import ParsedBox
from annotate.vlm.coordinates import BoxFormat, calibration_images, fit_box_format

COUNTS = {
    "unit": "relative 1",
    "thousand": "relative 1000",
    "999": "relative 999",
    "sent": "sent 1",
    "longest": "longest 640",
    "padded": "padded 1000",
    "shortest": "shortest 768",
    "area": "area 700",
}


def said_of(picture, counts, order, wrong=0.0, seed=0):
    """What a model that counts so says of a drawn picture, wrong by a share of it."""
    rng, wh = np.random.default_rng(seed), np.array(picture.size_wh * 2)
    for name, box in picture.boxes.items():
        shares = np.array(box) / wh + rng.normal(0, wrong, 4)
        yield ParsedBox(name, tuple(to_coordinates(shares, picture.size_wh, counts, order)))


@pytest.mark.parametrize("side", [640, 1024, 1536])
@pytest.mark.parametrize("order", ["xyxy", "yxyx", "xywh"])
@pytest.mark.parametrize("counts", COUNTS)
def test_each_way_to_count_is_told_from_the_others(counts, order, side):
    pictures = calibration_images(side)
    found = fit_box_format(pictures, [list(said_of(each, counts, order)) for each in pictures])
    unit, full = COUNTS[counts].split()
    assert (found.box_format.unit, found.box_format.order) == (unit, order)
    assert found.box_format.scale == pytest.approx(float(full), rel=0.002)
    assert found.iou > 0.98 and found.box_count == 9
    wide = (1280, 720)
    box = (100.0, 400.0, 300.0, 700.0)
    shares = np.array(box) / [*wide, *wide]
    placed = found.box_format.xyxy(to_coordinates(shares, wide, counts, order), wide)
    np.testing.assert_allclose(placed, box, atol=1.6)


@pytest.mark.parametrize("counts", COUNTS)
def test_a_model_that_is_not_exact_is_understood_all_the_same(counts):
    pictures = calibration_images(1024)
    answers = [list(said_of(p, counts, "yxyx", 0.012, seed)) for seed, p in enumerate(pictures)]
    found = fit_box_format(pictures, answers).box_format
    assert (found.unit, found.order) == (COUNTS[counts].split()[0], "yxyx")


def test_a_model_that_cannot_place_boxes_is_refused():
    pictures = calibration_images(1024)
    rng = np.random.default_rng(5)
    answers = [
        [ParsedBox(name, tuple(rng.uniform(0, 1000, 4))) for name in each.boxes]
        for each in pictures
    ]
    with pytest.raises(AnswerError, match="fit no box format"):
        fit_box_format(pictures, answers)
    with pytest.raises(AnswerError, match="of 9 drawn boxes the model named 0"):
        fit_box_format(pictures, [[ParsedBox("a cat", (1, 2, 3, 4))], [], []])


def test_corners_in_the_wrong_order_are_a_box_and_shares_are_shares():
    thousand = BoxFormat.parse("relative 1000 xyxy")
    assert thousand.xyxy((500, 500, 250, 100), (800, 600)) == (200, 60, 400, 300)
    assert thousand.xyxy((0.25, 0.5, 0.5, 1.0), (800, 600)) == (200, 300, 400, 600)
    padded = BoxFormat.parse("padded 1000 xyxy")
    assert padded.xyxy((0.25, 0.5, 0.5, 0.75), (800, 600)) == (200, 300, 400, 500)
    assert padded.xyxy((250, 500, 500, 750), (800, 600)) == (200, 300, 400, 500)
    assert thousand.xyxy((250, 100, 250, 400), (800, 600), "xywh") == (200, 60, 400, 300)


@pytest.mark.parametrize("text", ["", "relativ 1000 xyxy", "relative", "sent -1", "sent 1 xyxz"])
def test_what_is_no_convention(text):
    with pytest.raises((AnswerError, UnknownName)):
        BoxFormat.parse(text)


def test_what_is_drawn_is_where_it_is_said_to_be():
    for picture in calibration_images(512):
        for box in picture.boxes.values():
            x1, y1, x2, y2 = map(int, box)
            inside = picture.image[y1:y2, x1:x2].reshape(-1, 3)
            assert len(np.unique(inside, axis=0)) == 1
            assert (picture.image[y1 - 1, x1 - 1] != inside[0]).any()
