"""Exports that cannot lie: write a format, read it back with another reader, compare the objects.

A format is a frozen dataclass behind an entry point (`annotate.formats`); its fields are options.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from annotate import folder, masks, plugins
from annotate.dataset import place
from annotate.errors import DatasetError, ExportDiffers
from annotate.folder import Dataset, Sample, Stretch
from annotate.folders import new_folder
from annotate.lines import Header
from annotate.records import Object

if TYPE_CHECKING:
    import pandas as pd

GROUP = "annotate.formats"
BOX_LIMIT = 0.5  # pixels, for each side of a box
_ROUNDING = 0.011  # pixels: what is written with eight decimals, and how a centre is nudged


@dataclass(frozen=True)
class Imported:
    """A foreign dataset, read: its classes and clips, and its samples, each with its picture."""

    classes: tuple[str, ...]
    samples: Iterable[tuple[Path, Sample]]
    clips: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Format(Protocol):
    """A way to write a dataset and to read it."""

    @property
    def mark(self) -> str:
        """A file or folder that every export of this format has."""

    @property
    def least_iou(self) -> float:
        """What the masks of a class must reach when read back, on average."""

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""

    def meant(self, thing: Object) -> Object:
        """What of an object the format can hold; no pixel of the mask that it tells may be lost."""

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """For each sample, its objects in order, as another program than this one reads them."""

    def read(self, path: Path) -> Imported:
        """Read a dataset of this format, by whomever it was written."""


@dataclass
class _Tally:
    """What was compared of one class."""

    objects: int = 0
    masks: int = 0
    box_error: float = 0.0
    iou_sum: float = 0.0
    iou_least: float = 1.0
    worst: str = ""

    @property
    def iou_mean(self) -> float | None:
        return self.iou_sum / self.masks if self.masks else None


@dataclass(frozen=True)
class Comparison:
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
                "iou_least": tally.iou_least if tally.masks else None,
                "worst": tally.worst,
            }
            for label, tally in self.tallies.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index.name = "class"
        return table


def names() -> list[str]:
    """The installed formats; none is imported."""
    return plugins.names(GROUP)


def load(name: str, **options: Any) -> Format:
    """The format `name`.

    Raises:
        UnknownName: nothing is installed under that name, or it has no such option.
    """
    made: Format = plugins.make(GROUP, name, **options)
    return made


def export(dataset: Dataset, way: Format, out: Path | str, *, force: bool = False) -> Comparison:
    """Write `dataset` to the folder `out`, which stays only if it reads back as what was meant.

    Raises:
        ExportDiffers: names the worst object; nothing is left behind.
        OutputError: `out` is already there, or nothing can be written there.
    """
    with new_folder(Path(out), mark=way.mark, force=force) as draft:
        way.write(dataset, draft)
        return compare(dataset, way, draft)


def compare(dataset: Dataset, way: Format, path: Path) -> Comparison:
    """Hold an export at `path` against `dataset`, object by object.

    Raises:
        ExportDiffers: an object is missing, too much, or not what was meant; names the worst.
    """
    tallies = {label: _Tally() for label in dataset.classes}
    count = 0
    for sample, seen in zip(dataset, way.reread(dataset, path), strict=True):
        wanted = [way.meant(thing) for thing in sample.item.objects]
        if len(seen) != len(wanted):
            raise ExportDiffers(f"{sample.image}: {len(wanted)} objects, {len(seen)} read back")
        for number, (meant, read) in enumerate(zip(wanted, seen, strict=True), start=1):
            _hold(meant, read, f"{sample.image}, object {number}", tallies)
        count += 1
    _limit(tallies, way)
    return Comparison(tallies, count)


def _limit(tallies: Mapping[str, _Tally], way: Format) -> None:
    masked = {label: tally for label, tally in tallies.items() if tally.masks}
    for label, tally in sorted(masked.items(), key=lambda pair: pair[1].iou_mean or 0.0):
        if (tally.iou_mean or 0.0) < way.least_iou:
            raise ExportDiffers(
                f"masks of {label!r} read back with a mean IoU of {tally.iou_mean:.3f}, less than "
                f"{way.least_iou}; worst is {tally.worst}, {tally.iou_least:.3f}; clean the masks "
                "up, or accept it with -o least_iou=..., where the format has it"
            )


def _hold(meant: Object, read: Object, where: str, tallies: Mapping[str, _Tally]) -> None:
    if read.label != meant.label:
        raise ExportDiffers(f"{where}: {meant.label!r} was read back as {read.label!r}")
    if (read.mask is None) != (meant.mask is None):
        raise ExportDiffers(f"{where}: {meant.label!r} lost its mask, or got one")
    tally = tallies[meant.label]
    tally.objects += 1
    error = max(abs(a - b) for a, b in zip(meant.box, read.box, strict=True))
    tally.box_error = max(tally.box_error, error)
    if not error <= BOX_LIMIT + _ROUNDING:
        raise ExportDiffers(f"{where}: box {meant.box} of {meant.label!r} read back as {read.box}")
    if meant.mask is None or read.mask is None:
        return
    iou = 1.0 if meant.mask == read.mask else masks.iou(meant.mask, read.mask)
    tally.masks, tally.iou_sum = tally.masks + 1, tally.iou_sum + iou
    whole = masks.area(meant.mask)
    kept = round(iou * (whole + masks.area(read.mask)) / (1 + iou)) if iou < 1 else whole
    if kept < whole:
        raise ExportDiffers(
            f"{where}: {whole - kept} of {whole} pixels of {meant.label!r} are lost"
        )
    if iou < tally.iou_least:
        tally.iou_least, tally.worst = iou, where


def bring_in(source: Path | str, way: Format, out: Path | str, *, force: bool = False) -> Dataset:
    """Read a foreign dataset and write it as one of ours; its parts are kept as the split.

    Raises:
        DatasetError: the source is damaged: says which file and line.
        OutputError: `out` is already there, or nothing can be written there.
    """
    imported = way.read(Path(source))
    found = Dataset(Path(out), imported.classes, imported.clips)
    parts: list[tuple[str, int, str]] = []
    words = {"labels": list(imported.classes)}
    with folder.creating(found, Header("import", vocabulary=words), force=force) as draft:
        for picture, sample in imported.samples:
            draft.add(sample.image, sample.item)
            place(picture, draft.images / sample.image)
            parts.append((sample.item.video, sample.item.frame, sample.part))
        if not parts:
            raise DatasetError(f"{source}: no pictures in it")
        draft.stretches = _stretches(parts)
    return folder.load(out)


def _stretches(parts: Sequence[tuple[str, int, str]]) -> tuple[Stretch, ...]:
    """Neighbouring frames of one part as one stretch; none where all are of the same part."""
    if {part for *_, part in parts} == {folder.UNSPLIT}:
        return ()
    runs = groupby(sorted(parts), key=lambda each: (each[0], each[2]))
    ends = [(clip, part, [frame for _, frame, _ in run]) for (clip, part), run in runs]
    return tuple(Stretch(clip, frames[0], frames[-1] + 1, part) for clip, part, frames in ends)
