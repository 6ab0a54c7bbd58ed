"""Label Studio's brush masks: run lengths of RGBA pixels, packed bit by bit (thi.ng's rle-pack).

The stream has a head of 53 bits: how many values, how wide a word is, the four widths that a run's
length may have. Then come runs: one bit (a repeated word, or words one by one), two bits for the
width, the length less one, and the word or the words. The server's own editor writes the same.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from annotate.errors import StudioError
from annotate.records import Mask, Rle

Bits = npt.NDArray[np.uint8]

_WIDTHS = (3, 4, 8, 16)  # bits that a run's length may have
_HEAD_BITS = 32 + 5 + 4 * len(_WIDTHS)
_LONGEST = 1 << _WIDTHS[-1]
_CHANNELS = 4
_SOLID = 128  # of 255: an editor's stroke has a soft edge


def encode(mask: Mask) -> list[int]:
    """A mask, (H, W) bool, as the bytes which Label Studio stores: 0 or 255 in all channels."""
    flat = np.ascontiguousarray(mask).ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    return _packed(np.diff(ends, prepend=-1), flat[ends], flat.size)


def encode_rle(rle: Rle) -> list[int]:
    """`encode` of a mask in COCO's run lengths."""
    from annotate import masks

    return encode(masks.decode(rle))


def _packed(pixels: npt.NDArray[np.int64], on: npt.NDArray[np.bool_], size: int) -> list[int]:
    lengths, values = pixels * _CHANNELS, on.astype(np.uint64) * np.uint64(255)
    pieces = -(-lengths // _LONGEST)
    kinds = np.digitize(lengths, [(1 << width) + 1 for width in _WIDTHS[:-1]])
    if (pieces > 1).any():  # what is left of a long run keeps its width, as in the SDK
        values, kinds, last = values.repeat(pieces), kinds.repeat(pieces), np.cumsum(pieces) - 1
        rest = lengths - (pieces - 1) * _LONGEST
        lengths = np.full(pieces.sum(), _LONGEST, np.int64)
        lengths[last] = rest
    sizes = np.array(_WIDTHS)[kinds]
    words = (4 | kinds).astype(np.uint64) << (sizes + 8).astype(np.uint64)
    words |= (lengths - 1).astype(np.uint64) << np.uint64(8) | values
    return list(np.packbits(_laid(words, sizes + 11, size)).tolist())


def _laid(words: npt.NDArray[np.uint64], widths: npt.NDArray[np.int64], size: int) -> Bits:
    """The head and the words, each as wide as it is, as bits one by one."""
    starts = np.cumsum(widths) - widths + _HEAD_BITS
    bits = np.zeros(int(widths.sum()) + _HEAD_BITS, np.uint8)
    head = size * _CHANNELS
    for number, width in [(7, 5), *((each - 1, 4) for each in _WIDTHS)]:
        head = head << width | number
    bits[:_HEAD_BITS] = [head >> _HEAD_BITS - 1 - place & 1 for place in range(_HEAD_BITS)]
    for width in np.unique(widths):
        same = widths == width
        shifts = np.arange(width - 1, -1, -1).astype(np.uint64)
        places = starts[same][:, None] + np.arange(width)
        bits[places] = words[same][:, None] >> shifts & np.uint64(1)
    return bits


def decode(rle: Sequence[int], size_wh: tuple[int, int]) -> Mask:
    """The mask, (H, W) bool, of a picture of `size_wh`; a soft edge counts from half on.

    Raises:
        StudioError: the bytes are of a picture of another size, or are cut short.
    """
    width, height = size_wh
    try:
        stream = _Stream(bytes(rle))
        count, word, *widths = (stream.take(bits) for bits in (32, 5, 4, 4, 4, 4))
        if count != width * height * _CHANNELS:
            raise StudioError(
                f"a brush mask of {count // _CHANNELS} pixels, but the picture is {width}x{height}"
            )
        values, lengths = stream.runs(count, word + 1, [each + 1 for each in widths])
    except (ValueError, TypeError, IndexError):
        raise StudioError("a brush mask whose bytes are cut short or damaged") from None
    if (lengths % _CHANNELS).any():  # a run that ends amid a pixel
        return np.repeat(values >= _SOLID, lengths)[3::_CHANNELS].reshape(height, width)
    return np.repeat(values >= _SOLID, lengths // _CHANNELS).reshape(height, width)


class _Stream:
    """Bits, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._end = data + bytes(8), 0, 8 * len(data)

    def take(self, bits: int) -> int:
        if self._at + bits > self._end:
            raise ValueError("cut short")
        first, shift = self._at >> 3, 64 - (self._at & 7) - bits
        self._at += bits
        window = int.from_bytes(self._data[first : first + 8], "big")
        return window >> shift & (1 << bits) - 1

    def runs(
        self, count: int, word: int, widths: Sequence[int]
    ) -> tuple[Bits, npt.NDArray[np.int64]]:
        """The values, each the low eight bits of a word, and how often each of them comes."""
        found, lengths = bytearray(), list[int]()
        total = 0
        while total < count:
            head = self.take(3)
            length = self.take(widths[head & 3]) + 1
            total += length
            if head & 4:
                found.append(self.take(word) & 255)
                lengths.append(length)
            else:
                found.extend(self.take(word) & 255 for _ in range(length))
                lengths.extend([1] * length)
        if total != count:
            raise ValueError("too long")
        return np.frombuffer(found, np.uint8), np.array(lengths)
