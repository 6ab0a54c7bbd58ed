"""Decide whether an observation is the tracked object, and which part of it is.

Thresholds on area, classifier score and appearance similarity say whether the object is visible;
they are stricter after a search than while tracking. Of several connected components the one that
fits the target best is kept. A shape that stays in place while its appearance changes is the same
object in another light, after a flash or in a shadow.
"""

from typing import NamedTuple

import cv2
import numpy as np

from annotate.backbone import Map
from annotate.items.records import Mask
from annotate.propagators.light.appearance import AppearanceTemplates
from annotate.propagators.light.refine import is_object
from annotate.propagators.light.ridge_classifier import RidgeClassifier
from annotate.propagators.light.target import Observation, TargetState, masked_mean

# The appearance has changed if at most this share of the warped mask still scores as the object,
# and the object was not found in another place: its new mask is at most this share of the old area.
MAX_STILL_SIMILAR, MAX_FOUND_ELSEWHERE = 0.35, 0.5
MIN_SEPARABILITY = 0.85  # cross-validated accuracy of the shape against what surrounds it

# Largest drop of the appearance similarity below its usual value: after a search, while tracking.
MAX_SIMILARITY_DROP_FOUND, MAX_SIMILARITY_DROP_TRACKED = 0.16, 0.4
MAX_COMBINED_DROP = 0.45  # after a search: drop of the similarity plus that of the candidate score
# Extra drop that is allowed where the object was just lost; it fades in so many frames.
NEARBY_BONUS, BONUS_FADE_FRAMES = 0.2, 10


class Measured(NamedTuple):
    """The main component of an observed soft mask."""

    soft: Map  # (size, size)
    dropped: Map | None  # (size, size): the other components, if there are any
    mask: Mask  # (H, W)
    grid: Map  # (grid, grid): `soft`
    values: tuple[float, float, float]  # area in pixels, mean ridge score, similarity


def same_shape_new_appearance(
    observation: Observation, ridge: RidgeClassifier
) -> tuple[Mask, Map] | None:
    """Find the object at the warped mask, if only its appearance changed; else return None.

    That holds if few cells of the warped mask still score as the object, the object was not found
    in another place, and the cells can still be separated from those around them.

    Returns:
        The warped mask, (grid, grid), and the weight of each cell for a new fit, (grid * grid,).
    """
    shape = observation.score.shape
    prior = cv2.resize(observation.prior, shape, interpolation=cv2.INTER_AREA)
    warped = prior > 0.5
    still_similar = (observation.score[warped] > 0).mean() if warped.any() else 1.0
    moved = (observation.soft > 0.5).mean() > MAX_FOUND_ELSEWHERE * warped.mean()
    if still_similar > MAX_STILL_SIMILAR or moved:
        return None
    y, x = np.indices(shape) // 4
    folds = ((x + y) % 2 == 0).ravel()
    certain = (np.abs(2 * prior - 1) > 0.4).ravel() & observation.in_picture.ravel()
    inside = warped.astype(np.float32).ravel()
    accuracy = ridge.separability(observation.expanded[certain], inside[certain], folds[certain])
    return None if accuracy < MIN_SEPARABILITY else (warped, certain.astype(np.float32))


def main_component(
    soft: Map, observation: Observation, target: TargetState, appearance: AppearanceTemplates
) -> tuple[Map, Map | None]:
    """Weaken every connected component but the one that fits the target best.

    Components with a gap of less than a fifth of the object's size count as one: the gap may be an
    occlusion.

    Returns:
        The new soft mask, (size, size), and the mask of the weakened components, if there are any.
    """
    mask, size = soft > 0.5, len(soft)
    radius = int(0.1 * np.sqrt(target.area) * size / observation.window.side)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    count, components = cv2.connectedComponents(cv2.dilate(mask.astype(np.uint8), disk))
    if count <= 2:
        return soft, None
    weight = mask * _pixel_weights(observation, target.appearance_confidence, size)
    totals = np.bincount(components.ravel(), weights=weight.ravel(), minlength=count)
    for component in range(1, count):
        on_grid = (mask & (components == component))[2::4, 2::4]
        similarity = appearance.similarity(observation.expanded, on_grid)
        totals[component] *= max(similarity, 0.1) ** 2
    totals[0] = 0
    dropped = (mask & (components != totals.argmax())).astype(np.float32)
    return soft * (1 - 0.75 * dropped), dropped


def measure(
    observation: Observation,
    soft: Map,
    size_wh: tuple[int, int],
    target: TargetState,
    appearance: AppearanceTemplates,
) -> Measured:
    """Reduce a soft mask, (size, size), to the component that fits the target, and measure that."""
    soft, dropped = main_component(soft, observation, target, appearance)
    mask = observation.window.mask(soft, size_wh, 0.5)
    grid = cv2.resize(soft, observation.score.shape, interpolation=cv2.INTER_AREA)
    fit = masked_mean(observation.score, grid > 0.5)
    similarity = appearance.similarity(observation.expanded, grid > 0.5)
    return Measured(soft, dropped, mask, grid, (float(mask.sum()), fit, similarity))


def _pixel_weights(observation: Observation, appearance_confidence: float, size: int) -> Map:
    """Weigh each pixel, (size, size), by its score as prompted and by the warped mask."""
    weight = cv2.resize(
        np.clip(0.5 + appearance_confidence * observation.prompt_score, 0.1, 1), (size, size)
    )
    if observation.prior is not None:
        weight = weight * (0.1 + cv2.resize(observation.prior, (size, size)))
    return np.asarray(weight, np.float32)


def is_present(
    target: TargetState, observation: Observation, mask: Mask, measured: tuple[float, float, float]
) -> bool:
    """Decide whether an observed mask is the target, and not what surrounds it.

    Args:
        target: The usual size and appearance.
        observation: Where the mask was found, by tracking or by a search.
        mask: The mask, (grid, grid).
        measured: Its area in pixels, mean score and appearance similarity.
    """
    area, fit, similarity = measured
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8))
    surroundings = masked_mean(observation.score, (grown > 0) & ~mask & observation.in_picture)
    if observation.prior is not None:
        similar = similarity > target.similarity - MAX_SIMILARITY_DROP_TRACKED
        fits = fit > 0.3 * target.mean_score and similar
        return bool(area >= max(16, 0.03 * target.area) and fits and surroundings < 0.2)
    plausible_area = 0.1 * target.area < area < 10 * target.area
    similar = similarity > target.similarity - MAX_SIMILARITY_DROP_FOUND
    fits = fit > 0.5 * target.mean_score and similar
    matches = matches_target(target, similarity, observation)
    found = plausible_area and fits and matches and surroundings < -0.1
    return bool(found and (not target.objectness or is_object(observation)))


def matches_target(target: TargetState, similarity: float, observation: Observation) -> bool:
    """Decide whether a search result is the target; more tolerant near where it was just lost."""
    window = observation.window
    distance = np.hypot(window.x - target.x, window.y - target.y) / (2 * target.window.side)
    bonus = NEARBY_BONUS * np.exp(-(distance**2) - target.frames_lost / BONUS_FADE_FRAMES)
    return bool(
        target.prompt_similarity - similarity + 1 - observation.candidate_score
        < MAX_COMBINED_DROP + bonus
    )
