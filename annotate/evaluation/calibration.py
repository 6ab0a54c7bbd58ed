"""Calibrate detector scores: fit, save and apply curves from score to precision.

A box is correct if it overlaps a true box of its class, not yet taken by a box of higher score, by
IoU 0.5. The share of correct boxes is fitted over the score by isotonic regression (Zadrozny and
Elkan 2002), or by Platt's sigmoid (1999) where there are few boxes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from annotate.detectors.run import Detector, propose_checked
from annotate.errors import AnnotateError, ItemsError, UnknownName, needs
from annotate.evaluation import ground_truth
from annotate.evaluation.metrics import MIN_IOU, match_boxes
from annotate.files import refuse_existing, sha256, write_text
from annotate.items.import_report import ImportReport
from annotate.items.records import Frame, Object, Vocabulary
from annotate.plugins import RUNTIME_ONLY

if TYPE_CHECKING:
    import supervision as sv


FORMAT_VERSION = 1
Scores = npt.NDArray[np.float64]
METHODS = ("auto", "isotonic", "platt")
MIN_BOXES = 10  # a class with fewer boxes gets no curve
_MIN_ISOTONIC_BOXES = 1000  # with fewer boxes, isotonic regression would follow their noise


@dataclass(frozen=True)
class CalibrationCurve:
    """A curve from score to precision: the share of boxes with this score that are correct.

    It is linear between the knots `scores` -> `right` and constant beyond them; or, by the method
    "platt", 1 / (1 + exp(-(slope * score + offset))). `unscored` is the precision of boxes without
    a score; None leaves them without. `boxes` is the number of boxes that it was fitted to.
    """

    method: str
    boxes: int
    scores: tuple[float, ...] = ()
    right: tuple[float, ...] = ()
    slope: float = 0.0
    offset: float = 0.0
    unscored: float | None = None

    def __call__(self, scores: Scores) -> Scores:
        """Return the precision for each score; NaN stands for a box without a score."""
        if self.method == "platt":
            precision = 1 / (1 + np.exp(-(self.slope * scores + self.offset)))
        elif self.scores:
            precision = np.interp(scores, self.scores, self.right)
        else:
            precision = scores
        unscored = np.nan if self.unscored is None else self.unscored
        return np.where(np.isnan(scores), unscored, precision)


@dataclass(frozen=True)
class CalibratedDetector:
    """A detector with scores that are calibrated by a file of `annotate calibrate-scores`."""

    inner: Detector
    source: str
    path: Path = field(metadata=RUNTIME_ONLY)
    calibration_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        _ = self._curves
        object.__setattr__(self, "calibration_sha256", sha256(self.path))

    @cached_property
    def _curves(self) -> dict[int, CalibrationCurve]:
        detectors = read_curves(self.path)
        if self.source not in detectors:
            raise UnknownName(f"detector in {self.path}", self.source, detectors)
        labels = self.vocabulary.labels
        curves = detectors[self.source]
        return {labels.index(label): curve for label, curve in curves.items() if label in labels}

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the inner detector."""
        return self.inner.vocabulary

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes; classes without a curve keep their scores."""
        detections = propose_checked(self.inner, frames, self.source)
        for each in detections:
            scores = np.array(each.confidence, float)
            for class_id, curve in self._curves.items():
                rows = each.class_id == class_id
                scores[rows] = curve(scores[rows])
            each.confidence = scores
        return detections


def read_curves(path: Path) -> dict[str, dict[str, CalibrationCurve]]:
    """Read the curves that `write_curves` wrote: detector -> class -> curve.

    Raises:
        AnnotateError: there is no such file, or it holds no calibration of scores.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        if record["annotate"] > FORMAT_VERSION:
            raise AnnotateError(
                f"{path}: written by a newer annotate: pip install -U annotate-local"
            )
        return {
            source: {label: _parse_curve(curve) for label, curve in classes.items()}
            for source, classes in record["detectors"].items()
        }
    except OSError as error:
        raise AnnotateError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnnotateError(f"{path}: not a calibration of scores: {error}") from None


def _parse_curve(record: Mapping[str, Any]) -> CalibrationCurve:
    curve = CalibrationCurve(**record)
    return CalibrationCurve(
        **{**record, "scores": tuple(curve.scores), "right": tuple(curve.right)}
    )


def curves_to_json(curves: Mapping[str, Mapping[str, CalibrationCurve]], iou: float) -> str:
    """Encode curves as JSON; `iou` is the IoU from which a box counts as correct."""
    detectors = {
        source: {label: vars(curve) for label, curve in classes.items()}
        for source, classes in curves.items()
    }
    return (
        json.dumps({"annotate": FORMAT_VERSION, "iou": iou, "detectors": detectors}, indent=1)
        + "\n"
    )


@dataclass(frozen=True)
class ClassCalibration:
    """The calibration of one class of a detector; `curve` is None if there were too few boxes.

    A Brier score is the mean squared error of the score as a probability, over the boxes that have
    a score, before and after calibration: smaller is better.
    """

    source: str
    label: str
    box_count: int
    correct_count: int
    curve: CalibrationCurve | None
    brier_before: float
    brier_after: float


def fit_curves(
    item_paths: Iterable[Path],
    truth_path: Path,
    *,
    method: str = "auto",
    report: ImportReport | None = None,
) -> list[ClassCalibration]:
    """Fit a curve for each detector and class in files of items, on the frames of the truth.

    `truth_path` is a file of items, a COCO file or a dataset that a person has corrected. Frames
    that it does not have are left out. `method` is auto, isotonic or platt. `report` gets the notes
    about what was left out of a COCO file.

    Raises:
        AnnotateError: no class has enough boxes, or the method is unknown.
        ItemsError: a file of items has no frame of the truth.
    """
    if method not in METHODS:
        raise AnnotateError(f"`method` must be {', '.join(METHODS)}, got {method!r}")
    report = report or ImportReport()
    known_truth = ground_truth.read(truth_path)
    truth = known_truth.objects
    for line in known_truth.notes:
        report.note(line)
    rows: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    for path in item_paths:
        read_items = ground_truth.read(path)
        for line in read_items.notes:
            report.note(line)
        proposed = read_items.objects
        if not proposed.keys() & truth.keys():
            raise ItemsError(f"{path}: none of its frames is in {truth_path}")
        for key in proposed.keys() & truth.keys():
            for obj, correct in _with_correctness(proposed[key], truth[key]):
                score = np.nan if obj.score is None else obj.score
                rows[obj.source, obj.label].append((score, correct))
    fitted = [_calibrate_class(*key, np.array(rows[key], float), method) for key in sorted(rows)]
    if not any(each.curve for each in fitted):
        raise AnnotateError(
            f"{truth_path}: no class has {MIN_BOXES} boxes to learn from: correct more frames"
        )
    return fitted


def curves_by_source(
    calibrations: Iterable[ClassCalibration],
) -> dict[str, dict[str, CalibrationCurve]]:
    """Return detector -> class -> curve, without the classes that have none."""
    curves: dict[str, dict[str, CalibrationCurve]] = defaultdict(dict)
    for each in calibrations:
        if each.curve is not None:
            curves[each.source][each.label] = each.curve
    return dict(curves)


def write_curves(
    calibrations: Iterable[ClassCalibration], out: Path, *, force: bool = False
) -> None:
    """Write the curves as JSON, for `annotate detect --calibration`.

    Raises:
        OutputError: the file exists and `force` is not given, or nothing can be written there.
    """
    refuse_existing(out, force)
    write_text(out, curves_to_json(curves_by_source(calibrations), MIN_IOU))


def _with_correctness(
    proposed: Sequence[Object], truth: Sequence[Object]
) -> Iterable[tuple[Object, bool]]:
    for source in {obj.source for obj in proposed}:
        own = [obj for obj in proposed if obj.source == source]
        correct = {row for row, _, _ in match_boxes(own, truth)}
        yield from ((obj, row in correct) for row, obj in enumerate(own))


def _calibrate_class(source: str, label: str, rows: Scores, method: str) -> ClassCalibration:
    """Calibrate a class; `rows` is (n, 2): score (NaN if none), and 1 for a correct box."""
    scores, correct = rows[np.lexsort(rows.T[::-1])].T
    scored = ~np.isnan(scores)
    curve = None
    if len(rows) >= MIN_BOXES:
        curve = _fit_curve(
            scores[scored], correct[scored], method, _smoothed_share(correct[~scored])
        )
    before, after = (
        float(((each - correct[scored]) ** 2).mean()) if scored.any() else float("nan")
        for each in (scores[scored], curve(scores[scored]) if curve else scores[scored])
    )
    return ClassCalibration(source, label, len(rows), int(correct.sum()), curve, before, after)


def _smoothed_share(correct: Scores) -> float | None:
    """Compute the share of correct boxes by Laplace's rule, never 0 or 1; None without boxes."""
    return round(float((correct.sum() + 1) / (len(correct) + 2)), 6) if len(correct) else None


def _fit_curve(
    scores: Scores, correct: Scores, method: str, unscored: float | None
) -> CalibrationCurve:
    count = len(scores)
    if method == "auto":
        method = "isotonic" if count >= _MIN_ISOTONIC_BOXES else "platt"
    if not count:
        return CalibrationCurve("constant", count, unscored=unscored)
    if correct.min() == correct.max() or scores.min() == scores.max():
        share = _smoothed_share(correct) or 0.0
        return CalibrationCurve("constant", count, (0.0,), (share,), unscored=unscored)
    if method == "isotonic":
        fitted: Any = (
            needs("sklearn.isotonic").IsotonicRegression(y_min=0, y_max=1).fit(scores, correct)
        )
        knots = (_rounded(fitted.X_thresholds_), _rounded(fitted.y_thresholds_))
        return CalibrationCurve("isotonic", count, *knots, unscored=unscored)
    slope, offset = _fit_platt(scores, correct)
    return CalibrationCurve("platt", count, slope=slope, offset=offset, unscored=unscored)


def _fit_platt(scores: Scores, correct: Scores) -> tuple[float, float]:
    """Fit Platt's sigmoid to his softened targets: without them, few boxes give a step."""
    correct_count, wrong_count = correct.sum(), (1 - correct).sum()
    target = np.where(correct > 0, (correct_count + 1) / (correct_count + 2), 1 / (wrong_count + 2))
    model: Any = needs("sklearn.linear_model").LogisticRegression(C=1e6, max_iter=1000)
    model.fit(
        np.tile(scores, 2)[:, None],
        np.repeat([1, 0], len(scores)),
        np.concatenate([target, 1 - target]),
    )
    return round(float(model.coef_[0, 0]), 6), round(float(model.intercept_[0]), 6)


def _rounded(values: Scores) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
