"""Combine detectors: an ensemble by weighted boxes fusion, and a two-stage cascade.

The ensemble fuses the boxes of several detectors. The cascade keeps a box of the first detector if
the second finds the same class on a crop round it. Members and their options are parsed from text.

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
from annotate.detectors.run import DETECTORS, Detector
from annotate.errors import AnnotateError, UnknownName
from annotate.items.records import Box, Frame, Vocabulary
from annotate.plugins import parse_pairs

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MemberBoxes:
    """Boxes of one class on one picture, from all members: n of them.

    `boxes` is (n, 4), xyxy; `scores` is (n,), NaN where a member gave none; `members` is (n,).
    """

    boxes: FloatArray
    scores: FloatArray
    members: npt.NDArray[np.int64]


@dataclass(frozen=True)
class FusedBox:
    """Boxes that are one thing: the fused box, its score, and the rows that it came from.

    The surest row is first. The score is NaN where none of them has one.
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
    """The fused boxes, surest first.

    A box joins the fused box that it overlaps most, from `iou` on. Corners are means weighted by
    score; a box without one counts as `unscored` there, and there only. The score is the mean of
    those given, times the share of the members' weight that found it.
    """
    trust = np.array(weights, float)[member_boxes.members]
    sure = np.where(np.isnan(member_boxes.scores), unscored_weight, member_boxes.scores) * trust
    clusters: list[list[int]] = []
    fused = np.zeros((0, 4))
    for row in np.argsort(-sure, kind="stable").tolist():
        overlap = ious(member_boxes.boxes[row], fused)
        if len(overlap) and overlap.max() > min_iou:
            place = int(overlap.argmax())
            clusters[place].append(row)
            fused[place] = _mean_box(member_boxes.boxes, sure, clusters[place])
        else:
            clusters.append([row])
            fused = np.vstack([fused, member_boxes.boxes[row]])
    scores = [_fused_score(member_boxes.scores, trust, rows, weights) for rows in clusters]
    joined = [FusedBox(*each) for each in zip(fused, scores, map(tuple, clusters), strict=True)]
    return sorted(joined, key=lambda each: -each.score if each.score == each.score else 0.0)


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


def ious(box: FloatArray, boxes: FloatArray) -> FloatArray:
    """IoU of one box with each of several, (n,)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = (high - low).clip(0).prod(1)
    areas = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return np.asarray(common / np.maximum(areas - common, 1e-9))


def load_members(members: str, options: str, vocabulary: Vocabulary) -> dict[str, Detector]:
    """Detectors by name: `colour, a=vlm, b=vlm` with `colour.smallest=40 a.model=x b.model=y`.

    Raises:
        UnknownName: no such detector or option, or options of nobody.
        AnnotateError: two of one name, or a text that says nothing.
    """
    kinds: dict[str, str] = {}
    for text in members.replace(",", " ").split():
        name, equals, kind = text.partition("=")
        if name in kinds:
            raise AnnotateError(f"two members are {name!r}: name them, a={name},b={name}")
        kinds[name] = kind if equals else name
    told = _member_options(options, kinds)
    return {
        name: DETECTORS.load(kind, vocabulary, **DETECTORS.parse_options(kind, told[name]))
        for name, kind in kinds.items()
    }


def _member_options(text: str, names: Iterable[str]) -> Mapping[str, dict[str, str]]:
    told: dict[str, dict[str, str]] = defaultdict(dict)
    for key, value in parse_pairs(text, "MEMBER.OPTION=VALUE").items():
        name, dot, option = key.partition(".")
        if name not in names:
            raise UnknownName("member", name, names)
        if not dot:
            raise AnnotateError(f"expected MEMBER.OPTION=VALUE, got {key}={value}")
        told[name][option] = value
    return told


def parse_numbers(text: str, expected: str) -> dict[str, float]:
    """What `a=1 b=2.5` says, as numbers.

    Raises:
        AnnotateError: says what was expected.
    """
    try:
        return {key: float(value) for key, value in parse_pairs(text, expected).items()}
    except ValueError:
        raise AnnotateError(f"expected {expected}, got {text!r}") from None


FusedRow = tuple[
    int, FusedBox, str
]  # a class, what was joined, the phrase of the surest that found it


@dataclass(frozen=True)
class EnsembleDetector:
    """Boxes of several detectors, joined by weighted boxes fusion.

    `members` are detectors ("colour, vlm", or "a=vlm, b=vlm" where two are of a kind), `options`
    theirs ("vlm.model=x colour.smallest=40"), `weights` how far each is trusted ("colour=2"). What
    fewer than `votes` members found is left out, and so is what scores below its class's threshold
    ("designator=0.4"). The score is the fused one, or by `score` "votes" the share of members that
    found it. A box without a score counts as `unscored` where corners are averaged.
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
        for name, known in (("weights", inside), ("thresholds", self.vocabulary.labels)):
            for key in parse_numbers(getattr(self, name), "NAME=NUMBER"):
                if key not in known:
                    raise UnknownName("member" if known is inside else "class", key, known)
        if inside and not 1 <= self.min_votes <= len(inside):
            raise AnnotateError(f"ensemble: votes must be 1 to {len(inside)}, got {self.min_votes}")
        if not 0 < self.min_iou <= 1:
            raise AnnotateError(f"ensemble: iou must be over 0, to 1, got {self.min_iou}")
        if self.score not in ("fused", "votes"):
            raise AnnotateError(f"ensemble: score must be fused or votes, got {self.score!r}")

    def ready(self) -> None:
        """Refuse to begin without members.

        Raises:
            AnnotateError: says how to name them.
        """
        if not self.inside:
            raise AnnotateError("ensemble: which detectors? --set members=colour,vlm")

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Boxes for each frame, class by class, the surest first."""
        self.ready()
        found = [detector.propose(frames) for detector in self.inside.values()]
        return [self._fuse(parts) for parts in zip(*found, strict=True)]

    def _fuse(self, parts: Sequence[sv.Detections]) -> sv.Detections:
        ids = np.concatenate([part.class_id for part in parts])
        given = MemberBoxes(
            np.concatenate([part.xyxy for part in parts]).astype(float),
            np.concatenate([part.confidence for part in parts]).astype(float),
            np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        )
        phrases = [str(p) for part in parts for p in part.data.get("phrase", [""] * len(part))]
        rows = [
            row
            for class_id in sorted(set(ids.tolist()))
            for row in self._fuse_class(
                class_id, np.flatnonzero(ids == class_id).tolist(), given, phrases
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
        """What is joined of one class, as far as enough members are sure enough of it."""
        some = MemberBoxes(
            member_boxes.boxes[rows], member_boxes.scores[rows], member_boxes.members[rows]
        )
        trusted = parse_numbers(self.weights, "NAME=NUMBER")
        weights = [trusted.get(name, 1.0) for name in self.inside]
        least = parse_numbers(self.thresholds, "NAME=NUMBER")
        threshold = least.get(self.vocabulary.labels[class_id], 0.0)
        kept: list[FusedRow] = []
        for joined in weighted_boxes_fusion(
            some, weights, min_iou=self.min_iou, unscored_weight=self.unscored_weight
        ):
            voters = len(set(some.members[list(joined.rows)].tolist()))
            share = voters / len(weights)
            score = share if self.score == "votes" else joined.score
            if voters >= self.min_votes and not score < threshold:
                told = [phrases[rows[row]] for row in joined.rows]
                phrase = next(filter(None, told), "")
                kept.append((class_id, FusedBox(joined.box, score, joined.rows), phrase))
        return kept


_MIN_MARGIN_PX = 16.0  # pixels that a crop shows on each side of the box at least
_BATCH_SIZE = 8  # crops, as many as a detector is given frames


@dataclass(frozen=True)
class CascadeDetector:
    """Boxes that `first` proposes and `second` finds again, as the same class, on a crop.

    Both are names of detectors; `options` are theirs ("second.model=x first.smallest=40"). The crop
    shows `margin` times the box's longer side round it. The second confirms a box by one that
    overlaps it by `overlap` (IoU) or more. `box` says whose box and score are kept: "first" or
    "second". The phrase is the second's, if it has one.
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
        named = {"first": self.first, "second": self.second}
        told = ", ".join(f"{part}={name}" for part, name in named.items() if name)
        object.__setattr__(self, "inside", load_members(told, self.options, self.vocabulary))
        if self.box_from not in named:
            raise AnnotateError(f"cascade: box must be first or second, got {self.box_from!r}")
        if self.margin < 0:
            raise AnnotateError(f"cascade: margin must be 0 or more, got {self.margin}")

    def ready(self) -> None:
        """Refuse to begin without both detectors.

        Raises:
            AnnotateError: says how to name them.
        """
        if len(self.inside) < 2:
            raise AnnotateError("cascade: which? --set first=colour --set second=vlm")

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """The boxes of each frame that are confirmed, in the order of the first detector."""
        self.ready()
        proposed = self.inside["first"].propose(frames)
        crops = [
            _crop(frame, (x1, y1, x2, y2), self.margin)
            for frame, found in zip(frames, proposed, strict=True)
            for x1, y1, x2, y2 in found.xyxy.tolist()
        ]
        seen = iter(self._detect_crops([shown for shown, _ in crops]))
        corners = iter([corner for _, corner in crops])
        return [
            self._confirm(found, list(islice(seen, len(found))), list(islice(corners, len(found))))
            for found in proposed
        ]

    def _detect_crops(self, crops: list[Frame]) -> list[sv.Detections]:
        """What the second detector finds on each crop."""
        second = self.inside["second"]
        parts = [crops[n : n + _BATCH_SIZE] for n in range(0, len(crops), _BATCH_SIZE)]
        return [found for part in parts for found in second.propose(part)]

    def _confirm(
        self,
        first_detections: sv.Detections,
        crop_detections: Sequence[sv.Detections],
        corners: Sequence[tuple[int, int]],
    ) -> sv.Detections:
        """Those of the boxes that were found again."""
        rows, boxes, scores, phrases = [], [], [], []
        ids, sure = np.asarray(first_detections.class_id), np.asarray(first_detections.confidence)
        for row, (again, corner) in enumerate(zip(crop_detections, corners, strict=True)):
            placed = again.xyxy + np.tile(corner, 2)
            overlap = np.where(
                again.class_id == ids[row], ious(first_detections.xyxy[row], placed), -1.0
            )
            if not len(overlap) or overlap.max() < self.min_iou:
                continue
            best, words = int(overlap.argmax()), again.data.get("phrase")
            mine = self.box_from == "first"
            rows.append(row)
            boxes.append(first_detections.xyxy[row] if mine else placed[best])
            scores.append(sure[row] if mine else np.asarray(again.confidence)[best])
            phrases.append("" if words is None else str(words[best]))
        return sv.Detections(
            np.array(boxes, float).reshape(-1, 4),
            class_id=ids[rows].astype(int),
            confidence=np.array(scores, float),
            data={"phrase": np.array(phrases, str)},
        )


def _crop(frame: Frame, box: Box, margin: float) -> tuple[Frame, tuple[int, int]]:
    longer = max(box[2] - box[0], box[3] - box[1])
    return crop(frame, box, max(margin * longer, _MIN_MARGIN_PX))
