"""Rectangles drawn in thin strokes, corner brackets or whole frames: find them, tell how well they fit.

Where two strokes end in one another is a corner; two corners or more make a rectangle; what lies
along its sides says how much it is one: stroke on the arms, none between them, beyond or beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from annotate.colours import Interval, Look, Outline, inside_map, strength
from annotate.records import Picture
from annotate.strokes import PLAIN, REACH, Floats, Map, Strokes, find_corners, shrunk

Boxes = npt.NDArray[np.float64]  # (n, 4) xyxy
Contrasts = npt.NDArray[np.int16]

_TRIED = 120  # rectangles looked at closely
_KEPT = 12  # rectangles given back
_SAME = 0.3  # IoU beyond which two are one
_FAINTEST = 0.4  # a stroke's contrast, as a share of the rectangle's typical stroke


def find_outlines(image: Picture, look: Look) -> tuple[Boxes, Floats]:
    """The rectangles' boxes, outside the picture too, and the fits, (n,) 0..1; best first."""
    outline = look.outline or Outline()
    small, factor = shrunk(image)
    strokes = Strokes.of(strength(small, look.ranges), inside_map(small, look.ranges))
    size = look.size[0] / factor - 1, look.size[1] / factor
    boxes = rectangles(find_corners(strokes), size, look.aspect)
    boxes = _distinct(boxes, rough_fits(strokes, boxes, outline))
    boxes, fits = _best(boxes, close_fits(strokes, boxes, outline))
    boxes = boxes * factor + [0, 0, factor, factor]  # from a stroke's first pixel past its last
    return refined(image, boxes, look, 2 * factor + 2), fits


def _distinct(boxes: Boxes, fits: Floats) -> Boxes:
    """The better ones, best first, one of those that lie within two pixels of another."""
    boxes = boxes[np.argsort(-fits, kind="stable")[: 5 * _TRIED]]
    _, first = np.unique(np.rint(boxes / 2), axis=0, return_index=True)
    return boxes[np.sort(first)][:_TRIED]


def _best(boxes: Boxes, fits: Floats) -> tuple[Boxes, Floats]:
    """One of those that overlap by half of either, best first, and no more than _KEPT."""
    order = np.argsort(-fits, kind="stable")
    boxes, fits = boxes[order], fits[order]
    kept: list[int] = []
    for row, box in enumerate(boxes):
        if len(kept) < _KEPT and not (_overlaps(box, boxes[kept]) > _SAME).any():
            kept.append(row)
    return boxes[kept], fits[kept]


def _overlaps(box: Boxes, others: Boxes) -> Boxes:
    """IoU of a box with each of the others, (n,)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared)


def rectangles(corners: Sequence[Floats], size: Interval, aspect: Interval) -> Boxes:
    """Every rectangle that two of the corners span, within the limits.

    Two corners on one side say where the side is; the aspect's middle says how far the other is.
    """
    top_left, top_right, bottom_left, bottom_right = corners
    found = [_pairs(top_left, bottom_right), _pairs(bottom_left, top_right)[:, [0, 3, 2, 1]]]
    middle = np.sqrt(max(aspect[0], 0.1) * min(aspect[1], 10))
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


def rough_fits(strokes: Strokes, boxes: Boxes, outline: Outline) -> Floats:
    """How well each rectangle fits, from a few places on each arm that may be off by a pixel."""
    wide = strokes.widened()
    return _Fit(wide, boxes, outline, _along(wide, boxes, _on(outline, 3))).plain()


def close_fits(strokes: Strokes, boxes: Boxes, outline: Outline) -> Floats:
    """How well each rectangle fits: every arm straight, and nothing beside it."""
    shifted = np.stack([_along(strokes, boxes, _on(outline, 12), shift) for shift in (-1, 0, 1)])
    best = shifted.sum(3).argmax(0)[None, :, :, None]
    arms = np.take_along_axis(shifted, best, 0)[0]
    return _Fit(strokes.widened(), boxes, outline, arms).strict()


def _on(outline: Outline, places: int) -> Floats:
    """Shares of a side at which there must be a stroke."""
    return np.linspace(0.01, 0.95 * outline.arms[0], places, dtype=np.float32)


@dataclass(frozen=True)
class _Fit:
    """What each rectangle has on its arms, `arms` (n, 8, places), against what it has elsewhere."""

    strokes: Strokes
    boxes: Boxes
    outline: Outline
    arms: Contrasts

    def plain(self) -> Floats:
        """Arms that are there, less middles and continuations that should not be."""
        arms = self._share(self.arms)
        low, high = self.outline.arms
        places = self.arms.shape[2] // 2 + 1
        middle = np.linspace(high + 0.06, 0.5, places if high < 0.44 else 0, dtype=np.float32)
        beyond = np.linspace(-low, -0.06, places, dtype=np.float32)
        others = [_along(self.strokes, self.boxes, shares) for shares in (middle, beyond)]
        fits = _mean(arms) - sum(0.5 * _mean(self._share(other)) for other in others)
        return np.where(np.isfinite(arms).sum(1) >= 3, fits, 0)

    def strict(self) -> Floats:
        """The same, less strokes beside the arms (letters have them), less what is not seen."""
        side = self.boxes[:, 2] - self.boxes[:, 0]
        apart = np.maximum(REACH, 0.08 * side)[:, None]
        either = Strokes(self.strokes.either, self.strokes.either, self.strokes.either)
        inner = _along(either, self.boxes, np.linspace(0.12, 0.26, 6, dtype=np.float32), apart)
        outer = _along(either, self.boxes, np.linspace(0.0, 0.26, 6, dtype=np.float32), -apart)
        hidden = (self.arms < 0).mean((1, 2))
        beside = 0.3 * _mean(self._share(inner)) + 0.3 * _mean(self._share(outer))
        return (self.plain() - beside - 0.2 * hidden).clip(0, 1).astype(np.float32)

    def _share(self, contrasts: Contrasts) -> Floats:
        """How much of each arm's places is stroke, (n, 8); NaN where none is in the picture."""
        every = -np.sort(-self.arms.reshape(len(self.arms), -1), 1)
        seen = (every >= 0).sum(1)
        typical = every[np.arange(len(every)), seen // 2]
        least = np.maximum(PLAIN, _FAINTEST * typical)[:, None, None]
        seen = (contrasts >= 0).sum(2)
        share = (contrasts > least).sum(2) / np.maximum(seen, 1)
        return np.where(seen > 0, share, np.nan).astype(np.float32)


def _mean(shares: Floats) -> Floats:
    """The mean of those that are known, (n, 8) -> (n,); 0 where none is."""
    known = np.isfinite(shares)
    return np.where(known, shares, 0).sum(1) / np.maximum(known.sum(1), 1)


def _along(strokes: Strokes, boxes: Boxes, shares: Floats, inward: Floats | int = 0) -> Contrasts:
    """The contrast at shares of every side from each of its ends, (n, 8, places); -1 outside.

    First the lying sides, top and bottom, then the standing ones. `inward` pixels into the box.
    """
    x1, y1, x2, y2 = boxes.T[:, :, None]
    x, y = shares * (x2 - x1), shares * (y2 - y1)
    ends = [
        (y1 + inward, x1 + x),
        (y1 + inward, x2 - x),
        (y2 - inward, x1 + x),
        (y2 - inward, x2 - x),
    ]
    found = [_at(strokes.lying, along, across) for across, along in ends]
    ends = [
        (x1 + inward, y1 + y),
        (x1 + inward, y2 - y),
        (x2 - inward, y1 + y),
        (x2 - inward, y2 - y),
    ]
    found += [_at(strokes.standing, across, along) for across, along in ends]
    return np.stack(found, 1)


def _at(contrast: Map, x: Floats, y: Floats) -> Contrasts:
    """The contrast at x, y; -1 outside the picture and on its very edge, where it is not known."""
    height, width = contrast.shape
    column, row = np.rint(x).astype(np.int32), np.rint(y).astype(np.int32)
    known = (column > 0) & (column < width - 1) & ((row > 0) & (row < height - 1))
    values = contrast.ravel().take(row * width + column, mode="clip")
    return np.where(known, values, np.int16(-1))


def refined(image: Picture, boxes: Boxes, look: Look, reach: int) -> Boxes:
    """Every side that is seen moved to its strokes' outer edge, to a fraction of a pixel.

    The edge is where the mean of the strokes, going outwards, has fallen by half.
    """
    low = 0.9 * (look.outline or Outline()).arms[0]
    shares = np.concatenate([np.linspace(0.03, low, 12), np.linspace(1 - low, 0.97, 12)])
    steps = np.arange(-reach, reach + 1)
    moved = boxes.copy()
    for side, outwards in enumerate((-1, -1, 1, 1)):  # left, top, right, bottom
        outermost = np.floor(boxes[:, side]) if outwards < 0 else np.ceil(boxes[:, side]) - 1
        across = outermost[:, None, None] + outwards * steps
        first, last = boxes[:, [1 - side % 2, 3 - side % 2]].T[:, :, None, None]
        along = first + shares[:, None] * (last - first)
        columns_rows = (along, across) if side % 2 else (across, along)
        fall = _fall(_profiles(image, *columns_rows, look))
        moved[:, side] = np.where(
            np.isfinite(fall), outermost + outwards * (fall - reach) + 0.5, boxes[:, side]
        )
    return moved


def _profiles(image: Picture, x: Boxes, y: Boxes, look: Look) -> Boxes:
    """The mean strength over each rectangle's strokes, (n, steps); NaN where none is seen."""
    height, width = image.shape[:2]
    x, y = np.broadcast_arrays(np.floor(x).astype(np.intp), np.floor(y).astype(np.intp))
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    colours = image[y.clip(0, height - 1), x.clip(0, width - 1)]
    values = strength(colours.reshape(1, -1, 3), look.ranges).reshape(x.shape)
    count = seen.sum(1)
    return np.where(count > 0, (values * seen).sum(1) / np.maximum(count, 1), np.nan)


def _fall(profiles: Boxes) -> Boxes:
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
