"""Sample frames of clips into a folder (frames), and restore dropped ones (restore)."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotate.cli.options import (
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
    from annotate.sampling.run import Job


app = typer.Typer()


class DuplicateMethod(enum.StrEnum):
    """How near-duplicates are detected."""

    ssim = "ssim"
    hash = "hash"
    embedding = "embedding"


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
    duplicates: Annotated[
        DuplicateMethod,
        typer.Option(help="Drop frames similar to the last kept (ssim) or to any kept frame."),
    ] = DuplicateMethod.ssim,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Similarity of duplicates: ssim 0.6, hash 0.84, embedding 0.95."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2|PNG",
            help="Region to ignore, such as a score display: a box or a mask; repeatable.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Keep every frame, also duplicates and blank ones.")
    ] = False,
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
