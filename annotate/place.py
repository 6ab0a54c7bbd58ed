"""Where an object is, how it usually looks, and the window to look for it in."""

from dataclasses import dataclass

import numpy as np

from annotate.records import Mask, Picture
from annotate.windows import Map, Window

CONTEXT = 1.6  # side of the window, in sides of the object's box
SMALLEST = 24.0  # side of the smallest window, in pixels


@dataclass
class Place:
    """Where an object is and how it usually looks, in pixels of the picture; all floats.

    `fit` is the mean score inside, `likeness` the same by what a person showed only;
    `kinship` is the cosine of its mean features to those of what a person showed.
    `soft_x`, `soft_y` and `soft_side` are the window of the soft mask that is remembered.
    """

    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    area: float = 0
    fit: float = 0
    likeness: float = 0
    kinship: float = 0
    started: float = 0
    lost: float = 0
    age: float = 0
    soft_x: float = 0
    soft_y: float = 0
    soft_side: float = 1

    @property
    def window(self) -> Window:
        """The window to look at."""
        return Window(self.x, self.y, side(self.width, self.height))

    @property
    def soft_window(self) -> Window:
        """The window of the soft mask."""
        return Window(self.soft_x, self.soft_y, self.soft_side)


@dataclass
class Guess:
    """Where an object seems to be, in its window: soft mask, and what the classifier saw."""

    crop: Picture
    window: Window
    soft: Map  # (size, size), 0..1
    score: Map  # (grid, grid)
    sure: Map  # (grid, grid): the score by what a person showed
    expanded: Map
    inside: Mask  # (grid, grid): on the picture
    # (size / 2, size / 2): where the flow takes the mask before; None when it was searched for
    prior: Map | None


def towards(value: float, usual: float, least: float, most: float) -> float:
    """`value`, or as near as a frame may take it from what is usual."""
    return float(min(max(value, least * usual), most * usual))


def box(mask: Mask) -> tuple[int, int, int, int]:
    """xyxy, x2 and y2 exclusive, of a mask that is not empty."""
    across, down = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1


def about(mask: Mask) -> Window:
    """The window to see a mask in."""
    x0, y0, x1, y1 = box(mask)
    return Window((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2, side(x1 - x0, y1 - y0))


def side(width: float, height: float) -> float:
    """Side of the window round a box."""
    return max(CONTEXT * max(width, height), SMALLEST)


def rewindowed(values: Map, was: Window, now: Window, size: int) -> Map:
    """A map of the window `was` as a map, (size, size), of the window `now`."""
    zoom = was.side / len(values)
    x, y = ((there - here) / zoom for there, here in ((now.x, was.x), (now.y, was.y)))
    middle = (len(values) - 1) / 2
    cut = Window(x + middle, y + middle, now.side / zoom).cut(values, size, outside=False)
    return np.asarray(cut, np.float32)
