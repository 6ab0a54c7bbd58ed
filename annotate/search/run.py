"""Search clips for the shots that show a target: cut into shots, then ask a model or rank.

    outcome = find_shots(["ep1.mp4"], ["robot.png"], "the robot", SearchOptions(max_shots=5))
    for hit in outcome.hits:
        print(hit.video, hit.seconds, hit.confidence)

The method "vlm" asks a vision-language model. A *question* is one request to the model, with up to
ten numbered pictures; it is the unit that the usage report counts. The method "local" ranks shots
by similarity to the references, and nothing leaves the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from annotate import files
from annotate.errors import AnswerError, UnknownName
from annotate.items.records import Header, Picture
from annotate.locking.locks import locked_folder
from annotate.progress import Notes, ProgressBar, no_progress
from annotate.search import results
from annotate.search.ask import SearchResults, ask_shots, rank_shots
from annotate.search.clip_shots import ClipShots, cut_into_shots, first_frames
from annotate.search.judge import VlmJudge, read_reference, vlm_judge
from annotate.search.results import Hit
from annotate.search.shot_query import Occurrence
from annotate.video import reader
from annotate.video.reader import FrameSelection
from annotate.vlm.budget import Usage, UsageTotal

METHODS = ("local", "vlm")
_LATER_PICTURES = 1.2  # pictures of a whole search, per first frame


@dataclass(frozen=True)
class SearchOptions:
    """How a search is done.

    `method` is "local" or "vlm". `frames_per_shot` frames of each shot are compared or asked first.
    "local" gives the `max_shots` most similar shots. "vlm" asks about `max_pictures` pictures at
    most, `batch_size` of them in a question, `workers` questions in parallel, and spends no more
    than `budget`; `vlm_settings` are options of the detector `vlm`, as text, such as `model` and
    `url`.
    """

    method: str = "local"
    frames_per_shot: int = 2
    max_shots: int = 40
    max_pictures: int | None = None
    budget: float | None = None
    batch_size: int = 10
    workers: int = 15
    vlm_settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchEstimate:
    """The expected size and cost of a search; `cost` is 0 where no prices are given."""

    frame_count: int
    shot_count: int
    picture_count: int
    question_count: int
    tokens_in: int
    tokens_out: int
    cost: float


@dataclass(frozen=True)
class FoundShots:
    """The outcome of a search: the hits, the shots of the clips, the result for each shot.

    `usage` is what a model was asked and what it cost; None for the method "local". `notes` count
    the pictures without an answer that can be read. `is_new` is False where `output` held a
    complete search already, which was read.
    """

    hits: Sequence[Hit]
    clip_shots: ClipShots
    results: SearchResults
    usage: UsageTotal | None = None
    notes: Notes = field(default_factory=Notes)
    is_new: bool = True


def find_shots(
    clips: Sequence[Path | str],
    references: Sequence[Path | str],
    target: str,
    options: SearchOptions | None = None,
    *,
    output: Path | str | None = None,
    force: bool = False,
    progress: ProgressBar = no_progress,
    on_estimate: Callable[[SearchEstimate], object] = lambda estimate: None,
) -> FoundShots:
    """Find the shots of clips that show a target.

    `references` are pictures of the target, cropped close; `target` names it, and is the label of
    the items. With `output`, a folder, the results are written there, and a search that left shots
    open continues; a complete one is read. `on_estimate` gets the estimate before a model is asked.

    Raises:
        AnswerError: a reference cannot be read, no model is given, or the model answers nothing.
        SettingsDiffer: `output` holds a search with other settings.
        OutputError, VideoError, MissingPackage, UnknownName: see `annotate.errors`.
    """
    options = options or SearchOptions()
    pictures, judge = _prepare(references, target, options)
    clip_shots = _cut(clips, progress)
    header = search_header(clip_shots, references, target, options, judge)
    if output is not None:
        files.refuse_foreign_folder(Path(output), results.FOUND_FILE, results.OTHER_FILES)
    with nullcontext() if output is None else locked_folder(Path(output)):
        if output is not None and not force and results.is_complete(Path(output), header):
            all_settled = SearchResults(clip_shots.shots, settled=set(range(len(clip_shots.shots))))
            return FoundShots(
                results.read_hits(Path(output)), clip_shots, all_settled, is_new=False
            )
        if judge is None:
            shot_results, usage, notes = (
                _rank(clip_shots, pictures, options, progress),
                None,
                Notes(),
            )
        else:
            estimate = _estimate(clip_shots, judge, options)
            on_estimate(estimate)
            limit = estimate.question_count
            judge = replace(judge, clip_paths=clip_shots.paths, max_unreadable=limit)
            shot_results = _ask(clip_shots, judge, pictures, options, progress)
            usage, notes = judge.chat.meter.total, judge.chat.notes
        if output is None:
            hits = results.list_hits(clip_shots, shot_results)
        else:
            source = f"find/{options.method}"
            results.write_results(
                Path(output),
                clip_shots,
                shot_results,
                target,
                header,
                source,
                keep_decisions=not force,
            )
            hits = results.read_hits(Path(output))
        return FoundShots(hits, clip_shots, shot_results, usage, notes)


def estimate_search(
    clips: Sequence[Path | str],
    references: Sequence[Path | str],
    target: str,
    options: SearchOptions,
    *,
    progress: ProgressBar = no_progress,
) -> SearchEstimate:
    """Estimate what a search with a model would ask and cost; nothing is asked.

    Raises:
        AnswerError: as `find_shots`; or the method asks no model.
    """
    _, judge = _prepare(references, target, options)
    if judge is None:
        raise AnswerError(
            f"the method {options.method!r} asks no model: there is nothing to estimate"
        )
    return _estimate(_cut(clips, progress), judge, options)


def search_header(
    clip_shots: ClipShots,
    references: Sequence[Path | str],
    target: str,
    options: SearchOptions,
    judge: VlmJudge | None = None,
) -> Header:
    """Make the header of the items of a search."""
    settings: dict[str, Any] = {
        "detector": options.method,
        "looks": options.frames_per_shot,
        "references": [files.sha256(Path(path)) for path in references],
    }
    if judge is None:
        settings["max_shots"] = options.max_shots
    else:
        chat = judge.chat
        settings |= {"url": chat.url, "batch_size": judge.batch_size, "side": judge.max_side}
        settings |= {"detail": judge.detail, "temperature": chat.temperature, "mode": chat.mode}
    videos = {
        name: entry
        for video in clip_shots.videos.values()
        for name, entry in reader.header_entry(video).items()
    }
    vocabulary = {"name": "", "sha256": "", "labels": [target]}
    model = "" if judge is None else judge.chat.model
    return Header("find", settings, model, vocabulary, videos)


def _prepare(
    references: Sequence[Path | str], target: str, options: SearchOptions
) -> tuple[list[Picture], VlmJudge | None]:
    if options.method not in METHODS:
        raise UnknownName("search method", options.method, METHODS)
    if not references:
        raise AnswerError("`references` is empty; give at least one picture of the target")
    pictures = [read_reference(Path(path)) for path in references]
    if options.method == "local":
        return pictures, None
    judge = vlm_judge(
        target,
        pictures,
        options.vlm_settings,
        budget=options.budget,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    return pictures, judge


def _cut(clips: Sequence[Path | str], progress: ProgressBar) -> ClipShots:
    paths = [Path(clip) for clip in clips]
    with progress("shots", FrameSelection().count_all(paths)) as advance:
        return cut_into_shots(paths, advance)


def _estimate(clip_shots: ClipShots, judge: VlmJudge, options: SearchOptions) -> SearchEstimate:
    first_count = sum(
        len(first_frames(shot, clip_shots.videos[shot.video], options.frames_per_shot))
        for shot in clip_shots.shots
    )
    pictures = round(_LATER_PICTURES * first_count)
    if options.max_pictures is not None:
        pictures = min(pictures, options.max_pictures)
    tokens = judge.estimate_tokens(pictures, clip_shots.size_wh)
    cost = judge.chat.meter.prices.cost(Usage(*tokens))
    questions = -(-pictures // judge.batch_size)
    shot_count = len(clip_shots.shots)
    return SearchEstimate(clip_shots.frame_count, shot_count, pictures, questions, *tokens, cost)


def _ask(
    clip_shots: ClipShots,
    judge: VlmJudge,
    references: Sequence[Picture],
    options: SearchOptions,
    progress: ProgressBar,
) -> SearchResults:
    """Ask the model; with a limit, about the shots most similar to the references first."""
    order = None
    if options.max_pictures is not None or options.budget is not None:
        with progress("similarity", None, "pictures") as advance:
            order = list(rank_shots(clip_shots, references, options.frames_per_shot, advance))
    asked_count = 0

    def pictures_left() -> int | None:
        limits = [judge.affordable_pictures(asked_count, clip_shots.size_wh)]
        limits += [None if options.max_pictures is None else options.max_pictures - asked_count]
        return min((limit for limit in limits if limit is not None), default=None)

    with progress(judge.chat.model, None, "pictures") as advance:

        def on_pictures(count: int) -> None:
            nonlocal asked_count
            asked_count += count
            usage = judge.chat.meter.total
            for _ in range(count):
                advance(detail=f"{usage.questions} questions, {usage.cost:.4f}")

        return ask_shots(
            clip_shots, judge, options.frames_per_shot, order, pictures_left, on_pictures
        )


def _rank(
    clip_shots: ClipShots,
    references: Sequence[Picture],
    options: SearchOptions,
    progress: ProgressBar,
) -> SearchResults:
    """Take the shots most similar to the references as results; confidence is the similarity."""
    total = options.frames_per_shot * len(clip_shots.shots)
    with progress("similarity", total, "pictures") as advance:
        ranked = rank_shots(clip_shots, references, options.frames_per_shot, advance)
    shot_results = SearchResults(clip_shots.shots, settled=set(list(ranked)[: options.max_shots]))
    for index in shot_results.settled:
        (similarity, frame), shot = ranked[index], clip_shots.shots[index]
        shot_results.occurrences[index] = Occurrence(shot.start, shot.stop, frame, similarity)
    return shot_results
