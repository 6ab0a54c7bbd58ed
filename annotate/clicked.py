"""What a click means, by a small network that has seen many things clicked in generated gameplay.

In: a window about the clicks and, at the second look, the mask of the first. Out: a mask, and how
good it should be. How it was made, and how far to trust it: `models/light-refine.md`.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from annotate.features import trunk
from annotate.place import about
from annotate.records import Mask, Picture
from annotate.refine import CLICK, GRID, drawn, refined
from annotate.windows import Map, Window

SIZE = 256  # side of a window
SMALLEST, STEP, LARGEST = 48.0, 1.4, 1.4  # sides of windows: first, to the next, in pictures
AGAIN, ROUNDS = 3, 2  # so many of the best are looked at again, so often
SPOT = 1.5  # radius of a click, in cells

Points = npt.NDArray[np.float64]


def clicked(picture: Picture, inside: Points, outside: Points) -> Iterator[tuple[Mask, float]]:
    """Masks, (H, W), of what is clicked, each with the IoU, 0..1, that it should have.

    `inside` and `outside` are (n, 2) of the picture; at least one point is inside.
    """
    found = []
    for window in about_points(picture, inside, STEP, LARGEST):
        found.append(_looked(picture, window, (inside, outside), None))
    yield from found
    for mask, _ in sorted(found, key=lambda each: -each[1])[:AGAIN]:
        for _ in range(ROUNDS):
            if mask.sum() < 16:
                break
            mask, worth = _looked(picture, about(mask), (inside, outside), mask)
            yield mask, worth


def about_points(picture: Picture, points: Points, step: float, largest: float) -> Iterator[Window]:
    """Windows about (n, 2) points, each `step` times the one before, up to `largest` pictures."""
    low, high = points.min(axis=0), points.max(axis=0)
    x, y = ((low + high) / 2).tolist()
    side = max(SMALLEST, 1.5 * float((high - low).max()))
    last = max(largest * min(picture.shape[:2]), side)
    while side <= last:
        yield Window(x, y, side)
        side *= step


def told(
    size_wh: tuple[int, int], window: Window, clicks: tuple[Points, Points], before: Mask | None
) -> Map:
    """What the network is told, (6, 64, 64), of clicks inside and outside, and the mask before."""
    prior, size = None, 0.0
    if before is not None:
        prior = window.cut(before.astype(np.float32), GRID, outside=False)
        size = float(np.sqrt((prior > 0.5).sum()))
    inside, outside = (_spots(points, window) for points in clicks)
    return drawn(inside, outside, prior, window.inside(size_wh, GRID), size)


def _looked(
    picture: Picture, window: Window, clicks: tuple[Points, Points], before: Mask | None
) -> tuple[Mask, float]:
    size_wh = (picture.shape[1], picture.shape[0])
    crop = window.cut(picture, SIZE)
    logits, worth = refined(CLICK, crop, trunk(crop), told(size_wh, window, clicks, before))
    return window.mask(cv2.resize(logits, (SIZE, SIZE)), size_wh, 0), worth


def _spots(points: Points, window: Window) -> Map:
    """Where (n, 2) points of the picture are on a window's grid, (64, 64) in 0..1."""
    cells = (points - (window.x, window.y)) * (GRID / window.side) + (GRID - 1) / 2
    y, x = np.mgrid[:GRID, :GRID]
    spots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * SPOT**2)) for px, py in cells]
    return np.asarray(np.max([np.zeros((GRID, GRID)), *spots], axis=0), np.float32)
