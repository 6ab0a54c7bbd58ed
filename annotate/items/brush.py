"""Encode and decode brush masks, as the editor of Label Studio writes them.

Brush masks are run lengths of RGBA pixels, packed bit by bit (thi.ng's rle-pack). The stream has a
head of 53 bits: the number of values, the word size, and the four possible widths of a run length.
Then come runs: one bit (a repeated word, or single words), two bits for the width, the length minus
one, and the word or words. The codec of label-studio-sdk is not used, because it builds a Python
string of all bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from annotate.errors import ItemsError
from annotate.items import masks
from annotate.items.records import Mask, Rle

Bits = npt.NDArray[np.uint8]
_LENGTH_WIDTHS = (3, 4, 8, 16)  # possible widths of a run length, in bits
_HEAD_BITS = 32 + 5 + 4 * len(_LENGTH_WIDTHS)
_MAX_RUN = 1 << _LENGTH_WIDTHS[-1]
_CHANNELS = 4
_MIN_ALPHA = 128  # of 255: strokes of the editor have a soft edge


def encode_brush(mask: Mask) -> list[int]:
    """Encode a mask, (H, W) bool, as a brush mask: the bytes of RGBA pixels of 0 or 255."""
    flat = np.ascontiguousarray(mask).ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    return _pack_runs(np.diff(ends, prepend=-1), flat[ends], flat.size)


def encode_brush_rle(rle: Rle) -> list[int]:
    """Encode a mask, COCO RLE, as a brush mask."""
    return encode_brush(masks.decode(rle))


def _pack_runs(
    run_pixels: npt.NDArray[np.int64], run_values: npt.NDArray[np.bool_], pixel_count: int
) -> list[int]:
    lengths, values = run_pixels * _CHANNELS, run_values.astype(np.uint64) * np.uint64(255)
    pieces = -(-lengths // _MAX_RUN)
    kinds = np.digitize(lengths, [(1 << width) + 1 for width in _LENGTH_WIDTHS[:-1]])
    if (pieces > 1).any():  # the rest of a long run keeps the width, as in the SDK
        values, kinds, last = values.repeat(pieces), kinds.repeat(pieces), np.cumsum(pieces) - 1
        rest = lengths - (pieces - 1) * _MAX_RUN
        lengths = np.full(pieces.sum(), _MAX_RUN, np.int64)
        lengths[last] = rest
    sizes = np.array(_LENGTH_WIDTHS)[kinds]
    words = (4 | kinds).astype(np.uint64) << (sizes + 8).astype(np.uint64)
    words |= (lengths - 1).astype(np.uint64) << np.uint64(8) | values
    return list(np.packbits(_pack_words(words, sizes + 11, pixel_count)).tolist())


def _pack_words(
    words: npt.NDArray[np.uint64], widths: npt.NDArray[np.int64], pixel_count: int
) -> Bits:
    """Pack the head and the words, each of its own width, to single bits."""
    starts = np.cumsum(widths) - widths + _HEAD_BITS
    bits = np.zeros(int(widths.sum()) + _HEAD_BITS, np.uint8)
    head = pixel_count * _CHANNELS
    for number, width in [(7, 5), *((each - 1, 4) for each in _LENGTH_WIDTHS)]:
        head = head << width | number
    bits[:_HEAD_BITS] = [head >> _HEAD_BITS - 1 - bit & 1 for bit in range(_HEAD_BITS)]
    for width in np.unique(widths):
        same = widths == width
        shifts = np.arange(width - 1, -1, -1).astype(np.uint64)
        positions = starts[same][:, None] + np.arange(width)
        bits[positions] = words[same][:, None] >> shifts & np.uint64(1)
    return bits


def decode_brush(rle: Sequence[int], size_wh: tuple[int, int]) -> Mask:
    """Decode a brush mask to a mask, (H, W) bool; pixels count from an alpha of 128 on.

    Raises:
        ItemsError: the bytes are of an image of another size, truncated, or not a list of bytes.
    """
    width, height = size_wh
    if not isinstance(rle, list | tuple):  # bytes(n) would allocate n bytes
        raise ItemsError("a brush mask that is not a list of bytes")
    try:
        stream = _BitReader(bytes(rle))
        count, word, *widths = (stream.read_bits(bits) for bits in (32, 5, 4, 4, 4, 4))
        if count != width * height * _CHANNELS:
            raise ItemsError(
                f"a brush mask of {count // _CHANNELS} pixels, but the image is {width}x{height}"
            )
        values, lengths = stream.read_runs(count, word + 1, [each + 1 for each in widths])
    except (ValueError, TypeError, IndexError):
        raise ItemsError("a brush mask with truncated or damaged bytes") from None
    if (lengths % _CHANNELS).any():  # a run ends inside a pixel
        return np.repeat(values >= _MIN_ALPHA, lengths)[3::_CHANNELS].reshape(height, width)
    return np.repeat(values >= _MIN_ALPHA, lengths // _CHANNELS).reshape(height, width)


class _BitReader:
    """Reads bits from the front of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position, self._end = data + bytes(8), 0, 8 * len(data)

    def read_bits(self, bits: int) -> int:
        if self._position + bits > self._end:
            raise ValueError("truncated")
        first, shift = self._position >> 3, 64 - (self._position & 7) - bits
        self._position += bits
        window = int.from_bytes(self._data[first : first + 8], "big")
        return window >> shift & (1 << bits) - 1

    def read_runs(
        self, count: int, word: int, widths: Sequence[int]
    ) -> tuple[Bits, npt.NDArray[np.int64]]:
        """Read `count` values as runs: the low eight bits of each word, and the run lengths."""
        values, lengths = bytearray(), list[int]()
        total = 0
        while total < count:
            head = self.read_bits(3)
            length = self.read_bits(widths[head & 3]) + 1
            total += length
            if head & 4:
                values.append(self.read_bits(word) & 255)
                lengths.append(length)
            else:
                values.extend(self.read_bits(word) & 255 for _ in range(length))
                lengths.extend([1] * length)
        if total != count:
            raise ValueError("too long")
        return np.frombuffer(values, np.uint8), np.array(lengths)
