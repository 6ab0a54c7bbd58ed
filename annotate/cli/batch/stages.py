"""Run one stage over many clips: batch detect, segment, propagate, frames, scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate.cli.options import (
    BothDirections,
    Calibration,
    ColourMask,
    DetectorSpec,
    Device,
    Dtype,
    DuplicateMethod,
    Duplicates,
    DuplicateThreshold,
    Engine,
    Every,
    Everything,
    Fast,
    ImageFormat,
    Keyframes,
    Margin,
    MaxFrames,
    MinBoxScore,
    NearColour,
    OptionalVocabulary,
    Phrase,
    PictureFormat,
    RandomWeights,
    Rate,
    SegmenterName,
    Settings,
    Size,
    Start,
    Stop,
    parse_place,
    place_option,
    plugin_spec,
)

if TYPE_CHECKING:
    from annotate.batch.run import BatchOptions
    from annotate.batch.stages import Stage

batch_app = typer.Typer(help="Run one stage over many clips, each exactly once.")
FAILED_EXIT_CODE = 3

Sources = Annotated[
    list[Path],  # of which addresses are texts
    typer.Argument(
        parser=parse_place,
        help="Clips, patterns such as 'clips/*.mp4' or 's3://BUCKET/*.mp4', or .txt lists of them.",
    ),
]
Output = Annotated[Any, place_option("Folder for the batch, or s3://BUCKET/PREFIX.")]
Workers = Annotated[
    str, typer.Option("--on", help="local:N for N processes, or ray, or ray:ADDRESS of a cluster.")
]
Gpus = Annotated[float, typer.Option(min=0, help="With ray: GPUs for each worker, such as 0.5.")]
Shard = Annotated[
    str | None, typer.Option(metavar="I/N", help="Run part I of N parts: one a machine.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Run at most N clips now.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Run the clips again that failed.")
]


@batch_app.command()
def detect(
    sources: Sources,
    detector: DetectorSpec,
    output: Output,
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
    on: Workers = "local",
    gpus: Gpus = 0,
    shard: Shard = None,
    limit: Limit = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Propose boxes on the frames of many clips.

    A vocabulary is needed, but not by a model that `annotate train` made: it has its own.
    """
    from annotate.batch.stages import DetectStage
    from annotate.detectors.run import read_detector_vocabulary
    from annotate.plugins import FAMILIES
    from annotate.video.reader import FrameSelection

    detector, options = plugin_spec(FAMILIES["detectors"], detector, settings)
    stage = DetectStage(
        detector,
        read_detector_vocabulary(vocabulary, options),
        options,
        FrameSelection(every, rate, keyframes, start, stop),
        mask,
        near,
        margin,
        calibration,
    )
    _run(stage, sources, output, batch_options(on, gpus, shard, limit, retry_failed))


@batch_app.command()
def segment(
    sources: Sources,
    output: Output,
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
    on: Workers = "local",
    gpus: Gpus = 0,
    shard: Shard = None,
    limit: Limit = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Segment whole frames of many clips."""
    from annotate.batch.stages import SegmentStage
    from annotate.plugins import FAMILIES
    from annotate.video.reader import FrameSelection

    given = {"device": device, "dtype": dtype, "size": size, "random_weights": random_weights}
    engine, options = plugin_spec(FAMILIES["segmenters"], engine, settings, **given)
    selection = FrameSelection(every, rate, keyframes, start, stop, max_frames)
    stage = SegmentStage(engine, options, selection)
    _run(stage, sources, output, batch_options(on, gpus, shard, limit, retry_failed))


@batch_app.command()
def propagate(
    sources: Sources,
    output: Output,
    points: Annotated[
        Path | None,
        typer.Option("-p", "--points", help="CSV file of points with a column video."),
    ] = None,
    engine: Engine = "light",
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="ITEMS", help="Boxes: the folder of a batch, or files of items."
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
    random_weights: RandomWeights = None,
    settings: Settings = None,
    on: Workers = "local",
    gpus: Gpus = 0,
    shard: Shard = None,
    limit: Limit = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Propagate the prompts of many clips, each through its clip."""
    from annotate.batch.stages import PropagateStage
    from annotate.plugins import FAMILIES
    from annotate.vocabulary import read_vocabulary

    engine, options = plugin_spec(
        FAMILIES["propagators"],
        engine,
        settings,
        phrase=phrase,
        device=device,
        dtype=dtype,
        size=size,
        random_weights=random_weights,
        fast=fast,
    )
    parsed = None if vocabulary is None else read_vocabulary(vocabulary)
    stage = PropagateStage(engine, options, points, boxes, min_score, parsed, both, start, stop)
    _run(stage, sources, output, batch_options(on, gpus, shard, limit, retry_failed))


@batch_app.command()
def frames(
    sources: Sources,
    output: Output,
    every: Annotated[
        int | None, typer.Option(min=1, help="Take every N-th frame, not one of each shot.")
    ] = None,
    rate: Rate = None,
    keyframes: Keyframes = False,
    start: Start = 0,
    stop: Stop = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Keep at most N of each clip, the most different.")
    ] = None,
    duplicates: Duplicates = DuplicateMethod.ssim,
    threshold: DuplicateThreshold = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="X1,Y1,X2,Y2|PNG", help="Region to ignore; repeatable."),
    ] = None,
    everything: Everything = False,
    image_format: PictureFormat = ImageFormat.png,
    on: Workers = "local",
    gpus: Gpus = 0,
    shard: Shard = None,
    limit: Limit = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Save the frames worth keeping, a folder for each clip."""
    from annotate.batch.stages import FramesStage
    from annotate.sampling.filter import FilterOptions, SamplingOptions
    from annotate.video.reader import FrameSelection

    is_sparse = keyframes or rate is not None or every is not None
    selection = FrameSelection(every or 1, rate, keyframes, start, stop)
    sampling = SamplingOptions(not is_sparse, selection, tuple(ignore or ()))
    filtering = FilterOptions(duplicates.value, threshold, everything)
    stage = FramesStage(sampling, filtering, max_frames, image_format.value)
    _run(stage, sources, output, batch_options(on, gpus, shard, limit, retry_failed))


@batch_app.command()
def scenes(
    sources: Sources,
    output: Output,
    every: Every = 1,
    rate: Rate = None,
    keyframes: Keyframes = False,
    on: Workers = "local",
    gpus: Gpus = 0,
    shard: Shard = None,
    limit: Limit = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Compute what `scenes add` stores.

    `batch collect` adds the results to one database.
    """
    from annotate.batch.stages import ScenesStage
    from annotate.video.reader import FrameSelection

    stage = ScenesStage(FrameSelection(every, rate, keyframes))
    _run(stage, sources, output, batch_options(on, gpus, shard, limit, retry_failed))


def batch_options(
    on: str, gpus: float, shard: str | None, limit: int | None, retry_failed: bool
) -> BatchOptions:
    """Make the options of a batch from those of a command."""
    from annotate.batch.run import BatchOptions, parse_shard

    part = (1, 1) if shard is None else parse_shard(shard)
    return BatchOptions(on, part, limit, retry_failed, gpus)


def _run(stage: Stage, sources: list[Path], output: Path | str, options: BatchOptions) -> None:
    from annotate.batch.run import prepare
    from annotate.cli.batch.progress import print_failures, show_progress

    run = prepare(stage, sources, output, options)
    with show_progress(stage.name, run.done, len(run.to_run)) as watch:
        tally = run.run(watch)
    print_failures(run, tally)
    if tally.failures or run.failed:
        raise typer.Exit(FAILED_EXIT_CODE)
