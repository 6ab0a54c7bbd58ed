"""Choose frames: to save (frames, restore), to label (next), to look at again (review)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotate.cli.options import (
    DuplicateMethod,
    Duplicates,
    DuplicateThreshold,
    Everything,
    Force,
    ImageFormat,
    Keyframes,
    PictureFormat,
    Rate,
    Start,
    Stop,
    VideoPaths,
    clip_paths,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from annotate.sampling.run import Job
    from annotate.viewing.review import ReviewFrame


app = typer.Typer()


OutputOption = typer.Option("-o", "--output", help="Folder for the images.")


@app.command()
def frames(
    clips: Annotated[list[Path], typer.Argument(help="Videos, folders of images, or images.")],
    output: Annotated[Path | None, OutputOption] = None,
    shots: Annotated[
        bool, typer.Option("--shots", help="Take one frame of each shot (default).")
    ] = False,
    every: Annotated[int | None, typer.Option(min=1, help="Take every N-th frame.")] = None,
    rate: Rate = None,
    keyframes: Keyframes = False,
    start: Start = 0,
    stop: Stop = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Keep at most N in all, the most different.")
    ] = None,
    duplicates: Duplicates = DuplicateMethod.ssim,
    threshold: DuplicateThreshold = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2|PNG",
            help="Region to ignore, such as a score display: a box or a mask; repeatable.",
        ),
    ] = None,
    everything: Everything = False,
    preview: Annotated[
        Path | None,
        typer.Option(help="PNG file for a sheet of kept and dropped frames; saves no frames."),
    ] = None,
    image_format: PictureFormat = ImageFormat.png,
    force: Force = False,
) -> None:
    """Save the frames worth keeping.

    Report what was dropped, and why.
    """
    from annotate.cli import console
    from annotate.sampling.filter import FilterOptions, SamplingOptions
    from annotate.sampling.folder import summarize_folder
    from annotate.sampling.run import Job, fill_folder
    from annotate.video import reader

    if (output is None) == (preview is None):
        raise typer.BadParameter("give a folder, or --preview PNG", param_hint="-o")
    sparse = keyframes or rate is not None or every is not None
    if sum((shots, keyframes, rate is not None, every is not None)) > 1:
        raise typer.BadParameter(
            "give only one of --shots, --every, --rate and --keyframes", param_hint="--keyframes"
        )
    selection = reader.FrameSelection(every or 1, rate, keyframes, start, stop)
    sampling_options = SamplingOptions(not sparse, selection, tuple(ignore or ()))
    filter_options = FilterOptions(duplicates.value, threshold, everything)
    job = Job(tuple(clips), sampling_options, filter_options, max_frames, image_format.value)
    if preview is not None:
        _write_preview(job, preview)
    elif output is not None:
        with console.progress("frames", job.count()) as advance:
            is_new = fill_folder(job, output, force=force, progress=advance)
        console.print_status(summarize_folder(output))
        console.print_output_path(output, is_new)


def _write_preview(job: Job, path: Path) -> None:
    from annotate.cli import console
    from annotate.sampling.run import Preview

    preview = Preview(job)
    with console.progress("frames", job.count()) as advance:
        preview.run(advance)
    preview.write(path)
    rows = [
        (f"{level:g}" + " *" * (level == job.threshold), kept, preview.count - kept)
        for level, kept in preview.kept.items()
    ]
    console.print_table(("threshold", "kept", "dropped"), rows)
    console.print_result(str(path))


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `annotate frames` filled.")],
    reason: Annotated[
        list[str] | None,
        typer.Option(help="Restore all frames dropped for this reason; repeatable."),
    ] = None,
    frame: Annotated[
        list[str] | None,
        typer.Option(metavar="CLIP#FRAME", help="Restore this frame; repeatable."),
    ] = None,
    videos: VideoPaths = None,
) -> None:
    """Restore dropped frames.

    Without options, count the frames by drop reason.
    """
    from annotate.cli import console
    from annotate.sampling.folder import count_by_reason, restore_frames, summarize_folder

    with console.progress("frames", None) as advance:
        restored = restore_frames(folder, reason or (), frame or (), clip_paths(videos), advance)
    if reason or frame:
        console.print_status(f"{restored} restored; {summarize_folder(folder)}")
    rows = [(name or "kept", count) for name, count in sorted(count_by_reason(folder).items())]
    console.print_table(("frames", "count"), rows)


@app.command("next")
def next_(
    items: Annotated[list[Path], typer.Argument(help="Files of items of one or more clips.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV file for the frames.")],
    count: Annotated[int, typer.Option(min=1, help="Choose N frames.")] = 40,
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--and",
            metavar="ITEMS",
            help="Items of another detector: where they disagree is worth more; repeatable.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="A trained model: where it disagrees with the items is worth more."),
    ] = None,
    known: Annotated[
        Path | None, typer.Option(help="The dataset that is labelled: choose what differs from it.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=0.99,
            help="The score at which the detector is unsure; default: the model's, or 0.5.",
        ),
    ] = None,
    random_share: Annotated[
        float, typer.Option("--random", min=0, max=1, help="Share of frames drawn from all.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed draws other frames.")] = 0,
    videos: VideoPaths = None,
    force: Force = False,
) -> None:
    """Choose the frames that are most worth labelling next.

    Frames where the detector flickers or is unsure, different from each other and from the known.
    """
    from annotate.active_learning.frame_list import write_frame_list
    from annotate.active_learning.run import NextSources, next_frames
    from annotate.active_learning.selection import SelectionOptions
    from annotate.cli import console
    from annotate.dataset.folder import load_dataset
    from annotate.files import refuse_existing

    refuse_existing(output, force)
    loaded = None if known is None else load_dataset(known)
    sources = NextSources(items, others or (), model, loaded, clip_paths(videos))
    options = SelectionOptions(count, random_share, seed)
    listed = next_frames(sources, options, threshold=threshold, progress=console.progress)
    write_frame_list(output, listed, force=force)
    rows = [
        (each.rank, each.clip, each.frame, f"{each.seconds:.2f}", f"{each.worth:.2f}", each.why)
        for each in listed
    ]
    console.print_table(("rank", "clip", "frame", "seconds", "worth", "why"), rows)
    if len(listed) < count:
        console.print_status(f"{len(listed)} frames: the clips have no more, half a second apart")
    console.print_result(str(output))


@app.command()
def review(
    items: Annotated[Path, typer.Argument(help="A file of items with tracks, or a dataset.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="PNG file for a sheet of these frames.")
    ] = None,
    order: Annotated[
        Path | None, typer.Option(help="CSV file for the frames, for `annotate push --frames`.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Of a dataset: the trained model that checks its labels.")
    ] = None,
    detections: Annotated[
        list[Path] | None,
        typer.Option("--items", help="Of a dataset: items of a detector instead; repeatable."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Score from which boxes count; default: the model's, 0.5."),
    ] = None,
    max_frames: Annotated[int, typer.Option(min=1, help="List at most N frames.")] = 24,
    videos: VideoPaths = None,
    force: Force = False,
) -> None:
    """List the frames to review, the worst first.

    Of items: flagged, unsure and lost objects, and those found again. Of a dataset: labels that a
    model contradicts, as missed, spurious, badly placed or of another class.
    """
    from annotate.active_learning.frame_list import write_frame_list
    from annotate.active_learning.second_look import to_frame_list
    from annotate.cli import console
    from annotate.dataset.folder import DATASET_FILE
    from annotate.files import refuse_existing

    for path in (output, order):
        if path is not None:
            refuse_existing(path, force)
    is_dataset = (items / DATASET_FILE).is_file()
    if is_dataset == (model is None and not detections) or (model is not None and detections):
        raise typer.BadParameter("a dataset, and only a dataset, needs --model or --items")
    if is_dataset:
        frames, draw = _review_dataset(items, model, detections or [], threshold, max_frames)
    else:
        frames, draw = _review_items(items, max_frames, videos)
    if order is not None:
        write_frame_list(order, to_frame_list(frames), force=force)
        console.print_result(str(order))
    if output is not None:
        draw(output)
        console.print_result(str(output))


def _review_items(
    path: Path, max_frames: int, videos: list[str] | None
) -> tuple[list[ReviewFrame], Callable[[Path], None]]:
    from annotate.cli import console
    from annotate.dataset import frame_sources
    from annotate.items import journal
    from annotate.viewing.review import class_labels, draw_sheet, find_frames

    tracks = journal.read(path)
    frames = find_frames(tracks, max_frames, flagged=tracks.header.stage == "propagate")
    rows = [
        (each.item.frame, f"{float(each.item.seconds):.2f}", f"{each.priority:.2f}", each.summary)
        for each in frames
    ]
    console.print_table(("frame", "seconds", "priority", "reasons"), rows)

    def draw(output: Path) -> None:
        clip = frame_sources.locate_clip([tracks], None, clip_paths(videos)).path
        draw_sheet(frames, clip, class_labels(frames, tracks.header), output)

    return frames, draw


def _review_dataset(
    path: Path,
    model: Path | None,
    items: list[Path],
    threshold: float | None,
    max_frames: int,
) -> tuple[list[ReviewFrame], Callable[[Path], None]]:
    from annotate.active_learning import detections, second_look
    from annotate.active_learning.contradictions import DEFAULT_THRESHOLD
    from annotate.cli import console
    from annotate.dataset.folder import load_dataset
    from annotate.viewing.review import draw_dataset_sheet

    dataset, default = load_dataset(path), DEFAULT_THRESHOLD
    if model is not None:
        detector, default = detections.load_model(model)
        found = detections.detect_dataset(dataset, detector, console.progress)
    else:
        found = detections.read_detections(dataset, items)
    least = default if threshold is None else threshold
    looked = second_look.find_likely_errors(dataset, found, least, max_frames)
    frames = looked.frames
    rows = [
        (each.item.video, each.item.frame, f"{each.priority:.2f}", each.summary) for each in frames
    ]
    console.print_table(("clip", "frame", "priority", "reasons"), rows)
    console.print_status(looked.summary + ("" if frames else "; no label is contradicted"))
    labels = [*dataset.classes, *map(second_look.mark, dataset.classes)]
    return frames, lambda output: draw_dataset_sheet(frames, dataset, labels, output)
