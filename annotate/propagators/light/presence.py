"""Decide whether an observation is the tracked object, and which part of it is.

Thresholds on area, classifier score and appearance similarity say whether the object is visible;
they are stricter when it was searched for than when it was followed. Of several connected
components the one that fits the target best is kept. A shape that stays in place while its
appearance changes is the same object in another light, after a flash or in a shadow.
"""

import cv2
import numpy as np

from annotate.backbone import Map
from annotate.items.records import Mask
from annotate.propagators.light.appearance import AppearanceTemplates
from annotate.propagators.light.refine import is_object
from annotate.propagators.light.ridge_classifier import RidgeClassifier
from annotate.propagators.light.target import Observation, TargetState, masked_mean

MAX_STILL_SIMILAR, MAX_FOUND_ELSEWHERE = (
    0.35,
    0.5,
)  # of where it was: so much at most is still like it; found elsewhere
MIN_SEPARABILITY = 0.85  # how surely the shape is told from what is round it


def same_shape_new_appearance(
    observation: Observation, ridge: RidgeClassifier
) -> tuple[Mask, Map] | None:
    """Where the object was, if that hardly looks like it now but is still apart from the rest.

    That is where the flow took the mask before, (grid, grid), and how much each of its cells and
    of those near it says, (grid * grid,).
    """
    shape = observation.score.shape
    prior = cv2.resize(observation.prior, shape, interpolation=cv2.INTER_AREA)
    was = prior > 0.5
    kept = (observation.score[was] > 0).mean() if was.any() else 1.0
    moved = (observation.soft > 0.5).mean() > MAX_FOUND_ELSEWHERE * was.mean()
    if kept > MAX_STILL_SIMILAR or moved:
        return None
    y, x = np.indices(shape) // 4
    blocks = ((x + y) % 2 == 0).ravel()
    near = (np.abs(2 * prior - 1) > 0.4).ravel() & observation.in_picture.ravel()
    inside = was.astype(np.float32).ravel()
    if (
        ridge.separability(observation.expanded[near], inside[near], blocks[near])
        < MIN_SEPARABILITY
    ):
        return None
    return was, near.astype(np.float32)


def main_component(
    soft: Map, observation: Observation, target: TargetState, appearance: AppearanceTemplates
) -> tuple[Map, Map | None]:
    """`soft` with little left of what is apart from the object, and what that was.

    A gap of a fifth of the object's size may be an occlusion.
    """
    whole, size = soft > 0.5, len(soft)
    radius = int(0.1 * np.sqrt(target.area) * size / observation.window.side)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    count, parts = cv2.connectedComponents(cv2.dilate(whole.astype(np.uint8), disk))
    if count <= 2:
        return soft, None
    weight = whole * _component_weight(observation, target.appearance_confidence, size)
    totals = np.bincount(parts.ravel(), weights=weight.ravel(), minlength=count)
    for part in range(1, count):
        there = (whole & (parts == part))[2::4, 2::4]
        totals[part] *= max(appearance.similarity(observation.expanded, there), 0.1) ** 2
    totals[0] = 0
    dropped = (whole & (parts != totals.argmax())).astype(np.float32)
    return soft * (1 - 0.75 * dropped), dropped


def _component_weight(observation: Observation, appearance_confidence: float, size: int) -> Map:
    """Which part is the object: the one that was there, and looks as it was shown."""
    trust = cv2.resize(
        np.clip(0.5 + appearance_confidence * observation.prompt_score, 0.1, 1), (size, size)
    )
    if observation.prior is not None:
        trust = trust * (0.1 + cv2.resize(observation.prior, (size, size)))
    return np.asarray(trust, np.float32)


# How much less akin than usual to what was shown a thing may be: found again, and followed.
MAX_SIMILARITY_DROP_FOUND, MAX_SIMILARITY_DROP_TRACKED = 0.16, 0.4
MAX_COMBINED_DROP = 0.45  # what a thing found again may lack of kinship and of heat together
NEARBY_BONUS, BONUS_FADE_FRAMES = (
    0.2,
    10,
)  # how much more just where it was lost; fades in so many frames


def is_present(
    target: TargetState, observation: Observation, mask: Mask, measured: tuple[float, float, float]
) -> bool:
    """Whether this is the object, of such area, fit and kinship: unlike what is round it.

    `where` it is, is told on the grid of the window.
    """
    area, fit, kinship = measured
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8))
    round_it = masked_mean(observation.score, (grown > 0) & ~mask & observation.in_picture)
    if observation.prior is None:
        sized = 0.1 * target.area < area < 10 * target.area
        like = (
            fit > 0.5 * target.mean_score
            and kinship > target.similarity - MAX_SIMILARITY_DROP_FOUND
        )
        found = sized and like and matches_target(target, kinship, observation) and round_it < -0.1
        return bool(found and (not target.objectness or is_object(observation)))
    like = (
        fit > 0.3 * target.mean_score and kinship > target.similarity - MAX_SIMILARITY_DROP_TRACKED
    )
    return bool(area >= max(16, 0.03 * target.area) and like and round_it < 0.2)


def matches_target(target: TargetState, similarity: float, observation: Observation) -> bool:
    """Whether what a search found is the object; sooner so where and when it was lost."""
    window = observation.window
    gap = np.hypot(window.x - target.x, window.y - target.y) / (2 * target.window.side)
    trust = NEARBY_BONUS * np.exp(-(gap**2) - target.frames_lost / BONUS_FADE_FRAMES)
    return bool(
        target.prompt_similarity - similarity + 1 - observation.candidate_score
        < MAX_COMBINED_DROP + trust
    )
