"""Which clip a picture or a piece of film is from, and where in it: scenes, added, asked, removed.

scenes.add([clip], db)
for answer in scenes.find([picture], db): ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from annotate import imprint, video
from annotate.errors import UnknownName
from annotate.glance import Glance
from annotate.records import Frame, Picture
from annotate.sample import Choice
from annotate.scene_search import Answer, Index
from annotate.scene_store import Clip, Known, Store

_SAME_LEVELS = 0.25  # mean change of a shape up to which a frame is as the one before
_SAME_SECONDS = Fraction(1, 2)  # for which one frame may stand for others
_CLIP_RATE = 4  # frames a second of a clip that is asked about
_APART_SECONDS = Fraction(1, 2)  # by which offsets may differ and be the same
_LEAST_FRAMES = 3  # that tell of the same offset

Progress = Callable[[Frame], None]


@dataclass(frozen=True)
class Overlap:
    """A stretch of a clip, `start` to `stop` in its own seconds, that is in a known clip as well.

    There it is `offset` seconds later. `share` is that of the stretch's frames which say so.
    """

    clip: Clip
    offset: Fraction
    start: Fraction
    stop: Fraction
    share: float


def add(
    clips: Sequence[Path],
    db: Path,
    choice: Choice | None = None,
    progress: Progress = lambda frame: None,
) -> list[str]:
    """Remember the frames of clips; gives the names of those that are new.

    A clip that is known, by its content, is not looked at. A picture that stands is remembered
    twice a second.

    Raises:
        ScenesError, VideoError: see `annotate.errors`; the clips before are remembered.
    """
    fresh = []
    with Store(db, create=True) as store:
        for path in clips:
            seen = video.probe(path)
            if any(clip.fingerprint == seen.fingerprint for clip in store.clips()):
                continue
            known = list(_known((choice or Choice()).frames(path), progress))
            about = (seen.name, seen.fingerprint, seen.path.as_posix(), seen.width, seen.height)
            if store.add(Clip(0, *about, seen.duration_seconds, len(known)), known):
                fresh.append(seen.name)
    return fresh


def _known(frames: Iterator[Frame], progress: Progress) -> Iterator[Known]:
    last: Known | None = None
    for frame in frames:
        progress(frame)
        found = imprint.imprint(Glance(frame))
        if last is None or _is_new(found.shape, frame.seconds, last):
            last = Known(frame.index, frame.seconds, found)
            yield last


def _is_new(shape: Picture, seconds: Fraction, last: Known) -> bool:
    change = np.abs(shape.astype(np.int16) - last.imprint.shape).mean()
    return bool(change > _SAME_LEVELS or seconds - last.seconds >= _SAME_SECONDS)


def find(pictures: Sequence[Path], db: Path) -> Iterator[tuple[Path, Answer]]:
    """What each picture shows.

    Raises:
        ScenesError, VideoError: see `annotate.errors`.
    """
    with Store(db) as store:
        index = Index(store)
        for path in pictures:
            yield path, index.find(next(iter(video.frames(path))).image)


def find_clip(path: Path, db: Path, progress: Progress = lambda frame: None) -> list[Overlap]:
    """Which stretches of a clip are in known clips, and where there; the longest first."""
    with Store(db) as store:
        index, votes = Index(store), _Votes()
        for frame in Choice(rate=_CLIP_RATE).frames(path):
            progress(frame)
            votes.add(frame.seconds, index.find(frame.image))
    return votes.overlaps()


def remove(names: Sequence[str], db: Path) -> None:
    """Forget clips, by their names or the beginnings of their fingerprints.

    Raises:
        UnknownName: no clip is called so; then none is forgotten.
    """
    with Store(db) as store:
        clips = store.clips()
        found = {n: [c for c in clips if c.name == n or c.fingerprint[:8] == n] for n in names}
        for name, matching in found.items():
            if not matching:
                raise UnknownName("clip", name, [clip.name for clip in clips])
        for clip in dict.fromkeys(clip for matching in found.values() for clip in matching):
            store.remove(clip)


def clips(db: Path) -> list[Clip]:
    """The clips that are known."""
    with Store(db) as store:
        return store.clips()


@dataclass
class _Votes:
    """What the frames of a clip say: at which offset they stand in which known clip."""

    told: list[tuple[Fraction, Clip | None, Fraction]] = field(default_factory=list)

    def add(self, seconds: Fraction, answer: Answer) -> None:
        match = answer.match
        clip, offset = (
            (None, Fraction(0)) if match is None else (match.clip, match.seconds - seconds)
        )
        self.told.append((seconds, clip, offset))

    def overlaps(self) -> list[Overlap]:
        """One for each offset that enough frames agree on; each frame counts for one."""
        left, found = list(self.told), []
        while True:
            bins = Counter(
                (clip, round(offset / _APART_SECONDS)) for _, clip, offset in left if clip
            )
            if not bins or bins.most_common(1)[0][1] < _LEAST_FRAMES:
                break
            (clip, place), _ = bins.most_common(1)[0]
            agreed = [
                each
                for each in left
                if each[1] == clip and abs(each[2] - place * _APART_SECONDS) <= _APART_SECONDS
            ]
            found.append(self._overlap(clip, agreed))
            left = [each for each in left if each not in agreed]
        return sorted(found, key=lambda each: each.start - each.stop)

    def _overlap(self, clip: Clip, agreed: list[tuple[Fraction, Clip | None, Fraction]]) -> Overlap:
        start, stop = agreed[0][0], agreed[-1][0]
        offsets = sorted(offset for _, _, offset in agreed)
        within = sum(start <= seconds <= stop for seconds, _, _ in self.told)
        return Overlap(clip, offsets[len(offsets) // 2], start, stop, len(agreed) / within)
