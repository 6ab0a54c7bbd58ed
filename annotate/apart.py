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

import cv2
import numpy as np
import numpy.typing as npt

from annotate.features import WEIGHTS, WIDTHS, Seen, network
from annotate.ridge import Ridge
from annotate.windows import Map

MODEL = "light-apart.onnx"
WIDTH, WEIGHT = 32, 1.0  # maps it makes, and what they weigh beside the other groups


def apart(seen: Seen) -> Map:
    """A crop of (H, W), both multiples of 16, as seen -> (H / 4, W / 4, 32)."""
    half = seen.crop.shape[1] // 2, seen.crop.shape[0] // 2
    small = cv2.resize(seen.crop, half, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    given = {"crop": small.transpose(2, 0, 1), **seen.trunk._asdict()}
    [found] = network(MODEL).run(None, {name: each[None] for name, each in given.items()})
    return np.asarray(found[0].transpose(1, 2, 0))


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
        return {f"apart.{name}": array for name, array in self._ridge.state().items()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what `state` gave."""
        mine = {k[len("apart.") :]: a for k, a in state.items() if k.startswith("apart.")}
        self._ridge.restore(mine)

    def _expanded(self, seen: Seen) -> Map:
        return self._ridge.expand(np.concatenate([seen.joined, apart(seen)], axis=2))
