"""Export a dataset to a format and verify it by reading it back; import foreign datasets.

An export is read back with another reader and compared object by object; it stays on disk only if
it agrees. A format is a frozen dataclass behind an entry point (`annotate.formats`); its fields are
its options.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from annotate.dataset.folder import (
    DEFAULT_SPLIT,
    Dataset,
    Sample,
    SplitRange,
    create_dataset,
    link_or_copy,
    load_dataset,
)
from annotate.errors import DatasetError, ExportDiffers
from annotate.files import atomic_folder
from annotate.items import masks
from annotate.items.records import Box, Header, Item, Object
from annotate.plugins import FAMILIES, Family

if TYPE_CHECKING:
    import pandas as pd


_OWN_NAME = re.compile(r"(.+)-(\d{6})")  # dock-000075, as sampling and building name pictures
_SPLIT_NAMES = {"valid": "val", "validation": "val", "train": "train", "val": "val", "test": "test"}
_MAX_OVERHANG = 0.01  # of the picture's size: a box may reach so far out of it, and is cut off


@dataclass(frozen=True)
class ImportedFrame:
    """A picture's name in the dataset, and the frame that it is."""

    image: str
    video: str
    frame: int

    def to_sample(self, size_wh: tuple[int, int], objects: Sequence[Object], split: str) -> Sample:
        """The picture as a sample; like every folder of pictures, one a second."""
        seconds = Fraction(self.frame)
        return Sample(
            self.image, Item(self.video, self.frame, seconds, *size_wh, (*objects,)), split
        )


def split_from_name(name: str) -> str:
    """The part that a file or folder is named after: `valid`, `instances_val2017` are val."""
    words = re.split(r"[^a-z]+", name.casefold())
    return next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), DEFAULT_SPLIT)


def assign_frames(pictures: Sequence[Path], clip: str) -> list[ImportedFrame]:
    """A place for each picture.

    `dock-000075.png` is frame 75 of the clip `dock`, where all are named so. Else the pictures are
    the frames of one clip, in this order.
    """
    ours = [_OWN_NAME.fullmatch(picture.stem) for picture in pictures]
    known = [(m[1], int(m[2])) for m in ours if m]
    if len({(name.casefold(), frame) for name, frame in known}) == len(pictures):
        return [
            ImportedFrame(picture.name, *frame)
            for picture, frame in zip(pictures, known, strict=True)
        ]
    stems = [picture.stem.casefold() for picture in pictures]
    return [
        ImportedFrame(
            _unique_image_name(picture, stems.count(picture.stem.casefold()) > 1, number),
            clip,
            number,
        )
        for number, picture in enumerate(pictures)
    ]


def _unique_image_name(picture: Path, shared: bool, number: int) -> str:
    return f"{picture.stem}-{number:06d}{picture.suffix}" if shared else picture.name


def clip_box(box: Box, size_wh: tuple[int, int], where: str) -> Box:
    """The box cut off at the picture's edge, to a thousandth of a pixel.

    Raises:
        DatasetError: it is no box, or reaches more than a hundredth of the picture out of it.
    """
    width, height = size_wh
    x1, y1, x2, y2 = box
    x, y = _MAX_OVERHANG * width, _MAX_OVERHANG * height
    if not (x1 <= x2 and y1 <= y2):
        raise DatasetError(f"{where}: a box of negative or no size: {list(box)}")
    if x1 < -x or y1 < -y or x2 > width + x or y2 > height + y:
        raise DatasetError(f"{where}: box {list(box)} is outside the picture of {width}x{height}")
    cut = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    left, top, right, bottom = (round(side, 3) for side in cut)
    return left, top, right, bottom


MAX_BOX_ERROR_PX = 0.5  # pixels, for each side of a box
_ROUNDING_PX = 0.011  # pixels: what is written with eight decimals, and how a centre is nudged


@dataclass(frozen=True)
class ImportedDataset:
    """A foreign dataset, read: its classes and clips, and its samples, each with its picture."""

    classes: tuple[str, ...]
    samples: Iterable[tuple[Path, Sample]]
    clips: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Format(Protocol):
    """A way to write a dataset and to read it."""

    @property
    def marker(self) -> str:
        """A file or folder that every export of this format has."""

    @property
    def min_iou(self) -> float:
        """What the masks of a class must reach when read back, on average."""

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""

    def representable(self, obj: Object) -> Object:
        """What of an object the format can hold; no pixel of the mask that it tells may be lost."""

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """For each sample, its objects in order, as another program than this one reads them."""

    def read(self, path: Path) -> ImportedDataset:
        """Read a dataset of this format, by whomever it was written."""


FORMATS: Family[Format] = FAMILIES["formats"]


@dataclass
class _Tally:
    """What was compared of one class."""

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
    """An export held against what was meant, by class."""

    tallies: Mapping[str, _Tally]
    images: int

    @property
    def objects(self) -> int:
        """How many objects were compared, all classes together."""
        return sum(tally.objects for tally in self.tallies.values())

    def table(self) -> pd.DataFrame:
        """A row a class: objects, masks, box_error in pixels, iou_mean, iou_least, worst."""
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
    """Write `dataset` to the folder `out`, which stays only if it reads back as what was meant.

    Raises:
        ExportDiffers: names the worst object; nothing is left behind.
        OutputError: `out` is already there, or nothing can be written there.
    """
    with atomic_folder(Path(out), marker_file=dataset_format.marker, force=force) as draft:
        dataset_format.write(dataset, draft)
        return verify_export(dataset, dataset_format, draft)


def verify_export(dataset: Dataset, dataset_format: Format, path: Path) -> ExportReport:
    """Hold an export at `path` against `dataset`, object by object.

    Raises:
        ExportDiffers: an object is missing, too much, or not what was meant; names the worst.
    """
    tallies = {label: _Tally() for label in dataset.classes}
    count = 0
    for sample, seen in zip(dataset, dataset_format.reread(dataset, path), strict=True):
        wanted = [dataset_format.representable(thing) for thing in sample.item.objects]
        if len(seen) != len(wanted):
            raise ExportDiffers(f"{sample.image}: {len(wanted)} objects, {len(seen)} read back")
        for number, (meant, read) in enumerate(zip(wanted, seen, strict=True), start=1):
            _compare_object(meant, read, f"{sample.image}, object {number}", tallies)
        count += 1
    _check_mean_iou(tallies, dataset_format)
    return ExportReport(tallies, count)


def _check_mean_iou(tallies: Mapping[str, _Tally], dataset_format: Format) -> None:
    masked = {label: tally for label, tally in tallies.items() if tally.masks}
    for label, tally in sorted(masked.items(), key=lambda pair: pair[1].iou_mean or 0.0):
        if (tally.iou_mean or 0.0) < dataset_format.min_iou:
            raise ExportDiffers(
                f"masks of {label!r} read back with a mean IoU of {tally.iou_mean:.3f}, less than "
                f"{dataset_format.min_iou}; worst is {tally.worst}, {tally.iou_min:.3f}; clean the masks "
                "up, or accept it with -o least_iou=..., where the format has it"
            )


def _compare_object(
    expected: Object, actual: Object, where: str, tallies: Mapping[str, _Tally]
) -> None:
    if actual.label != expected.label:
        raise ExportDiffers(f"{where}: {expected.label!r} was read back as {actual.label!r}")
    if (actual.mask is None) != (expected.mask is None):
        raise ExportDiffers(f"{where}: {expected.label!r} lost its mask, or got one")
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
    whole = masks.area(expected.mask)
    kept = round(iou * (whole + masks.area(actual.mask)) / (1 + iou)) if iou < 1 else whole
    if kept < whole:
        raise ExportDiffers(
            f"{where}: {whole - kept} of {whole} pixels of {expected.label!r} are lost"
        )
    if iou < tally.iou_min:
        tally.iou_min, tally.worst = iou, where


def import_dataset(
    source: Path | str, dataset_format: Format, out: Path | str, *, force: bool = False
) -> Dataset:
    """Read a foreign dataset and write it as one of ours; its parts are kept as the split.

    Raises:
        DatasetError: the source is damaged: says which file and line.
        OutputError: `out` is already there, or nothing can be written there.
    """
    imported = dataset_format.read(Path(source))
    found = Dataset(Path(out), imported.classes, imported.clips)
    parts: list[tuple[str, int, str]] = []
    words = {"labels": list(imported.classes)}
    with create_dataset(found, Header("import", vocabulary=words), force=force) as draft:
        for picture, sample in imported.samples:
            draft.add(sample.image, sample.item)
            link_or_copy(picture, draft.images / sample.image)
            parts.append((sample.item.video, sample.item.frame, sample.split))
        if not parts:
            raise DatasetError(f"{source}: no pictures in it")
        draft.split_ranges = _split_ranges(parts)
    return load_dataset(out)


def _split_ranges(frame_splits: Sequence[tuple[str, int, str]]) -> tuple[SplitRange, ...]:
    """Neighbouring frames of one part as one stretch; none where all are of the same part."""
    if {part for *_, part in frame_splits} == {DEFAULT_SPLIT}:
        return ()
    runs = groupby(sorted(frame_splits), key=lambda each: (each[0], each[2]))
    ends = [(clip, part, [frame for _, frame, _ in run]) for (clip, part), run in runs]
    return tuple(SplitRange(clip, frames[0], frames[-1] + 1, part) for clip, part, frames in ends)
