"""Let several detectors propose, and join what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import supervision as sv

from annotate import members
from annotate.detect import Detector
from annotate.errors import AnnotateError, UnknownName
from annotate.fusion import Given, Joined, fuse
from annotate.records import Frame, Vocabulary

Row = tuple[int, Joined, str]  # a class, what was joined, the phrase of the surest that found it


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
    iou: float = 0.55
    votes: int = 1
    score: str = "fused"
    thresholds: str = ""
    unscored: float = 0.5
    inside: Mapping[str, Detector] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        inside = members.load(self.members, self.options, self.vocabulary)
        object.__setattr__(self, "inside", inside)
        for name, known in (("weights", inside), ("thresholds", self.vocabulary.labels)):
            for key in members.numbers(getattr(self, name), "NAME=NUMBER"):
                if key not in known:
                    raise UnknownName("member" if known is inside else "class", key, known)
        if inside and not 1 <= self.votes <= len(inside):
            raise AnnotateError(f"ensemble: votes must be 1 to {len(inside)}, got {self.votes}")
        if not 0 < self.iou <= 1:
            raise AnnotateError(f"ensemble: iou must be over 0, to 1, got {self.iou}")
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
        return [self._joined(parts) for parts in zip(*found, strict=True)]

    def _joined(self, parts: Sequence[sv.Detections]) -> sv.Detections:
        ids = np.concatenate([part.class_id for part in parts])
        given = Given(
            np.concatenate([part.xyxy for part in parts]).astype(float),
            np.concatenate([part.confidence for part in parts]).astype(float),
            np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        )
        phrases = [str(p) for part in parts for p in part.data.get("phrase", [""] * len(part))]
        rows = [
            row
            for class_id in sorted(set(ids.tolist()))
            for row in self._of_class(
                class_id, np.flatnonzero(ids == class_id).tolist(), given, phrases
            )
        ]
        return sv.Detections(
            np.array([each.box for _, each, _ in rows], float).reshape(-1, 4),
            class_id=np.array([class_id for class_id, _, _ in rows], int),
            confidence=np.array([each.score for _, each, _ in rows], float),
            data={"phrase": np.array([phrase for _, _, phrase in rows], str)},
        )

    def _of_class(
        self, class_id: int, rows: Sequence[int], given: Given, phrases: Sequence[str]
    ) -> list[Row]:
        """What is joined of one class, as far as enough members are sure enough of it."""
        some = Given(given.boxes[rows], given.scores[rows], given.members[rows])
        trusted = members.numbers(self.weights, "NAME=NUMBER")
        weights = [trusted.get(name, 1.0) for name in self.inside]
        least = members.numbers(self.thresholds, "NAME=NUMBER")
        threshold = least.get(self.vocabulary.labels[class_id], 0.0)
        kept: list[Row] = []
        for joined in fuse(some, weights, iou=self.iou, unscored=self.unscored):
            voters = len(set(some.members[list(joined.rows)].tolist()))
            share = voters / len(weights)
            score = share if self.score == "votes" else joined.score
            if voters >= self.votes and not score < threshold:
                told = [phrases[rows[row]] for row in joined.rows]
                phrase = next(filter(None, told), "")
                kept.append((class_id, Joined(joined.box, score, joined.rows), phrase))
        return kept
