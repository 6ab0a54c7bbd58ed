"""What a thing looks like as a whole: the means of its features, to know it again by."""

import numpy as np
import numpy.typing as npt

from annotate.features import WIDTHS
from annotate.records import Mask
from annotate.windows import Map

KEPT = 3  # looks in another light that are remembered beside what was shown


class Kin:
    """The looks of one object: what a person showed, as a sum, and how it looked after flashes."""

    def __init__(self) -> None:
        self.looks: npt.NDArray[np.float64] = np.zeros((1 + KEPT, sum(WIDTHS)))

    def show(self, expanded: Map, where: Mask) -> None:
        """Add what a person showed."""
        self.looks[0] += _mean(expanded, where)

    def accept(self, expanded: Map, where: Mask) -> None:
        """Remember another look; the oldest is forgotten."""
        self.looks[2:] = self.looks[1:-1].copy()
        self.looks[1] = _mean(expanded, where)

    def likeness(self, expanded: Map, where: Mask) -> float:
        """The cosine, -1..1, of the mean features there to those of the look most like it."""
        here = _mean(expanded, where)
        lengths = np.linalg.norm(self.looks, axis=1) * np.linalg.norm(here)
        return float((self.looks @ here / np.maximum(lengths, 1e-9)).max())


def _mean(expanded: Map, where: Mask) -> npt.NDArray[np.float64]:
    """The mean there of the features themselves, which come first."""
    inside = expanded[where.ravel(), : sum(WIDTHS)]
    return inside.mean(axis=0, dtype=np.float64) if len(inside) else np.zeros(sum(WIDTHS))
