"""What is remembered of a frame, to know it again: hashes, the layout of its colours, its shape.

A hash of the whole picture finds it scaled, recompressed and in other tones. Five more, each of
0.6 of its width and height in the middle and the corners, find it cropped: whatever crop is left,
one of the five is likely in it, and a crop is asked about at all places where one could lie. What
was found is proved by the shape: a small grey picture, made free of tones, into which the picture
asked about is fitted at the sizes that a crop could have.
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

from annotate import colour_layout, hashes
from annotate.glance import Glance
from annotate.records import Frame, Picture

WINDOWS = 6  # hashes: of the whole, then of five parts
SHAPE_WH = (64, 36)
_SIDE = 32  # pixels of what is hashed
_PART = 0.6  # of width and height
_CORNERS = ((0.2, 0.2), (0.0, 0.0), (0.4, 0.0), (0.0, 0.4), (0.4, 0.4))  # x and y of the parts
_LEAST = 0.6  # of the width or height that a crop may have left
_SIZE_STEP, _PLACE_STEP = 0.07, 0.05  # of the picture, between crops asked about
_FIT_STEP = 0.025  # of the picture, between sizes fitted into a shape
_TONES = 3.2  # pixels of a shape: brightness that varies more slowly is not looked at
_NOISE = 9.0  # square levels: contrast below it is not amplified

Shapes = npt.NDArray[np.uint8]
Prints = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Imprint:
    """`hashes` (6,), `layout` (33,), `shape` (36, 64) grey."""

    hashes: hashes.Hashes
    layout: colour_layout.Layout
    shape: Shapes


@dataclass(frozen=True)
class Part:
    """Where in a picture asked about the part `which` of a frame would be, were it a crop of it."""

    which: int
    x: float
    y: float
    width: float
    height: float


WHOLE = Part(0, 0, 0, 1, 1)


def lone(picture: Picture) -> Frame:
    """A picture that is of no clip."""
    return Frame("", 0, Fraction(0), picture)


def imprint(glance: Glance) -> Imprint:
    """Of a frame."""
    grey = glance.small_grey
    places = [WHOLE]
    places += [Part(n, x, y, _PART, _PART) for n, (x, y) in enumerate(_CORNERS, start=1)]
    return Imprint(hash_parts(grey, places), colour_layout.layout(glance.small), _shape(grey))


def hash_parts(grey: Picture, parts: list[Part]) -> hashes.Hashes:
    """(n,) hashes of parts of a grey picture."""
    return hashes.of_squares(np.array([_cut(grey, part) for part in parts], np.float64))


def _shape(grey: Picture) -> Shapes:
    return np.asarray(cv2.resize(grey, SHAPE_WH, interpolation=cv2.INTER_AREA), np.uint8)


def _cut(grey: Picture, part: Part) -> Picture:
    height, width = grey.shape
    x1, y1 = round(part.x * width), round(part.y * height)
    x2, y2 = round((part.x + part.width) * width), round((part.y + part.height) * height)
    cut = grey[min(y1, height - 2) : max(y2, y1 + 2), min(x1, width - 2) : max(x2, x1 + 2)]
    return np.asarray(cv2.resize(cut, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)


@lru_cache(maxsize=64)
def parts(aspect: float, frame_aspect: float) -> tuple[Part, ...]:
    """All parts to ask about in a picture of an aspect, width / height, as a crop of a frame."""
    return tuple(_parts(aspect, frame_aspect))


def _parts(aspect: float, frame_aspect: float) -> Iterator[Part]:
    for width, height in _crops(aspect, frame_aspect, _SIZE_STEP):
        for which, (x, y) in enumerate(_CORNERS, start=1):
            for left in _lefts(x, width):
                for top in _lefts(y, height):
                    at = (x - left) / width, (y - top) / height
                    yield Part(which, *at, _PART / width, _PART / height)


def _crops(aspect: float, frame_aspect: float, step: float) -> Iterator[tuple[float, float]]:
    """Sizes, of a frame, that a picture of an aspect could have been cut out with."""
    for width in np.arange(1, _LEAST - 1e-9, -step):
        height = width * frame_aspect / aspect
        if _LEAST - step <= height <= 1 + step / 2:
            yield float(width), min(max(float(height), _LEAST), 1.0)


def _lefts(at: float, size: float) -> list[float]:
    """Where a crop of a size may begin so that the part that begins at `at` is in it."""
    first, last = max(0.0, at + _PART - size), min(at, 1 - size)
    return [float(left) for left in np.arange(first, last + 1e-6, _PLACE_STEP)]


def templates(grey: Picture, frame_aspect: float) -> list[Prints]:
    """A picture as it would look in a shape: as the whole, stretched, and as a crop of any size."""
    (wide, high), aspect = SHAPE_WH, grey.shape[1] / grey.shape[0]
    sizes = [
        (max(round(w * wide), 4), max(round(h * high), 4))
        for w, h in _crops(aspect, frame_aspect, _FIT_STEP)
    ]
    return [
        toneless(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
        for size in dict.fromkeys([SHAPE_WH, *sizes])
    ]


def toneless(grey: npt.NDArray[np.generic]) -> Prints:
    """A small picture without its slow tones, its contrast the same everywhere."""
    levels = grey.astype(np.float32)
    detail = levels - cv2.GaussianBlur(levels, (0, 0), _TONES)
    power = cv2.GaussianBlur(detail * detail, (0, 0), _TONES)
    return np.asarray(detail / np.sqrt(power + _NOISE), np.float32)


def fits(shapes: Shapes, fitted: list[Prints]) -> Places:
    """Where the best of the `templates` fits into each shape, (n, 36, 64), and how well."""
    prints = np.array([toneless(shape) for shape in shapes], np.float32)
    spectra = np.fft.rfft2(prints)
    sums, squares = (
        np.pad(_summed(each), ((0, 0), (1, 0), (1, 0))) for each in (prints, prints**2)
    )
    places = Places.none(len(shapes))
    for number, template in enumerate(fitted):
        level = template - template.mean()
        turned = np.conj(np.fft.rfft2(level, SHAPE_WH[::-1]))
        found = np.fft.irfft2(spectra * turned, SHAPE_WH[::-1])
        total = _boxes(sums, level.shape)
        spread = _boxes(squares, level.shape) - total**2 / level.size
        scale = np.sqrt(np.maximum(spread, 1e-6) * max(float((level**2).sum()), 1e-6))
        places.take(number, found[:, : total.shape[1], : total.shape[2]] / scale)
    return places


@dataclass(frozen=True)
class Places:
    """For each shape, (n,): the best fit, a correlation; of which template; its top left corner."""

    fit: npt.NDArray[np.float64]
    template: npt.NDArray[np.intp]
    y: npt.NDArray[np.intp]
    x: npt.NDArray[np.intp]

    @classmethod
    def none(cls, count: int) -> Places:
        """Nothing has been fitted yet."""
        return cls(np.full(count, -1.0), *(np.zeros(count, np.intp) for _ in range(3)))

    def joined(self, others: Places) -> Places:
        """These, then others."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Places(*(np.concatenate(pair) for pair in pairs))

    def take(self, template: int, found: npt.NDArray[np.floating]) -> None:
        """Note the fits of a template at all its places, (n, ys, xs), where they are better."""
        flat = found.reshape(len(found), -1)
        best = flat.argmax(axis=1)
        fit = flat[np.arange(len(flat)), best]
        better = fit > self.fit
        y, x = np.unravel_index(best, found.shape[1:])
        self.fit[better], self.template[better] = fit[better], template
        self.y[better], self.x[better] = y[better], x[better]


def agreement(shape: Picture, template: Prints, y: int, x: int) -> float:
    """How well a template agrees with a shape at a place, block by block: up to 1.

    A display that both have would do for a fit as a whole; here it is a few blocks of many.
    """
    high, wide = template.shape
    print_ = toneless(shape)[y : y + high, x : x + wide]
    rows, columns = (np.linspace(0, n, k + 1).astype(int) for n, k in ((high, 4), (wide, 6)))
    found = [
        _correlation(print_[top:bottom, left:right], template[top:bottom, left:right])
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]
    return float(np.mean(found))


def _correlation(one: Prints, other: Prints) -> float:
    a, b = one - one.mean(), other - other.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-6))


def _summed(values: Prints) -> Prints:
    return np.asarray(values.astype(np.float64).cumsum(1).cumsum(2))


def _boxes(summed: Prints, size: tuple[int, ...]) -> Prints:
    """The sum over every box of a size, from an integral image."""
    high, wide = size
    return np.asarray(
        summed[:, high:, wide:]
        - summed[:, :-high, wide:]
        - summed[:, high:, :-wide]
        + summed[:, :-high, :-wide]
    )
