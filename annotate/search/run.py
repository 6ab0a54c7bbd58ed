"""Search clips for the shots that show a target: detect shots, then ask about frames.

A *question* is one request to a model, with up to ten numbered pictures; it is the unit that the
usage report counts. `picture_count` counts the frames that were sent, cached answers included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from annotate import files
from annotate.embeddings import ReferenceSimilarity
from annotate.errors import BrokenVideo, BudgetExceeded, VideoError
from annotate.items.records import Frame, Picture
from annotate.sampling import shots
from annotate.search.judge import FrameRef, Judgement
from annotate.search.shot_query import (
    Occurrence,
    QueriedShot,
    ShotQuery,
    provisional_occurrence,
    query_shot,
)
from annotate.video import reader

_BACKGROUND_FRAMES = 200  # frames that tell what is usual
_NEIGHBOUR_SECONDS = Fraction(1, 10)  # between frames that are asked in place of one another
_MAX_SPACING_SECONDS = 8  # between places of a long shot, at most
_FIRST_LOOK_SHARE = (
    0.6  # of what may be asked still, for places; the rest is for what follows a yes
)
_CACHE_VERSION = 2  # of the format of kept shots


class FrameJudge(Protocol):
    """Who is asked of frames: `asking.Asker`."""

    def ask(
        self,
        looks: Sequence[FrameRef],
        told: Callable[[Mapping[FrameRef, Judgement | None]], object],
    ) -> dict[FrameRef, Judgement | None]:
        """An answer for each look."""


@dataclass
class ClipShots:
    """Clips by name, cut into shots; `broken` is what those said that break off."""

    paths: dict[str, Path] = field(default_factory=dict)
    about: dict[str, reader.Video] = field(default_factory=dict)
    shots: list[QueriedShot] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def frame_count(self) -> int:
        """How many frames all have."""
        return sum(shot.stop - shot.start for shot in self.shots)

    def frames(self, looks: Sequence[FrameRef]) -> Iterator[Frame]:
        """These frames, clip by clip in order."""
        for name in self.paths:
            if wanted := [frame for clip, frame in looks if clip == name]:
                yield from reader.frames_at(self.paths[name], wanted)


def cut_into_shots(
    clips: Sequence[Path], progress: Callable[[], object] = lambda: None
) -> ClipShots:
    """Cut clips into shots; where they lie is kept on this machine, and not looked for again.

    Raises:
        VideoError: two clips have one name, or one cannot be read.
        MissingPackage: PySceneDetect is not installed.
    """
    found = ClipShots()
    for path in clips:
        about = reader.probe(path)
        if about.name in found.paths:
            raise VideoError(f"two clips are called {about.name}: rename one, or go one by one")
        found.paths[about.name], found.about[about.name] = path, about
        step = max(round(about.rate * _NEIGHBOUR_SECONDS), 1)
        for start, stop in _shot_ranges(about, found, progress):
            found.shots.append(QueriedShot(about.name, start, stop, step))
    return found


def _shot_ranges(
    about: reader.Video, found: ClipShots, progress: Callable[[], object]
) -> list[tuple[int, int]]:
    place = files.cache_dir() / "shots" / f"{about.fingerprint[:32]}-{_CACHE_VERSION}.json"
    known = files.read_json(place)
    if known is not None:
        for _ in range(about.frame_count or 0):
            progress()
        return [(start, stop) for start, stop in known["shots"]]
    whole = True

    def frames() -> Iterator[Frame]:
        nonlocal whole
        try:
            for frame in reader.frames(about.path):
                progress()
                yield frame
        except BrokenVideo as error:
            whole = False
            found.broken.append(str(error))

    spans = [(shot.start, shot.stop) for shot in shots.detect(frames())]
    if whole:
        files.write_json(place, {"shots": spans})
    return spans


@dataclass
class SearchResults:
    """What came of it: `shown` by shot's place, what was asked, and what could not be."""

    shots: Sequence[QueriedShot]
    shown: dict[int, Occurrence] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    pictures: int = 0
    stopped: str = ""


def first_frames(shot: QueriedShot, about: reader.Video, looks: int) -> list[int]:
    """Where a shot is asked first: at `looks` places, or one every eight seconds."""
    seconds = float((shot.stop - shot.start) / about.rate)
    return shot.places(max(looks, math.ceil(seconds / _MAX_SPACING_SECONDS)))


def ask_shots(
    clips: ClipShots,
    asker: FrameJudge,
    looks: int = 2,
    order: Sequence[int] | None = None,
    left: Callable[[], int | None] = lambda: None,
    told: Callable[[int], object] = lambda pictures: None,
) -> SearchResults:
    """Ask of every shot until it is settled; `order` says which first.

    `left` tells how many pictures may still be asked, if that is limited. Then shots are taken on
    as long as three fifths of these suffice for their places; the rest is for settling those of
    them that may show it. What remains open is not settled; `stopped` says why. A shot that was
    believed to show it by then does, from yes to yes.
    """
    found = SearchResults(clips.shots)
    waiting = list(order if order is not None else range(len(clips.shots)))

    def count(answers: Mapping[FrameRef, Judgement | None]) -> None:
        found.pictures += len(answers)
        told(len(answers))

    try:
        while waiting:
            wave = _next_shots(clips, waiting, looks, left())
            if not wave:
                found.stopped = f"{found.pictures} pictures were asked, and no more may be"
                break
            del waiting[: len(wave)]
            _settle_shots(found, wave, asker, count, left)
    except BudgetExceeded as error:
        found.stopped = str(error)
    for number, shot in enumerate(clips.shots):
        if shot.believed and number not in found.settled:
            found.settled.add(number)
            found.shown[number] = provisional_occurrence(shot)
    return found


def _next_shots(
    clips: ClipShots, waiting: Sequence[int], looks: int, left: int | None
) -> dict[int, list[int]]:
    """The next shots to ask of, and where: all of them, or what is left suffices for."""
    wave, spent = {}, 0
    for number in waiting:
        shot = clips.shots[number]
        where = first_frames(shot, clips.about[shot.video], looks)
        spent += len(where)
        if left is not None and spent > max(left * _FIRST_LOOK_SHARE, min(left, len(where))):
            break
        wave[number] = where
    return wave


def _settle_shots(
    found: SearchResults,
    wave: Mapping[int, list[int]],
    asker: FrameJudge,
    count: Callable[[Mapping[FrameRef, Judgement | None]], None],
    left: Callable[[], int | None],
) -> None:
    """Ask of all shots of a wave side by side, a round of pictures at a time."""
    asking: dict[int, ShotQuery] = {
        n: query_shot(found.shots[n], where) for n, where in wave.items()
    }
    wants = {number: next(each) for number, each in asking.items()}
    while wants:
        looks = [(found.shots[n].video, frame) for n, frames in wants.items() for frame in frames]
        may = left()
        if may is not None and len(looks) > may:
            wants = dict(list(wants.items())[: len(wants) // 2])
            continue
        answers = asker.ask(looks, count)
        wants = _send_answers(found, asking, wants, answers)


def _send_answers(
    found: SearchResults,
    asking: Mapping[int, ShotQuery],
    wants: Mapping[int, list[int]],
    answers: Mapping[FrameRef, Judgement | None],
) -> dict[int, list[int]]:
    """Hand the answers on; what each shot that is not settled yet wants to know next."""
    after = {}
    for number, frames in wants.items():
        clip = found.shots[number].video
        try:
            after[number] = asking[number].send({f: answers[clip, f] for f in frames})
        except StopIteration as ended:
            found.settled.add(number)
            if ended.value is not None:
                found.shown[number] = ended.value
    return after


def rank_shots(
    clips: ClipShots,
    references: Sequence[Picture],
    looks: int = 2,
    progress: Callable[[], object] = lambda: None,
) -> dict[int, tuple[float, int]]:
    """Shot's place -> how near its nearest frame comes to the references, and which frame that is.

    Nobody is asked: see `nearness`. The nearest shot comes first.
    """
    where = {
        (shot.video, frame): number
        for number, shot in enumerate(clips.shots)
        for frame in first_frames(shot, clips.about[shot.video], looks)
    }
    every = list(where)
    near = ReferenceSimilarity(
        references, clips.frames(every[:: -(-len(every) // _BACKGROUND_FRAMES)])
    )
    best: dict[int, tuple[float, int]] = {}
    for frame in clips.frames(every):
        number = where[frame.video, frame.index]
        best[number] = max(best.get(number, (-1.0, 0)), (near.of(frame), frame.index))
        progress()
    return dict(sorted(best.items(), key=lambda each: (-each[1][0], each[0])))
