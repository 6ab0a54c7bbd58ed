"""Scores that mean the same for every detector: how often a box of such a score is right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from annotate.detect import Detector
from annotate.errors import AnnotateError, UnknownName
from annotate.plugins import ASIDE
from annotate.records import Frame, Vocabulary

if TYPE_CHECKING:
    import supervision as sv

FORMAT = 1
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
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
class Calibrated:
    """A detector whose scores are what a file of `annotate calibrate-scores` makes of them."""

    inner: Detector
    source: str
    path: Path = field(metadata=ASIDE)
    calibration_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        _ = self._curves
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        object.__setattr__(self, "calibration_sha256", digest)

    @cached_property
    def _curves(self) -> dict[int, Curve]:
        known = read(self.path)
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


def read(path: Path) -> dict[str, dict[str, Curve]]:
    """Detector -> class -> curve, as `write` wrote it.

    Raises:
        AnnotateError: no such file, or no calibration of scores.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        if record["annotate"] > FORMAT:
            raise AnnotateError(
                f"{path}: written by a newer annotate: pip install -U annotate-local"
            )
        return {
            source: {label: _curve(told) for label, told in classes.items()}
            for source, classes in record["detectors"].items()
        }
    except OSError as error:
        raise AnnotateError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnnotateError(f"{path}: not a calibration of scores: {error}") from None


def _curve(told: Mapping[str, Any]) -> Curve:
    curve = Curve(**told)
    return Curve(**{**told, "scores": tuple(curve.scores), "right": tuple(curve.right)})


def to_json(curves: Mapping[str, Mapping[str, Curve]], iou: float) -> str:
    """What `read` reads; a box was right when it overlapped a true one by `iou` or more."""
    detectors = {
        source: {label: vars(curve) for label, curve in classes.items()}
        for source, classes in curves.items()
    }
    return json.dumps({"annotate": FORMAT, "iou": iou, "detectors": detectors}, indent=1) + "\n"
