"""Compute detection and tracking metrics: matching, AP, precision-recall, agreement.

Box metrics of a file against ground truth in COCO format, whose annotations have `track_id`s and
whose image ids are frame indices, are computed here as well.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from annotate.dataset.frame_sources import FrameKey
from annotate.errors import needs
from annotate.items import masks
from annotate.items.records import Box, Item, Object, Rle

MIN_IOU = 0.5  # from which on a box is the other's
FloatArray = npt.NDArray[np.float64]
ObjectsByFrame = Mapping[FrameKey, Sequence[Object]]  # what is on each frame that was looked at
_MAX_BOXES = 10_000  # boxes of a frame that are judged: all, where COCO would take 100
_RECALL_THRESHOLDS = np.linspace(0, 1, 101)  # at which COCO reads precision off


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Precision and recall, each (n,), when boxes that score below `scores` are left out.

    Boxes are right from IoU 0.5 on. `truth` objects were to be found.
    """

    scores: FloatArray
    precision: FloatArray
    recall: FloatArray
    truth_count: int

    @property
    def best_index(self) -> int | None:
        """The place with the best F1; None where nothing was found."""
        if not self.recall.any():
            return None
        total = np.maximum(self.precision + self.recall, 1e-12)
        return int((2 * self.precision * self.recall / total).argmax())


@dataclass(frozen=True)
class Agreement:
    """How far two detectors say the same: F1 at IoU 0.5, and the mean IoU of what both say."""

    f1: float
    iou: float


def iou_matrix(one: Sequence[Box], other: Sequence[Box]) -> FloatArray:
    """Intersection over union of each with each, (len(one), len(other))."""
    a, b = (np.array(boxes, float).reshape(-1, 4) for boxes in (one, other))
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1] - both
    overlap: FloatArray = both / np.maximum(union, 1e-12)
    return overlap


def match_boxes(
    one: Sequence[Object], other: Sequence[Object], min_iou: float = MIN_IOU
) -> list[Any]:
    """For each of `one`, surest first, its best of `other` that is of its class and free.

    Gives (place in one, place in other, IoU).
    """
    overlap = iou_matrix([thing.box for thing in one], [thing.box for thing in other])
    pairs = []
    for row in sorted(range(len(one)), key=lambda n: -sort_score(one[n])):
        same = [one[row].label == thing.label for thing in other]
        fit = np.where(same, overlap[row], -1.0)
        if len(fit) and fit.max() >= min_iou:
            column = int(fit.argmax())
            pairs.append((row, column, float(fit[column])))
            overlap[:, column] = -1.0
    return pairs


def sort_score(obj: Object) -> float:
    """A score to sort by: without one, below all that have one."""
    return -1.0 if obj.score is None else obj.score


def filter_objects(
    frames: ObjectsByFrame, labels: Iterable[str], min_score: float = 0.0
) -> dict[FrameKey, list[Object]]:
    """The objects of these classes that score `least` or more, or have no score."""
    wanted = set(labels)
    return {
        key: [o for o in things if o.label in wanted and (o.score is None or o.score >= min_score)]
        for key, things in frames.items()
    }


def precision_recall_curve(
    truth: ObjectsByFrame, detections: ObjectsByFrame
) -> PrecisionRecallCurve:
    """Precision and recall over the frames of `truth`, all classes together."""
    rows = []
    for key, real in truth.items():
        things = detections.get(key, ())
        right = {row for row, _, _ in match_boxes(things, real)}
        rows += [(sort_score(thing), row in right) for row, thing in enumerate(things)]
    count = sum(map(len, truth.values()))
    table = np.array(sorted(rows, reverse=True), float).reshape(-1, 2)
    last = np.append(np.diff(table[:, 0]) < 0, True)[: len(table)]  # equal scores fall together
    right_so_far = table[:, 1].cumsum()[last]
    taken = np.arange(1, len(table) + 1)[last]
    return PrecisionRecallCurve(
        table[last, 0], right_so_far / taken, right_so_far / max(count, 1), count
    )


def average_precision(
    truth: ObjectsByFrame, detections: ObjectsByFrame, labels: Sequence[str]
) -> tuple[float, float]:
    """COCO's AP over IoU 0.5 to 0.95, and at 0.5, by faster-coco-eval; NaN without truth.

    Boxes that all lack a score are one point of the curve, whatever their order.
    """
    held = _coco_evaluation(truth, detections, labels)
    if held is None:
        return float("nan"), float("nan")
    precision = np.array(held.eval["precision"])[:, :, :, 0, -1]  # iou, recall, class
    if all(o.score is None for things in detections.values() for o in things):
        precision = _unranked_precision(held, detections, truth, labels)
    precision[:, :, (precision[0] < 0).all(0)] = np.nan  # classes that the truth never shows
    return float(np.nanmean(precision)), float(np.nanmean(precision[0]))


def _coco_evaluation(
    truth: ObjectsByFrame, detections: ObjectsByFrame, labels: Sequence[str]
) -> Any:
    coco = needs("faster_coco_eval")
    keys = {key: number for number, key in enumerate(truth, start=1)}
    if not any(truth.values()):
        return None
    whole = coco.COCO()
    whole.dataset = {
        "info": {},
        "images": [{"id": number} for number in keys.values()],
        "categories": [{"id": n, "name": name} for n, name in enumerate(labels, start=1)],
        "annotations": _coco_annotations(truth, keys, labels),
    }
    whole.createIndex()
    given = whole.loadRes(_coco_annotations(detections, keys, labels))
    held = coco.COCOeval_faster(whole, given, "bbox")
    held.params.maxDets = [1, 10, _MAX_BOXES]
    held.evaluate()
    held.accumulate()
    return held


def _coco_annotations(
    frames: ObjectsByFrame, keys: Mapping[FrameKey, int], labels: Sequence[str]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for key, number in keys.items():
        for thing in frames.get(key, ()):
            x1, y1, x2, y2 = thing.box
            row: dict[str, Any] = {"id": len(rows) + 1, "image_id": number, "iscrowd": 0}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            rows.append(
                row | {"category_id": labels.index(thing.label) + 1, "score": sort_score(thing)}
            )
    return rows


def _unranked_precision(
    evaluation: Any, detections: ObjectsByFrame, truth: ObjectsByFrame, labels: Sequence[str]
) -> Any:
    """Precision by IoU, recall and class, of boxes that cannot be ranked."""
    reached = np.array(evaluation.eval["recall"])[:, :, 0, -1]  # iou, class
    given, real = (
        np.array(
            [sum(o.label == name for o in _objects_on(frames, truth)) for name in labels], float
        )
        for frames in (detections, truth)
    )
    precision = reached * real / np.maximum(given, 1)
    points = np.where(reached[:, None] >= _RECALL_THRESHOLDS[:, None], precision[:, None], 0.0)
    return np.where(real > 0, points, -1.0)


def _objects_on(frames: ObjectsByFrame, keys: Iterable[FrameKey]) -> list[Object]:
    return [thing for key in keys for thing in frames.get(key, ())]


def agreement(one: ObjectsByFrame, other: ObjectsByFrame) -> Agreement:
    """How far two detectors say the same on the frames that both looked at; NaN of nothing."""
    keys = one.keys() & other.keys()
    pairs = [iou for key in keys for _, _, iou in match_boxes(one[key], other[key])]
    said = len(_objects_on(one, keys)) + len(_objects_on(other, keys))
    nan = float("nan")
    return Agreement(
        2 * len(pairs) / said if said else nan, float(np.mean(pairs)) if pairs else nan
    )


MIN_AREA = 64  # pixels; a smaller object is not asked for


@dataclass(frozen=True)
class BoxMetrics:
    """How well the boxes of a class were found: COCO's AP, at IoU 0.5 and over 0.5 to 0.95."""

    label: str
    truth_count: int
    proposed_count: int
    ap50: float
    ap: float


@dataclass(frozen=True)
class TrackMetrics:
    """How well one object was followed.

    `j` is the mean IoU over the frames that show it (a frame without a mask counts 0);
    `false_presence` the share of the frames that do not show it on which it was claimed.
    """

    track: int
    label: str
    frame_count: int
    j: float
    false_presence: float


def box_metrics(truth_path: Path, items: Iterable[Item], label: str) -> BoxMetrics:
    """Score the boxes of `label` against the ground truth's category of that name."""
    record = json.loads(truth_path.read_text(encoding="utf-8"))
    wanted = {each["id"] for each in record["categories"] if each["name"] == label}
    real = [a for a in record["annotations"] if a["category_id"] in wanted and _is_large(a)]
    found = [
        {
            "image_id": item.frame,
            "category_id": 1,
            "bbox": _xyxy_to_xywh(o.box),
            "score": o.score or 0.0,
        }
        for item in items
        for o in item.objects
        if o.label == label
    ]
    known = {
        "images": record["images"],
        "categories": [{"id": 1, "name": label}],
        "annotations": [{**a, "id": n, "category_id": 1} for n, a in enumerate(real, start=1)],
    }
    ap, ap50 = _coco_average_precision(known, found) if found and real else (0.0, 0.0)
    return BoxMetrics(label, len(real), len(found), ap50, ap)


def _is_large(annotation: dict[str, Any]) -> bool:
    return bool(annotation["bbox"][2] * annotation["bbox"][3] >= MIN_AREA)


def _xyxy_to_xywh(box: tuple[float, float, float, float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _coco_average_precision(
    truth: dict[str, Any], detections: list[dict[str, Any]]
) -> tuple[float, float]:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        coco: Any = COCO()
        coco.dataset = truth
        coco.createIndex()
        held = COCOeval(coco, coco.loadRes(detections), "bbox")
        held.evaluate()
        held.accumulate()
        held.summarize()
    return float(held.stats[0]), float(held.stats[1])


def track_metrics(
    truth_path: Path, items: Iterable[Item], track_ids: Iterable[int] | None = None
) -> list[TrackMetrics]:
    """Score the tracks `asked` for (else those the items speak of) against the truth's.

    A track that was asked for and never found counts as missed on every frame.
    """
    record = json.loads(truth_path.read_text(encoding="utf-8"))
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
    wanted = sorted(set(found if track_ids is None else track_ids) & set(labels))
    return [_one_track_metrics(t, labels[t], frames, real[t], found[t]) for t in wanted]


def _one_track_metrics(
    track: int,
    label: str,
    frame_indices: list[int],
    truth_masks: dict[int, Rle],
    predicted_masks: dict[int, Rle],
) -> TrackMetrics:
    asked = [
        n for n in frame_indices if n in truth_masks and masks.area(truth_masks[n]) >= MIN_AREA
    ]
    hidden = [n for n in frame_indices if n not in truth_masks]
    overlap = [
        masks.iou(truth_masks[n], predicted_masks[n]) if n in predicted_masks else 0.0
        for n in asked
    ]
    claimed = sum(n in predicted_masks for n in hidden)
    j = float(np.mean(overlap)) if overlap else 0.0
    return TrackMetrics(track, label, len(asked), j, claimed / len(hidden) if hidden else 0.0)
