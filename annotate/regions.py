"""An object on a picture <-> a region in Label Studio: percent of the picture, and a label.

Percent and back costs a float its last digit, and a brush loses nothing but its soft edge. So what
comes back is held against what was sent: what is the same is the object itself, to the last bit.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from annotate import brush, masks
from annotate.errors import StudioError
from annotate.records import Box, Item, Mask, Object

Region = dict[str, Any]
CONTROLS = {  # the name of a control in the labelling config, and the type of its regions
    "box": "rectanglelabels",
    "polygon": "polygonlabels",
    "brush": "brushlabels",
}
PICTURE = "image"
PERSON = "person"  # the source of an object that a person has added
_PIXEL_DIGITS = 3  # as in files of items
_POINTS_APART = 1.0  # pixels by which an outline may be simplified for a person to edit


def region_ids(objects: Sequence[Object]) -> list[str]:
    """A name for each object of a frame, the same whatever other objects stand beside it."""
    seen: Counter[str] = Counter()
    names = []
    for thing in objects:
        counts = thing.mask and thing.mask["counts"]
        content = (thing.label, thing.box, thing.score, thing.track, counts, thing.source)
        digest = hashlib.sha256(repr(content).encode()).hexdigest()[:10]
        seen[digest] += 1
        names.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return names


def to_regions(item: Item, *, polygons: bool = False) -> list[Region]:
    """What is sent of an item: a region an object, a brush mask (or a polygon) where it has one."""
    return [
        _region(thing, name, item, _control(thing, polygons))
        for thing, name in zip(item.objects, region_ids(item.objects), strict=True)
    ]


def _control(thing: Object, polygons: bool) -> str:
    if thing.mask is None:
        return "box"
    if polygons:
        parts = masks.to_polygons(thing.mask)
        if len(parts) == 1 and not parts[0].holes:
            return "polygon"
    return "brush"


def _region(thing: Object, name: str, item: Item, control: str) -> Region:
    kind = CONTROLS[control]
    told = [f"track {thing.track}"] if thing.track is not None else []
    region: Region = {
        "id": name,
        "type": kind,
        "from_name": control,
        "to_name": PICTURE,
        "original_width": item.width,
        "original_height": item.height,
        "image_rotation": 0,
        "value": {**_shape(thing, item, kind), kind: [thing.label]},
        "meta": {"text": [", ".join([*told, thing.source])]},
    }
    return region | ({"score": thing.score} if thing.score is not None else {})


def _shape(thing: Object, item: Item, kind: str) -> dict[str, Any]:
    """The part of a region's value that says where it is."""
    if kind == "brushlabels" and thing.mask is not None:
        return {"format": "rle", "rle": brush.encode_rle(thing.mask)}
    if kind == "polygonlabels" and thing.mask is not None:
        import cv2

        ring = masks.to_polygons(thing.mask)[0].outer.astype(np.float32)
        simple = cv2.approxPolyDP(ring[:, None], _POINTS_APART, closed=True)[:, 0]
        points = simple if len(simple) >= 3 else ring
        return {"points": (points * (100 / item.width, 100 / item.height)).tolist(), "closed": True}
    x1, y1, x2, y2 = thing.box
    return {
        "x": x1 / item.width * 100,
        "y": y1 / item.height * 100,
        "width": (x2 - x1) / item.width * 100,
        "height": (y2 - y1) / item.height * 100,
        "rotation": 0,
    }


def check_size(region: Mapping[str, Any], item: Item) -> None:
    """Accept a region of a picture of the item's size: percents of another mean other pixels.

    Raises:
        StudioError: it is of a picture of another size.
    """
    size = (region.get("original_width"), region.get("original_height"))
    if size != (item.width, item.height):
        raise StudioError(
            f"{item.video}#{item.frame}: a region of a picture of {size[0]}x{size[1]}, but the "
            f"frame is {item.width}x{item.height}; nothing is written. Was the picture replaced?"
        )


def to_object(region: Mapping[str, Any], was: Object | None, item: Item) -> Object | None:
    """The object that a region says, `was` itself where nothing of it changed.

    None where all of a mask has been erased. `item` is the frame that it is on.

    Raises:
        StudioError: of no kind that is known, or without a label.
    """
    kind, value = str(region.get("type")), region.get("value", {})
    if kind not in CONTROLS.values():
        raise StudioError(f"a region of the kind {kind!r}, which is no box, polygon or brush")
    labels = value.get(kind) or [""]
    if len(labels) != 1 or not labels[0]:
        raise StudioError(f"a region with {'no label' if not labels[0] else 'several labels'}")
    if was is not None and _same_shape(value, was, item, kind):
        return was if labels[0] == was.label else replace(was, label=labels[0])
    mask, box = _read(value, kind, item)
    if mask is None and box is None:
        return None
    new = was or Object(labels[0], (0, 0, 0, 0), source=PERSON)
    whole = masks.encode(mask) if mask is not None else None
    return replace(new, label=labels[0], box=box or (0, 0, 0, 0), mask=whole, score=None)


def _same_shape(value: Mapping[str, Any], was: Object, item: Item, kind: str) -> bool:
    if (was.mask is None) != (kind == "rectanglelabels"):
        return False
    sent = _shape(was, item, kind)
    if kind == "brushlabels" and sent["rle"] != value.get("rle"):
        try:  # the editor may pack the same pixels in other runs
            seen = brush.decode(value.get("rle", ()), (item.width, item.height))
        except StudioError:
            return False
        return masks.encode(seen) == was.mask
    return all(value.get(key) == part for key, part in sent.items())


def _read(value: Mapping[str, Any], kind: str, item: Item) -> tuple[Mask | None, Box | None]:
    size_wh = (item.width, item.height)
    if kind == "rectanglelabels":
        return None, _box(value, size_wh)
    if kind == "brushlabels":
        mask = brush.decode(value.get("rle", ()), size_wh)
    else:
        ring = np.array(value.get("points", ()), float).reshape(-1, 2)
        ring *= (item.width / 100, item.height / 100)
        mask = masks.from_polygons([masks.Polygon(ring)], size_wh)
    box = masks.box(mask)
    return (None, None) if box is None else (mask, box)


def _box(value: Mapping[str, Any], size_wh: tuple[int, int]) -> Box:
    """The box in pixels, cut off at the picture's edge; one that was turned is enclosed."""
    width, height = size_wh
    x, y = value["x"] * width / 100, value["y"] * height / 100
    across, down = value["width"] * width / 100, value["height"] * height / 100
    angle = math.radians(value.get("rotation") or 0)
    cos, sin = math.cos(angle), math.sin(angle)
    turned = [(a * cos - d * sin, a * sin + d * cos) for a in (0, across) for d in (0, down)]
    xs, ys = [x + a for a, _ in turned], [y + d for _, d in turned]
    sides = (min(xs), min(ys), max(xs), max(ys))
    if not all(map(math.isfinite, sides)):
        raise StudioError("a box whose sides are no numbers")
    limits = (width, height, width, height)
    cut = (min(max(side, 0.0), most) for side, most in zip(sides, limits, strict=True))
    x1, y1, x2, y2 = (round(side, _PIXEL_DIGITS) for side in cut)
    return x1, y1, x2, y2
