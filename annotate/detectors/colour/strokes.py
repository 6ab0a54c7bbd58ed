"""Find thin strokes and their corners in a map of colour strength.

A stroke is a ridge: a pixel that is stronger than the pixels on both sides of it. Ridges
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

REACH_PX = 3  # pixels from the middle of a stroke to the background it is compared with
MIN_CONTRAST = 10  # of 255; below it nothing is a stroke
_MAX_CONTRAST = 60  # of 255; higher contrasts count the same
_ARM_LENGTHS_PX = 3, 8  # arms that a corner needs: of small boxes, of large boxes
_MAX_CORNERS = 40  # corners kept of each kind and arm length


def downscale(image: Picture) -> tuple[Picture, int]:
    """Average the image over square blocks; returns the image and the side of a block.

    Video stores colour at half size, so that halving loses little; larger blocks are for speed.
    """
    height, width = image.shape[:2]
    factor = 1 if min(height, width) < 200 else max(2, -(-height // 540))
    height, width = height // factor, width // factor
    whole = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)), factor


@dataclass(frozen=True)
class StrokeMaps:
    """The contrast of every pixel as part of a thin line, 0 to `_MAX_CONTRAST`, by direction."""

    horizontal: GreyImage
    vertical: GreyImage

    @classmethod
    def from_image(cls, image: Picture, ranges: Sequence[ColourRange]) -> StrokeMaps:
        """Find the strokes of an image in the colour of the ranges."""
        strength = colour_strength(image, ranges)
        horizontal = _ridge_contrast(strength, REACH_PX, 0)
        vertical = _ridge_contrast(strength, 0, REACH_PX)
        indices = np.flatnonzero(np.maximum(horizontal, vertical) >= MIN_CONTRAST)
        colours = image.reshape(1, -1, 3)[:, indices]  # few pixels, so that the test is fast
        indices = indices[in_ranges(colours, ranges)[0]]
        return cls(_keep_pixels(horizontal, indices), _keep_pixels(vertical, indices))

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
        """Flatten two ridge maps; the border pixels become unknown, and so does all outside."""
        both = np.stack([horizontal, vertical]).view(np.int8)
        both[:, [0, -1]] = -1
        both[:, :, [0, -1]] = -1
        return cls(both.ravel(), *horizontal.shape)

    def at(self, x: Floats, y: Floats) -> Contrasts:
        """Look up contrasts at x, y, both (n, 8, positions): 4 horizontal ends, then 4 vertical."""
        column = (x + 0.5).clip(0, self.width - 1).astype(np.int32)
        row = (y + 0.5).clip(0, self.height - 1).astype(np.int32)
        row[:, 4:] += self.height
        return self.contrasts.take(row * self.width + column)


def find_corners(strokes: StrokeMaps) -> list[Floats]:
    """Find the best corners of each kind, (n, 2) xy.

    The kinds are top left, top right, bottom left and bottom right.
    """
    kinds = zip(*(_corner_maps(strokes, arm) for arm in _ARM_LENGTHS_PX), strict=True)
    return [_deduplicate(np.concatenate([_local_maxima(each) for each in kind])) for kind in kinds]


def _corner_maps(strokes: StrokeMaps, arm_px: int) -> list[GreyImage]:
    """Compute how strongly every pixel is a corner of each of the four kinds."""
    right, left = _stroke_starts(strokes.horizontal, arm_px, 1, 0)
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

    kernel = np.ones((3, 3), np.uint8)  # the ends of two arms may be a pixel apart
    forward = cv2.dilate(cv2.subtract(ahead(0), ahead(-arm_px)), kernel)
    backward = cv2.dilate(cv2.subtract(ahead(1 - arm_px), ahead(1)), kernel)
    return forward, backward


def _local_maxima(corner_map: GreyImage) -> npt.NDArray[np.intp]:
    """Find the local maxima, best first; (n, 2) xy."""
    indices = np.flatnonzero(corner_map >= MIN_CONTRAST)
    best = cv2.dilate(corner_map, np.ones((5, 5), np.uint8)).ravel()[indices]
    values = corner_map.ravel()[indices]
    indices, values = indices[values == best], values[values == best]
    indices = indices[np.argsort(-values.astype(int), kind="stable")[:_MAX_CORNERS]]
    return np.stack([indices % corner_map.shape[1], indices // corner_map.shape[1]], 1)


def _deduplicate(corners: npt.NDArray[np.intp]) -> Floats:
    """Keep the first corner in each block of two by two pixels."""
    x, y = corners.T // 2
    _, first = np.unique(y * 65536 + x, return_index=True)
    unique: Floats = corners[np.sort(first)].astype(np.float32)
    return unique
