"""Push whole clips to Label Studio as tracks on a video, and pull them back.

Label Studio computes the times of frames from the frame rate of the task: the rate must be that of
the file, constant, and time must start at 0. Objects without a track are not shown there: a pull
keeps them as they are, and leaves out the frames beside them that nobody has looked at.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from annotate.dataset import frame_sources
from annotate.dataset.folder import Dataset, external_id
from annotate.errors import DatasetError, StudioError, VideoError
from annotate.files import refuse_existing, refuse_input
from annotate.items import journal
from annotate.items.foreign_records import is_text
from annotate.items.records import Header, Item, Object
from annotate.labelstudio.annotations import AnnotationReader, Verdict
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.pull import PullReport, describe_empty
from annotate.labelstudio.push import default_title, open_project, push_lock, require_project
from annotate.labelstudio.sync import PushReport, TaskSpec, sync_tasks
from annotate.labelstudio.tasks import VIDEO_TAG, config_labels, find_tasks
from annotate.labelstudio.tracks import (
    VideoTask,
    expand_track,
    pushed_track,
    track_frames,
    tracks_to_regions,
)
from annotate.video import reader
from annotate.video.index import VideoFile
from annotate.video.writer import VideoWriter

_BROWSER_CODECS = {"h264", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d"}
_NOT_ON_FRAMES = {"timelinelabels"}  # types of results that say nothing of boxes


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

    Objects without a track are left out; the notes of the report count them. With `transcode`, a
    clip that browsers do not play frame by frame is re-encoded at a constant rate. See
    `push.find_project` for the project.

    Raises:
        VideoError: the rate varies, time does not start at 0, or browsers may not play the clip.
        DatasetError: a track has two classes, or there are no tracks.
    """
    clips = frame_sources.locate_clips([journal.read(dataset.items)], videos)
    with ExitStack() as stack:
        items = {clip.name: list(clip.items()) for clip in clips}
        specs = [_task_spec(dataset, clip, items[clip.name], transcode, stack) for clip in clips]
        if not any(spec.regions() for spec in specs):
            raise DatasetError(f"{dataset.path}: none of its objects has a track; push its frames")
        stack.enter_context(push_lock(client, project or default_title(dataset, video=True)))
        opened, added = open_project(client, dataset, project, video=True)
        report = PushReport(opened, client.url, added_classes=added)
        for name, of_clip in items.items():
            report.notes += _count_untracked(name, of_clip)
        sync_tasks(client, lambda: specs, report, progress)
    return report


def _count_untracked(name: str, items: Sequence[Item]) -> Iterator[str]:
    counts = [sum(obj.track is None for obj in item.objects) for item in items]
    if objects := sum(counts):
        yield (
            f"{name}: {objects} objects without a track, on {sum(map(bool, counts))} frames, "
            "are not shown in the video; correct them by a push of the frames"
        )


def _task_spec(
    dataset: Dataset,
    clip: frame_sources.LocatedClip,
    items: Sequence[Item],
    transcode: bool,
    stack: ExitStack,
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
    regions = partial(tracks_to_regions, items, video_task)
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

    Objects without a track, which the video does not show, stay as they are. A frame between such
    frames was not looked at for them, and is left out. `build_dataset` makes a dataset of the file.

    Raises:
        StudioError: there is no such project, or no submitted clip can be used.
        OutputError: `out` exists, or is the dataset.
    """
    out = Path(out)
    refuse_existing(out, force)
    source = journal.read(dataset.items)
    located_clips = frame_sources.locate_clips([source], videos)
    refuse_input(out, [dataset.path, dataset.items, *(clip.path for clip in located_clips)])
    studio_project = require_project(client, dataset, project, video=True)
    annotations = AnnotationReader(client, studio_project.id)
    pulled = []
    for clip, verdict in _read_verdicts(dataset, located_clips, annotations):
        read = _read_clip(clip, verdict)
        annotations.notes += [(clip.name, remark) for remark in read.remarks]
        whole = len(read.left_out) == len(read.video_task.seconds)
        annotations.counts["unclear" if whole else "submitted"] += 1
        pulled += [] if whole else [read]
    report = PullReport(Counter(), annotations.notes, clip_counts=annotations.counts)
    if not pulled:
        raise StudioError(describe_empty(client, studio_project, report))
    entries = {read.clip.name: source.header.videos[read.clip.sources[0].clip] for read in pulled}
    offered = filter(is_text, config_labels(studio_project.config))
    labels = dict.fromkeys([*dataset.classes, *offered])
    labels |= dict.fromkeys(obj.label for read in pulled for obj in read.objects())
    report.added_classes = tuple(label for label in labels if label not in dataset.classes)
    vocabulary = {"labels": list(labels)}
    header = Header(
        "pull", {"project": studio_project.title}, vocabulary=vocabulary, videos=entries
    )
    items = (item for read in pulled for item in read.items(report.frame_counts))
    journal.write(out, header, items)
    return report


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


@dataclass
class _PulledClip:
    """A clip as a person left it: objects by frame, frames that are left out, and remarks."""

    clip: frame_sources.LocatedClip
    video_task: VideoTask
    frames: dict[int, list[Object]] = field(default_factory=dict)
    left_out: set[int] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)
    attributes: Mapping[str, Any] | None = None

    def objects(self) -> Iterator[Object]:
        """Iterate over the objects of all frames that are written."""
        for frame, objects in self.frames.items():
            yield from () if frame in self.left_out else objects

    def items(self, counts: Counter[str]) -> Iterator[Item]:
        """Iterate over the frames that are written, and count all."""
        for frame, seconds in enumerate(self.video_task.seconds):
            counts["left out" if frame in self.left_out else "submitted"] += 1
            if frame not in self.left_out:
                objects = tuple(self.frames.get(frame, ()))
                item = Item(self.clip.name, frame, seconds, *self.video_task.size_wh, objects)
                yield replace(item, attributes=self.attributes)


def _read_clip(clip: frame_sources.LocatedClip, verdict: Verdict) -> _PulledClip:
    """Read every track of a clip; the frames of a track that cannot be read are left out."""
    read, originals = _PulledClip(clip, _video_task(clip)), list(clip.items())
    read.remarks += verdict.remarks
    read.attributes = dict(verdict.attributes) or None
    tracks: dict[int, dict[int, Object]] = {}
    for item in originals:
        for obj in item.objects:
            if obj.track is not None:
                tracks.setdefault(obj.track, {})[item.frame] = obj
    sent = {pushed_track(r): r for r in tracks_to_regions(originals, read.video_task)}
    numbers = [pushed_track(region) for region in verdict.regions]
    numbers = [None if n in numbers[:place] else n for place, n in enumerate(numbers)]
    last_track = max([*tracks, *(number for number in numbers if number is not None)], default=0)
    for region, number in zip(verdict.regions, numbers, strict=True):
        if region.get("type") in _NOT_ON_FRAMES:
            read.remarks.append(f"not kept: a region of the kind {region['type']!r}")
            continue
        last_track += number is None
        track = last_track if number is None else number
        by = verdict.provenance(str(region.get("id")))
        known = tracks.get(track, {})
        try:
            objects = expand_track(region, track, known, sent.get(track), read.video_task, by)
        except StudioError as error:
            frames = track_frames(region, read.video_task)
            read.left_out.update(frames)
            where = f"frames {frames.start} to {frames.stop - 1} are left out"
            read.remarks.append(f"unclear: {error}; {where}")
            continue
        for frame, obj in objects.items():
            read.frames.setdefault(frame, []).append(obj)
    _keep_untracked(read, originals)
    return read


def _keep_untracked(read: _PulledClip, originals: Sequence[Item]) -> None:
    """Keep the objects without a track, and leave out the frames between that may show them."""
    untracked = {
        item.frame: [obj for obj in item.objects if obj.track is None] for item in originals
    }
    kept = sum(map(len, untracked.values()))
    if not kept:
        return
    known = sorted(untracked)
    between = set()
    for frame in range(len(read.video_task.seconds)):
        place = bisect_left(known, frame)
        near = known[max(place - 1, 0) : place + 1]
        if frame not in untracked and any(untracked[each] for each in near):
            between.add(frame)
    for frame, objects in untracked.items():
        if objects:
            read.frames.setdefault(frame, []).extend(objects)
    read.left_out |= between
    read.remarks.append(
        f"{kept} objects without a track were not shown and are kept as they were; {len(between)} "
        "frames beside theirs are left out"
    )
