"""Compute perceptual hashes: 64 bits robust to scaling, compression and tone changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from annotate.items.records import Picture

BITS = 64
_INPUT_SIDE = 32  # pixels
_LOW_FREQUENCIES = 8  # DCT frequencies in each direction

Hashes = npt.NDArray[np.uint64]


def phash(pictures: Sequence[Picture]) -> Hashes:
    """Compute 64-bit hashes, (n,), of pictures, RGB or grey, as `imagehash.phash` does.

    Ours works on arrays of hashes, and needs no further package. The highest bit belongs to the
    mean; the others follow row by row through the lowest frequencies.
    """
    return hash_squares(
        np.array([_grey_square(each) for each in pictures]).reshape(-1, _INPUT_SIDE, _INPUT_SIDE)
    )


def hash_squares(squares: npt.NDArray[Any]) -> Hashes:
    """Compute hashes, (n,), of grey pictures of 32 x 32 pixels, (n, 32, 32)."""
    basis = _dct_basis()
    low = (basis @ squares @ basis.T).reshape(-1, BITS)
    above = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8").astype(np.uint64).reshape(-1)


def hamming_distances(query: np.uint64 | int, hashes: Hashes) -> npt.NDArray[np.uint8]:
    """Count the bits, (n,), that differ between a query hash and each of `hashes`, (n,)."""
    return np.asarray(np.bitwise_count(hashes ^ np.uint64(query)))


def bits(hashes: Hashes) -> npt.NDArray[np.float32]:
    """Unpack hashes to vectors of 0 and 1, (n, 64): squared distance is Hamming distance."""
    return np.unpackbits(hashes.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1).astype(
        np.float32
    )


def _grey_square(picture: Picture) -> npt.NDArray[np.uint8]:
    grey = Image.fromarray(picture).convert("L")
    return np.asarray(grey.resize((_INPUT_SIDE, _INPUT_SIDE), Image.Resampling.LANCZOS))


@cache
def _dct_basis() -> npt.NDArray[np.float64]:
    """Compute the lowest frequencies of the cosine transform (DCT-II), (8, 32)."""
    middles = (np.arange(_INPUT_SIDE) + 0.5) * np.pi / _INPUT_SIDE
    return np.asarray(np.cos(np.arange(_LOW_FREQUENCIES)[:, None] * middles))
