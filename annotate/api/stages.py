"""Run the stages that look at frames: frames, detect, propagate, segment.

Each is a generator of `(Frame, sv.Detections)` pairs, in order of frames, that holds a few frames
at a time. With `output` it writes a file of items instead, which a stopped call continues when it
is made again, and returns the file's path. Clips, vocabularies and files may be given as strings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from annotate.errors import AnnotateError
from annotate.items import detections as item_detections
from annotate.items.records import Box, Frame, Item, Mask, Vocabulary

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

    from annotate.detectors.run import Detector
    from annotate.prompts import PromptTable
    from annotate.propagators.job import Propagator
    from annotate.segmenters import Segmenter

Clip = str | Path
Pairs = Iterator[tuple[Frame, "sv.Detections"]]
Progress = Callable[[Item], None]


def _no_progress(item: Item) -> None:
    pass


def frames(
    clip: Clip,
    *,
    every: int = 1,
    rate: float | None = None,
    keyframes: bool = False,
    start: int = 0,
    stop: int | None = None,
    max_frames: int | None = None,
) -> Iterator[Frame]:
    """Yield frames of a clip, decoded as they are needed.

    Every `every`-th frame from `start` up to, not including, `stop`; or `rate` frames a second; or
    keyframes alone; at most `max_frames` of these, spread evenly. `annotate frames`, which drops
    blurred and duplicate ones, is `annotate.sampling`.

    Examples:
        >>> import annotate
        >>> [frame.index for frame in annotate.frames(demo_clip, every=50)]
        [0, 50, 100]

    Raises:
        VideoError: the clip cannot be read.
    """
    from annotate.video.reader import FrameSelection

    return FrameSelection(every, rate, keyframes, start, stop, max_frames).frames(Path(clip))


@overload
def detect(
    clip: Clip,
    detector: str | Detector = ...,
    *,
    vocabulary: str | Path | Vocabulary | None = ...,
    every: int = ...,
    rate: float | None = ...,
    keyframes: bool = ...,
    start: int = ...,
    stop: int | None = ...,
    max_frames: int | None = ...,
    output: None = ...,
    **options: Any,
) -> Pairs: ...
@overload
def detect(
    clip: Clip,
    detector: str | Detector = ...,
    *,
    vocabulary: str | Path | Vocabulary | None = ...,
    every: int = ...,
    rate: float | None = ...,
    keyframes: bool = ...,
    start: int = ...,
    stop: int | None = ...,
    max_frames: int | None = ...,
    output: str | Path,
    force: bool = ...,
    progress: Progress = ...,
    **options: Any,
) -> Path: ...
def detect(
    clip: Clip,
    detector: str | Detector = "colour",
    *,
    vocabulary: str | Path | Vocabulary | None = None,
    every: int = 1,
    rate: float | None = None,
    keyframes: bool = False,
    start: int = 0,
    stop: int | None = None,
    max_frames: int | None = None,
    output: str | Path | None = None,
    force: bool = False,
    progress: Progress = _no_progress,
    **options: Any,
) -> Pairs | Path:
    """Propose boxes on the frames of a clip, with a detector's name or an object of your own.

    `vocabulary` is the name of one that ships, a TOML file, or a Vocabulary; a detector given as an
    object has its own. `options` are the fields of the named detector. To write a file, a detector
    must be a dataclass: its fields are the settings in the file's header.

    Examples:
        >>> import annotate
        >>> pairs = annotate.detect(demo_clip, "colour", vocabulary="designator.v1", stop=2)
        >>> [detections.data["class_name"].tolist() for frame, detections in pairs]
        [['designator'], ['designator']]

    Raises:
        UnknownName: no such detector, option or vocabulary.
        VideoError: the clip cannot be read.
        SettingsDiffer, OutputError: `output` was made with other settings, or cannot be written.
    """
    from annotate.detectors import run
    from annotate.video.reader import FrameSelection

    selection = FrameSelection(every, rate, keyframes, start, stop, max_frames)
    name = detector if isinstance(detector, str) else type(detector).__name__
    if isinstance(detector, str):
        words = run.read_detector_vocabulary(vocabulary, options)
        detector = run.DETECTORS.load(detector, words, **options)
        run.check_ready(detector)
    if output is None:
        return _propose(detector, selection.frames(Path(clip)), name)
    if not dataclasses.is_dataclass(detector):
        raise AnnotateError(
            f"{name} is not a dataclass: its settings cannot be written; make it a frozen dataclass"
        )
    job = run.Job(detector, name, Path(clip), selection)
    run.run_to_file(job, Path(output), force=force, progress=progress)
    return Path(output)


def _propose(detector: Detector, selected: Iterable[Frame], source: str) -> Pairs:
    from annotate.detectors.run import detect_pairs

    labels = detector.vocabulary.labels
    for frame, item in detect_pairs(detector, selected, source):
        yield frame, item_detections.item_to_detections(item, labels)


@overload
def propagate(
    clip: Clip,
    points: str | Path | pd.DataFrame | None = ...,
    engine: str | Propagator = ...,
    *,
    boxes: Iterable[tuple[int, int, Box]] = ...,
    masks: Iterable[tuple[int, int, Mask]] = ...,
    items: str | Path | None = ...,
    min_score: float = ...,
    vocabulary: str | Path | Vocabulary | None = ...,
    start: int = ...,
    stop: int | None = ...,
    both_directions: bool = ...,
    output: None = ...,
    **options: Any,
) -> Pairs: ...
@overload
def propagate(
    clip: Clip,
    points: str | Path | pd.DataFrame | None = ...,
    engine: str | Propagator = ...,
    *,
    boxes: Iterable[tuple[int, int, Box]] = ...,
    masks: Iterable[tuple[int, int, Mask]] = ...,
    items: str | Path | None = ...,
    min_score: float = ...,
    vocabulary: str | Path | Vocabulary | None = ...,
    start: int = ...,
    stop: int | None = ...,
    both_directions: bool = ...,
    output: str | Path,
    force: bool = ...,
    progress: Progress = ...,
    **options: Any,
) -> Path: ...
def propagate(
    clip: Clip,
    points: str | Path | pd.DataFrame | None = None,
    engine: str | Propagator = "light",
    *,
    boxes: Iterable[tuple[int, int, Box]] = (),
    masks: Iterable[tuple[int, int, Mask]] = (),
    items: str | Path | None = None,
    min_score: float = 0.25,
    vocabulary: str | Path | Vocabulary | None = None,
    start: int = 0,
    stop: int | None = None,
    both_directions: bool = False,
    output: str | Path | None = None,
    force: bool = False,
    progress: Progress = _no_progress,
    **options: Any,
) -> Pairs | Path:
    """Propagate point, box and mask prompts through a clip: a mask and a track for each object.

    `points` is a CSV file or a DataFrame with the columns `frame_id, object_id, x, y, label[,
    class]`, or `point_xy` in place of `x` and `y`. `boxes` and `masks` are (frame, object, xyxy or
    (H, W) bool). `items` is a file of boxes that start and repair objects; those below `min_score`
    are ignored. `options` are the fields of the engine. In the Detections `tracker_id` is the
    object, `mask` is (n, H, W) bool, `class_id` counts the classes in the order of the prompts.

    Examples:
        >>> import annotate, pandas
        >>> points = pandas.DataFrame([[[290, 330], 1, 1, 0]],
        ...                           columns=["point_xy", "object_id", "label", "frame_id"])
        >>> pairs = annotate.propagate(demo_clip, points, stop=2, fast=True)
        >>> [detections.tracker_id.tolist() for frame, detections in pairs]
        [[1], [1]]

    Raises:
        PromptError: a row is not a prompt on this clip, or there are no prompts.
        UnknownName: no such engine or option.
        SettingsDiffer, OutputError, VideoError: see `annotate.errors`.
    """
    from annotate.propagators import run
    from annotate.propagators.boxes import read as read_boxes
    from annotate.propagators.job import PROPAGATORS, Job
    from annotate.video import reader
    from annotate.vocabulary import read_vocabulary

    words = read_vocabulary(vocabulary) if isinstance(vocabulary, str | Path) else vocabulary
    classes = None if words is None else words.labels
    table = _prompts(clip, points, boxes, masks, classes)
    name = engine if isinstance(engine, str) else type(engine).__name__
    if isinstance(engine, str):
        engine = PROPAGATORS.load(engine, **options)
    video = reader.probe(Path(clip))
    detected = None if items is None else read_boxes(Path(items), video, min_score, classes)
    job = Job(engine, name, Path(clip), table, start, stop, both_directions, words, detected)
    if output is not None:
        run.run_to_file(job, Path(output), force=force, progress=progress)
        return Path(output)
    labels = classes or tuple(job.header().vocabulary["labels"])
    return ((frame, _tracked_detections(item, labels)) for frame, item in run.propagate_frames(job))


def _tracked_detections(item: Item, labels: Sequence[str]) -> sv.Detections:
    """Convert an item, with an empty `mask` and `tracker_id` where it has no objects."""
    detections = item_detections.item_to_detections(item, labels)
    if not item.objects:
        detections.mask = np.zeros((0, item.height, item.width), bool)
        detections.tracker_id = np.zeros(0, int)
    return detections


def _prompts(
    clip: Clip,
    points: str | Path | pd.DataFrame | None,
    boxes: Iterable[tuple[int, int, Box]],
    masks: Iterable[tuple[int, int, Mask]],
    classes: tuple[str, ...] | None,
) -> PromptTable:
    from annotate import prompts
    from annotate.video import reader

    video = reader.probe(Path(clip))
    scope = prompts.clip_scope(video, classes)
    table = None if points is None else prompts.read_points(points, scope)
    return prompts.prompt_table(table, boxes, masks, scope=scope)


@overload
def segment(
    clip: Clip,
    segmenter: str | Segmenter = ...,
    *,
    every: int = ...,
    rate: float | None = ...,
    keyframes: bool = ...,
    start: int = ...,
    stop: int | None = ...,
    max_frames: int | None = ...,
    output: None = ...,
    **options: Any,
) -> Pairs: ...
@overload
def segment(
    clip: Clip,
    segmenter: str | Segmenter = ...,
    *,
    every: int = ...,
    rate: float | None = ...,
    keyframes: bool = ...,
    start: int = ...,
    stop: int | None = ...,
    max_frames: int | None = ...,
    output: str | Path,
    force: bool = ...,
    progress: Progress = ...,
    **options: Any,
) -> Path: ...
def segment(
    clip: Clip,
    segmenter: str | Segmenter = "slic",
    *,
    every: int = 1,
    rate: float | None = None,
    keyframes: bool = False,
    start: int = 0,
    stop: int | None = None,
    max_frames: int | None = None,
    output: str | Path | None = None,
    force: bool = False,
    progress: Progress = _no_progress,
    **options: Any,
) -> Pairs | Path:
    """Segment whole frames of a clip, by superpixels or by SAM 2's grid of points.

    Examples:
        >>> import annotate
        >>> [(frame, detections)] = annotate.segment(demo_clip, "slic", stop=1, n_segments=50)
        >>> detections.mask.shape[1:]
        (600, 800)

    Raises:
        UnknownName: no such segmenter or option.
        SettingsDiffer, OutputError, VideoError: see `annotate.errors`.
    """
    from annotate import segmenters
    from annotate.video.reader import FrameSelection

    selection = FrameSelection(every, rate, keyframes, start, stop, max_frames)
    name = segmenter if isinstance(segmenter, str) else type(segmenter).__name__
    if isinstance(segmenter, str):
        segmenter = segmenters.SEGMENTERS.load(segmenter, **options)
    if output is None:
        return ((frame, segmenter.segment(frame)) for frame in selection.frames(Path(clip)))
    job = segmenters.Job(segmenter, name, Path(clip), selection)
    segmenters.run_to_file(job, Path(output), force=force, progress=progress)
    return Path(output)
