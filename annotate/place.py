"""Where an object is, how it usually looks, and the window to look for it in."""

from dataclasses import dataclass, replace

import numpy as np

from annotate.features import Seen
from annotate.records import Mask
from annotate.windows import Map, Window

CONTEXT = 1.6  # side of the window, in sides of the object's box
SMALLEST = 24.0  # side of the smallest window, in pixels
TRIM = 1.3  # what a guess is cut to, in sizes of the spot


@dataclass
class Place:
    """Where an object is and how it usually looks, in pixels of the picture; all floats.

    `fit` is the mean score inside, `likeness` the same by what a person showed only;
    `kinship` is the cosine of its mean features to those of what a person showed, `shown` what it
    was when it was prompted last.
    `lost` is for how many frames it was not seen.
    `thing` is 1 where `found_again` took what a person showed for a thing.
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
    shown: float = 0
    started: float = 0
    lost: float = 0
    age: float = 0
    soft_x: float = 0
    soft_y: float = 0
    soft_side: float = 1
    thing: float = 0

    @property
    def faith(self) -> float:
        """How far what a person showed still holds: 0 when the object came out of a flash."""
        return min(max(self.likeness, 0.0), 1.0)

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

    seen: Seen
    window: Window
    soft: Map  # (size, size), 0..1
    score: Map  # (grid, grid)
    sure: Map  # (grid, grid): the score by what a person showed
    apart: Map  # (grid, grid): that by a classifier which sees more, `apart.Shown`
    expanded: Map
    inside: Mask  # (grid, grid): on the picture
    # (size / 2, size / 2): where the flow takes the mask before; None when it was searched for
    prior: Map | None
    heat: float = 1.0  # of the spot where it was looked for


@dataclass(frozen=True)
class Spot:
    """What looks like the object, by `heat`, about 0..1; centre and size in pixels."""

    heat: float
    x: float
    y: float
    width: float
    height: float


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


def middle(guess: Guess) -> tuple[float, float]:
    """The middle of a guess, in pixels of the picture."""
    where = guess.soft > 0.5
    if not where.any():
        return guess.window.x, guess.window.y
    zoom, centre = guess.window.side / len(where), (len(where) - 1) / 2
    y, x = (zoom * (float(along.mean()) - centre) for along in np.nonzero(where))
    return guess.window.x + x, guess.window.y + y


def within(where: Mask, window: Window) -> Window:
    """The window to see what is in a part of `window` in."""
    zoom, centre = window.side / len(where), (len(where) - 1) / 2
    x0, y0, x1, y1 = box(where)
    x, y = (zoom * ((low + high - 1) / 2 - centre) for low, high in ((x0, x1), (y0, y1)))
    return Window(window.x + x, window.y + y, side(zoom * (x1 - x0), zoom * (y1 - y0)))


def trimmed(guess: Guess, spot: Spot) -> Guess:
    """A guess without what is well beyond a spot."""
    size = len(guess.soft)
    steps = (np.arange(size) - (size - 1) / 2) * (guess.window.side / size)
    out_x = np.abs(guess.window.x + steps - spot.x) > TRIM * spot.width / 2
    out_y = np.abs(guess.window.y + steps - spot.y) > TRIM * spot.height / 2
    return replace(guess, soft=np.where(out_y[:, None] | out_x[None], 0, guess.soft))


def mean(score: Map, where: Mask) -> float:
    """The mean score there; 0 where there is nothing."""
    return float(score[where].mean()) if where.any() else 0.0
