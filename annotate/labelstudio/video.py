"""Push whole clips to Label Studio as tracks on a video, and pull them back.

Label Studio counts frames from 1, and computes their times from the frame rate of the task: the
rate must be that of the file, constant, and time must start at 0. Boxes are interpolated linearly
between keyframes; a keyframe that is not enabled is the last frame on which the object is visible.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from annotate.dataset import frame_sources
from annotate.dataset.folder import Dataset, external_id
from annotate.errors import DatasetError, StudioError, VideoError
from annotate.files import refuse_existing
from annotate.items import journal
from annotate.items.boxes import clip_box
from annotate.items.records import Box, Header, Item, Object
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.pull import AnnotationReader, PullReport, Verdict
from annotate.labelstudio.push import open_project
from annotate.labelstudio.regions import PERSON_SOURCE, Region, round_box
from annotate.labelstudio.sync import PushReport, TaskSpec, sync_tasks
from annotate.labelstudio.tasks import TRACKS_TAG, VIDEO_TAG, config_labels, find_tasks
from annotate.video import reader
from annotate.video.index import VideoFile
from annotate.video.writer import VideoWriter

Keyframe = Mapping[str, Any]
TRACK_REGION_TYPE = "videorectangle"
_SIDES = ("x", "y", "width", "height")
_BROWSER_CODECS = {"h264", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d"}
_TRACK_ID = re.compile(r"track(\d+)-")


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
    digest = hashlib.sha256(json.dumps([label, keyframes]).encode()).hexdigest()[:8]
    return {
        "id": f"track{track}-{digest}",
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
    between two such keyframes are interpolated, and count as unchanged. All other objects record
    who changed them (`provenance`).
    """
    value = region["value"]
    label = value["labels"][0]
    keyframes = sorted(value["sequence"], key=lambda keyframe: int(keyframe["frame"]))
    source = next(iter(originals.values())).source if originals else PERSON_SOURCE
    sent = {key["frame"]: key for key in sent_region["value"]["sequence"]} if sent_region else {}
    objects: dict[int, Object] = {}
    for key, after in zip(keyframes, [*keyframes[1:], None], strict=True):
        first, stop = key["frame"] - 1, _keyframe_stop(key, after, video_task)
        unchanged = _same_keyframe(key, sent, ("enabled", *_SIDES))
        unchanged &= after is None or stop == first + 1 or _same_keyframe(after, sent, _SIDES)
        by = None if unchanged else provenance
        for frame in range(first, stop):
            box = _interpolate_box(key, after, frame + 1, video_task.size_wh)
            obj = Object(label, box, None, track, source=source, by=by)
            if frame == first and frame in originals and _same_keyframe(key, sent, _SIDES):
                obj = originals[frame]
            relabelled = obj.label != label
            objects[frame] = replace(obj, label=label, by=provenance) if relabelled else obj
    return objects


def _keyframe_stop(
    keyframe: Keyframe, next_keyframe: Keyframe | None, video_task: VideoTask
) -> int:
    """Return the frame, from 0, before which a keyframe ends."""
    if not keyframe.get("enabled", True):
        return int(keyframe["frame"])
    return video_task.frame_count if next_keyframe is None else int(next_keyframe["frame"]) - 1


def _same_keyframe(
    keyframe: Keyframe, sent_keyframes: Mapping[int, Keyframe], keys: Sequence[str]
) -> bool:
    """Return whether a keyframe has the values that were sent for its frame."""
    sent = sent_keyframes.get(keyframe["frame"])
    return sent is not None and all(keyframe.get(key) == sent[key] for key in keys)


def _interpolate_box(
    keyframe: Keyframe, next_keyframe: Keyframe | None, frame_number: int, size_wh: tuple[int, int]
) -> Box:
    """Interpolate the box on frame `frame_number`, from 1, in pixels, clipped to the frame."""
    x, y, width, height = (float(keyframe[side]) for side in _SIDES)
    if next_keyframe is not None and keyframe.get("enabled", True):
        part = (frame_number - keyframe["frame"]) / (next_keyframe["frame"] - keyframe["frame"])
        end = (float(next_keyframe[side]) for side in _SIDES)
        start = (x, y, width, height)
        x, y, width, height = (a + (b - a) * part for a, b in zip(start, end, strict=True))
    percent = zip((x, y, x + width, y + height), (*size_wh, *size_wh), strict=True)
    x1, y1, x2, y2 = (side * size / 100 for side, size in percent)
    return round_box(clip_box((x1, y1, x2, y2), size_wh))


def default_title(dataset: Dataset) -> str:
    """Return the default title of a project of clips; frames go to another project."""
    return f"{dataset.path.absolute().name} video"


def push_clips(
    dataset: Dataset,
    client: StudioClient,
    *,
    project: str | None = None,
    videos: Mapping[str, Path] | None = None,
    transcode: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> PushReport:
    """Create a task for each clip of a dataset, with its tracks as sequences of boxes.

    Objects without a track are left out. With `transcode`, a clip that browsers do not play frame
    by frame is re-encoded at a constant rate. See `push.push_dataset` for the project.

    Raises:
        VideoError: the rate varies, time does not start at 0, or browsers may not play the clip.
        DatasetError: a track has two classes, or there are no tracks.
    """
    clips = frame_sources.locate_clips([journal.read(dataset.items)], videos)
    with ExitStack() as stack:
        specs = [_task_spec(dataset, clip, transcode, stack) for clip in clips]
        if not any(spec.regions() for spec in specs):
            raise DatasetError(f"{dataset.path}: none of its objects has a track; push its frames")
        title = project or default_title(dataset)
        opened, added = open_project(client, title, dataset.classes, video=True)
        report = PushReport(opened, client.url, added_classes=added)
        sync_tasks(client, lambda: specs, report, progress)
    return report


def _task_spec(
    dataset: Dataset, clip: frame_sources.LocatedClip, transcode: bool, stack: ExitStack
) -> TaskSpec:
    video_task = _video_task(clip)
    file, reason = clip.path, _unsupported_reason(clip.path)
    if reason and not transcode:
        raise VideoError(f"{clip.path}: {reason}; give `transcode` to push a re-encoded copy")
    if reason:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / f"{clip.stem}.mp4"
        _transcode(clip.path, video_task, file)
    data = {
        "ext_id": external_id(dataset, clip.name),
        "fps": str(round(float(video_task.rate), 6)),
        "frames": video_task.frame_count,
        "width": video_task.size_wh[0],
        "height": video_task.size_wh[1],
    }
    regions = partial(tracks_to_regions, list(clip.items()), video_task)
    return TaskSpec(data, VIDEO_TAG, file, regions)


def _video_task(clip: frame_sources.LocatedClip) -> VideoTask:
    info = reader.probe(clip.path)
    if clip.path.is_dir() or info.frame_count is None:
        raise VideoError(f"{clip.path}: images are not a video; push their frames")
    table = VideoFile(clip.path).table
    seconds = [(pts - table.pts[0]) * table.time_base for pts in table.pts]
    return VideoTask(clip.name, (info.width, info.height), info.rate, seconds)


def _unsupported_reason(path: Path) -> str:
    """Say why Label Studio would show wrong frames of a clip; "" where it would not."""
    import av

    if reader.probe(path).variable_rate:
        return "its frame rate varies, and Label Studio finds frames by a constant rate"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.start_time:
            start = float(stream.start_time * (stream.time_base or Fraction(1)))
            return f"its first frame is at {start:.3f} s, and Label Studio counts from 0"
        codec = stream.codec_context.name
    if codec not in _BROWSER_CODECS or path.suffix.lower() not in {".mp4", ".webm", ".m4v"}:
        return f"browsers may not play {codec} in {path.suffix or 'a file without ending'}"
    return ""


def _transcode(source: Path, video_task: VideoTask, target: Path) -> None:
    with VideoWriter(target, video_task.rate, video_task.size_wh) as out:
        for frame in reader.frames(source):
            out.write(frame.image)


def pull_clips(
    dataset: Dataset,
    client: StudioClient,
    out: Path | str,
    *,
    project: str | None = None,
    videos: Mapping[str, Path] | None = None,
    force: bool = False,
) -> PullReport:
    """Write the submitted clips of a dataset as a file of items, with every frame of each.

    `build_dataset` makes a dataset of the file.

    Raises:
        StudioError: there is no such project, or no clip has been submitted.
        OutputError: `out` exists.
    """
    out = Path(out)
    refuse_existing(out, force)
    source = journal.read(dataset.items)
    studio_project = client.require_project(project or default_title(dataset))
    annotations = AnnotationReader(client, studio_project.id)
    located_clips = frame_sources.locate_clips([source], videos)
    verdicts = list(_read_verdicts(dataset, located_clips, annotations))
    if not verdicts:
        raise StudioError(
            f"{client.url}: nothing of project {studio_project.id} has been submitted yet"
        )
    entries = {clip.name: source.header.videos[clip.sources[0].clip] for clip, _ in verdicts}
    vocabulary = {
        "labels": list(dict.fromkeys([*dataset.classes, *config_labels(studio_project.config)]))
    }
    header = Header(
        "pull", {"project": studio_project.title}, vocabulary=vocabulary, videos=entries
    )
    items = (item for clip, verdict in verdicts for item in _corrected_items(clip, verdict))
    journal.write(out, header, _count_items(items, annotations.counts))
    return PullReport(annotations.counts, annotations.notes)


def _count_items(items: Iterable[Item], counts: Counter[str]) -> Iterator[Item]:
    for item in items:
        counts["submitted"] += 1
        yield item


def _read_verdicts(
    dataset: Dataset,
    located_clips: Sequence[frame_sources.LocatedClip],
    annotations: AnnotationReader,
) -> Iterator[tuple[frame_sources.LocatedClip, Verdict]]:
    names = {external_id(dataset, clip.name): clip for clip in located_clips}
    states = find_tasks(annotations.client, annotations.project, list(names))
    annotated = annotations.fetch_annotated(task for tasks in states.values() for task in tasks)
    for name, clip in names.items():
        verdict = annotations.read_verdict(name, states.get(name, ()), annotated)
        if verdict is not None:
            yield clip, verdict


def _corrected_items(clip: frame_sources.LocatedClip, verdict: Verdict) -> Iterator[Item]:
    """Iterate over every frame of a clip, as a person left it."""
    video_task, originals = _video_task(clip), list(clip.items())
    tracks: dict[int, dict[int, Object]] = {}
    for item in originals:
        for obj in item.objects:
            if obj.track is not None:
                tracks.setdefault(obj.track, {})[item.frame] = obj
    sent = {region["id"]: region for region in tracks_to_regions(originals, video_task)}
    frames: dict[int, list[Object]] = {}
    last_track = max(tracks, default=0)
    for region in verdict.regions:
        if region.get("type") != TRACK_REGION_TYPE:
            continue
        if not region["value"].get("labels"):
            raise StudioError(f"{clip.name}: a track without a label; label it, submit, pull")
        match = _TRACK_ID.match(str(region["id"])) if region["id"] in sent else None
        last_track += match is None
        track = int(match[1]) if match else last_track
        track_objects = tracks.get(track, {}) if match else {}
        by = verdict.provenance(str(region["id"]))
        objects = expand_track(region, track, track_objects, sent.get(region["id"]), video_task, by)
        for frame, obj in objects.items():
            frames.setdefault(frame, []).append(obj)
    for frame, seconds in enumerate(video_task.seconds):
        yield Item(clip.name, frame, seconds, *video_task.size_wh, tuple(frames.get(frame, ())))
