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
        frame_refs: Sequence[FrameRef],
        on_answers: Callable[[Mapping[FrameRef, Judgement | None]], object],
    ) -> dict[FrameRef, Judgement | None]:
        """An answer for each look."""


@dataclass
class ClipShots:
    """Clips by name, cut into shots; `broken` is what those said that break off."""

    paths: dict[str, Path] = field(default_factory=dict)
    videos: dict[str, reader.Video] = field(default_factory=dict)
    shots: list[QueriedShot] = field(default_factory=list)
    decode_errors: list[str] = field(default_factory=list)

    @property
    def frame_count(self) -> int:
        """How many frames all have."""
        return sum(shot.stop - shot.start for shot in self.shots)

    def frames(self, frame_refs: Sequence[FrameRef]) -> Iterator[Frame]:
        """These frames, clip by clip in order."""
        for name in self.paths:
            if wanted := [frame for clip, frame in frame_refs if clip == name]:
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
        found.paths[about.name], found.videos[about.name] = path, about
        step = max(round(about.rate * _NEIGHBOUR_SECONDS), 1)
        for start, stop in _shot_ranges(about, found, progress):
            found.shots.append(QueriedShot(about.name, start, stop, step))
    return found


def _shot_ranges(
    clip_video: reader.Video, clip_shots: ClipShots, progress: Callable[[], object]
) -> list[tuple[int, int]]:
    place = files.cache_dir() / "shots" / f"{clip_video.fingerprint[:32]}-{_CACHE_VERSION}.json"
    known = files.read_json(place)
    if known is not None:
        for _ in range(clip_video.frame_count or 0):
            progress()
        return [(start, stop) for start, stop in known["shots"]]
    whole = True

    def frames() -> Iterator[Frame]:
        nonlocal whole
        try:
            for frame in reader.frames(clip_video.path):
                progress()
                yield frame
        except BrokenVideo as error:
            whole = False
            clip_shots.decode_errors.append(str(error))

    spans = [(shot.start, shot.stop) for shot in shots.detect(frames())]
    if whole:
        files.write_json(place, {"shots": spans})
    return spans


@dataclass
class SearchResults:
    """What came of it: `shown` by shot's place, what was asked, and what could not be."""

    shots: Sequence[QueriedShot]
    occurrences: dict[int, Occurrence] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    picture_count: int = 0
    stop_reason: str = ""


def first_frames(shot: QueriedShot, clip_video: reader.Video, frames_per_shot: int) -> list[int]:
    """Where a shot is asked first: at `looks` places, or one every eight seconds."""
    seconds = float((shot.stop - shot.start) / clip_video.rate)
    return shot.spread_frames(max(frames_per_shot, math.ceil(seconds / _MAX_SPACING_SECONDS)))


def ask_shots(
    clip_shots: ClipShots,
    frame_judge: FrameJudge,
    frames_per_shot: int = 2,
    order: Sequence[int] | None = None,
    pictures_left: Callable[[], int | None] = lambda: None,
    on_pictures: Callable[[int], object] = lambda pictures: None,
) -> SearchResults:
    """Ask of every shot until it is settled; `order` says which first.

    `left` tells how many pictures may still be asked, if that is limited. Then shots are taken on
    as long as three fifths of these suffice for their places; the rest is for settling those of
    them that may show it. What remains open is not settled; `stopped` says why. A shot that was
    believed to show it by then does, from yes to yes.
    """
    found = SearchResults(clip_shots.shots)
    waiting = list(order if order is not None else range(len(clip_shots.shots)))

    def count(answers: Mapping[FrameRef, Judgement | None]) -> None:
        found.picture_count += len(answers)
        on_pictures(len(answers))

    try:
        while waiting:
            wave = _next_shots(clip_shots, waiting, frames_per_shot, pictures_left())
            if not wave:
                found.stop_reason = f"{found.picture_count} pictures were asked, and no more may be"
                break
            del waiting[: len(wave)]
            _settle_shots(found, wave, frame_judge, count, pictures_left)
    except BudgetExceeded as error:
        found.stop_reason = str(error)
    for number, shot in enumerate(clip_shots.shots):
        if shot.accepted and number not in found.settled:
            found.settled.add(number)
            found.occurrences[number] = provisional_occurrence(shot)
    return found


def _next_shots(
    clip_shots: ClipShots, pending: Sequence[int], frames_per_shot: int, pictures_left: int | None
) -> dict[int, list[int]]:
    """The next shots to ask of, and where: all of them, or what is left suffices for."""
    wave, spent = {}, 0
    for number in pending:
        shot = clip_shots.shots[number]
        where = first_frames(shot, clip_shots.videos[shot.video], frames_per_shot)
        spent += len(where)
        if pictures_left is not None and spent > max(
            pictures_left * _FIRST_LOOK_SHARE, min(pictures_left, len(where))
        ):
            break
        wave[number] = where
    return wave


def _settle_shots(
    search_results: SearchResults,
    frames_by_shot: Mapping[int, list[int]],
    frame_judge: FrameJudge,
    on_answers: Callable[[Mapping[FrameRef, Judgement | None]], None],
    pictures_left: Callable[[], int | None],
) -> None:
    """Ask of all shots of a wave side by side, a round of pictures at a time."""
    asking: dict[int, ShotQuery] = {
        n: query_shot(search_results.shots[n], where) for n, where in frames_by_shot.items()
    }
    wants = {number: next(each) for number, each in asking.items()}
    while wants:
        looks = [
            (search_results.shots[n].video, frame)
            for n, frames in wants.items()
            for frame in frames
        ]
        may = pictures_left()
        if may is not None and len(looks) > may:
            wants = dict(list(wants.items())[: len(wants) // 2])
            continue
        answers = frame_judge.ask(looks, on_answers)
        wants = _send_answers(search_results, asking, wants, answers)


def _send_answers(
    search_results: SearchResults,
    queries: Mapping[int, ShotQuery],
    requested: Mapping[int, list[int]],
    answers: Mapping[FrameRef, Judgement | None],
) -> dict[int, list[int]]:
    """Hand the answers on; what each shot that is not settled yet wants to know next."""
    after = {}
    for number, frames in requested.items():
        clip = search_results.shots[number].video
        try:
            after[number] = queries[number].send({f: answers[clip, f] for f in frames})
        except StopIteration as ended:
            search_results.settled.add(number)
            if ended.value is not None:
                search_results.occurrences[number] = ended.value
    return after


def rank_shots(
    clip_shots: ClipShots,
    references: Sequence[Picture],
    frames_per_shot: int = 2,
    progress: Callable[[], object] = lambda: None,
) -> dict[int, tuple[float, int]]:
    """Shot's place -> how near its nearest frame comes to the references, and which frame that is.

    Nobody is asked: see `nearness`. The nearest shot comes first.
    """
    where = {
        (shot.video, frame): number
        for number, shot in enumerate(clip_shots.shots)
        for frame in first_frames(shot, clip_shots.videos[shot.video], frames_per_shot)
    }
    every = list(where)
    near = ReferenceSimilarity(
        references, clip_shots.frames(every[:: -(-len(every) // _BACKGROUND_FRAMES)])
    )
    best: dict[int, tuple[float, int]] = {}
    for frame in clip_shots.frames(every):
        number = where[frame.video, frame.index]
        best[number] = max(best.get(number, (-1.0, 0)), (near.similarity(frame), frame.index))
        progress()
    return dict(sorted(best.items(), key=lambda each: (-each[1][0], each[0])))
