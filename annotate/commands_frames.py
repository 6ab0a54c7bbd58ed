"""Commands that choose frames worth having: frames, restore."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotate.options import (
    Force,
    ImageFormat,
    Keyframes,
    Pictures,
    Rate,
    Start,
    Stop,
    Videos,
    paths,
)

if TYPE_CHECKING:
    from annotate.choosing import Job

app = typer.Typer()


class Duplicates(enum.StrEnum):
    """How near-duplicates are known."""

    ssim = "ssim"
    hash = "hash"
    embedding = "embedding"


Output = typer.Option("-o", "--output", help="Folder for the pictures.")


@app.command()
def frames(
    clips: Annotated[list[Path], typer.Argument(help="Videos, folders of images, or images.")],
    output: Annotated[Path | None, Output] = None,
    shots: Annotated[
        bool, typer.Option("--shots", help="Take one frame of each shot: if nothing else is said.")
    ] = False,
    every: Annotated[int | None, typer.Option(min=1, help="Take every N-th frame.")] = None,
    rate: Rate = None,
    keyframes: Keyframes = False,
    start: Start = 0,
    stop: Stop = None,
    most: Annotated[
        int | None, typer.Option("--max", min=1, help="Keep at most N in all, the most different.")
    ] = None,
    duplicates: Annotated[
        Duplicates,
        typer.Option(help="Drop what looks like the last kept frame (ssim) or any kept frame."),
    ] = Duplicates.ssim,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Too much alike, of 1: ssim 0.6, hash 0.84, embedding 0.95."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2|PNG", help="A display not to look at: a box, a mask; repeatable."
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Drop none: no duplicates, nothing blank.")
    ] = False,
    preview: Annotated[
        Path | None,
        typer.Option(help="PNG for a sheet of what is kept and dropped; saves no frames."),
    ] = None,
    pictures: Pictures = ImageFormat.png,
    force: Force = False,
) -> None:
    """Save the frames of clips that are worth having; say what was left out, and why."""
    from annotate import choosing, chosen, console, sample, sift

    if (output is None) == (preview is None):
        raise typer.BadParameter("give a folder, or --preview PNG", param_hint="-o")
    sparse = keyframes or rate is not None or every is not None
    if sum((shots, keyframes, rate is not None, every is not None)) > 1:
        raise typer.BadParameter("one of --shots, --every, --rate", param_hint="--keyframes")
    choice = sample.Choice(every or 1, rate, keyframes, start, stop)
    taking = sift.Taking(not sparse, choice, tuple(ignore or ()))
    sieve = sift.Sieve(duplicates.value, threshold, everything)
    job = choosing.Job(tuple(clips), taking, sieve, most, pictures.value)
    if preview is not None:
        _preview(job, preview)
    elif output is not None:
        with console.progress("frames", job.count()) as advance:
            fresh = choosing.into(job, output, force=force, progress=advance)
        console.say(chosen.summary(output))
        console.done(output, fresh)


def _preview(job: Job, path: Path) -> None:
    from annotate import console
    from annotate.preview import Preview

    seen = Preview(job)
    with console.progress("frames", job.count()) as advance:
        seen.run(advance)
    seen.write(path)
    rows = [
        (f"{level:g}" + " *" * (level == job.least), kept, seen.count - kept)
        for level, kept in seen.kept.items()
    ]
    console.table(("threshold", "kept", "dropped"), rows)
    console.put(str(path))


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="What `annotate frames` filled.")],
    why: Annotated[
        list[str] | None,
        typer.Option(help="Put back all that was dropped for this reason; repeatable."),
    ] = None,
    frame: Annotated[
        list[str] | None,
        typer.Option(metavar="CLIP#FRAME", help="Put back this frame; repeatable."),
    ] = None,
    videos: Videos = None,
) -> None:
    """Put back frames that were dropped; without options, say how many were, and why."""
    from annotate import chosen, console

    with console.progress("frames", None) as advance:
        count = chosen.restore(folder, why or (), frame or (), paths(videos), advance)
    if why or frame:
        console.say(f"{count} put back; {chosen.summary(folder)}")
    rows = [(reason or "kept", count) for reason, count in sorted(chosen.tally(folder).items())]
    console.table(("frames", "count"), rows)
