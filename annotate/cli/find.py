"""Commands that search: find and gallery for targets, scenes for known pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate.cli.options import Every, Force, Keyframes, Rate, Settings, key_value_pairs

if TYPE_CHECKING:
    from annotate.items.records import Picture
    from annotate.scenes.library import SceneMatch, SceneResult
    from annotate.search.run import ClipShots, SearchResults


app = typer.Typer()


@app.command()
def find(
    clips: Annotated[list[Path], typer.Argument(help="Videos, or folders of images.")],
    reference: Annotated[
        list[Path], typer.Option(help="A picture that shows it, cut close; repeatable.")
    ],
    name: Annotated[str, typer.Option(help="What it is, in words; also its class.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for what is found.")],
    detector: Annotated[
        str, typer.Option("-d", "--detector", help="vlm asks a model; local ranks by likeness.")
    ] = "local",
    looks: Annotated[int, typer.Option(min=1, help="Frames of each shot looked at first.")] = 2,
    max_results: Annotated[
        int | None, typer.Option("--max", min=1, help="vlm: at most N pictures; local: N shots.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="vlm: spend no more; needs prices.")
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, max=100, help="Pictures to a question.")] = 10,
    workers: Annotated[int, typer.Option(min=1, help="Questions under way at once.")] = 15,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="Say what it would cost, and ask nothing.")
    ] = False,
    truth: Annotated[
        list[Path] | None, typer.Option(help="JSON with shots and their rare_frames; repeatable.")
    ] = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Find the shots that show something rare: ask a model, or rank them by likeness."""
    from annotate.cli import console
    from annotate.errors import AnnotateError, UnknownName
    from annotate.search import judge, results
    from annotate.search.run import cut_into_shots

    if detector not in ("local", "vlm"):
        raise UnknownName("way to find", detector, ("local", "vlm"))
    shown = [judge.read_reference(path) for path in reference]
    asker = None
    if detector == "vlm":
        asker = _make_vlm_judge(settings, name, shown, budget, chunk, workers)
    with console.progress("shots", _total_frames(clips)) as advance:
        cut = cut_into_shots(clips, advance)
    header = _search_header(cut, reference, name, detector, looks, asker)
    if not forecast:
        results.check_resumable(output, header, force=force)
    if asker is None:
        found, source = _rank_locally(cut, shown, looks, max_results or 40), "find/local"
    else:
        asker.clips.update(cut.paths)
        _print_forecast(cut, asker, looks, max_results)
        if forecast:
            return
        found, source = _ask_model(cut, asker, shown, looks, max_results, budget), "find/vlm"
    results.write_results(output, cut, found, name, header, source)
    _print_report(output, cut, found, asker, truth)
    if found.stop_reason:
        raise AnnotateError(
            f"{found.stop_reason}; {_open_count(found)} of {len(cut.shots)} shots are open"
        )


def _make_vlm_judge(
    settings: list[str] | None,
    target: str,
    references: list[Picture],
    budget: float | None,
    batch_size: int,
    workers: int,
) -> Any:
    """Who is asked: the options are those of the detector `vlm`."""
    from dataclasses import replace

    from annotate.detectors.run import DETECTORS
    from annotate.errors import AnswerError, needs
    from annotate.items.records import Vocabulary
    from annotate.search import judge

    said = {"side": "512", "detail": "low"} | key_value_pairs(settings)
    said |= {} if budget is None else {"budget": str(budget)}
    given = DETECTORS.parse_options("vlm", said)
    made: Any = DETECTORS.load("vlm", Vocabulary(target, {target: {"vlm": target}}, ""), **given)
    if not made.model:
        raise AnswerError("vlm: which model? --set model=NAME, and --set url=ADDRESS")
    needs("openai"), needs("json_repair")
    chat = replace(made.chat, max_tokens=max(made.max_tokens, 60 * batch_size))
    return judge.VlmJudge(chat, target, references, {}, made.side, made.detail, batch_size, workers)


def _total_frames(clips: list[Path]) -> int | None:
    from annotate.video import reader

    counts = [reader.probe(clip).frame_count for clip in clips]
    return None if None in counts else sum(count or 0 for count in counts)


def _print_forecast(
    clip_shots: ClipShots, vlm_judge: Any, frames_per_shot: int, max_pictures: int | None
) -> None:
    """Say what asking is likely to cost: the first looks, and a fifth more for what follows."""
    from annotate.cli import console
    from annotate.search.run import first_frames
    from annotate.vlm.budget import Usage

    first = sum(
        len(first_frames(shot, clip_shots.videos[shot.video], frames_per_shot))
        for shot in clip_shots.shots
    )
    pictures = min(round(1.2 * first), max_pictures or 1 << 60)
    about = next(iter(clip_shots.videos.values()))
    tokens_in, tokens_out = vlm_judge.tokens(pictures, (about.width, about.height))
    money = vlm_judge.chat.meter.prices.of(Usage(tokens_in, tokens_out))
    questions = -(-pictures // vlm_judge.chunk)
    console.print_status(
        f"{clip_shots.frame_count:,} frames are {len(clip_shots.shots)} shots; about {pictures} pictures in "
        f"{questions} questions, {tokens_in:,} tokens in, {tokens_out:,} out"
        + (f": {money:.4f}" if money else "")
    )


def _ask_model(
    clip_shots: ClipShots,
    vlm_judge: Any,
    references: list[Picture],
    frames_per_shot: int,
    max_pictures: int | None,
    budget: float | None,
) -> SearchResults:
    from annotate.cli import console
    from annotate.search.run import ask_shots, rank_shots

    order = None
    if max_pictures is not None or budget is not None:
        with console.progress("likeness", None, "pictures") as advance:
            order = list(rank_shots(clip_shots, references, frames_per_shot, advance))
    about = next(iter(clip_shots.videos.values()))
    asked = 0

    def left() -> int | None:
        may = vlm_judge.affordable(asked, (about.width, about.height))
        limits = [
            each
            for each in (may, None if max_pictures is None else max_pictures - asked)
            if each is not None
        ]
        return min(limits, default=None)

    with console.progress(vlm_judge.chat.model, None, "pictures") as advance:

        def told(pictures: int) -> None:
            nonlocal asked
            asked += pictures
            bill = vlm_judge.chat.meter.bill
            for _ in range(pictures):
                advance(told=f"{bill.asked} questions, {bill.money:.4f}")

        return ask_shots(clip_shots, vlm_judge, frames_per_shot, order, left, told)


def _rank_locally(
    clip_shots: ClipShots, references: list[Picture], frames_per_shot: int, max_shots: int
) -> SearchResults:
    """The shots most like the references, as if each had been said to show it."""
    from annotate.cli import console
    from annotate.search.run import SearchResults, rank_shots
    from annotate.search.shot_query import Occurrence

    with console.progress(
        "likeness", frames_per_shot * len(clip_shots.shots), "pictures"
    ) as advance:
        ranked = rank_shots(clip_shots, references, frames_per_shot, advance)
    found = SearchResults(clip_shots.shots, settled=set(list(ranked)[:max_shots]))
    for number in found.settled:
        likeness, frame = ranked[number]
        shot = clip_shots.shots[number]
        found.occurrences[number] = Occurrence(shot.start, shot.stop, frame, likeness)
    return found


def _search_header(
    clip_shots: ClipShots,
    reference_paths: list[Path],
    target: str,
    detector: str,
    frames_per_shot: int,
    vlm_judge: Any,
) -> Any:
    from annotate import files
    from annotate.items import records
    from annotate.video import reader

    told = {"detector": detector, "looks": frames_per_shot}
    told |= {"references": [files.sha256(path) for path in reference_paths]}
    videos = {
        key: facts
        for about in clip_shots.videos.values()
        for key, facts in reader.header_entry(about).items()
    }
    words = {"name": "", "sha256": "", "labels": [target]}
    return records.Header(
        "find", told, "" if vlm_judge is None else vlm_judge.chat.model, words, videos
    )


def _open_count(search_results: SearchResults) -> int:
    return len(search_results.shots) - len(search_results.settled)


def _print_report(
    output: Path,
    clip_shots: ClipShots,
    search_results: SearchResults,
    vlm_judge: Any,
    truth_paths: list[Path] | None,
) -> None:
    from annotate.cli import console
    from annotate.search import results

    rows = [
        (
            hit.video,
            f"{float(hit.seconds):.2f}",
            hit.start,
            hit.stop,
            "" if hit.confidence is None else f"{hit.confidence:.2f}",
        )
        for hit in results.read_hits(output)
    ]
    console.print_table(("clip", "seconds", "from", "to", "confidence"), rows)
    if vlm_judge is not None:
        bill = vlm_judge.chat.meter.bill
        each = clip_shots.frame_count / max(bill.asked + bill.known, 1)
        console.print_status(bill.words(search_results.picture_count, 0))
        console.print_status(f"{search_results.picture_count} pictures of {clip_shots.frame_count:,} frames were asked, "
                    f"{clip_shots.frame_count / max(search_results.picture_count, 1):.0f} frames to a picture, "
                    f"{each:.0f} to a question")  # fmt: skip
    for line in clip_shots.decode_errors:
        console.print_status(line)
    if truth_paths:
        rated = results.evaluate(results.read_hits(output), truth_paths)
        console.print_status(
            f"recall {rated.recall:.3f} ({rated.found_shots} of {rated.true_shots} shots), "
            f"precision {rated.precision:.3f} ({rated.correct_hits} of {rated.hits} hits)"
        )
    console.print_result(str(output / results.ITEMS_FILE))


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="A folder that `annotate find` filled.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Look through what was found, on this machine alone: keep or reject by a key."""
    import threading
    import webbrowser

    from annotate.cli import console
    from annotate.errors import OutputError
    from annotate.search import results
    from annotate.web.gallery import serving

    try:
        with serving(folder, port) as address:
            console.print_result(address)
            console.print_status("Ctrl-C ends it; decisions are saved as they are made")
            if browser:
                webbrowser.open(address)
            threading.Event().wait()
    except KeyboardInterrupt:
        said = results.read_decisions(folder)
        kept = sum(said.values())
        console.print_status(
            f"{kept} kept, {len(said) - kept} rejected; {folder / results.ITEMS_FILE}"
        )
    except OSError as error:
        raise OutputError(f"port {port}: cannot be served there: {error.strerror}") from None


scenes_app = typer.Typer(
    help="Tell which clip a picture is from, and where in it.",
    no_args_is_help=True,
)
DatabasePath = Annotated[Path, typer.Option("--db", help="The file of scenes.")]
_NO_MATCH_ROW: tuple[Any, ...] = (None, None, None, None, None)
_PICTURE_COLUMNS = ("picture", "video", "frame", "seconds", "distance", "runner-up")


@scenes_app.command()
def add(
    clips: Annotated[list[Path], typer.Argument(help="Videos, or folders of images.")],
    db: DatabasePath,
    every: Every = 1,
    rate: Rate = None,
    keyframes: Keyframes = False,
) -> None:
    """Remember the frames of clips; those that are known already are not looked at."""
    from annotate.cli import console
    from annotate.scenes import library
    from annotate.video import reader

    choice = reader.FrameSelection(every, rate, keyframes)
    counts = [choice.count(reader.probe(clip)) for clip in clips]
    total = None if None in counts else sum(count or 0 for count in counts)
    with console.progress("scenes", total) as advance:
        fresh = library.add(clips, db, choice, advance)
    console.print_status(
        f"{len(fresh)} of {len(clips)} clips are new: {', '.join(fresh) or 'none'}"
    )
    console.print_result(str(db))


@scenes_app.command("find")
def find_scenes(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, folders of them, or clips.")],
    db: DatabasePath,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each, on stdout.")
    ] = False,
) -> None:
    """Say which clip pictures are from, and when they are in it, or that they are unknown."""
    from annotate.video.images import IMAGE_SUFFIXES

    clips = [
        path for path in pictures if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES
    ]
    stills = [still for path in pictures if path not in clips for still in _picture_paths(path)]
    if stills:
        _find_pictures(stills, db, as_json)
    for clip in clips:
        _find_clip(clip, db, as_json)


@scenes_app.command("list")
def list_(db: DatabasePath) -> None:
    """List the clips that are known."""
    from annotate.cli import console
    from annotate.scenes import library

    rows = [
        (clip.name, f"{float(clip.duration):.1f}", clip.frames, clip.fingerprint[:8], clip.path)
        for clip in library.list_clips(db)
    ]
    console.print_table(("video", "seconds", "frames", "fingerprint", "path"), rows)


@scenes_app.command()
def remove(
    names: Annotated[
        list[str], typer.Argument(help="Names, or fingerprints, as `scenes list` has them.")
    ],
    db: DatabasePath,
) -> None:
    """Forget clips."""
    from annotate.cli import console
    from annotate.scenes import library

    library.remove(names, db)
    console.print_result(str(db))


def _picture_paths(path: Path) -> list[Path]:
    from annotate.video.images import IMAGE_SUFFIXES

    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES)


def _find_pictures(picture_paths: list[Path], db: Path, as_json: bool) -> None:
    from annotate.cli import console
    from annotate.scenes import library

    if as_json:
        for path, answer in library.find(picture_paths, db):
            console.print_result(_picture_json(path, answer))
        return
    with console.progress("pictures", len(picture_paths), "pictures") as advance:
        rows = []
        for path, answer in library.find(picture_paths, db):
            rows.append(_picture_row(path, answer))
            advance(path)
    console.print_table(_PICTURE_COLUMNS, rows)


def _picture_row(path: Path, scene_result: SceneResult) -> tuple[Any, ...]:
    found, nearest, other = scene_result.match, scene_result.nearest, scene_result.runner_up
    distance = "" if nearest is None else f"{nearest.distance:.3f}"
    elsewhere = "" if other is None else f"{_frame_label(other)} {other.distance:.3f}"
    if found is None:
        return path.name, "unknown", "", "", distance, elsewhere
    return (
        path.name,
        found.clip.name,
        found.frame,
        f"{float(found.seconds):.2f}",
        distance,
        elsewhere,
    )


def _frame_label(match: SceneMatch) -> str:
    return f"{match.clip.name}#{match.frame}"


def _picture_json(path: Path, scene_result: SceneResult) -> str:
    found, nearest = scene_result.match, scene_result.nearest
    return json.dumps(
        {
            "picture": str(path),
            "video": found and found.clip.name,
            "frame": found and found.frame,
            "seconds": found and float(found.seconds),
            "distance": nearest and round(nearest.distance, 4),
        },
        ensure_ascii=False,
    )


def _find_clip(clip: Path, db: Path, as_json: bool) -> None:
    from annotate.cli import console
    from annotate.scenes import library

    with console.progress(clip.name, None) as advance:
        found = library.find_clip(clip, db, advance)
    columns = ("clip", "video", "offset", "start", "stop", "share")
    rows: list[tuple[Any, ...]] = [
        (each.clip.name, float(each.offset), float(each.start), float(each.stop), each.share)
        for each in found
    ]
    if as_json:
        for name, *numbers in rows or [_NO_MATCH_ROW]:
            told = (str(clip), name, *(n if n is None else round(n, 4) for n in numbers))
            console.print_result(
                json.dumps(dict(zip(columns, told, strict=True)), ensure_ascii=False)
            )
        return
    shown = [(clip.name, name, *(f"{n:.2f}" for n in numbers)) for name, *numbers in rows]
    console.print_table(columns, shown or [(clip.name, "unknown", "", "", "", "")])
