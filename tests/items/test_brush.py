import contextlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from annotate.errors import ItemsError
from annotate.items import brush, masks

with warnings.catch_warnings():  # its imports raise deprecation warnings
    warnings.simplefilter("ignore")
    from label_studio_sdk.converter import brush as sdk


def encode_with_sdk(mask):
    """Encode a mask with the SDK."""
    return list(sdk.encode_rle(np.repeat(mask.ravel() * np.uint8(255), 4)))


def check_both(mask):
    """Check that both codecs give the same bytes, and decode each other's."""
    rle, size_wh = brush.encode_brush(mask), mask.shape[::-1]
    other = encode_with_sdk(mask)
    assert other[: len(rle)] == rle and not any(other[len(rle) :])
    assert np.array_equal(brush.decode_brush(rle, size_wh), mask)
    assert np.array_equal(brush.decode_brush(other, size_wh), mask)
    alpha = np.asarray(sdk.decode_rle(rle)).reshape(*mask.shape, 4)[..., 3]
    assert np.array_equal(alpha == 255, mask)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
@settings(max_examples=60, deadline=None)
def test_any_mask_is_encoded_as_by_the_sdk(mask):
    check_both(mask)


def ring(height, width):
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2)
    return (distance < height / 3) & (distance > height / 6)


MASKS = {
    "one pixel": np.arange(12).reshape(3, 4) == 7,
    "empty": np.zeros((48, 64), bool),
    "full": np.ones((480, 640), bool),
    "a hole": ring(427, 640),
    "a run of exactly 65,536 values": np.ones((1, 16384), bool),
    "one more than that": np.ones((1, 16385), bool),
    "4000 x 3000": ring(3000, 4000),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_special_masks_are_encoded_as_by_the_sdk(name):
    check_both(MASKS[name])


def test_runs_at_the_limits_of_each_width():
    """Lengths of 2, 4, 64 pixels are the last of 3, 4 and 8 bits."""
    lengths = [1, 2, 3, 4, 5, 63, 64, 65, 16383, 16384, 16385, 1]
    check_both(np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)[None])


def test_a_pixel_counts_from_half_alpha_on():
    """Strokes of the editor have soft edges: alpha from 1 to 254."""
    pixels = np.repeat(np.array([0, 127, 128, 255], np.uint8), 4)
    assert brush.decode_brush(list(sdk.encode_rle(pixels)), (4, 1)).tolist() == [
        [False, False, True, True]
    ]


def test_a_run_may_end_inside_a_pixel():
    """This happens where the channels differ; alpha, the last channel, counts."""
    pixels = np.array([255, 255, 255, 0, 0, 0, 0, 255, 255, 0, 0, 255], np.uint8)
    assert brush.decode_brush(list(sdk.encode_rle(pixels)), (3, 1)).tolist() == [
        [False, True, True]
    ]


def test_a_coco_rle_is_encoded():
    mask = ring(60, 80)
    assert brush.encode_brush_rle(masks.encode(mask)) == brush.encode_brush(mask)


def test_bytes_of_another_size_or_truncated_are_refused():
    rle = brush.encode_brush(ring(60, 80))
    with pytest.raises(ItemsError, match="of 4800 pixels, but the image is 60x81"):
        brush.decode_brush(rle, (60, 81))
    for damaged in (rle[: len(rle) // 2], rle[:3], [], [300], ["a"]):
        with pytest.raises(ItemsError, match="truncated or damaged"):
            brush.decode_brush(damaged, (80, 60))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_mask_or_are_refused(data):
    with contextlib.suppress(ItemsError):
        assert brush.decode_brush(list(data), (8, 6)).shape == (6, 8)
