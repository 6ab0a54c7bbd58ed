from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate.items import masks
from annotate.items.records import Item, Object
from annotate.viewing.crop_view import CropView, full_view, view_around


def picture():
    image = np.zeros((240, 320, 3), np.uint8)
    image[100:140, 200:260] = (250, 20, 90)
    return image


def scene():
    mask = picture().any(axis=2)
    inside = Object("mug", (200, 100, 260, 140), 0.5, 3, masks.encode(mask))
    outside = Object("mug", (0, 0, 20, 20))
    return Item("dock.mp4", 7, Fraction(1, 5), 320, 240, (inside, outside), (9,))


@pytest.mark.parametrize("scale", [0.5, 1, 2.5])
def test_image_mask_box_and_point_are_mapped_alike(scale):
    view = CropView((180, 80, 300, 170), scale)
    image, item = view.crop_image(picture()), view.crop_item(scene())
    [obj] = item.objects
    x1, y1, x2, y2 = (round(side) for side in obj.box)
    assert image.shape == (item.height, item.width, 3) == (round(90 * scale), round(120 * scale), 3)
    assert (image[y1:y2, x1:x2].mean(axis=(0, 1)) > (235, 15, 80)).all()
    mask = masks.decode(obj.mask)
    assert mask.sum() == mask[y1:y2, x1:x2].sum() == pytest.approx((y2 - y1) * (x2 - x1), abs=4)
    [(x, y)] = view.map_points(np.array([[200.0, 100.0]]))
    assert (x + 0.5, y + 0.5) == pytest.approx((20.5 * scale, 20.5 * scale))


def test_a_cropped_item_keeps_the_frame_and_lost_tracks():
    item = full_view((320, 240), 160).crop_item(scene())
    assert (item.width, item.height, item.frame, item.lost) == (160, 120, 7, (9,))
    assert [obj.box for obj in item.objects] == [(100, 50, 130, 70), (0, 0, 10, 10)]


side = st.integers(0, 900)


@given(side, side, side, side, st.tuples(st.integers(1, 1000), st.integers(1, 1000)))
def test_a_window_contains_its_box_and_stays_in_the_picture(x, y, width, height, size_wh):
    x, y = x % size_wh[0], y % size_wh[1]
    box = (x, y, min(x + width + 1, size_wh[0]), min(y + height + 1, size_wh[1]))
    view = view_around(box, size_wh, 320)
    x1, y1, x2, y2 = view.window_xyxy
    assert 0 <= x1 <= box[0] < box[2] <= x2 <= size_wh[0]
    assert 0 <= y1 <= box[1] < box[3] <= y2 <= size_wh[1]
    assert view.size_wh[0] <= 320
    assert view.size_wh[1] <= 240


def test_a_window_has_a_margin_round_its_box():
    assert view_around((600, 300, 660, 380), (1280, 720), 320).window_xyxy == (510, 250, 750, 430)
