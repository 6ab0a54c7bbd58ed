"""Find the labels of a dataset that a trained model contradicts: the second look.

A model that has seen the labels is used on the same images, or better on others of the same kind:
a part of the dataset that it was not trained on, or a dataset made by other people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from annotate.active_learning.contradictions import (
    DEFAULT_THRESHOLD,
    MISPLACED,
    MISSED,
    OTHER_CLASS,
    ClassCounts,
    Contradiction,
    find_contradictions,
    weigh_all,
)
from annotate.active_learning.frame_list import ListedFrame
from annotate.dataset.folder import Dataset
from annotate.dataset.frame_sources import FrameKey
from annotate.errors import ItemsError
from annotate.items.boxes import iou
from annotate.items.records import Item, Object
from annotate.progress import counted
from annotate.viewing.review import ReviewFrame, ReviewReason

MIN_WEIGHT = 0.1  # contradictions of a lower weight are not worth a look
_NAMED_CLIPS = 3  # that are named in a summary


@dataclass(frozen=True)
class SecondLook:
    """The frames to look at again, worst first, and how much of the dataset was compared.

    `compared` is the number of frames that the detector looked at; `missing` counts the others by
    clip: nothing is known of their labels.
    """

    frames: list[ReviewFrame]
    compared: int
    missing: Mapping[str, int]

    @property
    def summary(self) -> str:
        """What was compared, and what was not.

        Examples:
            >>> SecondLook([], 40, {}).summary
            '40 frames compared: all of the dataset'
            >>> SecondLook([], 40, {"dock.mp4": 2, "yard.mp4": 7}).summary
            '40 frames compared; 9 have no record in the detections: yard.mp4 7, dock.mp4 2'
        """
        text = f"{counted(self.compared, 'frame')} compared"
        if not self.missing:
            return f"{text}: all of the dataset"
        by_count = sorted(self.missing.items(), key=lambda each: (-each[1], each[0]))
        clips = [f"{name} {count:,}" for name, count in by_count[:_NAMED_CLIPS]]
        if len(by_count) > _NAMED_CLIPS:
            clips.append(f"and {counted(len(by_count) - _NAMED_CLIPS, 'other clip')}")
        count = sum(self.missing.values())
        have = "has" if count == 1 else "have"
        return f"{text}; {count:,} {have} no record in the detections: {', '.join(clips)}"


def find_likely_errors(
    dataset: Dataset,
    detections: Mapping[FrameKey, Sequence[Object]],
    threshold: float = DEFAULT_THRESHOLD,
    max_frames: int = 24,
) -> SecondLook:
    """Find at most `max_frames` frames with labels that detections contradict, worst first.

    Frames that the detector did not look at are left out, and counted. Each item also has the
    contradicting detections, as objects of the class `mech?`.

    Raises:
        ItemsError: the detector looked at no frame of the dataset.
    """
    counts, frames = ClassCounts(), list[tuple[Item, list[Contradiction]]]()
    compared, missing = 0, Counter[str]()
    for sample in dataset:
        item = sample.item
        found = detections.get((item.video, item.frame))
        if found is None:
            missing[item.video] += 1
        else:
            compared += 1
            contradictions = find_contradictions(item.objects, found, threshold, counts)
            frames += [(item, contradictions)] if contradictions else []
    if not compared:
        raise ItemsError(
            f"{dataset.path}: the detections are of none of its {counted(missing.total(), 'frame')}"
            "; run the detector on the frames that the dataset has"
        )
    listed = []
    for item, contradictions in frames:
        weighed = [each for each in weigh_all(contradictions, counts) if each.weight >= MIN_WEIGHT]
        if weighed:
            reasons = sorted(map(_reason, weighed), key=lambda each: (-each.weight, str(each)))
            listed.append(ReviewFrame(_with_detections(item, weighed), tuple(reasons)))
    listed.sort(key=lambda each: (-each.priority, each.item.video, each.item.frame))
    return SecondLook(listed[:max_frames], compared, missing)


def _reason(found: Contradiction) -> ReviewReason:
    obj, detection = found.object, found.detection
    score = "" if detection is None or detection.score is None else f" ({detection.score:.2f})"
    text = {
        MISSED: f"missed{score}",
        OTHER_CLASS: f"is {detection.label if detection else ''}{score}",
        MISPLACED: f"badly placed (IoU {iou(obj.box, detection.box) if detection else 0:.2f})",
    }.get(found.kind, "not seen by the model")
    return ReviewReason(text, obj.track, obj.label, found.weight, obj.box)


def _with_detections(item: Item, found: Sequence[Contradiction]) -> Item:
    shown = [each.detection for each in found if each.detection is not None]
    marked = (replace(each, label=mark(each.label), mask=None, track=None) for each in shown)
    return replace(item, objects=(*item.objects, *marked))


def mark(label: str) -> str:
    """Mark the class of a detection, so that it differs from that of a label.

    Examples:
        >>> mark("mech")
        'mech?'
    """
    return f"{label}?"


def to_frame_list(frames: Sequence[ReviewFrame]) -> list[ListedFrame]:
    """List the frames of a review in their order, for `write_frame_list`."""
    return [
        ListedFrame(
            each.item.video,
            each.item.frame,
            float(each.item.seconds),
            each.priority,
            each.summary,
            rank,
        )
        for rank, each in enumerate(frames, start=1)
    ]
