"""Follow one object: what it looks like, where it is, and whether it is there at all."""

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.features import features
from annotate.guided import guided
from annotate.kin import Kin
from annotate.place import Guess, Place, about, box, rewindowed, towards
from annotate.records import Mask, Picture
from annotate.ridge import Ridge
from annotate.views import Effort, views
from annotate.windows import Map, Window

Grey = npt.NDArray[np.uint8]

# How much less akin than usual to what was shown a thing may be: found again, and followed.
KIN_FOUND, KIN_KEPT = 0.1, 0.4
YOUNG = 5  # frames after a prompt in which what was shown may turn out to be a flash


class Tracker:
    """An object that was taught, and may have started."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._ridge = Ridge(effort.hidden)
        self._soft: Map = np.zeros((effort.size, effort.size), np.float32)
        self._kin = Kin()
        self._place = Place()

    @property
    def started(self) -> bool:
        """Whether there is anything to follow."""
        return bool(self._place.started)

    @property
    def lost(self) -> bool:
        """Whether it was not seen on the frame before."""
        return bool(self._place.lost)

    def teach(self, picture: Picture, mask: Mask) -> None:
        """Learn, for ever, what is inside and outside `mask`, (H, W)."""
        if not mask.any():
            return
        for crop, inside, weight in views(picture, mask, self._effort):
            expanded = self._ridge.expand(features(crop))
            self._ridge.learn(expanded, inside.ravel(), weight.ravel(), shown=True)
            self._kin.show(expanded, inside > 0.5)
        self._ridge.solve()

    def start(self, picture: Picture, mask: Mask) -> float:
        """Take `mask`, (H, W), as where the object is on this frame; returns how well it fits."""
        window = about(mask)
        crop = window.cut(picture, self._effort.size)
        expanded = self._ridge.expand(features(crop))
        score, sure = self._scores(expanded)
        grid = window.cut(mask.astype(np.float32), self._effort.grid, outside=False)
        fit, likeness = _mean(score, grid > 0.5), _mean(sure, grid > 0.5)
        x0, y0, x1, y1 = box(mask)
        kin = self._kin.likeness(expanded, grid > 0.5)
        size = x1 - x0, y1 - y0, float(mask.sum())
        self._place = Place(window.x, window.y, *size, fit, likeness, kin, started=1)
        self._remember(
            window, window.cut(mask.astype(np.float32), self._effort.size, outside=False)
        )
        return fit

    def guess(self, picture: Picture, grey: Grey, before: Grey) -> Guess:
        """Where it seems to be on `picture`; `grey` is that in grey, `before` the frame before."""
        self._place.age += 1
        if self.lost:
            return self._search(picture)
        window = self._place.window
        guess = self._look(picture, window, self._warped(window, grey, before))
        young = self._place.age <= YOUNG
        return (self._recoloured(guess) if young else None) or guess

    def _recoloured(self, guess: Guess) -> Guess | None:
        """What a flash or a shadow did: the shape is still there and apart, its colours are not.

        Then it is learnt anew from where it was.
        """
        grid = self._effort.grid
        prior = cv2.resize(guess.prior, (grid, grid), interpolation=cv2.INTER_AREA)
        was = prior > 0.5
        kept = (guess.score[was] > 0).mean() if was.any() else 1.0
        moved = (guess.soft > 0.5).mean() > 0.35 * was.mean()
        if kept > 0.35 or moved:
            return None
        y, x = np.mgrid[:grid, :grid] // 4
        blocks = ((x + y) % 2 == 0).ravel()
        near = (np.abs(2 * prior - 1) > 0.4).ravel() & guess.inside.ravel()
        inside = was.astype(np.float32).ravel()
        if self._ridge.persists(guess.expanded[near], inside[near], blocks[near]) < 0.85:
            return None
        weight = near.astype(np.float32)
        self._ridge.learn(guess.expanded, inside, weight, shown=False)
        self._ridge.solve()
        again = self._fused(guess.crop, guess.window, guess.expanded, guess.inside, guess.prior)
        self._place.fit, self._place.likeness = _mean(again.score, was), _mean(again.sure, was)
        self._kin.accept(again.expanded, was)
        return again

    def settle(
        self, guess: Guess, taken: Map | None, size_wh: tuple[int, int]
    ) -> tuple[Mask | None, float]:
        """Decide; `taken` is what other objects have of the window. Returns a mask and its fit."""
        soft = guess.soft if taken is None else guess.soft * (1 - taken)
        soft, dropped = self._one_thing(soft, guess)
        left, top, part = guess.window.paste(soft, size_wh)
        mask = np.zeros(size_wh[::-1], bool)
        mask[top : top + part.shape[0], left : left + part.shape[1]] = part > 0.5
        area = float(mask.sum())
        grid = cv2.resize(soft, guess.score.shape, interpolation=cv2.INTER_AREA)
        fit, likeness = _mean(guess.score, grid > 0.5), _mean(guess.sure, grid > 0.5)
        if not self._seen(guess, grid > 0.5, area, fit):
            self._place.lost = 1
            return None, fit
        kinship = self._kin.likeness(guess.expanded, grid > 0.5)
        self._move(guess.window, soft, mask, (area, fit, likeness, kinship))
        if self._place.age % self._effort.every == 0 and area > 0.7 * self._place.area:
            self._update(guess, grid, dropped)
        return mask, fit

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that is remembered of the object."""
        return {
            **self._ridge.state(),
            "soft": self._soft.copy(),
            "looks": self._kin.looks.copy(),
            "place": np.array(astuple(self._place)),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what `state` gave."""
        self._ridge.restore(state)
        self._kin.looks = state["looks"].copy()
        self._soft, self._place = state["soft"].copy(), Place(*state["place"].tolist())

    @property
    def _faith(self) -> float:
        """How far what a person showed still holds: 0 when the object came out of a flash."""
        return min(max(self._place.likeness, 0.0), 1.0)

    def _scores(self, expanded: Map) -> tuple[Map, Map]:
        scores = self._ridge.scores(expanded).reshape(self._effort.grid, self._effort.grid, 2)
        return scores[..., 0], scores[..., 1]

    def _warped(self, window: Window, grey: Grey, before: Grey) -> Map:
        """The mask of the frame before, taken along by the optical flow in the window."""
        size = self._effort.size // 2
        now, then = window.cut(grey, size), window.cut(before, size)
        flow = cv2.DISOpticalFlow.create(self._effort.motion).calc(now, then, None)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        soft = rewindowed(self._soft, self._place.soft_window, window, size)
        return np.asarray(cv2.remap(soft, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR))

    def _look(self, picture: Picture, window: Window, prior: Map | None) -> Guess:
        crop = window.cut(picture, self._effort.size)
        expanded = self._ridge.expand(features(crop))
        inside = window.inside((picture.shape[1], picture.shape[0]), self._effort.grid)
        return self._fused(crop, window, expanded, inside, prior)

    def _fused(
        self, crop: Picture, window: Window, expanded: Map, inside: Mask, prior: Map | None
    ) -> Guess:
        size = self._effort.size
        score, sure = self._scores(expanded)
        logit = 4 * score + self._faith * np.minimum(sure, 0)
        logit += self._within(window) if prior is None else self._pull(prior, window)
        with np.errstate(over="ignore"):  # far below zero: nothing of it is there
            soft = 1 / (1 + np.exp(-np.where(inside, logit, -8)))
        soft = cv2.resize(soft.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        return Guess(
            crop, window, guided(crop, soft, size // 32), score, sure, expanded, inside, prior
        )

    def _pull(self, prior: Map, window: Window) -> Map:
        """Logits: a little towards the prior, and strongly away from what is far from it."""
        grid = self._effort.grid
        small = cv2.resize(prior, (grid, grid), interpolation=cv2.INTER_AREA)
        reach = max(np.sqrt(self._place.area) * grid / window.side, 2)
        outside = (small < 0.5).astype(np.uint8)
        far = cv2.distanceTransform(outside, cv2.DIST_L2, 5) / reach
        return np.asarray(2 * (small - 0.5) - 8 * np.clip(far - 0.35, 0, 10))

    def _within(self, window: Window) -> Map:
        """Logits: nothing beyond one and a half times the usual box about the middle."""
        grid = self._effort.grid
        steps = np.abs((np.arange(grid) - (grid - 1) / 2) * (window.side / grid))
        out_x, out_y = steps > 0.75 * self._place.width, steps > 0.75 * self._place.height
        return np.where(out_y[:, None] | out_x[None], -12, 0).astype(np.float32)

    def _search(self, picture: Picture) -> Guess:
        """Look for a lost object all over the picture, coarsely, then closely at the best place."""
        height, width = picture.shape[:2]
        side = self._place.window.side
        zoom = min(self._effort.size / 2 / side, np.sqrt(512 * 288 / (width * height)), 1.0)
        wide, high = (max(64, 16 * round(zoom * length / 16)) for length in (width, height))
        small = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA)
        score = self._ridge.scores(self._ridge.expand(features(small)))[:, 0]
        score = score.reshape(high // 4, wide // 4)
        fx, fy = wide / 4 / width, high / 4 / height
        box = max(1, round(self._place.width * fx)) | 1, max(1, round(self._place.height * fy)) | 1
        heat = cv2.boxFilter(np.clip(score, -1, 1), -1, box, borderType=cv2.BORDER_REPLICATE)
        steps_y, steps_x = np.mgrid[: high // 4, : wide // 4]
        from_x, from_y = (steps_x + 0.5) / fx - self._place.x, (steps_y + 0.5) / fy - self._place.y
        heat += 0.2 * np.exp(-(from_x**2 + from_y**2) / (2 * side) ** 2)  # rather where it was
        y, x = np.unravel_index(int(heat.argmax()), heat.shape)
        window = Window((x + 0.5) / fx - 0.5, (y + 0.5) / fy - 0.5, side)
        return self._look(picture, window, None)

    def _one_thing(self, soft: Map, guess: Guess) -> tuple[Map, Map | None]:
        """Drop what is apart from the object: a gap of a fifth of its size may be an occlusion."""
        whole = soft > 0.5
        size = self._effort.size
        radius = int(0.1 * np.sqrt(self._place.area) * size / guess.window.side)
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        count, parts = cv2.connectedComponents(cv2.dilate(whole.astype(np.uint8), disk))
        if count <= 2:
            return soft, None
        weight = whole * self._trust(guess)
        totals = np.bincount(parts.ravel(), weights=weight.ravel(), minlength=count)
        for part in range(1, count):
            there = (whole & (parts == part))[2::4, 2::4]
            totals[part] *= max(self._kin.likeness(guess.expanded, there), 0.1) ** 2
        totals[0] = 0
        dropped = (whole & (parts != totals.argmax())).astype(np.float32)
        return soft * (1 - 0.75 * dropped), dropped

    def _trust(self, guess: Guess) -> Map:
        """Which part is the object: the one that was there, and looks as it was shown."""
        size = self._effort.size
        trust = cv2.resize(np.clip(0.5 + self._faith * guess.sure, 0.1, 1), (size, size))
        if guess.prior is not None:
            trust = trust * (0.1 + cv2.resize(guess.prior, (size, size)))
        return np.asarray(trust, np.float32)

    def _seen(self, guess: Guess, where: Mask, area: float, fit: float) -> bool:
        """Whether this is the object: most of its size, like it, and unlike what is round it."""
        kinship = self._kin.likeness(guess.expanded, where)
        usual, grown = self._place, cv2.dilate(where.astype(np.uint8), np.ones((9, 9), np.uint8))
        round_it = _mean(guess.score, (grown > 0) & ~where & guess.inside)
        if guess.prior is None:
            sized = 0.2 * usual.area < area < 4 * usual.area
            like = fit > 0.7 * usual.fit and kinship > usual.kinship - KIN_FOUND
            return bool(sized and like and round_it < -0.2)
        like = fit > 0.3 * usual.fit and kinship > usual.kinship - KIN_KEPT
        return bool(area >= max(16, 0.03 * usual.area) and like and round_it < 0.2)

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
        self._soft = soft
        place = self._place
        place.soft_x, place.soft_y, place.soft_side = window.x, window.y, window.side

    def _update(self, guess: Guess, grid: Map, dropped: Map | None) -> None:
        """Learn from what was found, the surer the more."""
        weight = np.abs(2 * grid - 1) * guess.inside
        if dropped is not None:
            weight = weight * (1 - cv2.resize(dropped, grid.shape, interpolation=cv2.INTER_AREA))
        some = slice(int(self._place.age) % self._effort.sparse, None, self._effort.sparse)
        inside = (grid > 0.5).astype(np.float32).ravel()[some]
        self._ridge.learn(guess.expanded[some], inside, weight.ravel()[some], shown=False)
        self._ridge.solve()


def _mean(score: Map, where: Mask) -> float:
    return float(score[where].mean()) if where.any() else 0.0
