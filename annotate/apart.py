"""What a person showed, told apart from the rest by maps that were learnt on gameplay.

A small network makes 32 more maps of the trunk's and of the picture. It was trained so that a
classifier, fitted in closed form on one view of a thing, finds that thing in other views and
nothing where it is not: the error goes back through the fit, as in Bertinetto et al.,
"Meta-learning with Differentiable Closed-form Solvers", ICLR 2019, and Bhat et al., "Learning What
to Learn for Video Object Segmentation", ECCV 2020. How it was made, and how far to trust it:
`models/light-apart.md`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.features import WEIGHTS, WIDTHS, Seen, answers, planes
from annotate.ridge import Ridge
from annotate.windows import Map

MODEL = "light-apart.onnx"
WIDTH, WEIGHT = 32, 1.0  # maps it makes, and what they weigh beside the other groups


def apart(seen: Seen) -> Map:
    """A crop of (H, W), both multiples of 16, as seen -> (H / 4, W / 4, 32)."""
    half = seen.crop.shape[1] // 2, seen.crop.shape[0] // 2
    [found] = answers(MODEL, {"crop": planes(seen.crop, half), **seen.trunk._asdict()})
    return np.asarray(found.transpose(1, 2, 0))


class Shown:
    """A classifier that learns from what a person showed only, and so can't drift."""

    def __init__(self) -> None:
        self._ridge = Ridge(0, (*WIDTHS, WIDTH), (*WEIGHTS, WEIGHT))

    def learn(self, seen: Seen, inside: Map, weight: Map) -> None:
        """Add a view, of which `inside`, (H / 4, W / 4), is the object."""
        expanded = self._expanded(seen)
        self._ridge.learn(expanded, inside.ravel(), weight.ravel(), shown=True)

    def refute(self, seen: Seen, outside: Map, share: float) -> None:
        """Add a view of which nothing is the object, as `share` of one."""
        self._ridge.refute(self._expanded(seen), outside.ravel(), share)

    def solve(self) -> None:
        """Fit to all that was shown."""
        self._ridge.solve()

    def scores(self, seen: Seen) -> Map:
        """About +1 on the object and -1 elsewhere, (H / 4, W / 4)."""
        scores = self._ridge.scores(self._expanded(seen))
        return scores[:, 0].reshape(seen.joined.shape[:2])

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that was learnt."""
        return self._ridge.state("apart.")

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what `state` gave."""
        self._ridge.restore(state, "apart.")

    def _expanded(self, seen: Seen) -> Map:
        return self._ridge.expand(np.concatenate([seen.joined, apart(seen)], axis=2))
