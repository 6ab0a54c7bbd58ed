"""Commands that know scenes again: scenes add, find, list, remove."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate.options import Every, Keyframes, Rate

if TYPE_CHECKING:
    from annotate.scene_search import Answer, Match

app = typer.Typer(
    help="Tell which clip a picture is from, and where in it.",
    no_args_is_help=True,
)
Db = Annotated[Path, typer.Option("--db", help="The file of scenes.")]
_NOTHING: tuple[Any, ...] = (None, None, None, None, None)
_COLUMNS = ("picture", "video", "frame", "seconds", "distance", "runner-up")


@app.command()
def add(
    clips: Annotated[list[Path], typer.Argument(help="Videos, or folders of images.")],
    db: Db,
    every: Every = 1,
    rate: Rate = None,
    keyframes: Keyframes = False,
) -> None:
    """Remember the frames of clips; those that are known already are not looked at."""
    from annotate import console, sample, scenes, video

    choice = sample.Choice(every, rate, keyframes)
    counts = [choice.count(video.probe(clip)) for clip in clips]
    total = None if None in counts else sum(count or 0 for count in counts)
    with console.progress("scenes", total) as advance:
        fresh = scenes.add(clips, db, choice, advance)
    console.say(f"{len(fresh)} of {len(clips)} clips are new: {', '.join(fresh) or 'none'}")
    console.put(str(db))


@app.command()
def find(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, folders of them, or clips.")],
    db: Db,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each, on stdout.")
    ] = False,
) -> None:
    """Say which clip pictures are from, and when they are in it, or that they are unknown."""
    from annotate.pictures import SUFFIXES

    clips = [path for path in pictures if path.is_file() and path.suffix.lower() not in SUFFIXES]
    stills = [still for path in pictures if path not in clips for still in _stills(path)]
    if stills:
        _find_pictures(stills, db, as_json)
    for clip in clips:
        _find_clip(clip, db, as_json)


@app.command("list")
def list_(db: Db) -> None:
    """List the clips that are known."""
    from annotate import console, scenes

    rows = [
        (clip.name, f"{float(clip.duration):.1f}", clip.frames, clip.fingerprint[:8], clip.path)
        for clip in scenes.clips(db)
    ]
    console.table(("video", "seconds", "frames", "fingerprint", "path"), rows)


@app.command()
def remove(
    names: Annotated[
        list[str], typer.Argument(help="Names, or fingerprints, as `scenes list` has them.")
    ],
    db: Db,
) -> None:
    """Forget clips."""
    from annotate import console, scenes

    scenes.remove(names, db)
    console.put(str(db))


def _stills(path: Path) -> list[Path]:
    from annotate.pictures import SUFFIXES

    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)


def _find_pictures(stills: list[Path], db: Path, as_json: bool) -> None:
    from annotate import console, scenes

    if as_json:
        for path, answer in scenes.find(stills, db):
            console.put(_json(path, answer))
        return
    with console.progress("pictures", len(stills), "pictures") as advance:
        rows = []
        for path, answer in scenes.find(stills, db):
            rows.append(_row(path, answer))
            advance(path)
    console.table(_COLUMNS, rows)


def _row(path: Path, answer: Answer) -> tuple[Any, ...]:
    found, nearest, other = answer.match, answer.nearest, answer.runner_up
    distance = "" if nearest is None else f"{nearest.distance:.3f}"
    elsewhere = "" if other is None else f"{_place(other)} {other.distance:.3f}"
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


def _place(match: Match) -> str:
    return f"{match.clip.name}#{match.frame}"


def _json(path: Path, answer: Answer) -> str:
    found, nearest = answer.match, answer.nearest
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
    from annotate import console, scenes

    with console.progress(clip.name, None) as advance:
        found = scenes.find_clip(clip, db, advance)
    columns = ("clip", "video", "offset", "start", "stop", "share")
    rows: list[tuple[Any, ...]] = [
        (each.clip.name, float(each.offset), float(each.start), float(each.stop), each.share)
        for each in found
    ]
    if as_json:
        for name, *numbers in rows or [_NOTHING]:
            told = (str(clip), name, *(n if n is None else round(n, 4) for n in numbers))
            console.put(json.dumps(dict(zip(columns, told, strict=True)), ensure_ascii=False))
        return
    shown = [(clip.name, name, *(f"{n:.2f}" for n in numbers)) for name, *numbers in rows]
    console.table(columns, shown or [(clip.name, "unknown", "", "", "", "")])
