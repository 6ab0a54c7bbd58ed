"""Find every shot that shows a thing: cut footage into shots, ask of each as little as it takes.

A *question* is one request to a model, with up to ten numbered pictures in it: what its bill
counts. `pictures` are the frames that were sent, those of answers which the cache knew included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from annotate import answer_cache, shots, video
from annotate.asking import Answer, Look
from annotate.errors import BrokenVideo, BudgetSpent, VideoError
from annotate.nearness import Nearness
from annotate.records import Frame, Picture
from annotate.settling import Asking, Shot, Shown, settle, so_far

_USUAL = 200  # frames that tell what is usual
_BESIDE_SECONDS = Fraction(1, 10)  # between frames that are asked in place of one another
_APART_SECONDS = 8  # between places of a long shot, at most
_SHARE = 0.6  # of what may be asked still, for places; the rest is for what follows a yes
_KEPT = 2  # of the format of kept shots


class Asks(Protocol):
    """Who is asked of frames: `asking.Asker`."""

    def ask(
        self, looks: Sequence[Look], told: Callable[[Mapping[Look, Answer | None]], object]
    ) -> dict[Look, Answer | None]:
        """An answer for each look."""


@dataclass
class Clips:
    """Clips by name, cut into shots; `broken` is what those said that break off."""

    paths: dict[str, Path] = field(default_factory=dict)
    about: dict[str, video.Video] = field(default_factory=dict)
    shots: list[Shot] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def frame_count(self) -> int:
        """How many frames all have."""
        return sum(shot.stop - shot.start for shot in self.shots)

    def frames(self, looks: Sequence[Look]) -> Iterator[Frame]:
        """These frames, clip by clip in order."""
        for name in self.paths:
            if wanted := [frame for clip, frame in looks if clip == name]:
                yield from video.frames_at(self.paths[name], wanted)


def cut(clips: Sequence[Path], progress: Callable[[], object] = lambda: None) -> Clips:
    """Cut clips into shots; where they lie is kept on this machine, and not looked for again.

    Raises:
        VideoError: two clips have one name, or one cannot be read.
        MissingPackage: PySceneDetect is not installed.
    """
    found = Clips()
    for path in clips:
        about = video.probe(path)
        if about.name in found.paths:
            raise VideoError(f"two clips are called {about.name}: rename one, or go one by one")
        found.paths[about.name], found.about[about.name] = path, about
        step = max(round(about.rate * _BESIDE_SECONDS), 1)
        for start, stop in _spans(about, found, progress):
            found.shots.append(Shot(about.name, start, stop, step))
    return found


def _spans(
    about: video.Video, found: Clips, progress: Callable[[], object]
) -> list[tuple[int, int]]:
    place = answer_cache.home() / "shots" / f"{about.fingerprint[:32]}-{_KEPT}.json"
    known = answer_cache.read(place)
    if known is not None:
        for _ in range(about.frame_count or 0):
            progress()
        return [(start, stop) for start, stop in known["shots"]]
    whole = True

    def frames() -> Iterator[Frame]:
        nonlocal whole
        try:
            for frame in video.frames(about.path):
                progress()
                yield frame
        except BrokenVideo as error:
            whole = False
            found.broken.append(str(error))

    spans = [(shot.start, shot.stop) for shot in shots.shots(frames())]
    if whole:
        answer_cache.save(place, {"shots": spans})
    return spans


@dataclass
class Findings:
    """What came of it: `shown` by shot's place, what was asked, and what could not be."""

    shots: Sequence[Shot]
    shown: dict[int, Shown] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    pictures: int = 0
    stopped: str = ""


def places(shot: Shot, about: video.Video, looks: int) -> list[int]:
    """Where a shot is asked first: at `looks` places, or one every eight seconds."""
    seconds = float((shot.stop - shot.start) / about.rate)
    return shot.places(max(looks, math.ceil(seconds / _APART_SECONDS)))


def ask(
    clips: Clips,
    asker: Asks,
    looks: int = 2,
    order: Sequence[int] | None = None,
    left: Callable[[], int | None] = lambda: None,
    told: Callable[[int], object] = lambda pictures: None,
) -> Findings:
    """Ask of every shot until it is settled; `order` says which first.

    `left` tells how many pictures may still be asked, if that is limited. Then shots are taken on
    as long as three fifths of these suffice for their places; the rest is for settling those of
    them that may show it. What remains open is not settled; `stopped` says why. A shot that was
    believed to show it by then does, from yes to yes.
    """
    found = Findings(clips.shots)
    waiting = list(order if order is not None else range(len(clips.shots)))

    def count(answers: Mapping[Look, Answer | None]) -> None:
        found.pictures += len(answers)
        told(len(answers))

    try:
        while waiting:
            wave = _wave(clips, waiting, looks, left())
            if not wave:
                found.stopped = f"{found.pictures} pictures were asked, and no more may be"
                break
            del waiting[: len(wave)]
            _settle(found, wave, asker, count, left)
    except BudgetSpent as error:
        found.stopped = str(error)
    for number, shot in enumerate(clips.shots):
        if shot.believed and number not in found.settled:
            found.settled.add(number)
            found.shown[number] = so_far(shot)
    return found


def _wave(
    clips: Clips, waiting: Sequence[int], looks: int, left: int | None
) -> dict[int, list[int]]:
    """The next shots to ask of, and where: all of them, or what is left suffices for."""
    wave, spent = {}, 0
    for number in waiting:
        shot = clips.shots[number]
        where = places(shot, clips.about[shot.video], looks)
        spent += len(where)
        if left is not None and spent > max(left * _SHARE, min(left, len(where))):
            break
        wave[number] = where
    return wave


def _settle(
    found: Findings,
    wave: Mapping[int, list[int]],
    asker: Asks,
    count: Callable[[Mapping[Look, Answer | None]], None],
    left: Callable[[], int | None],
) -> None:
    """Ask of all shots of a wave side by side, a round of pictures at a time."""
    asking: dict[int, Asking] = {n: settle(found.shots[n], where) for n, where in wave.items()}
    wants = {number: next(each) for number, each in asking.items()}
    while wants:
        looks = [(found.shots[n].video, frame) for n, frames in wants.items() for frame in frames]
        may = left()
        if may is not None and len(looks) > may:
            wants = dict(list(wants.items())[: len(wants) // 2])
            continue
        answers = asker.ask(looks, count)
        wants = _answered(found, asking, wants, answers)


def _answered(
    found: Findings,
    asking: Mapping[int, Asking],
    wants: Mapping[int, list[int]],
    answers: Mapping[Look, Answer | None],
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


def rank(
    clips: Clips,
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
        for frame in places(shot, clips.about[shot.video], looks)
    }
    every = list(where)
    near = Nearness(references, clips.frames(every[:: -(-len(every) // _USUAL)]))
    best: dict[int, tuple[float, int]] = {}
    for frame in clips.frames(every):
        number = where[frame.video, frame.index]
        best[number] = max(best.get(number, (-1.0, 0)), (near.of(frame), frame.index))
        progress()
    return dict(sorted(best.items(), key=lambda each: (-each[1][0], each[0])))
