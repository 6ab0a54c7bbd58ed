"""Thin strokes in a map of how strong a colour is, and the corners where two of them end."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from annotate.records import Picture

Map = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

REACH = 3  # pixels from a stroke's middle to what it must stand out from
PLAIN = 10  # contrast, of 255, below which nothing is a stroke
_STARK = 60  # contrast beyond which a stroke is no better
_ARMS = 3, 8  # pixels of arm by which corners are sought: of small boxes, of large ones
_CORNERS = 60  # kept, of each kind and arm


def shrunk(image: Picture) -> tuple[Picture, int]:
    """The picture averaged over square blocks, and the side of a block.

    Video keeps colour at half its size, so that halving loses little; more is for speed.
    """
    height, width = image.shape[:2]
    factor = 1 if min(height, width) < 200 else max(2, -(-height // 540))
    height, width = height // factor, width // factor
    image = image[: height * factor, : width * factor]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), factor


@dataclass(frozen=True)
class Strokes:
    """How much every pixel stands out as part of a thin line, 0.._STARK: lying, standing, either."""

    lying: Map
    standing: Map
    either: Map

    @classmethod
    def of(cls, strength: Map, inside: Map) -> Strokes:
        """From how strong the colour is, and where it is in its ranges (255, else 0)."""
        lying = cv2.bitwise_and(_ridges(strength, (REACH, 0)), inside)
        standing = cv2.bitwise_and(_ridges(strength, (0, REACH)), inside)
        return cls(lying, standing, cv2.max(lying, standing))

    def widened(self) -> Strokes:
        """Strokes a pixel wider to both sides."""
        lying = cv2.dilate(self.lying, np.ones((3, 1), np.uint8))
        standing = cv2.dilate(self.standing, np.ones((1, 3), np.uint8))
        return Strokes(lying, standing, self.either)


def _ridges(strength: Map, reach_yx: tuple[int, int]) -> Map:
    """How far each pixel is above both the one `reach_yx` before it and the one behind."""
    y, x = reach_yx
    height, width = strength.shape
    wide = cv2.copyMakeBorder(strength, y, y, x, x, cv2.BORDER_REFLECT_101)
    beside = cv2.max(wide[:height, :width], wide[2 * y :, 2 * x :])
    return cv2.min(cv2.subtract(strength, beside), _STARK)


def find_corners(strokes: Strokes) -> list[Floats]:
    """The best corners of each kind: top left, top right, bottom left, bottom right; (n, 2) xy."""
    maps = [_corner_maps(strokes, arm) for arm in _ARMS]
    return [np.concatenate([_peaks(each) for each in kind]) for kind in zip(*maps, strict=True)]


def _corner_maps(strokes: Strokes, arm: int) -> list[Map]:
    """How much every pixel is a corner of each kind: both arms are there and end there."""
    right, left = _starts(strokes.lying, arm, (1, 0))
    down, up = _starts(strokes.standing, arm, (0, 1))
    return [cv2.min(x, y) for y in (down, up) for x in (right, left)]


def _starts(ridges: Map, arm: int, step_xy: tuple[int, int]) -> tuple[Map, Map]:
    """How much a stroke `arm` long starts at every pixel, going along `step_xy` and against it."""
    across, along = step_xy
    size = (arm, 1) if across else (1, arm)
    ahead = cv2.boxFilter(ridges, -1, size, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    behind = _moved(ahead, across * (arm - 1), along * (arm - 1))
    forth = cv2.subtract(ahead, _moved(behind, across, along))
    back = cv2.subtract(behind, _moved(ahead, -across, -along))
    around = np.ones((3, 3), np.uint8)  # where the two arms' middles cross is known to a pixel
    return cv2.dilate(forth, around), cv2.dilate(back, around)


def _moved(image: Map, x: int, y: int) -> Map:
    """The picture moved by x, y pixels, with 0 where nothing was."""
    height, width = image.shape
    moved = np.zeros_like(image)
    kept = image[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    moved[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = kept
    return moved


def _peaks(corners: Map) -> Floats:
    """Where a corner is the best one near; (n, 2) xy."""
    best = cv2.dilate(corners, np.ones((5, 5), np.uint8))
    at = np.flatnonzero((corners == best) & (corners >= PLAIN))
    height = corners.ravel()[at]
    if len(at) > _CORNERS:
        at = at[np.argpartition(height, len(at) - _CORNERS)[-_CORNERS:]]
    y, x = np.divmod(at, corners.shape[1])
    return np.stack([x, y], 1).astype(np.float32)
