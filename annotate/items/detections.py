"""Convert between an Item on disk and `supervision.Detections` in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from annotate.errors import DatasetError, PluginError
from annotate.items import boxes, masks
from annotate.items.records import Frame, Item, Mask, Object

if TYPE_CHECKING:
    import supervision as sv


_PIXEL_DIGITS = 3  # of the corners of a box
_SCORE_DIGITS = 6
_SCORE_TOLERANCE = 1e-5  # by which a score in float32 may be beyond 0..1


def check_detections(
    frame: Frame, detections: Any, source: str, ids: Collection[int] | None = None
) -> None:
    """Check what a plugin returned for a frame: counts, sizes, numbers and ids.

    `ids` are the ids that may occur: of tracked objects where there are any, else of classes; None
    allows all.

    Raises:
        PluginError: names the plugin, the frame and the rule that is broken.
    """
    import supervision as sv

    if not isinstance(detections, sv.Detections):
        problem = f"it gave a {type(detections).__name__}, not supervision.Detections"
    else:
        problem = _problem(detections, frame.size_wh, ids) if len(detections) else ""
    if problem:
        raise PluginError(
            f"{source}: {frame.name}: {problem}; this is a fault of the plugin: report it, and "
            "check it with `annotate.testing`"
        )


def tracked_detections(objects: Iterable[tuple[int, Mask, float]]) -> sv.Detections:
    """Make the detections of tracked masks: (object id, mask of (H, W) bool, confidence in 0..1).

    A mask without a pixel has no row.
    """
    import supervision as sv

    rows = [
        (object_id, box, mask, confidence)
        for object_id, mask, confidence in objects
        if (box := masks.box(mask)) is not None
    ]
    if not rows:
        return sv.Detections.empty()
    ids, xyxy, object_masks, confidences = zip(*rows, strict=True)
    return sv.Detections(
        xyxy=np.array(xyxy, np.float64),
        mask=np.stack(object_masks),
        confidence=np.array(confidences, np.float64),
        tracker_id=np.array(ids, np.int64),
    )


def _problem(detections: sv.Detections, size_wh: tuple[int, int], ids: Any) -> str:
    """Name the first broken rule; "" if all are kept."""
    count, (width, height) = len(detections), size_wh
    xyxy, scores, mask = np.asarray(detections.xyxy), detections.confidence, detections.mask
    tracks, classes = detections.tracker_id, detections.class_id
    if xyxy.shape != (count, 4) or not np.isfinite(xyxy).all():
        return "a box is not of four finite numbers"
    if (flipped := xyxy[(xyxy[:, 2:] < xyxy[:, :2]).any(axis=1)]).size:
        return f"the box {flipped[0].tolist()} is not x1, y1, x2, y2: its end is before its start"
    if scores is not None and (beyond := _beyond_unit(np.asarray(scores, float))).size:
        return f"the score {beyond[0]:g} is not in 0..1, nor NaN for none"
    if mask is not None and (mask.shape != (count, height, width) or mask.dtype != bool):
        expected = (count, height, width)
        return f"the masks are {mask.dtype} of {tuple(mask.shape)}, not bool of {expected}"
    if tracks is None and classes is None:
        return "it set neither class_id nor tracker_id"
    given = (np.asarray(classes) if tracks is None else np.asarray(tracks)).tolist()
    name, noun = ("class_id", "class") if tracks is None else ("tracker_id", "prompted object")
    if len(given) != count or not all(isinstance(each, int) for each in given):
        return f"{name} is not a whole number for each box"
    if tracks is not None and len(set(given)) < count:
        return f"an id is twice in tracker_id {given}"
    if ids is not None and (unknown := sorted(set(given) - set(ids))):
        return f"{name} {unknown[0]} is of no {noun}: there are {', '.join(map(str, sorted(ids)))}"
    return ""


def _beyond_unit(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    low, high = -_SCORE_TOLERANCE, 1 + _SCORE_TOLERANCE
    beyond: npt.NDArray[np.float64] = scores[
        ~(np.isnan(scores) | ((low <= scores) & (scores <= high)))
    ]
    return beyond


def item_from_detections(
    frame: Frame, detections: sv.Detections, labels: Mapping[int, str], source: str
) -> Item:
    """Convert the detections of one frame to an item; boxes are clipped to the picture.

    `labels` names the classes of a detector's boxes by `class_id`, those of a propagator's objects
    by `tracker_id`. A confidence of NaN becomes a score of None. `data["phrase"]`, where there is
    one, is the phrase that found each box.

    Raises:
        PluginError: the detections break a rule: see `check_detections`.
    """
    check_detections(frame, detections, source, labels)
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
    return None if np.isnan(confidence) else min(max(round(confidence, _SCORE_DIGITS), 0.0), 1.0)


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
