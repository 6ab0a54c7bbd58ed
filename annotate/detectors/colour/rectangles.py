"""Find rectangles that are drawn in thin strokes: corner brackets or whole frames.

Two strokes that end in one another form a corner, and two or more corners span a candidate
rectangle. The score comes from the contrast along its sides: stroke is expected on the arms, and
none between the arms, beyond the corners or beside the sides. Candidates are scored coarsely, then
closely; overlapping ones are removed by non-maximum suppression, and the edges of the rest are
refined to a fraction of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from annotate.detectors.colour.ranges import ColourSpec, Interval, Outline, colour_strength
from annotate.detectors.colour.strokes import (
    MIN_CONTRAST,
    REACH_PX,
    ContrastMap,
    Contrasts,
    Floats,
    StrokeMaps,
    downscale,
    find_corners,
)
from annotate.items.boxes import iou_matrix
from annotate.items.records import Picture

BoxArray = Floats  # (n, 4) xyxy

_MAX_CANDIDATES = 50  # rectangles that get a fine score
_MAX_RECTANGLES = 8  # rectangles returned for an image
_NMS_IOU = 0.3  # above it two rectangles are the same
_MIN_SIDE = 6  # downscaled pixels; smaller rectangles may be noise
_MIN_RELATIVE_CONTRAST = 0.4  # a stroke's contrast, as a share of the rectangle's typical stroke


def find_rectangles(
    image: Picture, spec: ColourSpec, min_score: float = 0
) -> tuple[BoxArray, Floats]:
    """Find drawn rectangles: boxes, (n, 4) xyxy, and scores, (n,) 0..1; best first.

    Boxes may reach outside the image.
    """
    outline = spec.outline or Outline()
    small, factor = downscale(image)
    strokes = StrokeMaps.from_image(small, spec.ranges)
    widened = strokes.widened()
    side_limits = spec.side_px[0] / factor - 1, spec.side_px[1] / factor
    boxes = candidate_rectangles(find_corners(strokes), side_limits, spec.aspect)
    boxes = boxes[_count_corners_inside(boxes, small.shape) >= outline.min_corners]
    boxes = _distinct_candidates(boxes, coarse_scores(widened, boxes, outline))
    scores = fine_scores(strokes, widened, boxes, outline)
    keep = scores >= min_score
    boxes, scores = _non_max_suppression(boxes[keep], scores[keep])
    if not len(boxes):
        return boxes, scores
    boxes = boxes * factor + [0, 0, factor, factor]  # x2 and y2 are exclusive
    return refine_edges(image, boxes, spec, 2 * factor + 2), scores


def _count_corners_inside(boxes: BoxArray, shape: tuple[int, ...]) -> Floats:
    """Count the corners of each rectangle that are inside the image, (n,)."""
    height, width = shape[:2]
    columns = (boxes[:, [0, 2]] >= 0) & (boxes[:, [0, 2]] < width)
    rows = (boxes[:, [1, 3]] >= 0) & (boxes[:, [1, 3]] < height)
    corners: Floats = columns.sum(1) * rows.sum(1, dtype=float)
    return corners


def _distinct_candidates(boxes: BoxArray, scores: Floats) -> BoxArray:
    """Keep the best candidates, best first, and one of those in the same cells of two pixels."""
    boxes = boxes[np.argsort(-scores, kind="stable")[: 4 * _MAX_CANDIDATES]]
    cells = np.rint(boxes / 2).astype(np.int64) @ (1, 1 << 15, 1 << 30, 1 << 45)
    _, first = np.unique(cells, return_index=True)
    distinct: BoxArray = boxes[np.sort(first)[:_MAX_CANDIDATES]]
    return distinct


def _non_max_suppression(boxes: BoxArray, scores: Floats) -> tuple[BoxArray, Floats]:
    """Keep the best of overlapping boxes, best first, and at most `_MAX_RECTANGLES`."""
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    xyxy = boxes.astype(np.float64)
    duplicate = iou_matrix(xyxy, xyxy) > _NMS_IOU
    kept: list[int] = []
    for row in range(len(boxes)):
        if len(kept) < _MAX_RECTANGLES and not duplicate[row, kept].any():
            kept.append(row)
    return boxes[kept], scores[kept]


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
    middle = math.sqrt(max(aspect[0], 0.1) * min(aspect[1], 10))
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


def coarse_scores(widened: ContrastMap, boxes: BoxArray, outline: Outline) -> Floats:
    """Score each rectangle from a few positions on each arm, which may be off by a pixel; (n,)."""
    arms = _sample_sides(widened, boxes, _arm_positions(outline, 3))
    return _arm_score(widened, boxes, outline, arms, _stroke_threshold(arms))


def fine_scores(
    strokes: StrokeMaps, widened: ContrastMap, boxes: BoxArray, outline: Outline
) -> Floats:
    """Score each rectangle closely, (n,) 0..1: straight arms, no strokes beside them, all visible.

    Strokes side by side are letters, and small rectangles come about by chance more often: both
    lower the score.
    """
    sharp, any_direction = strokes.contrast_map(), strokes.any_direction()
    shifted = np.stack(
        [_sample_sides(sharp, boxes, _arm_positions(outline, 12), shift) for shift in (-1, 0, 1)]
    )
    best_shift = shifted.sum(3, dtype=int).argmax(0)[None, :, :, None]
    arms = np.take_along_axis(shifted, best_shift, 0)[0]
    threshold = _stroke_threshold(arms)
    sides = boxes[:, 2] - boxes[:, 0]
    distance = np.maximum(REACH_PX, 0.08 * sides)[:, None, None]
    inner = _sample_sides(any_direction, boxes, np.linspace(0.12, 0.26, 6), distance)
    outer = _sample_sides(any_direction, boxes, np.linspace(0.0, 0.26, 6), -distance)
    beside = 0.3 * _mean_or_zero(_stroke_share(inner, threshold))
    beside = beside + 0.3 * _mean_or_zero(_stroke_share(outer, threshold))
    outside = 0.35 * (arms < 0).mean((1, 2))
    chance = 0.2 * _MIN_SIDE / np.maximum(_MIN_SIDE, sides)
    base = _arm_score(widened, boxes, outline, arms, threshold)
    scores: Floats = np.clip(base - beside - outside - chance, 0, 1)
    return scores


def _arm_positions(outline: Outline, count: int) -> Floats:
    """Return the shares of a side at which a stroke is expected, (count,)."""
    return np.linspace(0.01, 0.95 * outline.arm_share[0], count)


def _arm_score(
    widened: ContrastMap, boxes: BoxArray, outline: Outline, arms: Contrasts, threshold: Floats
) -> Floats:
    """Score the arms, (n,), minus the strokes in the middle of a side or beyond a corner."""
    low, high = outline.arm_share
    count = arms.shape[2] // 2 + 1
    middle = np.linspace(high + 0.06, 0.5, count if high < 0.44 else 0)
    beyond = np.linspace(-low, -0.06, count)
    gaps = _sample_sides(widened, boxes, np.concatenate([middle, beyond]))
    between, continued = gaps[:, :, : len(middle)], gaps[:, :, len(middle) :]
    present = _stroke_share(arms, threshold)
    unwanted = 0.7 * _mean_or_zero(_stroke_share(between, threshold))
    unwanted = unwanted + 0.5 * _mean_or_zero(_stroke_share(continued, threshold))
    return np.where(np.isfinite(present).sum(1) >= 3, _mean_or_zero(present) - unwanted, 0)


def _stroke_threshold(arms: Contrasts) -> Floats:
    """Compute the contrast that counts as a stroke, (n,), from each rectangle's median contrast."""
    ascending = np.sort(arms.reshape(len(arms), arms.shape[1] * arms.shape[2]), 1)
    outside = (ascending < 0).sum(1)
    median = ascending[np.arange(len(ascending)), (outside + ascending.shape[1] - 1) // 2]
    threshold: Floats = np.maximum(MIN_CONTRAST, _MIN_RELATIVE_CONTRAST * median)
    return threshold


def _stroke_share(contrasts: Contrasts, threshold: Floats) -> Floats:
    """Compute the share of positions with a stroke at each end, (n, 8); NaN if all are outside."""
    visible = (contrasts >= 0).sum(2)
    share = (contrasts > threshold[:, None, None]).sum(2) / np.maximum(visible, 1)
    return np.where(visible > 0, share, np.nan)


def _mean_or_zero(shares: Floats) -> Floats:
    """Average the shares that are not NaN, (n, 8) -> (n,); 0 where all are NaN."""
    finite = np.isfinite(shares)
    mean: Floats = np.where(finite, shares, 0).sum(1) / np.maximum(finite.sum(1), 1)
    return mean


def _sample_sides(
    contrast_map: ContrastMap, boxes: BoxArray, shares: Floats, inward_px: Floats | int = 0
) -> Contrasts:
    """Sample the contrast at shares of each side from both its ends, (n, 8, positions).

    The first four rows are the ends of the horizontal sides, top and bottom; the others those of
    the vertical sides. Positions are `inward_px` pixels into the box. Outside the image it is -1.
    """
    from_start = shares.astype(np.float32)
    from_end, zero = 1 - from_start, 0 * from_start
    along = np.stack([from_start, from_end, from_start, from_end])
    across = np.stack([zero, zero, zero + 1, zero + 1])
    signs = np.array([[1], [1], [-1], [-1]], np.float32)
    shift = inward_px * np.tile(signs, (len(boxes), 1, 1))
    x1, y1, x2, y2 = boxes.T[:, :, None, None]
    x = np.concatenate([x1 + along * (x2 - x1), x1 + across * (x2 - x1) + shift], 1)
    y = np.concatenate([y1 + across * (y2 - y1) + shift, y1 + along * (y2 - y1)], 1)
    return contrast_map.at(x, y)


def refine_edges(image: Picture, boxes: BoxArray, spec: ColourSpec, reach_px: int) -> BoxArray:
    """Move every visible side to the outer edge of its strokes, to a fraction of a pixel.

    The edge is where the mean strength, going outwards, has fallen by half.
    """
    low = 0.9 * (spec.outline or Outline()).arm_share[0]
    shares = np.concatenate([np.linspace(0.03, low, 8), np.linspace(1 - low, 0.97, 8)])
    outwards = np.array([-1, -1, 1, 1])  # left, top, right, bottom
    outermost = np.where(outwards < 0, np.floor(boxes), np.ceil(boxes) - 1)
    steps = outwards[:, None, None] * np.arange(-reach_px, reach_px + 1)
    across = outermost[:, :, None, None] + steps
    first, last = boxes[:, [1, 0, 1, 0], None, None], boxes[:, [3, 2, 3, 2], None, None]
    along = first + shares[:, None] * (last - first)
    horizontal = np.array([False, True, False, True])[:, None, None]
    x, y = np.where(horizontal, along, across), np.where(horizontal, across, along)
    profiles = _edge_profiles(image, x, y, spec).reshape(-1, 2 * reach_px + 1)
    fall = _half_fall_step(profiles).reshape(-1, 4)
    moved = outermost + outwards * (fall - reach_px) + 0.5
    return np.where(np.isfinite(moved), moved, boxes)


def _edge_profiles(image: Picture, x: Floats, y: Floats, spec: ColourSpec) -> Floats:
    """Average the strength along each side, step by step across it, (n, 4, steps).

    NaN where a step is outside the image.
    """
    height, width = image.shape[:2]
    x, y = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    visible = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    colours = image[y.clip(0, height - 1), x.clip(0, width - 1)]
    values = colour_strength(colours.reshape(1, -1, 3), spec.ranges).reshape(x.shape)
    count = visible.sum(2)
    return np.where(count > 0, (values * visible).sum(2) / np.maximum(count, 1), np.nan)


def _half_fall_step(profiles: Floats) -> Floats:
    """Find the step at which each profile has fallen by half from its peak; NaN if it never has."""
    row = np.arange(len(profiles))
    steps = np.arange(profiles.shape[1])
    central = (steps >= 2) & (steps < len(steps) - 2)
    peak = np.where(central & np.isfinite(profiles), profiles, -1).argmax(1)
    beyond = (steps > peak[:, None]) & np.isfinite(profiles)
    floor = np.where(beyond, profiles, np.inf).min(1)
    half = (profiles[row, peak] + floor) / 2
    first = (beyond & (profiles <= half[:, None])).argmax(1)
    above, below = profiles[row, first - 1], profiles[row, first]
    with np.errstate(invalid="ignore", divide="ignore"):
        fall = first - 1 + (above - half) / (above - below)
    return np.where((first > 0) & (profiles[row, peak] - floor >= MIN_CONTRAST), fall, np.nan)


def trim_to_visible(boxes: BoxArray, size_wh: tuple[int, int], outline: Outline) -> BoxArray:
    """Shrink boxes to the strokes inside the image: an arm may be visible without its corner."""
    x1, y1, x2, y2 = boxes.T
    arm = sum(outline.arm_share) / 2
    across, down = arm * (x2 - x1), arm * (y2 - y1)
    width, height = size_wh
    trimmed = [
        np.where(x1 + across <= 0, x2 - across, x1),
        np.where(y1 + down <= 0, y2 - down, y1),
        np.where(x2 - across >= width, x1 + across, x2),
        np.where(y2 - down >= height, y1 + down, y2),
    ]
    return np.stack(trimmed, 1).clip(0, [width, height, width, height])
