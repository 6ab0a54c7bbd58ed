"""Start, confirm and repair objects by the boxes of a detector, read from a file of items.

Boxes are matched frame by frame, and never from later frames. A box is compared with the tracks of
its class. A box that overlaps a visible track confirms that track. A box that overlaps no visible
track repairs, if it can:

- a visible track that lies in the box, or contains it: a part of the object was tracked, or too
  much;
- a lost track that may have moved to the box, or a visible track that no box has matched for
  several frames: by now it is on another object.

Otherwise the box starts a new object. An object that a box started is shown as long as boxes
confirm it. The matching threshold is that of SORT (Bewley et al., "Simple Online and Realtime
Tracking", ICIP 2016).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from annotate.errors import ItemsError, PromptError, UnknownName
from annotate.items import boxes, journal
from annotate.items.points import DEFAULT_LABEL
from annotate.items.records import Box, Item, Object, Prompt, State
from annotate.video.reader import Video

MIN_SCORE = 0.25  # a box with a lower score is ignored
MATCH_IOU = 0.3  # a box with this IoU confirms a track, as in SORT
_DUPLICATE_IOU = 0.5  # a second box with this IoU on a track is the same object, detected twice
_MIN_OVERLAP_SHARE = 0.5  # of the smaller box: track and box are one object, badly tracked
_DOUBTED_AFTER_FRAMES = 3  # frames with boxes, none on the track: a visible track is doubted
_MAX_SPEED = 0.25  # own sizes per frame: of true monsters in games 19 steps in 20 are shorter
_MAX_OFFSET = 1.0  # own sizes, at once
_FORGOTTEN_AFTER_FRAMES = 60  # a track last seen longer ago (two seconds) may be anywhere
_HIDDEN_AFTER_FRAMES = 10  # frames with boxes, none on the track: it is no longer shown
_MAX_AREA_RATIO = 4.0


@dataclass(frozen=True)
class DetectedBoxes:
    """The boxes of one clip in a file of items."""

    path: Path
    min_score: float  # boxes with a lower score are ignored
    digest: str  # a hash of the file
    labels: tuple[str, ...]  # all classes in the file
    track_ids: frozenset[int]  # all tracks in the file: such a box belongs to that object
    video: str  # the clip's name in the file

    def header_settings(self) -> dict[str, Any]:
        """Return the settings for the header of a file of items."""
        return {"boxes": self.digest, "least": self.min_score}

    def items(self) -> Iterator[Item]:
        """Yield the items of the clip in order, with the boxes that are not ignored.

        Raises:
            ItemsError: the frames are not in the order of the clip.
        """
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
            kept = (o for o in item.objects if o.score is None or o.score >= self.min_score)
            yield replace(item, objects=tuple(kept))

    def first_frame(self, start: int, stop: int | None) -> int | None:
        """Find the first frame from `start` on and before `stop` with a box; None without one."""
        for item in self.items():
            if stop is not None and item.frame >= stop:
                return None
            if item.objects and item.frame >= start:
                return item.frame
        return None


def read(
    path: Path, clip: Video, min_score: float = MIN_SCORE, classes: tuple[str, ...] | None = None
) -> DetectedBoxes:
    """Read the boxes of a clip from a file of items.

    Raises:
        ItemsError: no file of items, one of another clip, or of pictures of another size.
        PromptError: a box of a class that is not in `classes`.
    """
    items = journal.read(path)
    videos = items.header.videos
    same = [name for name, entry in videos.items() if entry.get("fingerprint") == clip.fingerprint]
    if videos and not same:
        names = ", ".join(videos)
        raise ItemsError(f"{path}: boxes of {names}, not of {clip.path}: give the clip's own boxes")
    tracks, labels = set[int](), set[str]()
    for item in items:
        if same and item.video != same[0]:
            continue
        if (item.width, item.height) != (clip.width, clip.height):
            actual, expected = f"{item.width}x{item.height}", f"{clip.width}x{clip.height}"
            raise ItemsError(f"{path}: boxes on pictures of {actual}, but the clip is {expected}")
        tracks |= {obj.track for obj in item.objects if obj.track is not None}
        labels |= {obj.label for obj in item.objects}
    for label in sorted(labels - set(classes or labels)):
        raise PromptError(f"{path}: {UnknownName('class', label, classes or ())}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    name = same[0] if same else ""
    return DetectedBoxes(path, min_score, digest, tuple(sorted(labels)), frozenset(tracks), name)


@dataclass(frozen=True)
class _Track:
    """The last known boxes of an object."""

    label: str
    box: Box  # by the engine
    seen_frame: int
    detector_box: Box  # by the detector
    detector_frame: int
    unmatched_frames: int = 0  # frames with boxes since one matched


class BoxAssociator:
    """Associate boxes with tracks, frame by frame, and make prompts of those that need it.

    `labels` are the classes of the prompted objects by id. These ids, and the track ids in the file
    of boxes, are never given to a new object.
    """

    def __init__(self, boxes: DetectedBoxes, labels: Mapping[int, str]) -> None:
        self._items = boxes.items()
        self._next_item = next(self._items, None)
        self._prompted_labels = dict(labels)
        self._reserved_ids = set(labels) | boxes.track_ids
        self._tracks: dict[int, _Track] = {}
        self.labels: dict[int, str] = {}  # of the objects that boxes started

    def boxes_at(self, frame: int) -> Sequence[Object] | None:
        """Return the boxes on a frame, None if there is no item. Frames must be in order."""
        while self._next_item is not None and self._next_item.frame < frame:
            self._next_item = next(self._items, None)
        item = self._next_item
        return item.objects if item is not None and item.frame == frame else None

    def make_prompts(
        self,
        frame: int,
        detections: Sequence[Object],
        seen_boxes: Mapping[int, Box],
        prompted_ids: Collection[int],
    ) -> list[Prompt]:
        """Make a prompt of each box that starts or repairs an object; at most one per object.

        Args:
            frame: Index of the frame.
            detections: The boxes of the detector on it.
            seen_boxes: The objects that the engine sees on it.
            prompted_ids: Objects that are prompted on it already: they get no prompt.
        """
        confirmed = self._match(detections, seen_boxes)
        for object_id, track in self._tracks.items():
            unmatched = 0 if object_id in prompted_ids else track.unmatched_frames + 1
            self._tracks[object_id] = replace(track, unmatched_frames=unmatched)
        for row, object_id in confirmed.items():
            self._tracks[object_id] = replace(
                self._tracks.get(object_id)
                or self._new_track(object_id, frame, seen_boxes[object_id]),
                detector_box=detections[row].box,
                detector_frame=frame,
                unmatched_frames=0,
            )
        busy_ids = {*prompted_ids, *confirmed.values()}
        prompts = []
        rest = [obj for row, obj in enumerate(detections) if row not in confirmed]
        for obj in sorted(rest, key=lambda obj: -_confidence(obj)):
            assigned = self._assign_object(frame, obj, seen_boxes, busy_ids)
            if assigned is not None and assigned not in busy_ids:
                busy_ids.add(assigned)
                if assigned not in self._prompted_labels:
                    self.labels.setdefault(assigned, obj.label)
                self._tracks[assigned] = self._new_track(assigned, frame, obj.box)
                prompts.append(Prompt(frame, assigned, box=obj.box))
        return prompts

    def record(self, frame: int, seen_boxes: Mapping[int, Box]) -> None:
        """Record where the engine sees the objects, after all prompts of the frame."""
        for object_id, box in seen_boxes.items():
            track = self._tracks.get(object_id) or self._new_track(object_id, frame, box)
            self._tracks[object_id] = replace(track, box=box, seen_frame=frame)

    def _new_track(self, object_id: int, frame: int, box: Box) -> _Track:
        label = self._prompted_labels.get(object_id) or self.labels[object_id]
        return _Track(label, box, frame, box, frame)

    def unconfirmed(self) -> set[int]:
        """List objects that boxes started and that no box has matched for ten frames with boxes.

        They count as lost. A detector that misses three objects in ten misses the same one ten
        times in a row once in 170,000 times.
        """
        return {
            object_id
            for object_id in self.labels
            if self._tracks[object_id].unmatched_frames >= _HIDDEN_AFTER_FRAMES
        }

    def state(self) -> State:
        """Return the tracks and the labels as arrays."""
        tracks = self._tracks
        counts = [
            (object_id, track.seen_frame, track.detector_frame, track.unmatched_frames)
            for object_id, track in tracks.items()
        ]
        boxes = [(*track.box, *track.detector_box) for track in tracks.values()]
        return {
            "tracks": np.array(counts, np.int64).reshape(-1, 4),
            "places": np.array(boxes, float).reshape(-1, 8),
            "classes": np.array([track.label for track in tracks.values()], np.str_),
            "started": np.array(list(self.labels), np.int64),
            "labels": np.array(list(self.labels.values()), np.str_),
        }

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        columns = (state[key].tolist() for key in ("classes", "places", "tracks"))
        rows = zip(*columns, strict=True)
        self._tracks = {
            object_id: _Track(
                label,
                _as_box(boxes[:4]),
                seen_frame,
                _as_box(boxes[4:]),
                detector_frame,
                unmatched_frames,
            )
            for label, boxes, (object_id, seen_frame, detector_frame, unmatched_frames) in rows
        }
        started = zip(state["started"].tolist(), state["labels"].tolist(), strict=True)
        self.labels = dict(started)

    def _match(self, detections: Sequence[Object], seen_boxes: Mapping[int, Box]) -> dict[int, int]:
        """Match boxes to visible tracks, greedily by IoU: row of the box -> object id."""
        ious = boxes.iou_matrix([obj.box for obj in detections], list(seen_boxes.values())).tolist()
        pairs = [
            (ious[row][column], row, object_id)
            for row, obj in enumerate(detections)
            for column, object_id in enumerate(seen_boxes)
            if self._is_compatible(obj, object_id)
        ]
        matched: dict[int, int] = {}
        for iou, row, object_id in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:])):
            if iou >= MATCH_IOU and row not in matched and object_id not in matched.values():
                matched[row] = object_id
        return matched

    def _is_compatible(self, detection: Object, object_id: int) -> bool:
        """True if a box may be of an object: by its track id, or else by its class."""
        if detection.track is not None:
            return detection.track == object_id
        track = self._tracks.get(object_id)
        label = self._prompted_labels[object_id] if track is None else track.label
        return DEFAULT_LABEL in (detection.label, label) or detection.label == label

    def _assign_object(
        self, frame: int, detection: Object, seen_boxes: Mapping[int, Box], busy_ids: set[int]
    ) -> int | None:
        """Assign an unmatched box to an object, old or new; None if it is a duplicate."""
        if detection.track is not None:
            return detection.track
        if self._is_duplicate(detection, seen_boxes, busy_ids):
            return None
        free = {
            object_id: track
            for object_id, track in self._tracks.items()
            if object_id not in busy_ids and self._is_compatible(detection, object_id)
        }
        badly_tracked = [
            (-share, object_id)
            for object_id in free
            if object_id in seen_boxes
            if (share := _overlap_share(detection.box, seen_boxes[object_id]))
        ]
        lost = [
            (displacement, object_id)
            for object_id, track in free.items()
            if object_id not in seen_boxes or track.unmatched_frames >= _DOUBTED_AFTER_FRAMES
            if (displacement := _track_displacement(track, detection.box, frame)) is not None
        ]
        candidates = badly_tracked or lost
        return min(candidates)[1] if candidates else self._next_object_id()

    def _is_duplicate(
        self, detection: Object, seen_boxes: Mapping[int, Box], busy_ids: set[int]
    ) -> bool:
        """True if a box overlaps an object that has a box or a prompt on this frame already."""
        busy_boxes = [
            box
            for object_id, box in seen_boxes.items()
            if object_id in busy_ids and self._is_compatible(detection, object_id)
        ]
        busy_boxes += [
            self._tracks[object_id].box
            for object_id in busy_ids - set(seen_boxes)
            if object_id in self._tracks
        ]
        return any(boxes.iou(detection.box, box) >= _DUPLICATE_IOU for box in busy_boxes)

    def _next_object_id(self) -> int:
        """Return the lowest id that is neither reserved nor taken."""
        return next(n for n in count(1) if n not in self._reserved_ids and n not in self.labels)


def _confidence(detection: Object) -> float:
    return 1.0 if detection.score is None else detection.score


def _track_displacement(track: _Track, box: Box, frame: int) -> float | None:
    """Compute how far, in own sizes, a track moved if it is at `box`; None if too far."""
    last_boxes = ((track.box, track.seen_frame), (track.detector_box, track.detector_frame))
    displacements = [
        _box_displacement(last_box, box, frame - last_frame) for last_box, last_frame in last_boxes
    ]
    return min((each for each in displacements if each is not None), default=None)


def _box_displacement(last_box: Box, box: Box, frames: int) -> float | None:
    """Compute the distance of two boxes in sizes of the first; None if it cannot be one object."""
    (last_x, last_y, last_size), (x, y, size) = _centre_and_size(last_box), _centre_and_size(box)
    displacement = float(np.hypot(x - last_x, y - last_y)) / last_size
    near = displacement <= _MAX_OFFSET + _MAX_SPEED * frames
    similar = 1 / _MAX_AREA_RATIO <= (size / last_size) ** 2 <= _MAX_AREA_RATIO
    return displacement if near and similar and frames <= _FORGOTTEN_AFTER_FRAMES else None


def _overlap_share(one: Box, other: Box) -> float:
    """Compute the share of the smaller box that two boxes have in common; 0 if it is too little."""
    intersection = float(boxes.intersection_matrix([one], [other])[0, 0])
    share = intersection / max(min(boxes.area(one), boxes.area(other)), 1.0)
    return share if share >= _MIN_OVERLAP_SHARE else 0.0


def _centre_and_size(box: Box) -> tuple[float, float, float]:
    """Compute the centre of a box, and the root of its area, at least 1."""
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, max(float(np.sqrt((x2 - x1) * (y2 - y1))), 1.0)


def _as_box(xyxy: Sequence[float]) -> Box:
    x1, y1, x2, y2 = xyxy
    return x1, y1, x2, y2
