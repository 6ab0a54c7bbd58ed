"""Compute detection and tracking metrics: box matching, AP, precision-recall, agreement, track IoU.

Average precision is COCO's, by pycocotools. The tracks of a COCO file are annotations with a
`track_id`.
"""

from __future__ import annotations

import contextlib
import io
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
from annotate.evaluation import ground_truth
from annotate.items import boxes, masks
from annotate.items.records import Item, Object, Rle

MIN_IOU = 0.5  # from this IoU on, two boxes match
MIN_AREA = 64  # pixels: smaller true objects are not counted
FloatArray = npt.NDArray[np.float64]
ObjectsByFrame = Mapping[FrameKey, Sequence[Object]]  # only frames that somebody has looked at
MAX_BOXES = 10_000  # boxes of a frame and class that are evaluated
RECALL_THRESHOLDS = np.linspace(0, 1, 101)  # COCO reads the precision at these


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Precision and recall at IoU 0.5, each (n,), of the boxes from each of `scores` on.

    `truth_count` is the number of true objects.
    """

    scores: FloatArray
    precision: FloatArray
    recall: FloatArray
    truth_count: int

    @property
    def best_index(self) -> int | None:
        """Index of the threshold with the highest F1; None without a correct box."""
        if not self.recall.any():
            return None
        total = np.maximum(self.precision + self.recall, 1e-12)
        return int((2 * self.precision * self.recall / total).argmax())

    @property
    def best_point(self) -> tuple[float, float, float] | None:
        """Precision, recall and score at `best_index`; None without a correct box."""
        if (index := self.best_index) is None:
            return None
        return float(self.precision[index]), float(self.recall[index]), float(self.scores[index])


@dataclass(frozen=True)
class Agreement:
    """Agreement of two detectors: F1 at IoU 0.5, and the mean IoU of the matched boxes."""

    f1: float
    iou: float


def match_boxes(
    one: Sequence[Object], other: Sequence[Object], min_iou: float = MIN_IOU
) -> list[tuple[int, int, float]]:
    """Match objects of the same class greedily, by the order of the scores of `one`.

    Returns (index in one, index in other, IoU) for each match; an object matches at most once.
    """
    overlap = boxes.iou_matrix([obj.box for obj in one], [obj.box for obj in other])
    pairs = []
    for row in sorted(range(len(one)), key=lambda n: -sort_score(one[n])):
        same_label = [one[row].label == obj.label for obj in other]
        iou = np.where(same_label, overlap[row], -1.0)
        if len(iou) and iou.max() >= min_iou:
            column = int(iou.argmax())
            pairs.append((row, column, float(iou[column])))
            overlap[:, column] = -1.0
    return pairs


def sort_score(obj: Object) -> float:
    """Return an object's score, or -1 without one: below every score."""
    return -1.0 if obj.score is None else obj.score


def filter_objects(
    frames: ObjectsByFrame, labels: Iterable[str], min_score: float = 0.0
) -> dict[FrameKey, list[Object]]:
    """Select the objects of some classes that score at least `min_score`, or have no score."""
    selected = set(labels)
    return {
        key: [
            o for o in objects if o.label in selected and (o.score is None or o.score >= min_score)
        ]
        for key, objects in frames.items()
    }


def precision_recall_curve(
    truth: ObjectsByFrame, detections: ObjectsByFrame
) -> PrecisionRecallCurve:
    """Compute precision and recall on the frames of `truth`, all classes together.

    Boxes of equal score are one point of the curve.
    """
    rows = []
    for key, true_objects in truth.items():
        objects = detections.get(key, ())
        correct = {row for row, _, _ in match_boxes(objects, true_objects)}
        rows += [(sort_score(obj), row in correct) for row, obj in enumerate(objects)]
    truth_count = sum(map(len, truth.values()))
    table = np.array(sorted(rows, reverse=True), float).reshape(-1, 2)
    last_of_score = np.append(np.diff(table[:, 0]) < 0, True)[: len(table)]
    correct_count = table[:, 1].cumsum()[last_of_score]
    box_count = np.arange(1, len(table) + 1)[last_of_score]
    return PrecisionRecallCurve(
        table[last_of_score, 0],
        correct_count / box_count,
        correct_count / max(truth_count, 1),
        truth_count,
    )


def average_precision(
    truth: ObjectsByFrame, detections: ObjectsByFrame, labels: Sequence[str]
) -> tuple[float, float]:
    """Compute COCO's AP over IoU 0.5 to 0.95 and AP at IoU 0.5 (AP50), by pycocotools.

    Detections on frames that `truth` does not have are left out. Both numbers are NaN without true
    objects. Detections that all lack a score have no order: they are one point of the curve.
    """
    if not any(truth.values()):
        return float("nan"), float("nan")
    result = _coco_evaluation(truth, detections, labels)
    precision = result["precision"][:, :, :, 0, 0]  # IoU, recall, class
    if all(o.score is None for objects in detections.values() for o in objects):
        precision = _unranked_precision(result["recall"][:, :, 0, 0], detections, truth, labels)
    precision[:, :, (precision[0] < 0).all(0)] = np.nan  # classes without true objects
    return float(np.nanmean(precision)), float(np.nanmean(precision[0]))


def _coco_evaluation(
    truth: ObjectsByFrame, detections: ObjectsByFrame, labels: Sequence[str]
) -> dict[str, Any]:
    """Evaluate all boxes of a frame; COCO's own limit is the 100 with the highest scores."""
    image_ids = {key: number for number, key in enumerate(truth, start=1)}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        true_table, table = (coco_table(each, image_ids, labels) for each in (truth, detections))
        evaluation: Any = COCOeval(true_table, table, "bbox")
        evaluation.params.maxDets = [MAX_BOXES]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return dict(evaluation.eval)


def coco_table(
    frames: ObjectsByFrame, image_ids: Mapping[FrameKey, int], labels: Sequence[str]
) -> Any:
    """Make the table of pycocotools, a `COCO`, of objects; the category ids start at 1."""
    rows: list[dict[str, Any]] = []
    for key, image_id in image_ids.items():
        for obj in frames.get(key, ()):
            x1, y1, x2, y2 = obj.box
            row: dict[str, Any] = {"id": len(rows) + 1, "image_id": image_id, "iscrowd": 0}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            row |= {"category_id": labels.index(obj.label) + 1, "score": sort_score(obj)}
            rows.append(row)
    table: Any = COCO()
    table.dataset = {
        "images": [{"id": image_id} for image_id in image_ids.values()],
        "categories": [{"id": n, "name": name} for n, name in enumerate(labels, start=1)],
        "annotations": rows,
    }
    table.createIndex()
    return table


def _unranked_precision(
    recall: FloatArray, detections: ObjectsByFrame, truth: ObjectsByFrame, labels: Sequence[str]
) -> FloatArray:
    """Compute the precision of boxes without an order, (IoU, recall, class), from their recall."""
    proposed_count, truth_count = (
        np.array([sum(o.label == name for o in _objects_on(each, truth)) for name in labels], float)
        for each in (detections, truth)
    )
    precision = recall * truth_count / np.maximum(proposed_count, 1)
    points = np.where(recall[:, None] >= RECALL_THRESHOLDS[:, None], precision[:, None], 0.0)
    return np.where(truth_count > 0, points, -1.0)


def _objects_on(frames: ObjectsByFrame, keys: Iterable[FrameKey]) -> list[Object]:
    return [obj for key in keys for obj in frames.get(key, ())]


def agreement(one: ObjectsByFrame, other: ObjectsByFrame) -> Agreement:
    """Compute the agreement of two detectors on their common frames; NaN without boxes."""
    keys = one.keys() & other.keys()
    overlaps = [iou for key in keys for _, _, iou in match_boxes(one[key], other[key])]
    box_count = len(_objects_on(one, keys)) + len(_objects_on(other, keys))
    nan = float("nan")
    return Agreement(
        2 * len(overlaps) / box_count if box_count else nan,
        float(np.mean(overlaps)) if overlaps else nan,
    )


@dataclass(frozen=True)
class BoxMetrics:
    """Average precision of the boxes of a class: at IoU 0.5, and over IoU 0.5 to 0.95."""

    label: str
    truth_count: int
    proposed_count: int
    ap50: float
    ap: float


@dataclass(frozen=True)
class TrackMetrics:
    """How well the masks of one track fit the truth.

    `j` is the mean IoU over the frames that show the object (0 on a frame without a mask).
    `false_presence` is the share of the other frames that have a mask.
    """

    track: int
    label: str
    frame_count: int
    j: float
    false_presence: float


def box_metrics(truth_path: Path, items: Iterable[Item], label: str) -> BoxMetrics:
    """Compute the average precision of a class against a COCO file of the same clip.

    Frames are matched by their index. True boxes of fewer than `MIN_AREA` pixels are not counted.
    """
    truth = {
        ("", frame): [
            obj for obj in objects if obj.label == label and boxes.area(obj.box) >= MIN_AREA
        ]
        for (_, frame), objects in ground_truth.read(truth_path).objects.items()
    }
    detections = {
        ("", item.frame): [obj for obj in item.objects if obj.label == label] for item in items
    }
    truth_count, proposed_count = (sum(map(len, each.values())) for each in (truth, detections))
    ap, ap50 = 0.0, 0.0
    if truth_count and proposed_count:
        ap, ap50 = average_precision(truth, detections, [label])
    return BoxMetrics(label, truth_count, proposed_count, ap50, ap)


def track_metrics(
    truth_path: Path, items: Iterable[Item], track_ids: Iterable[int] | None = None
) -> list[TrackMetrics]:
    """Compare the masks of tracks with those of a COCO file of the same clip.

    `track_ids` are the tracks to compare; by default those of the items. A track that the items
    do not have counts as missed on every frame.
    """
    truth = ground_truth.read(truth_path, with_masks=True).objects
    labels = {o.track: o.label for objects in truth.values() for o in objects if o.mask is not None}
    true_masks = _masks_by_track((frame, objects) for (_, frame), objects in truth.items())
    predicted_masks = _masks_by_track((item.frame, item.objects) for item in items)
    frames = [frame for _, frame in truth]
    tracks = sorted(set(predicted_masks if track_ids is None else track_ids) & set(true_masks))
    return [
        _one_track_metrics(track, labels[track], frames, true_masks[track], predicted_masks[track])
        for track in tracks
    ]


def _masks_by_track(
    frames: Iterable[tuple[int, Sequence[Object]]],
) -> defaultdict[int, dict[int, Rle]]:
    """Group masks: track -> frame index -> mask."""
    tracks: defaultdict[int, dict[int, Rle]] = defaultdict(dict)
    for frame, objects in frames:
        for obj in objects:
            if obj.track is not None and obj.mask is not None:
                tracks[obj.track][frame] = obj.mask
    return tracks


def _one_track_metrics(
    track: int,
    label: str,
    frame_indices: list[int],
    truth_masks: dict[int, Rle],
    predicted_masks: dict[int, Rle],
) -> TrackMetrics:
    shown = [
        n for n in frame_indices if n in truth_masks and masks.area(truth_masks[n]) >= MIN_AREA
    ]
    hidden = [n for n in frame_indices if n not in truth_masks]
    overlap = [
        masks.iou(truth_masks[n], predicted_masks[n]) if n in predicted_masks else 0.0
        for n in shown
    ]
    false_count = sum(n in predicted_masks for n in hidden)
    j = float(np.mean(overlap)) if overlap else 0.0
    return TrackMetrics(track, label, len(shown), j, false_count / len(hidden) if hidden else 0.0)
