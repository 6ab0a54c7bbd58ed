"""Read and write a dataset's folder: `images/`, `items.jsonl` and `dataset.toml`.

Samples are streamed: memory does not grow with the dataset. A new folder is written under a
temporary name and renamed when it is complete. The names of frames (`external_id`) and of objects
(`object_ids`) are made from their content, so that they are the same wherever the dataset goes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from annotate.errors import DatasetError
from annotate.files import atomic_folder
from annotate.items.records import (
    Header,
    Item,
    Object,
    item_from_record,
    item_to_json,
    record_from_json,
    record_to_json,
)

FORMAT_VERSION = 1
DATASET_FILE = "dataset.toml"
DEFAULT_SPLIT = "train"  # the part that every frame is of until the dataset is split


@dataclass(frozen=True)
class Sample:
    """A frame of a dataset: its picture's name under `images/`, what is known of it, its part."""

    image: str
    item: Item
    split: str = DEFAULT_SPLIT


@dataclass(frozen=True)
class SplitRange:
    """Frames `start` up to, not including, `stop` of a clip, which are of one part."""

    clip: str
    start: int
    stop: int
    part: str


@dataclass(frozen=True)
class Dataset:
    """Frames with their pictures and objects; iterate it for its samples, which are not held.

    `clips` is name -> {"fingerprint", "frame_count", "width", "height"}. `sources` tell of the
    files of items that it was built from. `stretches` are the split; none means not split.
    """

    path: Path
    classes: tuple[str, ...]
    clips: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sources: tuple[Mapping[str, Any], ...] = ()
    split_ranges: tuple[SplitRange, ...] = ()

    @property
    def images(self) -> Path:
        """The folder of the pictures."""
        return self.path / "images"

    @property
    def items(self) -> Path:
        """The file of items."""
        return self.path / "items.jsonl"

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, test: those there are, in this order, then any others."""
        found = {stretch.part for stretch in self.split_ranges} or {DEFAULT_SPLIT}
        known = [part for part in ("train", "val", "test") if part in found]
        return (*known, *sorted(found - set(known)))

    def find_split(self, clip: str, frame: int) -> str:
        """The part that a frame is of."""
        if not self.split_ranges:
            return DEFAULT_SPLIT
        for stretch in self.split_ranges:
            if stretch.clip == clip and stretch.start <= frame < stretch.stop:
                return stretch.part
        raise DatasetError(
            f"{self.path / DATASET_FILE}: {clip}#{frame} is in no stretch; split it anew"
        )

    def __len__(self) -> int:
        return sum(1 for _ in self._lines())

    def __iter__(self) -> Iterator[Sample]:
        for number, line in self._lines():
            where = f"{self.items}:{number}"
            record = record_from_json(line, where)
            item, image = item_from_record(record, where), record.get("image")
            if not isinstance(image, str) or Path(image).name != image:
                raise DatasetError(f"{where}: the item does not name its picture under images/")
            for thing in item.objects:
                if thing.label not in self.classes:
                    known = ", ".join(self.classes)
                    raise DatasetError(
                        f"{where}: unknown class {thing.label!r}. There are: {known}"
                    )
            yield Sample(image, item, self.find_split(item.video, item.frame))

    def _lines(self) -> Iterator[tuple[int, str]]:
        if not self.items.is_file():
            raise DatasetError(f"{self.items}: not there; build the dataset anew")
        with self.items.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if number > 1 and not line.startswith('{"end"'):
                    yield number, line


def load_dataset(path: Path | str) -> Dataset:
    """The dataset in the folder `path`.

    Raises:
        DatasetError: no dataset is there, or its `dataset.toml` is damaged.
    """
    path = Path(path)
    try:
        table = tomllib.loads((path / DATASET_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(
            f"{path}: not a dataset: there is no {DATASET_FILE} in it; make one with `annotate build`"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DatasetError(f"{path / DATASET_FILE}: cannot be read: {error}") from None
    if table.get("annotate", 0) > FORMAT_VERSION:
        raise DatasetError(f"{path}: made by a newer annotate: pip install -U annotate-local")
    try:
        stretches = tuple(SplitRange(**each) for each in table.get("stretches", ()))
        sources = tuple(table.get("sources", ()))
        return Dataset(path, tuple(table["classes"]), table.get("clips", {}), sources, stretches)
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path / DATASET_FILE}: damaged: {error}") from None


class DatasetWriter:
    """A dataset being written: put each picture into `images`, then `add` its item."""

    def __init__(self, path: Path, items: IO[str]) -> None:
        self.images = path / "images"
        self.split_ranges: tuple[SplitRange, ...] = ()  # the split, if there is one
        self._items, self._stems = items, set[str]()

    def add(self, image: str, item: Item) -> None:
        """Append a frame; pictures differ in their names even where case and ending do not count.

        Raises:
            DatasetError: another picture has the name.
        """
        stem = Path(image).stem.casefold()
        if stem in self._stems:
            raise DatasetError(f"two pictures would be {image}: {item.video}#{item.frame} is one")
        self._stems.add(stem)
        self._items.write('{"image":' + json.dumps(image, ensure_ascii=False) + ",")
        self._items.write(item_to_json(item)[1:] + "\n")

    @property
    def count(self) -> int:
        """How many frames there are so far."""
        return len(self._stems)


@contextmanager
def create_dataset(
    dataset: Dataset, header: Header, *, force: bool = False
) -> Iterator[DatasetWriter]:
    """Write the folder of `dataset`, which is there, whole, after the block.

    Raises:
        OutputError: it is already there, or nothing can be written there.
    """
    with atomic_folder(dataset.path, marker_file=DATASET_FILE, force=force) as folder:
        (folder / "images").mkdir()
        with (folder / "items.jsonl").open("w", encoding="utf-8", newline="\n") as items:
            items.write(header.to_json() + "\n")
            draft = DatasetWriter(folder, items)
            yield draft
            items.write(record_to_json({"end": draft.count}) + "\n")
        (folder / DATASET_FILE).write_text(
            _to_toml(replace(dataset, split_ranges=draft.split_ranges)),
            encoding="utf-8",
            newline="\n",
        )


def with_split(dataset: Dataset, split_ranges: Sequence[SplitRange]) -> Dataset:
    """The dataset, split so, in memory and on disk."""
    split = replace(dataset, split_ranges=tuple(split_ranges))
    draft = dataset.path / (DATASET_FILE + ".part")
    draft.write_text(_to_toml(split), encoding="utf-8", newline="\n")
    draft.replace(dataset.path / DATASET_FILE)
    return split


def _to_toml(dataset: Dataset) -> str:
    """`dataset.toml`: JSON's strings, numbers and lists are TOML's as well."""
    blocks = [f"annotate = {FORMAT_VERSION}\nclasses = {_toml_value(list(dataset.classes))}\n"]
    for name, clip in dataset.clips.items():
        blocks.append(f"[clips.{_toml_value(name)}]\n{_toml_pairs(clip)}")
    blocks += [f"[[sources]]\n{_toml_pairs(source)}" for source in dataset.sources]
    blocks += [f"[[stretches]]\n{_toml_pairs(vars(stretch))}" for stretch in dataset.split_ranges]
    return "\n".join(blocks)


def _toml_pairs(table: Mapping[str, Any]) -> str:
    return "".join(f"{k} = {_toml_value(v)}\n" for k, v in table.items() if v is not None)


def _toml_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a picture a second name; copied where the disk cannot link.

    Raises:
        DatasetError: the picture is not there.
    """
    if not source.is_file():
        raise DatasetError(f"{source}: the picture is not there; build the dataset anew")
    try:
        os.link(source.resolve() if source.is_symlink() else source, target)
    except OSError:
        shutil.copyfile(source, target)


def external_id(dataset: Dataset, video: str, frame: int | None = None) -> str:
    """The name of a frame, or of a clip, in all projects: `dock.mp4#75@5e1f5e1f`."""
    print_ = dataset.clips.get(video, {}).get("fingerprint") or ""
    name = video if frame is None else f"{video}#{frame}"
    return f"{name}@{print_[:8]}" if print_ else name


def object_ids(objects: Sequence[Object]) -> list[str]:
    """A name for each object of a frame, the same whatever other objects stand beside it."""
    seen: Counter[str] = Counter()
    names = []
    for thing in objects:
        counts = thing.mask and thing.mask["counts"]
        content = (thing.label, thing.box, thing.score, thing.track, counts, thing.source)
        digest = hashlib.sha256(repr(content).encode()).hexdigest()[:10]
        seen[digest] += 1
        names.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return names
