"""Find near-duplicate frames by SSIM, perceptual hash or embedding; pick diverse ones.

SSIM is the index of scikit-image, a mean over all windows of 7x7 pixels. It is estimated from
windows that do not overlap: first every third row of windows, then every row; all windows are
computed only where the estimate is too near to the threshold. So the decision is that of the exact
index at a fraction of its cost. The error of the estimates was measured: `benchmarks/sample.py`.

`farthest_points` picks the most different rows of any features (farthest-point sampling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from annotate.errors import UnknownName
from annotate.items.records import Mask, Picture
from annotate.sampling import phash
from annotate.sampling.thumbnail import Thumbnail

_WINDOW_SIDE = 7  # pixels, of a window
_SAMPLE_FACTOR = _WINDOW_SIDE**2 / (_WINDOW_SIDE**2 - 1)  # from variance to sample covariance
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_ROW_STEPS = (3, 1)  # every so manieth row of windows
_MIN_ESTIMATE_SIDE = 9 * _WINDOW_SIDE  # pixels: below it there are few windows
_EXACT_MARGINS = (0.05, 0.012)  # within so much of the threshold, more windows are looked at

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SsimImage:
    """A grey picture, (H, W) uint8, of which the windows' sums are known; `ignored` is (H, W)."""

    grey: Picture
    ignored: Mask | None = None

    @cached_property
    def coarse(self) -> _WindowMeans:
        """Every third row of windows that do not overlap."""
        return _WindowMeans(self.grey, self.ignored, _ROW_STEPS[0])

    @cached_property
    def fine(self) -> _WindowMeans:
        """All windows that do not overlap."""
        return _WindowMeans(self.grey, self.ignored, _ROW_STEPS[1])


def ssim(one: SsimImage, other: SsimImage, threshold: float) -> float:
    """The index of two pictures of one size, exact only as far as the threshold makes it matter."""
    if min(one.grey.shape) < _MIN_ESTIMATE_SIDE:
        return exact_ssim(one, other)
    found = one.coarse.mean_ssim(other.coarse)
    if abs(found - threshold) < _EXACT_MARGINS[0]:
        found = one.fine.mean_ssim(other.fine)
    if abs(found - threshold) < _EXACT_MARGINS[1]:
        found = exact_ssim(one, other)
    return found


def exact_ssim(one: SsimImage, other: SsimImage) -> float:
    """The index over all windows: `skimage.metrics.structural_similarity` to four digits."""
    if min(one.grey.shape) < _WINDOW_SIDE:
        return float((one.grey == other.grey).mean())
    a, b = one.grey.astype(np.float32), other.grey.astype(np.float32)
    means = (cv2.blur(each, (_WINDOW_SIDE, _WINDOW_SIDE)) for each in (a, b, a * a, b * b, a * b))
    inside = slice(_WINDOW_SIDE // 2, -(_WINDOW_SIDE // 2))
    found = _ssim_map(*(each[inside, inside] for each in means))
    if one.ignored is None:
        return float(found.mean())
    kernel = np.ones((_WINDOW_SIDE, _WINDOW_SIDE), np.uint8)
    seen = cv2.dilate(one.ignored.astype(np.uint8), kernel)[inside, inside] == 0
    return float(found[seen].mean()) if seen.any() else 1.0


class _WindowMeans:
    """Means over windows of 7x7 that do not overlap, of every `rows`-th row of them."""

    def __init__(self, grey: Picture, ignored: Mask | None, row_step: int) -> None:
        self._row_step = row_step
        self._values = self._strips(grey).astype(np.float32)
        self._mean = _window_means(self._values)
        self._square = _window_means(cv2.multiply(self._values, self._values))
        self._valid = None
        if ignored is not None:
            self._valid = _window_means(self._strips(ignored.astype(np.float32))) == 0

    def mean_ssim(self, other: _WindowMeans) -> float:
        """The mean over the windows."""
        product = _window_means(cv2.multiply(self._values, other._values))
        found = _ssim_map(self._mean, other._mean, self._square, other._square, product)
        if self._valid is None:
            return float(found.mean())
        return float(found[self._valid].mean()) if self._valid.any() else 1.0

    def _strips(self, picture: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        height, width = picture.shape[0] // _WINDOW_SIDE, picture.shape[1] // _WINDOW_SIDE
        y, x = ((side % _WINDOW_SIDE) // 2 for side in picture.shape)
        whole = picture[y : y + height * _WINDOW_SIDE, x : x + width * _WINDOW_SIDE]
        parted = whole.reshape(height, _WINDOW_SIDE, width * _WINDOW_SIDE)[
            self._row_step // 2 :: self._row_step
        ]
        return parted.reshape(-1, width * _WINDOW_SIDE)


def _window_means(values: npt.NDArray[np.generic]) -> Maps:
    size_wh = (values.shape[1] // _WINDOW_SIDE, values.shape[0] // _WINDOW_SIDE)
    return np.asarray(cv2.resize(values, size_wh, interpolation=cv2.INTER_AREA))


def _ssim_map(a: Maps, b: Maps, aa: Maps, bb: Maps, ab: Maps) -> Maps:
    """The index of each window from the means of both pictures, their squares and product."""
    both, squares = a * b, a * a + b * b
    covariance, variances = ab - both, aa + bb - squares
    both *= 2
    both += _C1
    covariance *= 2 * _SAMPLE_FACTOR
    covariance += _C2
    squares += _C1
    variances *= _SAMPLE_FACTOR
    variances += _C2
    both *= covariance
    squares *= variances
    both /= squares
    return both


Distances = npt.NDArray[np.float32]


def farthest_points(
    features: npt.ArrayLike, count: int, *, chosen: tuple[int, ...] | list[int] = ()
) -> list[int]:
    """The places of `count` rows of `features`, (N, D), each the farthest from all before it.

    Distance is Euclidean: bits of a hash count as they do by Hamming, rows of length 1 as they do
    by cosine. The first is the one nearest to the mean, or farthest from those `chosen` beforehand,
    which are not given back. Ties go to the lower place, so that the same rows give the same
    choice, and a smaller count its beginning.

    >>> farthest([[0.0], [1.0], [9.0], [5.0]], 3)
    [3, 0, 2]
    """
    rows = np.atleast_2d(np.asarray(features, np.float32))
    if not rows.size:
        return []
    squares = np.einsum("nd,nd->n", rows, rows)
    nearest: Distances = np.full(len(rows), np.inf, np.float32)
    for place in chosen:
        nearest = np.minimum(nearest, _squared_distances(rows[place], rows, squares))
    nearest[list(chosen)] = -1.0
    picked: list[int] = []
    while len(picked) < min(count, len(rows) - len(chosen)):
        if not picked and not chosen:
            place = int(_squared_distances(rows.mean(axis=0), rows, squares).argmin())
        else:
            place = int(nearest.argmax())
        nearest = np.minimum(nearest, _squared_distances(rows[place], rows, squares))
        nearest[[*chosen, *picked, place]] = -1.0
        picked.append(place)
    return picked


def _squared_distances(point: Distances, rows: Distances, squares: Distances) -> Distances:
    """Squared distances of a point to the rows, (N,)."""
    return np.asarray(np.maximum(squares - 2 * (rows @ point) + point @ point, 0))


Vectors = npt.NDArray[np.float32]
EmbedFunction = Callable[[Sequence[Picture]], Vectors]  # pictures -> (n, width), rows of length 1


@dataclass(frozen=True)
class NearestKept:
    """The kept frame that a frame is most like, and how much: 1 is the same."""

    video: str
    frame: int
    similarity: float


class KeptFrames(Protocol):
    """Remembers kept frames."""

    def nearest(self, thumbnail: Thumbnail) -> NearestKept | None:
        """The kept frame most like this one, of those that it is compared with."""

    def add(self, thumbnail: Thumbnail) -> None:
        """Remember this frame, which `nearest` was asked about last."""


class LastKeptFrame:
    """Structural similarity, SSIM, to the frame kept last of the same clip."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._last: tuple[Thumbnail, SsimImage] | None = None
        self._current: SsimImage | None = None

    def nearest(self, thumbnail: Thumbnail) -> NearestKept | None:
        """The frame kept last; None at the beginning of a clip."""
        self._current = SsimImage(thumbnail.grey, thumbnail.ignored)
        if self._last is None or self._last[0].frame.video != thumbnail.frame.video:
            return None
        last, windows = self._last
        alike = ssim(windows, self._current, self._threshold)
        return NearestKept(last.frame.video, last.frame.index, alike)

    def add(self, thumbnail: Thumbnail) -> None:
        """Forget the one before."""
        if self._current is not None:
            self._last = (thumbnail, self._current)


class AllKeptFrames:
    """Rows of features of all frames kept so far, of any clip."""

    def __init__(self, features: FrameFeatures) -> None:
        self._features = features
        self._rows = np.zeros((0, 0))
        self._names: list[tuple[str, int]] = []
        self._current: npt.NDArray[Any] = np.zeros(0)

    def nearest(self, thumbnail: Thumbnail) -> NearestKept | None:
        """The most alike of all."""
        self._current = self._features.compute(thumbnail)
        if not self._names:
            return None
        alike = self._features.similarities(self._current, self._rows[: len(self._names)])
        place = int(alike.argmax())
        return NearestKept(*self._names[place], float(alike[place]))

    def add(self, thumbnail: Thumbnail) -> None:
        """Remember its row; there is room for twice as many whenever there is none."""
        count = len(self._names)
        if count == len(self._rows):
            rows = np.zeros((max(2 * count, 64), *self._current.shape), self._current.dtype)
            if count:
                rows[:count] = self._rows
            self._rows = rows
        self._rows[count] = self._current
        self._names.append((thumbnail.frame.video, thumbnail.frame.index))


class FrameFeatures(Protocol):
    """What pictures are compared by."""

    def compute(self, thumbnail: Thumbnail) -> npt.NDArray[Any]:
        """A row."""

    def similarities(
        self, row: npt.NDArray[Any], rows: npt.NDArray[Any]
    ) -> npt.NDArray[np.floating]:
        """(n,) similarities up to 1."""

    def vector(self, thumbnail: Thumbnail) -> Vectors:
        """(width,): where the picture lies among others, by Euclidean distance."""


class PhashFeatures:
    """The perceptual hash: the share of its 64 bits that are the same."""

    def compute(self, thumbnail: Thumbnail) -> npt.NDArray[Any]:
        """A number."""
        return np.asarray(phash.phash([thumbnail.small_rgb])[0])

    def similarities(
        self, row: npt.NDArray[Any], rows: npt.NDArray[Any]
    ) -> npt.NDArray[np.floating]:
        """1 for the same hash, about a half for any other."""
        return np.asarray(1 - phash.hamming_distances(int(row), rows) / phash.BITS)

    def vector(self, thumbnail: Thumbnail) -> Vectors:
        """(64,): the bits."""
        return np.asarray(phash.bits(self.compute(thumbnail).reshape(1))[0])


@dataclass(frozen=True)
class EmbeddingFeatures:
    """The vector that a pretrained image network makes: cosine."""

    embed: EmbedFunction

    def compute(self, thumbnail: Thumbnail) -> npt.NDArray[Any]:
        """(width,)."""
        return np.asarray(self.embed([thumbnail.frame.image])[0])

    def similarities(
        self, row: npt.NDArray[Any], rows: npt.NDArray[Any]
    ) -> npt.NDArray[np.floating]:
        """-1 to 1."""
        return np.asarray(rows @ row)

    def vector(self, thumbnail: Thumbnail) -> Vectors:
        """(width,): the vector itself."""
        return np.asarray(self.compute(thumbnail), np.float32)


DEFAULT_THRESHOLDS = {"ssim": 0.6, "hash": 1 - 10 / phash.BITS, "embedding": 0.95}


def resolve_threshold(method: str, override: float | None = None) -> float:
    """The similarity from which on frames are duplicates.

    Raises:
        UnknownName: there is no such way of telling.
    """
    if method not in DEFAULT_THRESHOLDS:
        raise UnknownName("way of telling duplicates", method, DEFAULT_THRESHOLDS)
    return DEFAULT_THRESHOLDS[method] if override is None else override


def frame_features(method: str) -> FrameFeatures:
    """What frames are compared by; for the budget the hash stands in for structure."""
    if method != "embedding":
        return PhashFeatures()
    from annotate import embeddings

    network = embeddings.load()
    return EmbeddingFeatures(lambda pictures: embeddings.embed(pictures, network))


def kept_frames(method: str, threshold: float) -> KeptFrames:
    """An empty one; `least` is the threshold."""
    return LastKeptFrame(threshold) if method == "ssim" else AllKeptFrames(frame_features(method))
