"""Detect frames without content: blank ones, blurred ones, and static menu pages.

- `blank`: one colour from corner to corner, as between two scenes.
- `blurred`: no edge is sharp, as in a quick camera turn. Measured by the blur effect of Crete and
  Dolmiere (2007), as in `skimage.measure.blur_effect`: the share of its edges that a picture loses
  when it is blurred once more. It depends on the picture's sharpness and hardly on its content.
- `static`: no change for a second or more and mostly flat, as menus, score boards and title cards
  are. A game scene without motion has texture.
"""

from __future__ import annotations

import cv2
import numpy as np

from annotate.items.records import Mask, Picture
from annotate.sampling.thumbnail import Thumbnail

BLANK, BLURRED, STATIC = "blank", "blurred", "static"

_MAX_BLANK_CONTRAST = 12.0  # of 255, between the 1st and the 99th percentile
_BLUR_WINDOW = 11  # pixels of the small picture
_MIN_BLUR = 0.6  # blur effect of a blurred frame; games and films have 0.2 to 0.5
_BLOCK_SIDE = 8  # pixels of the small picture
_MAX_FLAT_STD = 2.0  # standard deviation within a flat block
_MIN_FLAT_SHARE = 0.5  # of the blocks of a flat frame
_MAX_STILL_CHANGE = 0.5  # mean change of a still picture: the noise of the codec


def is_blank(thumbnail: Thumbnail) -> bool:
    """Check whether a frame has one colour, apart from the darkest and brightest hundredth."""
    grey = thumbnail.small_grey[thumbnail.valid]
    if not grey.size:
        return True
    low, high = np.percentile(grey, (1, 99))
    return bool(high - low < _MAX_BLANK_CONTRAST)


def blur_effect(thumbnail: Thumbnail) -> float:
    """Measure the blur effect: 0 for sharp edges, 1 for none; the larger of both directions."""
    grey = thumbnail.small_grey.astype(np.float32)
    return max(_vertical_blur(grey, thumbnail), _vertical_blur(grey.T, thumbnail))


def _vertical_blur(
    grey: np.ndarray[tuple[int, ...], np.dtype[np.float32]], thumbnail: Thumbnail
) -> float:
    smooth = cv2.blur(grey, (1, _BLUR_WINDOW))
    sharp, after = (np.abs(cv2.Sobel(each, cv2.CV_32F, 0, 1)) for each in (grey, smooth))
    valid = thumbnail.valid if grey.shape == thumbnail.valid.shape else thumbnail.valid.T
    inside = cv2.erode(valid.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    edges = float(sharp[inside].sum())
    lost = float(np.maximum(sharp - after, 0)[inside].sum())
    return (edges - lost) / edges if edges else 1.0


def is_blurred(thumbnail: Thumbnail) -> bool:
    """Check whether no edge of a frame is sharp."""
    return blur_effect(thumbnail) > _MIN_BLUR


def is_flat(thumbnail: Thumbnail) -> bool:
    """Check whether most blocks of a frame have one colour, as drawn pages do."""
    grey = thumbnail.small_grey.astype(np.float32)
    size_wh = (max(grey.shape[1] // _BLOCK_SIDE, 1), max(grey.shape[0] // _BLOCK_SIDE, 1))
    mean, square, valid = (
        cv2.resize(each, size_wh, interpolation=cv2.INTER_AREA)
        for each in (grey, grey * grey, thumbnail.valid.astype(np.float32))
    )
    flat = np.maximum(square - mean * mean, 0) < _MAX_FLAT_STD**2
    complete = valid == 1
    return bool(complete.any() and flat[complete].mean() > _MIN_FLAT_SHARE)


def is_still(thumbnail: Thumbnail, previous_grey: Picture, valid: Mask) -> bool:
    """Check whether a frame equals an earlier small grey picture at its `valid` pixels."""
    if previous_grey.shape != thumbnail.small_grey.shape:
        return False
    change = cv2.absdiff(thumbnail.small_grey, previous_grey)[valid]
    return not change.size or bool(change.mean() < _MAX_STILL_CHANGE)
