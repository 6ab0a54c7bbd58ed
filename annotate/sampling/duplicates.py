"""Find near-duplicate frames by SSIM, perceptual hash or embedding; pick diverse ones.

SSIM is the index of scikit-image, a mean over all windows of 7x7 pixels. Ours is many times faster:
it is estimated from windows that do not overlap, first from every third row of windows, then from
every row; all windows are computed only if the estimate is too close to the threshold. So the
decision is that of the exact index. `benchmarks/sample.py` measures the error of the estimates.

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

_WINDOW_SIDE = 7  # pixels
_SAMPLE_FACTOR = _WINDOW_SIDE**2 / (_WINDOW_SIDE**2 - 1)  # from variance to sample covariance
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # the constants of the SSIM paper
_COARSE_ROW_STEP, _FINE_ROW_STEP = 3, 1  # every third row of windows, every row
_MIN_ESTIMATE_SIDE = 9 * _WINDOW_SIDE  # pixels: smaller pictures have too few windows
_COARSE_MARGIN, _FINE_MARGIN = 0.05, 0.012  # nearer to the threshold, more windows are used

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SsimImage:
    """A grey picture, (H, W) uint8, with its window means; `ignored`, (H, W) bool, is left out."""

    grey: Picture
    ignored: Mask | None = None

    @cached_property
    def coarse(self) -> _WindowMeans:
        """The means of every third row of windows that do not overlap."""
        return _WindowMeans(self.grey, self.ignored, _COARSE_ROW_STEP)

    @cached_property
    def fine(self) -> _WindowMeans:
        """The means of all windows that do not overlap."""
        return _WindowMeans(self.grey, self.ignored, _FINE_ROW_STEP)


def ssim(one: SsimImage, other: SsimImage, threshold: float) -> float:
    """Compute the SSIM of two pictures of one size, as exactly as the threshold requires."""
    if min(one.grey.shape) < _MIN_ESTIMATE_SIDE:
        return exact_ssim(one, other)
    similarity = one.coarse.mean_ssim(other.coarse)
    if abs(similarity - threshold) < _COARSE_MARGIN:
        similarity = one.fine.mean_ssim(other.fine)
    if abs(similarity - threshold) < _FINE_MARGIN:
        similarity = exact_ssim(one, other)
    return similarity


def exact_ssim(one: SsimImage, other: SsimImage) -> float:
    """Compute the SSIM over all windows: `skimage.metrics.structural_similarity` to four digits."""
    if min(one.grey.shape) < _WINDOW_SIDE:
        return float((one.grey == other.grey).mean())
    a, b = one.grey.astype(np.float32), other.grey.astype(np.float32)
    means = (cv2.blur(each, (_WINDOW_SIDE, _WINDOW_SIDE)) for each in (a, b, a * a, b * b, a * b))
    inside = slice(_WINDOW_SIDE // 2, -(_WINDOW_SIDE // 2))
    ssim_map = _ssim_map(*(each[inside, inside] for each in means))
    if one.ignored is None:
        return float(ssim_map.mean())
    kernel = np.ones((_WINDOW_SIDE, _WINDOW_SIDE), np.uint8)
    valid = cv2.dilate(one.ignored.astype(np.uint8), kernel)[inside, inside] == 0
    return float(ssim_map[valid].mean()) if valid.any() else 1.0


class _WindowMeans:
    """Means over 7x7 windows that do not overlap, of every `row_step`-th row of windows."""

    def __init__(self, grey: Picture, ignored: Mask | None, row_step: int) -> None:
        self._row_step = row_step
        self._values = self._strips(grey).astype(np.float32)
        self._mean = _window_means(self._values)
        self._square = _window_means(cv2.multiply(self._values, self._values))
        self._valid = None
        if ignored is not None:
            self._valid = _window_means(self._strips(ignored.astype(np.float32))) == 0

    def mean_ssim(self, other: _WindowMeans) -> float:
        """Compute the mean SSIM over the windows."""
        product = _window_means(cv2.multiply(self._values, other._values))
        ssim_map = _ssim_map(self._mean, other._mean, self._square, other._square, product)
        if self._valid is None:
            return float(ssim_map.mean())
        return float(ssim_map[self._valid].mean()) if self._valid.any() else 1.0

    def _strips(self, picture: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        height, width = picture.shape[0] // _WINDOW_SIDE, picture.shape[1] // _WINDOW_SIDE
        y, x = ((side % _WINDOW_SIDE) // 2 for side in picture.shape)
        centre = picture[y : y + height * _WINDOW_SIDE, x : x + width * _WINDOW_SIDE]
        strips = centre.reshape(height, _WINDOW_SIDE, width * _WINDOW_SIDE)
        selected = strips[self._row_step // 2 :: self._row_step]
        return selected.reshape(-1, width * _WINDOW_SIDE)


def _window_means(values: npt.NDArray[np.generic]) -> Maps:
    size_wh = (values.shape[1] // _WINDOW_SIDE, values.shape[0] // _WINDOW_SIDE)
    return np.asarray(cv2.resize(values, size_wh, interpolation=cv2.INTER_AREA))


def _ssim_map(a: Maps, b: Maps, aa: Maps, bb: Maps, ab: Maps) -> Maps:
    """Compute the SSIM of each window from the means of both pictures, squares and product."""
    product, squares = a * b, a * a + b * b  # changed in place: this runs for every frame
    covariance, variances = ab - product, aa + bb - squares
    product *= 2
    product += _C1
    covariance *= 2 * _SAMPLE_FACTOR
    covariance += _C2
    squares += _C1
    variances *= _SAMPLE_FACTOR
    variances += _C2
    product *= covariance
    squares *= variances
    product /= squares
    return product


Distances = npt.NDArray[np.float32]


def farthest_points(
    features: npt.ArrayLike, count: int, *, chosen: tuple[int, ...] | list[int] = ()
) -> list[int]:
    """Pick the indices of `count` rows of `features`, (N, D), each farthest from all before it.

    Distance is Euclidean: it orders hash bits as Hamming distance does, and rows of length 1 as
    cosine does. The first row is the one nearest to the mean, or farthest from the rows `chosen`
    beforehand, which are not returned. Ties go to the lower index, so that the same rows give the
    same picks, and a smaller count gives the beginning of a larger one.

    Examples:
        >>> farthest_points([[0.0], [1.0], [9.0], [5.0]], 3)
        [3, 0, 2]
    """
    rows = np.atleast_2d(np.asarray(features, np.float32))
    if not rows.size:
        return []
    squares = np.einsum("nd,nd->n", rows, rows)
    nearest: Distances = np.full(len(rows), np.inf, np.float32)
    for index in chosen:
        nearest = np.minimum(nearest, _squared_distances(rows[index], rows, squares))
    nearest[list(chosen)] = -1.0
    picked: list[int] = []
    while len(picked) < min(count, len(rows) - len(chosen)):
        if not picked and not chosen:
            index = int(_squared_distances(rows.mean(axis=0), rows, squares).argmin())
        else:
            index = int(nearest.argmax())
        nearest = np.minimum(nearest, _squared_distances(rows[index], rows, squares))
        nearest[[*chosen, *picked, index]] = -1.0
        picked.append(index)
    return picked


def _squared_distances(point: Distances, rows: Distances, squares: Distances) -> Distances:
    """Compute the squared distances of a point to the rows, (N,)."""
    return np.asarray(np.maximum(squares - 2 * (rows @ point) + point @ point, 0))


Vectors = npt.NDArray[np.float32]
EmbedFunction = Callable[[Sequence[Picture]], Vectors]  # pictures -> (n, width), rows of length 1


@dataclass(frozen=True)
class NearestKept:
    """The kept frame that is most similar to a frame; the similarity of equal frames is 1."""

    video: str
    frame: int
    similarity: float


class KeptFrames(Protocol):
    """Holds the kept frames that later frames are compared with."""

    def nearest(self, thumbnail: Thumbnail) -> NearestKept | None:
        """Find the most similar kept frame; None if there is none to compare with."""

    def add(self, thumbnail: Thumbnail) -> None:
        """Add the frame that was last given to `nearest`."""


class LastKeptFrame:
    """Compares a frame with the last kept frame of the same clip, by SSIM."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._last: tuple[Thumbnail, SsimImage] | None = None
        self._current: SsimImage | None = None

    def nearest(self, thumbnail: Thumbnail) -> NearestKept | None:
        """Return the last kept frame and its SSIM; None at the beginning of a clip."""
        self._current = SsimImage(thumbnail.grey, thumbnail.ignored)
        if self._last is None or self._last[0].frame.video != thumbnail.frame.video:
            return None
        last, last_image = self._last
        similarity = ssim(last_image, self._current, self._threshold)
        return NearestKept(last.frame.video, last.frame.index, similarity)

    def add(self, thumbnail: Thumbnail) -> None:
        """Replace the last kept frame."""
        if self._current is not None:
            self._last = (thumbnail, self._current)


class AllKeptFrames:
    """Compares a frame with all kept frames of all clips, by feature vectors."""

    def __init__(self, features: FrameFeatures) -> None:
        self._features = features
        self._rows = np.zeros((0, 0))
        self._names: list[tuple[str, int]] = []
        self._current: npt.NDArray[Any] = np.zeros(0)

    def nearest(self, thumbnail: Thumbnail) -> NearestKept | None:
        """Find the most similar of all kept frames."""
        self._current = self._features.compute(thumbnail)
        if not self._names:
            return None
        similarities = self._features.similarities(self._current, self._rows[: len(self._names)])
        index = int(similarities.argmax())
        return NearestKept(*self._names[index], float(similarities[index]))

    def add(self, thumbnail: Thumbnail) -> None:
        """Add the features of the frame; the array doubles when it is full."""
        count = len(self._names)
        if count == len(self._rows):
            rows = np.zeros((max(2 * count, 64), *self._current.shape), self._current.dtype)
            if count:
                rows[:count] = self._rows
            self._rows = rows
        self._rows[count] = self._current
        self._names.append((thumbnail.frame.video, thumbnail.frame.index))


class FrameFeatures(Protocol):
    """Computes the features by which frames are compared."""

    def compute(self, thumbnail: Thumbnail) -> npt.NDArray[Any]:
        """Compute the features of a frame: one row."""

    def similarities(
        self, row: npt.NDArray[Any], rows: npt.NDArray[Any]
    ) -> npt.NDArray[np.floating]:
        """Compute the similarities, (n,), of a row to other rows; 1 is the highest."""

    def vector(self, thumbnail: Thumbnail) -> Vectors:
        """Compute a vector, (width,), that can be compared by Euclidean distance."""


class PhashFeatures:
    """Compares perceptual hashes: the similarity is the share of equal bits of 64."""

    def compute(self, thumbnail: Thumbnail) -> npt.NDArray[Any]:
        """Compute the hash, a number."""
        return np.asarray(phash.phash([thumbnail.small_rgb])[0])

    def similarities(
        self, row: npt.NDArray[Any], rows: npt.NDArray[Any]
    ) -> npt.NDArray[np.floating]:
        """Compute the share of equal bits; about a half for unrelated frames."""
        return np.asarray(1 - phash.hamming_distances(int(row), rows) / phash.BITS)

    def vector(self, thumbnail: Thumbnail) -> Vectors:
        """Unpack the hash to its bits, (64,)."""
        return np.asarray(phash.bits(self.compute(thumbnail).reshape(1))[0])


@dataclass(frozen=True)
class EmbeddingFeatures:
    """Compares the vectors of a pretrained image network by cosine similarity."""

    embed: EmbedFunction

    def compute(self, thumbnail: Thumbnail) -> npt.NDArray[Any]:
        """Compute the vector, (width,), of length 1."""
        return np.asarray(self.embed([thumbnail.frame.image])[0])

    def similarities(
        self, row: npt.NDArray[Any], rows: npt.NDArray[Any]
    ) -> npt.NDArray[np.floating]:
        """Compute the cosine similarities, -1 to 1."""
        return np.asarray(rows @ row)

    def vector(self, thumbnail: Thumbnail) -> Vectors:
        """Compute the vector itself, (width,)."""
        return np.asarray(self.compute(thumbnail), np.float32)


DEFAULT_THRESHOLDS = {"ssim": 0.6, "hash": 1 - 10 / phash.BITS, "embedding": 0.95}


def resolve_threshold(method: str, override: float | None = None) -> float:
    """Return the similarity from which on frames are duplicates, by default that of the method.

    Raises:
        UnknownName: there is no such method.
    """
    if method not in DEFAULT_THRESHOLDS:
        raise UnknownName("duplicate method", method, DEFAULT_THRESHOLDS)
    return DEFAULT_THRESHOLDS[method] if override is None else override


def frame_features(method: str) -> FrameFeatures:
    """Make the features of a method; "ssim" has none of its own and uses the hash."""
    if method != "embedding":
        return PhashFeatures()
    from annotate import embeddings

    network = embeddings.load()
    return EmbeddingFeatures(lambda pictures: embeddings.embed(pictures, network))


def kept_frames(method: str, threshold: float) -> KeptFrames:
    """Make an empty store of kept frames for a method."""
    return LastKeptFrame(threshold) if method == "ssim" else AllKeptFrames(frame_features(method))
