"""Commands that read a clip: frames, detect, propagate, colours."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.options import (
    Clip,
    Every,
    Force,
    ImageFormat,
    Keyframes,
    Most,
    PerhapsWords,
    Pictures,
    Rate,
    Settings,
    Start,
    Stop,
    Words,
    complete_detector,
    complete_engine,
    pairs,
)

app = typer.Typer()


@app.command()
def frames(
    clip: Clip,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures.")],
    every: Every = 1,
    rate: Rate = None,
    keyframes: Keyframes = False,
    start: Start = 0,
    stop: Stop = None,
    most: Most = None,
    pictures: Pictures = ImageFormat.png,
) -> None:
    """Save frames of a clip as pictures, with a table of where each one stood."""
    from annotate import console, sample, video

    choice = sample.Choice(every, rate, keyframes, start, stop, most)
    with console.progress("frames", choice.count(video.probe(clip))) as advance:
        for path in sample.save(choice.frames(clip), output, image_format=pictures.value):
            advance(path)
    console.put(str(output))


@app.command()
def detect(
    clip: Clip,
    detector: Annotated[
        str, typer.Option("-d", "--detector", autocompletion=complete_detector, help="Its name.")
    ],
    vocabulary: Words,
    output: Annotated[Path, typer.Option("-o", "--output", help="File of items; - is stdout.")],
    every: Every = 1,
    rate: Rate = None,
    keyframes: Keyframes = False,
    start: Start = 0,
    stop: Stop = None,
    settings: Settings = None,
    mask: Annotated[
        str | None, typer.Option(help="Black out all but the colour of this class.")
    ] = None,
    near: Annotated[
        str | None, typer.Option(help="Look only near the colour of this class.")
    ] = None,
    margin: Annotated[int, typer.Option(min=0, help="Pixels round what --near keeps.")] = 40,
    force: Force = False,
) -> None:
    """Propose boxes on the frames of a clip."""
    from annotate import console, detect, prompts, sample, video

    words = prompts.read_vocabulary(vocabulary)
    chosen = detect.load(detector, words, **detect.parse_options(detector, pairs(settings)))
    if mask is not None or near is not None:
        from annotate import prefilter

        chosen = prefilter.apply(chosen, mask=mask, near=near, margin=margin)
    choice = sample.Choice(every, rate, keyframes, start, stop)
    job = detect.Job(chosen, detector, clip, choice)
    with console.progress(detector, choice.count(video.probe(clip))) as advance:
        fresh = detect.into(job, output, force=force, progress=advance)
    console.done(output, fresh)


@app.command()
def propagate(
    clip: Clip,
    output: Annotated[Path, typer.Option("-o", "--output", help="File of items; - is stdout.")],
    points: Annotated[
        Path | None, typer.Option("-p", "--points", help="CSV: frame_id, object_id, x, y, label.")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="FRAME,OBJECT,X1,Y1,X2,Y2", help="A box as prompt; repeatable."),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(metavar="FRAME:OBJECT:PNG", help="A mask as prompt; repeatable."),
    ] = None,
    engine: Annotated[
        str, typer.Option(autocompletion=complete_engine, help="What propagates.")
    ] = "light",
    boxes: Annotated[
        Path | None,
        typer.Option("--from", metavar="ITEMS", help="Boxes that start and repair objects."),
    ] = None,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Score below which a box of --from is ignored.")
    ] = 0.25,
    vocabulary: PerhapsWords = None,
    both: Annotated[
        bool, typer.Option("--both", help="Backward from the first prompt too.")
    ] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Quicker, less exact.")] = False,
    start: Start = 0,
    stop: Stop = None,
    settings: Settings = None,
    anew: Annotated[
        bool, typer.Option("--update", help="Follow anew only objects whose prompts changed.")
    ] = False,
    force: Force = False,
) -> None:
    """Carry points, boxes or masks through a clip: a mask and a track for each object."""
    from annotate import console, from_boxes, prompts, propagate, shapes, update, video

    seen = video.probe(clip)
    words = None if vocabulary is None else prompts.read_vocabulary(vocabulary)
    scope = prompts.Scope(
        (seen.width, seen.height), seen.frame_count, None if words is None else words.labels
    )
    told = prompts.table(
        None if points is None else prompts.read_points(points, scope),
        [shapes.read_box(text, scope) for text in box or ()],
        [shapes.read_mask(text, scope) for text in mask or ()],
        scope=scope,
    )
    options = propagate.parse_options(engine, pairs(settings), fast=fast)
    known = None if boxes is None else from_boxes.read(boxes, seen, least)
    loaded = propagate.load(engine, **options)
    job = propagate.Job(loaded, engine, clip, told, start, stop, both, words, known)
    with console.progress(engine, job.count(seen)) as advance:
        if anew and not force:
            fresh = update.into(job, output, progress=advance)
        else:
            fresh = propagate.into(job, output, force=force, progress=advance)
    console.done(output, fresh)


@app.command()
def colours(
    clip: Clip,
    box: Annotated[
        list[str], typer.Option(metavar="FRAME,X1,Y1,X2,Y2", help="A box round it; repeatable.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG for the plot.")],
    name: Annotated[str, typer.Option(help="The class's name.")] = "object",
    force: Force = False,
) -> None:
    """Tell a thing's colours from those round it; write a vocabulary entry to start from."""
    from annotate import colour_report, console, prompts, shapes, video

    seen = video.probe(clip)
    scope = prompts.Scope((seen.width, seen.height), seen.frame_count)
    regions = [shapes.read_region(text, scope) for text in box]
    report = colour_report.report(clip, regions, name)
    colour_report.plot(report, output, force=force)
    console.table(report.columns, report.rows)
    console.put(report.entry)
