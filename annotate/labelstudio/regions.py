"""Convert objects to Label Studio regions and back, brush masks included.

Regions are in percent of the image. Converting to percent and back changes the last digit of a
float, and a brush loses its soft edge. A returned region is therefore compared with the region that
was sent: if they are equal, the result is the original object, bit by bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from annotate.dataset.folder import object_ids
from annotate.errors import ItemsError, StudioError
from annotate.items import masks
from annotate.items.boxes import area as box_area
from annotate.items.boxes import clip_box
from annotate.items.brush import decode_brush, encode_brush_rle
from annotate.items.foreign_masks import fill_outlines
from annotate.items.foreign_records import as_finite_number, as_whole_number, is_text, shown
from annotate.items.records import Box, Item, Object, Rle

Region = dict[str, Any]
REGION_TYPES = {  # name of a control in the labelling config -> type of its regions
    "box": "rectanglelabels",
    "polygon": "polygonlabels",
    "brush": "brushlabels",
}
IMAGE_TAG = "image"
PERSON_SOURCE = "person"  # source of objects that a person added
_PIXEL_DIGITS, _MAX_PIXEL_DIGITS = 3, 13  # of boxes of this program, and of others
_UNMOVED_PX = 0.5 * 10**-_PIXEL_DIGITS
SIDES = ("x", "y", "width", "height")
_PUSHED_ID = re.compile(r"[0-9a-f]{10}(?:-\d+)?")  # as `object_ids` makes them
_META_TEXT = re.compile(r"(?:track (\d+), )?(.*)", re.DOTALL)
_SIMPLIFY_PX = 1.0  # how far a simplified polygon may be from the outline


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


def to_object(region: Any, original: Object | None, item: Item) -> Object | None:
    """Convert a region of the frame `item`, as the server sends it, to an object.

    Returns the object `original` where the region is unchanged, and None where all of its mask was
    erased. Every number is checked before a pixel is filled.

    Raises:
        StudioError: the region is not one box, polygon or brush mask of this frame with one label
            and an area; says what it is instead.
    """
    kind, value = _check_region(region, item)
    label = read_label(value, kind)
    if original is not None and _same_shape(value, original, item, kind):
        return original if label == original.label else replace(original, label=label)
    try:
        mask, box = _read_shape(value, kind, item)
    except ItemsError as error:
        raise StudioError(str(error)) from None
    if box is None:
        if original is None and not _PUSHED_ID.fullmatch(str(region.get("id"))):
            raise StudioError("a brush mask without a pixel")
        return None
    base = original or Object(label, box, source=PERSON_SOURCE)
    return replace(base, label=label, box=box, mask=mask, score=None)


def restore_pushed(region: Mapping[str, Any], obj: Object, item: Item) -> tuple[Object, bool]:
    """Give an object that its dataset does not have what the region says of an earlier push.

    The dataset may have been built again since: the region still holds source, track and score.
    Returns the object, and whether nobody has touched the region: its id is a digest of the object
    that was sent, or the editor marks it as a prediction.
    """
    name, text = str(region.get("id")), pushed_text(region)
    pushed = _PUSHED_ID.fullmatch(name) and region.get("origin") != "manual"
    if not pushed or text is None:
        return obj, False
    track, source = re.fullmatch(_META_TEXT, text).groups()  # type: ignore[union-attr]
    score = as_finite_number(region.get("score"))
    restored = replace(obj, source=source, track=as_whole_number(track), score=score)
    for digits in range(_PIXEL_DIGITS, _MAX_PIXEL_DIGITS):
        box = obj.box if obj.mask is not None else _unrounded_box(region["value"], item)
        sent = replace(restored, box=round_box(box, digits))
        if object_ids([sent])[0] == name.partition("-")[0]:
            return sent, True
    if region.get("origin") == "prediction":
        return restored, True
    return replace(restored, score=None), False


def pushed_text(region: Mapping[str, Any]) -> str | None:
    """Return the text that a push wrote beside a shape; None where there is none."""
    meta = region.get("meta")
    texts = meta.get("text") if isinstance(meta, dict) else None
    text = texts[0] if isinstance(texts, list) and len(texts) == 1 else texts
    return text if text == "" or is_text(text) else None


def same_box(value: Mapping[str, Any], sent: Mapping[str, Any], size_wh: tuple[int, int]) -> bool:
    """Return whether a box in percent of the frame is the one that was sent."""
    sides = zip(SIDES, size_wh * 2, strict=True)
    return all(same_number(value.get(key), sent[key], size) for key, size in sides)


def _unrounded_box(value: Mapping[str, Any], item: Item) -> Box:
    """Return the box of a checked region in pixels, neither rounded nor clipped."""
    x, y, width, height = (as_finite_number(value[side]) or 0 for side in SIDES)
    x2, y2 = (x + width) * item.width / 100, (y + height) * item.height / 100
    return x * item.width / 100, y * item.height / 100, x2, y2


def _check_region(region: Any, item: Item) -> tuple[str, Mapping[str, Any]]:
    """Check that a region is a shape on this frame; return its kind and its value."""
    if not isinstance(region, dict):
        raise StudioError(f"a region that is no record: {shown(region)}")
    kind, value = region.get("type"), region.get("value")
    if kind not in REGION_TYPES.values():
        raise StudioError(
            f"a region of the kind {shown(kind)!r}, which is not a box, polygon or brush"
        )
    if not isinstance(value, dict):
        raise StudioError(f"a region without a value: {shown(value)}")
    if region.get("to_name") not in (None, IMAGE_TAG) or region.get("item_index") not in (None, 0):
        raise StudioError("a region of another image")
    turn = region.get("image_rotation")
    if turn is not None and as_finite_number(turn) != 0:
        raise StudioError(f"a region of an image that was turned by {shown(turn)} degrees")
    size = tuple(region.get(f"original_{side}") for side in ("width", "height"))
    for given, expected in zip(size, (item.width, item.height), strict=True):
        if given is not None and as_whole_number(given) != expected:
            raise StudioError(
                f"a region of an image of {shown(size[0])}x{shown(size[1])}, but the frame is "
                f"{item.width}x{item.height}. Was the image replaced?"
            )
    return str(kind), value


def read_label(value: Mapping[str, Any], kind: str) -> str:
    """Read the one label of a region of the kind `kind`.

    Raises:
        StudioError: none, several, or no text.
    """
    labels = value.get(kind) or value.get("labels") or []
    if not isinstance(labels, list):
        raise StudioError(f"a region whose labels are no list: {shown(labels)}")
    if len(labels) != 1 or labels[0] in ("", None):
        raise StudioError(f"a region with {'several labels' if len(labels) > 1 else 'no label'}")
    if not is_text(labels[0]):
        raise StudioError(f"a region whose label is no text: {shown(labels[0])}")
    return labels[0]


def _same_shape(value: Mapping[str, Any], original: Object, item: Item, kind: str) -> bool:
    """Return whether a region has the shape that was sent, within half a thousandth of a pixel."""
    if (original.mask is None) != (kind == "rectanglelabels"):
        return False
    sent = _shape_value(original, item, kind)
    if kind == "rectanglelabels":
        size_wh = item.width, item.height
        turned = not same_number(value.get("rotation") or 0, 0, max(size_wh))
        return same_box(value, sent, size_wh) and not turned
    if kind == "polygonlabels":
        return _same_points(value.get("points"), sent["points"], item) and _is_closed(value)
    if sent["rle"] != value.get("rle"):
        try:  # the editor may pack the same pixels in other runs
            mask = decode_brush(value.get("rle", ()), (item.width, item.height))
        except ItemsError:
            return False
        return masks.encode(mask) == original.mask
    return True


def same_number(value: Any, sent: float, size: int) -> bool:
    """Return whether a number came back as it was sent, in percent of `size` pixels.

    A copy by way of the browser may differ in the last digits.
    """
    number = as_finite_number(value)
    return number is not None and abs(number - sent) * size / 100 <= _UNMOVED_PX


def _same_points(points: Any, sent: Sequence[Sequence[float]], item: Item) -> bool:
    if not isinstance(points, list) or len(points) != len(sent):
        return False
    return all(
        isinstance(point, list)
        and len(point) == 2
        and same_number(point[0], x, item.width)
        and same_number(point[1], y, item.height)
        for point, (x, y) in zip(points, sent, strict=True)
    )


def _is_closed(value: Mapping[str, Any]) -> bool:
    return value.get("closed") in (None, True)


def _read_shape(value: Mapping[str, Any], kind: str, item: Item) -> tuple[Rle | None, Box | None]:
    """Read the mask and the box of a shape; (None, None) for a brush mask without a pixel.

    Raises:
        StudioError, ItemsError: numbers are missing, not finite or far outside, or enclose no area.
    """
    size_wh = (item.width, item.height)
    if kind == "rectanglelabels" and not ("rle" in value and "x" not in value):
        return None, _read_box(value, size_wh)
    if kind == "polygonlabels":
        mask = _read_polygon(value, size_wh)
    else:
        mask = masks.encode(decode_brush(value.get("rle", ()), size_wh))
    box = masks.box(mask)
    return (None, None) if box is None else (mask, box)


def _read_polygon(value: Mapping[str, Any], size_wh: tuple[int, int]) -> Rle:
    points = value.get("points")
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise StudioError("a polygon whose points are no pairs of numbers")
    if not _is_closed(value):
        raise StudioError("a polygon that is not closed")
    numbers = [[as_finite_number(side) for side in point] for point in points]
    if any(side is None for point in numbers for side in point):
        raise StudioError("a polygon with a coordinate that is not a finite number")
    width, height = size_wh
    with np.errstate(over="ignore"):  # what is not finite any more is refused as such
        ring = np.array(numbers, np.float64).reshape(-1, 2) * (width / 100, height / 100)
    mask, _ = fill_outlines([ring], size_wh)
    if mask is None:
        raise StudioError(f"a polygon of {len(points)} points that encloses no pixel")
    return mask


def _read_box(value: Mapping[str, Any], size_wh: tuple[int, int]) -> Box:
    """Read a box in pixels, clipped to the image; of a rotated box, the enclosing box."""
    numbers = [as_finite_number(value.get(side)) for side in SIDES]
    turn = value.get("rotation")
    degrees = as_finite_number(0 if turn is None else turn)
    percent = [number for number in numbers if number is not None]
    if len(percent) != len(SIDES) or degrees is None:
        raise StudioError("a box with sides that are not numbers")
    width, height = size_wh
    x, y, w, h = (n * side / 100 for n, side in zip(percent, size_wh * 2, strict=True))
    if w < 0 or h < 0:
        raise StudioError("a box of negative size")
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [(dx * cos - dy * sin, dx * sin + dy * cos) for dx in (0, w) for dy in (0, h)]
    xs, ys = [x + dx for dx, _ in corners], [y + dy for _, dy in corners]
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    near = -width <= x1 <= x2 <= 2 * width and -height <= y1 <= y2 <= 2 * height
    if not near:  # as with outlines; also where a number is not finite
        raise StudioError(f"a box far outside the frame of {width}x{height}")
    box = round_box(clip_box((x1, y1, x2, y2), size_wh))
    if not box_area(box):
        raise StudioError(f"a box without area inside the frame of {width}x{height}")
    return box


def round_box(box: Box, digits: int = _PIXEL_DIGITS) -> Box:
    """Round a box, to a thousandth of a pixel by default, as in files of items."""
    x1, y1, x2, y2 = (round(side, digits) for side in box)
    return x1, y1, x2, y2
