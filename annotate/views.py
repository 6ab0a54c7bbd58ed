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


@dataclass(frozen=True)
class Effort:
    """What is spent on a frame: crop side in pixels, random features, frames between updates."""

    size: int
    hidden: int
    every: int
    sparse: int  # one pixel of so many is learnt from
    motion: int  # cv2's DIS preset

    @property
    def grid(self) -> int:
        """Side of the grid of features."""
        return self.size // 4


THOROUGH = Effort(256, 256, 1, 3, 1)
QUICK = Effort(192, 64, 3, 3, 0)


def views(picture: Picture, mask: Mask, effort: Effort) -> Iterator[tuple[Picture, Map, Map]]:
    """Crops round `mask`, (H, W), how much of each grid cell is inside, and whether it counts."""
    window, size_wh = about(mask), (picture.shape[1], picture.shape[0])
    for zoom, mirrored, shift, brighter in VIEWS:
        view = Window(window.x + shift * window.side / CONTEXT, window.y, window.side * zoom)
        crop = view.cut(picture, effort.size)
        inside = view.cut(mask.astype(np.float32), effort.grid, outside=False)
        weight = view.inside(size_wh, effort.grid).astype(np.float32)
        tones = 255 * (np.arange(256) / 255) ** (2.0**brighter)
        crop = cv2.LUT(crop, np.round(tones).astype(np.uint8))
        if mirrored:
            crop, inside, weight = (
                np.ascontiguousarray(a[:, ::-1]) for a in (crop, inside, weight)
            )
        yield crop, inside, weight
