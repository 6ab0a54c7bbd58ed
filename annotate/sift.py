"""Frames worth having: one of each shot, none that shows nothing, none that was seen before.

    taken = sift.taken(clip, sift.Taking())              # glances: one of each shot
    for verdict in sift.sift(taken, sift.Sieve()):       # kept, or dropped and why
        ...

Frames are decoded once and judged as they come; what is held does not grow with the clip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from annotate import duplicates, quality, video
from annotate.glance import Glance
from annotate.ignore import ignored
from annotate.records import Frame
from annotate.sample import Choice
from annotate.stretches import Run, Stretches

DUPLICATE, OVER_BUDGET = "duplicate", "over budget"
REASONS = (quality.BLANK, quality.BLURRED, quality.STATIC, DUPLICATE, OVER_BUDGET)
_STATIC_SECONDS = Fraction(1)


@dataclass(frozen=True)
class Taking:
    """Which frames of a clip are looked at: one of each shot, or as `choice` says.

    A shot of more than ten seconds gives one for every ten. `ignore` is what is not looked at:
    boxes `X1,Y1,X2,Y2` in pixels, or pictures whose white is meant.
    """

    shots: bool = True
    choice: Choice = field(default_factory=Choice)
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class Taken:
    """A frame that is looked at, and for how long the picture stood still about it."""

    glance: Glance
    run: Run


@dataclass(frozen=True)
class Sieve:
    """What is dropped: what shows nothing, and duplicates from `threshold` on, up to 1.

    `duplicates` tells how they are known: "ssim" by structure, against the frame kept last of the
    clip; "hash" and "embedding" against all kept of all clips. `everything` drops none.
    """

    duplicates: str = "ssim"
    threshold: float | None = None
    everything: bool = False


@dataclass(frozen=True)
class Verdict:
    """A frame that was looked at: kept, or dropped and why; `like` is the kept one nearest to it.

    `like` is None where it was compared with none.
    """

    glance: Glance
    dropped: str = ""
    like: duplicates.Like | None = None

    @property
    def frame(self) -> Frame:
        """The frame itself."""
        return self.glance.frame


def taken(
    clip: Path | str, taking: Taking, progress: Callable[[Frame], None] = lambda frame: None
) -> Iterator[Taken]:
    """The frames of a clip that are looked at, in order; `progress` is told of each one decoded.

    Raises:
        PromptError: what is to be ignored does not fit the clip.
        MissingPackage: shots are told by PySceneDetect, which is not installed.
    """
    seen = video.probe(clip)
    mask = ignored(taking.ignore, (seen.width, seen.height))

    def glances() -> Iterator[Glance]:
        for frame in taking.choice.frames(clip):
            progress(frame)
            yield Glance(frame, mask)

    if taking.shots:
        return (Taken(*found) for found in Stretches(_is_good).of(glances()))
    return _settled(glances())


class Judge:
    """Told frame after frame, it says of each whether it is kept; `memory` may know frames."""

    def __init__(self, sieve: Sieve, memory: duplicates.Memory | None = None) -> None:
        self._sieve = sieve
        self._least = duplicates.threshold(sieve.duplicates, sieve.threshold)
        self._memory = memory or duplicates.memory(sieve.duplicates, self._least)

    def see(self, taken: Taken) -> Verdict:
        """The verdict on the next frame."""
        if self._sieve.everything:
            return Verdict(taken.glance)
        if why := _shows_nothing(taken):
            return Verdict(taken.glance, why)
        like = self._memory.nearest(taken.glance)
        if like is not None and like.similarity >= self._least:
            return Verdict(taken.glance, DUPLICATE, like)
        self._memory.keep(taken.glance)
        return Verdict(taken.glance, "", like)


def sift(
    frames: Iterable[Taken], sieve: Sieve, memory: duplicates.Memory | None = None
) -> Iterator[Verdict]:
    """Every frame with its verdict, in order. A `memory` given carries on over several clips."""
    return map(Judge(sieve, memory).see, frames)


def _shows_nothing(taken: Taken) -> str:
    if quality.is_blank(taken.glance):
        return quality.BLANK
    if quality.is_blurred(taken.glance):
        return quality.BLURRED
    still = taken.run.seconds >= _STATIC_SECONDS
    return quality.STATIC if still and quality.is_flat(taken.glance) else ""


def _is_good(glance: Glance) -> bool:
    return not quality.is_blank(glance) and not quality.is_blurred(glance)


def _settled(glances: Iterator[Glance]) -> Iterator[Taken]:
    """Each as soon as it is known whether it is of a picture that stands for a second.

    Those that wait, for they may be pages of a menu, share one picture.
    """
    waiting: deque[Taken] = deque()
    run: Run | None = None
    for glance in glances:
        if run is None or not run.goes_on(glance):
            yield from waiting
            waiting.clear()
            run = Run(glance)
        waiting.append(Taken(_shared(glance, waiting), run))
        if run.seconds >= _STATIC_SECONDS or not quality.is_flat(glance):
            yield from waiting
            waiting.clear()
    yield from waiting


def _shared(glance: Glance, waiting: deque[Taken]) -> Glance:
    if not waiting:
        return glance
    return replace(glance, frame=replace(glance.frame, image=waiting[0].glance.frame.image))
