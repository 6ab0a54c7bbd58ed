"""Commands that read a clip: detect, segment, propagate, review, colours."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.cli.options import (
    ClipPath,
    Compile,
    Device,
    Dtype,
    Every,
    Force,
    Keyframes,
    MaxFrames,
    OptionalVocabulary,
    RandomWeights,
    Rate,
    Settings,
    Size,
    Start,
    Stop,
    VideoPaths,
    VocabularyOption,
    clip_paths,
    complete_detector,
    complete_engine,
    complete_segmenter,
    key_value_pairs,
    plugin_options,
)

app = typer.Typer()


@app.command()
def detect(
    clip: ClipPath,
    detector: Annotated[
        str, typer.Option("-d", "--detector", autocompletion=complete_detector, help="Its name.")
    ],
    vocabulary: VocabularyOption,
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
    from annotate.cli import console
    from annotate.detectors import run as detectors_run
    from annotate.video import reader
    from annotate.vlm import budget
    from annotate.vocabulary import read_vocabulary

    words = read_vocabulary(vocabulary)
    chosen = detectors_run.DETECTORS.load(
        detector,
        words,
        **detectors_run.DETECTORS.parse_options(detector, key_value_pairs(settings)),
    )
    if mask is not None or near is not None:
        from annotate.detectors.colour.filter import filter_by_colour

        chosen = filter_by_colour(chosen, mask=mask, near=near, margin=margin)
    if calibration is not None:
        from annotate.evaluation.calibration import CalibratedDetector

        chosen = CalibratedDetector(chosen, detector, calibration)
    choice = reader.FrameSelection(every, rate, keyframes, start, stop)
    job = detectors_run.Job(chosen, detector, clip, choice)
    with console.progress(detector, choice.count(reader.probe(clip))) as advance:
        tally = budget.ItemCounter(advance)
        fresh = detectors_run.run_to_file(job, output, force=force, progress=tally)
    console.print_output_path(output, fresh)
    if bill := budget.total_usage(chosen):
        console.print_status(bill.summary(tally.pictures, tally.boxes))


@app.command()
def segment(
    clip: ClipPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="File of items; - is stdout.")],
    engine: Annotated[
        str, typer.Option(autocompletion=complete_segmenter, help="What cuts up the picture.")
    ] = "slic",
    every: Every = 1,
    rate: Rate = None,
    keyframes: Keyframes = False,
    start: Start = 0,
    stop: Stop = None,
    max_frames: MaxFrames = None,
    device: Device = None,
    dtype: Dtype = None,
    size: Size = None,
    random_weights: RandomWeights = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Cut pictures into all their parts: superpixels, or everything that SAM 2 sees."""
    from annotate import segmenters
    from annotate.cli import console
    from annotate.video import reader

    said = plugin_options(
        settings, device=device, dtype=dtype, size=size, random_weights=random_weights
    )
    chosen = segmenters.SEGMENTERS.load(engine, **segmenters.SEGMENTERS.parse_options(engine, said))
    job = segmenters.Job(
        chosen, engine, clip, reader.FrameSelection(every, rate, keyframes, start, stop, max_frames)
    )
    with console.progress(engine, job.selection.count(reader.probe(clip))) as advance:
        fresh = segmenters.run_to_file(job, output, force=force, progress=advance)
    console.print_output_path(output, fresh)


@app.command()
def propagate(
    clip: ClipPath,
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
    boxes_path: Annotated[
        Path | None,
        typer.Option("--from", metavar="ITEMS", help="Boxes that start and repair objects."),
    ] = None,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Score below which a box of --from is ignored.")
    ] = 0.25,
    vocabulary: OptionalVocabulary = None,
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
    update_changed: Annotated[
        bool, typer.Option("--update", help="Follow anew only objects whose prompts changed.")
    ] = False,
    force: Force = False,
) -> None:
    """Carry points, boxes or masks through a clip: a mask and a track for each object."""
    from annotate import prompts
    from annotate.cli import console
    from annotate.propagators import boxes as propagators_boxes
    from annotate.propagators import job as propagators_job
    from annotate.propagators import run as propagators_run
    from annotate.video import reader
    from annotate.vocabulary import read_vocabulary

    seen = reader.probe(clip)
    words = None if vocabulary is None else read_vocabulary(vocabulary)
    classes = None if words is None else words.labels
    scope = prompts.PromptScope((seen.width, seen.height), seen.frame_count, classes)
    given = prompts.prompt_table(
        None if points is None else prompts.read_points(points, scope),
        [prompts.parse_box(text, scope) for text in box or ()],
        [prompts.parse_mask(text, scope) for text in mask or ()],
        scope=scope,
    )
    known = None if boxes_path is None else propagators_boxes.read(boxes_path, seen, least, classes)
    said = plugin_options(settings, phrase=phrase, device=device, dtype=dtype, size=size)
    said |= plugin_options(None, compile=compiled, random_weights=random_weights, fast=fast)
    loaded = propagators_job.PROPAGATORS.load(
        engine, **propagators_job.PROPAGATORS.parse_options(engine, said)
    )
    job = propagators_job.Job(loaded, engine, clip, given, start, stop, both, words, known)
    with console.progress(engine, job.count_frames(seen)) as advance:
        if update_changed and not force:
            fresh = propagators_run.update(job, output, progress=advance)
        else:
            fresh = propagators_run.run_to_file(job, output, force=force, progress=advance)
    console.print_output_path(output, fresh)


@app.command()
def review(
    items: Annotated[Path, typer.Argument(help="A file of items with tracks.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="PNG for a sheet of them.")
    ] = None,
    max_frames: Annotated[int, typer.Option("--max", min=1, help="At most so many frames.")] = 24,
    videos: VideoPaths = None,
    force: Force = False,
) -> None:
    """List the frames worth a look, the worst first: flagged, unsure, lost, found again."""
    from annotate.cli import console
    from annotate.dataset import frame_sources
    from annotate.errors import OutputError
    from annotate.items import journal
    from annotate.viewing.review import class_labels, draw_sheet, find_frames

    if output is not None and output.exists() and not force:
        raise OutputError(f"{output}: is there already: give another -o, or --force")
    book = journal.read(items)
    looks = find_frames(book, max_frames, flagged=book.header.stage == "propagate")
    rows = [
        (n.item.frame, f"{float(n.item.seconds):.2f}", f"{n.priority:.2f}", n.summary)
        for n in looks
    ]
    console.print_table(("frame", "seconds", "worth", "why"), rows)
    if output is not None:
        clip = frame_sources.locate_clip([book], None, clip_paths(videos)).path
        draw_sheet(looks, clip, class_labels(looks, book.header), output)
        console.print_result(str(output))


@app.command()
def colours(
    clip: ClipPath,
    box: Annotated[
        list[str], typer.Option(metavar="FRAME,X1,Y1,X2,Y2", help="A box round it; repeatable.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG for the plot.")],
    name: Annotated[str, typer.Option(help="The class's name.")] = "object",
    force: Force = False,
) -> None:
    """Tell a thing's colours from those round it; write a vocabulary entry to start from."""
    from annotate import prompts
    from annotate.cli import console
    from annotate.detectors.colour.report import compare_clip, plot
    from annotate.video import reader

    seen = reader.probe(clip)
    scope = prompts.PromptScope((seen.width, seen.height), seen.frame_count)
    regions = [prompts.parse_frame_box(text, scope) for text in box]
    report = compare_clip(clip, regions, name)
    plot(report, output, force=force)
    console.print_table(report.columns, report.rows)
    console.print_result(report.toml_entry)
