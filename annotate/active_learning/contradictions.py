"""Find where detections contradict labels: missed, spurious, badly placed, of another class.

The kinds are those of ObjectLab (Tkachenko, Thyagarajan, Mueller 2023, arXiv 2309.00832, in
cleanlab): overlooked, badly located and swapped; `spurious`, a label that the detector does not
see, is added.

A detector is no judge of what it is bad at, which is measured on the same labels. The weight of a
missed object is multiplied by the precision of the detector for the class. The weight of a spurious
one is multiplied by the chance that a label which the detector does not see is wrong, if three
labels in a hundred are: 0.23 for a detector that sees 90 % of the class, 0.75 for one that sees
99 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from annotate.items.boxes import iou_matrix
from annotate.items.records import Object

MISSED, SPURIOUS, MISPLACED, OTHER_CLASS = "missed", "spurious", "badly placed", "other class"
KINDS = (MISSED, SPURIOUS, MISPLACED, OTHER_CLASS)
DEFAULT_THRESHOLD = 0.5  # score from which on a detection counts
_WRONG_SHARE = 0.03  # of labels: a guess, which orders the kinds of error among each other
_SAME_OBJECT_IOU = 0.5  # from this IoU on, boxes of two classes show one object
_WELL_PLACED_IOU = 0.6  # from this IoU on, a box is well placed
_NEAR_IOU = 0.1  # from this IoU on, two boxes of one class can show one object


@dataclass(frozen=True)
class Contradiction:
    """A label and a detection that contradict; one of them is None for missed and spurious.

    `weight`, 0..1, is the higher the more likely the label is wrong.
    """

    kind: str
    label: Object | None
    detection: Object | None
    weight: float

    @property
    def object(self) -> Object:
        """The label; the detection where there is no label."""
        obj = self.label or self.detection
        assert obj is not None
        return obj


@dataclass
class ClassCounts:
    """How often objects of each class were labelled, seen with any score, detected and right."""

    labels: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    detections: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)

    def weigh(self, found: Contradiction) -> float:
        """Weigh a contradiction by what the detector is good at, 0..1; few objects prove little."""
        name = found.object.label
        if found.kind == MISSED:
            return found.weight * (self.right[name] + 1) / (self.detections[name] + 2)
        if found.kind == SPURIOUS:
            unseen = 1 - (self.seen[name] + 1) / (self.labels[name] + 2)
            return found.weight * _WRONG_SHARE / (_WRONG_SHARE + unseen)
        return found.weight


def score_of(obj: Object) -> float:
    """Return the score of an object; 1 without one."""
    return 1.0 if obj.score is None else obj.score


def find_contradictions(
    labels: Sequence[Object],
    detections: Sequence[Object],
    threshold: float = DEFAULT_THRESHOLD,
    counts: ClassCounts | None = None,
) -> list[Contradiction]:
    """Compare the labels of a frame with detections of it; `counts` is added to.

    Detections with a score below `threshold` only support labels: a label that one of them agrees
    with is not spurious.
    """
    counts = ClassCounts() if counts is None else counts
    ious = iou_matrix([obj.box for obj in labels], [obj.box for obj in detections])
    same_class = np.array(
        [[one.label == other.label for other in detections] for one in labels], bool
    ).reshape(ious.shape)
    scores = np.array([score_of(obj) for obj in detections])
    certain = scores >= threshold
    counts.labels.update(obj.label for obj in labels)
    counts.detections.update(o.label for o, sure in zip(detections, certain, strict=True) if sure)
    found: list[Contradiction] = []
    free_labels, free_detections = set(range(len(labels))), set(range(len(detections)))
    steps = (
        (np.where(same_class, ious, 0.0), _WELL_PLACED_IOU, ""),
        (np.where(same_class, 0.0, ious) * certain, _SAME_OBJECT_IOU, OTHER_CLASS),
        (np.where(same_class, ious, 0.0) * certain, _NEAR_IOU, MISPLACED),
    )
    for overlaps, least, kind in steps:
        for row, column in _greedy_pairs(overlaps, least, free_labels, free_detections):
            weight = float(scores[column])
            if kind == MISPLACED:
                weight *= 1 - float(ious[row, column])
            if kind:
                found.append(Contradiction(kind, labels[row], detections[column], weight))
            else:
                counts.seen[labels[row].label] += 1
                counts.right[labels[row].label] += bool(certain[column])
    for row in sorted(free_labels):
        support = float((scores * same_class[row] * ious[row]).max(initial=0.0))
        found.append(Contradiction(SPURIOUS, labels[row], None, 1 - min(support / threshold, 1.0)))
    for column in sorted(free_detections):
        doubled = ious[:, column].max(initial=0.0) >= _SAME_OBJECT_IOU
        if certain[column] and not doubled:
            found.append(Contradiction(MISSED, None, detections[column], float(scores[column])))
    return found


def _greedy_pairs(
    overlaps: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    least: float,
    free_rows: set[int],
    free_columns: set[int],
) -> Iterator[tuple[int, int]]:
    """Yield free pairs, the largest overlap first, down to `least`; they are free no more."""
    rows, columns = np.nonzero(overlaps >= least)
    order = np.argsort(-overlaps[rows, columns], kind="stable")
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row in free_rows and column in free_columns:
            free_rows.discard(row)
            free_columns.discard(column)
            yield row, column


def weigh_all(found: Iterable[Contradiction], counts: ClassCounts) -> list[Contradiction]:
    """Weigh contradictions by the counts of the whole dataset; see `ClassCounts.weigh`."""
    return [
        Contradiction(each.kind, each.label, each.detection, counts.weigh(each)) for each in found
    ]
