"""Classify pixels by ridge regression on random features, fitted in closed form.

Samples are kept as sums of normal equations: those of prompted frames for ever, those of tracked
frames with exponential decay.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.backbone import GROUP_CHANNELS, GROUP_WEIGHTS, Map
from annotate.items.records import Mask

Float64Array = npt.NDArray[np.float64]


class RidgeClassifier:
    """What inside and outside look like, as sums that simply add up.

    Sums of what a person showed are kept for ever; those of what was found since fade by `decay`
    a frame. Scores are about +1 inside and -1 outside.
    """

    decay = 0.9
    prompt_weight = 0.7  # weight of what a person showed, when there is anything else
    penalty = 3e-3  # relative to the mean variance of a feature

    def __init__(
        self,
        random_features: int,
        widths: Sequence[int] = GROUP_CHANNELS,
        weights: Sequence[float] = GROUP_WEIGHTS,
    ) -> None:
        """`hidden` random features of groups of `widths` channels, each of such a weight."""
        random = np.random.default_rng(0)
        inputs = sum(widths)
        self._groups = np.repeat(np.array(weights) / np.sqrt(widths), widths)
        self._weights = random.standard_normal((inputs, random_features)).astype(np.float32)
        self._biases = random.uniform(-1, 1, random_features).astype(np.float32)
        size = inputs + random_features + 1
        self._mean = np.zeros(inputs, np.float32)
        self._scale = np.zeros(inputs, np.float32)
        self._shown, self._found = np.zeros((size, size + 1)), np.zeros((size, size + 1))
        self._counts = np.zeros(2)  # how many frames are in each
        self._beta = np.zeros((size, 2), np.float32)

    @property
    def fitted(self) -> bool:
        """Whether a person showed anything yet."""
        return bool(self._counts[0] > 0)

    def expand(self, maps: Map) -> Map:
        """Features, (..., channels), as the classifier sees them, (pixels, size).

        The first ones ever seen set the scale.
        """
        flat: Map = maps.reshape(-1, maps.shape[-1])
        if not self._scale.any():
            self._mean = flat.mean(axis=0)
            floor = 1e-3 * np.abs(flat).max(axis=0) + 1e-6
            self._scale = (self._groups / (flat.std(axis=0) + floor)).astype(np.float32)
        expanded = np.empty((len(flat), len(self._beta)), np.float32)
        plain, random = expanded[:, : flat.shape[1]], expanded[:, flat.shape[1] : -1]
        np.multiply(flat - self._mean, self._scale, out=plain)
        np.matmul(plain, self._weights, out=random)
        np.maximum(random + self._biases, 0, out=random)
        expanded[:, -1] = 1
        return expanded

    def add_samples(self, expanded: Map, inside: Map, weight: Map, *, prompted: bool) -> None:
        """Add pixels, `inside` 0..1, both classes weighing the same; `shown`: a person said so."""
        sums = _normal_equations(expanded, inside, weight)
        if sums is None:
            return
        if prompted:
            self._shown += sums
            self._counts[0] += 1
        else:
            self._found = self.decay * self._found + (1 - self.decay) * sums
            self._counts[1] = self.decay * self._counts[1] + (1 - self.decay)

    def add_negatives(self, expanded: Map, outside: Map, share: float) -> None:
        """Add pixels of which none is inside, as `share` of what one picture's outside weighs."""
        weight = (0.5 * share * outside / max(float(outside.sum()), 1e-6)).astype(np.float32)
        weighted = expanded * weight[:, None]
        self._shown[:, :-1] += weighted.T @ expanded
        self._shown[:, -1] -= weighted.sum(axis=0)

    def solve(self) -> None:
        """Fit to all that was learnt; while nothing was, every score stays 0."""
        if not self.fitted:
            return
        sums = self._shown / max(self._counts[0], 1)
        if self._counts[1]:
            sums = (
                self.prompt_weight * sums + (1 - self.prompt_weight) * self._found / self._counts[1]
            )
        self._beta[:, 0] = self._solve_equations(sums)
        if not self._counts[1]:
            self._beta[:, 1] = self._beta[:, 0]

    def scores(self, expanded: Map) -> Map:
        """For each pixel two scores, (pixels, 2): by all that was learnt, and by what was shown."""
        return np.asarray(expanded @ self._beta, np.float32)

    def separability(self, expanded: Map, inside: Map, fold_mask: Mask) -> float:
        """How well a thing can be told from what is round it: 0.5 is chance, 1 is surely.

        What is learnt on one half of the picture, `blocks`, is tried on the other, and back.
        """
        right = []
        for half in (fold_mask, ~fold_mask):
            sums = _normal_equations(
                expanded[half], inside[half], np.ones(int(half.sum()), np.float32)
            )
            truth = inside[~half] > 0.5
            if sums is None or not 0 < truth.mean() < 1:
                return 0.5
            score = expanded[~half] @ self._solve_equations(sums.astype(np.float64))
            right += [(score[truth] > 0).mean(), (score[~truth] < 0).mean()]
        return float(np.mean(right))

    def _solve_equations(self, sums: Float64Array) -> Map:
        square, right = sums[:, :-1].copy(), sums[:, -1]
        square.flat[:: len(square) + 1] += self.penalty * np.trace(square) / len(square)
        return np.linalg.solve(square, right).astype(np.float32)

    def state(self, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
        """All that was learnt, under names that begin with `of`."""
        return {f"{prefix}{name}": getattr(self, f"_{name}").copy() for name in _STATE_NAMES}

    def restore(self, state: Mapping[str, npt.NDArray[Any]], prefix: str = "") -> None:
        """Take up what `state` gave."""
        for name in _STATE_NAMES:
            setattr(self, f"_{name}", state[f"{prefix}{name}"].copy())


_STATE_NAMES = ("mean", "scale", "shown", "found", "counts", "beta")


def _normal_equations(expanded: Map, inside: Map, weight: Map) -> Map | None:
    """The normal equations, both classes weighing the same; None when one of them is missing."""
    total_in, total_out = (weight * inside).sum(), (weight * (1 - inside)).sum()
    if min(total_in, total_out) < 1e-3:
        return None
    balanced = 0.5 * weight * (inside / total_in + (1 - inside) / total_out)
    weighted = expanded * balanced.astype(np.float32)[:, None]
    target = (2 * inside - 1).astype(np.float32)
    sums: Map = weighted.T @ np.concatenate([expanded, target[:, None]], axis=1)
    return sums
