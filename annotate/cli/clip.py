"""Commands that read a clip: detect, segment, point, propagate, colours."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.cli.options import (
    BothDirections,
    Calibration,
    ClipPath,
    ColourMask,
    Compile,
    DetectorSpec,
    Device,
    Dtype,
    Engine,
    Every,
    Fast,
    Force,
    Keyframes,
    Margin,
    MaxFrames,
    MinBoxScore,
    NearColour,
    OptionalVocabulary,
    Phrase,
    RandomWeights,
    Rate,
    SegmenterName,
    Settings,
    Size,
    Start,
    Stop,
    complete_detector,
    plugin_spec,
)

app = typer.Typer()


@app.command()
def detect(
    clip: ClipPath,
    detector: DetectorSpec,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File for the items; - is stdout.")
    ],
    vocabulary: OptionalVocabulary = None,
    every: Every = 1,
    rate: Rate = None,
    keyframes: Keyframes = False,
    start: Start = 0,
    stop: Stop = None,
    settings: Settings = None,
    mask: ColourMask = None,
    near: NearColour = None,
    margin: Margin = 40,
    calibration: Calibration = None,
    force: Force = False,
) -> None:
    """Propose boxes on the frames of a clip.

    A vocabulary is needed, but not by a model that `annotate train` made: it has its own.
    """
    from annotate.cli import console
    from annotate.detectors import run as detectors_run
    from annotate.video import reader
    from annotate.vlm import budget

    detector, options = plugin_spec(detectors_run.DETECTORS, detector, settings)
    words = detectors_run.read_detector_vocabulary(vocabulary, options)
    plugin = detectors_run.DETECTORS.load(detector, words, **options)
    if mask is not None or near is not None:
        from annotate.detectors.colour.filter import filter_by_colour

        plugin = filter_by_colour(plugin, mask=mask, near=near, margin=margin)
    if calibration is not None:
        from annotate.evaluation.calibration import CalibratedDetector

        plugin = CalibratedDetector(plugin, detector, calibration)
    selection = reader.FrameSelection(every, rate, keyframes, start, stop)
    job = detectors_run.Job(plugin, detector, clip, selection)
    with console.progress(detector, selection.count(reader.probe(clip))) as advance:
        counter = budget.ItemCounter(advance)
        try:
            is_new = detectors_run.run_to_file(job, output, force=force, progress=counter)
        finally:  # a run that fails has its price as well
            usage = budget.total_usage(plugin)
            if usage and usage.questions + usage.cached:
                console.print_status(usage.summary(counter.pictures, counter.boxes))
    console.print_output_path(output, is_new)
    console.print_notes(detectors_run.collect_notes(plugin))
    if not is_new:
        console.refuse_unanswered(len(detectors_run.unanswered_frames(job, output)), "still ")


@app.command()
def segment(
    clip: ClipPath,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File for the items; - is stdout.")
    ],
    engine: SegmenterName = "slic",
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
    """Segment whole frames.

    Give superpixels with slic, or all segments that SAM 2 finds.
    """
    from annotate import segmenters
    from annotate.cli import console
    from annotate.video import reader

    given = {"device": device, "dtype": dtype, "size": size, "random_weights": random_weights}
    engine, options = plugin_spec(segmenters.SEGMENTERS, engine, settings, **given)
    plugin = segmenters.SEGMENTERS.load(engine, **options)
    selection = reader.FrameSelection(every, rate, keyframes, start, stop, max_frames)
    job = segmenters.Job(plugin, engine, clip, selection)
    with console.progress(engine, selection.count(reader.probe(clip))) as advance:
        is_new = segmenters.run_to_file(job, output, force=force, progress=advance)
    console.print_output_path(output, is_new)


@app.command()
def propagate(
    clip: ClipPath,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File for the items; - is stdout.")
    ],
    points: Annotated[
        Path | None,
        typer.Option(
            "-p",
            "--points",
            help="CSV file with the columns frame_id, object_id, x, y, label[, class].",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="FRAME,OBJECT,X1,Y1,X2,Y2", help="A box as prompt; repeatable."),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(metavar="FRAME:OBJECT:PNG", help="A mask as prompt; repeatable."),
    ] = None,
    engine: Engine = "light",
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="ITEMS", help="File of items: boxes that start and repair objects."
        ),
    ] = None,
    min_score: MinBoxScore = 0.25,
    vocabulary: OptionalVocabulary = None,
    both: BothDirections = False,
    fast: Fast = False,
    start: Start = 0,
    stop: Stop = None,
    phrase: Phrase = None,
    device: Device = None,
    dtype: Dtype = None,
    size: Size = None,
    compile_: Compile = False,
    random_weights: RandomWeights = None,
    settings: Settings = None,
    update: Annotated[
        bool, typer.Option("--update", help="Propagate again only objects with changed prompts.")
    ] = False,
    force: Force = False,
) -> None:
    """Propagate prompts through a clip.

    Points, boxes or masks give a mask and a track for each object.
    """
    from annotate import prompts
    from annotate.cli import console
    from annotate.propagators import boxes as propagators_boxes
    from annotate.propagators import job as propagators_job
    from annotate.propagators import run as propagators_run
    from annotate.video import reader
    from annotate.vocabulary import read_vocabulary

    video = reader.probe(clip)
    parsed = None if vocabulary is None else read_vocabulary(vocabulary)
    classes = None if parsed is None else parsed.labels
    scope = prompts.clip_scope(video, classes)
    table = prompts.prompt_table(
        None if points is None else prompts.read_points(points, scope),
        [prompts.parse_box(text, scope) for text in box or ()],
        [prompts.parse_mask(text, scope) for text in mask or ()],
        scope=scope,
    )
    detected = None if boxes is None else propagators_boxes.read(boxes, video, min_score, classes)
    engine, options = plugin_spec(
        propagators_job.PROPAGATORS,
        engine,
        settings,
        phrase=phrase,
        device=device,
        dtype=dtype,
        size=size,
        compile=compile_,
        random_weights=random_weights,
        fast=fast,
    )
    plugin = propagators_job.PROPAGATORS.load(engine, **options)
    job = propagators_job.Job(plugin, engine, clip, table, start, stop, both, parsed, detected)
    with console.progress(engine, job.count_frames(video)) as advance:
        if update and not force:
            is_new = propagators_run.update(job, output, progress=advance)
        else:
            is_new = propagators_run.run_to_file(job, output, force=force, progress=advance)
    console.print_output_path(output, is_new)


@app.command()
def point(
    clip: Annotated[
        Path | None, typer.Argument(help="A clip: a video file, or a folder of images.")
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            "-p", "--points", help="CSV file of the points; default: CLIP-points.csv, made here."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File for the items; default: CLIP-masks.jsonl."),
    ] = None,
    engine: Engine = "light",
    boxes: Annotated[
        Path | None,
        typer.Option("--from", metavar="ITEMS", help="File of items: boxes to accept by a key."),
    ] = None,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out detected boxes with a lower score.")
    ] = 0.25,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            "-d",
            "--detector",
            autocompletion=complete_detector,
            help="A detector to offer on the page, NAME[:KEY=VALUE,...]; repeatable. Those that "
            "the vocabulary has entries for are offered anyway.",
        ),
    ] = None,
    frame_list: Annotated[
        Path | None,
        typer.Option(
            "--frames",
            metavar="CSV",
            help="Frames to label, in the order of `annotate next`: a key goes to the next one.",
        ),
    ] = None,
    vocabulary: OptionalVocabulary = None,
    start: Start = 0,
    stop: Stop = None,
    device: Device = None,
    settings: Settings = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; the next free one if taken.")
    ] = 8791,
    browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser.")
    ] = True,
    demo: Annotated[bool, typer.Option("--demo", help="Open the bundled clip.")] = False,
) -> None:
    """Point at objects on a local page, and propagate them.

    Click, see the mask, propagate, correct. The points file replays to the same masks.
    """
    import threading

    from annotate import vocabulary as vocabularies
    from annotate.cli import console
    from annotate.detectors.run import DETECTORS
    from annotate.files import packaged_file
    from annotate.propagators.job import PROPAGATORS
    from annotate.web.point import launch
    from annotate.web.point.detectors import OfferedDetector

    if (clip is None) != demo:
        raise typer.BadParameter("give a clip, or --demo")
    clip = clip or packaged_file("clips", "demo.mp4")
    options = launch.PointOptions(
        *plugin_spec(PROPAGATORS, engine, settings, device=device),
        start,
        stop,
        None if vocabulary is None else vocabularies.read_vocabulary(vocabulary),
        boxes,
        min_score,
        [OfferedDetector(text, *plugin_spec(DETECTORS, text, None)) for text in detector or ()],
        frame_list,
    )
    files = launch.PointFiles.beside(clip, points, output)
    with launch.open_page(clip, files, options, port) as address:
        console.print_result(address)
        for line in launch.start_messages(address, files, port):
            console.print_status(line)
        launch.open_browser(address, browser)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print_status(f"{files.points}: saved after every action")


@app.command()
def colours(
    clip: ClipPath,
    box: Annotated[
        list[str],
        typer.Option(metavar="FRAME,X1,Y1,X2,Y2", help="A box round the object; repeatable."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG file for the plot.")],
    name: Annotated[str, typer.Option(help="The class's name.")] = "object",
    force: Force = False,
) -> None:
    """Measure the colours of an object.

    Compare them with those around it. Print a vocabulary entry for the detector colour, alone on
    stdout, and try it on the boxes.
    """
    from annotate import prompts
    from annotate.cli import console
    from annotate.detectors.colour.report import compare_clip, plot
    from annotate.video import reader
    from annotate.viewing import fonts

    video = reader.probe(clip)
    scope = prompts.clip_scope(video)
    regions = [prompts.parse_frame_box(text, scope) for text in box]
    report = compare_clip(clip, regions, name)
    plot(report, output, force=force, font=fonts.font_file(name))
    console.print_table(report.columns, report.rows, to_stderr=True)
    console.print_status(f"{report.trial.summary}; the plot is {output}")
    console.print_result(report.toml_entry.rstrip())
