"""Find thin strokes and their corners in a map of colour strength.

A stroke is a ridge: a pixel whose strength is above that of the pixels on both sides of it. Ridges
are kept in two maps, one of horizontal and one of vertical strokes. A corner is a pixel where one
stroke of each kind ends.
"""

from __future__ import annotations

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

REACH_PX = 3  # pixels from a stroke's middle to what it must stand out from
MIN_CONTRAST = 10  # contrast, of 255, below which nothing is a stroke
_MAX_CONTRAST = 60  # contrast beyond which a stroke is no better
_ARM_LENGTHS_PX = 3, 8  # pixels of arm by which corners are sought: of small boxes, of large ones
_MAX_CORNERS = 40  # kept, of each kind and arm


def downscale(image: Picture) -> tuple[Picture, int]:
    """The picture averaged over square blocks, and the side of a block.

    Video keeps colour at half its size, so that halving loses little; more is for speed.
    """
    height, width = image.shape[:2]
    factor = 1 if min(height, width) < 200 else max(2, -(-height // 540))
    height, width = height // factor, width // factor
    whole = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)), factor


@dataclass(frozen=True)
class StrokeMaps:
    """How much every pixel stands out as part of a thin line, 0.._STARK: lying and standing."""

    horizontal: GreyImage
    vertical: GreyImage

    @classmethod
    def from_image(cls, image: Picture, ranges: Sequence[ColourRange]) -> StrokeMaps:
        """Of a picture, in the ranges' colour."""
        strong = colour_strength(image, ranges)
        lying, standing = _ridge_contrast(strong, REACH_PX, 0), _ridge_contrast(strong, 0, REACH_PX)
        at = np.flatnonzero(np.maximum(lying, standing) >= MIN_CONTRAST)
        at = at[in_ranges(image.reshape(1, -1, 3)[:, at], ranges)[0]]  # few pixels: soon looked at
        return cls(_keep_pixels(lying, at), _keep_pixels(standing, at))

    def contrast_map(self) -> ContrastMap:
        """The strokes as they are, to look places up in."""
        return ContrastMap.from_ridges(self.horizontal, self.vertical)

    def widened(self) -> ContrastMap:
        """Strokes a pixel wider to both sides."""
        lying = cv2.dilate(self.horizontal, np.ones((3, 1), np.uint8))
        return ContrastMap.from_ridges(lying, cv2.dilate(self.vertical, np.ones((1, 3), np.uint8)))

    def any_direction(self) -> ContrastMap:
        """Strokes of any direction, in both maps."""
        either = np.maximum(self.horizontal, self.vertical)
        return ContrastMap.from_ridges(either, either)


def _keep_pixels(image: GreyImage, flat_indices: npt.NDArray[np.intp]) -> GreyImage:
    """The picture at these places of its flattened self, and 0 elsewhere."""
    only = np.zeros_like(image)
    only.ravel()[flat_indices] = image.ravel()[flat_indices]
    return only


def _ridge_contrast(strength: GreyImage, dy: int, dx: int) -> GreyImage:
    """How far each pixel is above both the one `y`, `x` before it and the one behind."""
    height, width = strength.shape
    wide = cv2.copyMakeBorder(strength, dy, dy, dx, dx, cv2.BORDER_REFLECT_101)
    beside = np.maximum(wide[:height, :width], wide[2 * dy :, 2 * dx :])
    above = cv2.subtract(strength, beside)
    return np.asarray(cv2.threshold(above, _MAX_CONTRAST, 0, cv2.THRESH_TRUNC)[1])


@dataclass(frozen=True)
class ContrastMap:
    """The contrasts of lying and of standing strokes in one row, -1 where they are not known."""

    contrasts: Contrasts
    height: int
    width: int

    @classmethod
    def from_ridges(cls, horizontal: GreyImage, vertical: GreyImage) -> ContrastMap:
        """On the picture's very edge, and so beyond it, nothing is known."""
        both = np.stack([horizontal, vertical]).view(np.int8)
        both[:, [0, -1]] = -1
        both[:, :, [0, -1]] = -1
        return cls(both.ravel(), *horizontal.shape)

    def at(self, x: Floats, y: Floats) -> Contrasts:
        """The contrasts at x, y, both (n, 8, places): of four lying ends, then of standing ones."""
        column = (x + 0.5).clip(0, self.width - 1).astype(np.int32)
        row = (y + 0.5).clip(0, self.height - 1).astype(np.int32)
        row[:, 4:] += self.height
        return self.contrasts.take(row * self.width + column)


def find_corners(strokes: StrokeMaps) -> list[Floats]:
    """The best corners of each kind: top left, top right, bottom left, bottom right; (n, 2) xy."""
    kinds = zip(*(_corner_maps(strokes, arm) for arm in _ARM_LENGTHS_PX), strict=True)
    return [_deduplicate(np.concatenate([_local_maxima(each) for each in kind])) for kind in kinds]


def _corner_maps(strokes: StrokeMaps, arm_px: int) -> list[GreyImage]:
    """How much every pixel is a corner of each kind: both arms are there and end there."""
    right, left = _stroke_starts(strokes.horizontal, arm_px, 1, 0)
    down, up = _stroke_starts(strokes.vertical, arm_px, 0, 1)
    return [cv2.min(x, y) for y in (down, up) for x in (right, left)]


def _stroke_starts(ridges: GreyImage, arm_px: int, dx: int, dy: int) -> tuple[GreyImage, GreyImage]:
    """How much a stroke `arm` long starts at every pixel, going along `x`, `y` and against it."""
    height, width = ridges.shape
    wide = cv2.copyMakeBorder(ridges, arm_px, arm_px, arm_px, arm_px, cv2.BORDER_CONSTANT)
    size = (arm_px, 1) if dx else (1, arm_px)
    means = cv2.boxFilter(wide, -1, size, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)

    def ahead(steps: int) -> GreyImage:
        """The mean of the `arm` pixels from so many steps on."""
        top, left = arm_px + dy * steps, arm_px + dx * steps
        return np.asarray(means[top : top + height, left : left + width])

    around = np.ones((3, 3), np.uint8)  # where the two arms' middles cross is known to a pixel
    forth = cv2.dilate(cv2.subtract(ahead(0), ahead(-arm_px)), around)
    back = cv2.dilate(cv2.subtract(ahead(1 - arm_px), ahead(1)), around)
    return forth, back


def _local_maxima(corner_map: GreyImage) -> npt.NDArray[np.intp]:
    """Where a corner is the best one near, best first; (n, 2) xy."""
    at = np.flatnonzero(corner_map >= MIN_CONTRAST)
    best = cv2.dilate(corner_map, np.ones((5, 5), np.uint8)).ravel()[at]
    height = corner_map.ravel()[at]
    at, height = at[height == best], height[height == best]
    at = at[np.argsort(-height.astype(int), kind="stable")[:_MAX_CORNERS]]
    return np.stack([at % corner_map.shape[1], at // corner_map.shape[1]], 1)


def _deduplicate(corners: npt.NDArray[np.intp]) -> Floats:
    """The first of those in the same two by two pixels."""
    x, y = corners.T // 2
    _, first = np.unique(y * 65536 + x, return_index=True)
    thinned: Floats = corners[np.sort(first)].astype(np.float32)
    return thinned
