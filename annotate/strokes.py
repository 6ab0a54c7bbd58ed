"""Thin strokes in a map of how strong a colour is, and the corners where two of them end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.colours import Map, Range, inside, strength
from annotate.records import Picture

Floats = npt.NDArray[np.floating[Any]]
Contrasts = npt.NDArray[np.int8]

REACH = 3  # pixels from a stroke's middle to what it must stand out from
PLAIN = 10  # contrast, of 255, below which nothing is a stroke
_STARK = 60  # contrast beyond which a stroke is no better
_ARMS = 3, 8  # pixels of arm by which corners are sought: of small boxes, of large ones
_CORNERS = 40  # kept, of each kind and arm


def shrunk(image: Picture) -> tuple[Picture, int]:
    """The picture averaged over square blocks, and the side of a block.

    Video keeps colour at half its size, so that halving loses little; more is for speed.
    """
    height, width = image.shape[:2]
    factor = 1 if min(height, width) < 200 else max(2, -(-height // 540))
    height, width = height // factor, width // factor
    whole = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)), factor


@dataclass(frozen=True)
class Strokes:
    """How much every pixel stands out as part of a thin line, 0.._STARK: lying and standing."""

    lying: Map
    standing: Map

    @classmethod
    def of(cls, image: Picture, ranges: Sequence[Range]) -> Strokes:
        """Of a picture, in the ranges' colour."""
        strong = strength(image, ranges)
        lying, standing = _ridges(strong, REACH, 0), _ridges(strong, 0, REACH)
        at = np.flatnonzero(np.maximum(lying, standing) >= PLAIN)
        at = at[inside(image.reshape(1, -1, 3)[:, at], ranges)[0]]  # few pixels: soon looked at
        return cls(_only(lying, at), _only(standing, at))

    def lookup(self) -> Lookup:
        """The strokes as they are, to look places up in."""
        return Lookup.of(self.lying, self.standing)

    def widened(self) -> Lookup:
        """Strokes a pixel wider to both sides."""
        lying = cv2.dilate(self.lying, np.ones((3, 1), np.uint8))
        return Lookup.of(lying, cv2.dilate(self.standing, np.ones((1, 3), np.uint8)))

    def either(self) -> Lookup:
        """Strokes of any direction, in both maps."""
        either = np.maximum(self.lying, self.standing)
        return Lookup.of(either, either)


def _only(image: Map, at: npt.NDArray[np.intp]) -> Map:
    """The picture at these places of its flattened self, and 0 elsewhere."""
    only = np.zeros_like(image)
    only.ravel()[at] = image.ravel()[at]
    return only


def _ridges(strength: Map, y: int, x: int) -> Map:
    """How far each pixel is above both the one `y`, `x` before it and the one behind."""
    height, width = strength.shape
    wide = cv2.copyMakeBorder(strength, y, y, x, x, cv2.BORDER_REFLECT_101)
    beside = np.maximum(wide[:height, :width], wide[2 * y :, 2 * x :])
    above = cv2.subtract(strength, beside)
    return np.asarray(cv2.threshold(above, _STARK, 0, cv2.THRESH_TRUNC)[1])


@dataclass(frozen=True)
class Lookup:
    """The contrasts of lying and of standing strokes in one row, -1 where they are not known."""

    contrasts: Contrasts
    height: int
    width: int

    @classmethod
    def of(cls, lying: Map, standing: Map) -> Lookup:
        """On the picture's very edge, and so beyond it, nothing is known."""
        both = np.stack([lying, standing]).view(np.int8)
        both[:, [0, -1]] = -1
        both[:, :, [0, -1]] = -1
        return cls(both.ravel(), *lying.shape)

    def at(self, x: Floats, y: Floats) -> Contrasts:
        """The contrasts at x, y, both (n, 8, places): of four lying ends, then of standing ones."""
        column = (x + 0.5).clip(0, self.width - 1).astype(np.int32)
        row = (y + 0.5).clip(0, self.height - 1).astype(np.int32)
        row[:, 4:] += self.height
        return self.contrasts.take(row * self.width + column)


def find_corners(strokes: Strokes) -> list[Floats]:
    """The best corners of each kind: top left, top right, bottom left, bottom right; (n, 2) xy."""
    kinds = zip(*(_corner_maps(strokes, arm) for arm in _ARMS), strict=True)
    return [_thinned(np.concatenate([_peaks(each) for each in kind])) for kind in kinds]


def _corner_maps(strokes: Strokes, arm: int) -> list[Map]:
    """How much every pixel is a corner of each kind: both arms are there and end there."""
    right, left = _starts(strokes.lying, arm, 1, 0)
    down, up = _starts(strokes.standing, arm, 0, 1)
    return [cv2.min(x, y) for y in (down, up) for x in (right, left)]


def _starts(ridges: Map, arm: int, x: int, y: int) -> tuple[Map, Map]:
    """How much a stroke `arm` long starts at every pixel, going along `x`, `y` and against it."""
    height, width = ridges.shape
    wide = cv2.copyMakeBorder(ridges, arm, arm, arm, arm, cv2.BORDER_CONSTANT)
    size = (arm, 1) if x else (1, arm)
    means = cv2.boxFilter(wide, -1, size, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)

    def ahead(steps: int) -> Map:
        """The mean of the `arm` pixels from so many steps on."""
        top, left = arm + y * steps, arm + x * steps
        return np.asarray(means[top : top + height, left : left + width])

    around = np.ones((3, 3), np.uint8)  # where the two arms' middles cross is known to a pixel
    forth = cv2.dilate(cv2.subtract(ahead(0), ahead(-arm)), around)
    back = cv2.dilate(cv2.subtract(ahead(1 - arm), ahead(1)), around)
    return forth, back


def _peaks(corners: Map) -> npt.NDArray[np.intp]:
    """Where a corner is the best one near, best first; (n, 2) xy."""
    at = np.flatnonzero(corners >= PLAIN)
    best = cv2.dilate(corners, np.ones((5, 5), np.uint8)).ravel()[at]
    height = corners.ravel()[at]
    at, height = at[height == best], height[height == best]
    at = at[np.argsort(-height.astype(int), kind="stable")[:_CORNERS]]
    return np.stack([at % corners.shape[1], at // corners.shape[1]], 1)


def _thinned(corners: npt.NDArray[np.intp]) -> Floats:
    """The first of those in the same two by two pixels."""
    x, y = corners.T // 2
    _, first = np.unique(y * 65536 + x, return_index=True)
    thinned: Floats = corners[np.sort(first)].astype(np.float32)
    return thinned
