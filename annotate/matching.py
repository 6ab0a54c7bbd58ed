"""Boxes held against boxes: who found what, how sure of it, and how two agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.errors import needs
from annotate.footage import Key
from annotate.records import Box, Object

IOU = 0.5  # from which on a box is the other's
Numbers = npt.NDArray[np.float64]
Frames = Mapping[Key, Sequence[Object]]  # what is on each frame that was looked at
_MOST = 10_000  # boxes of a frame that are judged: all, where COCO would take 100
_RECALLS = np.linspace(0, 1, 101)  # at which COCO reads precision off


@dataclass(frozen=True)
class Curve:
    """Precision and recall, each (n,), when boxes that score below `scores` are left out.

    Boxes are right from IoU 0.5 on. `truth` objects were to be found.
    """

    scores: Numbers
    precision: Numbers
    recall: Numbers
    truth: int

    @property
    def best(self) -> int | None:
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


def ious(one: Sequence[Box], other: Sequence[Box]) -> Numbers:
    """Intersection over union of each with each, (len(one), len(other))."""
    a, b = (np.array(boxes, float).reshape(-1, 4) for boxes in (one, other))
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1] - both
    overlap: Numbers = both / np.maximum(union, 1e-12)
    return overlap


def matched(one: Sequence[Object], other: Sequence[Object], least: float = IOU) -> list[Any]:
    """For each of `one`, surest first, its best of `other` that is of its class and free.

    Gives (place in one, place in other, IoU).
    """
    overlap = ious([thing.box for thing in one], [thing.box for thing in other])
    pairs = []
    for row in sorted(range(len(one)), key=lambda n: -sureness(one[n])):
        same = [one[row].label == thing.label for thing in other]
        fit = np.where(same, overlap[row], -1.0)
        if len(fit) and fit.max() >= least:
            column = int(fit.argmax())
            pairs.append((row, column, float(fit[column])))
            overlap[:, column] = -1.0
    return pairs


def sureness(thing: Object) -> float:
    """A score to sort by: without one, below all that have one."""
    return -1.0 if thing.score is None else thing.score


def only(frames: Frames, labels: Iterable[str], least: float = 0.0) -> dict[Key, list[Object]]:
    """The objects of these classes that score `least` or more, or have no score."""
    wanted = set(labels)
    return {
        key: [o for o in things if o.label in wanted and (o.score is None or o.score >= least)]
        for key, things in frames.items()
    }


def curve(truth: Frames, found: Frames) -> Curve:
    """Precision and recall over the frames of `truth`, all classes together."""
    rows = []
    for key, real in truth.items():
        things = found.get(key, ())
        right = {row for row, _, _ in matched(things, real)}
        rows += [(sureness(thing), row in right) for row, thing in enumerate(things)]
    count = sum(map(len, truth.values()))
    table = np.array(sorted(rows, reverse=True), float).reshape(-1, 2)
    last = np.append(np.diff(table[:, 0]) < 0, True)[: len(table)]  # equal scores fall together
    right_so_far = table[:, 1].cumsum()[last]
    taken = np.arange(1, len(table) + 1)[last]
    return Curve(table[last, 0], right_so_far / taken, right_so_far / max(count, 1), count)


def average_precision(truth: Frames, found: Frames, labels: Sequence[str]) -> tuple[float, float]:
    """COCO's AP over IoU 0.5 to 0.95, and at 0.5, by faster-coco-eval; NaN without truth.

    Boxes that all lack a score are one point of the curve, whatever their order.
    """
    held = _evaluated(truth, found, labels)
    if held is None:
        return float("nan"), float("nan")
    precision = np.array(held.eval["precision"])[:, :, :, 0, -1]  # iou, recall, class
    if all(o.score is None for things in found.values() for o in things):
        precision = _of_one_point(held, found, truth, labels)
    precision[:, :, (precision[0] < 0).all(0)] = np.nan  # classes that the truth never shows
    return float(np.nanmean(precision)), float(np.nanmean(precision[0]))


def _evaluated(truth: Frames, found: Frames, labels: Sequence[str]) -> Any:
    coco = needs("faster_coco_eval")
    keys = {key: number for number, key in enumerate(truth, start=1)}
    if not any(truth.values()):
        return None
    whole = coco.COCO()
    whole.dataset = {
        "info": {},
        "images": [{"id": number} for number in keys.values()],
        "categories": [{"id": n, "name": name} for n, name in enumerate(labels, start=1)],
        "annotations": _annotations(truth, keys, labels),
    }
    whole.createIndex()
    given = whole.loadRes(_annotations(found, keys, labels))
    held = coco.COCOeval_faster(whole, given, "bbox")
    held.params.maxDets = [1, 10, _MOST]
    held.evaluate()
    held.accumulate()
    return held


def _annotations(
    frames: Frames, keys: Mapping[Key, int], labels: Sequence[str]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for key, number in keys.items():
        for thing in frames.get(key, ()):
            x1, y1, x2, y2 = thing.box
            row: dict[str, Any] = {"id": len(rows) + 1, "image_id": number, "iscrowd": 0}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            rows.append(
                row | {"category_id": labels.index(thing.label) + 1, "score": sureness(thing)}
            )
    return rows


def _of_one_point(held: Any, found: Frames, truth: Frames, labels: Sequence[str]) -> Any:
    """Precision by IoU, recall and class, of boxes that cannot be ranked."""
    reached = np.array(held.eval["recall"])[:, :, 0, -1]  # iou, class
    given, real = (
        np.array([sum(o.label == name for o in _all(frames, truth)) for name in labels], float)
        for frames in (found, truth)
    )
    precision = reached * real / np.maximum(given, 1)
    points = np.where(reached[:, None] >= _RECALLS[:, None], precision[:, None], 0.0)
    return np.where(real > 0, points, -1.0)


def _all(frames: Frames, keys: Iterable[Key]) -> list[Object]:
    return [thing for key in keys for thing in frames.get(key, ())]


def agreement(one: Frames, other: Frames) -> Agreement:
    """How far two detectors say the same on the frames that both looked at; NaN of nothing."""
    keys = one.keys() & other.keys()
    pairs = [iou for key in keys for _, _, iou in matched(one[key], other[key])]
    said = len(_all(one, keys)) + len(_all(other, keys))
    nan = float("nan")
    return Agreement(
        2 * len(pairs) / said if said else nan, float(np.mean(pairs)) if pairs else nan
    )
