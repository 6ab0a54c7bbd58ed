"""Export a dataset to a format and verify it by reading it back; import foreign datasets.

An export is read back with another reader and compared object by object; it stays on disk only if
it agrees with the dataset. A format is a frozen dataclass behind an entry point
(`annotate.formats`); its fields are its options.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from annotate.dataset.folder import (
    DEFAULT_SPLIT,
    Dataset,
    ImportedClips,
    Sample,
    SplitRange,
    create_dataset,
    link_or_copy,
    load_dataset,
    utf8_name,
)
from annotate.errors import DatasetError, ExportDiffers
from annotate.files import atomic_folder
from annotate.items import boxes, masks
from annotate.items.import_report import ImportReport
from annotate.items.records import Box, Header, Item, Object
from annotate.plugins import FAMILIES, Family

if TYPE_CHECKING:
    import pandas as pd


_OWN_NAME = re.compile(r"(.+)-(\d{6})")  # dock-000075, as sampling and building name frames
_SPLIT_NAMES = {"valid": "val", "validation": "val", "train": "train", "val": "val", "test": "test"}
_MAX_OVERHANG = 0.01  # of the image's size: how far a box may reach out of it before it is refused
MAX_BOX_ERROR_PX = 0.5  # of each side of a box
# EXIF orientation of pixels that are stored on their side -> flips of x and y after a transpose
_FLIPS_AFTER_TRANSPOSE = {5: (False, False), 6: (True, False), 7: (True, True), 8: (False, True)}
_ROUNDING_PX = 0.011  # coordinates of eight decimals, and the nudge of pixel centres


@dataclass(frozen=True)
class ImportedFrame:
    """The name of an imported image in the dataset, and its frame."""

    image: str
    video: str
    frame: int

    def to_sample(self, size_wh: tuple[int, int], objects: Sequence[Object], split: str) -> Sample:
        """Make the sample of the image; like any folder of images, one frame a second."""
        item = Item(self.video, self.frame, Fraction(self.frame), *size_wh, (*objects,))
        return Sample(self.image, item, split)


def split_from_name(name: str) -> str:
    """Find the split that a file or folder is named after: `valid`, `instances_val2017` are val."""
    words = re.split(r"[^a-z]+", name.casefold())
    return next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), DEFAULT_SPLIT)


def assign_frames(image_paths: Sequence[Path], clip: str) -> list[ImportedFrame]:
    """Assign a clip and a frame to each image.

    `dock-000075.png` is frame 75 of the clip `dock`, if all images are named so. Else the images
    are the frames of the clip `clip`, in this order.
    """
    matches = [_OWN_NAME.fullmatch(path.stem) for path in image_paths]
    own_frames = [(match[1], int(match[2])) for match in matches if match]
    if len({(name.casefold(), frame) for name, frame in own_frames}) == len(image_paths):
        pairs = zip(image_paths, own_frames, strict=True)
        return [ImportedFrame(path.name, name, frame) for path, (name, frame) in pairs]
    names = [Path(utf8_name(path.name)) for path in image_paths]
    stem_counts = Counter(name.stem.casefold() for name in names)
    frames, taken = [], {stem for stem, count in stem_counts.items() if count == 1}
    for number, name in enumerate(names):
        stem = name.stem
        if stem_counts[stem.casefold()] > 1:
            stem = f"{stem}-{number:06d}"
            while stem.casefold() in taken:
                stem += "-"
            taken.add(stem.casefold())
        frames.append(ImportedFrame(f"{stem}{name.suffix}", utf8_name(clip), number))
    return frames


def clip_imported_box(box: Box, size_wh: tuple[int, int], where: str) -> Box:
    """Clip a box to the image, and round it to a thousandth of a pixel.

    Raises:
        DatasetError: a side is negative, or more than a hundredth of the image's size is outside.
    """
    width, height = size_wh
    x1, y1, x2, y2 = box
    x, y = _MAX_OVERHANG * width, _MAX_OVERHANG * height
    if not (x1 <= x2 and y1 <= y2):
        raise DatasetError(f"{where}: a box of negative size, or not of numbers: {list(box)}")
    if x1 < -x or y1 < -y or x2 > width + x or y2 > height + y:
        raise DatasetError(f"{where}: box {list(box)} is outside the image of {width}x{height}")
    x1, y1, x2, y2 = (round(side, 3) for side in boxes.clip_box(box, size_wh))
    return x1, y1, x2, y2


def turn_upright(obj: Object, stored_wh: tuple[int, int], orientation: int) -> Object:
    """Turn the box and mask of an object that were annotated on the pixels as they are stored.

    `stored_wh` is the size of the image before the turn, and `orientation` its EXIF orientation, 5
    to 8: the pixels are stored on their side.
    """
    width, height = stored_wh
    flip_x, flip_y = _FLIPS_AFTER_TRANSPOSE[orientation]
    y1, x1, y2, x2 = obj.box
    x1, x2 = (height - x2, height - x1) if flip_x else (x1, x2)
    y1, y2 = (width - y2, width - y1) if flip_y else (y1, y2)
    if obj.mask is None:
        return replace(obj, box=(x1, y1, x2, y2))
    turned = masks.decode(obj.mask).T[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return replace(obj, box=(x1, y1, x2, y2), mask=masks.encode(turned))


@dataclass(frozen=True)
class ImportedDataset:
    """A foreign dataset: classes, clips, and the samples, each with the path of its image.

    A reader fills `report` while the samples are iterated over; `images` and `objects` are counted
    by `import_dataset`.
    """

    classes: tuple[str, ...]
    samples: Iterable[tuple[Path, Sample]]
    clips: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    report: ImportReport = field(default_factory=ImportReport)


class Format(Protocol):
    """Writes a dataset in one file format, and reads it."""

    @property
    def marker(self) -> str:
        """The name of a file or folder that every export of this format has."""

    @property
    def min_iou(self) -> float:
        """The mean IoU that the masks of a class must reach when they are read back."""

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""

    def representable(self, obj: Object) -> Object:
        """Reduce an object to what the format can hold; no pixel of that mask may be lost."""

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """Read the objects of each sample, in order, with the reader of another program."""

    def read(self, path: Path) -> ImportedDataset:
        """Read a dataset of this format, written by any program."""


FORMATS: Family[Format] = FAMILIES["formats"]


@dataclass
class _Tally:
    """The comparison of the objects of one class."""

    objects: int = 0
    masks: int = 0
    box_error: float = 0.0
    iou_sum: float = 0.0
    iou_min: float = 1.0
    worst: str = ""

    @property
    def iou_mean(self) -> float | None:
        return self.iou_sum / self.masks if self.masks else None


@dataclass(frozen=True)
class ExportReport:
    """The comparison of an export with its dataset, by class."""

    tallies: Mapping[str, _Tally]
    images: int

    @property
    def objects(self) -> int:
        """How many objects were compared, of all classes."""
        return sum(tally.objects for tally in self.tallies.values())

    def table(self) -> pd.DataFrame:
        """Make a table by class: objects, masks, box_error (pixels), iou_mean, iou_least, worst."""
        import pandas as pd

        rows = {
            label: {
                "objects": tally.objects,
                "masks": tally.masks,
                "box_error": tally.box_error,
                "iou_mean": tally.iou_mean,
                "iou_least": tally.iou_min if tally.masks else None,
                "worst": tally.worst,
            }
            for label, tally in self.tallies.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index.name = "class"
        return table


def export_dataset(
    dataset: Dataset, dataset_format: Format, out: Path | str, *, force: bool = False
) -> ExportReport:
    """Write `dataset` to the folder `out`, and keep the folder only if it reads back correctly.

    Raises:
        ExportDiffers: an object reads back differently: names the worst; nothing stays on disk.
        OutputError: `out` exists, or cannot be written.
    """
    with atomic_folder(Path(out), marker_file=dataset_format.marker, force=force) as draft:
        dataset_format.write(dataset, draft)
        return verify_export(dataset, dataset_format, draft)


def verify_export(dataset: Dataset, dataset_format: Format, path: Path) -> ExportReport:
    """Compare the export at `path` with `dataset`, object by object.

    Raises:
        ExportDiffers: an object is missing, surplus or different: names the worst.
    """
    tallies = {label: _Tally() for label in dataset.classes}
    image_count = 0
    for sample, read in zip(dataset, dataset_format.reread(dataset, path), strict=True):
        written = [dataset_format.representable(obj) for obj in sample.item.objects]
        if len(read) != len(written):
            raise ExportDiffers(f"{sample.image}: {len(written)} objects, {len(read)} read back")
        for number, (expected, actual) in enumerate(zip(written, read, strict=True), start=1):
            _compare_object(expected, actual, f"{sample.image}, object {number}", tallies)
        image_count += 1
    _check_mean_iou(tallies, dataset_format)
    return ExportReport(tallies, image_count)


def _check_mean_iou(tallies: Mapping[str, _Tally], dataset_format: Format) -> None:
    masked = {label: tally for label, tally in tallies.items() if tally.masks}
    for label, tally in sorted(masked.items(), key=lambda pair: pair[1].iou_mean or 0.0):
        if (tally.iou_mean or 0.0) < dataset_format.min_iou:
            raise ExportDiffers(
                f"masks of {label!r} read back with a mean IoU of {tally.iou_mean:.3f}, less than "
                f"{dataset_format.min_iou}; the worst is {tally.worst}, {tally.iou_min:.3f}; clean "
                "the masks, or set a lower `min_iou`, if the format has that option"
            )


def _compare_object(
    expected: Object, actual: Object, where: str, tallies: Mapping[str, _Tally]
) -> None:
    if actual.label != expected.label:
        raise ExportDiffers(f"{where}: {expected.label!r} was read back as {actual.label!r}")
    if (actual.mask is None) != (expected.mask is None):
        raise ExportDiffers(f"{where}: {expected.label!r} lost its mask, or gained one")
    tally = tallies[expected.label]
    tally.objects += 1
    error = max(abs(a - b) for a, b in zip(expected.box, actual.box, strict=True))
    tally.box_error = max(tally.box_error, error)
    if not error <= MAX_BOX_ERROR_PX + _ROUNDING_PX:
        raise ExportDiffers(
            f"{where}: box {expected.box} of {expected.label!r} read back as {actual.box}"
        )
    if expected.mask is None or actual.mask is None:
        return
    iou = 1.0 if expected.mask == actual.mask else masks.iou(expected.mask, actual.mask)
    tally.masks, tally.iou_sum = tally.masks + 1, tally.iou_sum + iou
    area = masks.area(expected.mask)
    kept = round(iou * (area + masks.area(actual.mask)) / (1 + iou)) if iou < 1 else area
    if kept < area:
        raise ExportDiffers(
            f"{where}: {area - kept} of {area} pixels of {expected.label!r} are lost"
        )
    if iou < tally.iou_min:
        tally.iou_min, tally.worst = iou, where


def import_dataset(
    source: Path | str, dataset_format: Format, out: Path | str, *, force: bool = False
) -> Dataset:
    """Read the foreign dataset `source` and write it as the dataset `out`, with the same split.

    The dataset's `import_report` says what was left out, and what was read in one of several ways.

    Raises:
        DatasetError: the source is damaged: names the file and the line.
        OutputError: `out` exists, or cannot be written.
    """
    imported = dataset_format.read(Path(source))
    dataset = Dataset(Path(out), imported.classes, imported.clips)
    frame_splits: list[tuple[str, int, str]] = []
    clips = ImportedClips(imported.clips)
    header = Header("import", vocabulary={"labels": list(imported.classes)})
    with create_dataset(dataset, header, force=force) as writer:
        for image_path, sample in imported.samples:
            writer.add(sample.image, sample.item)
            link_or_copy(image_path, writer.images / sample.image)
            clips.add(sample.item, writer.images / sample.image)
            imported.report.images += 1
            imported.report.objects += len(sample.item.objects)
            frame_splits.append((sample.item.video, sample.item.frame, sample.split))
        if not frame_splits:
            reasons = "".join(f"; {line}" for line in imported.report.warnings()[:1])
            raise DatasetError(f"{source}: there are no images in it{reasons}")
        writer.split_ranges = _split_ranges(frame_splits)
        writer.clips = clips.metadata()
    return replace(load_dataset(out), import_report=imported.report)


def _split_ranges(frame_splits: Sequence[tuple[str, int, str]]) -> tuple[SplitRange, ...]:
    """Join neighbouring frames of a split to ranges; none where all frames are of the default."""
    if {split for *_, split in frame_splits} == {DEFAULT_SPLIT}:
        return ()
    groups = groupby(sorted(frame_splits), key=lambda each: (each[0], each[2]))
    runs = [(clip, split, [frame for _, frame, _ in run]) for (clip, split), run in groups]
    return tuple(SplitRange(clip, frames[0], frames[-1] + 1, split) for clip, split, frames in runs)
