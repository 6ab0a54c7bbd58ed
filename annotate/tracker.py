"""Follow one object: what it looks like, where it is, and whether it is there at all."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import astuple
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.abreast import abreast
from annotate.apart import Shown
from annotate.features import Seen, seen
from annotate.flash import outlasted
from annotate.found_again import is_thing
from annotate.guided import guided
from annotate.kin import Kin
from annotate.place import (
    Guess,
    Place,
    Spot,
    about,
    box,
    mean,
    middle,
    side,
    towards,
    trimmed,
    within,
)
from annotate.present import alike, present
from annotate.prior import Grey, carried, central, pulled
from annotate.records import Mask, Picture
from annotate.redrawn import redrawn
from annotate.ridge import Ridge
from annotate.search import Search
from annotate.views import VIEWS, Effort, elsewhere, views
from annotate.whole import one_thing
from annotate.windows import Map, Window

# What a window shows: as both classifiers see it, and which of it is on the picture.
Sight = tuple[Seen, Map, Map, Mask]

APART = 2.0  # what the score by maps learnt on gameplay weighs; the classifier's own has 4
LEARNT = 0.15  # how much less akin than usual to what was shown a thing may be, to learn from it
DOUBT = 0.06  # so much less akin than when it was shown, and it is looked for nearby as well
HOT = 0.5  # a spot less hot is none
TRIMMED, MOVED = 0.04, 0.02  # how much more akin what is cut, or is elsewhere, has to be
WIDE = 1.3  # the window to look at a spot in, in usual windows
SCALES, TRIES = (1.0, 0.6, 1.7), 2  # sizes a lost object is looked for in, by turns; spots tried
REFUTED = 0.5  # weight of the rest of a prompted picture, to what is round the object
YOUNG = 5  # frames after a prompt in which what was shown may turn out to be a flash


class Tracker:
    """An object that was taught, and may have started."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._ridge, self._shown = Ridge(effort.hidden), Shown()
        self._soft: Map = np.zeros((effort.size, effort.size), np.float32)
        self._kin = Kin()
        self._search = Search()
        self._place = Place()
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
        for crop, inside, weight in views(picture, soft, self._effort):
            view = seen(crop)
            expanded = self._ridge.expand(view.joined)
            self._shown.learn(view, inside, weight)
            self._ridge.learn(expanded, inside.ravel(), weight.ravel(), shown=True)
            self._kin.show(expanded, (inside > 0.5) & (weight > 0.5))
        rest = list(elsewhere(picture, mask, self._effort))
        share = REFUTED * len(VIEWS) / max(len(rest), 1)
        for crop, outside in rest:
            view = seen(crop)
            self._shown.refute(view, outside, share)
            self._ridge.refute(self._ridge.expand(view.joined), outside.ravel(), share)
        self._ridge.solve()
        self._shown.solve()
        self._search.teach(picture, soft)

    def start(self, picture: Picture, mask: Mask) -> float:
        """Take `mask`, (H, W), as where the object is on this frame; returns how well it fits."""
        window = about(mask)
        shown = self.look(picture, window)
        where = window.cut(mask.astype(np.float32), self._effort.grid, outside=False) > 0.5
        fit, likeness = mean(shown.score, where), mean(shown.sure, where)
        x0, y0, x1, y1 = box(mask)
        kin, size = self._kin.likeness(shown.expanded, where), (x1 - x0, y1 - y0, float(mask.sum()))
        self._place = Place(window.x, window.y, *size, fit, likeness, kin, kin, started=1)
        self._place.thing = float(is_thing(shown))
        soft = window.cut(mask.astype(np.float32), self._effort.size, outside=False)
        self._remember(window, soft)
        return fit

    def guess(
        self, picture: Picture, grey: Grey, before: Grey, pool: Executor | None = None
    ) -> Guess:
        """Where it seems to be on `picture`, `grey` in grey; `pool` may help to be quicker."""
        place = self._place
        place.age += 1
        if place.lost:
            times = SCALES[int(place.age) % len(SCALES)]
            size_wh = max(place.width, 4) * times, max(place.height, 4) * times
            return self._closest(picture, self._search.everywhere(picture, size_wh, TRIES))[0]
        here = place.window
        prior, _, sight = abreast(
            pool,
            lambda: carried(self._soft, (place.soft_window, here), (before, grey), self._effort),
            self._catch_up,
            lambda: self._sight(picture, here, pool),
        )
        guess = self._fused(sight, here, prior)
        if place.age <= YOUNG:
            guess = self._recoloured(guess) or guess
        if place.age % self._effort.every:
            return guess
        kin = self._kinship(guess)
        return guess if kin > place.shown - DOUBT else self._doubted(picture, guess, kin)

    def _doubted(self, picture: Picture, guess: Guess, kin: float) -> Guess:
        """What was followed, cut to what looks like it, or what looks more like it nearby."""
        place = self._place
        spot = self._search.nearby(picture, place.x, place.y, (place.width, place.height))
        if spot.heat < HOT:
            return guess
        cut = trimmed(guess, spot)
        if (likeness := self._kinship(cut)) > kin + TRIMMED:
            guess, kin = cut, likeness
        x, y = middle(guess)
        if abs(spot.x - x) < 0.3 * place.width and abs(spot.y - y) < 0.3 * place.height:
            return guess
        other, likeness = self._closest(picture, [spot])
        return other if likeness > kin + MOVED and alike(place, likeness, other) else guess

    def _closest(self, picture: Picture, spots: Iterable[Spot]) -> tuple[Guess, float]:
        """The spot most akin from near, seen in a window about what is there; and how akin."""
        found = []
        for spot in spots:
            window = Window(spot.x, spot.y, WIDE * side(spot.width, spot.height))
            guess = self.look(picture, window)
            guess.heat = spot.heat
            found.append((self._kinship(guess), guess))
        kin, guess = max(found, key=lambda each: each[0])
        soft, _ = one_thing(guess.soft, guess, self._place, self._kin)
        if (soft > 0.5).sum() < 16:
            return guess, kin
        again = self.look(picture, within(soft > 0.5, guess.window))
        again.heat = guess.heat
        closer = self._kinship(again)
        return (again, closer) if closer > kin - 0.02 else (guess, kin)

    def _kinship(self, guess: Guess) -> float:
        """How like what was shown it is as a whole, -1..1."""
        shape = guess.score.shape
        where = cv2.resize(guess.soft, shape, interpolation=cv2.INTER_AREA) > 0.5
        return self._kin.likeness(guess.expanded, where) if where.any() else -1.0

    def _recoloured(self, guess: Guess) -> Guess | None:
        """After a flash or a shadow, the shape still there and apart: learnt anew from it."""
        found = outlasted(guess, self._ridge)
        if found is None:
            return None
        was, weight = found
        self._ridge.learn(guess.expanded, was.astype(np.float32).ravel(), weight, shown=False)
        self._ridge.solve()
        sight = guess.seen, guess.expanded, guess.apart, guess.inside
        again = self._fused(sight, guess.window, guess.prior)
        self._place.fit, self._place.likeness = mean(again.score, was), mean(again.sure, was)
        self._kin.accept(again.expanded, was)
        return again

    def settle(
        self, guess: Guess, taken: Map | None, size_wh: tuple[int, int]
    ) -> tuple[Mask | None, float]:
        """Decide; `taken` is what other objects have of the window. Returns a mask and its fit."""
        soft = guess.soft if taken is None else guess.soft * (1 - taken)
        soft, dropped = one_thing(soft, guess, self._place, self._kin)
        mask = guess.window.mask(soft, size_wh, 0.5)
        area = float(mask.sum())
        grid = cv2.resize(soft, guess.score.shape, interpolation=cv2.INTER_AREA)
        fit, likeness = mean(guess.score, grid > 0.5), mean(guess.sure, grid > 0.5)
        kinship = self._kin.likeness(guess.expanded, grid > 0.5)
        if not present(self._place, guess, grid > 0.5, (area, fit, kinship)):
            self._place.lost += 1
            return None, fit
        self._move(guess.window, soft, mask, (area, fit, likeness, kinship))
        akin = kinship > self._place.kinship - LEARNT
        if self._place.age % self._effort.every == 0 and area > 0.7 * self._place.area and akin:
            self._note(guess, grid, dropped)
        return self._shape(guess, soft, taken, mask), fit

    def _shape(self, guess: Guess, soft: Map, taken: Map | None, mask: Mask) -> Mask:
        """The mask to show: not learnt from nor gone by, or its errors would feed on themselves."""
        if not self._effort.redraws or guess.prior is None:
            return mask
        better = redrawn(guess, soft) * (1 if taken is None else 1 - taken)
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
        self._soft, self._place = state["soft"].copy(), Place(*state["place"].tolist())

    def look(self, picture: Picture, window: Window, prior: Map | None = None) -> Guess:
        """What is in `window`; `prior`, of half the crop's size, is where it was, if it was."""
        self._catch_up()
        return self._fused(self._sight(picture, window), window, prior)

    def _sight(self, picture: Picture, window: Window, pool: Executor | None = None) -> Sight:
        view = seen(window.cut(picture, self._effort.size))
        apart, expanded = abreast(
            pool, lambda: self._shown.scores(view), lambda: self._ridge.expand(view.joined)
        )
        inside = window.inside((picture.shape[1], picture.shape[0]), self._effort.grid)
        return view, expanded, apart, inside

    def _fused(self, sight: Sight, window: Window, prior: Map | None) -> Guess:
        """What the classifier makes of it."""
        size, (view, expanded, apart, inside) = self._effort.size, sight
        scores = self._ridge.scores(expanded).reshape(*inside.shape, 2)
        score, sure = scores[..., 0], scores[..., 1]
        logit = 4 * score + self._place.faith * (np.minimum(sure, 0) + APART * apart)
        if prior is None:
            logit += central(self._effort.grid)
        else:
            reach = np.sqrt(self._place.area) * self._effort.grid / window.side
            logit += pulled(prior, self._effort.grid, max(float(reach), 2))
        soft = 1 / (1 + np.exp(-np.where(inside, logit, -8)))
        soft = cv2.resize(soft.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        soft = guided(view.crop, soft, size // 32)
        return Guess(view, window, soft, score, sure, apart, expanded, inside, prior)

    def _move(
        self, window: Window, soft: Map, mask: Mask, now: tuple[float, float, float, float]
    ) -> None:
        """Go to where it is; `now` are its area, fit, likeness and kinship there."""
        area, fit, likeness, kinship = now
        x0, y0, x1, y1 = box(mask)
        place = self._place
        place.x, place.y = (x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2
        place.width = towards(x1 - x0, place.width, 0.97, 1.1)
        place.height = towards(y1 - y0, place.height, 0.97, 1.1)
        place.area = towards(area, place.area, 0.94, 1.2)
        place.fit += 0.05 * (fit - place.fit)
        place.likeness += (1 if place.age <= YOUNG else 0.05) * (likeness - place.likeness)
        place.kinship += 0.02 * (kinship - place.kinship)
        place.lost = 0
        self._remember(window, soft)

    def _remember(self, window: Window, soft: Map) -> None:
        self._soft, place = soft, self._place
        place.soft_x, place.soft_y, place.soft_side = window.x, window.y, window.side

    def _note(self, guess: Guess, grid: Map, dropped: Map | None) -> None:
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
