"""Score the runs of a comparison: AP, precision, recall, agreement, time, memory and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate.dataset.frame_sources import FrameKey
from annotate.errors import ItemsError, UnknownName
from annotate.evaluation import ground_truth, metrics
from annotate.evaluation.ground_truth import GroundTruth
from annotate.evaluation.runs import Run
from annotate.items.records import Object

if TYPE_CHECKING:
    import pandas as pd


NOT_MEASURED = "not measured"
_MIB = 1 << 20
_COLUMN_FORMATS = {  # column of the table -> format of its numbers
    "AP": "{:.3f}",
    "AP50": "{:.3f}",
    "precision": "{:.3f}",
    "recall": "{:.3f}",
    "at score": "{:.3f}",
    "boxes/frame": "{:.2f}",
    "agreement F1": "{:.3f}",
    "agreement IoU": "{:.3f}",
    "ms/frame": "{:.1f}",
    "first batch s": "{:.2f}",
    "memory MiB": "{:,.0f}",
    "GPU MiB": "{:,.0f}",
    "weights MiB": "{:,.1f}",
    "cost/1000 frames": "{:.2f}",
    "cost/right box": "{:.4f}",
}


@dataclass(frozen=True)
class RunScore:
    """A run and its scores against the truth; NaN is "not measured".

    `objects` are those of the detector's classes on each frame. `curve` is None without truth.
    `notes` say what could not be scored, and why.
    """

    run: Run
    objects: Mapping[FrameKey, Sequence[Object]]
    curve: metrics.PrecisionRecallCurve | None = None
    ap: float = float("nan")
    ap50: float = float("nan")
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The title of the run."""
        return self.run.spec.title

    @cached_property
    def best_point(self) -> tuple[float, float, float] | None:
        """Precision, recall and score at the threshold with the best F1."""
        return None if self.curve is None else self.curve.best_point

    def visible_objects(self, min_score: float) -> dict[FrameKey, list[Object]]:
        """Select the objects from the best threshold on; without truth, from `min_score` on."""
        threshold = min_score if self.best_point is None else max(self.best_point[2], 0.0)
        return metrics.filter_objects(self.objects, self.run.spec.labels, threshold)


def score_run(run: Run, truth: GroundTruth | None) -> RunScore:
    """Score a run against the truth on the frames that the detector looked at."""
    objects = metrics.filter_objects(run.objects, run.spec.labels)
    if truth is None or run.error:
        return RunScore(run, objects)
    labels = [label for label in run.spec.labels if label in truth.labels]
    notes = unknown_class_notes(run.spec.labels, truth.labels)
    keys = sorted(objects.keys() & truth.objects.keys())
    true_objects = metrics.filter_objects({key: truth.objects[key] for key in keys}, labels)
    detections = metrics.filter_objects(objects, labels)
    if not any(true_objects.values()):
        return RunScore(run, objects, notes=(*notes, _no_truth_note(keys, truth)))
    ap, ap50 = metrics.average_precision(true_objects, detections, labels)
    curve = metrics.precision_recall_curve(true_objects, detections)
    return RunScore(run, objects, curve, ap, ap50, notes)


def unknown_class_notes(labels: Sequence[str], true_labels: Sequence[str]) -> tuple[str, ...]:
    """Say which classes are not scored, because the truth does not have them."""
    unknown = [label for label in labels if label not in true_labels]
    if not unknown:
        return ()
    names, known = (", ".join(map(repr, each)) for each in (unknown, true_labels))
    return (f"not scored, as the truth has no such class: {names}; it has {known}",)


def _no_truth_note(keys: Sequence[FrameKey], truth: GroundTruth) -> str:
    if keys:
        return f"not scored, as the truth has no object of its classes on these {len(keys)} frames"
    frames = sorted(frame for _, frame in truth.objects)
    span = f"frames {frames[0]} to {frames[-1]}" if frames else "no frame"
    return f"not scored, as the truth has none of these frames: it has {span}; is it of this clip?"


@dataclass(frozen=True)
class Comparison:
    """The scores of all runs; without truth, boxes count from `min_score` on.

    `truth_notes` are lines about what was left out of the truth.
    """

    scores: Sequence[RunScore]
    min_score: float = 0.0
    truth_notes: tuple[str, ...] = ()

    @cached_property
    def failed(self) -> list[str]:
        """The titles of the runs that failed."""
        return [score.title for score in self.scores if score.run.error]

    @cached_property
    def notes(self) -> list[str]:
        """What was left out of the truth, or not scored against it, and why; each once."""
        notes = (note for score in self.scores for note in score.notes)
        return list(dict.fromkeys([*self.truth_notes, *notes]))

    @cached_property
    def pair_agreements(self) -> dict[tuple[str, str], metrics.Agreement]:
        """The agreement of each two runs that did not fail, on boxes from `min_score` on."""
        objects = {
            each.title: self._objects_above_min_score(each)
            for each in self.scores
            if not each.run.error
        }
        return {
            (a, b): metrics.agreement(objects[a], objects[b]) for a, b in combinations(objects, 2)
        }

    def _objects_above_min_score(self, run_score: RunScore) -> dict[FrameKey, list[Object]]:
        return metrics.filter_objects(run_score.objects, run_score.run.spec.labels, self.min_score)

    def table(self) -> pd.DataFrame:
        """Return a row for each run: numbers, NaN where not measured, and a remark."""
        import pandas as pd

        rows = [self._row(score) for score in self.scores]
        titles = pd.Index([score.title for score in self.scores], name="detector")
        return pd.DataFrame(rows, titles, [*_COLUMN_FORMATS, "remark"])

    def _row(self, run_score: RunScore) -> dict[str, Any]:
        if run_score.run.error:
            return {"remark": f"failed: {run_score.run.error}"}
        measured = run_score.run.measurements
        row: dict[str, Any] = {
            "AP": run_score.ap,
            "AP50": run_score.ap50,
            "remark": self._remark(run_score),
        }
        if run_score.best_point is not None:
            precision, recall, score = run_score.best_point
            row |= {"precision": precision, "recall": recall}
            row |= {"at score": score} if score >= 0 else {}
        elif run_score.curve is not None:
            row |= {"precision": 0.0, "recall": 0.0}
        objects = self._objects_above_min_score(run_score).values()
        row["boxes/frame"] = sum(map(len, objects)) / len(objects) if objects else None
        row |= self._mean_agreement(run_score.title)
        row |= {
            "ms/frame": _scaled(measured.seconds, 1000),
            "first batch s": measured.first_seconds,
        }
        row |= {"memory MiB": _scaled(measured.memory, 1 / _MIB)}
        row |= {"GPU MiB": _scaled(measured.gpu_memory, 1 / _MIB)}
        row |= {"weights MiB": _scaled(measured.weights, 1 / _MIB)}
        return (
            row
            | {"cost/1000 frames": _scaled(measured.money_per_frame, 1000)}
            | _cost_per_correct_box(run_score)
        )

    def _mean_agreement(self, title: str) -> dict[str, float]:
        pairs = [pair for titles, pair in self.pair_agreements.items() if title in titles]
        columns = {"agreement F1": [p.f1 for p in pairs], "agreement IoU": [p.iou for p in pairs]}
        measured = {name: [v for v in values if v == v] for name, values in columns.items()}
        return {name: float(np.mean(values)) for name, values in measured.items() if values}

    def _remark(self, run_score: RunScore) -> str:
        objects = [obj for each in run_score.objects.values() for obj in each]
        remarks = [] if objects else ["found nothing"]
        if objects and all(obj.score is None for obj in objects):
            remarks.append("gives no scores")
        return "; ".join([*remarks, *run_score.notes])

    def formatted(self, excluded: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
        """Return the column names and rows of the table as texts, without `excluded` columns."""
        table = self.table().drop(columns=list(excluded))
        rows = [
            [str(title), *(_format_value(str(name), value) for name, value in row.items())]
            for title, row in zip(table.index, table.to_dict("records"), strict=True)
        ]
        return ["detector", *map(str, table.columns)], rows

    def unmeasured_columns(self) -> list[str]:
        """Return the columns of the table in which no run was measured."""
        table = self.table()
        return [name for name in _COLUMN_FORMATS if table[name].isna().all()]

    def agreement_table(self) -> pd.DataFrame:
        """Return a row for each pair of runs."""
        import pandas as pd

        rows = [(*titles, pair.f1, pair.iou) for titles, pair in self.pair_agreements.items()]
        return pd.DataFrame(rows, columns=["detector", "other", "F1", "IoU"])


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _cost_per_correct_box(run_score: RunScore) -> dict[str, float]:
    """Compute the price of a correct box at the best threshold."""
    price, curve = run_score.run.measurements.money_per_frame, run_score.curve
    if price is None or curve is None or run_score.best_point is None:
        return {}
    correct_count = run_score.best_point[1] * curve.truth_count
    return {"cost/right box": price * len(run_score.objects) / correct_count}


def _format_value(name: str, value: Any) -> str:
    if name not in _COLUMN_FORMATS:
        return str(value)
    return NOT_MEASURED if value is None or value != value else _COLUMN_FORMATS[name].format(value)


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class, or of all: NaN where there are no true objects.

    `precision` and `recall` are those at the `threshold` of the score with the best F1.
    """

    label: str
    truth_count: int
    box_count: int
    ap: float
    ap50: float
    precision: float
    recall: float
    threshold: float


@dataclass(frozen=True)
class ItemsScore:
    """The scores of a file of items against the truth, on the `frame_count` frames of both.

    `overall` is of all classes of the truth that were looked for. `notes` say what is not scored.
    """

    classes: tuple[ClassScore, ...]
    overall: ClassScore
    frame_count: int
    notes: tuple[str, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """Return a row of texts for each class, and one for all."""
        return [
            (each.label, f"{each.truth_count}", f"{each.box_count}", *_format_values(each))
            for each in (*self.classes, self.overall)
        ]

    def record(self) -> dict[str, Any]:
        """Return everything as values of JSON; null where not measured."""
        return {
            "frames": self.frame_count,
            "all": _record(self.overall),
            "classes": {each.label: _record(each) for each in self.classes},
            "notes": list(self.notes),
        }


SCORE_COLUMNS = (
    *("class", "true objects", "boxes", "AP", "AP50", "precision", "recall", "at score"),
)


def _format_values(score: ClassScore) -> list[str]:
    values = score.ap, score.ap50, score.precision, score.recall, score.threshold
    return [NOT_MEASURED if value != value else f"{value:.3f}" for value in values]


def _record(score: ClassScore) -> dict[str, Any]:
    values = {name: None if value != value else value for name, value in vars(score).items()}
    del values["label"]
    return values


def score_items(items_path: Path, truth_path: Path, *, min_score: float = 0.0) -> ItemsScore:
    """Score a file of items against the truth, on the frames that both have.

    Both may be items, COCO or a dataset. If both have one video, it is the same video, whatever its
    name. Objects with a score below `min_score` are left out.

    Raises:
        ItemsError: they have no frame in common, or pictures of other sizes.
        UnknownName: the truth has none of the classes.
    """
    found, truth = ground_truth.read(items_path), ground_truth.read(truth_path)
    ground_truth.check_sizes(truth, found.sizes_wh, str(items_path), truth_path)
    videos = [{video for video, _ in each.objects} for each in (found, truth)]
    if len(videos[0]) == len(videos[1]) == 1:
        found = ground_truth.with_video(found, *videos[1])
    keys = sorted(found.objects.keys() & truth.objects.keys())
    if not keys:
        raise ItemsError(f"{items_path}: none of its frames is in {truth_path}")
    labels = [label for label in truth.labels if label in found.labels]
    if not labels:
        raise UnknownName("class in the truth", (*found.labels, "")[0], truth.labels)
    notes = (*found.notes, *truth.notes, *unknown_class_notes(found.labels, truth.labels))
    if missing := [repr(label) for label in truth.labels if label not in found.labels]:
        notes += (f"not scored, as the items are not about such a class: {', '.join(missing)}",)
    if left := len(truth.objects) - len(keys):
        notes += (f"not scored: {left} frames of the truth, which the items do not have",)
    true_objects = metrics.filter_objects({key: truth.objects[key] for key in keys}, labels)
    objects = metrics.filter_objects({key: found.objects[key] for key in keys}, labels, min_score)
    classes = tuple(_score_class(label, true_objects, objects, [label]) for label in labels)
    overall = _score_class("all", true_objects, objects, labels)
    return ItemsScore(classes, overall, len(keys), notes)


def _score_class(
    name: str,
    truth: Mapping[FrameKey, Sequence[Object]],
    found: Mapping[FrameKey, Sequence[Object]],
    labels: Sequence[str],
) -> ClassScore:
    true_objects, objects = (metrics.filter_objects(each, labels) for each in (truth, found))
    truth_count, box_count = (sum(map(len, each.values())) for each in (true_objects, objects))
    nan = float("nan")
    if not truth_count:
        return ClassScore(name, truth_count, box_count, nan, nan, nan, nan, nan)
    curve = metrics.precision_recall_curve(true_objects, objects)
    precision, recall, score = curve.best_point or (0.0, 0.0, nan)
    average = metrics.average_precision(true_objects, objects, labels)
    return ClassScore(name, truth_count, box_count, *average, precision, recall, max(score, 0.0))
