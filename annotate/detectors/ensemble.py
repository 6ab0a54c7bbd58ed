"""Combine detectors: an ensemble by weighted boxes fusion, and a two-stage cascade.

The ensemble fuses the boxes of several detectors. The cascade keeps a box of the first detector if
the second detector finds the same class on a crop round the box. Members and their options are
parsed from text.

Weighted boxes fusion: Solovyev, Wang, Gabruseva, "Weighted boxes fusion: Ensembling boxes from
different object detection models", Image and Vision Computing 107 (2021), 104117.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
import supervision as sv

from annotate.detectors.phrases import crop
from annotate.detectors.run import DETECTORS, Detector, propose_checked
from annotate.errors import AnnotateError, UnknownName
from annotate.items.boxes import iou_matrix
from annotate.items.records import Box, Frame, Vocabulary
from annotate.items.sequences import chunks
from annotate.plugins import parse_pairs

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MemberBoxes:
    """The n boxes of one class on one picture, from all members.

    `boxes` is (n, 4), xyxy; `scores` is (n,), NaN where a member gave none; `members` is (n,),
    the index of the member.
    """

    boxes: FloatArray
    scores: FloatArray
    members: npt.NDArray[np.int64]


@dataclass(frozen=True)
class FusedBox:
    """The boxes of one object: the fused box, its score, and the rows that were fused.

    The row with the highest score is first. The score is NaN where no row has one.
    """

    box: FloatArray
    score: float
    rows: tuple[int, ...]


def weighted_boxes_fusion(
    member_boxes: MemberBoxes,
    weights: Sequence[float],
    *,
    min_iou: float = 0.55,
    unscored_weight: float = 0.5,
) -> list[FusedBox]:
    """Fuse the boxes of all members; returns the fused boxes, best first.

    A box joins the fused box that it overlaps most, if their IoU is over `min_iou`. Corners are
    means weighted by score; a box without a score has the weight `unscored_weight` there. The
    score is the mean of the scores that there are, times the share of the members' weight that
    found the object. `weights` holds a number for each member.
    """
    member_weights = np.array(weights, float)[member_boxes.members]
    filled_scores = np.where(np.isnan(member_boxes.scores), unscored_weight, member_boxes.scores)
    box_weights = filled_scores * member_weights
    clusters: list[list[int]] = []
    fused = np.zeros((0, 4))
    for row in np.argsort(-box_weights, kind="stable").tolist():
        overlaps = iou_matrix(member_boxes.boxes[[row]], fused)[0]
        if len(overlaps) and overlaps.max() > min_iou:
            nearest = int(overlaps.argmax())
            clusters[nearest].append(row)
            fused[nearest] = _mean_box(member_boxes.boxes, box_weights, clusters[nearest])
        else:
            clusters.append([row])
            fused = np.vstack([fused, member_boxes.boxes[row]])
    scores = [_fused_score(member_boxes.scores, member_weights, rows, weights) for rows in clusters]
    objects = [FusedBox(*each) for each in zip(fused, scores, map(tuple, clusters), strict=True)]
    return sorted(objects, key=lambda each: -each.score if each.score == each.score else 0.0)


def _mean_box(boxes: FloatArray, box_weights: FloatArray, rows: Sequence[int]) -> FloatArray:
    share = box_weights[rows] if box_weights[rows].any() else np.ones(len(rows))
    return np.asarray(np.average(boxes[rows], axis=0, weights=share))


def _fused_score(
    scores: FloatArray, member_weights: FloatArray, rows: Sequence[int], weights: Sequence[float]
) -> float:
    scored = [row for row in rows if not np.isnan(scores[row])]
    if not scored:
        return float("nan")
    mean = float((scores[scored] * member_weights[scored]).mean())
    return mean * min(len(weights), len(rows)) / float(np.sum(weights))


def load_members(members: str, options: str, vocabulary: Vocabulary) -> dict[str, Detector]:
    """Load detectors by name: `colour, a=vlm, b=vlm` with `colour.min_area=40 a.model=x`.

    Raises:
        UnknownName: no such detector or option, or options of an unknown member.
        AnnotateError: two members of one name, or a text that cannot be parsed.
    """
    detectors: dict[str, str] = {}  # member -> the name of its detector
    for text in members.replace(",", " ").split():
        name, equals, detector = text.partition("=")
        if name in detectors:
            raise AnnotateError(f"two members are {name!r}: name them, a={name},b={name}")
        detectors[name] = detector if equals else name
    texts = _member_options(options, detectors)
    return {
        name: DETECTORS.load(detector, vocabulary, **DETECTORS.parse_options(detector, texts[name]))
        for name, detector in detectors.items()
    }


def _member_options(text: str, names: Iterable[str]) -> Mapping[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    for key, value in parse_pairs(text, "MEMBER.OPTION=VALUE").items():
        name, dot, option = key.partition(".")
        if name not in names:
            raise UnknownName("member", name, names)
        if not dot:
            raise AnnotateError(f"expected MEMBER.OPTION=VALUE, got {key}={value}")
        texts[name][option] = value
    return texts


def parse_numbers(text: str, expected: str) -> dict[str, float]:
    """Parse `a=1 b=2.5` into numbers by name.

    Raises:
        AnnotateError: says what was expected.
    """
    try:
        return {key: float(value) for key, value in parse_pairs(text, expected).items()}
    except ValueError:
        raise AnnotateError(f"expected {expected}, got {text!r}") from None


FusedRow = tuple[int, FusedBox, str]  # class id, fused box, phrase of its best row


@dataclass(frozen=True)
class EnsembleDetector:
    """Fuse the boxes of several detectors by weighted boxes fusion.

    `members` names the detectors ("colour, vlm", or "a=vlm, b=vlm" to run one twice), `options`
    their options ("vlm.model=x colour.min_area=40"), `weights` their weights ("colour=2"). Boxes
    with an IoU over `min_iou` are one object. An object that fewer than `min_votes` members found
    is dropped, and so is one with a score below the threshold of its class (`thresholds`:
    "designator=0.4"). `score` is "fused", or "votes" for the share of members that found the
    object. A box without a score has the weight `unscored_weight` where corners are averaged.
    """

    vocabulary: Vocabulary
    members: str = ""
    options: str = ""
    weights: str = ""
    min_iou: float = 0.55
    min_votes: int = 1
    score: str = "fused"
    thresholds: str = ""
    unscored_weight: float = 0.5
    inside: Mapping[str, Detector] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        inside = load_members(self.members, self.options, self.vocabulary)
        object.__setattr__(self, "inside", inside)
        for name, choices in (("weights", inside), ("thresholds", self.vocabulary.labels)):
            for key in parse_numbers(getattr(self, name), "NAME=NUMBER"):
                if key not in choices:
                    raise UnknownName("member" if name == "weights" else "class", key, choices)
        if inside and not 1 <= self.min_votes <= len(inside):
            raise AnnotateError(
                f"ensemble: min_votes must be 1 to {len(inside)}, got {self.min_votes}"
            )
        if not 0 < self.min_iou <= 1:
            raise AnnotateError(f"ensemble: min_iou must be over 0, to 1, got {self.min_iou}")
        if self.score not in ("fused", "votes"):
            raise AnnotateError(f"ensemble: score must be fused or votes, got {self.score!r}")

    def ready(self) -> None:
        """Check that there are members.

        Raises:
            AnnotateError: no member is named.
        """
        if not self.inside:
            raise AnnotateError(
                "ensemble: no detectors are named: give at least two, such as `members=colour,vlm`"
            )

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes for each frame, class by class, best first."""
        self.ready()
        found = [
            propose_checked(detector, frames, f"ensemble: member {name}")
            for name, detector in self.inside.items()
        ]
        return [self._fuse(parts) for parts in zip(*found, strict=True)]

    def _fuse(self, parts: Sequence[sv.Detections]) -> sv.Detections:
        ids = np.concatenate([part.class_id for part in parts])
        member_boxes = MemberBoxes(
            np.concatenate([part.xyxy for part in parts]).astype(float),
            np.concatenate([part.confidence for part in parts]).astype(float),
            np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        )
        phrases = [str(p) for part in parts for p in part.data.get("phrase", [""] * len(part))]
        rows = [
            row
            for class_id in sorted(set(ids.tolist()))
            for row in self._fuse_class(
                class_id, np.flatnonzero(ids == class_id).tolist(), member_boxes, phrases
            )
        ]
        return sv.Detections(
            np.array([each.box for _, each, _ in rows], float).reshape(-1, 4),
            class_id=np.array([class_id for class_id, _, _ in rows], int),
            confidence=np.array([each.score for _, each, _ in rows], float),
            data={"phrase": np.array([phrase for _, _, phrase in rows], str)},
        )

    def _fuse_class(
        self, class_id: int, rows: Sequence[int], member_boxes: MemberBoxes, phrases: Sequence[str]
    ) -> list[FusedRow]:
        """Fuse the boxes of one class, and drop those with too few votes or too low a score."""
        of_class = MemberBoxes(
            member_boxes.boxes[rows], member_boxes.scores[rows], member_boxes.members[rows]
        )
        weight_by_name = parse_numbers(self.weights, "NAME=NUMBER")
        weights = [weight_by_name.get(name, 1.0) for name in self.inside]
        thresholds = parse_numbers(self.thresholds, "NAME=NUMBER")
        threshold = thresholds.get(self.vocabulary.labels[class_id], 0.0)
        kept: list[FusedRow] = []
        for fused in weighted_boxes_fusion(
            of_class, weights, min_iou=self.min_iou, unscored_weight=self.unscored_weight
        ):
            votes = len(set(of_class.members[list(fused.rows)].tolist()))
            score = votes / len(weights) if self.score == "votes" else fused.score
            if votes >= self.min_votes and not score < threshold:
                row_phrases = [phrases[rows[row]] for row in fused.rows]
                phrase = next(filter(None, row_phrases), "")
                kept.append((class_id, FusedBox(fused.box, score, fused.rows), phrase))
        return kept


_MIN_MARGIN_PX = 16.0  # on each side of the box
_BATCH_SIZE = 8  # crops for one call of the second detector


@dataclass(frozen=True)
class CascadeDetector:
    """Keep the boxes of `first` that `second` confirms on a crop round the box.

    Both are names of detectors; `options` are theirs ("second.model=x first.min_area=40"). The
    margin of the crop on each side is `margin` times the longer side of the box. A box is confirmed
    by a box of the same class with an IoU of `min_iou` or more. `box_from` names the detector
    that gives the box and score: "first" or "second". The phrase is that of the second detector, if
    it has one.
    """

    vocabulary: Vocabulary
    first: str = ""
    second: str = ""
    options: str = ""
    margin: float = 0.5
    min_iou: float = 0.3
    box_from: str = "first"
    inside: Mapping[str, Detector] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stages = {"first": self.first, "second": self.second}
        members = ", ".join(f"{stage}={name}" for stage, name in stages.items() if name)
        object.__setattr__(self, "inside", load_members(members, self.options, self.vocabulary))
        if self.box_from not in stages:
            raise AnnotateError(f"cascade: box_from must be first or second, got {self.box_from!r}")
        if self.margin < 0:
            raise AnnotateError(f"cascade: margin must be 0 or more, got {self.margin}")

    def ready(self) -> None:
        """Check that both detectors are named.

        Raises:
            AnnotateError: one is not.
        """
        if len(self.inside) < 2:
            raise AnnotateError(
                "cascade: give both detectors, such as `first=colour` and `second=vlm`"
            )

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose the confirmed boxes of each frame, in the order of the first detector."""
        self.ready()
        proposed = self._propose_by("first", frames)
        crops = [
            _crop(frame, (x1, y1, x2, y2), self.margin)
            for frame, found in zip(frames, proposed, strict=True)
            for x1, y1, x2, y2 in found.xyxy.tolist()
        ]
        crop_detections = iter(self._detect_crops([crop_frame for crop_frame, _ in crops]))
        corners = iter([corner for _, corner in crops])
        return [
            self._confirm(
                found,
                list(islice(crop_detections, len(found))),
                list(islice(corners, len(found))),
            )
            for found in proposed
        ]

    def _detect_crops(self, crops: list[Frame]) -> list[sv.Detections]:
        """Run the second detector on each crop."""
        batches = (self._propose_by("second", batch) for batch in chunks(crops, _BATCH_SIZE))
        return [found for batch in batches for found in batch]

    def _propose_by(self, stage: str, frames: list[Frame]) -> list[sv.Detections]:
        source = f"cascade: {stage} ({getattr(self, stage)})"
        return propose_checked(self.inside[stage], frames, source)

    def _confirm(
        self,
        first_detections: sv.Detections,
        crop_detections: Sequence[sv.Detections],
        corners: Sequence[tuple[int, int]],
    ) -> sv.Detections:
        """Keep the boxes that have a match on their crop."""
        rows, boxes, scores, phrases = [], [], [], []
        keep_first = self.box_from == "first"
        class_ids = np.asarray(first_detections.class_id)
        first_scores = np.asarray(first_detections.confidence)
        for row, (found, corner) in enumerate(zip(crop_detections, corners, strict=True)):
            first_xyxy, second_xyxy = first_detections.xyxy[row], found.xyxy + np.tile(corner, 2)
            overlaps = iou_matrix(first_xyxy[None], second_xyxy)[0]
            overlaps = np.where(found.class_id == class_ids[row], overlaps, -1.0)
            if not len(overlaps) or overlaps.max() < self.min_iou:
                continue
            best, texts = int(overlaps.argmax()), found.data.get("phrase")
            rows.append(row)
            boxes.append(first_xyxy if keep_first else second_xyxy[best])
            scores.append(first_scores[row] if keep_first else np.asarray(found.confidence)[best])
            phrases.append("" if texts is None else str(texts[best]))
        return sv.Detections(
            np.array(boxes, float).reshape(-1, 4),
            class_id=class_ids[rows].astype(int),
            confidence=np.array(scores, float),
            data={"phrase": np.array(phrases, str)},
        )


def _crop(frame: Frame, box: Box, margin: float) -> tuple[Frame, tuple[int, int]]:
    longer = max(box[2] - box[0], box[3] - box[1])
    return crop(frame, box, max(margin * longer, _MIN_MARGIN_PX))
