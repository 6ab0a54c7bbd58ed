"""Push whole clips to Label Studio as tracks on a video, and pull them back.

Label Studio counts frames from 1, and finds them by the frame rate that it is given: the rate must
be the file's own, constant, and time must start at 0. It interpolates boxes linearly from keyframe
to keyframe; a keyframe that is not enabled is the last frame on which the object is seen.
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
from annotate.errors import DatasetError, OutputError, StudioError, VideoError
from annotate.items import journal
from annotate.items.records import Box, Header, Item, Object
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.pull import AnnotationReader, PullReport, Verdict
from annotate.labelstudio.push import open_project
from annotate.labelstudio.regions import PERSON_SOURCE, Region
from annotate.labelstudio.sync import PushReport, TaskSpec, sync_tasks
from annotate.labelstudio.tasks import TRACKS_TAG, VIDEO_TAG, config_labels, find_tasks

Keyframe = Mapping[str, Any]
TRACK_REGION_TYPE = "videorectangle"
_PIXEL_DIGITS = 3


@dataclass(frozen=True)
class VideoTask:
    """A clip as a task tells of it: its frames' times, in order, and its size."""

    name: str
    size_wh: tuple[int, int]
    rate: Fraction
    seconds: Sequence[Fraction]

    @property
    def frame_count(self) -> int:
        """How many frames it has."""
        return len(self.seconds)


def tracks_to_regions(items: Sequence[Item], video_task: VideoTask) -> list[Region]:
    """A region for each track of a clip's items; objects without a track are left out.

    Raises:
        DatasetError: a track has two classes, or is twice on a frame.
    """
    tracks: dict[int, dict[int, Object]] = {}
    for item in items:
        for thing in item.objects:
            if thing.track is None:
                continue
            of_track = tracks.setdefault(thing.track, {})
            labels = {each.label for each in of_track.values()} | {thing.label}
            if item.frame in of_track or len(labels) > 1:
                why = "there twice" if item.frame in of_track else f"a {' and a '.join(labels)}"
                raise DatasetError(f"{item.video}#{item.frame}: track {thing.track} is {why}")
            of_track[item.frame] = thing
    looked_at = [item.frame for item in items]
    return [
        _track_region(track, seen, looked_at, video_task) for track, seen in sorted(tracks.items())
    ]


def _track_region(
    track: int, objects: Mapping[int, Object], frame_numbers: Sequence[int], video_task: VideoTask
) -> Region:
    following = dict(zip(frame_numbers, [*frame_numbers[1:], -1], strict=True))
    keys = [
        {**_to_keyframe(frame, thing.box, video_task), "enabled": following[frame] in objects}
        for frame, thing in objects.items()
    ]
    label = next(iter(objects.values())).label
    sources = list(dict.fromkeys(thing.source for thing in objects.values()))
    digest = hashlib.sha256(json.dumps([label, keys]).encode()).hexdigest()[:8]
    return {
        "id": f"track{track}-{digest}",
        "type": TRACK_REGION_TYPE,
        "from_name": TRACKS_TAG,
        "to_name": VIDEO_TAG,
        "value": {
            "framesCount": video_task.frame_count,
            "duration": float(video_task.frame_count / video_task.rate),
            "labels": [label],
            "sequence": keys,
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


_SIDES = ("x", "y", "width", "height")


def expand_track(
    region: Mapping[str, Any],
    track: int,
    originals: Mapping[int, Object],
    sent_region: Region | None,
    video_task: VideoTask,
    provenance: Mapping[str, str],
) -> dict[int, Object]:
    """A region as an object on each frame on which it is seen.

    `was` are the track's own objects by frame, `sent` the region that was made of them: where the
    key and the label are theirs, they come back themselves. What lies between two such keys is what
    a straight line says, and nobody's change; all else tells who changed it.
    """
    value = region["value"]
    label = value["labels"][0]
    keys = sorted(value["sequence"], key=lambda key: int(key["frame"]))
    source = next(iter(originals.values())).source if originals else PERSON_SOURCE
    theirs = {key["frame"]: key for key in sent_region["value"]["sequence"]} if sent_region else {}
    found: dict[int, Object] = {}
    for key, after in zip(keys, [*keys[1:], None], strict=True):
        first, stop = key["frame"] - 1, _keyframe_stop(key, after, video_task)
        own = _same_keyframe(key, theirs, ("enabled", *_SIDES))
        own &= after is None or stop == first + 1 or _same_keyframe(after, theirs, _SIDES)
        for frame in range(first, stop):
            box = _interpolate_box(key, after, frame + 1, video_task.size_wh)
            thing = Object(label, box, None, track, source=source, by=None if own else provenance)
            if frame == first and frame in originals and _same_keyframe(key, theirs, _SIDES):
                thing = originals[frame]
            changed = thing.label != label
            found[frame] = replace(thing, label=label, by=provenance) if changed else thing
    return found


def _keyframe_stop(
    keyframe: Keyframe, next_keyframe: Keyframe | None, video_task: VideoTask
) -> int:
    """The frame, from 0, before which what a key says ends."""
    if not keyframe.get("enabled", True):
        return int(keyframe["frame"])
    return video_task.frame_count if next_keyframe is None else int(next_keyframe["frame"]) - 1


def _same_keyframe(
    keyframe: Keyframe, sent_keyframes: Mapping[int, Keyframe], keys: Sequence[str]
) -> bool:
    """Whether a key says of its frame what was sent."""
    sent = sent_keyframes.get(keyframe["frame"])
    return sent is not None and all(keyframe.get(fact) == sent[fact] for fact in keys)


def _interpolate_box(
    keyframe: Keyframe, next_keyframe: Keyframe | None, frame_number: int, size_wh: tuple[int, int]
) -> Box:
    """The box in pixels on frame `number`, from 1, of the straight line between two keys."""
    x, y, width, height = (float(keyframe[side]) for side in _SIDES)
    if next_keyframe is not None and keyframe.get("enabled", True):
        part = (frame_number - keyframe["frame"]) / (next_keyframe["frame"] - keyframe["frame"])
        there = (float(next_keyframe[side]) for side in _SIDES)
        here = (x, y, width, height)
        x, y, width, height = (a + (b - a) * part for a, b in zip(here, there, strict=True))
    shown = zip((x, y, x + width, y + height), (*size_wh, *size_wh), strict=True)
    cut = (min(max(side * most / 100, 0.0), float(most)) for side, most in shown)
    x1, y1, x2, y2 = (round(side, _PIXEL_DIGITS) for side in cut)
    return x1, y1, x2, y2


_BROWSER_CODECS = {"h264", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d"}
_TRACK_ID = re.compile(r"track(\d+)-")


def default_title(dataset: Dataset) -> str:
    """What a project of clips is called unless it is told: frames have another."""
    return f"{dataset.path.absolute().name} video"


def push_clips(
    dataset: Dataset,
    server: StudioClient,
    *,
    project: str | None = None,
    videos: Mapping[str, Path] | None = None,
    transcode: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> PushReport:
    """Make a task of each clip of a dataset, its tracks as sequences of boxes; see `push.push`.

    Objects without a track are left out. With `transcode`, a clip that a browser does not play
    frame by frame is written anew, frame for frame, at a constant rate.

    Raises:
        VideoError: the rate varies, time does not start at 0, or no browser plays it.
        DatasetError: a track has two classes, or there are no tracks.
    """
    found = frame_sources.locate_clips([journal.read(dataset.items)], videos)
    with ExitStack() as stack:
        wanted = [_task_spec(dataset, clip, transcode, stack) for clip in found]
        if not any(want.regions() for want in wanted):
            raise DatasetError(f"{dataset.path}: none of its objects has a track; push its frames")
        made, added = open_project(
            server, project or default_title(dataset), dataset.classes, video=True
        )
        done = PushReport(made, server.url, added_classes=added)
        sync_tasks(server, lambda: wanted, done, progress)
    return done


def _task_spec(
    dataset: Dataset, clip: frame_sources.LocatedClip, transcode: bool, stack: ExitStack
) -> TaskSpec:
    reel = _video_task(clip)
    file, why = clip.path, _unsupported_reason(clip.path)
    if why and not transcode:
        raise VideoError(f"{clip.path}: {why}; --transcode writes it anew for the purpose")
    if why:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / f"{clip.stem}.mp4"
        _transcode(clip.path, reel, file)
    data = {
        "ext_id": external_id(dataset, clip.name),
        "fps": str(round(float(reel.rate), 6)),
        "frames": reel.frame_count,
        "width": reel.size_wh[0],
        "height": reel.size_wh[1],
    }
    regions = partial(tracks_to_regions, list(clip.items()), reel)
    return TaskSpec(data, VIDEO_TAG, file, regions)


def _video_task(clip: frame_sources.LocatedClip) -> VideoTask:
    from annotate.video import reader
    from annotate.video.index import VideoFile

    seen = reader.probe(clip.path)
    if clip.path.is_dir() or seen.frame_count is None:
        raise VideoError(f"{clip.path}: images are no video: push their frames")
    table = VideoFile(clip.path).table
    seconds = [(pts - table.pts[0]) * table.time_base for pts in table.pts]
    return VideoTask(clip.name, (seen.width, seen.height), seen.rate, seconds)


def _unsupported_reason(path: Path) -> str:
    """Why Label Studio would show other frames than are meant; "" where it would not."""
    import av

    from annotate.video import reader

    if reader.probe(path).variable_rate:
        return "its frame rate varies, and Label Studio finds frames by a constant one"
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
    from annotate.video import reader, writer

    with writer.VideoWriter(target, video_task.rate, video_task.size_wh) as out:
        for frame in reader.frames(source):
            out.write(frame.image)


def pull_clips(
    dataset: Dataset,
    server: StudioClient,
    out: Path | str,
    *,
    project: str | None = None,
    videos: Mapping[str, Path] | None = None,
    force: bool = False,
) -> PullReport:
    """Write what was submitted of the dataset's clips as a file of items: every frame of each.

    `annotate build` makes a dataset of it.

    Raises:
        StudioError: no such project, or nothing of it has been submitted.
        OutputError: `out` is already there.
    """
    out = Path(out)
    if out.exists() and not force:
        raise OutputError(f"{out}: already there; give another -o, or --force to write it anew")
    source = journal.read(dataset.items)
    made = server.require_project(project or default_title(dataset))
    hearing = AnnotationReader(server, made.id)
    heard = list(_read_verdicts(dataset, frame_sources.locate_clips([source], videos), hearing))
    if not heard:
        raise StudioError(f"{server.url}: nothing of project {made.id} has been submitted yet")
    facts = {clip.name: source.header.videos[clip.sources[0].clip] for clip, _ in heard}
    labels = dict.fromkeys([*dataset.classes, *config_labels(made.config)])
    header = Header(
        "pull", {"project": made.title}, vocabulary={"labels": list(labels)}, videos=facts
    )
    items = (item for clip, said in heard for item in _corrected_items(clip, said))
    journal.write(out, header, _count_items(items, hearing.counts))
    return PullReport(hearing.counts, hearing.notes)


def _count_items(items: Iterable[Item], counts: Counter[str]) -> Iterator[Item]:
    for item in items:
        counts["submitted"] += 1
        yield item


def _read_verdicts(
    dataset: Dataset, located_clips: Sequence[frame_sources.LocatedClip], reader: AnnotationReader
) -> Iterator[tuple[frame_sources.LocatedClip, Verdict]]:
    names = {external_id(dataset, clip.name): clip for clip in located_clips}
    there = find_tasks(reader.server, reader.project, list(names))
    told = reader.fetch_annotated(task for same in there.values() for task in same)
    for name, clip in names.items():
        if (said := reader.read_verdict(name, there.get(name, ()), told)) is not None:
            yield clip, said


def _corrected_items(clip: frame_sources.LocatedClip, verdict: Verdict) -> Iterator[Item]:
    """Every frame of a clip as a person left it."""
    reel, was = _video_task(clip), list(clip.items())
    tracks: dict[int, dict[int, Object]] = {}
    for item in was:
        for thing in item.objects:
            if thing.track is not None:
                tracks.setdefault(thing.track, {})[item.frame] = thing
    sent = {region["id"]: region for region in tracks_to_regions(was, reel)}
    frames: dict[int, list[Object]] = {}
    free = max(tracks, default=0)
    for region in verdict.regions:
        if region.get("type") != TRACK_REGION_TYPE:
            continue
        if not region["value"].get("labels"):
            raise StudioError(f"{clip.name}: a track without a label; give it one, submit, pull")
        known = _TRACK_ID.match(str(region["id"])) if region["id"] in sent else None
        free += known is None
        track = int(known[1]) if known else free
        own = tracks.get(track, {}) if known else {}
        by = verdict.provenance(str(region["id"]))
        seen = expand_track(region, track, own, sent.get(region["id"]), reel, by)
        for frame, thing in seen.items():
            frames.setdefault(frame, []).append(thing)
    for frame, seconds in enumerate(reel.seconds):
        yield Item(clip.name, frame, seconds, *reel.size_wh, tuple(frames.get(frame, ())))
