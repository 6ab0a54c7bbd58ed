"""Whole clips to Label Studio and back: tracks to correct in the video that they are of."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path

from annotate import clips, journal, ls_config, tasks, video_tasks
from annotate.errors import DatasetError, OutputError, StudioError, VideoError
from annotate.folder import Dataset
from annotate.labelstudio import Server
from annotate.lines import Header
from annotate.pull import Pulled
from annotate.push import open_project
from annotate.records import Item, Object
from annotate.said import Hearing, Said
from annotate.sending import Pushed, Wanted, send
from annotate.video_tasks import Reel

_BROWSERS_PLAY = {"h264", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d"}
_TRACK = re.compile(r"track(\d+)-")


def title_of(dataset: Dataset) -> str:
    """What a project of clips is called unless it is told: frames have another."""
    return f"{dataset.path.absolute().name} video"


def push(
    dataset: Dataset,
    server: Server,
    *,
    project: str | None = None,
    videos: Mapping[str, Path] | None = None,
    transcode: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> Pushed:
    """Make a task of each clip of a dataset, its tracks as sequences of boxes; see `push.push`.

    Objects without a track are left out. With `transcode`, a clip that a browser does not play
    frame by frame is written anew, frame for frame, at a constant rate.

    Raises:
        VideoError: the rate varies, time does not start at 0, or no browser plays it.
        DatasetError: a track has two classes, or there are no tracks.
    """
    found = clips.find([journal.read(dataset.items)], videos)
    with ExitStack() as stack:
        wanted = [_wanted(dataset, clip, transcode, stack) for clip in found]
        if not any(want.regions() for want in wanted):
            raise DatasetError(f"{dataset.path}: none of its objects has a track; push its frames")
        made, added = open_project(
            server, project or title_of(dataset), dataset.classes, video=True
        )
        done = Pushed(made, server.url, added_classes=added)
        send(server, lambda: wanted, done, progress)
    return done


def _wanted(dataset: Dataset, clip: clips.Clip, transcode: bool, stack: ExitStack) -> Wanted:
    reel = _reel(clip)
    file, why = clip.path, _unfit(clip.path)
    if why and not transcode:
        raise VideoError(f"{clip.path}: {why}; --transcode writes it anew for the purpose")
    if why:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / f"{clip.stem}.mp4"
        _write(clip.path, reel, file)
    data = {
        "ext_id": tasks.external_id(dataset, clip.name),
        "fps": str(round(float(reel.rate), 6)),
        "frames": reel.count,
        "width": reel.size_wh[0],
        "height": reel.size_wh[1],
    }
    regions = partial(video_tasks.to_regions, list(clip.items()), reel)
    return Wanted(data, ls_config.VIDEO, file, regions)


def _reel(clip: clips.Clip) -> Reel:
    from annotate import video
    from annotate.film import Film

    seen = video.probe(clip.path)
    if clip.path.is_dir() or seen.frame_count is None:
        raise VideoError(f"{clip.path}: images are no video: push their frames")
    table = Film(clip.path).table
    seconds = [(pts - table.pts[0]) * table.time_base for pts in table.pts]
    return Reel(clip.name, (seen.width, seen.height), seen.rate, seconds)


def _unfit(path: Path) -> str:
    """Why Label Studio would show other frames than are meant; "" where it would not."""
    import av

    from annotate import video

    if video.probe(path).variable_rate:
        return "its frame rate varies, and Label Studio finds frames by a constant one"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.start_time:
            start = float(stream.start_time * (stream.time_base or Fraction(1)))
            return f"its first frame is at {start:.3f} s, and Label Studio counts from 0"
        codec = stream.codec_context.name
    if codec not in _BROWSERS_PLAY or path.suffix.lower() not in {".mp4", ".webm", ".m4v"}:
        return f"browsers may not play {codec} in {path.suffix or 'a file without ending'}"
    return ""


def _write(source: Path, reel: Reel, target: Path) -> None:
    from annotate import video

    with video.Writer(target, reel.rate, reel.size_wh) as out:
        for frame in video.frames(source):
            out.write(frame.image)


def pull(
    dataset: Dataset,
    server: Server,
    out: Path | str,
    *,
    project: str | None = None,
    videos: Mapping[str, Path] | None = None,
    force: bool = False,
) -> Pulled:
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
    made = server.named(project or title_of(dataset))
    hearing = Hearing(server, made.id)
    heard = list(_heard(dataset, clips.find([source], videos), hearing))
    if not heard:
        raise StudioError(f"{server.url}: nothing of project {made.id} has been submitted yet")
    facts = {clip.name: source.header.videos[clip.told[0].clip] for clip, _ in heard}
    labels = dict.fromkeys([*dataset.classes, *ls_config.labels(made.config)])
    header = Header(
        "pull", {"project": made.title}, vocabulary={"labels": list(labels)}, videos=facts
    )
    items = (item for clip, said in heard for item in _items(clip, said))
    journal.write(out, header, _counted(items, hearing.counts))
    return Pulled(hearing.counts, hearing.notes)


def _counted(items: Iterable[Item], counts: Counter[str]) -> Iterator[Item]:
    for item in items:
        counts["submitted"] += 1
        yield item


def _heard(
    dataset: Dataset, found: Sequence[clips.Clip], hearing: Hearing
) -> Iterator[tuple[clips.Clip, Said]]:
    names = {tasks.external_id(dataset, clip.name): clip for clip in found}
    there = tasks.find(hearing.server, hearing.project, list(names))
    told = hearing.full(task for same in there.values() for task in same)
    for name, clip in names.items():
        if (said := hearing.one(name, there.get(name, ()), told)) is not None:
            yield clip, said


def _items(clip: clips.Clip, said: Said) -> Iterator[Item]:
    """Every frame of a clip as a person left it."""
    reel, was = _reel(clip), list(clip.items())
    tracks: dict[int, dict[int, Object]] = {}
    for item in was:
        for thing in item.objects:
            if thing.track is not None:
                tracks.setdefault(thing.track, {})[item.frame] = thing
    sent = {region["id"]: region for region in video_tasks.to_regions(was, reel)}
    frames: dict[int, list[Object]] = {}
    free = max(tracks, default=0)
    for region in said.regions:
        if region.get("type") != video_tasks.KIND:
            continue
        if not region["value"].get("labels"):
            raise StudioError(f"{clip.name}: a track without a label; give it one, submit, pull")
        known = _TRACK.match(str(region["id"])) if region["id"] in sent else None
        free += known is None
        track = int(known[1]) if known else free
        own = tracks.get(track, {}) if known else {}
        by = said.by(str(region["id"]))
        seen = video_tasks.expanded(region, track, own, sent.get(region["id"]), reel, by)
        for frame, thing in seen.items():
            frames.setdefault(frame, []).append(thing)
    for frame, seconds in enumerate(reel.seconds):
        yield Item(clip.name, frame, seconds, *reel.size_wh, tuple(frames.get(frame, ())))
