"""Decide whether and where a shot shows the target, with as few answers as possible.

A single answer may be wrong. A shot is first asked about at a few frames. After a positive answer,
frames beside it are asked until the positive answers lead by three or the negative ones by one; so
one answer in twenty may be wrong, and about one shot in three hundred is judged wrongly. The start
and the end are found by bisection towards a distant frame with a negative answer; if there is no
such frame, the whole shot is taken.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from annotate.search.judge import Judgement

AnswersByFrame = Mapping[int, Judgement | None]
ShotQuery = Generator[list[int], AnswersByFrame, "Occurrence | None"]  # frames -> answers -> result

# Positive answers minus negative ones: from which lead on the shot is accepted, or rejected.
_ACCEPT_LEAD, _REJECT_LEAD = 3, -1
_MAX_BOUNDARY_STEPS = 4  # a boundary is known when this many steps of the shot are left


@dataclass(frozen=True)
class Occurrence:
    """The frames `start` up to `stop` (exclusive) that show the target.

    `best_frame` is the asked frame with the highest confidence; `confidence` is the mean over all
    positive answers, None if the model gave none.
    """

    start: int
    stop: int
    best_frame: int
    confidence: float | None


@dataclass
class QueriedShot:
    """The frames `start` up to `stop` (exclusive) of a clip without a cut, and the answers so far.

    `step` is the distance in frames between two frames that can be asked in place of each other.
    `accepted` says that the shot shows the target, even if the boundaries are not known yet.
    `undecided` says that the answers that could be read do not decide: the shot stays open.
    """

    video: str
    start: int
    stop: int
    step: int = 1
    answers: dict[int, Judgement | None] = field(default_factory=dict)
    accepted: bool = False
    undecided: bool = False

    def spread_frames(self, count: int) -> list[int]:
        """Spread `count` frames over the shot: the middle frame of each equal part."""
        length = self.stop - self.start
        parts = min(count, length)
        return sorted({self.start + (2 * n + 1) * length // (2 * parts) for n in range(parts)})

    def neighbours(self, frame: int, count: int) -> list[int]:
        """List up to `count` frames at whole steps from `frame`, nearest first, not asked yet."""
        max_steps = (self.stop - self.start) // self.step + 1
        offsets = (side * n * self.step for n in range(1, max_steps + 1) for side in (1, -1))
        beside = (frame + offset for offset in offsets)
        inside = [f for f in beside if self.start <= f < self.stop and f not in self.answers]
        return inside[:count]

    def positive_frames(self, frames: Iterable[int]) -> list[int]:
        """Select the frames with a positive answer."""
        return [f for f in frames if (answer := self.answers.get(f)) and answer.shown]


def query_shot(shot: QueriedShot, first_frames: Sequence[int]) -> ShotQuery:
    """Query a shot: yields frames to ask, receives their answers, returns the occurrence or None.

    The answers are added to `shot.answers`. An answer that could not be read is None, which is no
    negative answer: a shot that is left undecided by it is marked.
    """
    shot.answers.update((yield list(first_frames)))
    positives = shot.positive_frames(first_frames)
    if not positives:
        shot.undecided = any(shot.answers[frame] is None for frame in first_frames)
        return None
    is_shown = yield from _confirm(shot, positives)
    shot.undecided = is_shown is None
    if not is_shown:
        return None
    shot.accepted = True
    start = yield from _find_boundary(shot, first_frames, min(positives), -1)
    stop = yield from _find_boundary(shot, first_frames, max(positives), 1)
    return _occurrence(shot, start, stop)


def provisional_occurrence(shot: QueriedShot) -> Occurrence:
    """Make the occurrence of an accepted shot from its answers so far: first to last positive."""
    positives = shot.positive_frames(shot.answers)
    return _occurrence(shot, min(positives), max(positives) + 1)


def _occurrence(shot: QueriedShot, start: int, stop: int) -> Occurrence:
    inside = [frame for frame in shot.positive_frames(shot.answers) if start <= frame < stop]
    best_frame = max(inside, key=lambda f: (_confidence_or_minus_one(shot.answers[f]), -f))
    confidences = [
        answer.confidence
        for frame in inside
        if (answer := shot.answers[frame]) is not None and answer.confidence is not None
    ]
    mean = sum(confidences) / len(confidences) if confidences else None
    return Occurrence(start, stop, best_frame, mean)


def _confirm(
    shot: QueriedShot, positives: list[int]
) -> Generator[list[int], AnswersByFrame, bool | None]:
    """Ask frames beside the first positive frame until one side leads; extends `positives`.

    Returns None where the answers that can be read do not decide.
    """
    lead, unreadable_count = len(positives), 0
    while _REJECT_LEAD < lead < _ACCEPT_LEAD:
        beside = shot.neighbours(positives[0], _ACCEPT_LEAD - lead)
        if not beside:
            return None if unreadable_count else lead > 0
        answers = yield beside
        shot.answers.update(answers)
        readable = [answer for frame in beside if (answer := answers[frame]) is not None]
        unreadable_count += len(beside) - len(readable)
        if not readable:
            return None
        lead += sum(1 if answer.shown else -1 for answer in readable)
        positives += shot.positive_frames(beside)
    return lead > 0


def _find_boundary(
    shot: QueriedShot, first_frames: Sequence[int], inside: int, direction: int
) -> Generator[list[int], AnswersByFrame, int]:
    """Find where the target that is seen at `inside` begins (direction -1) or ends (direction 1).

    Frames up to the nearest frame without a positive answer are asked; that frame is checked first.
    Where no answer can be read, the boundary is at the last frame that is known to show the target.
    """
    end = shot.start if direction < 0 else shot.stop
    beyond = [f for f in first_frames if (f - inside) * direction > 0]
    not_positive = [f for f in beyond if not shot.positive_frames([f])]
    if not not_positive:
        return end
    outside = min(not_positive, key=lambda frame: abs(frame - inside))
    is_shown = yield from _majority_shows(shot, outside)
    if is_shown:
        return end
    while is_shown is not None and abs(outside - inside) > _MAX_BOUNDARY_STEPS * shot.step:
        middle = (outside + inside) // 2
        is_shown = yield from _majority_shows(shot, middle)
        if is_shown:
            inside = middle
        elif is_shown is False:
            outside = middle
    if is_shown is None:
        return inside if direction < 0 else inside + 1
    return outside + 1 if direction < 0 else outside


def _majority_shows(
    shot: QueriedShot, frame: int
) -> Generator[list[int], AnswersByFrame, bool | None]:
    """Ask up to three frames at `frame`; True if most of them show the target, None if unknown."""
    answered = [frame] if frame in shot.answers else []
    unanswered = [] if answered else [frame]
    beside = [f for f in shot.neighbours(frame, 3) if f not in unanswered]
    unanswered += beside[: 3 - len(answered) - len(unanswered)]
    if unanswered:
        shot.answers.update((yield unanswered))
    readable = [f for f in [*answered, *unanswered] if shot.answers[f] is not None]
    return 2 * len(shot.positive_frames(readable)) > len(readable) if readable else None


def _confidence_or_minus_one(answer: Judgement | None) -> float:
    return -1.0 if answer is None or answer.confidence is None else answer.confidence
