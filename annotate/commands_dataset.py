"""Commands that read items and datasets: build, export, import, draw."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.options import (
    Every,
    Force,
    ImageFormat,
    Least,
    Most,
    Pictures,
    Rate,
    Settings,
    Videos,
    complete_format,
    pairs,
    paths,
)

app = typer.Typer()


@app.command()
def build(
    items: Annotated[list[Path], typer.Argument(help="Files of items, of one or more clips.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the dataset.")],
    every: Every = 1,
    rate: Rate = None,
    most: Most = None,
    frame: Annotated[list[int] | None, typer.Option(help="Take this frame; repeatable.")] = None,
    pictures: Pictures = ImageFormat.png,
    least: Least = 0.0,
    videos: Videos = None,
    force: Force = False,
) -> None:
    """Build a dataset from files of items and the clips that they are of."""
    from annotate import console, dataset

    dataset.build(
        items,
        output,
        videos=paths(videos),
        every=every,
        rate=rate,
        maximum=most,
        frames=frame,
        least=least,
        image_format=pictures.value,
        force=force,
    )
    console.put(str(output))


@app.command()
def split(
    dataset: Annotated[Path, typer.Argument(help="A dataset's folder.")],
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of frames to validate on.")] = 0.2,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of frames to test on.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed deals the shots out otherwise.")] = 0,
) -> None:
    """Split a dataset by clip and shot; report how near the training frames come to the others."""
    from annotate import console, folder, split

    shares = {"train": 1 - val - test, "val": val, "test": test}
    parts = {part: share for part, share in shares.items() if share > 0}
    console.frame(split.leaks(split.split(folder.load(dataset), parts, seed=seed)).summary())
    console.put(str(dataset))


@app.command()
def export(
    dataset: Annotated[Path, typer.Argument(help="A dataset's folder.")],
    to: Annotated[str, typer.Option(autocompletion=complete_format, help="The format.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the export.")],
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Write a dataset in a format that others read; read it back and compare each object."""
    from annotate import console, exports, folder, plugins

    told = plugins.parse_options(plugins.find(exports.GROUP, to), to, pairs(settings))
    way = exports.load(to, **told)
    held = exports.export(folder.load(dataset), way, output, force=force)
    console.frame(held.table())
    console.put(str(output))


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="What another program wrote: a folder or file.")],
    format_: Annotated[
        str, typer.Option("--from", autocompletion=complete_format, help="The format.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the dataset.")],
    force: Force = False,
) -> None:
    """Read a dataset that another program wrote."""
    from annotate import console, exports

    exports.bring_in(source, exports.load(format_), output, force=force)
    console.put(str(output))


@app.command()
def draw(
    items: Annotated[list[Path], typer.Argument(help="Files of items; - is standard input.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="overlay.mp4, sheet.png, or a folder.")
    ],
    points: Annotated[
        Path | None, typer.Option("-p", "--points", help="Draw these prompts and what they gave.")
    ] = None,
    least: Least = 0.0,
    clip: Annotated[str | None, typer.Option(help="Of several clips, the one to draw.")] = None,
    videos: Videos = None,
    force: Force = False,
) -> None:
    """Draw items on their clip: a video, a contact sheet, pictures, or the grid of prompts."""
    from annotate import clips, console, draw, journal, prompts, video

    chosen = clips.one([journal.read(path) for path in items], clip, paths(videos), least)
    book, path = clips.Together(chosen), chosen.path
    if points is not None:
        seen = video.probe(path)
        scope = prompts.Scope((seen.width, seen.height), seen.frame_count)
        told = prompts.table(prompts.read_points(points, scope), scope=scope)
        draw.prompt_grid(told, path, book, output, force=force)
    else:
        with console.progress("draw", None) as advance:
            draw.overlay(book, path, output, force=force, progress=advance)
    console.put(str(output))
