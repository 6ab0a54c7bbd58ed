"""Find the stored clip and frame that a picture or another clip shows.

    library.add([clip], db)
    for path, result in library.find([picture], db): ...

A picture is found by `annotate.scenes.index`. A clip is found by its frames: each frame that is
found votes for a stored clip and for the time by which the stored clip is later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from annotate.errors import UnknownName
from annotate.items.records import Frame, Picture
from annotate.sampling.thumbnail import Thumbnail
from annotate.scenes import borders, fingerprint
from annotate.scenes.borders import ContentBox
from annotate.scenes.index import SceneIndex, SceneResult
from annotate.scenes.packing import StoredFrame
from annotate.scenes.store import SceneStore, StoredClip
from annotate.video import reader
from annotate.video.reader import FrameSelection

_STORED_RATE = 10  # frames a second that are stored at most
_MAX_REPEAT_CHANGE = 0.25  # mean change of the shape of a repeated frame
_MAX_REPEAT_SECONDS = Fraction(1, 2)  # for which one stored frame stands for its repetitions
_QUERY_RATE = 4  # frames a second of a query clip
_OFFSET_BIN_SECONDS = Fraction(1, 2)  # offsets within this time are the same
_MIN_OVERLAP_FRAMES = 3  # frames that must agree on an offset

Progress = Callable[[Frame], None]


@dataclass(frozen=True)
class Overlap:
    """A part of a query clip, from second `start` to `stop`, that a stored clip has too.

    In the stored clip, the part is `offset` seconds later. `share` is the share of the frames of
    the part that agree on this.
    """

    clip: StoredClip
    offset: Fraction
    start: Fraction
    stop: Fraction
    share: float


def add(
    clips: Sequence[Path],
    db: Path,
    selection: FrameSelection | None = None,
    progress: Progress = lambda frame: None,
) -> list[str]:
    """Add the frames of clips to a database; returns the names of the clips that are new.

    Clips whose content the database has already are skipped. Ten frames a second are stored, or
    two while the picture does not change: about five megabytes for each quarter of an hour. Bars
    of one colour that a clip has all the time are not stored. Memory does not grow with the clip.

    Raises:
        ScenesError, VideoError: see `annotate.errors`; the clips before the error are stored.
    """
    added = []
    videos = [reader.probe(path) for path in clips]  # a clip that cannot be read leaves no file
    with SceneStore(db, create=True) as store:
        for path, video in zip(clips, videos, strict=True):
            if any(clip.fingerprint == video.fingerprint for clip in store.clips()):
                continue
            frames = stored_selection(selection or FrameSelection()).frames(path)
            box = borders.clip_content_box(video)
            clip = StoredClip(
                id=0,
                name=video.name,
                fingerprint=video.fingerprint,
                path=video.path.as_posix(),
                width=box.size_wh[0],
                height=box.size_wh[1],
                duration=video.duration_seconds,
                frame_count=0,
            )
            if store.add(clip, _frames_to_store(frames, box, progress)):
                added.append(video.name)
    return added


def merge(sources: Iterable[tuple[Path, str, Path]], db: Path) -> list[Path]:
    """Add the clips of databases of one clip each to a database, as `add` would add the clips.

    Each source is such a database, and the name and the path that its clip gets. Returns the paths
    of the clips that are new.

    Raises:
        ScenesError: see `annotate.errors`; the clips before the error are stored.
    """
    added = []
    with SceneStore(db, create=True) as store:
        for source, name, path in sources:
            with SceneStore(source) as single:
                [clip] = single.clips()
                named = replace(clip, name=name, path=path.as_posix())
                if store.add_packed(named, single.packed_chunks(clip)):
                    added.append(path)
    return added


def anonymous_rows(db: Path) -> Iterator[tuple[object, ...]]:
    """Yield what a database holds, without the names and the paths of its clips."""
    with SceneStore(db) as store:
        for clip in store.clips():
            yield astuple(replace(clip, name="", path=""))
            yield from map(astuple, store.packed_chunks(clip))


def stored_selection(selection: FrameSelection) -> FrameSelection:
    """Narrow a selection of all frames to those that are stored: no other becomes a picture."""
    return replace(selection, rate=_STORED_RATE) if selection == FrameSelection() else selection


def _frames_to_store(
    frames: Iterator[Frame], box: ContentBox, progress: Progress
) -> Iterator[StoredFrame]:
    last: StoredFrame | None = None
    last_tick: int | None = None
    for frame in frames:
        progress(frame)
        tick = int(frame.seconds * _STORED_RATE)
        if tick == last_tick:
            continue
        last_tick = tick
        content = replace(frame, image=borders.crop(frame.image, box))
        computed = fingerprint.compute(Thumbnail(content))
        if last is not None and not _is_changed(computed.shape, last.fingerprint.shape):
            if frame.seconds - last.seconds < _MAX_REPEAT_SECONDS:
                continue
            computed = last.fingerprint  # of one picture, one copy is packed
        last = StoredFrame(frame.index, frame.seconds, computed)
        yield last


def _is_changed(shape: Picture, last_shape: Picture) -> bool:
    return bool(np.abs(shape.astype(np.int16) - last_shape).mean() > _MAX_REPEAT_CHANGE)


def find(pictures: Sequence[Path], db: Path) -> Iterator[tuple[Path, SceneResult]]:
    """Find the stored frame that each picture shows.

    Raises:
        ScenesError, VideoError: see `annotate.errors`.
    """
    with SceneStore(db) as store:
        index = SceneIndex(store)
        for path in pictures:
            yield path, index.find(next(iter(reader.frames(path))).image)


def find_clip(path: Path, db: Path, progress: Progress = lambda frame: None) -> list[Overlap]:
    """Find the parts of a clip that stored clips have too, the longest first.

    Raises:
        ScenesError, VideoError: see `annotate.errors`.
    """
    with SceneStore(db) as store:
        index, votes = SceneIndex(store), _OffsetVotes()
        for frame in FrameSelection(rate=_QUERY_RATE).frames(path):
            progress(frame)
            votes.add(frame.seconds, index.find(frame.image))
    return votes.overlaps()


def remove(names: Sequence[str], db: Path) -> None:
    """Remove clips, by their names or the first eight letters of their fingerprints.

    Raises:
        UnknownName: a name fits no clip; then no clip is removed.
    """
    with SceneStore(db) as store:
        clips = store.clips()
        removed: dict[StoredClip, None] = {}
        for name in names:
            matching = [c for c in clips if name in (c.name, c.fingerprint[:8])]
            if not matching:
                raise UnknownName("clip", name, [clip.name for clip in clips])
            removed |= dict.fromkeys(matching)
        for clip in removed:
            store.remove(clip)


def list_clips(db: Path) -> list[StoredClip]:
    """List the clips of a database."""
    with SceneStore(db) as store:
        return store.clips()


@dataclass(frozen=True)
class _OffsetVote:
    """The match of a frame of a query clip: its time in that clip, the stored clip, the offset."""

    seconds: Fraction
    clip: StoredClip | None
    offset: Fraction


@dataclass
class _OffsetVotes:
    """The votes of the frames of a query clip."""

    votes: list[_OffsetVote] = field(default_factory=list)

    def add(self, seconds: Fraction, result: SceneResult) -> None:
        match = result.match
        if match is None:
            self.votes.append(_OffsetVote(seconds, None, Fraction(0)))
        else:
            self.votes.append(_OffsetVote(seconds, match.clip, match.seconds - seconds))

    def overlaps(self) -> list[Overlap]:
        """List an overlap for each offset that enough frames agree on; a vote is used once."""
        remaining, overlaps = list(self.votes), []
        while True:
            bins = Counter(
                (vote.clip, round(vote.offset / _OFFSET_BIN_SECONDS))
                for vote in remaining
                if vote.clip is not None
            )
            if not bins or bins.most_common(1)[0][1] < _MIN_OVERLAP_FRAMES:
                break
            (clip, offset_bin), _ = bins.most_common(1)[0]
            centre = offset_bin * _OFFSET_BIN_SECONDS
            agreeing = [
                vote
                for vote in remaining
                if vote.clip == clip and abs(vote.offset - centre) <= _OFFSET_BIN_SECONDS
            ]
            overlaps.append(self._overlap(clip, agreeing))
            remaining = [vote for vote in remaining if vote not in agreeing]
        return sorted(overlaps, key=lambda overlap: overlap.start - overlap.stop)

    def _overlap(self, clip: StoredClip, agreeing: list[_OffsetVote]) -> Overlap:
        start, stop = agreeing[0].seconds, agreeing[-1].seconds
        offset = sorted(vote.offset for vote in agreeing)[len(agreeing) // 2]
        vote_count = sum(start <= vote.seconds <= stop for vote in self.votes)
        return Overlap(clip, offset, start, stop, len(agreeing) / vote_count)
