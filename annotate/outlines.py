"""Rectangles drawn in thin strokes, brackets or whole frames: which there are, how well they fit.

Where two strokes end in one another is a corner; two corners or more make a rectangle; what lies
along its sides says how much it is one: stroke on the arms, none between them, beyond or beside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from annotate.colours import Interval, Look, Outline, strength
from annotate.records import Picture
from annotate.strokes import (
    PLAIN,
    REACH,
    Contrasts,
    Floats,
    Lookup,
    Strokes,
    find_corners,
    shrunk,
)

Boxes = Floats  # (n, 4) xyxy

_TRIED = 50  # rectangles looked at closely
_KEPT = 8  # rectangles given back
_SAME = 0.3  # IoU beyond which two are one
_LEAST_SIDE = 6  # shrunk pixels of the smallest rectangle that can be told
_FAINTEST = 0.4  # a stroke's contrast, as a share of the rectangle's typical stroke


def find_outlines(image: Picture, look: Look, least: float = 0) -> tuple[Boxes, Floats]:
    """The rectangles' boxes, outside the picture too, and the fits, (n,) 0..1; best first."""
    outline = look.outline or Outline()
    small, factor = shrunk(image)
    strokes = Strokes.of(small, look.ranges)
    wide = strokes.widened()
    size = look.size[0] / factor - 1, look.size[1] / factor
    boxes = rectangles(find_corners(strokes), size, look.aspect)
    boxes = boxes[_corners_in(boxes, small.shape) >= outline.corners]
    boxes = _distinct(boxes, rough_fits(wide, boxes, outline))
    fits = close_fits(strokes, wide, boxes, outline)
    boxes, fits = _best(boxes[fits >= least], fits[fits >= least])
    if not len(boxes):
        return boxes, fits
    boxes = boxes * factor + [0, 0, factor, factor]  # from a stroke's first pixel past its last
    return refined(image, boxes, look, 2 * factor + 2), fits


def _corners_in(boxes: Boxes, shape: tuple[int, ...]) -> Floats:
    """How many corners of each rectangle are in the picture."""
    height, width = shape[:2]
    columns = (boxes[:, [0, 2]] >= 0) & (boxes[:, [0, 2]] < width)
    rows = (boxes[:, [1, 3]] >= 0) & (boxes[:, [1, 3]] < height)
    corners: Floats = columns.sum(1) * rows.sum(1, dtype=float)
    return corners


def _distinct(boxes: Boxes, fits: Floats) -> Boxes:
    """The better ones, best first, one of those that lie within two pixels of another."""
    boxes = boxes[np.argsort(-fits, kind="stable")[: 4 * _TRIED]]
    cells = np.rint(boxes / 2).astype(np.int64) @ (1, 1 << 15, 1 << 30, 1 << 45)
    _, first = np.unique(cells, return_index=True)
    distinct: Boxes = boxes[np.sort(first)[:_TRIED]]
    return distinct


def _best(boxes: Boxes, fits: Floats) -> tuple[Boxes, Floats]:
    """The best of those that overlap, best first, and no more than _KEPT."""
    order = np.argsort(-fits, kind="stable")
    boxes, fits = boxes[order], fits[order]
    same = _overlaps(boxes) > _SAME
    kept: list[int] = []
    for row in range(len(boxes)):
        if len(kept) < _KEPT and not same[row, kept].any():
            kept.append(row)
    return boxes[kept], fits[kept]


def _overlaps(boxes: Boxes) -> Floats:
    """IoU of each with each, (n, n)."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    sides = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - low).clip(0)
    shared = sides[..., 0] * sides[..., 1]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    overlaps: Floats = shared / (area[:, None] + area - shared)
    return overlaps


def rectangles(corners: Sequence[Floats], size: Interval, aspect: Interval) -> Boxes:
    """Every rectangle that two of the corners span, within the limits.

    Two corners on one side say where the side is; the aspect's middle says how far the other is.
    """
    top_left, top_right, bottom_left, bottom_right = corners
    found = [_pairs(top_left, bottom_right), _pairs(bottom_left, top_right)[:, [0, 3, 2, 1]]]
    middle = math.sqrt(max(aspect[0], 0.1) * min(aspect[1], 10))
    for lefts, rights, down in ((top_left, top_right, 1), (bottom_left, bottom_right, -1)):
        x1, y1, x2, y2 = _pairs(lefts, rights).T
        far = y1 + down * (x2 - x1) / middle
        side = np.stack([x1, np.minimum(y1, far), x2, np.maximum(y1, far)], 1)
        found.append(side[np.abs(y2 - y1) <= 1])
    for tops, bottoms, right in ((top_left, bottom_left, 1), (top_right, bottom_right, -1)):
        x1, y1, x2, y2 = _pairs(tops, bottoms).T
        far = x1 + right * (y2 - y1) * middle
        side = np.stack([np.minimum(x1, far), y1, np.maximum(x1, far), y2], 1)
        found.append(side[np.abs(x2 - x1) <= 1])
    boxes = np.concatenate(found)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    fits = (np.minimum(width, height) >= size[0]) & (np.maximum(width, height) <= size[1])
    return boxes[fits & (width >= aspect[0] * height) & (width <= aspect[1] * height)]


def _pairs(first: Floats, second: Floats) -> Boxes:
    """Every one of the first with every one of the second; (n * m, 4)."""
    return np.hstack([np.repeat(first, len(second), 0), np.tile(second, (len(first), 1))])


def rough_fits(wide: Lookup, boxes: Boxes, outline: Outline) -> Floats:
    """How well each rectangle fits, from a few places on each arm that may be off by a pixel."""
    arms = _along(wide, boxes, _on(outline, 3))
    return _plain(wide, boxes, outline, arms, _least(arms))


def close_fits(strokes: Strokes, wide: Lookup, boxes: Boxes, outline: Outline) -> Floats:
    """How well each rectangle fits: arms straight, nothing beside them, all seen.

    Letters have strokes side by side, and what is small comes about by chance more often.
    """
    sharp, either = strokes.lookup(), strokes.either()
    shifted = np.stack([_along(sharp, boxes, _on(outline, 12), shift) for shift in (-1, 0, 1)])
    straight = shifted.sum(3, dtype=int).argmax(0)[None, :, :, None]
    arms = np.take_along_axis(shifted, straight, 0)[0]
    least = _least(arms)
    sides = boxes[:, 2] - boxes[:, 0]
    apart = np.maximum(REACH, 0.08 * sides)[:, None, None]
    inner = _along(either, boxes, np.linspace(0.12, 0.26, 6), apart)
    outer = _along(either, boxes, np.linspace(0.0, 0.26, 6), -apart)
    beside = 0.3 * _mean(_share(inner, least)) + 0.3 * _mean(_share(outer, least))
    unseen = 0.35 * (arms < 0).mean((1, 2))
    chance = 0.2 * _LEAST_SIDE / np.maximum(_LEAST_SIDE, sides)
    plain = _plain(wide, boxes, outline, arms, least)
    fits: Floats = np.clip(plain - beside - unseen - chance, 0, 1)
    return fits


def _on(outline: Outline, places: int) -> Floats:
    """Shares of a side at which there must be a stroke."""
    return np.linspace(0.01, 0.95 * outline.arms[0], places)


def _plain(wide: Lookup, boxes: Boxes, outline: Outline, arms: Contrasts, least: Floats) -> Floats:
    """The arms that are there, less middles and continuations that should not be."""
    low, high = outline.arms
    places = arms.shape[2] // 2 + 1
    middle = np.linspace(high + 0.06, 0.5, places if high < 0.44 else 0)
    beyond = np.linspace(-low, -0.06, places)
    found = _along(wide, boxes, np.concatenate([middle, beyond]))
    between, continued = found[:, :, : len(middle)], found[:, :, len(middle) :]
    there = _share(arms, least)
    absent = 0.7 * _mean(_share(between, least)) + 0.5 * _mean(_share(continued, least))
    return np.where(np.isfinite(there).sum(1) >= 3, _mean(there) - absent, 0)


def _least(arms: Contrasts) -> Floats:
    """The contrast that counts as stroke, (n,): near enough to that of the rectangle's median."""
    rising = np.sort(arms.reshape(len(arms), arms.shape[1] * arms.shape[2]), 1)
    unseen = (rising < 0).sum(1)
    median = rising[np.arange(len(rising)), (unseen + rising.shape[1] - 1) // 2]
    least: Floats = np.maximum(PLAIN, _FAINTEST * median)
    return least


def _share(contrasts: Contrasts, least: Floats) -> Floats:
    """How much of each end's places is stroke, (n, 8); NaN where none is in the picture."""
    seen = (contrasts >= 0).sum(2)
    share = (contrasts > least[:, None, None]).sum(2) / np.maximum(seen, 1)
    return np.where(seen > 0, share, np.nan)


def _mean(shares: Floats) -> Floats:
    """The mean of those that are known, (n, 8) -> (n,); 0 where none is."""
    known = np.isfinite(shares)
    mean: Floats = np.where(known, shares, 0).sum(1) / np.maximum(known.sum(1), 1)
    return mean


def _along(lookup: Lookup, boxes: Boxes, shares: Floats, inward: Floats | int = 0) -> Contrasts:
    """The contrast at shares of every side from each of its ends, (n, 8, places); -1 unseen.

    First the ends of the lying sides, top and bottom, then of the standing ones. `inward` pixels
    into the box.
    """
    forth = shares.astype(np.float32)
    back, none = 1 - forth, 0 * forth
    run = np.stack([forth, back, forth, back])
    stay = np.stack([none, none, none + 1, none + 1])
    signs = np.array([[1], [1], [-1], [-1]], np.float32)
    aside = inward * np.tile(signs, (len(boxes), 1, 1))
    x1, y1, x2, y2 = boxes.T[:, :, None, None]
    x = np.concatenate([x1 + run * (x2 - x1), x1 + stay * (x2 - x1) + aside], 1)
    y = np.concatenate([y1 + stay * (y2 - y1) + aside, y1 + run * (y2 - y1)], 1)
    return lookup.at(x, y)


def refined(image: Picture, boxes: Boxes, look: Look, reach: int) -> Boxes:
    """Every side that is seen moved to its strokes' outer edge, to a fraction of a pixel.

    The edge is where the mean of the strokes, going outwards, has fallen by half.
    """
    low = 0.9 * (look.outline or Outline()).arms[0]
    shares = np.concatenate([np.linspace(0.03, low, 8), np.linspace(1 - low, 0.97, 8)])
    outwards = np.array([-1, -1, 1, 1])  # left, top, right, bottom
    outermost = np.where(outwards < 0, np.floor(boxes), np.ceil(boxes) - 1)
    steps = outwards[:, None, None] * np.arange(-reach, reach + 1)
    across = outermost[:, :, None, None] + steps
    first, last = boxes[:, [1, 0, 1, 0], None, None], boxes[:, [3, 2, 3, 2], None, None]
    along = first + shares[:, None] * (last - first)
    lies = np.array([False, True, False, True])[:, None, None]
    x, y = np.where(lies, along, across), np.where(lies, across, along)
    fall = _fall(_profiles(image, x, y, look).reshape(-1, 2 * reach + 1)).reshape(-1, 4)
    moved = outermost + outwards * (fall - reach) + 0.5
    return np.where(np.isfinite(moved), moved, boxes)


def _profiles(image: Picture, x: Floats, y: Floats, look: Look) -> Floats:
    """The mean strength over each side's strokes, (n, 4, steps); NaN where none is seen."""
    height, width = image.shape[:2]
    x, y = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    colours = image[y.clip(0, height - 1), x.clip(0, width - 1)]
    values = strength(colours.reshape(1, -1, 3), look.ranges).reshape(x.shape)
    count = seen.sum(2)
    return np.where(count > 0, (values * seen).sum(2) / np.maximum(count, 1), np.nan)


def _fall(profiles: Floats) -> Floats:
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
    return np.where((first > 0) & (profiles[row, peak] - floor >= PLAIN), fall, np.nan)


def trimmed(boxes: Boxes, size_wh: tuple[int, int], outline: Outline) -> Boxes:
    """The box of the strokes that are in the picture: where a corner is not, its arms may be."""
    x1, y1, x2, y2 = boxes.T
    arm = sum(outline.arms) / 2
    across, down = arm * (x2 - x1), arm * (y2 - y1)
    width, height = size_wh
    seen = [
        np.where(x1 + across <= 0, x2 - across, x1),
        np.where(y1 + down <= 0, y2 - down, y1),
        np.where(x2 - across >= width, x1 + across, x2),
        np.where(y2 - down >= height, y1 + down, y2),
    ]
    return np.stack(seen, 1).clip(0, [width, height, width, height])
