"""Let one detector propose, and another confirm each box on a crop round it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import supervision as sv

from annotate import members
from annotate.detect import Detector
from annotate.errors import AnnotateError
from annotate.found import crop
from annotate.fusion import ious
from annotate.records import Box, Frame, Vocabulary

_SMALLEST = 16.0  # pixels that a crop shows on each side of the box at least
_AT_ONCE = 8  # crops, as many as a detector is given frames


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
    overlap: float = 0.3
    box: str = "first"
    inside: Mapping[str, Detector] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        named = {"first": self.first, "second": self.second}
        told = ", ".join(f"{part}={name}" for part, name in named.items() if name)
        object.__setattr__(self, "inside", members.load(told, self.options, self.vocabulary))
        if self.box not in named:
            raise AnnotateError(f"cascade: box must be first or second, got {self.box!r}")
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
        seen = iter(self._seen([shown for shown, _ in crops]))
        corners = iter([corner for _, corner in crops])
        return [
            self._confirmed(
                found, list(islice(seen, len(found))), list(islice(corners, len(found)))
            )
            for found in proposed
        ]

    def _seen(self, crops: list[Frame]) -> list[sv.Detections]:
        """What the second detector finds on each crop."""
        second = self.inside["second"]
        parts = [crops[n : n + _AT_ONCE] for n in range(0, len(crops), _AT_ONCE)]
        return [found for part in parts for found in second.propose(part)]

    def _confirmed(
        self,
        found: sv.Detections,
        seen: Sequence[sv.Detections],
        corners: Sequence[tuple[int, int]],
    ) -> sv.Detections:
        """Those of the boxes that were found again."""
        rows, boxes, scores, phrases = [], [], [], []
        ids, sure = np.asarray(found.class_id), np.asarray(found.confidence)
        for row, (again, corner) in enumerate(zip(seen, corners, strict=True)):
            placed = again.xyxy + np.tile(corner, 2)
            overlap = np.where(again.class_id == ids[row], ious(found.xyxy[row], placed), -1.0)
            if not len(overlap) or overlap.max() < self.overlap:
                continue
            best, words = int(overlap.argmax()), again.data.get("phrase")
            mine = self.box == "first"
            rows.append(row)
            boxes.append(found.xyxy[row] if mine else placed[best])
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
    return crop(frame, box, max(margin * longer, _SMALLEST))
