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


def run_parallel(pool: Executor | None, *works: Callable[[], Any]) -> list[Any]:
    """What each of `works` returns: the last is done here, and meanwhile the others on `pool`.

    Without a pool they are done here one after the other. None may need what another one changes.
    """
    *others, mine = works
    if pool is None:
        return [work() for work in works]
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
        self._ridge, self._shown = RidgeClassifier(effort.hidden), DiscriminativeClassifier()
        self._soft: Map = np.zeros((effort.size, effort.size), np.float32)
        self._kin = AppearanceTemplates()
        self._search = Redetector()
        self._place = TargetState()
        self._lesson: tuple[Map, Map, Map] | None = None  # what of the frame before to learn yet

    @property
    def started(self) -> bool:
        """Whether there is anything to follow."""
        return bool(self._place.started)

    def teach(self, picture: Picture, soft: Map) -> None:
        """Learn, for ever, what is inside `soft`, (H, W) in 0..1, and what outside."""
        mask = soft > 0.5
        if not mask.any():
            return
        self._catch_up()
        for crop, inside, weight in augmented_crops(picture, soft, self._effort):
            view = crop_features(crop)
            expanded = self._ridge.expand(view.joined)
            self._shown.learn(view, inside, weight)
            self._ridge.learn(expanded, inside.ravel(), weight.ravel(), shown=True)
            self._kin.show(expanded, (inside > 0.5) & (weight > 0.5))
        rest = list(background_crops(picture, mask, self._effort))
        share = BACKGROUND_WEIGHT * len(AUGMENTATIONS) / max(len(rest), 1)
        for crop, outside in rest:
            view = crop_features(crop)
            self._shown.refute(view, outside, share)
            self._ridge.refute(self._ridge.expand(view.joined), outside.ravel(), share)
        self._ridge.solve()
        self._shown.solve()
        self._search.teach(picture, soft)

    def start(self, picture: Picture, mask: Mask) -> float:
        """Take `mask`, (H, W), as where the object is on this frame; returns how well it fits."""
        window = window_around_mask(mask)
        shown = self.look(picture, window)
        where = window.cut(mask.astype(np.float32), self._effort.grid, outside=False) > 0.5
        fit, likeness = masked_mean(shown.score, where), masked_mean(shown.sure, where)
        x0, y0, x1, y1 = pixel_box(mask)
        kin, size = self._kin.likeness(shown.expanded, where), (x1 - x0, y1 - y0, float(mask.sum()))
        self._place = TargetState(window.x, window.y, *size, fit, likeness, kin, kin, started=1)
        self._place.thing = float(is_object(shown))
        soft = window.cut(mask.astype(np.float32), self._effort.size, outside=False)
        self._remember(window, soft)
        return fit

    def guess(
        self, picture: Picture, grey: GreyPicture, before: GreyPicture, pool: Executor | None = None
    ) -> Observation:
        """Where it seems to be on `picture`, `grey` in grey; `pool` may help to be quicker."""
        place = self._place
        place.age += 1
        if place.lost:
            times = SEARCH_SCALES[int(place.age) % len(SEARCH_SCALES)]
            size_wh = max(place.width, 4) * times, max(place.height, 4) * times
            return self._closest(picture, self._search.everywhere(picture, size_wh, SEARCH_TRIES))[
                0
            ]
        here = place.window
        prior, _, sight = run_parallel(
            pool,
            lambda: warp_mask(self._soft, (place.soft_window, here), (before, grey), self._effort),
            self._catch_up,
            lambda: self._sight(picture, here, pool),
        )
        guess = self._fused(sight, here, prior)
        if place.age <= FLASH_FRAMES:
            guess = self._recoloured(guess) or guess
        if place.age % self._effort.every:
            return guess
        kin = self._kinship(guess)
        return (
            guess
            if kin > place.shown - RECHECK_SIMILARITY_DROP
            else self._doubted(picture, guess, kin)
        )

    def _doubted(self, picture: Picture, guess: Observation, kin: float) -> Observation:
        """What was followed, cut to what looks like it, or what looks more like it nearby."""
        place = self._place
        spot = self._search.nearby(picture, place.x, place.y, (place.width, place.height))
        if spot.heat < MIN_CANDIDATE_SCORE:
            return guess
        cut = trim_to_candidate(guess, spot)
        if (likeness := self._kinship(cut)) > kin + MIN_TRIM_GAIN:
            guess, kin = cut, likeness
        x, y = centroid_xy(guess)
        if abs(spot.x - x) < 0.3 * place.width and abs(spot.y - y) < 0.3 * place.height:
            return guess
        other, likeness = self._closest(picture, [spot])
        return (
            other
            if likeness > kin + MIN_MOVE_GAIN and matches_target(place, likeness, other)
            else guess
        )

    def _closest(self, picture: Picture, spots: Iterable[Candidate]) -> tuple[Observation, float]:
        """The spot most akin from near, seen in a window about what is there; and how akin."""
        found = []
        for spot in spots:
            window = CropWindow(
                spot.x, spot.y, CANDIDATE_WINDOW_SCALE * window_side(spot.width, spot.height)
            )
            guess = self.look(picture, window)
            guess.heat = spot.heat
            found.append((self._kinship(guess), guess))
        kin, guess = max(found, key=lambda each: each[0])
        soft, _ = main_component(guess.soft, guess, self._place, self._kin)
        if (soft > 0.5).sum() < 16:
            return guess, kin
        again = self.look(picture, window_around_part(soft > 0.5, guess.window))
        again.heat = guess.heat
        closer = self._kinship(again)
        return (again, closer) if closer > kin - 0.02 else (guess, kin)

    def _kinship(self, guess: Observation) -> float:
        """How like what was shown it is as a whole, -1..1."""
        shape = guess.score.shape
        where = cv2.resize(guess.soft, shape, interpolation=cv2.INTER_AREA) > 0.5
        return self._kin.likeness(guess.expanded, where) if where.any() else -1.0

    def _recoloured(self, guess: Observation) -> Observation | None:
        """After a flash or a shadow, the shape still there and apart: learnt anew from it."""
        found = same_shape_new_appearance(guess, self._ridge)
        if found is None:
            return None
        was, weight = found
        self._ridge.learn(guess.expanded, was.astype(np.float32).ravel(), weight, shown=False)
        self._ridge.solve()
        sight = guess.seen, guess.expanded, guess.apart, guess.inside
        again = self._fused(sight, guess.window, guess.prior)
        self._place.fit, self._place.likeness = (
            masked_mean(again.score, was),
            masked_mean(again.sure, was),
        )
        self._kin.accept(again.expanded, was)
        return again

    def settle(
        self, guess: Observation, taken: Map | None, size_wh: tuple[int, int]
    ) -> tuple[Mask | None, float]:
        """Decide; `taken` is what other objects have of the window. Returns a mask and its fit."""
        soft = guess.soft if taken is None else guess.soft * (1 - taken)
        soft, dropped = main_component(soft, guess, self._place, self._kin)
        mask = guess.window.mask(soft, size_wh, 0.5)
        area = float(mask.sum())
        grid = cv2.resize(soft, guess.score.shape, interpolation=cv2.INTER_AREA)
        fit, likeness = masked_mean(guess.score, grid > 0.5), masked_mean(guess.sure, grid > 0.5)
        kinship = self._kin.likeness(guess.expanded, grid > 0.5)
        if not is_present(self._place, guess, grid > 0.5, (area, fit, kinship)):
            self._place.lost += 1
            return None, fit
        self._move(guess.window, soft, mask, (area, fit, likeness, kinship))
        akin = kinship > self._place.kinship - MAX_UPDATE_SIMILARITY_DROP
        if self._place.age % self._effort.every == 0 and area > 0.7 * self._place.area and akin:
            self._note(guess, grid, dropped)
        return self._shape(guess, soft, taken, mask), fit

    def _shape(self, guess: Observation, soft: Map, taken: Map | None, mask: Mask) -> Mask:
        """The mask to show: not learnt from nor gone by, or its errors would feed on themselves."""
        if not self._effort.redraws or guess.prior is None:
            return mask
        better = refine_mask(guess, soft) * (1 if taken is None else 1 - taken)
        high, wide = mask.shape
        shown = guess.window.mask(better, (wide, high), 0.5)
        return shown if shown.any() else mask

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that is remembered of the object."""
        self._catch_up()
        return {
            **self._ridge.state(),
            **self._shown.state(),
            **self._search.state(),
            "soft": self._soft.copy(),
            "looks": self._kin.looks.copy(),
            "place": np.array(astuple(self._place)),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what `state` gave."""
        self._lesson = None
        self._ridge.restore(state)
        self._shown.restore(state)
        self._search.restore(state)
        self._kin.looks = state["looks"].copy()
        self._soft, self._place = state["soft"].copy(), TargetState(*state["place"].tolist())

    def look(self, picture: Picture, window: CropWindow, prior: Map | None = None) -> Observation:
        """What is in `window`; `prior`, of half the crop's size, is where it was, if it was."""
        self._catch_up()
        return self._fused(self._sight(picture, window), window, prior)

    def _sight(
        self, picture: Picture, window: CropWindow, pool: Executor | None = None
    ) -> WindowFeatures:
        view = crop_features(window.cut(picture, self._effort.size))
        apart, expanded = run_parallel(
            pool, lambda: self._shown.scores(view), lambda: self._ridge.expand(view.joined)
        )
        inside = window.inside((picture.shape[1], picture.shape[0]), self._effort.grid)
        return view, expanded, apart, inside

    def _fused(self, sight: WindowFeatures, window: CropWindow, prior: Map | None) -> Observation:
        """What the classifier makes of it."""
        size, (view, expanded, apart, inside) = self._effort.size, sight
        scores = self._ridge.scores(expanded).reshape(*inside.shape, 2)
        score, sure = scores[..., 0], scores[..., 1]
        logit = 4 * score + self._place.faith * (
            np.minimum(sure, 0) + DISCRIMINATIVE_LOGIT_WEIGHT * apart
        )
        if prior is None:
            logit += center_prior(self._effort.grid)
        else:
            reach = np.sqrt(self._place.area) * self._effort.grid / window.side
            logit += location_prior(prior, self._effort.grid, max(float(reach), 2))
        soft = 1 / (1 + np.exp(-np.where(inside, logit, -8)))
        soft = cv2.resize(soft.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        soft = guided_filter(view.crop, soft, size // 32)
        return Observation(view, window, soft, score, sure, apart, expanded, inside, prior)

    def _move(
        self, window: CropWindow, soft: Map, mask: Mask, now: tuple[float, float, float, float]
    ) -> None:
        """Go to where it is; `now` are its area, fit, likeness and kinship there."""
        area, fit, likeness, kinship = now
        x0, y0, x1, y1 = pixel_box(mask)
        place = self._place
        place.x, place.y = (x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2
        place.width = clamp_change(x1 - x0, place.width, 0.97, 1.1)
        place.height = clamp_change(y1 - y0, place.height, 0.97, 1.1)
        place.area = clamp_change(area, place.area, 0.94, 1.2)
        place.fit += 0.05 * (fit - place.fit)
        place.likeness += (1 if place.age <= FLASH_FRAMES else 0.05) * (likeness - place.likeness)
        place.kinship += 0.02 * (kinship - place.kinship)
        place.lost = 0
        self._remember(window, soft)

    def _remember(self, window: CropWindow, soft: Map) -> None:
        self._soft, place = soft, self._place
        place.soft_x, place.soft_y, place.soft_side = window.x, window.y, window.side

    def _note(self, guess: Observation, grid: Map, dropped: Map | None) -> None:
        """Remember what was found, to learn from it, the surer the more."""
        weight = np.abs(2 * grid - 1) * guess.inside
        if dropped is not None:
            weight = weight * (1 - cv2.resize(dropped, grid.shape, interpolation=cv2.INTER_AREA))
        some = slice(int(self._place.age) % self._effort.sparse, None, self._effort.sparse)
        inside = (grid > 0.5).astype(np.float32).ravel()[some]
        self._lesson = guess.expanded[some], inside, weight.ravel()[some]

    def _catch_up(self) -> None:
        """Learn what was noted."""
        if self._lesson is not None:
            self._ridge.learn(*self._lesson, shown=False)
            self._ridge.solve()
            self._lesson = None
