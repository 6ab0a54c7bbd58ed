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
from dataclasses import astuple, replace

import cv2
import numpy as np

from annotate.backbone import Map, run_parallel
from annotate.items.masks import pixel_box
from annotate.items.records import Mask, Picture, State
from annotate.propagators.light.appearance import ObjectModel
from annotate.propagators.light.corrections import refine_clicked_mask
from annotate.propagators.light.crops import (
    CropWindow,
    Effort,
    window_around_mask,
    window_around_part,
    window_side,
)
from annotate.propagators.light.motion import GreyPicture, warp_mask
from annotate.propagators.light.presence import (
    is_present,
    main_component,
    matches_target,
    measure,
    same_shape_new_appearance,
)
from annotate.propagators.light.refine import Points, is_object, refine_mask
from annotate.propagators.light.target import (
    FLASH_FRAMES,
    Candidate,
    Observation,
    TargetState,
    centroid_xy,
    masked_mean,
    overlap,
    samples,
    trim_to_candidate,
)

MAX_UPDATE_SIMILARITY_DROP = 0.15  # below the usual similarity; further below, no update
RECHECK_SIMILARITY_DROP = 0.06  # below the similarity at the prompt; further below, look nearby too
MIN_CANDIDATE_SCORE = 0.5
MIN_TRIM_GAIN, MIN_MOVE_GAIN = 0.04, 0.02  # of similarity, to trim the mask or to move elsewhere
CANDIDATE_WINDOW_SCALE = 1.3  # side of the window on a candidate, in usual sides
SEARCH_SCALES, SEARCH_CANDIDATES = (1.0, 0.6, 1.7), 2  # sizes, one per frame in turn; candidates
# A prompt on a mask that overlaps the tracked one less than this contradicts it. For so many frames
# the object is then searched for as well, on one frame of so many, unless both agree so often.
MIN_OVERLAP, SAME_OVERLAP = 0.25, 0.5  # IoU
MAX_DOUBT_FRAMES, DOUBT_INTERVAL, MAX_AGREEMENTS = 90, 2, 4


class Tracker:
    """One object: fitted to its prompts with `fit`, tracked from `start` on."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._model = ObjectModel(effort)
        self._ridge, self._discriminative = self._model.ridge, self._model.discriminative
        self._appearance, self._redetector = self._model.templates, self._model.redetector
        self._soft_mask: Map = np.zeros((effort.crop_side, effort.crop_side), np.float32)
        self._target = TargetState()
        self._earlier = TargetState()  # before the last prompt, if that contradicts it
        self._queued_update: tuple[Map, Map, Map] | None = None  # samples of the previous frame

    @property
    def started(self) -> bool:
        """True after the first prompt of the pass."""
        return bool(self._target.started)

    def fit(self, picture: Picture, soft: Map) -> None:
        """Fit to a prompted picture: `soft`, (H, W) in 0..1, is the object, the rest is not."""
        if (soft > 0.5).any():
            self._apply_queued_update()
            self._model.fit(picture, soft)

    def start(self, picture: Picture, mask: Mask, *, sure: bool = False) -> float:
        """Place the object at `mask`, (H, W), if `sure` beyond doubt; returns the mean score."""
        self._earlier = TargetState() if sure else self._contradicted_target(mask)
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

    def _contradicted_target(self, mask: Mask) -> TargetState:
        """Return the target, as a lost one, if it was not at `mask`; else one that has not started.

        A prompt may lie on a frame that shows little of the object, where it enters the picture or
        comes out of an occlusion: what was tracked until then may be the better start.
        """
        target = self._target
        if self._earlier.started:  # the last prompt is in doubt still
            target = self._earlier
        elif not target.frames_lost:
            size_wh = (mask.shape[1], mask.shape[0])
            tracked = target.soft_window.mask(self._soft_mask, size_wh, 0.5)
            if overlap(tracked, mask) > MIN_OVERLAP:
                return TargetState()
        return replace(target, age=0, frames_lost=max(target.frames_lost, 1), agreements=0)

    def stop(self) -> None:
        """Stop tracking until `start`; the classifiers stay as they are."""
        self._apply_queued_update()
        self._target, self._earlier = TargetState(), TargetState()

    def refine_prompt(
        self,
        picture: Picture,
        clicked: Map,
        clicks: tuple[Points, Points],
        greys: tuple[GreyPicture, GreyPicture],
    ) -> Mask:
        """Refine the mask of a click, if there are other prompts: see `refine_clicked_mask`.

        `greys` are this picture and the previous one in grey. `start` comes next.
        """
        if self._model.prompts < 2 or not (clicked > 0.5).any():
            return clicked > 0.5
        is_tracked = self.started and not self._target.frames_lost
        tracked = self.observe(picture, *greys) if is_tracked else None
        return refine_clicked_mask(picture, clicked, clicks, self._model, self._target, tracked)

    def reject(self, picture: Picture, mask: Mask) -> None:
        """Learn that `mask`, (H, W), is not the object, and lose it; `start` finds it again."""
        self._queued_update = None  # it was learned from the wrong mask
        self._model.reject(picture, mask, (self._target.width, self._target.height))
        self._target.frames_lost = 1

    def search_elsewhere(self, picture: Picture, outside_xy: Points) -> tuple[Mask | None, float]:
        """Search for a rejected object on the same picture: its mask, if found, and mean score.

        A mask with any of the points, (n, 2), in it is not the object.
        """
        mask, fit = self.update(self._search(picture), None, (picture.shape[1], picture.shape[0]))
        if mask is not None and any(mask[int(y), int(x)] for x, y in outside_xy):
            self._queued_update, self._target.frames_lost, mask = None, 1, None
        return mask, fit

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
        self._target.age += 1
        if self._target.frames_lost:
            observation = self._search(picture)
        else:
            observation = self._follow(picture, grey, previous_grey, pool)
        return self._surer(picture, observation) if self._earlier.started else observation

    def _search(self, picture: Picture) -> Observation:
        """Search the whole picture for the lost object."""
        target = self._target
        scale = SEARCH_SCALES[int(target.age) % len(SEARCH_SCALES)]
        size_wh = max(target.width, 4) * scale, max(target.height, 4) * scale
        candidates = self._redetector.search_picture(picture, size_wh, SEARCH_CANDIDATES)
        return self._best_candidate(picture, candidates)[0]

    def _surer(self, picture: Picture, observation: Observation) -> Observation:
        """Search for the object as it was before the last prompt; follow what is more similar."""
        current, earlier = self._target, self._earlier
        earlier.age += 1
        earlier.frames_lost += 1
        if earlier.age > MAX_DOUBT_FRAMES or earlier.agreements >= MAX_AGREEMENTS:
            self._earlier = TargetState()
            return observation
        if earlier.age % DOUBT_INTERVAL:
            return observation
        self._target, size_wh = earlier, (picture.shape[1], picture.shape[0])
        found = self._search(picture)
        measured = measure(found, found.soft, size_wh, earlier, self._appearance)
        is_found = is_present(earlier, found, measured.grid > 0.5, measured.values)
        self._target = current
        if not is_found:
            return observation
        gain = self._similarity(found) - self._similarity(observation)
        if current.frames_lost or gain > MIN_MOVE_GAIN:
            earlier.age = FLASH_FRAMES + 1
            self._target, self._earlier = earlier, TargetState()
            return found
        tracked = measure(observation, observation.soft, size_wh, current, self._appearance).mask
        earlier.agreements += overlap(measured.mask, tracked) > SAME_OVERLAP
        return observation

    def _follow(
        self,
        picture: Picture,
        grey: GreyPicture,
        previous_grey: GreyPicture,
        pool: Executor | None,
    ) -> Observation:
        """Observe the object near its last position."""
        target = self._target
        window = target.window
        prior, _, window_features = run_parallel(
            pool,
            lambda: warp_mask(
                self._soft_mask, (target.soft_window, window), (previous_grey, grey), self._effort
            ),
            self._apply_queued_update,
            lambda: self._model.window_features(picture, window, pool),
        )
        observation = self._model.classify(window_features, window, prior, target)
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
        adapted = self._model.classify(
            observation.window_features, observation.window, observation.prior, self._target
        )
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
        soft, dropped, mask, grid, (area, fit, similarity) = measure(
            observation, soft, size_wh, self._target, self._appearance
        )
        prompt_fit = masked_mean(observation.prompt_score, grid > 0.5)
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
            **self._model.state(),
            "soft": self._soft_mask.copy(),
            "place": np.array(astuple(self._target)),
            "earlier": np.array(astuple(self._earlier)),
        }

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        self._queued_update = None
        self._model.restore(state)
        self._soft_mask, self._target = state["soft"].copy(), TargetState(*state["place"].tolist())
        self._earlier = TargetState(*state["earlier"].tolist())

    def observe_window(
        self, picture: Picture, window: CropWindow, prior: Map | None = None
    ) -> Observation:
        """Classify one window; `prior`, (size / 2, size / 2), is the warped mask, if any."""
        self._apply_queued_update()
        features = self._model.window_features(picture, window)
        return self._model.classify(features, window, prior, self._target)

    def _store_soft_mask(self, window: CropWindow, soft: Map) -> None:
        self._soft_mask, target = soft, self._target
        target.soft_x, target.soft_y, target.soft_side = window.x, window.y, window.side

    def _queue_update(self, observation: Observation, soft_grid: Map, dropped: Map | None) -> None:
        """Queue samples of this frame; one cell in `pixel_stride`."""
        stride = self._effort.pixel_stride
        cells = slice(int(self._target.age) % stride, None, stride)
        self._queued_update = samples(observation, soft_grid, dropped, cells)

    def _apply_queued_update(self) -> None:
        """Fit the ridge classifier to the queued samples."""
        if self._queued_update is not None:
            self._ridge.add_samples(*self._queued_update, prompted=False)
            self._ridge.solve()
            self._queued_update = None
