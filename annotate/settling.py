"""What a shot shows, settled by asking of its frames no more than it takes.

An answer may be wrong, now and then. A shot is asked at a few places. At a yes, frames beside it
are asked until the yeses lead by three, or the noes by one; so one answer in twenty may be wrong,
and of three hundred shots one is judged wrongly. Where a far place said no, when the thing
comes or goes is found by bisection; where none did, the whole shot shows it, and nothing is asked.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from annotate.asking import Answer

Said = Mapping[int, Answer | None]
Asking = Generator[list[int], Said, "Shown | None"]  # frames to ask -> answers -> what came of it

_SURE, _DOUBT = 3, -1  # by how many yeses must lead to be believed, and be behind not to be


@dataclass(frozen=True)
class Shown:
    """Frames `start` up to, not including, `stop` show it; `surest` is the best of those asked."""

    start: int
    stop: int
    surest: int
    confidence: float | None


@dataclass
class Shot:
    """Frames `start` up to `stop` of a clip, that follow one another without a cut.

    `step` is how many frames lie between two that are asked in place of one another. `said` and
    `believed` are what asking has brought.
    """

    video: str
    start: int
    stop: int
    step: int = 1
    said: dict[int, Answer | None] = field(default_factory=dict)
    believed: bool = False  # that it shows it, whether or not it is known from where to where

    def places(self, count: int) -> list[int]:
        """So many frames, spread over it: the middle one of each equal part."""
        length = self.stop - self.start
        parts = min(count, length)
        return sorted({self.start + (2 * n + 1) * length // (2 * parts) for n in range(parts)})

    def beside(self, frame: int, count: int) -> list[int]:
        """At most so many frames not asked yet, the nearest to `frame` at whole steps from it."""
        most = (self.stop - self.start) // self.step + 1
        offsets = (side * n * self.step for n in range(1, most + 1) for side in (1, -1))
        free = (frame + offset for offset in offsets)
        inside = [f for f in free if self.start <= f < self.stop and f not in self.said]
        return inside[:count]

    def yes(self, frames: Iterable[int]) -> list[int]:
        """Those of the frames that were said to show it."""
        return [frame for frame in frames if (said := self.said.get(frame)) and said.shown]


def settle(shot: Shot, places: Sequence[int]) -> Asking:
    """Ask of a shot; `shot.said` grows by what is answered."""
    shot.said.update((yield list(places)))
    yes = shot.yes(places)
    if not yes or not (yield from _confirmed(shot, yes)):
        return None
    shot.believed = True
    start = yield from _edge(shot, places, min(yes), -1)
    stop = yield from _edge(shot, places, max(yes), 1)
    return _shown(shot, start, stop)


def so_far(shot: Shot) -> Shown:
    """What is known of a shot that is believed, were nothing more asked: from yes to yes."""
    yes = shot.yes(shot.said)
    return _shown(shot, min(yes), max(yes) + 1)


def _shown(shot: Shot, start: int, stop: int) -> Shown:
    seen = [frame for frame in shot.yes(shot.said) if start <= frame < stop]
    surest = max(seen, key=lambda frame: (_sureness(shot.said[frame]), -frame))
    told = [each.confidence for f in seen if (each := shot.said[f]) is not None]
    given = [confidence for confidence in told if confidence is not None]
    return Shown(start, stop, surest, sum(given) / len(given) if given else None)


def _confirmed(shot: Shot, yes: list[int]) -> Generator[list[int], Said, bool]:
    """Whether the yeses hold, frames beside the first being asked too; those join `yes`."""
    lead = len(yes)
    while _DOUBT < lead < _SURE:
        beside = shot.beside(yes[0], _SURE - lead)
        if not beside:
            break
        said = yield beside
        shot.said.update(said)
        for frame in beside:
            if (answer := said[frame]) is not None:
                lead += 1 if answer.shown else -1
        yes += shot.yes(beside)
    return lead > 0


def _edge(
    shot: Shot, places: Sequence[int], inside: int, way: int
) -> Generator[list[int], Said, int]:
    """Where what is seen at `inside` begins (way -1) or ends (way 1).

    It is asked only up to the nearest place that said no, and that no is asked again.
    """
    end = shot.start if way < 0 else shot.stop
    beyond = [p for p in places if (p - inside) * way > 0 and shot.said[p] is not None]
    beyond = [p for p in beyond if not shot.yes([p])]
    if not beyond:
        return end
    outside = min(beyond, key=lambda place: abs(place - inside))
    if (yield from _majority(shot, outside)):
        return end
    while abs(outside - inside) > 4 * shot.step:
        middle = (outside + inside) // 2
        if (yield from _majority(shot, middle)):
            inside = middle
        else:
            outside = middle
    return outside + 1 if way < 0 else outside


def _majority(shot: Shot, frame: int) -> Generator[list[int], Said, bool]:
    """Whether most of three frames at `frame` show it."""
    known = [frame] if frame in shot.said else []
    fresh = [] if known else [frame]
    fresh += [f for f in shot.beside(frame, 3) if f not in fresh][: 3 - len(known) - len(fresh)]
    if fresh:
        shot.said.update((yield fresh))
    asked = [f for f in [*known, *fresh] if shot.said[f] is not None]
    return 2 * len(shot.yes(asked)) > len(asked)


def _sureness(answer: Answer | None) -> float:
    return -1.0 if answer is None or answer.confidence is None else answer.confidence
