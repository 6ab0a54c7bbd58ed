"""How alike two pictures are: the structural similarity index as scikit-image defines it, quickly.

The index is a mean over all windows of 7x7 pixels. Here windows that do not overlap stand for those
that do, first in every third row of windows, then in every row, and only where the threshold is
still too near to tell, all of them: the verdict is that of the whole index, at a fraction of its
cost. How far off the estimates are was measured on shots of games: see `benchmarks/sample.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from annotate.records import Mask, Picture

_SIDE = 7  # pixels, of a window
_SAMPLE = _SIDE**2 / (_SIDE**2 - 1)  # from variance to sample covariance
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_ROWS = (3, 1)  # every so manieth row of windows
_LEAST = 9 * _SIDE  # pixels: below it there are few windows
_DOUBT = (0.05, 0.012)  # within so much of the threshold, more windows are looked at

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Windows:
    """A grey picture, (H, W) uint8, of which the windows' sums are known; `ignored` is (H, W)."""

    grey: Picture
    ignored: Mask | None = None

    @cached_property
    def coarse(self) -> _Tiles:
        """Every third row of windows that do not overlap."""
        return _Tiles(self.grey, self.ignored, _ROWS[0])

    @cached_property
    def fine(self) -> _Tiles:
        """All windows that do not overlap."""
        return _Tiles(self.grey, self.ignored, _ROWS[1])


def similarity(one: Windows, other: Windows, threshold: float) -> float:
    """The index of two pictures of one size, exact only as far as the threshold makes it matter."""
    if min(one.grey.shape) < _LEAST:
        return exact(one, other)
    found = one.coarse.index(other.coarse)
    if abs(found - threshold) < _DOUBT[0]:
        found = one.fine.index(other.fine)
    if abs(found - threshold) < _DOUBT[1]:
        found = exact(one, other)
    return found


def exact(one: Windows, other: Windows) -> float:
    """The index over all windows: `skimage.metrics.structural_similarity` to four digits."""
    if min(one.grey.shape) < _SIDE:
        return float((one.grey == other.grey).mean())
    a, b = one.grey.astype(np.float32), other.grey.astype(np.float32)
    means = (cv2.blur(each, (_SIDE, _SIDE)) for each in (a, b, a * a, b * b, a * b))
    inside = slice(_SIDE // 2, -(_SIDE // 2))
    found = _index(*(each[inside, inside] for each in means))
    if one.ignored is None:
        return float(found.mean())
    kernel = np.ones((_SIDE, _SIDE), np.uint8)
    seen = cv2.dilate(one.ignored.astype(np.uint8), kernel)[inside, inside] == 0
    return float(found[seen].mean()) if seen.any() else 1.0


class _Tiles:
    """Means over windows of 7x7 that do not overlap, of every `rows`-th row of them."""

    def __init__(self, grey: Picture, ignored: Mask | None, rows: int) -> None:
        self._rows = rows
        self._values = self._strips(grey).astype(np.float32)
        self._mean = _means(self._values)
        self._square = _means(cv2.multiply(self._values, self._values))
        self._seen = None
        if ignored is not None:
            self._seen = _means(self._strips(ignored.astype(np.float32))) == 0

    def index(self, other: _Tiles) -> float:
        """The mean over the windows."""
        product = _means(cv2.multiply(self._values, other._values))
        found = _index(self._mean, other._mean, self._square, other._square, product)
        if self._seen is None:
            return float(found.mean())
        return float(found[self._seen].mean()) if self._seen.any() else 1.0

    def _strips(self, picture: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        height, width = picture.shape[0] // _SIDE, picture.shape[1] // _SIDE
        y, x = ((side % _SIDE) // 2 for side in picture.shape)
        whole = picture[y : y + height * _SIDE, x : x + width * _SIDE]
        parted = whole.reshape(height, _SIDE, width * _SIDE)[self._rows // 2 :: self._rows]
        return parted.reshape(-1, width * _SIDE)


def _means(values: npt.NDArray[np.generic]) -> Maps:
    size_wh = (values.shape[1] // _SIDE, values.shape[0] // _SIDE)
    return np.asarray(cv2.resize(values, size_wh, interpolation=cv2.INTER_AREA))


def _index(a: Maps, b: Maps, aa: Maps, bb: Maps, ab: Maps) -> Maps:
    """The index of each window from the means of both pictures, their squares and product."""
    both, squares = a * b, a * a + b * b
    covariance, variances = ab - both, aa + bb - squares
    both *= 2
    both += _C1
    covariance *= 2 * _SAMPLE
    covariance += _C2
    squares += _C1
    variances *= _SAMPLE
    variances += _C2
    both *= covariance
    squares *= variances
    both /= squares
    return both
