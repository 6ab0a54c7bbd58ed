"""Convert tracks to regions of a Label Studio video, and back to an object on each frame.

Label Studio counts frames from 1. Boxes are interpolated linearly between keyframes; a keyframe
that is not enabled is the last frame on which the object is visible.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from annotate.errors import DatasetError, StudioError
from annotate.items.boxes import area as box_area
from annotate.items.boxes import clip_box
from annotate.items.foreign_records import as_finite_number, as_whole_number, shown
from annotate.items.records import Box, Item, Object
from annotate.labelstudio.regions import (
    PERSON_SOURCE,
    SIDES,
    Region,
    pushed_text,
    read_label,
    round_box,
    same_box,
)
from annotate.labelstudio.tasks import TRACKS_TAG, VIDEO_TAG

Keyframe = Mapping[str, Any]
TRACK_REGION_TYPE = "videorectangle"
_SENT_KEYS = ("frame", "time", "rotation", *SIDES, "enabled")  # in the order of the digest
_TRACK_ID = re.compile(r"track(\d+)-([0-9a-f]{8})")
_FAR_PERCENT = 100.0  # how far from the frame a box may be: its own size, as with outlines


@dataclass(frozen=True)
class VideoTask:
    """A clip as a task: name, size, frame rate, and the times of its frames in order."""

    name: str
    size_wh: tuple[int, int]
    rate: Fraction
    seconds: Sequence[Fraction]

    @property
    def frame_count(self) -> int:
        """How many frames the clip has."""
        return len(self.seconds)


def tracks_to_regions(items: Sequence[Item], video_task: VideoTask) -> list[Region]:
    """Convert the tracks of a clip to regions; objects without a track are left out.

    Raises:
        DatasetError: a track has two classes, or is on a frame twice.
    """
    tracks: dict[int, dict[int, Object]] = {}
    for item in items:
        for obj in item.objects:
            if obj.track is None:
                continue
            frames = tracks.setdefault(obj.track, {})
            labels = {each.label for each in frames.values()} | {obj.label}
            if item.frame in frames or len(labels) > 1:
                reason = "there twice" if item.frame in frames else f"a {' and a '.join(labels)}"
                raise DatasetError(f"{item.video}#{item.frame}: track {obj.track} is {reason}")
            frames[item.frame] = obj
    numbers = [item.frame for item in items]
    return [
        _track_region(track, objects, numbers, video_task)
        for track, objects in sorted(tracks.items())
    ]


def _track_region(
    track: int, objects: Mapping[int, Object], frame_numbers: Sequence[int], video_task: VideoTask
) -> Region:
    next_frames = dict(zip(frame_numbers, [*frame_numbers[1:], -1], strict=True))
    keyframes = [
        {**_to_keyframe(frame, obj.box, video_task), "enabled": next_frames[frame] in objects}
        for frame, obj in objects.items()
    ]
    label = next(iter(objects.values())).label
    sources = list(dict.fromkeys(obj.source for obj in objects.values()))
    return {
        "id": f"track{track}-{_digest(label, keyframes)}",
        "type": TRACK_REGION_TYPE,
        "from_name": TRACKS_TAG,
        "to_name": VIDEO_TAG,
        "value": {
            "framesCount": video_task.frame_count,
            "duration": float(video_task.frame_count / video_task.rate),
            "labels": [label],
            "sequence": keyframes,
        },
        "meta": {"text": [", ".join([f"track {track}", *sources])]},
    }


def _digest(label: str, keyframes: Sequence[Keyframe]) -> str:
    """Hash a label and keyframes, of which all keys that are sent must be there."""
    sent = [{key: each[key] for key in _SENT_KEYS} for each in keyframes]
    return hashlib.sha256(json.dumps([label, sent]).encode()).hexdigest()[:8]


def _to_keyframe(frame: int, box: Box, video_task: VideoTask) -> dict[str, Any]:
    (width, height), (x1, y1, x2, y2) = video_task.size_wh, box
    return {
        "frame": frame + 1,
        "time": float((frame + 1) / video_task.rate),
        "rotation": 0,
        "x": x1 / width * 100,
        "y": y1 / height * 100,
        "width": (x2 - x1) / width * 100,
        "height": (y2 - y1) / height * 100,
    }


def pushed_track(region: Mapping[str, Any]) -> int | None:
    """Return the number of the track that a region was made of; None for one of a person."""
    match = _TRACK_ID.fullmatch(str(region.get("id")))
    return as_whole_number(match[1]) if match else None


def expand_track(
    region: Mapping[str, Any],
    track: int,
    originals: Mapping[int, Object],
    sent_region: Region | None,
    video_task: VideoTask,
    provenance: Mapping[str, str],
) -> dict[int, Object]:
    """Convert the region of a track to an object on each frame on which it is visible.

    `originals` are the objects of the track by frame, and `sent_region` is the region that was made
    of them. A keyframe with the box and label that were sent gives the original object. Boxes
    between two such keyframes are interpolated, and count as unchanged; so does a whole region of
    which the id says that it is as it was sent. All other objects record who changed them
    (`provenance`).

    Raises:
        StudioError: the region is no track of one label whose numbers can be used.
    """
    label, keyframes = _read_track(region, video_task)
    untouched = _is_untouched(region, label)
    source = _track_source(region, originals)
    sent = {key["frame"]: key for key in sent_region["value"]["sequence"]} if sent_region else {}
    objects: dict[int, Object] = {}
    size_wh = video_task.size_wh
    for key, after in zip(keyframes, [*keyframes[1:], None], strict=True):
        first, stop = key["frame"] - 1, _keyframe_stop(key, after, video_task)
        same = _same_keyframe(key, sent, size_wh)
        unchanged = same and sent[key["frame"]]["enabled"] == key["enabled"]
        unchanged &= after is None or stop == first + 1 or _same_keyframe(after, sent, size_wh)
        by = None if unchanged or untouched else provenance
        for frame in range(first, min(stop, video_task.frame_count)):
            box = _interpolate_box(key, after, frame + 1, size_wh)
            obj = Object(label, box, None, track, source=source, by=by)
            if frame == first and frame in originals and same:
                obj = originals[frame]
            if obj.label != label:
                obj = replace(obj, label=label, by=None if untouched else provenance)
            objects[frame] = obj
    return objects


def track_frames(region: Mapping[str, Any], video_task: VideoTask) -> range:
    """Return the frames that a region may be on, as far as it can be read; else all frames."""
    everything = range(video_task.frame_count)
    value = region.get("value")
    sequence = value.get("sequence") if isinstance(value, dict) else None
    keyframes = sequence if isinstance(sequence, list) else []
    numbers = [as_whole_number(k.get("frame")) if isinstance(k, dict) else None for k in keyframes]
    whole = [number for number in numbers if number is not None and number >= 1]
    if region.get("type") != TRACK_REGION_TYPE or not whole or len(whole) < len(numbers):
        return everything
    ends = max(range(len(whole)), key=whole.__getitem__)
    stop = max(whole) if keyframes[ends].get("enabled") is False else video_task.frame_count
    return range(min(whole) - 1, min(stop, video_task.frame_count))


def _read_track(
    region: Mapping[str, Any], video_task: VideoTask
) -> tuple[str, list[dict[str, Any]]]:
    """Check a track; return its label, and its keyframes in the order of their frames."""
    value = region.get("value")
    if region.get("type") != TRACK_REGION_TYPE:
        raise StudioError(
            f"a region of the kind {shown(region.get('type'))!r}, which is not a track"
        )
    if not isinstance(value, dict):
        raise StudioError(f"a track without a value: {shown(value)}")
    label = read_label(value, "labels")
    sequence = value.get("sequence")
    if not isinstance(sequence, list) or not sequence:
        raise StudioError("a track without keyframes")
    keyframes = [_read_keyframe(each, video_task) for each in sequence]
    keyframes.sort(key=lambda keyframe: int(keyframe["frame"]))
    numbers = [keyframe["frame"] for keyframe in keyframes]
    if repeated := next((n for n, m in pairwise(numbers) if n == m), None):
        raise StudioError(f"a track with two keyframes on frame {repeated}")
    return label, keyframes


def _read_keyframe(keyframe: Any, video_task: VideoTask) -> dict[str, Any]:
    if not isinstance(keyframe, dict):
        raise StudioError(f"a keyframe that is no record: {shown(keyframe)}")
    frame, count = as_whole_number(keyframe.get("frame")), video_task.frame_count
    if frame is None or not 1 <= frame <= 2 * count:
        raise StudioError(
            f"a keyframe on frame {shown(keyframe.get('frame'))} of a clip of {count}"
        )
    read: dict[str, Any] = {"frame": frame, "enabled": keyframe.get("enabled", True) is not False}
    sides = [as_finite_number(keyframe.get(side)) for side in SIDES]
    numbers = [side for side in sides if side is not None]
    if len(numbers) != len(SIDES):
        raise StudioError("a keyframe with sides that are not numbers")
    x, y, width, height = numbers
    if not (min(x, y) >= -_FAR_PERCENT and max(x + width, y + height) <= 100 + _FAR_PERCENT):
        raise StudioError("a keyframe with a box far outside the frame")
    if as_finite_number(keyframe.get("rotation") or 0) != 0:
        raise StudioError("a keyframe with a box that is turned")
    read |= dict(zip(SIDES, (x, y, width, height), strict=True))
    box = _interpolate_box(read, None, frame, video_task.size_wh)
    if width < 0 or height < 0 or not box_area(box):
        raise StudioError("a keyframe whose box has no area inside the frame")
    return read


def _is_untouched(region: Mapping[str, Any], label: str) -> bool:
    """Return whether the id of a region is still the digest of its content."""
    match = _TRACK_ID.fullmatch(str(region.get("id")))
    try:
        return match is not None and match[2] == _digest(label, region["value"]["sequence"])
    except (KeyError, TypeError, ValueError):
        return False


def _track_source(region: Mapping[str, Any], originals: Mapping[int, Object]) -> str:
    """Return the source of a track: of its objects, or else as its region has it from the push."""
    if originals:
        return next(iter(originals.values())).source
    text = pushed_text(region)
    if pushed_track(region) is None or not text:
        return PERSON_SOURCE
    return text.partition(", ")[2].partition(", ")[0]


def _keyframe_stop(
    keyframe: Keyframe, next_keyframe: Keyframe | None, video_task: VideoTask
) -> int:
    """Return the frame, from 0, before which a keyframe ends."""
    if not keyframe["enabled"]:
        return int(keyframe["frame"])
    return video_task.frame_count if next_keyframe is None else int(next_keyframe["frame"]) - 1


def _same_keyframe(
    keyframe: Keyframe, sent_keyframes: Mapping[int, Keyframe], size_wh: tuple[int, int]
) -> bool:
    """Return whether a keyframe has the box that was sent for its frame."""
    sent = sent_keyframes.get(keyframe["frame"])
    return sent is not None and same_box(keyframe, sent, size_wh)


def _interpolate_box(
    keyframe: Keyframe, next_keyframe: Keyframe | None, frame_number: int, size_wh: tuple[int, int]
) -> Box:
    """Interpolate the box on frame `frame_number`, from 1, in pixels, clipped to the frame."""
    x, y, width, height = (float(keyframe[side]) for side in SIDES)
    if next_keyframe is not None and keyframe["enabled"]:
        part = (frame_number - keyframe["frame"]) / (next_keyframe["frame"] - keyframe["frame"])
        end = (float(next_keyframe[side]) for side in SIDES)
        start = (x, y, width, height)
        x, y, width, height = (a + (b - a) * part for a, b in zip(start, end, strict=True))
    percent = zip((x, y, x + width, y + height), (*size_wh, *size_wh), strict=True)
    x1, y1, x2, y2 = (side * size / 100 for side, size in percent)
    return round_box(clip_box((x1, y1, x2, y2), size_wh))
