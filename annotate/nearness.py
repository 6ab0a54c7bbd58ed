"""How much a frame shows something like some reference crops, by the network that ships.

Every place of a frame's map of features is held against each reference's mean; both are whitened by
what is usual in the footage, so that what is everywhere says nothing (exemplar LDA).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from annotate.embed import Shipped, Vectors, unit
from annotate.records import Frame, Picture

_CELL = 16  # pixels of a picture to one place of its map
_LONGEST = (640, 320)  # pixels: of a frame, as it is looked at
_REFERENCE = 96  # of a reference
_WINDOW = 3  # places that are averaged
_RIDGE = 0.1  # of the mean variance, added to each: few frames do not tell all of them


def _size(picture: Picture, longest: int) -> tuple[int, int]:
    """The picture's size made so long, in whole places."""
    scale = longest / max(picture.shape[:2])
    wide, high = (max(round(side * scale / _CELL), 1) * _CELL for side in picture.shape[1::-1])
    return wide, high


def look(frame: Frame) -> Vectors:
    """(places, 112): what is at every place of a frame, each averaged with those about it.

    The frame is looked at in two sizes: things are near and far.
    """
    seen = [Shipped.map(frame.image, _size(frame.image, longest)) for longest in _LONGEST]
    window = (_WINDOW, _WINDOW)
    blurred = [cv2.blur(each, window, borderType=cv2.BORDER_REFLECT) for each in seen]
    return np.concatenate([each.reshape(-1, 112) for each in blurred])


class Nearness:
    """Holds frames against reference crops; `usual` are frames of the footage, spread over it."""

    def __init__(self, references: Sequence[Picture], usual: Iterable[Frame]) -> None:
        count, total, squares = 0, np.zeros(112), np.zeros((112, 112))
        for frame in usual:
            places = look(frame).astype(np.float64)
            count, total = count + len(places), total + places.sum(0)
            squares += places.T @ places
        self._middle = total / count
        spread = squares / count - np.outer(self._middle, self._middle)
        spread += np.eye(112) * _RIDGE * np.trace(spread) / 112
        self._whiten = np.asarray(np.linalg.cholesky(np.linalg.inv(spread)), np.float64)
        means = [Shipped.map(r, _size(r, _REFERENCE)).mean((0, 1)) for r in references]
        self._wanted = self._white(np.stack(means))

    def _white(self, places: npt.NDArray[np.floating]) -> Vectors:
        return unit((places - self._middle) @ self._whiten)

    def of(self, frame: Frame) -> float:
        """How near the nearest place of a frame comes to any reference: cosine, 0 to 1."""
        nearest = float((self._white(look(frame)) @ self._wanted.T).max())
        return min(max(nearest, 0.0), 1.0)
