"""Match model labels to phrases, and turn boxes found by phrases into detections.

Also crops a frame round a box, for detectors that look a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from annotate.items.records import Box, Frame
from annotate.vocabulary import Phrase

if TYPE_CHECKING:
    import supervision as sv


_DUPLICATE_IOU = 0.7  # IoU from which two boxes of a class are one thing, found by two phrases


@dataclass(frozen=True)
class PhraseBox:
    """A box in pixels, and what was asked for when it was found; no score is NaN."""

    phrase: Phrase
    box: Box
    score: float = float("nan")


def crop(frame: Frame, box: Box, margin_px: float) -> tuple[Frame, tuple[int, int]]:
    """A frame `more` pixels round a box, and where in it the top left corner of that is."""
    width, height = frame.size_wh
    x1, y1, x2, y2 = box
    left, top = max(int(x1 - margin_px), 0), max(int(y1 - margin_px), 0)
    right, bottom = min(int(x2 + margin_px) + 1, width), min(int(y2 + margin_px) + 1, height)
    image = np.ascontiguousarray(frame.image[top:bottom, left:right])
    return replace(frame, image=image), (left, top)


def match_phrase(label: str, phrases: Sequence[Phrase]) -> Phrase | None:
    """Which of the phrases a model means by its label; None where it is none of them."""
    if len(phrases) == 1 and not label:
        return phrases[0]
    known = {phrase.text.casefold(): phrase for phrase in reversed(phrases)}
    near = get_close_matches(label.strip().strip("\"'").casefold(), known, n=1, cutoff=0.8)
    return known[near[0]] if near else None


def to_detections(phrase_boxes: Iterable[PhraseBox], size_wh: tuple[int, int]) -> sv.Detections:
    """What was found, in order, cut to the picture; what has no area there is left out.

    Of boxes of one class that are nearly the same, the first is kept.
    """
    import supervision as sv

    kept: list[PhraseBox] = []
    for each in phrase_boxes:
        cut = PhraseBox(each.phrase, _clip_box(each.box, size_wh), each.score)
        x1, y1, x2, y2 = cut.box
        if x1 < x2 and y1 < y2 and not any(_is_duplicate(cut, other) for other in kept):
            kept.append(cut)
    return sv.Detections(
        np.array([each.box for each in kept], float).reshape(-1, 4),
        class_id=np.array([each.phrase.class_id for each in kept], int),
        confidence=np.array([each.score for each in kept], float),
        data={"phrase": np.array([each.phrase.text for each in kept], str)},
    )


def _clip_box(box: Box, size_wh: tuple[int, int]) -> Box:
    x1, y1, x2, y2 = np.clip(np.array(box, float), 0, np.array([*size_wh, *size_wh])).tolist()
    return x1, y1, x2, y2


def _is_duplicate(one: PhraseBox, other: PhraseBox) -> bool:
    return (
        one.phrase.class_id == other.phrase.class_id and iou(one.box, other.box) >= _DUPLICATE_IOU
    )


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, xyxy."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return common / max(areas[0] + areas[1] - common, 1e-9)
