"""Search, compare and correct; build, split, export and import datasets.

Paths may be given as strings, and datasets as their folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate.api.stages import Clip, Pairs
from annotate.errors import DatasetError
from annotate.items import detections as item_detections
from annotate.items import journal
from annotate.items.records import Frame, Header, Item

if TYPE_CHECKING:
    import supervision as sv

    from annotate.dataset.diff import ObjectChange
    from annotate.dataset.export import ExportReport
    from annotate.dataset.folder import Dataset
    from annotate.evaluation.scores import Comparison
    from annotate.labelstudio.client import StudioClient
    from annotate.labelstudio.pull import PullReport
    from annotate.labelstudio.sync import PushReport
    from annotate.search.run import FoundShots


def read_items(path: str | Path, clip: Clip | None = None) -> Pairs:
    """Yield the frames of a file of items with their objects, as `detect` and `propagate` do.

    `clip` is the path of the clip, if it is not where the items say.

    Raises:
        ItemsError: not a file of items, or it was made from another clip.
    """
    from annotate.dataset import frame_sources
    from annotate.dataset.build import collect_classes
    from annotate.video import reader

    items = journal.read(path)
    videos = {} if clip is None else dict.fromkeys(items.header.videos, Path(clip))
    located = frame_sources.locate_clip([items], None, videos)
    labels = collect_classes([items], None)
    numbers = [item.frame for item in located.items()]
    frames_read = reader.frames_at(located.path, numbers)
    for item, frame in zip(located.items(), frames_read, strict=True):
        yield frame, item_detections.item_to_detections(item, labels)


def find(
    clips: Sequence[Clip],
    references: Sequence[str | Path],
    target: str,
    *,
    output: str | Path | None = None,
    force: bool = False,
    **options: Any,
) -> FoundShots:
    """Find the shots of clips that show the target of the reference pictures.

    `target` names it, and is the label of the items in the folder `output`. `options` are the
    fields of `annotate.search.run.SearchOptions`: `method` ("local" ranks by similarity, "vlm" asks
    a model), `max_shots`, `max_pictures`, `budget` and others.

    Raises:
        AnswerError: a reference cannot be read, or the model does not answer.
        SettingsDiffer, OutputError, VideoError: see `annotate.errors`.
    """
    from annotate.search.run import SearchOptions, find_shots

    return find_shots(
        list(clips),
        list(references),
        target,
        SearchOptions(**options),
        output=output,
        force=force,
    )


def build(items: str | Path | Iterable[str | Path], output: str | Path, **options: Any) -> Dataset:
    """Build a dataset from one or several files of items and the clips that they name.

    `options` are those of `annotate.dataset.build.build_dataset`: `every`, `rate`, `max_frames`,
    `frames`, `classes`, `min_score`, `videos`, `image_format`, `force`.

    Examples:
        >>> import annotate
        >>> path = annotate.detect(demo_clip, vocabulary="designator.v1", stop=20, output="b.jsonl")
        >>> len(annotate.build(path, "dataset", every=10))
        2

    Raises:
        ItemsError, DatasetError, OutputError: see `annotate.errors`.
    """
    from annotate.dataset.build import build_dataset

    paths = [items] if isinstance(items, str | Path) else list(items)
    return build_dataset(paths, output, **options)


def split(
    dataset: str | Path | Dataset,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    cuts: Mapping[str, Sequence[int]] | None = None,
) -> Dataset:
    """Split a dataset by clip and shot into train, val and test; `val` and `test` are fractions.

    `cuts` are the first frames of shots by clip name, for clips that need no detection of shots.

    Raises:
        DatasetError: there are fewer shots than splits, or no fraction is left for train.
    """
    from annotate.dataset.split import split_dataset

    if val + test >= 1:
        raise DatasetError(f"`val` and `test` must leave frames to train on, got {val} and {test}")
    fractions = {"train": 1 - val - test, "val": val, "test": test}
    fractions = {name: fraction for name, fraction in fractions.items() if fraction > 0}
    return split_dataset(_dataset(dataset), fractions, seed=seed, cuts=cuts)


def _dataset(given: str | Path | Dataset) -> Dataset:
    from annotate.dataset.folder import Dataset, load_dataset

    return given if isinstance(given, Dataset) else load_dataset(given)


def train(
    dataset: Dataset | str | Path,
    output: str | Path,
    trainer: str = "light",
    *,
    epochs: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    parent: str | Path | None = None,
    threads: int | None = None,
    force: bool = False,
    **options: Any,
) -> Path:
    """Train a detector on a dataset that is split; returns the folder of the model.

    `options` are those of the trainer. A training that was stopped goes on.

    Raises:
        DatasetError, SettingsDiffer, OutputError: see `annotate.training.run.train`.
    """
    from annotate.training.run import Training
    from annotate.training.run import train as run_training

    training = Training(
        _dataset(dataset).path,
        Path(output),
        trainer,
        options,
        epochs,
        image_size,
        seed,
        None if parent is None else str(parent),
        threads=threads,
    )
    return run_training(training, force=force).folder


def export(
    dataset: str | Path | Dataset,
    format: str,  # noqa: A002  # the command's word
    output: str | Path,
    *,
    force: bool = False,
    **options: Any,
) -> ExportReport:
    """Export a dataset as `coco`, `yolo` or `yolo-seg`; it is read back and compared.

    Raises:
        ExportDiffers: an object is not read back as what was written; nothing is left behind.
        UnknownName, DatasetError, OutputError: see `annotate.errors`.
    """
    from annotate.dataset.export import FORMATS, export_dataset

    return export_dataset(_dataset(dataset), FORMATS.load(format, **options), output, force=force)


def import_dataset(
    source: str | Path,
    format: str,  # noqa: A002  # the command's word
    output: str | Path,
    *,
    force: bool = False,
) -> Dataset:
    """Import a dataset that another program wrote as `coco`, `yolo` or `yolo-seg`.

    The result's `import_report.warnings()` are lines about what was left out, or could be read in
    more than one way.

    Raises:
        DatasetError: the source is damaged: names the file and the line.
        OutputError: `output` is already there, or nothing can be written there.
    """
    from annotate.dataset.export import FORMATS
    from annotate.dataset.export import import_dataset as import_foreign

    return import_foreign(source, FORMATS.load(format), output, force=force)


def write_coco(
    pairs: Iterable[tuple[Frame, sv.Detections]],
    labels: Sequence[str],
    output: str | Path,
    *,
    force: bool = False,
) -> ExportReport:
    """Write frames and their Detections as a COCO dataset: images and annotations.

    `labels` are the classes, in the order of `class_id`. A frame without detections is kept as a
    negative. The result is read back by pycocotools and compared before it appears at `output`.

    Examples:
        >>> import annotate
        >>> pairs = annotate.detect(demo_clip, vocabulary="designator.v1", stop=20, every=10)
        >>> annotate.write_coco(pairs, ["designator"], "coco").objects
        2

    Raises:
        DatasetError: a class id without a label, or one frame twice.
        OutputError: `output` is already there, or nothing can be written there.
    """
    from annotate.dataset.export import FORMATS, export_dataset

    target = Path(output)
    with tempfile.TemporaryDirectory() as folder:
        dataset = _write_dataset(pairs, tuple(labels), Path(folder) / "dataset")
        return export_dataset(dataset, FORMATS.load("coco"), target, force=force)


def _write_dataset(
    pairs: Iterable[tuple[Frame, sv.Detections]], labels: tuple[str, ...], path: Path
) -> Dataset:
    from annotate.dataset.build import save_image
    from annotate.dataset.folder import Dataset, create_dataset, load_dataset

    names = dict(enumerate(labels))
    header = Header("build", vocabulary={"labels": list(labels)})
    written: set[str] = set()
    with create_dataset(Dataset(path, labels), header) as draft:
        for frame, detections in pairs:
            name = f"{Path(frame.video).stem}-{frame.index:06d}.png"
            if name in written:
                raise DatasetError(f"{frame.name}: this frame was given twice")
            written.add(name)
            draft.add(name, _item(frame, detections, names))
            save_image(frame.image, draft.images / name)
    return load_dataset(path)


def _item(frame: Frame, detections: sv.Detections, names: Mapping[int, str]) -> Item:
    ids = [] if detections.class_id is None else np.asarray(detections.class_id).tolist()
    if len(ids) != len(detections):
        raise DatasetError(f"{frame.name}: the detections have no class_id")
    if unknown := set(ids) - set(names):
        raise DatasetError(
            f"{frame.name}: class id {min(unknown)}, but there are {len(names)} labels"
        )
    untracked = dataclasses.replace(detections, tracker_id=None)
    item = item_detections.item_from_detections(frame, untracked, names, "")
    if detections.tracker_id is None:
        return item
    tracks = np.asarray(detections.tracker_id).tolist()
    objects = [
        dataclasses.replace(obj, track=int(track))
        for obj, track in zip(item.objects, tracks, strict=True)
    ]
    return dataclasses.replace(item, objects=tuple(objects))


def push(
    dataset: str | Path | Dataset,
    *,
    project: str | None = None,
    polygons: bool = False,
    url: str | None = None,
    token_file: str | Path | None = None,
) -> PushReport:
    """Push a dataset to Label Studio for correction; a second push sends only what changed.

    Without `url` the local Label Studio of `annotate studio up` is used.

    Raises:
        DatasetError, StudioError: see `annotate.errors`.
    """
    from annotate.labelstudio.push import push_dataset

    with _studio(url, token_file) as client:
        return push_dataset(_dataset(dataset), client, project=project, polygons=polygons)


def pull(
    dataset: str | Path | Dataset,
    output: str | Path,
    *,
    project: str | None = None,
    since_last: bool = False,
    url: str | None = None,
    token_file: str | Path | None = None,
    force: bool = False,
) -> PullReport:
    """Pull the submitted annotations from Label Studio, as the corrected dataset `output`.

    Raises:
        DatasetError, StudioError, OutputError: see `annotate.errors`.
    """
    from annotate.labelstudio.pull import pull_dataset

    with _studio(url, token_file) as client:
        return pull_dataset(
            _dataset(dataset), client, output, project=project, since_last=since_last, force=force
        )


def _studio(
    url: str | None, token_file: str | Path | None
) -> contextlib.AbstractContextManager[StudioClient]:
    from annotate.labelstudio.server import connect

    return connect(url, None if token_file is None else Path(token_file))


def diff(dataset: str | Path | Dataset, corrected: str | Path | Dataset) -> list[ObjectChange]:
    """List the changes between a dataset and its correction, object by object.

    `annotate.dataset.diff.to_dataframe` makes a table of them.

    Raises:
        DatasetError: the two datasets have no frame in common.
    """
    from annotate.dataset.diff import diff_datasets

    return diff_datasets(_dataset(dataset), _dataset(corrected))


def compare(
    source: Clip, detectors: Sequence[str], output: str | Path = "compare", **options: Any
) -> Comparison:
    """Compare detectors side by side on a clip or a dataset, each in a process of its own.

    A detector is `[TITLE=]NAME[:KEY=VALUE,...]`. `options` are those of
    `annotate.evaluation.comparison.compare_detectors`: `truth`, `vocabulary`, `selection`, ...

    Raises:
        AnnotateError: as `compare_detectors`.
    """
    from annotate.evaluation.comparison import compare_detectors

    return compare_detectors(Path(source), detectors, output=Path(output), **options)
