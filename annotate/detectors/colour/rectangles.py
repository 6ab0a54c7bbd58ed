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
from annotate.items.records import Picture

BoxArray = Floats  # (n, 4) xyxy

_MAX_CANDIDATES = 50  # rectangles looked at closely
_MAX_RECTANGLES = 8  # rectangles given back
_NMS_IOU = 0.3  # IoU beyond which two are one
_MIN_SIDE = 6  # shrunk pixels of the smallest rectangle that can be told
_MIN_RELATIVE_CONTRAST = 0.4  # a stroke's contrast, as a share of the rectangle's typical stroke


def find_rectangles(
    image: Picture, spec: ColourSpec, min_score: float = 0
) -> tuple[BoxArray, Floats]:
    """The rectangles' boxes, outside the picture too, and the fits, (n,) 0..1; best first."""
    outline = spec.outline or Outline()
    small, factor = downscale(image)
    strokes = StrokeMaps.from_image(small, spec.ranges)
    wide = strokes.widened()
    size = spec.side_px[0] / factor - 1, spec.side_px[1] / factor
    boxes = candidate_rectangles(find_corners(strokes), size, spec.aspect)
    boxes = boxes[_count_corners_inside(boxes, small.shape) >= outline.min_corners]
    boxes = _distinct_candidates(boxes, coarse_scores(wide, boxes, outline))
    fits = fine_scores(strokes, wide, boxes, outline)
    boxes, fits = _non_max_suppression(boxes[fits >= min_score], fits[fits >= min_score])
    if not len(boxes):
        return boxes, fits
    boxes = boxes * factor + [0, 0, factor, factor]  # from a stroke's first pixel past its last
    return refine_edges(image, boxes, spec, 2 * factor + 2), fits


def _count_corners_inside(boxes: BoxArray, shape: tuple[int, ...]) -> Floats:
    """How many corners of each rectangle are in the picture."""
    height, width = shape[:2]
    columns = (boxes[:, [0, 2]] >= 0) & (boxes[:, [0, 2]] < width)
    rows = (boxes[:, [1, 3]] >= 0) & (boxes[:, [1, 3]] < height)
    corners: Floats = columns.sum(1) * rows.sum(1, dtype=float)
    return corners


def _distinct_candidates(boxes: BoxArray, scores: Floats) -> BoxArray:
    """The better ones, best first, one of those that lie within two pixels of another."""
    boxes = boxes[np.argsort(-scores, kind="stable")[: 4 * _MAX_CANDIDATES]]
    cells = np.rint(boxes / 2).astype(np.int64) @ (1, 1 << 15, 1 << 30, 1 << 45)
    _, first = np.unique(cells, return_index=True)
    distinct: BoxArray = boxes[np.sort(first)[:_MAX_CANDIDATES]]
    return distinct


def _non_max_suppression(boxes: BoxArray, scores: Floats) -> tuple[BoxArray, Floats]:
    """The best of those that overlap, best first, and no more than _KEPT."""
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    same = _iou_matrix(boxes) > _NMS_IOU
    kept: list[int] = []
    for row in range(len(boxes)):
        if len(kept) < _MAX_RECTANGLES and not same[row, kept].any():
            kept.append(row)
    return boxes[kept], scores[kept]


def _iou_matrix(boxes: BoxArray) -> Floats:
    """IoU of each with each, (n, n)."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    sides = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - low).clip(0)
    shared = sides[..., 0] * sides[..., 1]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    overlaps: Floats = shared / (area[:, None] + area - shared)
    return overlaps


def candidate_rectangles(
    corners: Sequence[Floats], side_limits: Interval, aspect: Interval
) -> BoxArray:
    """Every rectangle that two of the corners span, within the limits.

    Two corners on one side say where the side is; the aspect's middle says how far the other is.
    """
    top_left, top_right, bottom_left, bottom_right = corners
    found = [
        _all_pairs(top_left, bottom_right),
        _all_pairs(bottom_left, top_right)[:, [0, 3, 2, 1]],
    ]
    middle = math.sqrt(max(aspect[0], 0.1) * min(aspect[1], 10))
    for lefts, rights, down in ((top_left, top_right, 1), (bottom_left, bottom_right, -1)):
        x1, y1, x2, y2 = _all_pairs(lefts, rights).T
        far = y1 + down * (x2 - x1) / middle
        side = np.stack([x1, np.minimum(y1, far), x2, np.maximum(y1, far)], 1)
        found.append(side[np.abs(y2 - y1) <= 1])
    for tops, bottoms, right in ((top_left, bottom_left, 1), (top_right, bottom_right, -1)):
        x1, y1, x2, y2 = _all_pairs(tops, bottoms).T
        far = x1 + right * (y2 - y1) * middle
        side = np.stack([np.minimum(x1, far), y1, np.maximum(x1, far), y2], 1)
        found.append(side[np.abs(x2 - x1) <= 1])
    boxes = np.concatenate(found)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    fits = (np.minimum(width, height) >= side_limits[0]) & (
        np.maximum(width, height) <= side_limits[1]
    )
    return boxes[fits & (width >= aspect[0] * height) & (width <= aspect[1] * height)]


def _all_pairs(first: Floats, second: Floats) -> BoxArray:
    """Every one of the first with every one of the second; (n * m, 4)."""
    return np.hstack([np.repeat(first, len(second), 0), np.tile(second, (len(first), 1))])


def coarse_scores(widened: ContrastMap, boxes: BoxArray, outline: Outline) -> Floats:
    """How well each rectangle fits, from a few places on each arm that may be off by a pixel."""
    arms = _sample_sides(widened, boxes, _arm_positions(outline, 3))
    return _arm_score(widened, boxes, outline, arms, _stroke_threshold(arms))


def fine_scores(
    strokes: StrokeMaps, widened: ContrastMap, boxes: BoxArray, outline: Outline
) -> Floats:
    """How well each rectangle fits: arms straight, nothing beside them, all seen.

    Letters have strokes side by side, and what is small comes about by chance more often.
    """
    sharp, either = strokes.contrast_map(), strokes.any_direction()
    shifted = np.stack(
        [_sample_sides(sharp, boxes, _arm_positions(outline, 12), shift) for shift in (-1, 0, 1)]
    )
    straight = shifted.sum(3, dtype=int).argmax(0)[None, :, :, None]
    arms = np.take_along_axis(shifted, straight, 0)[0]
    least = _stroke_threshold(arms)
    sides = boxes[:, 2] - boxes[:, 0]
    apart = np.maximum(REACH_PX, 0.08 * sides)[:, None, None]
    inner = _sample_sides(either, boxes, np.linspace(0.12, 0.26, 6), apart)
    outer = _sample_sides(either, boxes, np.linspace(0.0, 0.26, 6), -apart)
    beside = 0.3 * _mean_or_zero(_stroke_share(inner, least)) + 0.3 * _mean_or_zero(
        _stroke_share(outer, least)
    )
    unseen = 0.35 * (arms < 0).mean((1, 2))
    chance = 0.2 * _MIN_SIDE / np.maximum(_MIN_SIDE, sides)
    plain = _arm_score(widened, boxes, outline, arms, least)
    fits: Floats = np.clip(plain - beside - unseen - chance, 0, 1)
    return fits


def _arm_positions(outline: Outline, count: int) -> Floats:
    """Shares of a side at which there must be a stroke."""
    return np.linspace(0.01, 0.95 * outline.arm_share[0], count)


def _arm_score(
    widened: ContrastMap, boxes: BoxArray, outline: Outline, arms: Contrasts, threshold: Floats
) -> Floats:
    """The arms that are there, less middles and continuations that should not be."""
    low, high = outline.arm_share
    places = arms.shape[2] // 2 + 1
    middle = np.linspace(high + 0.06, 0.5, places if high < 0.44 else 0)
    beyond = np.linspace(-low, -0.06, places)
    found = _sample_sides(widened, boxes, np.concatenate([middle, beyond]))
    between, continued = found[:, :, : len(middle)], found[:, :, len(middle) :]
    there = _stroke_share(arms, threshold)
    absent = 0.7 * _mean_or_zero(_stroke_share(between, threshold)) + 0.5 * _mean_or_zero(
        _stroke_share(continued, threshold)
    )
    return np.where(np.isfinite(there).sum(1) >= 3, _mean_or_zero(there) - absent, 0)


def _stroke_threshold(arms: Contrasts) -> Floats:
    """The contrast that counts as stroke, (n,): near enough to that of the rectangle's median."""
    rising = np.sort(arms.reshape(len(arms), arms.shape[1] * arms.shape[2]), 1)
    unseen = (rising < 0).sum(1)
    median = rising[np.arange(len(rising)), (unseen + rising.shape[1] - 1) // 2]
    least: Floats = np.maximum(MIN_CONTRAST, _MIN_RELATIVE_CONTRAST * median)
    return least


def _stroke_share(contrasts: Contrasts, threshold: Floats) -> Floats:
    """How much of each end's places is stroke, (n, 8); NaN where none is in the picture."""
    seen = (contrasts >= 0).sum(2)
    share = (contrasts > threshold[:, None, None]).sum(2) / np.maximum(seen, 1)
    return np.where(seen > 0, share, np.nan)


def _mean_or_zero(shares: Floats) -> Floats:
    """The mean of those that are known, (n, 8) -> (n,); 0 where none is."""
    known = np.isfinite(shares)
    mean: Floats = np.where(known, shares, 0).sum(1) / np.maximum(known.sum(1), 1)
    return mean


def _sample_sides(
    contrast_map: ContrastMap, boxes: BoxArray, shares: Floats, inward_px: Floats | int = 0
) -> Contrasts:
    """The contrast at shares of every side from each of its ends, (n, 8, places); -1 unseen.

    First the ends of the lying sides, top and bottom, then of the standing ones. `inward` pixels
    into the box.
    """
    forth = shares.astype(np.float32)
    back, none = 1 - forth, 0 * forth
    run = np.stack([forth, back, forth, back])
    stay = np.stack([none, none, none + 1, none + 1])
    signs = np.array([[1], [1], [-1], [-1]], np.float32)
    aside = inward_px * np.tile(signs, (len(boxes), 1, 1))
    x1, y1, x2, y2 = boxes.T[:, :, None, None]
    x = np.concatenate([x1 + run * (x2 - x1), x1 + stay * (x2 - x1) + aside], 1)
    y = np.concatenate([y1 + stay * (y2 - y1) + aside, y1 + run * (y2 - y1)], 1)
    return contrast_map.at(x, y)


def refine_edges(image: Picture, boxes: BoxArray, spec: ColourSpec, reach_px: int) -> BoxArray:
    """Every side that is seen moved to its strokes' outer edge, to a fraction of a pixel.

    The edge is where the mean of the strokes, going outwards, has fallen by half.
    """
    low = 0.9 * (spec.outline or Outline()).arm_share[0]
    shares = np.concatenate([np.linspace(0.03, low, 8), np.linspace(1 - low, 0.97, 8)])
    outwards = np.array([-1, -1, 1, 1])  # left, top, right, bottom
    outermost = np.where(outwards < 0, np.floor(boxes), np.ceil(boxes) - 1)
    steps = outwards[:, None, None] * np.arange(-reach_px, reach_px + 1)
    across = outermost[:, :, None, None] + steps
    first, last = boxes[:, [1, 0, 1, 0], None, None], boxes[:, [3, 2, 3, 2], None, None]
    along = first + shares[:, None] * (last - first)
    lies = np.array([False, True, False, True])[:, None, None]
    x, y = np.where(lies, along, across), np.where(lies, across, along)
    fall = _half_fall_step(_edge_profiles(image, x, y, spec).reshape(-1, 2 * reach_px + 1)).reshape(
        -1, 4
    )
    moved = outermost + outwards * (fall - reach_px) + 0.5
    return np.where(np.isfinite(moved), moved, boxes)


def _edge_profiles(image: Picture, x: Floats, y: Floats, spec: ColourSpec) -> Floats:
    """The mean strength over each side's strokes, (n, 4, steps); NaN where none is seen."""
    height, width = image.shape[:2]
    x, y = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    colours = image[y.clip(0, height - 1), x.clip(0, width - 1)]
    values = colour_strength(colours.reshape(1, -1, 3), spec.ranges).reshape(x.shape)
    count = seen.sum(2)
    return np.where(count > 0, (values * seen).sum(2) / np.maximum(count, 1), np.nan)


def _half_fall_step(profiles: Floats) -> Floats:
    """At which step, in fractions, each profile has fallen by half from its peak; NaN if never."""
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
    """The box of the strokes that are in the picture: where a corner is not, its arms may be."""
    x1, y1, x2, y2 = boxes.T
    arm = sum(outline.arm_share) / 2
    across, down = arm * (x2 - x1), arm * (y2 - y1)
    width, height = size_wh
    seen = [
        np.where(x1 + across <= 0, x2 - across, x1),
        np.where(y1 + down <= 0, y2 - down, y1),
        np.where(x2 - across >= width, x1 + across, x2),
        np.where(y2 - down >= height, y1 + down, y2),
    ]
    return np.stack(seen, 1).clip(0, [width, height, width, height])
