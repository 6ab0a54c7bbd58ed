"""Compute the fingerprint of a frame: perceptual hashes, colour layout, small shape.

A hash of the whole picture finds it scaled, recompressed and in other tones. Five more hashes, of
the centre and the corners, each 0.6 of the width and height, find crops of it: any crop is likely
to contain one of the five, and a query is hashed at every position where one could lie. A candidate
is verified by its shape, a small grey picture with normalized local contrast, into which the query
is fitted as a template at every size that a crop could have.

The colour layout descriptor is that of MPEG-7 (ISO/IEC 15938-3) with the coefficients that LIRE
keeps: 8 x 8 tiles, the DCT of each YCbCr plane, coarsely quantised: 21 of Y, 6 of Cb, 6 of Cr, the
mean first, in zigzag order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from annotate.items.records import Frame, Picture
from annotate.sampling import phash
from annotate.sampling.thumbnail import Thumbnail

LAYOUT_SIZE = 33
_LAYOUT_TILES = 8
_COEFFICIENT_COUNTS = (21, 6, 6)  # of Y, Cb, Cr
_FIRST_WEIGHTS = ((3.0, 3.0, 3.0), (2.0, 1.0, 1.0), (4.0, 2.0, 2.0))  # the others weigh 1
_Y_DC_LEVELS = ((0, 64, 96, 160, 192, 256), (0, 16, 32, 96, 112, 128))  # fine where most means are
_C_DC_LEVELS = ((64, 96, 112, 144, 160, 192), (0, 8, 16, 48, 56, 64))
_AC_LEVELS = ((0, 64, 128, 256), (0, 64, 96, 128))

ColourLayout = npt.NDArray[np.uint8]


def colour_layout(picture: Picture) -> ColourLayout:
    """Compute the colour layout descriptor, (33,), of an RGB picture."""
    tiles = cv2.resize(picture, (_LAYOUT_TILES, _LAYOUT_TILES), interpolation=cv2.INTER_AREA)
    planes = cv2.cvtColor(tiles, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]].astype(np.float32)
    parts = []
    for n, count in enumerate(_COEFFICIENT_COUNTS):
        coefficients = cv2.dct(np.ascontiguousarray(planes[..., n])).reshape(-1)
        parts.append(_quantize(coefficients[_zigzag_indices(count)], n))
    return np.asarray(np.concatenate(parts), np.uint8)


def layout_distances(query: ColourLayout, layouts: ColourLayout) -> npt.NDArray[np.float64]:
    """Compute the distances, (n,), of a layout to others, (n, 33): 0 to a few hundred."""
    squares = (layouts.astype(np.float64) - query) ** 2
    total = np.zeros(len(layouts))
    start = 0
    for count, first in zip(_COEFFICIENT_COUNTS, _FIRST_WEIGHTS, strict=True):
        weights = np.ones(count)
        weights[: len(first)] = first
        total += np.sqrt(squares[:, start : start + count] @ weights)
        start += count
    return total


def _quantize(values: npt.NDArray[np.floating], plane: int) -> npt.NDArray[np.floating]:
    mean, others = values[0] / _LAYOUT_TILES, values[1:] / (2 if plane == 0 else 1)
    if plane == 0:
        first = np.floor(np.interp(mean, *_Y_DC_LEVELS)) // 2
    else:
        first = np.minimum(np.floor(np.interp(mean, *_C_DC_LEVELS)), 63)
    sizes = np.interp(np.abs(others), *_AC_LEVELS)
    return np.array([first, *np.clip(np.sign(others) * sizes + 128, 0, 255) // 8])


def _zigzag_indices(count: int) -> list[int]:
    """List the flat indices of the first `count` cells of 8 x 8 in zigzag order."""
    cells = [(y, x) for y in range(_LAYOUT_TILES) for x in range(_LAYOUT_TILES)]
    cells.sort(key=lambda c: (c[0] + c[1], c[0] if (c[0] + c[1]) % 2 else c[1]))
    return [y * _LAYOUT_TILES + x for y, x in cells[:count]]


HASH_COUNT = 6  # of the whole picture, then of five parts
SHAPE_WH = (64, 36)
_HASH_SIDE = 32  # pixels, of the input of a hash
_PART_SIZE = 0.6  # of width and height
_PART_CORNERS = ((0.2, 0.2), (0.0, 0.0), (0.4, 0.0), (0.0, 0.4), (0.4, 0.4))  # xy of the parts
_MIN_CROP_SIZE = 0.6  # of the width and of the height of the frame
_SIZE_STEP, _POSITION_STEP = 0.07, 0.05  # of the frame, between hashed crops
_FIT_STEP = 0.025  # of the frame, between the sizes of templates
_HIGH_PASS_SIGMA = 3.2  # pixels of a shape: slower changes of brightness are removed
_NOISE_POWER = 9.0  # squared grey levels: lower contrast is not amplified

_LEVELS_PER_UNIT = 32  # of normalized contrast
ZERO_LEVEL = 128

Shapes = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.uint8]  # normalized contrast of shapes, as 8-bit levels
NormalizedImages = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a frame: `hashes` (6,), `layout` (33,), `shape` (36, 64) grey."""

    hashes: phash.Hashes
    layout: ColourLayout
    shape: Shapes


@dataclass(frozen=True)
class HashPart:
    """The position of part `part_index` of a frame in a query, if the query is a crop of the frame.

    Coordinates are relative to the width and height of the query.
    """

    part_index: int
    x: float
    y: float
    width: float
    height: float


WHOLE_PICTURE = HashPart(0, 0, 0, 1, 1)


def single_frame(picture: Picture) -> Frame:
    """Make a frame of a picture that belongs to no clip."""
    return Frame("", 0, Fraction(0), picture)


def compute(thumbnail: Thumbnail) -> Fingerprint:
    """Compute the fingerprint of a frame."""
    grey = thumbnail.small_grey
    parts = [WHOLE_PICTURE]
    parts += [
        HashPart(n, x, y, _PART_SIZE, _PART_SIZE) for n, (x, y) in enumerate(_PART_CORNERS, start=1)
    ]
    layout = colour_layout(thumbnail.small_rgb)
    return Fingerprint(hash_parts(grey, parts), layout, _shape_image(grey))


def hash_parts(grey: Picture, parts: list[HashPart]) -> phash.Hashes:
    """Compute the hashes, (n,), of parts of a grey picture."""
    return phash.hash_squares(np.array([_resized_part(grey, part) for part in parts], np.float64))


def _shape_image(grey: Picture) -> Shapes:
    return np.asarray(cv2.resize(grey, SHAPE_WH, interpolation=cv2.INTER_AREA), np.uint8)


def _resized_part(grey: Picture, part: HashPart) -> Picture:
    height, width = grey.shape
    x1, y1 = round(part.x * width), round(part.y * height)
    x2, y2 = round((part.x + part.width) * width), round((part.y + part.height) * height)
    cut = grey[min(y1, height - 2) : max(y2, y1 + 2), min(x1, width - 2) : max(x2, x1 + 2)]
    return np.asarray(
        cv2.resize(cut, (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA), np.uint8
    )


@lru_cache(maxsize=64)
def crop_parts(aspect: float, frame_aspect: float) -> tuple[HashPart, ...]:
    """List the parts to hash in a query, for every crop of a frame that the query could be.

    `aspect` and `frame_aspect` are width / height.
    """
    return tuple(_iter_crop_parts(aspect, frame_aspect))


def _iter_crop_parts(aspect: float, frame_aspect: float) -> Iterator[HashPart]:
    for width, height in _crop_sizes(aspect, frame_aspect, _SIZE_STEP):
        for part_index, (x, y) in enumerate(_PART_CORNERS, start=1):
            for left in _crop_starts(x, width):
                for top in _crop_starts(y, height):
                    corner = (x - left) / width, (y - top) / height
                    yield HashPart(part_index, *corner, _PART_SIZE / width, _PART_SIZE / height)


def _crop_sizes(aspect: float, frame_aspect: float, step: float) -> Iterator[tuple[float, float]]:
    """List the sizes, relative to the frame, of crops that have the aspect of the query."""
    for width in np.arange(1, _MIN_CROP_SIZE - 1e-9, -step):
        height = width * frame_aspect / aspect
        if _MIN_CROP_SIZE - step <= height <= 1 + step / 2:
            yield float(width), min(max(float(height), _MIN_CROP_SIZE), 1.0)


def _crop_starts(part_start: float, crop_size: float) -> list[float]:
    """List where a crop can start and still contain the part that starts at `part_start`."""
    first, last = max(0.0, part_start + _PART_SIZE - crop_size), min(part_start, 1 - crop_size)
    return [float(left) for left in np.arange(first, last + 1e-6, _POSITION_STEP)]


def crop_templates(grey: Picture, frame_aspect: float) -> list[NormalizedImages]:
    """Scale a query to the sizes it can have in a shape: the whole frame, or a crop of it."""
    (wide, high), aspect = SHAPE_WH, grey.shape[1] / grey.shape[0]
    sizes = [
        (max(round(w * wide), 4), max(round(h * high), 4))
        for w, h in _crop_sizes(aspect, frame_aspect, _FIT_STEP)
    ]
    return [
        normalize_contrast(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
        for size in dict.fromkeys([SHAPE_WH, *sizes])
    ]


def normalize_contrast(grey: npt.NDArray[np.generic]) -> NormalizedImages:
    """Remove slow changes of brightness and make the local contrast the same everywhere."""
    levels = grey.astype(np.float32)
    detail = levels - cv2.GaussianBlur(levels, (0, 0), _HIGH_PASS_SIGMA)
    power = cv2.GaussianBlur(detail * detail, (0, 0), _HIGH_PASS_SIGMA)
    return np.asarray(detail / np.sqrt(power + _NOISE_POWER), np.float32)


def contrast_levels(shape: Shapes) -> Levels:
    """Compute the normalized contrast of a shape, (36, 64), as 8-bit levels about 128."""
    levels = ZERO_LEVEL + np.rint(normalize_contrast(shape) * _LEVELS_PER_UNIT)
    return np.asarray(np.clip(levels, 0, 255), np.uint8)


def _from_levels(levels: Levels) -> NormalizedImages:
    return (levels.astype(np.float32) - ZERO_LEVEL) / np.float32(_LEVELS_PER_UNIT)


def fit_templates(levels: Levels, templates: list[NormalizedImages]) -> TemplateFits:
    """Find the best template and its position in each frame, by correlation.

    `levels`, (n, 36, 64), are the normalized contrast of the shapes of the frames.
    """
    normalized = _from_levels(levels)
    spectra = np.fft.rfft2(normalized)
    sums, squares = (
        np.pad(_integral(each), ((0, 0), (1, 0), (1, 0))) for each in (normalized, normalized**2)
    )
    fits = TemplateFits.empty(len(levels))
    for index, template in enumerate(templates):
        centred = template - template.mean()
        conjugate = np.conj(np.fft.rfft2(centred, SHAPE_WH[::-1]))
        products = np.fft.irfft2(spectra * conjugate, SHAPE_WH[::-1])
        total = _box_sums(sums, centred.shape)
        variation = _box_sums(squares, centred.shape) - total**2 / centred.size
        scale = np.sqrt(np.maximum(variation, 1e-6) * max(float((centred**2).sum()), 1e-6))
        fits.update(index, products[:, : total.shape[1], : total.shape[2]] / scale)
    return fits


@dataclass(frozen=True)
class TemplateFits:
    """The best fit in each shape, (n,): correlation, template, and its top left corner."""

    correlation: npt.NDArray[np.float64]
    template_index: npt.NDArray[np.intp]
    y: npt.NDArray[np.intp]
    x: npt.NDArray[np.intp]

    @classmethod
    def empty(cls, count: int) -> TemplateFits:
        """Make the fits of `count` shapes before any template is fitted."""
        return cls(np.full(count, -1.0), *(np.zeros(count, np.intp) for _ in range(3)))

    def concatenated(self, others: TemplateFits) -> TemplateFits:
        """Append the fits of other shapes."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return TemplateFits(*(np.concatenate(pair) for pair in pairs))

    def update(self, template_index: int, correlations: npt.NDArray[np.floating]) -> None:
        """Record the fits of a template at all positions, (n, ys, xs), where they are better."""
        flat = correlations.reshape(len(correlations), -1)
        best = flat.argmax(axis=1)
        fit = flat[np.arange(len(flat)), best]
        better = fit > self.correlation
        y, x = np.unravel_index(best, correlations.shape[1:])
        self.correlation[better], self.template_index[better] = fit[better], template_index
        self.y[better], self.x[better] = y[better], x[better]


def block_agreement(levels: Levels, template: NormalizedImages, y: int, x: int) -> float:
    """Compute the mean correlation of 4 x 6 blocks of a template and a shape's levels: up to 1.

    An overlay that both pictures have could dominate a correlation of the whole pictures; here it
    covers a few of many blocks.
    """
    height, width = template.shape
    region = _from_levels(levels)[y : y + height, x : x + width]
    return float(_block_correlations(region[None], template[None])[0])


def levels_fidelity(packed: Levels, levels: Levels) -> npt.NDArray[np.float64]:
    """Compute the block agreement, (n,), of levels after and before packing, (n, 36, 64)."""
    return _block_correlations(_from_levels(packed), _from_levels(levels))


def _block_correlations(
    ones: NormalizedImages, others: NormalizedImages
) -> npt.NDArray[np.float64]:
    height, width = ones.shape[1:]
    rows, columns = (np.linspace(0, n, k + 1).astype(int) for n, k in ((height, 4), (width, 6)))
    correlations = [
        _correlations(ones[:, top:bottom, left:right], others[:, top:bottom, left:right])
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]
    return np.asarray(np.mean(correlations, axis=0))


def _correlations(ones: NormalizedImages, others: NormalizedImages) -> npt.NDArray[np.float64]:
    a, b = (each - each.mean(axis=(1, 2), keepdims=True) for each in (ones, others))
    power = (a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2))
    return np.asarray((a * b).sum(axis=(1, 2)) / np.sqrt(power + 1e-6))


def _integral(values: NormalizedImages) -> NormalizedImages:
    return np.asarray(values.astype(np.float64).cumsum(1).cumsum(2))


def _box_sums(summed: NormalizedImages, size: tuple[int, ...]) -> NormalizedImages:
    """Compute the sum over every box of a size, (height, width), from integral images."""
    height, width = size
    return np.asarray(
        summed[:, height:, width:]
        - summed[:, :-height, width:]
        - summed[:, height:, :-width]
        + summed[:, :-height, :-width]
    )
