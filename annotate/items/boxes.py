"""Compute areas, intersections and IoUs of boxes, and clip boxes to a picture.

Boxes are xyxy in pixels, x2 and y2 exclusive: (N, 4) arrays or sequences of `Box`. The IoU is
computed here and not by `sv.box_iou_batch`, which rounds to float32: there an IoU of exactly 0.7 is
below a threshold of 0.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.items.records import Box

BoxArray = npt.NDArray[np.float64]  # (N, 4), xyxy
Boxes = npt.NDArray[Any] | Sequence[Box]


def as_array(boxes: Boxes) -> BoxArray:
    """Return boxes as a float64 array of shape (N, 4), also if N is 0."""
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def area(box: Box) -> float:
    """Return the area of one box in pixels; 0 where its corners are in the wrong order.

    Examples:
        >>> area((2, 3, 6, 5))
        8.0
    """
    return float(areas([box])[0])


def areas(boxes: Boxes) -> npt.NDArray[np.float64]:
    """Return the areas of N boxes in pixels, (N,)."""
    xyxy = as_array(boxes)
    sides = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def intersection_matrix(a: Boxes, b: Boxes) -> npt.NDArray[np.float64]:
    """Return the intersection of each box of `a` with each of `b`, in pixels, (len(a), len(b))."""
    rows, columns = as_array(a)[:, None], as_array(b)[None]
    low = np.maximum(rows[..., :2], columns[..., :2])
    high = np.minimum(rows[..., 2:], columns[..., 2:])
    sides = np.maximum(high - low, 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def iou_matrix(a: Boxes, b: Boxes) -> npt.NDArray[np.float64]:
    """Return the IoU of each box of `a` with each of `b`, (len(a), len(b)); 0 for empty boxes."""
    shared = intersection_matrix(a, b)
    union = areas(a)[:, None] + areas(b)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def iou(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes, 0..1.

    Examples:
        >>> iou((0, 0, 4, 4), (0, 0, 4, 2))
        0.5
    """
    return float(iou_matrix([a], [b])[0, 0])


def clip(boxes: Boxes, size_wh: tuple[int, int]) -> BoxArray:
    """Return boxes clipped to a picture of `size_wh`, (N, 4)."""
    import supervision as sv

    return np.asarray(sv.clip_boxes(as_array(boxes), size_wh), np.float64)


def clip_box(box: Box, size_wh: tuple[int, int]) -> Box:
    """Return one box clipped to a picture of `size_wh`.

    Examples:
        >>> clip_box((-1, 2, 30, 8), (20, 10))
        (0.0, 2.0, 20.0, 8.0)
    """
    x1, y1, x2, y2 = box
    width, height = size_wh
    return _clip(x1, width), _clip(y1, height), _clip(x2, width), _clip(y2, height)


def _clip(value: float, limit: float) -> float:
    return float(min(max(value, 0.0), limit))
