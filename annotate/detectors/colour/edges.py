"""Find the exact edges of a rectangle, and the part of it that the image shows."""

from __future__ import annotations

import numpy as np

from annotate.detectors.colour.candidates import BoxArray
from annotate.detectors.colour.ranges import ColourSpec, Outline, colour_strength
from annotate.detectors.colour.scores import arm_positions, sample_sides, stroke_threshold
from annotate.detectors.colour.strokes import MIN_CONTRAST, ContrastMap, Floats
from annotate.items.records import Picture

_SIZE_UNCERTAINTY = 0.06  # of a side


def far_arms_at_edges(widened: ContrastMap, boxes: BoxArray, outline: Outline) -> Floats:
    """Find where the arms beyond the open middle of a side are visible at the image's edge.

    (n, 4): left, top, right, bottom; True where a rectangle that the edge cuts has strokes there.
    The size of the rectangle says so, or, where that leaves it open, the pixels at the edge.
    """
    width, height = widened.width, widened.height
    x1, y1, x2, y2 = boxes.T[:, :, None]
    edge = np.arange(2)
    left, right = np.broadcast_arrays(edge, width - 1 - edge + 0 * x1)
    top, bottom = np.broadcast_arrays(edge, height - 1 - edge + 0 * x1)
    x = np.stack([left, right, left, right, *np.broadcast_arrays(x1, x1, x2, x2 + 0 * edge)], 1)
    y = np.stack([*np.broadcast_arrays(y1, y1, y2, y2 + 0 * edge), top, bottom, top, bottom], 1)
    contrasts = widened.at(x, y)
    threshold = stroke_threshold(sample_sides(widened, boxes, arm_positions(outline, 6)))
    there = np.any(contrasts > threshold[:, None, None], axis=2)
    seen = np.any(contrasts >= 0, axis=2)
    # the order of `seen` and `there` by edge: left, top, right, bottom, two sides each
    order = np.array([[0, 2], [4, 6], [1, 3], [5, 7]])
    evident = there[:, order].sum(2) * 2 > seen[:, order].sum(2) * 0.99
    arm = sum(outline.arm_share) / 2 * (boxes[:, 2:] - boxes[:, :2])
    margin = _SIZE_UNCERTAINTY * (boxes[:, 2:] - boxes[:, :2])
    into = np.hstack([boxes[:, :2] + arm, [width, height] - (boxes[:, 2:] - arm)])  # pixels
    doubt = np.tile(margin, 2)
    visible: Floats = (into > doubt) | (evident & (into > -doubt))
    return visible


def trim_to_visible(
    boxes: BoxArray, size_wh: tuple[int, int], outline: Outline, far_arms: Floats
) -> BoxArray:
    """Shrink boxes to the strokes inside the image: an arm may be visible without its corner.

    `far_arms` are those of `far_arms_at_edges`.
    """
    x1, y1, x2, y2 = boxes.T
    arm = sum(outline.arm_share) / 2
    across, down = arm * (x2 - x1), arm * (y2 - y1)
    width, height = size_wh
    left, top, right, bottom = far_arms.T.astype(bool)
    trimmed = [
        np.where((x1 < 0) & ~left, x2 - across, x1),
        np.where((y1 < 0) & ~top, y2 - down, y1),
        np.where((x2 > width) & ~right, x1 + across, x2),
        np.where((y2 > height) & ~bottom, y1 + down, y2),
    ]
    return np.stack(trimmed, 1).clip(0, [width, height, width, height])


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
