"""Ask a judge about all shots, round by round, or rank the shots by similarity to references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from annotate.embeddings import ReferenceSimilarity
from annotate.errors import AnswerError, BudgetExceeded
from annotate.items.records import Picture
from annotate.progress import counted
from annotate.search.clip_shots import ClipShots, first_frames
from annotate.search.judge import FrameRef, Judgement
from annotate.search.shot_query import (
    Occurrence,
    QueriedShot,
    ShotQuery,
    provisional_occurrence,
    query_shot,
)

_BACKGROUND_FRAMES = 200  # frames that describe what most of the footage looks like
_FIRST_FRAMES_SHARE = 0.6  # of the pictures left; the others follow positive answers


class FrameJudge(Protocol):
    """Judges whether frames show the target; `judge.VlmJudge` is the one that asks a model."""

    def ask(
        self,
        frame_refs: Sequence[FrameRef],
        on_answers: Callable[[Mapping[FrameRef, Judgement | None]], object],
    ) -> dict[FrameRef, Judgement | None]:
        """Judge each frame; `on_answers` gets each batch of answers as it arrives."""


@dataclass
class SearchResults:
    """The shots of a search and their results; keys are indices into `shots`.

    `settled` are the shots that are decided, `occurrences` those that show the target.
    `picture_count` counts the frames that were asked, cached answers included, `unreadable_count`
    those of them without an answer that can be read. `stop_reason` says why shots are still open;
    it is empty when all are settled.
    """

    shots: Sequence[QueriedShot]
    occurrences: dict[int, Occurrence] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    picture_count: int = 0
    unreadable_count: int = 0
    stop_reason: str = ""

    @property
    def open_count(self) -> int:
        """The number of shots that are not decided."""
        return len(self.shots) - len(self.settled)


def ask_shots(
    clip_shots: ClipShots,
    frame_judge: FrameJudge,
    frames_per_shot: int = 2,
    order: Sequence[int] | None = None,
    pictures_left: Callable[[], int | None] = lambda: None,
    on_pictures: Callable[[int], object] = lambda count: None,
) -> SearchResults:
    """Ask about every shot until it is settled; `order` lists the shots to ask first.

    `pictures_left` gives how many more pictures may be asked, None for no limit. With a limit, new
    shots are taken as long as three fifths of the limit cover their first frames; the rest settles
    the shots that may show the target. A shot that is accepted but not settled when the limit is
    reached gets a provisional occurrence. `on_pictures` gets the number of pictures just answered.

    A shot is open if its answers cannot be read, or are missing for the model stopped answering.

    Raises:
        AnswerError: the model answered nothing at all.
    """
    results = SearchResults(clip_shots.shots)
    pending = list(order if order is not None else range(len(clip_shots.shots)))

    def count(answers: Mapping[FrameRef, Judgement | None]) -> None:
        results.picture_count += len(answers)
        results.unreadable_count += sum(answer is None for answer in answers.values())
        on_pictures(len(answers))

    try:
        while pending:
            wave = _next_shots(clip_shots, pending, frames_per_shot, pictures_left())
            if not wave:
                asked = counted(results.picture_count, "picture")
                results.stop_reason = f"{asked} asked about, and no more may be"
                break
            del pending[: len(wave)]
            _settle_shots(results, wave, frame_judge, count, pictures_left)
    except AnswerError as error:
        if not results.picture_count and not isinstance(error, BudgetExceeded):
            raise
        results.stop_reason = str(error)
    for index, shot in enumerate(clip_shots.shots):
        if shot.accepted and index not in results.settled:
            results.settled.add(index)
            results.occurrences[index] = provisional_occurrence(shot)
    if results.open_count and not results.stop_reason:
        pictures = counted(results.unreadable_count, "picture")
        results.stop_reason = f"{pictures} got no answer that can be read"
    return results


def _next_shots(
    clip_shots: ClipShots, pending: Sequence[int], frames_per_shot: int, pictures_left: int | None
) -> dict[int, list[int]]:
    """Select the shots to ask next and their first frames: all, or as many as the limit allows."""
    wave, picture_count = {}, 0
    for index in pending:
        shot = clip_shots.shots[index]
        frames = first_frames(shot, clip_shots.videos[shot.video], frames_per_shot)
        picture_count += len(frames)
        if pictures_left is not None:
            for_one_shot = min(pictures_left, len(frames))
            if picture_count > max(pictures_left * _FIRST_FRAMES_SHARE, for_one_shot):
                break
        wave[index] = frames
    return wave


def _settle_shots(
    results: SearchResults,
    frames_by_shot: Mapping[int, list[int]],
    frame_judge: FrameJudge,
    on_answers: Callable[[Mapping[FrameRef, Judgement | None]], None],
    pictures_left: Callable[[], int | None],
) -> None:
    """Query several shots together, one round of pictures after the other."""
    queries: dict[int, ShotQuery] = {
        index: query_shot(results.shots[index], frames) for index, frames in frames_by_shot.items()
    }
    requested = {index: next(query) for index, query in queries.items()}
    while requested:
        frame_refs = [
            (results.shots[index].video, frame)
            for index, frames in requested.items()
            for frame in frames
        ]
        limit = pictures_left()
        if limit is not None and len(frame_refs) > limit:
            requested = dict(list(requested.items())[: len(requested) // 2])
            continue
        answers: dict[FrameRef, Judgement | None] = {}

        def collect(batch: Mapping[FrameRef, Judgement | None], answers: Any = answers) -> None:
            answers.update(batch)
            on_answers(batch)

        try:
            frame_judge.ask(frame_refs, collect)
        finally:  # the answers before an error count as well
            requested = _send_answers(results, queries, requested, answers)


def _send_answers(
    results: SearchResults,
    queries: Mapping[int, ShotQuery],
    requested: Mapping[int, list[int]],
    answers: Mapping[FrameRef, Judgement | None],
) -> dict[int, list[int]]:
    """Send the answers to the queries; returns the frames that the open queries request next.

    A query that lacks an answer, for the model stopped answering, gets none.
    """
    next_requested = {}
    for index, frames in requested.items():
        clip = results.shots[index].video
        if any((clip, frame) not in answers for frame in frames):
            continue
        try:
            next_requested[index] = queries[index].send({f: answers[clip, f] for f in frames})
        except StopIteration as ended:
            if not results.shots[index].undecided:
                results.settled.add(index)
            if ended.value is not None:
                results.occurrences[index] = ended.value
    return next_requested


def rank_shots(
    clip_shots: ClipShots,
    references: Sequence[Picture],
    frames_per_shot: int = 2,
    progress: Callable[[], object] = lambda: None,
) -> dict[int, tuple[float, int]]:
    """Rank shots by similarity, best first: shot index -> (similarity, most similar frame).

    No model is asked: see `embeddings.ReferenceSimilarity`.
    """
    shot_by_frame = {
        (shot.video, frame): index
        for index, shot in enumerate(clip_shots.shots)
        for frame in first_frames(shot, clip_shots.videos[shot.video], frames_per_shot)
    }
    frame_refs = list(shot_by_frame)
    background = frame_refs[:: -(-len(frame_refs) // _BACKGROUND_FRAMES)]
    similarity = ReferenceSimilarity(references, clip_shots.frames(background)).similarity
    best: dict[int, tuple[float, int]] = {}
    for frame in clip_shots.frames(frame_refs):
        index = shot_by_frame[frame.video, frame.index]
        best[index] = max(best.get(index, (-1.0, 0)), (similarity(frame), frame.index))
        progress()
    return dict(sorted(best.items(), key=lambda entry: (-entry[1][0], entry[0])))
