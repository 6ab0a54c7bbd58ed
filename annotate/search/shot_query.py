"""Decide whether and where a shot shows the target, with as few answers as possible.

Single answers may be wrong. A shot is asked about at a few frames. After a positive answer, frames
beside it are asked until positives lead by three or negatives by one; so one answer in twenty may
be wrong, and of three hundred shots one is judged wrongly. Where a distant frame was negative, the
boundary is found by bisection; where none was, the whole shot is taken.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from annotate.search.judge import Judgement

AnswersByFrame = Mapping[int, Judgement | None]
ShotQuery = Generator[
    list[int], AnswersByFrame, "Occurrence | None"
]  # frames to ask -> answers -> what came of it

_ACCEPT_LEAD, _REJECT_LEAD = (
    3,
    -1,
)  # by how many yeses must lead to be believed, and be behind not to be


@dataclass(frozen=True)
class Occurrence:
    """Frames `start` up to, not including, `stop` show it; `surest` is the best of those asked."""

    start: int
    stop: int
    best_frame: int
    confidence: float | None


@dataclass
class QueriedShot:
    """Frames `start` up to `stop` of a clip, that follow one another without a cut.

    `step` is how many frames lie between two that are asked in place of one another. `said` and
    `believed` are what asking has brought.
    """

    video: str
    start: int
    stop: int
    step: int = 1
    answers: dict[int, Judgement | None] = field(default_factory=dict)
    accepted: bool = False  # that it shows it, whether or not it is known from where to where

    def spread_frames(self, count: int) -> list[int]:
        """So many frames, spread over it: the middle one of each equal part."""
        length = self.stop - self.start
        parts = min(count, length)
        return sorted({self.start + (2 * n + 1) * length // (2 * parts) for n in range(parts)})

    def neighbours(self, frame: int, count: int) -> list[int]:
        """At most so many frames not asked yet, the nearest to `frame` at whole steps from it."""
        most = (self.stop - self.start) // self.step + 1
        offsets = (side * n * self.step for n in range(1, most + 1) for side in (1, -1))
        free = (frame + offset for offset in offsets)
        inside = [f for f in free if self.start <= f < self.stop and f not in self.answers]
        return inside[:count]

    def positive_frames(self, frames: Iterable[int]) -> list[int]:
        """Those of the frames that were said to show it."""
        return [frame for frame in frames if (said := self.answers.get(frame)) and said.shown]


def query_shot(shot: QueriedShot, first_frames: Sequence[int]) -> ShotQuery:
    """Ask of a shot; `shot.said` grows by what is answered."""
    shot.answers.update((yield list(first_frames)))
    yes = shot.positive_frames(first_frames)
    if not yes or not (yield from _confirm(shot, yes)):
        return None
    shot.accepted = True
    start = yield from _find_boundary(shot, first_frames, min(yes), -1)
    stop = yield from _find_boundary(shot, first_frames, max(yes), 1)
    return _occurrence(shot, start, stop)


def provisional_occurrence(shot: QueriedShot) -> Occurrence:
    """What is known of a shot that is believed, were nothing more asked: from yes to yes."""
    yes = shot.positive_frames(shot.answers)
    return _occurrence(shot, min(yes), max(yes) + 1)


def _occurrence(shot: QueriedShot, start: int, stop: int) -> Occurrence:
    seen = [frame for frame in shot.positive_frames(shot.answers) if start <= frame < stop]
    surest = max(seen, key=lambda frame: (_confidence_or_minus_one(shot.answers[frame]), -frame))
    told = [each.confidence for f in seen if (each := shot.answers[f]) is not None]
    given = [confidence for confidence in told if confidence is not None]
    return Occurrence(start, stop, surest, sum(given) / len(given) if given else None)


def _confirm(shot: QueriedShot, positives: list[int]) -> Generator[list[int], AnswersByFrame, bool]:
    """Whether the yeses hold, frames beside the first being asked too; those join `yes`."""
    lead = len(positives)
    while _REJECT_LEAD < lead < _ACCEPT_LEAD:
        beside = shot.neighbours(positives[0], _ACCEPT_LEAD - lead)
        if not beside:
            break
        said = yield beside
        shot.answers.update(said)
        for frame in beside:
            if (answer := said[frame]) is not None:
                lead += 1 if answer.shown else -1
        positives += shot.positive_frames(beside)
    return lead > 0


def _find_boundary(
    shot: QueriedShot, first_frames: Sequence[int], inside: int, direction: int
) -> Generator[list[int], AnswersByFrame, int]:
    """Where what is seen at `inside` begins (way -1) or ends (way 1).

    It is asked only up to the nearest place that said no, and that no is asked again.
    """
    end = shot.start if direction < 0 else shot.stop
    beyond = [
        p for p in first_frames if (p - inside) * direction > 0 and shot.answers[p] is not None
    ]
    beyond = [p for p in beyond if not shot.positive_frames([p])]
    if not beyond:
        return end
    outside = min(beyond, key=lambda place: abs(place - inside))
    if (yield from _majority_shows(shot, outside)):
        return end
    while abs(outside - inside) > 4 * shot.step:
        middle = (outside + inside) // 2
        if (yield from _majority_shows(shot, middle)):
            inside = middle
        else:
            outside = middle
    return outside + 1 if direction < 0 else outside


def _majority_shows(shot: QueriedShot, frame: int) -> Generator[list[int], AnswersByFrame, bool]:
    """Whether most of three frames at `frame` show it."""
    known = [frame] if frame in shot.answers else []
    fresh = [] if known else [frame]
    fresh += [f for f in shot.neighbours(frame, 3) if f not in fresh][: 3 - len(known) - len(fresh)]
    if fresh:
        shot.answers.update((yield fresh))
    asked = [f for f in [*known, *fresh] if shot.answers[f] is not None]
    return 2 * len(shot.positive_frames(asked)) > len(asked)


def _confidence_or_minus_one(answer: Judgement | None) -> float:
    return -1.0 if answer is None or answer.confidence is None else answer.confidence
