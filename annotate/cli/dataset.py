"""Commands that read items and datasets: build, split, export, import, draw."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.cli.options import (
    Every,
    Force,
    ImageFormat,
    MaxFrames,
    MinScore,
    PictureFormat,
    Rate,
    Settings,
    VideoPaths,
    clip_paths,
    complete_format,
    key_value_pairs,
)

app = typer.Typer()


@app.command()
def build(
    items: Annotated[list[Path], typer.Argument(help="Files of items, of one or more clips.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the dataset.")],
    every: Every = 1,
    rate: Rate = None,
    max_frames: MaxFrames = None,
    frame: Annotated[list[int] | None, typer.Option(help="Take this frame; repeatable.")] = None,
    image_format: PictureFormat = ImageFormat.png,
    least: MinScore = 0.0,
    videos: VideoPaths = None,
    force: Force = False,
) -> None:
    """Build a dataset from files of items and the clips that they are of."""
    from annotate.cli import console
    from annotate.dataset.build import build_dataset

    build_dataset(
        items,
        output,
        videos=clip_paths(videos),
        every=every,
        rate=rate,
        max_frames=max_frames,
        frames=frame,
        min_score=least,
        image_format=image_format.value,
        force=force,
    )
    console.print_result(str(output))


@app.command()
def split(
    dataset: Annotated[Path, typer.Argument(help="A dataset's folder.")],
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of frames to validate on.")] = 0.2,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of frames to test on.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed deals the shots out otherwise.")] = 0,
) -> None:
    """Split a dataset by clip and shot; report how near the training frames come to the others."""
    from annotate.cli import console
    from annotate.dataset.folder import load_dataset
    from annotate.dataset.split import find_leaks, split_dataset

    shares = {"train": 1 - val - test, "val": val, "test": test}
    parts = {part: share for part, share in shares.items() if share > 0}
    console.print_dataframe(
        find_leaks(split_dataset(load_dataset(dataset), parts, seed=seed)).summary()
    )
    console.print_result(str(dataset))


@app.command()
def export(
    dataset: Annotated[Path, typer.Argument(help="A dataset's folder.")],
    to: Annotated[str, typer.Option(autocompletion=complete_format, help="The format.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the export.")],
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Write a dataset in a format that others read; read it back and compare each object."""
    from annotate.cli import console
    from annotate.dataset.export import FORMATS, export_dataset
    from annotate.dataset.folder import load_dataset

    told = FORMATS.parse_options(to, key_value_pairs(settings))
    way = FORMATS.load(to, **told)
    held = export_dataset(load_dataset(dataset), way, output, force=force)
    console.print_dataframe(held.table())
    console.print_result(str(output))


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
    from annotate.cli import console
    from annotate.dataset.export import FORMATS, import_dataset

    import_dataset(source, FORMATS.load(format_), output, force=force)
    console.print_result(str(output))


@app.command()
def draw(
    items: Annotated[list[Path], typer.Argument(help="Files of items; - is standard input.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="overlay.mp4, sheet.png, or a folder.")
    ],
    points: Annotated[
        Path | None, typer.Option("-p", "--points", help="Draw these prompts and what they gave.")
    ] = None,
    least: MinScore = 0.0,
    clip: Annotated[str | None, typer.Option(help="Of several clips, the one to draw.")] = None,
    videos: VideoPaths = None,
    force: Force = False,
) -> None:
    """Draw items on their clip: a video, a contact sheet, pictures, or the grid of prompts."""
    from annotate import prompts
    from annotate.cli import console
    from annotate.dataset import frame_sources
    from annotate.items import journal
    from annotate.video import reader
    from annotate.viewing.draw import draw_prompts, overlay

    chosen = frame_sources.locate_clip(
        [journal.read(path) for path in items], clip, clip_paths(videos), least
    )
    book, path = frame_sources.MergedItems(chosen), chosen.path
    if points is not None:
        seen = reader.probe(path)
        scope = prompts.PromptScope((seen.width, seen.height), seen.frame_count)
        told = prompts.prompt_table(prompts.read_points(points, scope), scope=scope)
        draw_prompts(told, path, book, output, force=force)
    else:
        with console.progress("draw", None) as advance:
            overlay(book, path, output, force=force, progress=advance)
    console.print_result(str(output))
