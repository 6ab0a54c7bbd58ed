"""How a prompted frame is shown to a classifier: in several versions, and how finely."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from annotate.place import CONTEXT, about
from annotate.records import Mask, Picture
from annotate.windows import Map, Window

# How a prompted frame is shown to the classifier: zoom out, mirror, shift, brighten. What it learns
# then survives a turn, a zoom and a muzzle flash, and it sees more of what is round the object.
VIEWS = (
    (1.0, False, 0.0, 0.0),
    (1.0, True, 0.1, 0.4),
    (1.0, False, -0.1, -0.4),
    (1.25, False, 0.0, 0.0),
    (1.6, True, 0.0, 0.0),
)


ELSEWHERE = 12  # crops of the rest of a prompted picture


@dataclass(frozen=True)
class Effort:
    """What is spent: crop side in pixels, random features, frames between updates, and doubts.

    With `redraws` every mask is drawn again, finer.
    """

    size: int
    hidden: int
    every: int
    sparse: int  # one pixel of so many is learnt from
    motion: int  # cv2's DIS preset
    redraws: bool

    @property
    def grid(self) -> int:
        """Side of the grid of features."""
        return self.size // 4


THOROUGH = Effort(256, 256, 1, 3, 1, redraws=True)
QUICK = Effort(192, 64, 3, 3, 0, redraws=False)


def views(picture: Picture, soft: Map, effort: Effort) -> Iterator[tuple[Picture, Map, Map]]:
    """Crops round what is inside `soft`, (H, W) in 0..1; what of each grid cell is, and its weight.

    Where `soft` is not sure, there is little weight.
    """
    hard, size_wh = (soft > 0.5).astype(np.float32), (picture.shape[1], picture.shape[0])
    window = about(soft > 0.5)
    for zoom, mirrored, shift, brighter in VIEWS:
        view = Window(window.x + shift * window.side / CONTEXT, window.y, window.side * zoom)
        crop = view.cut(picture, effort.size)
        inside = view.cut(hard, effort.grid, outside=False)
        sure = np.abs(2 * view.cut(soft, effort.grid, outside=False) - 1)
        sure = np.where(np.abs(2 * inside - 1) > 0.9, sure, 1)  # an edge is no doubt
        weight = (view.inside(size_wh, effort.grid) * sure).astype(np.float32)
        tones = 255 * (np.arange(256) / 255) ** (2.0**brighter)
        crop = cv2.LUT(crop, np.round(tones).astype(np.uint8))
        if mirrored:
            crop, inside, weight = (
                np.ascontiguousarray(a[:, ::-1]) for a in (crop, inside, weight)
            )
        yield crop, inside, weight


def elsewhere(picture: Picture, mask: Mask, effort: Effort) -> Iterator[tuple[Picture, Map]]:
    """Crops of the rest of the picture, as large as that round `mask`; which cells are outside."""
    window, (high, wide) = about(mask), picture.shape[:2]
    across, down = max(1, round(wide / window.side)), max(1, round(high / window.side))
    middles = [
        ((column + 0.5) * wide / across, (row + 0.5) * high / down)
        for row in range(down)
        for column in range(across)
    ]
    reach = 0.6 * window.side
    apart = [m for m in middles if max(abs(m[0] - window.x), abs(m[1] - window.y)) > reach]
    for k in np.random.default_rng(0).permutation(len(apart))[:ELSEWHERE]:
        view = Window(apart[k][0], apart[k][1], window.side)
        inside = view.cut(mask.astype(np.float32), effort.grid, outside=False)
        outside = (inside < 0.02) & view.inside((wide, high), effort.grid)
        if outside.any():
            yield view.cut(picture, effort.size), outside.astype(np.float32)
