"""Commands that read a clip: detect, segment, propagate, review, colours."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.options import (
    Clip,
    Compile,
    Device,
    Dtype,
    Every,
    Force,
    Keyframes,
    Most,
    PerhapsWords,
    RandomWeights,
    Rate,
    Settings,
    Size,
    Start,
    Stop,
    Videos,
    Words,
    complete_detector,
    complete_engine,
    complete_segmenter,
    pairs,
    paths,
    told,
)

app = typer.Typer()


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
    calibration: Annotated[
        Path | None, typer.Option(help="What `annotate calibrate-scores` learnt of its scores.")
    ] = None,
    force: Force = False,
) -> None:
    """Propose boxes on the frames of a clip."""
    from annotate import console, detect, prompts, sample, spending, video

    words = prompts.read_vocabulary(vocabulary)
    chosen = detect.load(detector, words, **detect.parse_options(detector, pairs(settings)))
    if mask is not None or near is not None:
        from annotate import prefilter

        chosen = prefilter.apply(chosen, mask=mask, near=near, margin=margin)
    if calibration is not None:
        from annotate.score_calibration import Calibrated

        chosen = Calibrated(chosen, detector, calibration)
    choice = sample.Choice(every, rate, keyframes, start, stop)
    job = detect.Job(chosen, detector, clip, choice)
    with console.progress(detector, choice.count(video.probe(clip))) as advance:
        tally = spending.Tally(advance)
        fresh = detect.into(job, output, force=force, progress=tally)
    console.done(output, fresh)
    if bill := spending.bill(chosen):
        console.say(bill.words(tally.pictures, tally.boxes))


@app.command()
def segment(
    clip: Clip,
    output: Annotated[Path, typer.Option("-o", "--output", help="File of items; - is stdout.")],
    engine: Annotated[
        str, typer.Option(autocompletion=complete_segmenter, help="What cuts up the picture.")
    ] = "slic",
    every: Every = 1,
    rate: Rate = None,
    keyframes: Keyframes = False,
    start: Start = 0,
    stop: Stop = None,
    most: Most = None,
    device: Device = None,
    dtype: Dtype = None,
    size: Size = None,
    random_weights: RandomWeights = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Cut pictures into all their parts: superpixels, or everything that SAM 2 sees."""
    from annotate import console, sample, segment, video

    said = told(settings, device=device, dtype=dtype, size=size, random_weights=random_weights)
    chosen = segment.load(engine, **segment.parse_options(engine, said))
    job = segment.Job(
        chosen, engine, clip, sample.Choice(every, rate, keyframes, start, stop, most)
    )
    with console.progress(engine, job.choice.count(video.probe(clip))) as advance:
        fresh = segment.into(job, output, force=force, progress=advance)
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
    phrase: Annotated[
        str | None, typer.Option(help="What sam3 looks for, in place of prompts.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    size: Size = None,
    compiled: Compile = False,
    random_weights: RandomWeights = None,
    settings: Settings = None,
    anew: Annotated[
        bool, typer.Option("--update", help="Follow anew only objects whose prompts changed.")
    ] = False,
    force: Force = False,
) -> None:
    """Carry points, boxes or masks through a clip: a mask and a track for each object."""
    from annotate import boxes as detected
    from annotate import console, prompts, propagate, shapes, update, video

    seen = video.probe(clip)
    words = None if vocabulary is None else prompts.read_vocabulary(vocabulary)
    classes = None if words is None else words.labels
    scope = prompts.Scope((seen.width, seen.height), seen.frame_count, classes)
    given = prompts.table(
        None if points is None else prompts.read_points(points, scope),
        [shapes.read_box(text, scope) for text in box or ()],
        [shapes.read_mask(text, scope) for text in mask or ()],
        scope=scope,
    )
    known = None if boxes is None else detected.read(boxes, seen, least, classes)
    said = told(settings, phrase=phrase, device=device, dtype=dtype, size=size)
    said |= told(None, compile=compiled, random_weights=random_weights)
    loaded = propagate.load(engine, **propagate.parse_options(engine, said, fast=fast))
    job = propagate.Job(loaded, engine, clip, given, start, stop, both, words, known)
    with console.progress(engine, job.count(seen)) as advance:
        if anew and not force:
            fresh = update.into(job, output, progress=advance)
        else:
            fresh = propagate.into(job, output, force=force, progress=advance)
    console.done(output, fresh)


@app.command()
def review(
    items: Annotated[Path, typer.Argument(help="A file of items with tracks.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="PNG for a sheet of them.")
    ] = None,
    most: Annotated[int, typer.Option("--max", min=1, help="At most so many frames.")] = 24,
    videos: Videos = None,
    force: Force = False,
) -> None:
    """List the frames worth a look, the worst first: flagged, unsure, lost, found again."""
    from annotate import clips, console, journal, review
    from annotate.errors import OutputError

    if output is not None and output.exists() and not force:
        raise OutputError(f"{output}: is there already: give another -o, or --force")
    book = journal.read(items)
    looks = review.find(book, most, flagged=book.header.stage == "propagate")
    rows = [(n.item.frame, f"{float(n.item.seconds):.2f}", f"{n.worth:.2f}", n.why) for n in looks]
    console.table(("frame", "seconds", "worth", "why"), rows)
    if output is not None:
        clip = clips.one([book], None, paths(videos)).path
        review.sheet(looks, clip, review.labels(looks, book.header), output)
        console.put(str(output))


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
