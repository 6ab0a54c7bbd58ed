"""Compare detectors on a clip or dataset: run each, score it, and write a report."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from annotate.dataset import frame_sources
from annotate.detectors.run import DETECTORS
from annotate.errors import OutputError, UnknownName
from annotate.evaluation import ground_truth, report, runs
from annotate.evaluation.ground_truth import GroundTruth
from annotate.evaluation.run_spec import parse_run_specs
from annotate.evaluation.scores import Comparison, score_run
from annotate.files import refuse_foreign_folder
from annotate.items.records import Vocabulary
from annotate.locking.locks import locked_folder
from annotate.progress import ProgressBar, no_progress
from annotate.video.reader import FrameSelection
from annotate.vocabulary import read_vocabulary


def compare_detectors(
    clip: str | Path,
    detectors: Sequence[str],
    *,
    output: str | Path,
    vocabulary: str | Path | Vocabulary | None = None,
    truth: str | Path | None = None,
    selection: FrameSelection | None = None,
    each_phrase: bool = False,
    mask: str | None = None,
    near: str | None = None,
    margin: int = 40,
    min_score: float = 0.0,
    batch_size: int = 8,
    rows: int = 8,
    force: bool = False,
    progress: ProgressBar = no_progress,
) -> Comparison:
    """Run detectors on the same frames, score them, and write a report into the folder `output`.

    `clip` is a clip or a dataset's folder. `detectors` are texts `[TITLE=]NAME[:KEY=VALUE,...]`.
    `truth` is a file of items, a COCO file or a dataset's folder; a dataset is its own truth.
    `vocabulary` is by default the classes of the truth. `each_phrase` adds a run for each phrase of
    a class; `mask` and `near` add a run of each detector that sees only pixels in the colour of
    that class, or within `margin` pixels of its objects. Without a truth, boxes count from
    `min_score` on. `rows` is the number of frames on the sheet. Each detector runs in a process of
    its own; the run of one that fails has an `error`. A complete run is not repeated.

    Examples:
        >>> table = compare_detectors(  # doctest: +SKIP
        ...     "clip.mp4", ["colour", "yoloe"], vocabulary="designator.v1", output="comparison"
        ... ).table()

    Raises:
        UnknownName: no such detector, option or vocabulary, or the truth has none of the classes.
        SettingsDiffer: `output` holds runs with other settings, and `force` is not given.
        OutputError: neither `vocabulary` nor `truth`, another run is writing into `output`, or
            nothing can be written there.
        ItemsError, DatasetError, VideoError: the clip or the truth cannot be read.
    """
    source = frame_sources.open_source(Path(clip), selection or FrameSelection())
    known_truth = ground_truth.read_for_source(None if truth is None else Path(truth), source)
    if vocabulary is None:
        vocabulary = truth_vocabulary(known_truth, DETECTORS.names())
    elif not isinstance(vocabulary, Vocabulary):
        vocabulary = read_vocabulary(vocabulary)
    check_classes(known_truth, vocabulary)
    total = source.count()
    specs = parse_run_specs(
        detectors, vocabulary, each_phrase=each_phrase, mask=mask, near=near, margin=margin
    )
    refuse_foreign_folder(Path(output), runs.RUNS_FOLDER, report.FILES)
    with locked_folder(Path(output)):
        finished = runs.run_all(
            specs,
            source,
            Path(output),
            batch_size=batch_size,
            force=force,
            progress=lambda spec: progress(spec.title, total),
        )
        run_scores = [score_run(run, known_truth) for run in finished]
        truth_notes = () if known_truth is None else known_truth.notes
        comparison = Comparison(run_scores, min_score, truth_notes)
        report.write_report(comparison, source, known_truth, Path(output), rows)
    return comparison


def truth_vocabulary(truth: GroundTruth | None, detectors: Sequence[str]) -> Vocabulary:
    """Make a vocabulary of the classes of the truth, with their names as the only phrases.

    Raises:
        OutputError: there is no truth.
    """
    if truth is None:
        raise OutputError("no classes to look for: give `vocabulary` or `truth`")
    classes = {label: dict.fromkeys(detectors, label) for label in truth.labels}
    digest = hashlib.sha256(repr(truth.labels).encode()).hexdigest()
    return Vocabulary("classes of the truth", classes, digest)


def check_classes(truth: GroundTruth | None, vocabulary: Vocabulary) -> None:
    """Refuse a truth that has none of the vocabulary's classes.

    Raises:
        UnknownName: the truth has other classes; the message lists them.
    """
    if truth is not None and not set(truth.labels) & set(vocabulary.labels):
        raise UnknownName("class in the truth", vocabulary.labels[0], truth.labels)
