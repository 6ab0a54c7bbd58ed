"""Find rectangles that are drawn in thin strokes: corner brackets or whole frames.

Two strokes that end in one another form a corner. Two corners span a candidate rectangle; where
the image's edge cuts one, a corner and the length of its arms do. Candidates are scored coarsely,
then closely; overlapping ones are removed by non-maximum suppression, the edges of the rest are
refined to a fraction of a pixel, and what is outside the image is cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.detectors.colour.candidates import (
    BoxArray,
    candidate_rectangles,
    count_corners_inside,
    middle_aspect,
    single_corner_candidates,
)
from annotate.detectors.colour.edges import far_arms_at_edges, refine_edges, trim_to_visible
from annotate.detectors.colour.ranges import ColourSpec, Outline
from annotate.detectors.colour.scores import coarse_scores, fine_scores
from annotate.detectors.colour.strokes import (
    LONG_ARM_PX,
    MIN_HALVED_SIDE,
    Floats,
    StrokeMaps,
    downscale,
    find_corners,
    keep_freed_memory,
    scale_factors,
)
from annotate.items.boxes import iou_matrix
from annotate.items.records import Picture

_MAX_CANDIDATES = 28  # rectangles that get a fine score
_MIN_COARSE_SCORE = 0.3
_MAX_RECTANGLES = 8  # rectangles returned for an image
_NMS_IOU = 0.3  # above it two rectangles are the same
_MAX_SIDE_UNHALVED = 170  # pixels; larger rectangles of a small image are found in its half


def find_rectangles(
    image: Picture, spec: ColourSpec, min_score: float = 0
) -> tuple[BoxArray, Floats]:
    """Find drawn rectangles: boxes, (n, 4) xyxy, and scores, (n,) 0..1; best first.

    The box of a rectangle that the image's edge cuts is that of its visible strokes.
    """
    outline = spec.outline or Outline()
    keep_freed_memory()
    found = [_rectangles_at(image, factor, spec, outline) for factor in scale_factors(image)]
    boxes, scores, far_arms = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = _non_max_suppression(boxes, np.where(scores >= min_score, scores, -1))
    boxes, scores, far_arms = boxes[best], scores[best], far_arms[best]
    if len(boxes):
        boxes = refine_edges(image, boxes, spec, 6)
    return trim_to_visible(boxes, (image.shape[1], image.shape[0]), outline, far_arms), scores


def _rectangles_at(
    image: Picture, factor: int, spec: ColourSpec, outline: Outline
) -> tuple[BoxArray, Floats, Floats]:
    """Find candidates in the image averaged over blocks of `factor` pixels.

    Returns boxes in pixels of the image, scores, and `far_arms_at_edges`.
    """
    small = downscale(image, factor)
    height, width = small.shape[:2]
    maps = StrokeMaps.both(small, spec.ranges)
    widened = maps[0].widened(), maps[1].widened()
    longest = spec.side_px[1] / factor
    if factor < 2 and min(height, width) >= MIN_HALVED_SIDE:
        longest = min(longest, _MAX_SIDE_UNHALVED)
    side_limits = spec.side_px[0] / factor - 1, longest
    corners = find_corners(*maps)
    boxes = candidate_rectangles(corners, side_limits, spec.aspect)
    boxes = boxes[count_corners_inside(boxes, small.shape) >= outline.min_corners]
    if outline.min_corners <= 2:
        aspect = middle_aspect(spec.aspect)
        single = single_corner_candidates(widened, corners, side_limits, aspect, outline)
        boxes = np.concatenate([boxes, single])
    boxes = _distinct_candidates(boxes, _by_arm(coarse_scores, widened, boxes, outline))
    scores = _by_arm(fine_scores, ((maps[0], widened[0]), (maps[1], widened[1])), boxes, outline)
    far_arms = np.ones((len(boxes), 4), bool)
    cut = np.flatnonzero(count_corners_inside(boxes, small.shape) < 4)
    if len(cut):
        far_arms[cut] = far_arms_at_edges(widened[0], boxes[cut], outline)
    return boxes * factor + [0, 0, factor, factor], scores, far_arms  # x2, y2 are exclusive


def _by_arm(
    score: Callable[[Any, BoxArray, Outline], Floats],
    maps: tuple[Any, Any],
    boxes: BoxArray,
    outline: Outline,
) -> Floats:
    """Score boxes with short arms by the first maps, and those with long arms by the second."""
    arms = outline.arm_share[0] * np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    scores = np.zeros(len(boxes))
    for chosen, of_size in zip(maps, (arms < LONG_ARM_PX, arms >= LONG_ARM_PX), strict=True):
        if of_size.any():
            scores[of_size] = score(chosen, boxes[of_size], outline)
    return scores


def _distinct_candidates(boxes: BoxArray, scores: Floats) -> BoxArray:
    """Keep the best candidates, best first, and one of those in the same cells of two pixels."""
    order = np.argsort(-scores, kind="stable")[: 4 * _MAX_CANDIDATES]
    boxes = boxes[order[scores[order] >= _MIN_COARSE_SCORE]]
    cells = np.rint(boxes / 2).astype(np.int64) @ (1, 1 << 15, 1 << 30, 1 << 45)
    _, first = np.unique(cells, return_index=True)
    distinct: BoxArray = boxes[np.sort(first)[:_MAX_CANDIDATES]]
    return distinct


def _non_max_suppression(boxes: BoxArray, scores: Floats) -> npt.NDArray[np.intp]:
    """Choose the best of overlapping boxes, best first, at most `_MAX_RECTANGLES`; indices.

    Boxes with a score below 0 are left out.
    """
    order = np.argsort(-scores, kind="stable")[: (scores >= 0).sum()]
    xyxy = boxes[order].astype(np.float64)
    duplicate = iou_matrix(xyxy, xyxy) > _NMS_IOU
    kept: list[int] = []
    for row in range(len(order)):
        if len(kept) < _MAX_RECTANGLES and not duplicate[row, kept].any():
            kept.append(row)
    return order[kept]
