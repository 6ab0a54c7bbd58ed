"""Convert between an Item on disk and `supervision.Detections` in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from annotate.errors import DatasetError
from annotate.items import masks
from annotate.items.records import Box, Frame, Item, Object

if TYPE_CHECKING:
    import supervision as sv


_PIXEL_DIGITS = 3  # a box's corners are kept to a thousandth of a pixel
_SCORE_DIGITS = 6


def item_from_detections(
    frame: Frame, detections: sv.Detections, labels: Mapping[int, str], source: str
) -> Item:
    """What was found on a frame, as an item; boxes are cut off at the picture's edge.

    `labels` names the classes of a detector's boxes by `class_id`, those of a propagator's objects
    by `tracker_id`. A confidence of NaN becomes a score of None. `data["phrase"]`, where it is,
    says what each box was found by.
    """
    width, height = frame.size_wh
    tracks, ids = detections.tracker_id, detections.class_id
    phrases = detections.data.get("phrase")
    objects = []
    for row in range(len(detections)):
        track = None if tracks is None else int(tracks[row])
        label = labels[int(ids[row]) if track is None and ids is not None else int(track or 0)]
        mask = None if detections.mask is None else masks.encode(np.asarray(detections.mask[row]))
        box = _clip_box(detections.xyxy[row], width, height)
        score = (
            None
            if detections.confidence is None
            else _rounded_score(float(detections.confidence[row]))
        )
        phrase = "" if phrases is None else str(phrases[row])
        objects.append(Object(label, box, score, track, mask, source, phrase=phrase))
    return Item(frame.video, frame.index, frame.seconds, width, height, tuple(objects))


def _clip_box(xyxy: Sequence[float], width: int, height: int) -> Box:
    limits = (width, height, width, height)
    sides = zip(xyxy, limits, strict=True)
    x1, y1, x2, y2 = (round(min(max(float(s), 0.0), most), _PIXEL_DIGITS) for s, most in sides)
    return x1, y1, x2, y2


def _rounded_score(confidence: float) -> float | None:
    return None if np.isnan(confidence) else round(confidence, _SCORE_DIGITS)


def item_to_detections(item: Item, labels: Sequence[str]) -> sv.Detections:
    """An item's objects as one Detections; `class_id` is the label's place in `labels`.

    `confidence` is NaN where an item has no score. `tracker_id` is -1 and the mask is the box
    filled where only some of the objects have them.

    Raises:
        DatasetError: for a label that is not among `labels`.
    """
    import supervision as sv

    things = item.objects
    for thing in things:
        if thing.label not in labels:
            known = ", ".join(labels)
            raise DatasetError(
                f"{item.video}#{item.frame}: unknown class {thing.label!r}. There are: {known}"
            )
    found = sv.Detections(
        xyxy=np.array([thing.box for thing in things], float).reshape(-1, 4),
        class_id=np.array([labels.index(thing.label) for thing in things], int),
        confidence=np.array([_confidence_or_nan(thing) for thing in things], float),
        data={"class_name": np.array([thing.label for thing in things], str)},
    )
    if any(thing.track is not None for thing in things):
        tracks = [-1 if thing.track is None else thing.track for thing in things]
        found.tracker_id = np.array(tracks, int)
    if any(thing.mask is not None for thing in things):
        found.mask = np.stack([object_mask(thing, item) for thing in things])
    return found


def _confidence_or_nan(obj: Object) -> float:
    return float("nan") if obj.score is None else obj.score


def object_mask(obj: Object, item: Item) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The object's mask, (H, W) bool; its box filled where it has none."""
    if obj.mask is not None:
        return masks.decode(obj.mask)
    filled = np.zeros((item.height, item.width), bool)
    x1, y1, x2, y2 = (round(side) for side in obj.box)
    filled[y1:y2, x1:x2] = True
    return filled
