"""Track one object: its appearance, its position, and whether it is visible at all.

Per frame: the mask of the frame before is warped by optical flow (`motion`), ridge classifiers
score the cells of a window around the target (`ridge_classifier`, `appearance`), a guided filter
sharpens the soft mask, and `presence` decides whether it is the object. A lost object is searched
for in the whole picture (`redetect`).
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import astuple
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.backbone import CropFeatures, Map, crop_features
from annotate.items.masks import pixel_box
from annotate.items.records import Mask, Picture
from annotate.propagators.light.appearance import AppearanceTemplates, DiscriminativeClassifier
from annotate.propagators.light.crops import (
    AUGMENTATIONS,
    CropWindow,
    Effort,
    augmented_crops,
    background_crops,
    window_around_mask,
    window_around_part,
    window_side,
)
from annotate.propagators.light.motion import GreyPicture, center_prior, location_prior, warp_mask
from annotate.propagators.light.presence import (
    is_present,
    main_component,
    matches_target,
    same_shape_new_appearance,
)
from annotate.propagators.light.redetect import Redetector
from annotate.propagators.light.refine import guided_filter, is_object, refine_mask
from annotate.propagators.light.ridge_classifier import RidgeClassifier
from annotate.propagators.light.target import (
    Candidate,
    Observation,
    TargetState,
    centroid_xy,
    clamp_change,
    masked_mean,
    trim_to_candidate,
)


def run_parallel(pool: Executor | None, *tasks: Callable[[], Any]) -> list[Any]:
    """What each of `works` returns: the last is done here, and meanwhile the others on `pool`.

    Without a pool they are done here one after the other. None may need what another one changes.
    """
    *others, mine = tasks
    if pool is None:
        return [work() for work in tasks]
    begun = [pool.submit(work) for work in others]
    last = mine()
    return [*(each.result() for each in begun), last]


# What a window shows: as both classifiers see it, and which of it is on the picture.
WindowFeatures = tuple[CropFeatures, Map, Map, Mask]

DISCRIMINATIVE_LOGIT_WEIGHT = (
    2.0  # what the score by maps learnt on gameplay weighs; the classifier's own has 4
)
MAX_UPDATE_SIMILARITY_DROP = (
    0.15  # how much less akin than usual to what was shown a thing may be, to learn from it
)
RECHECK_SIMILARITY_DROP = (
    0.06  # so much less akin than when it was shown, and it is looked for nearby as well
)
MIN_CANDIDATE_SCORE = 0.5  # a spot less hot is none
MIN_TRIM_GAIN, MIN_MOVE_GAIN = (
    0.04,
    0.02,
)  # how much more akin what is cut, or is elsewhere, has to be
CANDIDATE_WINDOW_SCALE = 1.3  # the window to look at a spot in, in usual windows
SEARCH_SCALES, SEARCH_TRIES = (
    (1.0, 0.6, 1.7),
    2,
)  # sizes a lost object is looked for in, by turns; spots tried
BACKGROUND_WEIGHT = 0.5  # weight of the rest of a prompted picture, to what is round the object
FLASH_FRAMES = 5  # frames after a prompt in which what was shown may turn out to be a flash


class Tracker:
    """An object that was taught, and may have started."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._ridge, self._discriminative = (
            RidgeClassifier(effort.random_features),
            DiscriminativeClassifier(),
        )
        self._soft_mask: Map = np.zeros((effort.crop_side, effort.crop_side), np.float32)
        self._appearance = AppearanceTemplates()
        self._redetector = Redetector()
        self._target = TargetState()
        self._queued_update: tuple[Map, Map, Map] | None = (
            None  # what of the frame before to learn yet
        )

    @property
    def started(self) -> bool:
        """Whether there is anything to follow."""
        return bool(self._target.started)

    def fit(self, picture: Picture, soft: Map) -> None:
        """Learn, for ever, what is inside `soft`, (H, W) in 0..1, and what outside."""
        mask = soft > 0.5
        if not mask.any():
            return
        self._apply_queued_update()
        for crop, inside, weight in augmented_crops(picture, soft, self._effort):
            view = crop_features(crop)
            expanded = self._ridge.expand(view.grid)
            self._discriminative.add_samples(view, inside, weight)
            self._ridge.add_samples(expanded, inside.ravel(), weight.ravel(), prompted=True)
            self._appearance.add_prompt(expanded, (inside > 0.5) & (weight > 0.5))
        rest = list(background_crops(picture, mask, self._effort))
        share = BACKGROUND_WEIGHT * len(AUGMENTATIONS) / max(len(rest), 1)
        for crop, outside in rest:
            view = crop_features(crop)
            self._discriminative.add_negatives(view, outside, share)
            self._ridge.add_negatives(self._ridge.expand(view.grid), outside.ravel(), share)
        self._ridge.solve()
        self._discriminative.solve()
        self._redetector.fit(picture, soft)

    def start(self, picture: Picture, mask: Mask) -> float:
        """Take `mask`, (H, W), as where the object is on this frame; returns how well it fits."""
        window = window_around_mask(mask)
        shown = self.observe_window(picture, window)
        where = (
            window.crop(mask.astype(np.float32), self._effort.grid, replicate_border=False) > 0.5
        )
        fit, likeness = masked_mean(shown.score, where), masked_mean(shown.prompt_score, where)
        x0, y0, x1, y1 = pixel_box(mask)
        kin, size = (
            self._appearance.similarity(shown.expanded, where),
            (x1 - x0, y1 - y0, float(mask.sum())),
        )
        self._target = TargetState(window.x, window.y, *size, fit, likeness, kin, kin, started=1)
        self._target.objectness = float(is_object(shown))
        soft = window.crop(mask.astype(np.float32), self._effort.crop_side, replicate_border=False)
        self._store_soft_mask(window, soft)
        return fit

    def observe(
        self,
        picture: Picture,
        grey: GreyPicture,
        previous_grey: GreyPicture,
        pool: Executor | None = None,
    ) -> Observation:
        """Where it seems to be on `picture`, `grey` in grey; `pool` may help to be quicker."""
        place = self._target
        place.age += 1
        if place.frames_lost:
            times = SEARCH_SCALES[int(place.age) % len(SEARCH_SCALES)]
            size_wh = max(place.width, 4) * times, max(place.height, 4) * times
            return self._best_candidate(
                picture, self._redetector.search_picture(picture, size_wh, SEARCH_TRIES)
            )[0]
        here = place.window
        prior, _, sight = run_parallel(
            pool,
            lambda: warp_mask(
                self._soft_mask, (place.soft_window, here), (previous_grey, grey), self._effort
            ),
            self._apply_queued_update,
            lambda: self._window_features(picture, here, pool),
        )
        guess = self._classify(sight, here, prior)
        if place.age <= FLASH_FRAMES:
            guess = self._adapt_to_new_appearance(guess) or guess
        if place.age % self._effort.update_interval:
            return guess
        kin = self._similarity(guess)
        return (
            guess
            if kin > place.prompt_similarity - RECHECK_SIMILARITY_DROP
            else self._recheck(picture, guess, kin)
        )

    def _recheck(
        self, picture: Picture, observation: Observation, similarity: float
    ) -> Observation:
        """What was followed, cut to what looks like it, or what looks more like it nearby."""
        place = self._target
        spot = self._redetector.search_nearby(
            picture, place.x, place.y, (place.width, place.height)
        )
        if spot.score < MIN_CANDIDATE_SCORE:
            return observation
        cut = trim_to_candidate(observation, spot)
        if (likeness := self._similarity(cut)) > similarity + MIN_TRIM_GAIN:
            observation, similarity = cut, likeness
        x, y = centroid_xy(observation)
        if abs(spot.x - x) < 0.3 * place.width and abs(spot.y - y) < 0.3 * place.height:
            return observation
        other, likeness = self._best_candidate(picture, [spot])
        return (
            other
            if likeness > similarity + MIN_MOVE_GAIN and matches_target(place, likeness, other)
            else observation
        )

    def _best_candidate(
        self, picture: Picture, candidates: Iterable[Candidate]
    ) -> tuple[Observation, float]:
        """The spot most akin from near, seen in a window about what is there; and how akin."""
        found = []
        for spot in candidates:
            window = CropWindow(
                spot.x, spot.y, CANDIDATE_WINDOW_SCALE * window_side(spot.width, spot.height)
            )
            guess = self.observe_window(picture, window)
            guess.candidate_score = spot.score
            found.append((self._similarity(guess), guess))
        kin, guess = max(found, key=lambda each: each[0])
        soft, _ = main_component(guess.soft, guess, self._target, self._appearance)
        if (soft > 0.5).sum() < 16:
            return guess, kin
        again = self.observe_window(picture, window_around_part(soft > 0.5, guess.window))
        again.candidate_score = guess.candidate_score
        closer = self._similarity(again)
        return (again, closer) if closer > kin - 0.02 else (guess, kin)

    def _similarity(self, observation: Observation) -> float:
        """How like what was shown it is as a whole, -1..1."""
        shape = observation.score.shape
        where = cv2.resize(observation.soft, shape, interpolation=cv2.INTER_AREA) > 0.5
        return self._appearance.similarity(observation.expanded, where) if where.any() else -1.0

    def _adapt_to_new_appearance(self, observation: Observation) -> Observation | None:
        """After a flash or a shadow, the shape still there and apart: learnt anew from it."""
        found = same_shape_new_appearance(observation, self._ridge)
        if found is None:
            return None
        was, weight = found
        self._ridge.add_samples(
            observation.expanded, was.astype(np.float32).ravel(), weight, prompted=False
        )
        self._ridge.solve()
        sight = (
            observation.features,
            observation.expanded,
            observation.discriminative_score,
            observation.in_picture,
        )
        again = self._classify(sight, observation.window, observation.prior)
        self._target.mean_score, self._target.mean_prompt_score = (
            masked_mean(again.score, was),
            masked_mean(again.prompt_score, was),
        )
        self._appearance.add_template(again.expanded, was)
        return again

    def update(
        self, observation: Observation, occupied: Map | None, size_wh: tuple[int, int]
    ) -> tuple[Mask | None, float]:
        """Decide; `taken` is what other objects have of the window. Returns a mask and its fit."""
        soft = observation.soft if occupied is None else observation.soft * (1 - occupied)
        soft, dropped = main_component(soft, observation, self._target, self._appearance)
        mask = observation.window.mask(soft, size_wh, 0.5)
        area = float(mask.sum())
        grid = cv2.resize(soft, observation.score.shape, interpolation=cv2.INTER_AREA)
        fit, likeness = (
            masked_mean(observation.score, grid > 0.5),
            masked_mean(observation.prompt_score, grid > 0.5),
        )
        kinship = self._appearance.similarity(observation.expanded, grid > 0.5)
        if not is_present(self._target, observation, grid > 0.5, (area, fit, kinship)):
            self._target.frames_lost += 1
            return None, fit
        self._update_target(observation.window, soft, mask, (area, fit, likeness, kinship))
        akin = kinship > self._target.similarity - MAX_UPDATE_SIMILARITY_DROP
        if (
            self._target.age % self._effort.update_interval == 0
            and area > 0.7 * self._target.area
            and akin
        ):
            self._queue_update(observation, grid, dropped)
        return self._output_mask(observation, soft, occupied, mask), fit

    def _output_mask(
        self, observation: Observation, soft: Map, occupied: Map | None, mask: Mask
    ) -> Mask:
        """The mask to show: not learnt from nor gone by, or its errors would feed on themselves."""
        if not self._effort.refines_masks or observation.prior is None:
            return mask
        better = refine_mask(observation, soft) * (1 if occupied is None else 1 - occupied)
        high, wide = mask.shape
        shown = observation.window.mask(better, (wide, high), 0.5)
        return shown if shown.any() else mask

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that is remembered of the object."""
        self._apply_queued_update()
        return {
            **self._ridge.state(),
            **self._discriminative.state(),
            **self._redetector.state(),
            "soft": self._soft_mask.copy(),
            "looks": self._appearance.templates.copy(),
            "place": np.array(astuple(self._target)),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what `state` gave."""
        self._queued_update = None
        self._ridge.restore(state)
        self._discriminative.restore(state)
        self._redetector.restore(state)
        self._appearance.templates = state["looks"].copy()
        self._soft_mask, self._target = state["soft"].copy(), TargetState(*state["place"].tolist())

    def observe_window(
        self, picture: Picture, window: CropWindow, prior: Map | None = None
    ) -> Observation:
        """What is in `window`; `prior`, of half the crop's size, is where it was, if it was."""
        self._apply_queued_update()
        return self._classify(self._window_features(picture, window), window, prior)

    def _window_features(
        self, picture: Picture, window: CropWindow, pool: Executor | None = None
    ) -> WindowFeatures:
        view = crop_features(window.crop(picture, self._effort.crop_side))
        apart, expanded = run_parallel(
            pool, lambda: self._discriminative.scores(view), lambda: self._ridge.expand(view.grid)
        )
        inside = window.in_picture((picture.shape[1], picture.shape[0]), self._effort.grid)
        return view, expanded, apart, inside

    def _classify(
        self, window_features: WindowFeatures, window: CropWindow, prior: Map | None
    ) -> Observation:
        """What the classifier makes of it."""
        size, (view, expanded, apart, inside) = self._effort.crop_side, window_features
        scores = self._ridge.scores(expanded).reshape(*inside.shape, 2)
        score, sure = scores[..., 0], scores[..., 1]
        logit = 4 * score + self._target.appearance_confidence * (
            np.minimum(sure, 0) + DISCRIMINATIVE_LOGIT_WEIGHT * apart
        )
        if prior is None:
            logit += center_prior(self._effort.grid)
        else:
            reach = np.sqrt(self._target.area) * self._effort.grid / window.side
            logit += location_prior(prior, self._effort.grid, max(float(reach), 2))
        soft = 1 / (1 + np.exp(-np.where(inside, logit, -8)))
        soft = cv2.resize(soft.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        soft = guided_filter(view.crop, soft, size // 32)
        return Observation(view, window, soft, score, sure, apart, expanded, inside, prior)

    def _update_target(
        self, window: CropWindow, soft: Map, mask: Mask, measured: tuple[float, float, float, float]
    ) -> None:
        """Go to where it is; `now` are its area, fit, likeness and kinship there."""
        area, fit, likeness, kinship = measured
        x0, y0, x1, y1 = pixel_box(mask)
        place = self._target
        place.x, place.y = (x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2
        place.width = clamp_change(x1 - x0, place.width, 0.97, 1.1)
        place.height = clamp_change(y1 - y0, place.height, 0.97, 1.1)
        place.area = clamp_change(area, place.area, 0.94, 1.2)
        place.mean_score += 0.05 * (fit - place.mean_score)
        place.mean_prompt_score += (1 if place.age <= FLASH_FRAMES else 0.05) * (
            likeness - place.mean_prompt_score
        )
        place.similarity += 0.02 * (kinship - place.similarity)
        place.frames_lost = 0
        self._store_soft_mask(window, soft)

    def _store_soft_mask(self, window: CropWindow, soft: Map) -> None:
        self._soft_mask, place = soft, self._target
        place.soft_x, place.soft_y, place.soft_side = window.x, window.y, window.side

    def _queue_update(self, observation: Observation, soft_grid: Map, dropped: Map | None) -> None:
        """Remember what was found, to learn from it, the surer the more."""
        weight = np.abs(2 * soft_grid - 1) * observation.in_picture
        if dropped is not None:
            weight = weight * (
                1 - cv2.resize(dropped, soft_grid.shape, interpolation=cv2.INTER_AREA)
            )
        some = slice(
            int(self._target.age) % self._effort.pixel_stride, None, self._effort.pixel_stride
        )
        inside = (soft_grid > 0.5).astype(np.float32).ravel()[some]
        self._queued_update = observation.expanded[some], inside, weight.ravel()[some]

    def _apply_queued_update(self) -> None:
        """Learn what was noted."""
        if self._queued_update is not None:
            self._ridge.add_samples(*self._queued_update, prompted=False)
            self._ridge.solve()
            self._queued_update = None
