"""The state of a tracked object, and what is observed of it in one frame.

`TargetState` is the last known position and the usual appearance, `Observation` the result of the
classifiers in one window, and `Candidate` a place where the object may be.
"""

from dataclasses import dataclass, replace

import numpy as np

from annotate.backbone import CropFeatures, Map
from annotate.items.records import Mask
from annotate.propagators.light.crops import CropWindow, window_side

TRIM_SCALE = 1.3  # what a guess is cut to, in sizes of the spot


@dataclass
class TargetState:
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
    def window(self) -> CropWindow:
        """The window to look at."""
        return CropWindow(self.x, self.y, window_side(self.width, self.height))

    @property
    def soft_window(self) -> CropWindow:
        """The window of the soft mask."""
        return CropWindow(self.soft_x, self.soft_y, self.soft_side)


@dataclass
class Observation:
    """Where an object seems to be, in its window: soft mask, and what the classifier saw."""

    seen: CropFeatures
    window: CropWindow
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
class Candidate:
    """What looks like the object, by `heat`, about 0..1; centre and size in pixels."""

    heat: float
    x: float
    y: float
    width: float
    height: float


def clamp_change(value: float, usual: float, least: float, most: float) -> float:
    """`value`, or as near as a frame may take it from what is usual."""
    return float(min(max(value, least * usual), most * usual))


def centroid_xy(guess: Observation) -> tuple[float, float]:
    """The middle of a guess, in pixels of the picture."""
    where = guess.soft > 0.5
    if not where.any():
        return guess.window.x, guess.window.y
    zoom, centre = guess.window.side / len(where), (len(where) - 1) / 2
    y, x = (zoom * (float(along.mean()) - centre) for along in np.nonzero(where))
    return guess.window.x + x, guess.window.y + y


def trim_to_candidate(guess: Observation, spot: Candidate) -> Observation:
    """A guess without what is well beyond a spot."""
    size = len(guess.soft)
    steps = (np.arange(size) - (size - 1) / 2) * (guess.window.side / size)
    out_x = np.abs(guess.window.x + steps - spot.x) > TRIM_SCALE * spot.width / 2
    out_y = np.abs(guess.window.y + steps - spot.y) > TRIM_SCALE * spot.height / 2
    return replace(guess, soft=np.where(out_y[:, None] | out_x[None], 0, guess.soft))


def masked_mean(score: Map, where: Mask) -> float:
    """The mean score there; 0 where there is nothing."""
    return float(score[where].mean()) if where.any() else 0.0
