"""The state of a tracked object, and what is observed of it in one frame.

`TargetState` is the last known position and the usual appearance, `Observation` the output of the
classifiers in one window, and `Candidate` a box where the object may be.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from annotate.backbone import CropFeatures, Map
from annotate.items.masks import pixel_box
from annotate.items.records import Mask
from annotate.propagators.light.crops import CropWindow, window_side

FLASH_FRAMES = 5  # after a prompt: the prompted appearance may turn out to be a muzzle flash
TRIM_SCALE = 1.3  # an observation is cut to a box of this many times the candidate's size


@dataclass
class TargetState:
    """Position, size and usual appearance of an object; lengths in pixels of the picture.

    All fields are floats, because the state is saved as one array, in this order.

    Attributes:
        x, y, width, height, area: Centre, size and area of the last mask, smoothed over time.
        mean_score: Usual mean score of the ridge classifier inside the mask.
        mean_prompt_score: The same for the classifier that was fitted to prompted frames only.
        similarity: Usual cosine similarity to the appearance templates.
        prompt_similarity: Similarity at the last prompt.
        started: 1 after the first prompt of the pass.
        frames_lost: For how many frames the object has not been seen.
        age: Frames since the last prompt.
        soft_x, soft_y, soft_side: Window of the stored soft mask.
        objectness: 1 if `refine.is_object` holds for the mask of the last prompt.
        agreements: Of a doubted target: how often a search found what is tracked instead.
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
    agreements: float = 0

    @property
    def appearance_confidence(self) -> float:
        """How far the prompted appearance still holds, 0..1; 0 if it has changed completely."""
        return min(max(self.mean_prompt_score, 0.0), 1.0)

    @property
    def window(self) -> CropWindow:
        """The window around the last known box."""
        return CropWindow(self.x, self.y, window_side(self.width, self.height))

    @property
    def soft_window(self) -> CropWindow:
        """The window of the stored soft mask."""
        return CropWindow(self.soft_x, self.soft_y, self.soft_side)

    def update(
        self, mask: Mask, mean_score: float, mean_prompt_score: float, similarity: float
    ) -> None:
        """Move to a mask of the picture, (H, W), and smooth the size and the usual values."""
        x1, y1, x2, y2 = pixel_box(mask)
        self.x, self.y = (x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2
        self.width = clamp_change(x2 - x1, self.width, 0.97, 1.1)
        self.height = clamp_change(y2 - y1, self.height, 0.97, 1.1)
        self.area = clamp_change(float(mask.sum()), self.area, 0.94, 1.2)
        self.mean_score += 0.05 * (mean_score - self.mean_score)
        rate = 1 if self.age <= FLASH_FRAMES else 0.05
        self.mean_prompt_score += rate * (mean_prompt_score - self.mean_prompt_score)
        self.similarity += 0.02 * (similarity - self.similarity)
        self.frames_lost = 0


class WindowFeatures(NamedTuple):
    """What both classifiers take of a window, and which of its cells lie on the picture."""

    features: CropFeatures
    expanded: Map  # (grid * grid, features)
    discriminative_score: Map  # (grid, grid)
    in_picture: Mask  # (grid, grid)


@dataclass
class Observation:
    """The output of the classifiers in one window: a soft mask and the scores behind it."""

    features: CropFeatures
    window: CropWindow
    soft: Map  # (size, size): probability of being the object, 0..1
    score: Map  # (grid, grid): ridge classifier, about +1 on the object and -1 elsewhere
    prompt_score: Map  # (grid, grid): the same, fitted to prompted frames only
    discriminative_score: Map  # (grid, grid): see `appearance.DiscriminativeClassifier`
    expanded: Map  # (grid * grid, features): what the ridge classifier takes
    in_picture: Mask  # (grid, grid): cells that lie on the picture
    # (size / 2, size / 2): the last mask, warped by optical flow; None after a search
    prior: Map | None
    candidate_score: float = 1.0  # score of the candidate that the search proposed here

    @property
    def window_features(self) -> WindowFeatures:
        """What the classifiers took, to classify the window again."""
        return WindowFeatures(
            self.features, self.expanded, self.discriminative_score, self.in_picture
        )


@dataclass(frozen=True)
class Candidate:
    """A box that may hold the object: score, about 0..1; centre and size in pixels."""

    score: float
    x: float
    y: float
    width: float
    height: float


def clamp_change(value: float, reference: float, min_ratio: float, max_ratio: float) -> float:
    """Limit `value` to between `min_ratio` and `max_ratio` times `reference`."""
    return float(min(max(value, min_ratio * reference), max_ratio * reference))


def centroid_xy(observation: Observation) -> tuple[float, float]:
    """Compute the centroid of the observed mask, in pixels of the picture."""
    mask = observation.soft > 0.5
    if not mask.any():
        return observation.window.x, observation.window.y
    zoom, centre = observation.window.side / len(mask), (len(mask) - 1) / 2
    y, x = (zoom * (float(along.mean()) - centre) for along in np.nonzero(mask))
    return observation.window.x + x, observation.window.y + y


def trim_to_candidate(observation: Observation, candidate: Candidate) -> Observation:
    """Clear the soft mask outside the candidate's box, enlarged by `TRIM_SCALE`."""
    size = len(observation.soft)
    steps = (np.arange(size) - (size - 1) / 2) * (observation.window.side / size)
    out_x = np.abs(observation.window.x + steps - candidate.x) > TRIM_SCALE * candidate.width / 2
    out_y = np.abs(observation.window.y + steps - candidate.y) > TRIM_SCALE * candidate.height / 2
    return replace(observation, soft=np.where(out_y[:, None] | out_x[None], 0, observation.soft))


def masked_mean(score: Map, mask: Mask) -> float:
    """Average the scores inside `mask`; 0 if the mask is empty."""
    return float(score[mask].mean()) if mask.any() else 0.0


def samples(
    observation: Observation, soft_grid: Map, dropped: Map | None, cells: slice
) -> tuple[Map, Map, Map]:
    """Select cells of an observation to learn from: features, inside, and certainty as weight.

    `soft_grid` is its soft mask, (grid, grid). From `dropped` components nothing is learned.
    """
    weight = np.abs(2 * soft_grid - 1) * observation.in_picture
    if dropped is not None:
        ignored = cv2.resize(dropped, soft_grid.shape, interpolation=cv2.INTER_AREA)
        weight = weight * (1 - ignored)
    inside = (soft_grid > 0.5).astype(np.float32)
    return observation.expanded[cells], inside.ravel()[cells], weight.ravel()[cells]


def overlap(a: Mask, b: Mask) -> float:
    """Compute the intersection over union, 0..1, of two masks; 0 if both are empty."""
    return float((a & b).sum() / max(int((a | b).sum()), 1))
