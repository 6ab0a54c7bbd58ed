"""Commands that read items and datasets: build, split, export, import, draw."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotate.cli.options import (
    Every,
    Force,
    FrameList,
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
    parse_cuts,
)

if TYPE_CHECKING:
    from annotate.dataset.folder import Dataset

app = typer.Typer()


@app.command()
def build(
    items: Annotated[list[Path], typer.Argument(help="Files of items of one or more clips.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the dataset.")],
    every: Every = 1,
    rate: Rate = None,
    max_frames: MaxFrames = None,
    frames: Annotated[
        list[int] | None, typer.Option("--frame", help="Take only this frame; repeatable.")
    ] = None,
    frame_list: FrameList = None,
    image_format: PictureFormat = ImageFormat.png,
    min_score: MinScore = 0.0,
    videos: VideoPaths = None,
    force: Force = False,
) -> None:
    """Build a dataset from items and their clips."""
    from annotate.active_learning.frame_list import frames_by_clip, read_frame_list
    from annotate.cli import console
    from annotate.dataset.build import FrameNumbers, build_dataset

    if frames is not None and frame_list is not None:
        raise typer.BadParameter("give only one of --frame and --frames", param_hint="--frames")
    listed: FrameNumbers | None = frames
    if frame_list is not None:
        listed = frames_by_clip(read_frame_list(frame_list))
    build_dataset(
        items,
        output,
        videos=clip_paths(videos),
        every=every,
        rate=rate,
        max_frames=max_frames,
        frames=listed,
        min_score=min_score,
        image_format=image_format.value,
        force=force,
    )
    console.print_result(str(output))


@app.command()
def split(
    dataset: Annotated[Path, typer.Argument(help="A dataset's folder.")],
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of frames for validation.")] = 0.2,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of frames for tests.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    cuts: Annotated[
        list[str] | None,
        typer.Option(
            "--cut",
            metavar="[CLIP:]FRAME",
            help="A shot begins at this frame, in a clip in one take; repeatable.",
        ),
    ] = None,
) -> None:
    """Split a dataset by clip and shot.

    Report how similar the training frames are to the others.
    """
    from annotate.api import datasets
    from annotate.cli import console
    from annotate.dataset.folder import load_dataset
    from annotate.dataset.split import find_leaks

    divided = load_dataset(dataset)
    frames = parse_cuts(cuts, list(divided.clips))
    divided = datasets.split(divided, val=val, test=test, seed=seed, cuts=frames)
    console.print_dataframe(find_leaks(divided).summary())
    console.print_result(str(dataset))


@app.command()
def export(
    dataset: Annotated[Path, typer.Argument(help="A dataset's folder.")],
    to: Annotated[
        str,
        typer.Option(
            autocompletion=complete_format,
            help="The format: coco, yolo or yolo-seg, or the name of a plugin.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the export.")],
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Export a dataset to another format.

    Read it back, and compare each object.
    """
    from annotate.cli import console
    from annotate.dataset.export import FORMATS, export_dataset
    from annotate.dataset.folder import load_dataset

    options = FORMATS.parse_options(to, key_value_pairs(settings))
    report = export_dataset(load_dataset(dataset), FORMATS.load(to, **options), output, force=force)
    console.print_dataframe(report.table())
    console.print_result(str(output))


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="The dataset to import: a folder or file.")],
    format_: Annotated[
        str,
        typer.Option(
            "--from",
            autocompletion=complete_format,
            help="The format: coco, yolo or yolo-seg, or the name of a plugin.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the dataset.")],
    force: Force = False,
) -> None:
    """Import a dataset of another program."""
    from annotate.cli import console
    from annotate.dataset.export import FORMATS, import_dataset

    dataset = import_dataset(source, FORMATS.load(format_), output, force=force)
    if dataset.import_report is not None:
        for line in dataset.import_report.lines():
            console.print_status(line)
    console.print_result(str(output))


@app.command()
def draw(
    items: Annotated[
        list[Path], typer.Argument(help="Files of items, or a dataset; - is standard input.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Video .mp4, contact sheet .png, or a folder of images."
        ),
    ],
    points: Annotated[
        Path | None,
        typer.Option("-p", "--points", help="Draw these prompts and the resulting masks."),
    ] = None,
    min_score: MinScore = 0.0,
    clip: Annotated[
        str | None, typer.Option(help="The clip to draw, if the items have several.")
    ] = None,
    videos: VideoPaths = None,
    force: Force = False,
) -> None:
    """Draw items on their clip.

    Make a video, a contact sheet, images, or a grid of prompts.
    """
    from annotate import prompts
    from annotate.cli import console
    from annotate.dataset import frame_sources
    from annotate.errors import DatasetError
    from annotate.items import journal
    from annotate.video import reader
    from annotate.viewing.draw import draw_prompts, overlay, overlay_dataset

    if (dataset := _drawn_dataset(items)) is not None:
        if points is not None:
            raise DatasetError(f"{dataset.path}: points are drawn on a clip, not on a dataset")
        with console.progress("draw", None) as advance:
            overlay_dataset(
                dataset, output, clip=clip, min_score=min_score, force=force, progress=advance
            )
        console.print_result(str(output))
        return
    located = frame_sources.locate_clip(
        [journal.read(path) for path in items], clip, clip_paths(videos), min_score
    )
    merged = frame_sources.MergedItems(located)
    if points is not None:
        video = reader.probe(located.path)
        scope = prompts.clip_scope(video)
        table = prompts.prompt_table(prompts.read_points(points, scope), scope=scope)
        draw_prompts(table, located.path, merged, output, force=force)
    else:
        with console.progress("draw", None) as advance:
            overlay(merged, located.path, output, force=force, progress=advance)
    console.print_result(str(output))


def _drawn_dataset(paths: list[Path]) -> "Dataset | None":
    """Load the dataset that is to be drawn; None where files of items of a clip are.

    A dataset is given by its folder, or by its file of items where that names no clip.
    """
    from annotate.dataset.folder import DATASET_FILE, load_dataset
    from annotate.errors import DatasetError
    from annotate.items import journal

    folders = [path if path.is_dir() else path.parent for path in paths]
    found = [
        folder
        for path, folder in zip(paths, folders, strict=True)
        if (folder / DATASET_FILE).is_file()
        and (path.is_dir() or (path.name == "items.jsonl" and not journal.read(path).header.videos))
    ]
    if not found:
        return None
    if len(paths) > 1:
        raise DatasetError(f"{found[0]}: a dataset is drawn alone; give nothing beside it")
    return load_dataset(found[0])
