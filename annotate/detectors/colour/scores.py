"""Score rectangles by the contrast along their sides.

Stroke is expected on the arms, and none between the arms, beyond the corners or beside the sides.
"""

from __future__ import annotations

import numpy as np

from annotate.detectors.colour.candidates import BoxArray, count_corners_inside
from annotate.detectors.colour.ranges import Outline
from annotate.detectors.colour.strokes import (
    LONG_ARM_PX,
    MIN_CONTRAST,
    MIN_RELATIVE_CONTRAST,
    REACH_PX,
    ContrastMap,
    Contrasts,
    Floats,
    StrokeMaps,
)
from annotate.items.records import Mask

_CERTAIN_ARM_PX = 10  # downscaled pixels of an arm whose end is certain
_MIN_SIDE = 6  # downscaled pixels; smaller rectangles may be noise
_MIN_VISIBLE = 0.16  # share of the arms' positions that the image shows
# shares of a side, positions, and the distance from the side: inwards in multiples of the least
_BESIDE = (
    ((0.12, 0.26), 6, 1),
    ((0.0, 0.26), 6, -1),
    ((0.12, 0.35), 8, 2),
    ((-0.1, 0.35), 8, -2),
)


def coarse_scores(widened: ContrastMap, boxes: BoxArray, outline: Outline) -> Floats:
    """Score each rectangle from a few positions on each arm, which may be off by a pixel; (n,)."""
    arms = sample_sides(widened, boxes, arm_positions(outline, 3))
    return _arm_score(widened, boxes, outline, arms, stroke_threshold(arms))


def fine_scores(maps: tuple[StrokeMaps, ContrastMap], boxes: BoxArray, outline: Outline) -> Floats:
    """Score each rectangle closely, (n,) 0..1: straight arms, no strokes beside them, all visible.

    Strokes side by side are letters, and small rectangles come about by chance more often: both
    lower the score.
    """
    strokes, widened = maps
    positions = arm_positions(outline, 9)
    shifts = np.repeat([-1, 0, 1], len(positions))
    shifted = sample_sides(strokes.contrast_map(), boxes, np.tile(positions, 3), shifts)
    shifted = shifted.reshape(len(boxes), 8, 3, len(positions))
    best_shift = shifted.sum(3, dtype=int).argmax(2)
    arms = np.take_along_axis(shifted, best_shift[:, :, None, None], 2)[:, :, 0]
    threshold = stroke_threshold(arms)
    sides = boxes[:, 2] - boxes[:, 0]
    cut = count_corners_inside(boxes, (widened.height, widened.width))
    beside = 0.3 * _strokes_beside(strokes.any_direction(), boxes, cut <= 2, threshold)
    if (cut <= 2).any():
        certain = np.clip(outline.arm_share[0] * sides / _CERTAIN_ARM_PX, 0, 1) * (cut <= 2)
        beside += certain * _misplaced_ends(widened, boxes, outline, threshold)
        beside += np.where(cut < 2, 0.1, 0)
    outside = 0.2 * (arms < 0).mean((1, 2))
    chance = 0.2 * _MIN_SIDE / np.maximum(_MIN_SIDE, sides)
    base = _arm_score(widened, boxes, outline, arms, threshold)
    scores: Floats = np.clip(base - beside - outside - chance, 0, 1)
    return scores


def _strokes_beside(
    any_direction: ContrastMap, boxes: BoxArray, is_cut: Mask, threshold: Floats
) -> Floats:
    """Measure the strokes inside and outside the arms, and farther off where an edge cuts, (n,)."""
    distance = np.maximum(REACH_PX, 0.08 * (boxes[:, 2] - boxes[:, 0]))[:, None, None]
    shares = [np.linspace(*ends, count) for ends, count, _ in _BESIDE]
    times = np.concatenate([np.full(count, far) for _, count, far in _BESIDE])
    samples = sample_sides(any_direction, boxes, np.concatenate(shares), times * distance)
    parts = np.split(samples, np.cumsum([count for _, count, _ in _BESIDE])[:-1], axis=2)
    inner, outer, inner_ring, outer_ring = (_stroke_share(part, threshold) for part in parts)
    beside: Floats = inner + outer + is_cut * (inner_ring + outer_ring)
    return beside


def _misplaced_ends(
    widened: ContrastMap, boxes: BoxArray, outline: Outline, threshold: Floats
) -> Floats:
    """Measure how far the ends of the arms are from where the size puts them, (n,) 0..1."""
    end = sum(outline.arm_share) / 2
    shares = np.concatenate([np.linspace(0.8, 0.94, 3), np.linspace(1.1, 1.4, 4)]) * end
    samples = sample_sides(widened, boxes, shares)
    inside, beyond = (
        _stroke_share(each, threshold) for each in (samples[:, :, :3], samples[:, :, 3:])
    )
    misplaced: Floats = 0.4 * (1 - inside) + 0.4 * beyond
    return misplaced


def arm_positions(outline: Outline, count: int) -> Floats:
    """Return the shares of a side at which a stroke is expected, (count,)."""
    return np.linspace(0.01, 0.95 * outline.arm_share[0], count)


def _arm_score(
    widened: ContrastMap, boxes: BoxArray, outline: Outline, arms: Contrasts, threshold: Floats
) -> Floats:
    """Score the arms, (n,), minus the strokes in the middle of a side or beyond a corner."""
    low, high = outline.arm_share
    count = arms.shape[2] // 2 + 1
    is_long = len(boxes) and low * (boxes[0, 2] - boxes[0, 0]) >= LONG_ARM_PX
    gap_margin = 0.01 if is_long else 0.06
    middle = np.linspace(high + gap_margin, 0.5, count if high < 0.44 else 0)
    beyond = np.linspace(-low, -0.06, count)
    gaps = sample_sides(widened, boxes, np.concatenate([middle, beyond]))
    between, continued = gaps[:, :, : len(middle)], gaps[:, :, len(middle) :]
    unwanted = 0.7 * _stroke_share(between, threshold) + 0.5 * _stroke_share(continued, threshold)
    enough = (arms >= 0).mean((1, 2)) >= _MIN_VISIBLE
    return np.where(enough, _stroke_share(arms, threshold) - unwanted, 0)


def stroke_threshold(arms: Contrasts) -> Floats:
    """Compute the contrast that counts as a stroke, (n,), from each rectangle's median contrast."""
    ascending = np.sort(arms.reshape(len(arms), arms.shape[1] * arms.shape[2]), 1)
    outside = (ascending < 0).sum(1)
    median = ascending[np.arange(len(ascending)), (outside + ascending.shape[1] - 1) // 2]
    threshold: Floats = np.maximum(MIN_CONTRAST, MIN_RELATIVE_CONTRAST * median)
    return threshold


def _stroke_share(contrasts: Contrasts, threshold: Floats) -> Floats:
    """Compute the share of the visible positions that have a stroke, (n,); 0 without any."""
    visible = np.count_nonzero(contrasts >= 0, (1, 2))
    share: Floats = np.count_nonzero(contrasts > threshold[:, None, None], (1, 2)) / np.maximum(
        visible, 1
    )
    return share


def sample_sides(
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
