"""Search for shots that show a target (find, gallery), and for known pictures (scenes)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate.cli.options import Every, Force, Keyframes, Rate, Settings, key_value_pairs

if TYPE_CHECKING:
    from annotate.scenes.index import SceneMatch, SceneResult
    from annotate.search.run import FoundShots, SearchEstimate


app = typer.Typer()


@app.command()
def find(
    clips: Annotated[list[Path], typer.Argument(help="Videos, or folders of images.")],
    references: Annotated[
        list[Path],
        typer.Option(
            "--reference", help="A picture that shows the target, cropped close; repeatable."
        ),
    ],
    target: Annotated[str, typer.Option("--name", help="The target in words; also its class.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")],
    method: Annotated[
        str,
        typer.Option("-d", "--detector", help="vlm asks a model; local ranks by similarity."),
    ] = "local",
    frames_per_shot: Annotated[
        int, typer.Option(min=1, help="Frames of each shot to look at first.")
    ] = 2,
    max_shots: Annotated[int, typer.Option(min=1, help="local: give the N best shots.")] = 40,
    max_pictures: Annotated[
        int | None, typer.Option(min=1, help="vlm: ask about at most N pictures.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="vlm: do not spend more than this; needs prices.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=100, help="vlm: pictures in a question.")
    ] = 10,
    workers: Annotated[int, typer.Option(min=1, help="vlm: questions asked in parallel.")] = 15,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="vlm: print the expected cost; ask nothing.")
    ] = False,
    truth: Annotated[
        list[Path] | None, typer.Option(help="JSON with shots and their rare_frames; repeatable.")
    ] = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Find the shots that show a target.

    Ask a model, or rank the shots by similarity.
    """
    from annotate.cli import console
    from annotate.errors import AnnotateError
    from annotate.progress import counted
    from annotate.search import results
    from annotate.search.run import SearchOptions, estimate_search, find_shots

    options = SearchOptions(
        method,
        frames_per_shot,
        max_shots,
        max_pictures,
        budget,
        batch_size,
        workers,
        key_value_pairs(settings),
    )
    if forecast:
        _print_estimate(
            estimate_search(clips, references, target, options, progress=console.progress)
        )
        return
    results.evaluate([], truth or [])  # refuses a damaged file before a long search
    found = find_shots(
        clips,
        references,
        target,
        options,
        output=output,
        force=force,
        progress=console.progress,
        on_estimate=_print_estimate,
    )
    _print_report(output, found, truth or [])
    if found.results.stop_reason:
        shot_count = len(found.results.shots)
        open_shots = f"{found.results.open_count} of {counted(shot_count, 'shot')} are open"
        raise AnnotateError(
            f"{found.results.stop_reason}; {open_shots}: run the same again to ask about them"
        )


def _print_estimate(estimate: SearchEstimate) -> None:
    from annotate.cli import console
    from annotate.progress import counted

    console.print_status(
        f"{counted(estimate.frame_count, 'frame')} in {counted(estimate.shot_count, 'shot')}; "
        f"about {counted(estimate.picture_count, 'picture')} in "
        f"{counted(estimate.question_count, 'question')}, "
        f"{estimate.tokens_in:,} tokens in, {estimate.tokens_out:,} out"
        + (f": {estimate.cost:.4f}" if estimate.cost else "")
    )


def _print_report(output: Path, found: FoundShots, truth_paths: list[Path]) -> None:
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
        for hit in found.hits
    ]
    console.print_table(("clip", "seconds", "from", "to", "confidence"), rows)
    _print_usage(found)
    for error in found.clip_shots.decode_errors:
        console.print_status(error)
    if truth_paths:
        metrics = results.evaluate(found.hits, truth_paths)
        console.print_status(
            f"recall {metrics.recall:.3f} ({metrics.found_shots} of {metrics.true_shots} shots), "
            f"precision {metrics.precision:.3f} ({metrics.correct_hits} of {metrics.hits} hits)"
        )
    console.print_note_lines(found.notes.lines())
    console.print_output_path(output / results.ITEMS_FILE, found.is_new)


def _print_usage(found: FoundShots) -> None:
    from annotate.cli import console
    from annotate.progress import counted

    if found.usage is None:
        return
    frames, pictures = found.clip_shots.frame_count, found.results.picture_count
    questions = found.usage.questions + found.usage.cached
    console.print_status(found.usage.summary(pictures, 0))
    line = f"asked about {counted(pictures, 'picture')} of {counted(frames, 'frame')}"
    if pictures and questions:
        line += f": one of {frames / pictures:.0f}; {frames / questions:.0f} frames to a question"
    console.print_status(line)


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="A folder that `annotate find` filled.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0: any free one.")
    ] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Review the hits of find on a local page.

    Keep or reject each hit by a key.
    """
    import threading
    import webbrowser

    from annotate.cli import console
    from annotate.errors import OutputError
    from annotate.search import results
    from annotate.web.gallery import serving

    try:
        with serving(folder, port) as address:
            console.print_result(address)
            console.print_status("Ctrl-C stops the server; decisions are saved as they are made")
            if browser:
                webbrowser.open(address)
            threading.Event().wait()
    except KeyboardInterrupt:
        decisions = results.read_decisions(folder)
        kept = sum(decisions.values())
        counts = f"{kept} kept, {len(decisions) - kept} rejected"
        console.print_status(f"{counts}; {folder / results.ITEMS_FILE}")
    except OSError as error:
        raise OutputError(
            f"`port` {port}: the page cannot be served there: {error.strerror}"
        ) from None


scenes_app = typer.Typer(
    help="Find the clip and the time of a picture.",
    no_args_is_help=True,
)
DatabasePath = Annotated[Path, typer.Option("--db", help="The database file of scenes.")]
_NO_MATCH_ROW: tuple[Any, ...] = (None, None, None, None, None)
_PICTURE_COLUMNS = ("picture", "video", "frame", "seconds", "distance", "runner-up")
_OVERLAP_COLUMNS = ("clip", "video", "offset", "start", "stop", "share")


@scenes_app.command()
def add(
    clips: Annotated[list[Path], typer.Argument(help="Videos, or folders of images.")],
    db: DatabasePath,
    every: Every = 1,
    rate: Rate = None,
    keyframes: Keyframes = False,
) -> None:
    """Add the frames of clips to the database.

    Skip clips that it holds already.
    """
    from annotate.cli import console
    from annotate.scenes import library
    from annotate.video import reader

    selection = library.stored_selection(reader.FrameSelection(every, rate, keyframes))
    with console.progress("scenes", selection.count_all(clips)) as advance:
        added = library.add(clips, db, selection, advance)
    names = ", ".join(added) or "none"
    console.print_status(f"{len(added)} of {len(clips)} clips are new: {names}")
    console.print_result(str(db))


@scenes_app.command("find")
def find_scenes(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, folders of them, or clips.")],
    db: DatabasePath,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each picture or clip.")
    ] = False,
) -> None:
    """Find the clip and time of pictures.

    Report a picture of no known clip as unknown.
    """
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
    """List the clips in the database."""
    from annotate.cli import console
    from annotate.scenes import library

    rows = [
        (
            clip.name,
            f"{float(clip.duration):.1f}",
            clip.frame_count,
            clip.fingerprint[:8],
            clip.path,
        )
        for clip in library.list_clips(db)
    ]
    console.print_table(("video", "seconds", "frames", "fingerprint", "path"), rows)


@scenes_app.command()
def remove(
    names: Annotated[
        list[str], typer.Argument(help="Names, or fingerprints, as `scenes list` shows them.")
    ],
    db: DatabasePath,
) -> None:
    """Remove clips from the database."""
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
        for path, result in library.find(picture_paths, db):
            console.print_result(_picture_json(path, result))
        return
    with console.progress("pictures", len(picture_paths), "pictures") as advance:
        rows = []
        for path, result in library.find(picture_paths, db):
            rows.append(_picture_row(path, result))
            advance(path)
    console.print_table(_PICTURE_COLUMNS, rows)


def _picture_row(path: Path, result: SceneResult) -> tuple[Any, ...]:
    match, nearest, runner_up = result.match, result.nearest, result.runner_up
    distance = "" if nearest is None else f"{nearest.distance:.3f}"
    other = "" if runner_up is None else f"{_frame_label(runner_up)} {runner_up.distance:.3f}"
    if match is None:
        return path.name, "unknown", "", "", distance, other
    seconds = f"{float(match.seconds):.2f}"
    return path.name, match.clip.name, match.frame, seconds, distance, other


def _frame_label(match: SceneMatch) -> str:
    return f"{match.clip.name}#{match.frame}"


def _picture_json(path: Path, result: SceneResult) -> str:
    match, nearest = result.match, result.nearest
    record = {
        "picture": str(path),
        "video": match and match.clip.name,
        "frame": match and match.frame,
        "seconds": match and float(match.seconds),
        "distance": nearest and round(nearest.distance, 4),
    }
    return json.dumps(record, ensure_ascii=False)


def _find_clip(clip: Path, db: Path, as_json: bool) -> None:
    from annotate.cli import console
    from annotate.scenes import library

    with console.progress(clip.name, None) as advance:
        overlaps = library.find_clip(clip, db, advance)
    rows: list[tuple[Any, ...]] = [
        (each.clip.name, float(each.offset), float(each.start), float(each.stop), each.share)
        for each in overlaps
    ]
    if as_json:
        for name, *numbers in rows or [_NO_MATCH_ROW]:
            values = (str(clip), name, *(n if n is None else round(n, 4) for n in numbers))
            record = dict(zip(_OVERLAP_COLUMNS, values, strict=True))
            console.print_result(json.dumps(record, ensure_ascii=False))
        return
    cells = [(clip.name, name, *(f"{n:.2f}" for n in numbers)) for name, *numbers in rows]
    console.print_table(_OVERLAP_COLUMNS, cells or [(clip.name, "unknown", "", "", "", "")])
