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
    mean_score: float = 0
    mean_prompt_score: float = 0
    similarity: float = 0
    prompt_similarity: float = 0
    started: float = 0
    frames_lost: float = 0
    age: float = 0
    soft_x: float = 0
    soft_y: float = 0
    soft_side: float = 1
    objectness: float = 0

    @property
    def appearance_confidence(self) -> float:
        """How far what a person showed still holds: 0 when the object came out of a flash."""
        return min(max(self.mean_prompt_score, 0.0), 1.0)

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

    features: CropFeatures
    window: CropWindow
    soft: Map  # (size, size), 0..1
    score: Map  # (grid, grid)
    prompt_score: Map  # (grid, grid): the score by what a person showed
    discriminative_score: Map  # (grid, grid): that by a classifier which sees more, `apart.Shown`
    expanded: Map
    in_picture: Mask  # (grid, grid): on the picture
    # (size / 2, size / 2): where the flow takes the mask before; None when it was searched for
    prior: Map | None
    candidate_score: float = 1.0  # of the spot where it was looked for


@dataclass(frozen=True)
class Candidate:
    """What looks like the object, by `heat`, about 0..1; centre and size in pixels."""

    score: float
    x: float
    y: float
    width: float
    height: float


def clamp_change(value: float, reference: float, min_ratio: float, max_ratio: float) -> float:
    """`value`, or as near as a frame may take it from what is usual."""
    return float(min(max(value, min_ratio * reference), max_ratio * reference))


def centroid_xy(observation: Observation) -> tuple[float, float]:
    """The middle of a guess, in pixels of the picture."""
    where = observation.soft > 0.5
    if not where.any():
        return observation.window.x, observation.window.y
    zoom, centre = observation.window.side / len(where), (len(where) - 1) / 2
    y, x = (zoom * (float(along.mean()) - centre) for along in np.nonzero(where))
    return observation.window.x + x, observation.window.y + y


def trim_to_candidate(observation: Observation, candidate: Candidate) -> Observation:
    """A guess without what is well beyond a spot."""
    size = len(observation.soft)
    steps = (np.arange(size) - (size - 1) / 2) * (observation.window.side / size)
    out_x = np.abs(observation.window.x + steps - candidate.x) > TRIM_SCALE * candidate.width / 2
    out_y = np.abs(observation.window.y + steps - candidate.y) > TRIM_SCALE * candidate.height / 2
    return replace(observation, soft=np.where(out_y[:, None] | out_x[None], 0, observation.soft))


def masked_mean(score: Map, mask: Mask) -> float:
    """The mean score there; 0 where there is nothing."""
    return float(score[mask].mean()) if mask.any() else 0.0
