"""Start, confirm and repair objects by the boxes of a detector, read from a file of items.

Boxes are matched frame by frame, and never from later frames. A box is compared with the tracks of
its class. A box that overlaps a visible track confirms that track. A box that overlaps no visible
track repairs, if it can:

- a visible track that lies in the box, or the box in the track: a part of the object was followed,
  or too much;
- a lost track that may have moved to the box, or a visible track that no box has matched for
  several frames: it follows something else by now.

Otherwise the box starts a new object. An object that a box started is shown as long as boxes
confirm it. The matching threshold is that of SORT (Bewley 2016).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.errors import ItemsError, PromptError, UnknownName
from annotate.items import journal
from annotate.items.records import Box, Item, Object, Prompt
from annotate.prompts import DEFAULT_LABEL
from annotate.video.reader import Video

MIN_SCORE = 0.25  # score below which a box is ignored


@dataclass(frozen=True)
class DetectedBoxes:
    """The boxes of a clip in a file of items; those with a score below `least` are ignored.

    `digest` stands for the file, `labels` are its classes, `tracks` those that it names: such a box
    is of that object, whatever else it looks like. `video` is the clip's name there.
    """

    path: Path
    min_score: float
    digest: str
    labels: tuple[str, ...]
    track_ids: frozenset[int]
    video: str

    def header_settings(self) -> dict[str, Any]:
        """What the header of a file of items says of them."""
        return {"boxes": self.digest, "least": self.min_score}

    def items(self) -> Iterator[Item]:
        """The frames that were looked at, in order, each with the boxes that count."""
        last = -1
        for item in journal.read(self.path):
            if self.video and item.video != self.video:
                continue
            if item.frame <= last:
                raise ItemsError(
                    f"{self.path}: frame {item.frame} stands behind frame {last}: boxes must be "
                    "in the order of the clip, one item a frame"
                )
            last = item.frame
            strong = (o for o in item.objects if o.score is None or o.score >= self.min_score)
            yield replace(item, objects=tuple(strong))

    def first_frame(self, start: int, stop: int | None) -> int | None:
        """The first frame from `start` on, and before `stop`, with a box that counts."""
        for item in self.items():
            if stop is not None and item.frame >= stop:
                return None
            if item.objects and item.frame >= start:
                return item.frame
        return None


def read(
    path: Path, clip: Video, min_score: float = MIN_SCORE, classes: tuple[str, ...] | None = None
) -> DetectedBoxes:
    """The boxes in a file of items, checked to be of `clip`, and of `classes` if there are any.

    Raises:
        ItemsError: no file of items, one of another clip, or of pictures of another size.
        PromptError: a box of another class.
    """
    book = journal.read(path)
    known = book.header.videos
    same = [name for name, told in known.items() if told.get("fingerprint") == clip.fingerprint]
    if known and not same:
        there = ", ".join(known)
        raise ItemsError(f"{path}: boxes of {there}, not of {clip.path}: give the clip's own boxes")
    tracks, labels = set[int](), set[str]()
    for item in book:
        if same and item.video != same[0]:
            continue
        if (item.width, item.height) != (clip.width, clip.height):
            got, want = f"{item.width}x{item.height}", f"{clip.width}x{clip.height}"
            raise ItemsError(f"{path}: boxes on pictures of {got}, but the clip is {want}")
        tracks |= {thing.track for thing in item.objects if thing.track is not None}
        labels |= {thing.label for thing in item.objects}
    for label in sorted(labels - set(classes or labels)):
        raise PromptError(f"{path}: {UnknownName('class', label, classes or ())}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    name = same[0] if same else ""
    return DetectedBoxes(path, min_score, digest, tuple(sorted(labels)), frozenset(tracks), name)


def iou(one: Box, other: Box) -> float:
    """Intersection over union, 0..1."""
    both = intersection_area(one, other)
    return both and both / (area(one) + area(other) - both)


def intersection_area(one: Box, other: Box) -> float:
    """Pixels that both have."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def area(box: Box) -> float:
    """Pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


State = Mapping[str, npt.NDArray[Any]]

MATCH_IOU = 0.3  # IoU of boxes from which a track covers a box: what SORT (Bewley 2016) takes
_DUPLICATE_IOU = 0.5  # IoU from which a second box on a track is the same thing, detected twice
_MIN_OVERLAP_SHARE = 0.5  # share of the smaller box that makes the two one thing, badly seen
_DOUBTED_AFTER_FRAMES = 3  # frames with boxes, none of them on it, until a living track is doubted
_MAX_SPEED = 0.25  # own sizes a frame: of true monsters in games 19 steps in 20 are shorter
_MAX_OFFSET = 1.0  # own sizes that a thing may be off at once
_FORGOTTEN_AFTER_FRAMES = 60  # frames: after two seconds nothing is known of where a thing went
_HIDDEN_AFTER_FRAMES = 10  # frames with boxes, none of them on it, until it is no longer shown
_MAX_AREA_RATIO = 4.0  # times as many pixels


@dataclass(frozen=True)
class _Track:
    """What is known of an object: where it was last seen, and since when no box has been on it."""

    label: str
    box: Box  # where it was last seen by the engine
    seen_frame: int  # frame
    detector_box: Box  # where it was last by the detector
    detector_frame: int  # frame
    unmatched_frames: int = 0  # frames with boxes


class BoxAssociator:
    """Makes prompts of boxes, frame by frame.

    `labels` are the classes of the objects that a person prompts. Their numbers, and those of the
    tracks that the boxes name, are no ids for new objects.
    """

    def __init__(self, boxes: DetectedBoxes, labels: Mapping[int, str]) -> None:
        self._items = boxes.items()
        self._next_item = next(self._items, None)
        self._prompted_labels = dict(labels)
        self._reserved_ids = set(labels) | boxes.track_ids
        self._tracks: dict[int, _Track] = {}
        self.labels: dict[int, str] = {}  # of the objects that boxes started

    def boxes_at(self, frame: int) -> Sequence[Object] | None:
        """The boxes on a frame; None where the detector did not look. Frames only go up."""
        while self._next_item is not None and self._next_item.frame < frame:
            self._next_item = next(self._items, None)
        there = self._next_item
        return there.objects if there is not None and there.frame == frame else None

    def make_prompts(
        self,
        frame: int,
        detections: Sequence[Object],
        seen_boxes: Mapping[int, Box],
        prompted_ids: Collection[int],
    ) -> list[Prompt]:
        """What the boxes say that the engine does not know; at most one prompt an object.

        `seen` are the objects that the engine sees on this frame. `told` are those which a person
        prompts on it: they are left alone.
        """
        confirmed = self._match(detections, seen_boxes)
        for of, track in self._tracks.items():
            self._tracks[of] = replace(
                track, unmatched_frames=0 if of in prompted_ids else track.unmatched_frames + 1
            )
        for row, of in confirmed.items():
            self._tracks[of] = replace(
                self._tracks.get(of) or self._new_track(of, frame, seen_boxes[of]),
                detector_box=detections[row].box,
                detector_frame=frame,
                unmatched_frames=0,
            )
        busy = {*prompted_ids, *confirmed.values()}
        made = []
        rest = [thing for row, thing in enumerate(detections) if row not in confirmed]
        for thing in sorted(rest, key=lambda each: -_confidence(each)):
            whose = self._assign_object(frame, thing, seen_boxes, busy)
            if whose is not None and whose not in busy:
                busy.add(whose)
                if whose not in self._prompted_labels:
                    self.labels.setdefault(whose, thing.label)
                self._tracks[whose] = self._new_track(whose, frame, thing.box)
                made.append(Prompt(frame, whose, box=thing.box))
        return made

    def record(self, frame: int, seen_boxes: Mapping[int, Box]) -> None:
        """Where the engine saw the objects in the end."""
        for of, box in seen_boxes.items():
            known = self._tracks.get(of) or self._new_track(of, frame, box)
            self._tracks[of] = replace(known, box=box, seen_frame=frame)

    def _new_track(self, object_id: int, frame: int, box: Box) -> _Track:
        return _Track(
            self._prompted_labels.get(object_id) or self.labels[object_id], box, frame, box, frame
        )

    def unconfirmed(self) -> set[int]:
        """Objects that boxes started, and that so many have passed over that they count as lost.

        Of a detector that misses three things in ten, one in 170,000 is passed over ten times.
        """
        return {
            of for of in self.labels if self._tracks[of].unmatched_frames >= _HIDDEN_AFTER_FRAMES
        }

    def state(self) -> State:
        """All that is held, as arrays."""
        tracks = self._tracks
        counts = [
            (of, t.seen_frame, t.detector_frame, t.unmatched_frames) for of, t in tracks.items()
        ]
        places = [(*track.box, *track.detector_box) for track in tracks.values()]
        return {
            "tracks": np.array(counts, np.int64).reshape(-1, 4),
            "places": np.array(places, float).reshape(-1, 8),
            "classes": np.array([track.label for track in tracks.values()], np.str_),
            "started": np.array(list(self.labels), np.int64),
            "labels": np.array(list(self.labels.values()), np.str_),
        }

    def restore(self, state: State) -> None:
        """Take up what `state` gave."""
        columns = (state[key].tolist() for key in ("classes", "places", "tracks"))
        rows = zip(*columns, strict=True)
        self._tracks = {
            of: _Track(label, _as_box(place[:4]), seen, _as_box(place[4:]), told_at, passed_over)
            for label, place, (of, seen, told_at, passed_over) in rows
        }
        started = zip(state["started"].tolist(), state["labels"].tolist(), strict=True)
        self.labels = dict(started)

    def _match(self, detections: Sequence[Object], seen_boxes: Mapping[int, Box]) -> dict[int, int]:
        """Box -> the track it confirms, the best fit first, each at most once."""
        fits = [
            (iou(thing.box, box), row, of)
            for row, thing in enumerate(detections)
            for of, box in seen_boxes.items()
            if self._is_compatible(thing, of)
        ]
        matched: dict[int, int] = {}
        for fit, row, of in sorted(fits, key=lambda each: (-each[0], *each[1:])):
            if fit >= MATCH_IOU and row not in matched and of not in matched.values():
                matched[row] = of
        return matched

    def _is_compatible(self, detection: Object, object_id: int) -> bool:
        if detection.track is not None:
            return detection.track == object_id
        label = (
            self._tracks[object_id].label
            if object_id in self._tracks
            else self._prompted_labels[object_id]
        )
        return DEFAULT_LABEL in (detection.label, label) or detection.label == label

    def _assign_object(
        self, frame: int, detection: Object, seen_boxes: Mapping[int, Box], busy_ids: set[int]
    ) -> int | None:
        """The object that a box without a match is of; None if it is one more box on another."""
        if detection.track is not None:
            return detection.track
        here = {
            of: box
            for of, box in seen_boxes.items()
            if of in busy_ids and self._is_compatible(detection, of)
        }
        here |= {
            of: self._tracks[of].box for of in busy_ids - set(seen_boxes) if of in self._tracks
        }
        if any(iou(detection.box, box) >= _DUPLICATE_IOU for box in here.values()):
            return None
        free = [
            of for of in self._tracks if of not in busy_ids and self._is_compatible(detection, of)
        ]
        badly = [
            (-inside, of)
            for of in free
            if of in seen_boxes
            if (inside := _overlap_share(detection.box, seen_boxes[of]))
        ]
        lost = [
            (apart, of)
            for of in free
            if of not in seen_boxes or self._tracks[of].unmatched_frames >= _DOUBTED_AFTER_FRAMES
            if (apart := _track_displacement(self._tracks[of], detection.box, frame)) is not None
        ]
        return min(badly or lost)[1] if badly or lost else self._next_object_id()

    def _next_object_id(self) -> int:
        return next(n for n in count(1) if n not in self._reserved_ids and n not in self.labels)


def _confidence(detection: Object) -> float:
    return 1.0 if detection.score is None else detection.score


def _track_displacement(track: _Track, box: Box, frame: int) -> float | None:
    """How far, in own sizes, the track would have gone to be at `box`; None if that is too far."""
    known = ((track.box, track.seen_frame), (track.detector_box, track.detector_frame))
    ways = [_box_displacement(place, box, frame - then) for place, then in known]
    return min((way for way in ways if way is not None), default=None)


def _box_displacement(last_box: Box, box: Box, frames: int) -> float | None:
    (x, y, size), (now_x, now_y, now_size) = _centre_and_size(last_box), _centre_and_size(box)
    apart = float(np.hypot(now_x - x, now_y - y)) / size
    near = apart <= _MAX_OFFSET + _MAX_SPEED * frames
    alike = 1 / _MAX_AREA_RATIO <= (now_size / size) ** 2 <= _MAX_AREA_RATIO
    return apart if near and alike and frames <= _FORGOTTEN_AFTER_FRAMES else None


def _overlap_share(one: Box, other: Box) -> float:
    """What the boxes share of the smaller one; 0 where that is too little."""
    share = intersection_area(one, other) / max(min(area(one), area(other)), 1.0)
    return share if share >= _MIN_OVERLAP_SHARE else 0.0


def _centre_and_size(box: Box) -> tuple[float, float, float]:
    """Centre, and the root of the area, at least a pixel."""
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, max(float(np.sqrt((x2 - x1) * (y2 - y1))), 1.0)


def _as_box(xyxy: Sequence[float]) -> Box:
    x1, y1, x2, y2 = xyxy
    return x1, y1, x2, y2
