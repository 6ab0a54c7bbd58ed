"""Convert objects to Label Studio regions and back, brush masks included.

Regions are in percent of the image. Converting to percent and back changes the last digit of a
float, and a brush loses its soft edge. A returned region is therefore compared with the region that
was sent: if they are equal, the result is the original object, bit by bit.

Brush masks are run lengths of RGBA pixels, packed bit by bit (thi.ng's rle-pack), as the editor of
Label Studio writes them. The stream has a head of 53 bits: the number of values, the word size, and
the four possible widths of a run length. Then come runs: one bit (a repeated word, or single
words), two bits for the width, the length minus one, and the word or words. The codec of
label-studio-sdk is not used, because it builds a Python string of all bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.dataset.folder import object_ids
from annotate.errors import StudioError
from annotate.items import masks
from annotate.items.boxes import clip_box
from annotate.items.records import Box, Item, Mask, Object, Rle

Bits = npt.NDArray[np.uint8]
Region = dict[str, Any]
REGION_TYPES = {  # name of a control in the labelling config -> type of its regions
    "box": "rectanglelabels",
    "polygon": "polygonlabels",
    "brush": "brushlabels",
}
IMAGE_TAG = "image"
PERSON_SOURCE = "person"  # source of objects that a person added
_PIXEL_DIGITS = 3
_SIMPLIFY_PX = 1.0  # how far a simplified polygon may be from the outline

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
        StudioError: the bytes are of an image of another size, or truncated.
    """
    width, height = size_wh
    try:
        stream = _BitReader(bytes(rle))
        count, word, *widths = (stream.read_bits(bits) for bits in (32, 5, 4, 4, 4, 4))
        if count != width * height * _CHANNELS:
            raise StudioError(
                f"a brush mask of {count // _CHANNELS} pixels, but the image is {width}x{height}"
            )
        values, lengths = stream.read_runs(count, word + 1, [each + 1 for each in widths])
    except (ValueError, TypeError, IndexError):
        raise StudioError("a brush mask with truncated or damaged bytes") from None
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


def to_regions(item: Item, *, polygons: bool = False) -> list[Region]:
    """Convert the objects of an item to regions: boxes, brush masks, or polygons on request."""
    return [
        _to_region(obj, name, item, _choose_control(obj, polygons))
        for obj, name in zip(item.objects, object_ids(item.objects), strict=True)
    ]


def _choose_control(obj: Object, polygons: bool) -> str:
    if obj.mask is None:
        return "box"
    if polygons:
        parts = masks.to_polygons(obj.mask)
        if len(parts) == 1 and not parts[0].holes:
            return "polygon"
    return "brush"


def _to_region(obj: Object, name: str, item: Item, control: str) -> Region:
    kind = REGION_TYPES[control]
    track = [f"track {obj.track}"] if obj.track is not None else []
    region: Region = {
        "id": name,
        "type": kind,
        "from_name": control,
        "to_name": IMAGE_TAG,
        "original_width": item.width,
        "original_height": item.height,
        "image_rotation": 0,
        "value": {**_shape_value(obj, item, kind), kind: [obj.label]},
        "meta": {"text": [", ".join([*track, obj.source])]},
    }
    return region | ({"score": obj.score} if obj.score is not None else {})


def _shape_value(obj: Object, item: Item, kind: str) -> dict[str, Any]:
    """Make the part of a region's value that holds its box, polygon or brush mask."""
    if kind == "brushlabels" and obj.mask is not None:
        return {"format": "rle", "rle": encode_brush_rle(obj.mask)}
    if kind == "polygonlabels" and obj.mask is not None:
        import cv2

        ring = masks.to_polygons(obj.mask)[0].outer.astype(np.float32)
        simplified = cv2.approxPolyDP(ring[:, None], _SIMPLIFY_PX, closed=True)[:, 0]
        points = simplified if len(simplified) >= 3 else ring
        return {"points": (points * (100 / item.width, 100 / item.height)).tolist(), "closed": True}
    x1, y1, x2, y2 = obj.box
    return {
        "x": x1 / item.width * 100,
        "y": y1 / item.height * 100,
        "width": (x2 - x1) / item.width * 100,
        "height": (y2 - y1) / item.height * 100,
        "rotation": 0,
    }


def check_size(region: Mapping[str, Any], item: Item) -> None:
    """Check that a region is of an image of the item's size, because its unit is percent.

    Raises:
        StudioError: the region is of an image of another size.
    """
    size = (region.get("original_width"), region.get("original_height"))
    if size != (item.width, item.height):
        raise StudioError(
            f"{item.video}#{item.frame}: a region of an image of {size[0]}x{size[1]}, but the "
            f"frame is {item.width}x{item.height}; nothing is written. Was the image replaced?"
        )


def to_object(region: Mapping[str, Any], original: Object | None, item: Item) -> Object | None:
    """Convert a region of the frame `item` to an object.

    Returns the object `original` where the region is unchanged, and None where all of a mask was
    erased.

    Raises:
        StudioError: the region is not a box, polygon or brush mask, or has not one label.
    """
    kind, value = str(region.get("type")), region.get("value", {})
    if kind not in REGION_TYPES.values():
        raise StudioError(f"a region of the kind {kind!r}, which is not a box, polygon or brush")
    labels = value.get(kind) or [""]
    if len(labels) != 1 or not labels[0]:
        raise StudioError(f"a region with {'no label' if not labels[0] else 'several labels'}")
    if original is not None and _same_shape(value, original, item, kind):
        return original if labels[0] == original.label else replace(original, label=labels[0])
    mask, box = _read_shape(value, kind, item)
    if mask is None and box is None:
        return None
    base = original or Object(labels[0], (0, 0, 0, 0), source=PERSON_SOURCE)
    rle = masks.encode(mask) if mask is not None else None
    return replace(base, label=labels[0], box=box or (0, 0, 0, 0), mask=rle, score=None)


def _same_shape(value: Mapping[str, Any], original: Object, item: Item, kind: str) -> bool:
    if (original.mask is None) != (kind == "rectanglelabels"):
        return False
    sent = _shape_value(original, item, kind)
    if kind == "brushlabels" and sent["rle"] != value.get("rle"):
        try:  # the editor may pack the same pixels in other runs
            mask = decode_brush(value.get("rle", ()), (item.width, item.height))
        except StudioError:
            return False
        return masks.encode(mask) == original.mask
    return all(value.get(key) == expected for key, expected in sent.items())


def _read_shape(value: Mapping[str, Any], kind: str, item: Item) -> tuple[Mask | None, Box | None]:
    size_wh = (item.width, item.height)
    if kind == "rectanglelabels":
        return None, _read_box(value, size_wh)
    if kind == "brushlabels":
        mask = decode_brush(value.get("rle", ()), size_wh)
    else:
        ring = np.array(value.get("points", ()), float).reshape(-1, 2)
        ring *= (item.width / 100, item.height / 100)
        mask = masks.from_polygons([masks.Polygon(ring)], size_wh)
    box = masks.box(mask)
    return (None, None) if box is None else (mask, box)


def _read_box(value: Mapping[str, Any], size_wh: tuple[int, int]) -> Box:
    """Read a box in pixels, clipped to the image; of a rotated box, the enclosing box."""
    width, height = size_wh
    x, y = value["x"] * width / 100, value["y"] * height / 100
    w, h = value["width"] * width / 100, value["height"] * height / 100
    angle = math.radians(value.get("rotation") or 0)
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [(dx * cos - dy * sin, dx * sin + dy * cos) for dx in (0, w) for dy in (0, h)]
    xs, ys = [x + dx for dx, _ in corners], [y + dy for _, dy in corners]
    box = (min(xs), min(ys), max(xs), max(ys))
    if not all(map(math.isfinite, box)):
        raise StudioError("a box with sides that are not numbers")
    return round_box(clip_box(box, size_wh))


def round_box(box: Box) -> Box:
    """Round a box to a thousandth of a pixel, as in files of items."""
    x1, y1, x2, y2 = (round(side, _PIXEL_DIGITS) for side in box)
    return x1, y1, x2, y2
