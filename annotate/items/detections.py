"""Convert between an Item on disk and `supervision.Detections` in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from annotate.errors import DatasetError
from annotate.items import boxes, masks
from annotate.items.records import Frame, Item, Object

if TYPE_CHECKING:
    import supervision as sv


_PIXEL_DIGITS = 3  # of the corners of a box
_SCORE_DIGITS = 6


def item_from_detections(
    frame: Frame, detections: sv.Detections, labels: Mapping[int, str], source: str
) -> Item:
    """Convert the detections of one frame to an item; boxes are clipped to the picture.

    `labels` names the classes of a detector's boxes by `class_id`, those of a propagator's objects
    by `tracker_id`. A confidence of NaN becomes a score of None. `data["phrase"]`, where there is
    one, is the phrase that found each box.
    """
    tracks, ids = detections.tracker_id, detections.class_id
    xyxy = boxes.clip(detections.xyxy, frame.size_wh).tolist()
    phrases = detections.data.get("phrase")
    objects = []
    for row in range(len(detections)):
        track = None if tracks is None else int(tracks[row])
        label = labels[int(ids[row]) if track is None and ids is not None else int(track or 0)]
        mask = None if detections.mask is None else masks.encode(np.asarray(detections.mask[row]))
        x1, y1, x2, y2 = (round(side, _PIXEL_DIGITS) for side in xyxy[row])
        score = (
            None
            if detections.confidence is None
            else _rounded_score(float(detections.confidence[row]))
        )
        phrase = "" if phrases is None else str(phrases[row])
        objects.append(Object(label, (x1, y1, x2, y2), score, track, mask, source, phrase=phrase))
    return Item(frame.video, frame.index, frame.seconds, *frame.size_wh, tuple(objects))


def _rounded_score(confidence: float) -> float | None:
    return None if np.isnan(confidence) else round(confidence, _SCORE_DIGITS)


def item_to_detections(item: Item, labels: Sequence[str]) -> sv.Detections:
    """Convert an item's objects to one Detections; `class_id` is the position in `labels`.

    `confidence` is NaN where an object has no score. Where only some of the objects have a track or
    a mask, the `tracker_id` of the others is -1, and their mask is their filled box.

    Raises:
        DatasetError: an object's label is not in `labels`.
    """
    import supervision as sv

    objects = item.objects
    for obj in objects:
        if obj.label not in labels:
            raise DatasetError(
                f"{item.video}#{item.frame}: unknown class {obj.label!r}. "
                f"There are: {', '.join(labels)}"
            )
    detections = sv.Detections(
        xyxy=boxes.as_array([obj.box for obj in objects]),
        class_id=np.array([labels.index(obj.label) for obj in objects], int),
        confidence=np.array([_confidence_or_nan(obj) for obj in objects], float),
        data={"class_name": np.array([obj.label for obj in objects], str)},
    )
    if any(obj.track is not None for obj in objects):
        tracks = [-1 if obj.track is None else obj.track for obj in objects]
        detections.tracker_id = np.array(tracks, int)
    if any(obj.mask is not None for obj in objects):
        detections.mask = np.stack([object_mask(obj, item) for obj in objects])
    return detections


def _confidence_or_nan(obj: Object) -> float:
    return float("nan") if obj.score is None else obj.score


def object_mask(obj: Object, item: Item) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return the object's mask, (H, W) bool; its filled box where it has none."""
    if obj.mask is not None:
        return masks.decode(obj.mask)
    filled = np.zeros((item.height, item.width), bool)
    x1, y1, x2, y2 = (round(side) for side in obj.box)
    filled[y1:y2, x1:x2] = True
    return filled
