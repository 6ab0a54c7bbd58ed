"""Hold items against ground truth: COCO with `track_id`s, an image's id being its frame's index."""

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from annotate import masks
from annotate.records import Item, Rle

SMALLEST = 64  # pixels; a smaller object is not asked for


@dataclass(frozen=True)
class Boxes:
    """How well the boxes of a class were found: COCO's AP, at IoU 0.5 and over 0.5 to 0.95."""

    label: str
    truth: int
    proposed: int
    ap50: float
    ap: float


@dataclass(frozen=True)
class Track:
    """How well one object was followed.

    `j` is the mean IoU over the frames that show it (a frame without a mask counts 0);
    `false_presence` the share of the frames that do not show it on which it was claimed.
    """

    track: int
    label: str
    frames: int
    j: float
    false_presence: float


def boxes(truth: Path, items: Iterable[Item], label: str) -> Boxes:
    """Score the boxes of `label` against the ground truth's category of that name."""
    record = json.loads(truth.read_text(encoding="utf-8"))
    wanted = {each["id"] for each in record["categories"] if each["name"] == label}
    real = [a for a in record["annotations"] if a["category_id"] in wanted and _large(a)]
    found = [
        {"image_id": item.frame, "category_id": 1, "bbox": _xywh(o.box), "score": o.score or 0.0}
        for item in items
        for o in item.objects
        if o.label == label
    ]
    known = {
        "images": record["images"],
        "categories": [{"id": 1, "name": label}],
        "annotations": [{**a, "id": n, "category_id": 1} for n, a in enumerate(real, start=1)],
    }
    ap, ap50 = _average_precision(known, found) if found and real else (0.0, 0.0)
    return Boxes(label, len(real), len(found), ap50, ap)


def _large(annotation: dict[str, Any]) -> bool:
    return bool(annotation["bbox"][2] * annotation["bbox"][3] >= SMALLEST)


def _xywh(box: tuple[float, float, float, float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _average_precision(known: dict[str, Any], found: list[dict[str, Any]]) -> tuple[float, float]:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        coco: Any = COCO()
        coco.dataset = known
        coco.createIndex()
        held = COCOeval(coco, coco.loadRes(found), "bbox")
        held.evaluate()
        held.accumulate()
        held.summarize()
    return float(held.stats[0]), float(held.stats[1])


def tracks(truth: Path, items: Iterable[Item], asked: Iterable[int] | None = None) -> list[Track]:
    """Score the tracks `asked` for (else those the items speak of) against the truth's.

    A track that was asked for and never found counts as missed on every frame.
    """
    record = json.loads(truth.read_text(encoding="utf-8"))
    names = {each["id"]: each["name"] for each in record["categories"]}
    real: dict[int, dict[int, Rle]] = defaultdict(dict)
    labels = {}
    for each in record["annotations"]:
        if "segmentation" in each:
            real[each["track_id"]][each["image_id"]] = each["segmentation"]
            labels[each["track_id"]] = names[each["category_id"]]
    found: dict[int, dict[int, Rle]] = defaultdict(dict)
    for item in items:
        for thing in item.objects:
            if thing.track is not None and thing.mask is not None:
                found[thing.track][item.frame] = thing.mask
    frames = [image["id"] for image in record["images"]]
    wanted = sorted(set(found if asked is None else asked) & set(labels))
    return [_follow(t, labels[t], frames, real[t], found[t]) for t in wanted]


def _follow(
    track: int, label: str, frames: list[int], real: dict[int, Rle], found: dict[int, Rle]
) -> Track:
    asked = [n for n in frames if n in real and masks.area(real[n]) >= SMALLEST]
    hidden = [n for n in frames if n not in real]
    overlap = [masks.iou(real[n], found[n]) if n in found else 0.0 for n in asked]
    claimed = sum(n in found for n in hidden)
    j = float(np.mean(overlap)) if overlap else 0.0
    return Track(track, label, len(asked), j, claimed / len(hidden) if hidden else 0.0)
