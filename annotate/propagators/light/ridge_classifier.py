"""Classify pixels by ridge regression on random features, fitted in closed form.

A linear model on deep features that is fitted online separates the target from its background, as
in tracking by discriminative correlation filters (Henriques et al., "High-Speed Tracking with
Kernelized Correlation Filters", TPAMI 2015); here it scores pixels instead of shifts of a patch.
Random rectified features make it non-linear (Rahimi and Recht, "Random Features for Large-Scale
Kernel Machines", NIPS 2007).

Samples are kept as sums of normal equations, X'WX and X'Wy: those of prompted frames for ever,
those of tracked frames with exponential decay. So memory and time do not grow with the clip.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from annotate.backbone import GROUP_CHANNELS, GROUP_WEIGHTS, Map
from annotate.items.records import Mask, State

Float64Array = npt.NDArray[np.float64]


class RidgeClassifier:
    """Ridge regression of +1 inside and -1 outside on the features of a pixel.

    Two solutions are kept: one of all samples, one of the prompted samples only.
    """

    decay = 0.9  # of the sums of tracked frames, per update
    prompt_weight = 0.7  # of the prompted frames, once there are tracked ones
    penalty = 3e-3  # ridge penalty, relative to the mean of the diagonal of X'WX

    def __init__(
        self,
        random_features: int,
        widths: Sequence[int] = GROUP_CHANNELS,
        weights: Sequence[float] = GROUP_WEIGHTS,
    ) -> None:
        """Draw the random features, the same in every process.

        Args:
            random_features: How many rectified random projections are added to the features.
            widths: Channels of each group of features.
            weights: Weight of each group, once its channels have unit variance.
        """
        random = np.random.default_rng(0)
        inputs = sum(widths)
        self._groups = np.repeat(np.array(weights) / np.sqrt(widths), widths)
        self._weights = random.standard_normal((inputs, random_features)).astype(np.float32)
        self._biases = random.uniform(-1, 1, random_features).astype(np.float32)
        size = inputs + random_features + 1
        self._mean = np.zeros(inputs, np.float32)
        self._scale = np.zeros(inputs, np.float32)
        self._prompted_sums, self._tracked_sums = (
            np.zeros((size, size + 1)),
            np.zeros((size, size + 1)),
        )
        self._counts = np.zeros(2)  # frames in the sums of prompted and of tracked ones
        self._beta = np.zeros((size, 2), np.float32)

    @property
    def fitted(self) -> bool:
        """True once there is a prompted sample."""
        return bool(self._counts[0] > 0)

    @property
    def prompted_views(self) -> int:
        """How many views of prompted frames were added."""
        return int(self._counts[0])

    def expand(self, maps: Map) -> Map:
        """Standardise features, (..., channels), and add random features and a constant.

        Mean and scale come from the first call. The result is (pixels, size), channels first.
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
        """Add the pixels of one picture; inside and outside get the same total weight.

        Args:
            expanded: Features by `expand`, (pixels, size).
            inside: Probability of being inside, 0..1, (pixels,).
            weight: Weight of each pixel, (pixels,).
            prompted: Keep the samples for ever; otherwise they decay.
        """
        sums = _normal_equations(expanded, inside, weight)
        if sums is None:
            return
        if prompted:
            self._prompted_sums += sums
            self._counts[0] += 1
        else:
            self._tracked_sums = self.decay * self._tracked_sums + (1 - self.decay) * sums
            self._counts[1] = self.decay * self._counts[1] + (1 - self.decay)

    def add_negatives(self, expanded: Map, outside: Map, share: float) -> None:
        """Add prompted pixels that are all outside, with `share` of the weight of one picture."""
        weight = (0.5 * share * outside / max(float(outside.sum()), 1e-6)).astype(np.float32)
        weighted = expanded * weight[:, None]
        self._prompted_sums[:, :-1] += weighted.T @ expanded
        self._prompted_sums[:, -1] -= weighted.sum(axis=0)

    def forget_tracked(self) -> None:
        """Drop the samples of tracked frames."""
        self._tracked_sums[:] = 0
        self._counts[1] = 0

    def solve(self) -> None:
        """Solve the normal equations; without a prompted sample every score stays 0."""
        if not self.fitted:
            return
        sums = self._prompted_sums / max(self._counts[0], 1)
        if self._counts[1]:
            sums = (
                self.prompt_weight * sums
                + (1 - self.prompt_weight) * self._tracked_sums / self._counts[1]
            )
        self._beta[:, 0] = self._solve_equations(sums)
        if not self._counts[1]:
            self._beta[:, 1] = self._beta[:, 0]

    def scores(self, expanded: Map) -> Map:
        """Score pixels, (pixels, 2): by all samples, and by the prompted samples only."""
        return np.asarray(expanded @ self._beta, np.float32)

    def scores_of_maps(self, *groups: Map) -> Map:
        """Score by all samples without `expand`: (pixels,), if there are no random features.

        `groups` are (pixels, channels) each, one after the other the features of a pixel.
        """
        weights = (self._scale * self._beta[:-1, 0]).astype(np.float32)
        scores = np.full(len(groups[0]), self._beta[-1, 0] - self._mean @ weights, np.float32)
        start = 0
        for group in groups:
            scores += group @ weights[start : start + group.shape[1]]
            start += group.shape[1]
        return scores

    def separability(self, expanded: Map, inside: Map, fold_mask: Mask) -> float:
        """Measure the balanced accuracy of a new fit by two-fold cross-validation.

        `fold_mask` splits the pixels in two. 0.5 is chance, 1 is perfect.
        """
        accuracies = []
        for fold in (fold_mask, ~fold_mask):
            sums = _normal_equations(
                expanded[fold], inside[fold], np.ones(int(fold.sum()), np.float32)
            )
            truth = inside[~fold] > 0.5
            if sums is None or not 0 < truth.mean() < 1:
                return 0.5
            score = expanded[~fold] @ self._solve_equations(sums.astype(np.float64))
            accuracies += [(score[truth] > 0).mean(), (score[~truth] < 0).mean()]
        return float(np.mean(accuracies))

    def _solve_equations(self, sums: Float64Array) -> Map:
        import scipy.linalg

        square, right = sums[:, :-1].copy(), sums[:, -1]
        square.flat[:: len(square) + 1] += self.penalty * np.trace(square) / len(square)
        factor = scipy.linalg.cho_factor(square, lower=True, overwrite_a=True, check_finite=False)
        return np.asarray(scipy.linalg.cho_solve(factor, right, check_finite=False), np.float32)

    def state(self, prefix: str = "") -> State:
        """Return all sums and the solution, under names that begin with `prefix`."""
        return {f"{prefix}{key}": getattr(self, name).copy() for key, name in _STATE_KEYS.items()}

    def restore(self, state: State, prefix: str = "") -> None:
        """Restore what `state` returned."""
        for key, name in _STATE_KEYS.items():
            setattr(self, name, state[f"{prefix}{key}"].copy())


_STATE_KEYS = {  # key in a saved state -> attribute
    "mean": "_mean",
    "scale": "_scale",
    "shown": "_prompted_sums",
    "found": "_tracked_sums",
    "counts": "_counts",
    "beta": "_beta",
}


def _normal_equations(expanded: Map, inside: Map, weight: Map) -> Map | None:
    """Compute X'WX and X'Wy, (size, size + 1), of balanced classes; None if one is missing."""
    total_in, total_out = (weight * inside).sum(), (weight * (1 - inside)).sum()
    if min(total_in, total_out) < 1e-3:
        return None
    balanced = 0.5 * weight * (inside / total_in + (1 - inside) / total_out)
    # the root of the weights on both sides: the product of a matrix with itself is symmetric, and
    # costs half as much
    root = np.sqrt(balanced).astype(np.float32)
    rows = np.empty((len(expanded), expanded.shape[1] + 1), np.float32)
    np.multiply(expanded, root[:, None], out=rows[:, :-1])
    rows[:, -1] = (2 * inside - 1) * root
    sums: Map = (rows.T @ rows)[:-1]
    return sums
