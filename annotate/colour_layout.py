"""The colour layout descriptor of MPEG-7 (ISO/IEC 15938-3), with as many numbers as LIRE keeps.

It is the picture as 8 x 8 tiles, each plane of YCbCr as its lowest frequencies, coarsely quantised:
21 of Y, 6 of Cb, 6 of Cr, the mean first, in zigzag order.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from annotate.records import Picture

SIZE = 33
_TILES = 8
_COUNTS = (21, 6, 6)  # of Y, Cb, Cr
_WEIGHTS = ((3.0, 3.0, 3.0), (2.0, 1.0, 1.0), (4.0, 2.0, 2.0))  # of the first; the others weigh 1
_Y_MEANS = ((0, 64, 96, 160, 192, 256), (0, 16, 32, 96, 112, 128))  # fine where most means are
_C_MEANS = ((64, 96, 112, 144, 160, 192), (0, 8, 16, 48, 56, 64))
_OTHERS = ((0, 64, 128, 256), (0, 64, 96, 128))

Layout = npt.NDArray[np.uint8]


def layout(picture: Picture) -> Layout:
    """(33,) of an RGB picture."""
    tiles = cv2.resize(picture, (_TILES, _TILES), interpolation=cv2.INTER_AREA)
    planes = cv2.cvtColor(tiles, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]].astype(np.float32)
    parts = [
        _quantised(cv2.dct(np.ascontiguousarray(planes[..., n])).reshape(-1)[_zigzag(count)], n)
        for n, count in enumerate(_COUNTS)
    ]
    return np.asarray(np.concatenate(parts), np.uint8)


def distances(one: Layout, others: Layout) -> npt.NDArray[np.float64]:
    """(n,) from one to each of `others`, (n, 33): 0 to a few hundred."""
    apart = (others.astype(np.float64) - one) ** 2
    total = np.zeros(len(others))
    start = 0
    for count, first in zip(_COUNTS, _WEIGHTS, strict=True):
        weights = np.ones(count)
        weights[: len(first)] = first
        total += np.sqrt(apart[:, start : start + count] @ weights)
        start += count
    return total


def _quantised(values: npt.NDArray[np.floating], plane: int) -> npt.NDArray[np.floating]:
    mean, others = values[0] / _TILES, values[1:] / (2 if plane == 0 else 1)
    if plane == 0:
        first = np.floor(np.interp(mean, *_Y_MEANS)) // 2
    else:
        first = np.minimum(np.floor(np.interp(mean, *_C_MEANS)), 63)
    sizes = np.interp(np.abs(others), *_OTHERS)
    return np.array([first, *np.clip(np.sign(others) * sizes + 128, 0, 255) // 8])


def _zigzag(count: int) -> list[int]:
    """Places in a row-wise 8 x 8 of the first `count`, from corner to corner and back."""
    cells = [(y, x) for y in range(_TILES) for x in range(_TILES)]
    cells.sort(key=lambda c: (c[0] + c[1], c[0] if (c[0] + c[1]) % 2 else c[1]))
    return [y * _TILES + x for y, x in cells[:count]]
