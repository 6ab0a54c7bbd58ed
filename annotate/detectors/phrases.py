"""Match model labels to phrases, and turn boxes found by phrases into detections.

Also crops a frame round a box, for detectors that run a second time on a crop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from annotate.items import boxes
from annotate.items.records import Box, Frame
from annotate.vlm.answers import nearest_text
from annotate.vocabulary import Phrase

if TYPE_CHECKING:
    import supervision as sv


_DUPLICATE_IOU = 0.7  # from this IoU on, two boxes of a class are one object, found by two phrases


@dataclass(frozen=True)
class PhraseBox:
    """A box in pixels, the phrase that found it, and its score; NaN where there is none."""

    phrase: Phrase
    box: Box
    score: float = float("nan")


def crop(frame: Frame, box: Box, margin_px: float) -> tuple[Frame, tuple[int, int]]:
    """Crop a frame `margin_px` round a box; returns the crop and its top left corner (x, y)."""
    width, height = frame.size_wh
    x1, y1, x2, y2 = box
    left, top = max(int(x1 - margin_px), 0), max(int(y1 - margin_px), 0)
    right, bottom = min(int(x2 + margin_px) + 1, width), min(int(y2 + margin_px) + 1, height)
    image = np.ascontiguousarray(frame.image[top:bottom, left:right])
    return replace(frame, image=image), (left, top)


def match_phrase(label: str, phrases: Sequence[Phrase]) -> Phrase | None:
    """Return the phrase that a model means by its label, near misses included, or None.

    A box without a label is of the class of all phrases, if they are of one class.
    """
    if not label.strip():
        class_ids = {phrase.class_id for phrase in phrases}
        if len(class_ids) != 1:
            return None
        return phrases[0] if len(phrases) == 1 else replace(phrases[0], text="")
    text = nearest_text(label, [phrase.text for phrase in phrases])
    return next((phrase for phrase in phrases if phrase.text == text), None)


def to_detections(phrase_boxes: Iterable[PhraseBox], size_wh: tuple[int, int]) -> sv.Detections:
    """Turn boxes into detections, in order, clipped to the picture.

    A box without an area inside the picture is dropped, and so is a near duplicate of an earlier
    box of the same class.
    """
    import supervision as sv

    kept: list[PhraseBox] = []
    for each in phrase_boxes:
        clipped = replace(each, box=boxes.clip_box(each.box, size_wh))
        x1, y1, x2, y2 = clipped.box
        if x1 < x2 and y1 < y2 and not any(_is_duplicate(clipped, other) for other in kept):
            kept.append(clipped)
    return sv.Detections(
        np.array([each.box for each in kept], float).reshape(-1, 4),
        class_id=np.array([each.phrase.class_id for each in kept], int),
        confidence=np.array([each.score for each in kept], float),
        data={"phrase": np.array([each.phrase.text for each in kept], str)},
    )


def _is_duplicate(one: PhraseBox, other: PhraseBox) -> bool:
    same_class = one.phrase.class_id == other.phrase.class_id
    return same_class and boxes.iou(one.box, other.box) >= _DUPLICATE_IOU
