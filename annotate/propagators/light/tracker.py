"""Track one object: its appearance, its position, and whether it is visible at all.

Per frame: the previous mask is warped by optical flow (`motion`), ridge classifiers score the cells
of a window around the target (`ridge_classifier`, `appearance`), a guided filter sharpens the soft
mask, and `presence` decides whether it is the object. A lost object is searched for in the whole
picture (`redetect`). A discriminative target model on deep features, updated online, whose scores
are refined to a mask, follows Robinson et al., "Learning Fast and Robust Target Models for Video
Object Segmentation", CVPR 2020.
"""

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import astuple

import cv2
import numpy as np

from annotate.backbone import Map, crop_features, run_parallel
from annotate.items.masks import pixel_box
from annotate.items.records import Mask, Picture, State
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
    FLASH_FRAMES,
    Candidate,
    Observation,
    TargetState,
    WindowFeatures,
    centroid_xy,
    masked_mean,
    trim_to_candidate,
)

DISCRIMINATIVE_LOGIT_WEIGHT = 2.0  # of the discriminative score; the ridge score has 4
MAX_UPDATE_SIMILARITY_DROP = 0.15  # below the usual similarity; further below, no update
RECHECK_SIMILARITY_DROP = 0.06  # below the similarity at the prompt; further below, look nearby too
MIN_CANDIDATE_SCORE = 0.5
MIN_TRIM_GAIN, MIN_MOVE_GAIN = 0.04, 0.02  # of similarity, to trim the mask or to move elsewhere
CANDIDATE_WINDOW_SCALE = 1.3  # side of the window on a candidate, in usual sides
SEARCH_SCALES, SEARCH_CANDIDATES = (1.0, 0.6, 1.7), 2  # sizes, one per frame in turn; candidates
BACKGROUND_WEIGHT = 0.5  # of all background crops together, relative to the augmented crops


class Tracker:
    """One object: fitted to its prompts with `fit`, tracked from `start` on."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._ridge = RidgeClassifier(effort.random_features)
        self._discriminative = DiscriminativeClassifier()
        self._soft_mask: Map = np.zeros((effort.crop_side, effort.crop_side), np.float32)
        self._appearance = AppearanceTemplates()
        self._redetector = Redetector()
        self._target = TargetState()
        self._queued_update: tuple[Map, Map, Map] | None = None  # samples of the previous frame

    @property
    def started(self) -> bool:
        """True after the first prompt of the pass."""
        return bool(self._target.started)

    def fit(self, picture: Picture, soft: Map) -> None:
        """Fit to a prompted picture: `soft`, (H, W) in 0..1, is the object, the rest is not."""
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
        background = list(background_crops(picture, mask, self._effort))
        share = BACKGROUND_WEIGHT * len(AUGMENTATIONS) / max(len(background), 1)
        for crop, outside in background:
            view = crop_features(crop)
            self._discriminative.add_negatives(view, outside, share)
            self._ridge.add_negatives(self._ridge.expand(view.grid), outside.ravel(), share)
        self._ridge.solve()
        self._discriminative.solve()
        self._redetector.fit(picture, soft)

    def start(self, picture: Picture, mask: Mask) -> float:
        """Place the object at `mask`, (H, W), on this frame; returns the mean score inside."""
        window = window_around_mask(mask)
        observation = self.observe_window(picture, window)
        values = mask.astype(np.float32)
        on_grid = window.crop(values, self._effort.grid, replicate_border=False) > 0.5
        fit = masked_mean(observation.score, on_grid)
        similarity = self._appearance.similarity(observation.expanded, on_grid)
        x1, y1, x2, y2 = pixel_box(mask)
        self._target = TargetState(
            window.x,
            window.y,
            width=x2 - x1,
            height=y2 - y1,
            area=float(mask.sum()),
            mean_score=fit,
            mean_prompt_score=masked_mean(observation.prompt_score, on_grid),
            similarity=similarity,
            prompt_similarity=similarity,
            started=1,
            objectness=float(is_object(observation)),
        )
        soft = window.crop(values, self._effort.crop_side, replicate_border=False)
        self._store_soft_mask(window, soft)
        return fit

    def stop(self) -> None:
        """Stop tracking until `start`; the classifiers stay as they are."""
        self._apply_queued_update()
        self._target = TargetState()

    def correct(self, picture: Picture, mask: Mask) -> float:
        """Replace the mask of this frame by a corrected one; returns the mean score inside."""
        self._queued_update = None  # it was learned from the wrong mask
        if not mask.any():
            self._target.frames_lost += 1
            return 0.0
        self.fit(picture, mask.astype(np.float32))
        return self.start(picture, mask)

    def observe(
        self,
        picture: Picture,
        grey: GreyPicture,
        previous_grey: GreyPicture,
        pool: Executor | None = None,
    ) -> Observation:
        """Observe the object on a picture: near its last position, or by a search if it is lost.

        `grey` is the same picture in grey; `pool` may run parts of the work.
        """
        target = self._target
        target.age += 1
        if target.frames_lost:
            scale = SEARCH_SCALES[int(target.age) % len(SEARCH_SCALES)]
            size_wh = max(target.width, 4) * scale, max(target.height, 4) * scale
            candidates = self._redetector.search_picture(picture, size_wh, SEARCH_CANDIDATES)
            return self._best_candidate(picture, candidates)[0]
        window = target.window
        prior, _, window_features = run_parallel(
            pool,
            lambda: warp_mask(
                self._soft_mask, (target.soft_window, window), (previous_grey, grey), self._effort
            ),
            self._apply_queued_update,
            lambda: self._window_features(picture, window, pool),
        )
        observation = self._classify(window_features, window, prior)
        if target.age <= FLASH_FRAMES:
            observation = self._adapt_to_new_appearance(observation) or observation
        if target.age % self._effort.update_interval:
            return observation
        similarity = self._similarity(observation)
        if similarity > target.prompt_similarity - RECHECK_SIMILARITY_DROP:
            return observation
        return self._recheck(picture, observation, similarity)

    def _recheck(
        self, picture: Picture, observation: Observation, similarity: float
    ) -> Observation:
        """Trim the mask to the best candidate nearby, or move there, if that is more similar."""
        target = self._target
        candidate = self._redetector.search_nearby(
            picture, target.x, target.y, (target.width, target.height)
        )
        if candidate.score < MIN_CANDIDATE_SCORE:
            return observation
        trimmed = trim_to_candidate(observation, candidate)
        if (trimmed_similarity := self._similarity(trimmed)) > similarity + MIN_TRIM_GAIN:
            observation, similarity = trimmed, trimmed_similarity
        x, y = centroid_xy(observation)
        if abs(candidate.x - x) < 0.3 * target.width and abs(candidate.y - y) < 0.3 * target.height:
            return observation
        other, other_similarity = self._best_candidate(picture, [candidate])
        better = other_similarity > similarity + MIN_MOVE_GAIN
        return other if better and matches_target(target, other_similarity, other) else observation

    def _best_candidate(
        self, picture: Picture, candidates: Iterable[Candidate]
    ) -> tuple[Observation, float]:
        """Observe each candidate; return the most similar observation and its similarity.

        It is observed again in a window around its mask, unless it is less similar there.
        """
        observed = []
        for candidate in candidates:
            side = CANDIDATE_WINDOW_SCALE * window_side(candidate.width, candidate.height)
            window = CropWindow(candidate.x, candidate.y, side)
            observation = self.observe_window(picture, window)
            observation.candidate_score = candidate.score
            observed.append((self._similarity(observation), observation))
        similarity, best = max(observed, key=lambda pair: pair[0])
        soft, _ = main_component(best.soft, best, self._target, self._appearance)
        if (soft > 0.5).sum() < 16:
            return best, similarity
        closer = self.observe_window(picture, window_around_part(soft > 0.5, best.window))
        closer.candidate_score = best.candidate_score
        closer_similarity = self._similarity(closer)
        if closer_similarity > similarity - 0.02:
            return closer, closer_similarity
        return best, similarity

    def _similarity(self, observation: Observation) -> float:
        """Compute the similarity of the observed mask to the templates; -1 if it is empty."""
        shape = observation.score.shape
        mask = cv2.resize(observation.soft, shape, interpolation=cv2.INTER_AREA) > 0.5
        return self._appearance.similarity(observation.expanded, mask) if mask.any() else -1.0

    def _adapt_to_new_appearance(self, observation: Observation) -> Observation | None:
        """Fit to the warped mask and observe again, if only the appearance changed; else None.

        A prompt on a muzzle flash, or an object that enters a shadow, looks different right after.
        """
        same_shape = same_shape_new_appearance(observation, self._ridge)
        if same_shape is None:
            return None
        mask, weight = same_shape
        inside = mask.astype(np.float32).ravel()
        self._ridge.add_samples(observation.expanded, inside, weight, prompted=False)
        self._ridge.solve()
        adapted = self._classify(observation.window_features, observation.window, observation.prior)
        self._target.mean_score = masked_mean(adapted.score, mask)
        self._target.mean_prompt_score = masked_mean(adapted.prompt_score, mask)
        self._appearance.add_template(adapted.expanded, mask)
        return adapted

    def update(
        self, observation: Observation, occupied: Map | None, size_wh: tuple[int, int]
    ) -> tuple[Mask | None, float]:
        """Decide whether the object is visible, and learn from it.

        Args:
            observation: The result of `observe`.
            occupied: Pixels of the window that belong to other objects, (size, size) in 0..1.
            size_wh: Size of the picture.

        Returns:
            Its mask, (H, W), or None if it is lost; and the mean score inside.
        """
        soft = observation.soft if occupied is None else observation.soft * (1 - occupied)
        soft, dropped = main_component(soft, observation, self._target, self._appearance)
        mask = observation.window.mask(soft, size_wh, 0.5)
        area = float(mask.sum())
        grid = cv2.resize(soft, observation.score.shape, interpolation=cv2.INTER_AREA)
        fit = masked_mean(observation.score, grid > 0.5)
        prompt_fit = masked_mean(observation.prompt_score, grid > 0.5)
        similarity = self._appearance.similarity(observation.expanded, grid > 0.5)
        target = self._target
        if not is_present(target, observation, grid > 0.5, (area, fit, similarity)):
            target.frames_lost += 1
            return None, fit
        target.update(mask, fit, prompt_fit, similarity)
        self._store_soft_mask(observation.window, soft)
        due = target.age % self._effort.update_interval == 0
        similar = similarity > target.similarity - MAX_UPDATE_SIMILARITY_DROP
        if due and area > 0.7 * target.area and similar:
            self._queue_update(observation, grid, dropped)
        return self._output_mask(observation, soft, occupied, mask), fit

    def _output_mask(
        self, observation: Observation, soft: Map, occupied: Map | None, mask: Mask
    ) -> Mask:
        """Refine the mask for output only: tracking on refined masks would add up their errors."""
        if not self._effort.refines_masks or observation.prior is None:
            return mask
        refined = refine_mask(observation, soft) * (1 if occupied is None else 1 - occupied)
        height, width = mask.shape
        output = observation.window.mask(refined, (width, height), 0.5)
        return output if output.any() else mask

    def state(self) -> State:
        """Return the classifiers, templates, last mask and target state as arrays."""
        self._apply_queued_update()
        return {
            **self._ridge.state(),
            **self._discriminative.state(),
            **self._redetector.state(),
            "soft": self._soft_mask.copy(),
            "looks": self._appearance.templates.copy(),
            "place": np.array(astuple(self._target)),
        }

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        self._queued_update = None
        self._ridge.restore(state)
        self._discriminative.restore(state)
        self._redetector.restore(state)
        self._appearance.templates = state["looks"].copy()
        self._soft_mask, self._target = state["soft"].copy(), TargetState(*state["place"].tolist())

    def observe_window(
        self, picture: Picture, window: CropWindow, prior: Map | None = None
    ) -> Observation:
        """Classify one window; `prior`, (size / 2, size / 2), is the warped mask, if any."""
        self._apply_queued_update()
        return self._classify(self._window_features(picture, window), window, prior)

    def _window_features(
        self, picture: Picture, window: CropWindow, pool: Executor | None = None
    ) -> WindowFeatures:
        features = crop_features(window.crop(picture, self._effort.crop_side))
        discriminative_score, expanded = run_parallel(
            pool,
            lambda: self._discriminative.scores(features),
            lambda: self._ridge.expand(features.grid),
        )
        in_picture = window.in_picture((picture.shape[1], picture.shape[0]), self._effort.grid)
        return WindowFeatures(features, expanded, discriminative_score, in_picture)

    def _classify(
        self, window_features: WindowFeatures, window: CropWindow, prior: Map | None
    ) -> Observation:
        """Combine the scores and a location prior into logits, and sharpen the soft mask.

        The scores that rest on prompted frames only count as far as the prompted appearance holds.
        """
        features, expanded, discriminative_score, inside = window_features
        size = self._effort.crop_side
        scores = self._ridge.scores(expanded).reshape(*inside.shape, 2)
        score, prompt_score = scores[..., 0], scores[..., 1]
        logit = 4 * score + self._target.appearance_confidence * (
            np.minimum(prompt_score, 0) + DISCRIMINATIVE_LOGIT_WEIGHT * discriminative_score
        )
        if prior is None:
            logit += center_prior(self._effort.grid)
        else:
            reach = np.sqrt(self._target.area) * self._effort.grid / window.side
            logit += location_prior(prior, self._effort.grid, max(float(reach), 2))
        soft = 1 / (1 + np.exp(-np.where(inside, logit, -8)))
        soft = cv2.resize(soft.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        soft = guided_filter(features.crop, soft, size // 32)
        return Observation(
            features,
            window,
            soft,
            score,
            prompt_score,
            discriminative_score,
            expanded,
            inside,
            prior,
        )

    def _store_soft_mask(self, window: CropWindow, soft: Map) -> None:
        self._soft_mask, target = soft, self._target
        target.soft_x, target.soft_y, target.soft_side = window.x, window.y, window.side

    def _queue_update(self, observation: Observation, soft_grid: Map, dropped: Map | None) -> None:
        """Queue samples of this frame, weighted by their certainty; one cell in `pixel_stride`."""
        weight = np.abs(2 * soft_grid - 1) * observation.in_picture
        if dropped is not None:
            ignored = cv2.resize(dropped, soft_grid.shape, interpolation=cv2.INTER_AREA)
            weight = weight * (1 - ignored)
        stride = self._effort.pixel_stride
        cells = slice(int(self._target.age) % stride, None, stride)
        inside = (soft_grid > 0.5).astype(np.float32).ravel()[cells]
        self._queued_update = observation.expanded[cells], inside, weight.ravel()[cells]

    def _apply_queued_update(self) -> None:
        """Fit the ridge classifier to the queued samples."""
        if self._queued_update is not None:
            self._ridge.add_samples(*self._queued_update, prompted=False)
            self._ridge.solve()
            self._queued_update = None
