"""Make candidate rectangles from the corners of strokes: of two corners, or of one and its arms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from annotate.detectors.colour.ranges import Interval, Outline
from annotate.detectors.colour.strokes import (
    LONG_ARM_PX,
    MIN_CONTRAST,
    MIN_RELATIVE_CONTRAST,
    ContrastMap,
    Floats,
)

BoxArray = Floats  # (n, 4) xyxy

_MIN_SINGLE_SIDE = 20  # downscaled pixels; the side of a rectangle with one corner in the image
_MAX_HIDDEN = 3  # the side of such a rectangle, in visible sides
_ARM_GAP_PX = 3  # pixels without a stroke that end an arm


def candidate_rectangles(
    corners: Sequence[Floats], side_limits: Interval, aspect: Interval
) -> BoxArray:
    """Make every rectangle within the limits that two of the corners span, (n, 4).

    Two corners at the ends of one side give that side; the middle of the aspect limits then gives
    the distance of the opposite side.
    """
    top_left, top_right, bottom_left, bottom_right = corners
    candidates = [
        _all_pairs(top_left, bottom_right),
        _all_pairs(bottom_left, top_right)[:, [0, 3, 2, 1]],
    ]
    middle = middle_aspect(aspect)
    for lefts, rights, down in ((top_left, top_right, 1), (bottom_left, bottom_right, -1)):
        x1, y1, x2, y2 = _all_pairs(lefts, rights).T
        far = y1 + down * (x2 - x1) / middle
        side = np.stack([x1, np.minimum(y1, far), x2, np.maximum(y1, far)], 1)
        candidates.append(side[np.abs(y2 - y1) <= 1])
    for tops, bottoms, right in ((top_left, bottom_left, 1), (top_right, bottom_right, -1)):
        x1, y1, x2, y2 = _all_pairs(tops, bottoms).T
        far = x1 + right * (y2 - y1) * middle
        side = np.stack([np.minimum(x1, far), y1, np.maximum(x1, far), y2], 1)
        candidates.append(side[np.abs(x2 - x1) <= 1])
    boxes = np.concatenate(candidates)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    keep = np.minimum(width, height) >= side_limits[0]
    keep &= np.maximum(width, height) <= side_limits[1]
    return boxes[keep & (width >= aspect[0] * height) & (width <= aspect[1] * height)]


def _all_pairs(first: Floats, second: Floats) -> BoxArray:
    """Pair each row of `first` with each row of `second`; (n, 2) and (m, 2) give (n * m, 4)."""
    return np.hstack([np.repeat(first, len(second), 0), np.tile(second, (len(first), 1))])


def middle_aspect(aspect: Interval) -> float:
    """Compute the aspect ratio in the middle of the limits, as a ratio."""
    return math.sqrt(max(aspect[0], 0.1) * min(aspect[1], 10))


def single_corner_candidates(
    widened: Sequence[ContrastMap],
    corners: Sequence[Floats],
    side_limits: Interval,
    aspect: float,
    outline: Outline,
) -> BoxArray:
    """Make rectangles of one corner and its arms: short by the first map, long by the second."""
    between = LONG_ARM_PX / outline.arm_share[0]  # a side with such arms
    short = _MIN_SINGLE_SIDE, min(between, side_limits[1])
    long = between, side_limits[1]
    found = [
        single_corner_rectangles(each, corners, limits, aspect, outline)
        for each, limits in zip(widened, (short, long), strict=True)
    ]
    return np.concatenate(found)


def single_corner_rectangles(
    widened: ContrastMap,
    corners: Sequence[Floats],
    side_limits: Interval,
    aspect: float,
    outline: Outline,
) -> BoxArray:
    """Make the rectangles of which the image shows one corner only, (n, 4).

    The length of either arm at the corner says how large the whole is; the other corners must be
    outside. The edge of the image cuts neither arm as long as a third of the side is visible.
    """
    kind = np.repeat(np.arange(4), [len(each) for each in corners])
    points = np.concatenate(corners)
    inward = np.stack([1 - kind % 2 * 2, 1 - kind // 2 * 2], 1)  # from the corner, +1 or -1
    limits = np.array([widened.width - 1, widened.height - 1])
    room = np.where(inward > 0, limits - points, points) * [1, aspect]
    lowest, highest = room.min(1) + 1, np.minimum(_MAX_HIDDEN * room.min(1), side_limits[1])
    lowest = np.maximum(lowest, side_limits[0])
    fits = lowest <= highest
    fits[fits] = (_arm_lengths(widened, points[fits], inward[fits], 4) >= 4).all(1)
    points, inward, lowest, highest = points[fits], inward[fits], lowest[fits], highest[fits]
    if not len(points):
        return np.zeros((0, 4))
    reach = int(outline.arm_share[1] * highest.max()) + 4
    arms = _arm_lengths(widened, points, inward, reach)
    width = arms / (sum(outline.arm_share) / 2) * [1, aspect]
    row, arm = np.nonzero((width >= 0.95 * lowest[:, None]) & (width <= highest[:, None]))
    size = np.maximum(width[row, arm], lowest[row])[:, None] / [1, aspect]
    opposite = points[row] + inward[row] * size
    return np.hstack([np.minimum(points[row], opposite), np.maximum(points[row], opposite)])


def _arm_lengths(
    widened: ContrastMap, points: Floats, inward: npt.NDArray[np.intp], reach: int
) -> Floats:
    """Measure the arms that start at each corner: the horizontal and the vertical, (n, 2)."""
    stride = 1 if reach < 60 else 2
    count = reach // stride
    steps = np.arange(0, (count + _ARM_GAP_PX) * stride, stride, dtype=np.float32)
    run = points[:, :, None] + inward[:, :, None] * steps
    stay = np.broadcast_to(points[:, :, None], run.shape)
    contrasts = widened.at(
        np.stack([run[:, 0], stay[:, 0]], 1), np.stack([stay[:, 1], run[:, 1]], 1)
    )
    start = np.median(contrasts[:, :, 1:6], 2)
    there = contrasts > np.maximum(MIN_CONTRAST, MIN_RELATIVE_CONTRAST * start)[:, :, None]
    ended = ~there[:, :, :count]
    for later in range(1, _ARM_GAP_PX):
        ended &= ~there[:, :, later : count + later]
    return stride * np.where(ended.any(2), ended.argmax(2), count).astype(float)


def count_corners_inside(boxes: BoxArray, shape: tuple[int, ...]) -> Floats:
    """Count the corners of each rectangle that are inside the image, (n,)."""
    height, width = shape[:2]
    columns = (boxes[:, [0, 2]] >= 0) & (boxes[:, [0, 2]] < width)
    rows = (boxes[:, [1, 3]] >= 0) & (boxes[:, [1, 3]] < height)
    corners: Floats = columns.sum(1) * rows.sum(1, dtype=float)
    return corners
