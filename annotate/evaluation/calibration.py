"""Calibrate detector scores: fit, save and apply curves from score to precision.

A box is correct if it overlaps a true box of its class, not yet taken by a box of higher score, by
IoU 0.5. The share of correct boxes is fitted over the score by isotonic regression (Zadrozny and
Elkan 2002), or by Platt's sigmoid (1999) where there are few boxes.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from annotate.dataset.folder import DATASET_FILE, load_dataset
from annotate.detectors.run import Detector
from annotate.errors import AnnotateError, ItemsError, OutputError, UnknownName, needs
from annotate.evaluation.metrics import MIN_IOU, match_boxes
from annotate.files import atomic_file
from annotate.items import journal
from annotate.items.records import Frame, Item, Object, Vocabulary
from annotate.plugins import RUNTIME_ONLY

if TYPE_CHECKING:
    import supervision as sv


FORMAT_VERSION = 1
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationCurve:
    """Score -> how often a box with it is right.

    Between the knots `scores` it is linear in `right`, and beyond them constant; or, with `slope`,
    it is Platt's 1 / (1 + exp(-(slope * score + offset))). `unscored` is for boxes without a score;
    None leaves them without. `boxes` is how many told it.
    """

    method: str
    boxes: int
    scores: tuple[float, ...] = ()
    right: tuple[float, ...] = ()
    slope: float = 0.0
    offset: float = 0.0
    unscored: float | None = None

    def __call__(self, scores: Scores) -> Scores:
        """The share that is right, for each score; NaN is a box without a score."""
        if self.method == "platt":
            known = 1 / (1 + np.exp(-(self.slope * scores + self.offset)))
        elif self.scores:
            known = np.interp(scores, self.scores, self.right)
        else:
            known = scores
        bare = np.nan if self.unscored is None else self.unscored
        return np.where(np.isnan(scores), bare, known)


@dataclass(frozen=True)
class CalibratedDetector:
    """A detector whose scores are what a file of `annotate calibrate-scores` makes of them."""

    inner: Detector
    source: str
    path: Path = field(metadata=RUNTIME_ONLY)
    calibration_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        _ = self._curves
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        object.__setattr__(self, "calibration_sha256", digest)

    @cached_property
    def _curves(self) -> dict[int, CalibrationCurve]:
        known = read_curves(self.path)
        if self.source not in known:
            raise UnknownName(f"detector in {self.path}", self.source, known)
        labels = self.vocabulary.labels
        curves = known[self.source]
        return {labels.index(label): curve for label, curve in curves.items() if label in labels}

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that the detector inside proposes."""
        return self.inner.vocabulary

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """What the detector inside finds; classes that the file does not know keep their scores."""
        found = self.inner.propose(frames)
        for each in found:
            scores = np.array(each.confidence, float)
            for class_id, curve in self._curves.items():
                rows = each.class_id == class_id
                scores[rows] = curve(scores[rows])
            each.confidence = scores
        return found


def read_curves(path: Path) -> dict[str, dict[str, CalibrationCurve]]:
    """Detector -> class -> curve, as `write` wrote it.

    Raises:
        AnnotateError: no such file, or no calibration of scores.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        if record["annotate"] > FORMAT_VERSION:
            raise AnnotateError(
                f"{path}: written by a newer annotate: pip install -U annotate-local"
            )
        return {
            source: {label: _parse_curve(told) for label, told in classes.items()}
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
    """What `read` reads; a box was right when it overlapped a true one by `iou` or more."""
    detectors = {
        source: {label: vars(curve) for label, curve in classes.items()}
        for source, classes in curves.items()
    }
    return (
        json.dumps({"annotate": FORMAT_VERSION, "iou": iou, "detectors": detectors}, indent=1)
        + "\n"
    )


METHODS = ("auto", "isotonic", "platt")
MIN_BOXES = 10  # boxes of a class below which nothing is said of it
_MIN_ISOTONIC_BOXES = 1000  # boxes from which isotonic regression does not follow their noise

ObjectsByFrame = Mapping[tuple[str, int], Sequence[Object]]


@dataclass(frozen=True)
class ClassCalibration:
    """What was learnt of one detector's class; `curve` is None where boxes were too few.

    Brier scores are the mean squared error of the score as a probability, before and after, over
    the boxes that have one: the smaller the better.
    """

    source: str
    label: str
    box_count: int
    correct_count: int
    curve: CalibrationCurve | None
    brier_before: float
    brier_after: float


def fit_curves(
    item_paths: Iterable[Path], truth_path: Path, *, method: str = "auto"
) -> list[ClassCalibration]:
    """For each detector and class in `items`: what its scores mean, by the frames of `truth`.

    `truth` is a file of items or a dataset that a person has corrected; frames that it does not
    have are not looked at.

    Raises:
        AnnotateError: nothing to learn from, an unknown method.
    """
    if method not in METHODS:
        raise AnnotateError(f"method must be {', '.join(METHODS)}, got {method!r}")
    true = _read_objects(truth_path)
    rows: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    for path in item_paths:
        found = _read_objects(path)
        if not found.keys() & true.keys():
            raise ItemsError(f"{path}: none of its frames is in {truth_path}")
        for key in found.keys() & true.keys():
            for thing, right in _with_correctness(found[key], true[key]):
                score = np.nan if thing.score is None else thing.score
                rows[thing.source, thing.label].append((score, right))
    learnt = [_calibrate_class(*key, np.array(rows[key], float), method) for key in sorted(rows)]
    if not any(each.curve for each in learnt):
        raise AnnotateError(
            f"{truth_path}: no class has {MIN_BOXES} boxes to learn from: correct more frames"
        )
    return learnt


def curves_by_source(
    calibrations: Iterable[ClassCalibration],
) -> dict[str, dict[str, CalibrationCurve]]:
    """Detector -> class -> curve, of what could be learnt."""
    found: dict[str, dict[str, CalibrationCurve]] = defaultdict(dict)
    for each in calibrations:
        if each.curve is not None:
            found[each.source][each.label] = each.curve
    return dict(found)


def write_curves(
    calibrations: Iterable[ClassCalibration], out: Path, *, force: bool = False
) -> None:
    """Write what was learnt, for `annotate detect --calibration`.

    Raises:
        OutputError: it is there already and `force` is not given, or nothing can be written there.
    """
    if out.exists() and not force:
        raise OutputError(f"{out}: is there already: give another -o, or --force to write over it")
    with atomic_file(out) as draft:
        draft.write_text(curves_to_json(curves_by_source(calibrations), MIN_IOU), "utf-8")


def _read_objects(path: Path) -> dict[tuple[str, int], Sequence[Object]]:
    if (path / DATASET_FILE).is_file():
        items: Iterable[Item] = (sample.item for sample in load_dataset(path))
    else:
        items = journal.read(path)
    return {(item.video, item.frame): item.objects for item in items}


def _with_correctness(
    proposed: Sequence[Object], truth: Sequence[Object]
) -> Iterable[tuple[Object, bool]]:
    for source in {thing.source for thing in proposed}:
        own = [thing for thing in proposed if thing.source == source]
        right = {row for row, _, _ in match_boxes(own, truth)}
        yield from ((thing, row in right) for row, thing in enumerate(own))


def _calibrate_class(source: str, label: str, rows: Scores, method: str) -> ClassCalibration:
    """`rows` is (n, 2): score, and whether it is right."""
    scores, right = rows[np.lexsort(rows.T[::-1])].T
    scored = ~np.isnan(scores)
    curve = None
    if len(rows) >= MIN_BOXES:
        curve = _fit_curve(scores[scored], right[scored], method, _smoothed_share(right[~scored]))
    before, after = (
        float(((each - right[scored]) ** 2).mean()) if scored.any() else float("nan")
        for each in (scores[scored], curve(scores[scored]) if curve else scores[scored])
    )
    return ClassCalibration(source, label, len(rows), int(right.sum()), curve, before, after)


def _smoothed_share(correct: Scores) -> float | None:
    """How often boxes are right that cannot be told apart: Laplace's rule, never 0 or 1."""
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
    """Platt's sigmoid, towards his softened targets, so that few boxes do not make it a step."""
    good, bad = correct.sum(), (1 - correct).sum()
    target = np.where(correct > 0, (good + 1) / (good + 2), 1 / (bad + 2))
    model: Any = needs("sklearn.linear_model").LogisticRegression(C=1e6, max_iter=1000)
    model.fit(
        np.tile(scores, 2)[:, None],
        np.repeat([1, 0], len(scores)),
        np.concatenate([target, 1 - target]),
    )
    return round(float(model.coef_[0, 0]), 6), round(float(model.intercept_[0]), 6)


def _rounded(values: Scores) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
