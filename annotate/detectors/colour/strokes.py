"""Find thin strokes and their corners in a map of colour strength.

A stroke is a ridge: a pixel that is stronger than the pixels on both sides of it. Ridges
are kept in two maps, one of horizontal and one of vertical strokes. A corner is a pixel where one
stroke of each kind ends.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.detectors.colour.ranges import ColourRange, GreyImage, colour_strength, in_ranges
from annotate.items.records import Picture

Floats = npt.NDArray[np.floating[Any]]
Contrasts = npt.NDArray[np.int8]

REACH_PX = 3  # pixels from the middle of a stroke to the background it is compared with
MIN_CONTRAST = 10  # of 255; below it nothing is a stroke
_MAX_CONTRAST = 60  # of 255; higher contrasts count the same
MIN_RELATIVE_CONTRAST = 0.4  # a stroke's contrast, as a share of the typical one
LONG_ARM_PX = 14  # arms from this length on are found in the smoothed maps
MIN_HALVED_SIDE = 200  # pixels; smaller images are searched at full size
_MAX_SEARCHED_TWICE = 500  # pixels; larger images are searched at half size only
_SHORT_ARM_PX = 4  # arms that a corner needs in the other maps
_SMOOTHING_PX = 7  # pixels of a stroke that the smoothed maps average
_OVERSHOOT = 0.6  # share of a stroke's difference to its background that blur takes away
_MAX_CORNERS = 40  # corners kept of each kind and arm length
_MAX_CORNER_PIXELS = 300  # pixels that they are chosen from


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep up to 48 MB of freed memory for the next images; once a process.

    It gives back what is freed beyond twice the largest block that was ever freed, and the page
    faults on getting it again would cost a third of the detector's time.
    """
    np.empty(24 << 20, np.uint8)


def scale_factors(image: Picture) -> list[int]:
    """Choose the sides of the blocks to average over; small images are searched twice.

    Video stores colour at half size, so that halving loses little; larger blocks are for speed.
    """
    shorter = min(image.shape[:2])
    if shorter < MIN_HALVED_SIDE:
        return [1]
    factor = max(2, -(-image.shape[0] // 540))
    return [factor] if shorter >= _MAX_SEARCHED_TWICE else [factor, 1]


def downscale(image: Picture, factor: int) -> Picture:
    """Average the image over square blocks of `factor` pixels."""
    if factor == 1:
        return image
    height, width = image.shape[0] // factor, image.shape[1] // factor
    whole = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))


@dataclass(frozen=True)
class StrokeMaps:
    """The contrast of every pixel as part of a thin line, 0 to `_MAX_CONTRAST`, by direction."""

    horizontal: GreyImage
    vertical: GreyImage

    @classmethod
    def from_image(
        cls, image: Picture, strength: GreyImage, ranges: Sequence[ColourRange], along_px: int = 1
    ) -> StrokeMaps:
        """Find the strokes of an image in the colour of the ranges.

        `strength` is the image's `colour_strength`. It is averaged over `along_px` pixels of a
        stroke, so that texture averages out and a long faint stroke stays.
        """
        maps = []
        for dy, dx in ((REACH_PX, 0), (0, REACH_PX)):
            averaged = strength
            if along_px > 1:
                size = (along_px, 1) if dy else (1, along_px)
                averaged = np.asarray(cv2.GaussianBlur(strength, size, along_px / 2))
            ridges = _ridge_contrast(averaged, dy, dx)
            indices = np.flatnonzero(ridges >= MIN_CONTRAST)
            colours = _unblurred_pixels(image, indices, dy, dx)
            indices = indices[in_ranges(colours, ranges)[0]]
            maps.append(_keep_pixels(ridges, indices))
        return cls(*maps)

    @classmethod
    def both(cls, image: Picture, ranges: Sequence[ColourRange]) -> tuple[StrokeMaps, StrokeMaps]:
        """Find the strokes pixel by pixel, and averaged for strokes of `LONG_ARM_PX` or more."""
        strength = colour_strength(image, ranges)
        return (
            cls.from_image(image, strength, ranges),
            cls.from_image(image, strength, ranges, _SMOOTHING_PX),
        )

    def contrast_map(self) -> ContrastMap:
        """Make a look-up of the strokes as they are."""
        return ContrastMap.from_ridges(self.horizontal, self.vertical)

    def widened(self) -> ContrastMap:
        """Make a look-up of strokes that are a pixel wider on both sides."""
        horizontal = cv2.dilate(self.horizontal, np.ones((3, 1), np.uint8))
        vertical = cv2.dilate(self.vertical, np.ones((1, 3), np.uint8))
        return ContrastMap.from_ridges(horizontal, vertical)

    def any_direction(self) -> ContrastMap:
        """Make a look-up that ignores the direction of strokes."""
        strokes = np.maximum(self.horizontal, self.vertical)
        return ContrastMap.from_ridges(strokes, strokes)


def _keep_pixels(image: GreyImage, flat_indices: npt.NDArray[np.intp]) -> GreyImage:
    """Copy the pixels at these indices of the flattened image; the others are 0."""
    kept = np.zeros_like(image)
    kept.ravel()[flat_indices] = image.ravel()[flat_indices]
    return kept


def _unblurred_pixels(
    image: Picture, flat_indices: npt.NDArray[np.intp], dy: int, dx: int
) -> Picture:
    """Estimate the colours of strokes without the background that blur mixed in, (1, n, 3).

    The background is the mean of the pixels at `dy`, `dx` on either side.
    """
    height, width = image.shape[:2]
    pixels = image.reshape(-1, 3)
    if not len(flat_indices):
        return np.zeros((1, 0, 3), np.uint8)
    step = dy * width + dx  # at the border, a pixel of the next row does as well
    before = np.maximum(flat_indices - step, 0)
    after = np.minimum(flat_indices + step, height * width - 1)
    beside = cv2.addWeighted(pixels.take(before, 0), 0.5, pixels.take(after, 0), 0.5, 0)
    stroke = pixels.take(flat_indices, 0)
    return np.asarray(cv2.addWeighted(stroke, 1 + _OVERSHOOT, beside, -_OVERSHOOT, 0))[None]


def _ridge_contrast(strength: GreyImage, dy: int, dx: int) -> GreyImage:
    """Subtract from each pixel the larger of the two pixels at `dy`, `dx` on either side of it."""
    height, width = strength.shape
    padded = cv2.copyMakeBorder(strength, dy, dy, dx, dx, cv2.BORDER_REFLECT_101)
    beside = np.maximum(padded[:height, :width], padded[2 * dy :, 2 * dx :])
    contrast = cv2.subtract(strength, beside)
    return np.asarray(cv2.threshold(contrast, _MAX_CONTRAST, 0, cv2.THRESH_TRUNC)[1])


@dataclass(frozen=True)
class ContrastMap:
    """The contrasts of horizontal, then of vertical strokes in one flat array; -1 is unknown."""

    contrasts: Contrasts
    height: int
    width: int

    @classmethod
    def from_ridges(cls, horizontal: GreyImage, vertical: GreyImage) -> ContrastMap:
        """Flatten two ridge maps; a frame of one pixel round each is unknown, as all outside."""
        height, width = horizontal.shape
        both = np.empty((2, height + 2, width + 2), np.int8)
        both[:, [0, -1]] = -1
        both[:, :, [0, -1]] = -1
        both[0, 1:-1, 1:-1] = horizontal
        both[1, 1:-1, 1:-1] = vertical
        return cls(both.ravel(), height, width)

    def at(self, x: Floats, y: Floats) -> Contrasts:
        """Look up contrasts at x, y, both (n, strokes, positions).

        The first half of the strokes are horizontal, the others vertical.
        """
        column = (x + 1.5).clip(0, self.width + 1).astype(np.int32)
        row = (y + 1.5).clip(0, self.height + 1).astype(np.int32)
        row[:, row.shape[1] // 2 :] += self.height + 2
        return self.contrasts.take(row * (self.width + 2) + column)


def find_corners(strokes: StrokeMaps, smoothed: StrokeMaps) -> list[Floats]:
    """Find the best corners of each kind, (n, 2) xy.

    The kinds are top left, top right, bottom left and bottom right.
    """
    maps = _corner_maps(strokes, _SHORT_ARM_PX), _corner_maps(smoothed, LONG_ARM_PX)
    kinds = [
        np.concatenate([_best_corners(each) for each in kind]) for kind in zip(*maps, strict=True)
    ]
    return [_first_in_blocks(kind, 2).astype(np.float32) for kind in kinds]


def _corner_maps(strokes: StrokeMaps, arm_px: int) -> list[GreyImage]:
    """Compute how strongly every pixel is a corner of each of the four kinds."""
    kernel = np.ones((3, 3), np.uint8)  # the ends of two arms may be a pixel apart
    right, left = (
        cv2.dilate(each, kernel) for each in _stroke_starts(strokes.horizontal, arm_px, 1, 0)
    )
    down, up = _stroke_starts(strokes.vertical, arm_px, 0, 1)
    return [cv2.min(x, y) for y in (down, up) for x in (right, left)]


def _stroke_starts(ridges: GreyImage, arm_px: int, dx: int, dy: int) -> tuple[GreyImage, GreyImage]:
    """Compute how strongly a stroke starts at every pixel, along `dx`, `dy` and in reverse."""
    height, width = ridges.shape
    padded = cv2.copyMakeBorder(ridges, arm_px, arm_px, arm_px, arm_px, cv2.BORDER_CONSTANT)
    size = (arm_px, 1) if dx else (1, arm_px)
    means = cv2.boxFilter(padded, -1, size, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)

    def ahead(steps: int) -> GreyImage:
        """Return the mean of the `arm_px` pixels that begin `steps` further on."""
        top, left = arm_px + dy * steps, arm_px + dx * steps
        return np.asarray(means[top : top + height, left : left + width])

    forward = cv2.subtract(ahead(0), ahead(-arm_px))
    backward = cv2.subtract(ahead(1 - arm_px), ahead(1))
    return np.asarray(forward), np.asarray(backward)


def _best_corners(corner_map: GreyImage) -> npt.NDArray[np.intp]:
    """Find the best pixels, best first, one in each block of three by three; (n, 2) xy."""
    indices = np.flatnonzero(corner_map >= MIN_CONTRAST)
    values = corner_map.ravel()[indices]
    if len(indices) > _MAX_CORNER_PIXELS:
        chosen = np.argpartition(values, -_MAX_CORNER_PIXELS)[-_MAX_CORNER_PIXELS:]
        indices, values = indices[chosen], values[chosen]
    indices = indices[np.argsort(-values.astype(np.int16), kind="stable")]
    corners = np.stack([indices % corner_map.shape[1], indices // corner_map.shape[1]], 1)
    return _first_in_blocks(corners, 3)[:_MAX_CORNERS]


def _first_in_blocks(corners: npt.NDArray[np.intp], side: int) -> npt.NDArray[np.intp]:
    """Keep the first corner in each block of `side` by `side` pixels."""
    x, y = corners.T // side
    _, first = np.unique(y * 65536 + x, return_index=True)
    kept: npt.NDArray[np.intp] = corners[np.sort(first)]
    return kept
