"""Read and write a dataset's folder: `images/`, `items.jsonl` and `dataset.toml`.

Samples are streamed: memory does not grow with the dataset. A new folder is written under a
temporary name and renamed when it is complete. The names of frames (`external_id`) and of objects
(`object_ids`) are made from their content, so that they are the same wherever the dataset goes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from annotate.errors import DatasetError
from annotate.files import atomic_file, atomic_folder, parse_toml, sha256
from annotate.items import journal, records
from annotate.items.import_report import ImportReport
from annotate.items.records import Header, Item, Object

FORMAT_VERSION = 1
DATASET_FILE = "dataset.toml"
_ID_DIGITS = 8  # of a hash in the name of a frame
_OF_IMAGES = "images"  # true in the entry of a clip that is a set of imported images
DEFAULT_SPLIT = "train"  # the split of every frame until the dataset is split


@dataclass(frozen=True)
class Sample:
    """A frame of a dataset: the name of its image in `images/`, its item and its split."""

    image: str
    item: Item
    split: str = DEFAULT_SPLIT


@dataclass(frozen=True)
class SplitRange:
    """The frames of a clip from `start` up to, not including, `stop`: all in one split."""

    clip: str
    start: int
    stop: int
    split: str


@dataclass(frozen=True)
class Dataset:
    """Frames with their images and objects.

    Iterate over a dataset for its samples; they are read from disk each time. `clips` is
    name -> {"fingerprint", "frame_count", "width", "height"}, and `"images": True` where the clip
    is a set of imported images. `sources` describes the files of items that the dataset was built
    from. `split_ranges` assigns frames to splits; it is empty before the dataset is split.
    `import_report` is there where `import_dataset` has just made the dataset.
    """

    path: Path
    classes: tuple[str, ...]
    clips: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sources: tuple[Mapping[str, Any], ...] = ()
    split_ranges: tuple[SplitRange, ...] = ()
    import_report: ImportReport | None = field(default=None, compare=False, repr=False)

    @property
    def images(self) -> Path:
        """The folder of the images."""
        return self.path / "images"

    @property
    def items(self) -> Path:
        """The file of items."""
        return self.path / "items.jsonl"

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits: train, val and test first, in this order, then any others."""
        names = {split_range.split for split_range in self.split_ranges} or {DEFAULT_SPLIT}
        standard = [name for name in ("train", "val", "test") if name in names]
        return (*standard, *sorted(names - set(standard)))

    def find_split(self, clip: str, frame: int) -> str:
        """Find the split of a frame.

        Raises:
            DatasetError: the frame is in no split range.
        """
        if not self.split_ranges:
            return DEFAULT_SPLIT
        for split_range in self.split_ranges:
            if split_range.clip == clip and split_range.start <= frame < split_range.stop:
                return split_range.split
        raise DatasetError(
            f"{self.path / DATASET_FILE}: {clip}#{frame} is in no split; split the dataset again"
        )

    @cached_property
    def image_ids(self) -> dict[tuple[str, int], str]:
        """The names of imported frames, by clip and frame: of image name and content.

        `cat.jpg@9b74c989`: an import that has one image more names the others as before.

        Raises:
            DatasetError: an image is not there.
        """
        ids: dict[tuple[str, int], str] = {}
        if self.clips and not any(map(_is_of_images, self.clips.values())):
            return ids
        for sample in self:
            item, path = sample.item, self.images / sample.image
            if not _is_of_images(self.clips.get(item.video, {})):
                continue
            try:
                ids[item.video, item.frame] = f"{sample.image}@{sha256(path)[:_ID_DIGITS]}"
            except OSError:
                where = f"{item.video}#{item.frame}"
                raise DatasetError(f"{path}: the image of {where} is missing") from None
        return ids

    def __len__(self) -> int:
        return sum(1 for _ in self._lines())

    def __iter__(self) -> Iterator[Sample]:
        for number, line in self._lines():
            where = f"{self.items}:{number}"
            record = records.record_from_json(line, where)
            item, image = records.item_from_record(record, where), record.get("image")
            if not isinstance(image, str) or Path(image).name != image:
                raise DatasetError(f"{where}: the item does not name its image under images/")
            for obj in item.objects:
                if obj.label not in self.classes:
                    names = ", ".join(self.classes)
                    raise DatasetError(f"{where}: unknown class {obj.label!r}. There are: {names}")
            yield Sample(image, item, self.find_split(item.video, item.frame))

    def _lines(self) -> Iterator[tuple[int, str]]:
        if not self.items.is_file():
            raise DatasetError(f"{self.items}: not there; build the dataset again")
        try:
            with self.items.open(encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    if number > 1 and not line.startswith(journal.END_START):
                        yield number, line
        except UnicodeDecodeError:
            raise DatasetError(f"{self.items}: not UTF-8 text; build the dataset again") from None


def load_dataset(path: Path | str) -> Dataset:
    """Load the dataset in the folder `path`.

    Raises:
        DatasetError: there is no dataset, or its `dataset.toml` is damaged.
    """
    path = Path(path)
    try:
        table = parse_toml((path / DATASET_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(
            f"{path}: not a dataset: no {DATASET_FILE} in it; make one with `annotate build`"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path / DATASET_FILE}: cannot be read: {error}") from None
    try:
        if table.get("annotate", 0) > FORMAT_VERSION:
            raise DatasetError(f"{path}: made by a newer annotate: pip install -U annotate-local")
        _check_types(table)
        split_ranges = tuple(_split_range(record) for record in table.get("stretches", ()))
        sources = tuple(table.get("sources", ()))
        classes, clips = tuple(table["classes"]), table.get("clips", {})
        return Dataset(path, classes, clips, sources, split_ranges)
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path / DATASET_FILE}: damaged: {error}") from None


def _check_types(table: Mapping[str, Any]) -> None:
    """Check the values of `dataset.toml`; TypeError says which is wrong."""
    classes, clips = table["classes"], table.get("clips", {})
    if not (isinstance(classes, list) and all(isinstance(each, str) for each in classes)):
        raise TypeError("classes must be a list of names")
    tables = [clips, *clips.values()] if isinstance(clips, dict) else [clips]
    if not all(isinstance(each, dict) for each in (*tables, *table.get("sources", ()))):
        raise TypeError("clips and sources must be tables")


def _split_range(record: Mapping[str, Any]) -> SplitRange:
    for key, kind in (("clip", str), ("part", str), ("start", int), ("stop", int)):
        if not isinstance(record[key], kind):
            raise TypeError(f"{key} of a stretch must be {kind.__name__}, got {record[key]!r}")
    return SplitRange(record["clip"], record["start"], record["stop"], record["part"])


class DatasetWriter:
    """Write a dataset: save each image in the folder `images`, then `add` its item."""

    def __init__(self, path: Path, items: IO[str]) -> None:
        self.images = path / "images"
        self.split_ranges: tuple[SplitRange, ...] = ()  # empty: not split
        self.clips: Mapping[str, Mapping[str, Any]] | None = None  # None: those of the dataset
        self._items, self._stems = items, set[str]()

    def add(self, image: str, item: Item) -> None:
        """Append the item of a frame.

        Image names must differ by more than case and suffix: other file systems and formats ignore
        both.

        Raises:
            DatasetError: another image has the name.
        """
        stem = Path(image).stem.casefold()
        if stem in self._stems:
            raise DatasetError(f"two images would be {image}: {item.video}#{item.frame} is one")
        self._stems.add(stem)
        self._items.write('{"image":' + json.dumps(image, ensure_ascii=False) + ",")
        self._items.write(records.item_to_json(item)[1:] + "\n")

    @property
    def count(self) -> int:
        """How many frames were added."""
        return len(self._stems)


@contextmanager
def create_dataset(
    dataset: Dataset, header: Header, *, force: bool = False
) -> Iterator[DatasetWriter]:
    """Create the folder of `dataset`, which is there as a whole when the block ends.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """
    with atomic_folder(dataset.path, marker_file=DATASET_FILE, force=force) as folder:
        (folder / "images").mkdir()
        with (folder / "items.jsonl").open("w", encoding="utf-8", newline="\n") as items:
            items.write(header.to_json() + "\n")
            writer = DatasetWriter(folder, items)
            yield writer
            items.write(records.record_to_json({"end": writer.count}) + "\n")
        clips = dataset.clips if writer.clips is None else writer.clips
        written = replace(dataset, split_ranges=writer.split_ranges, clips=clips)
        (folder / DATASET_FILE).write_text(_to_toml(written), encoding="utf-8", newline="\n")


def with_split(dataset: Dataset, split_ranges: Sequence[SplitRange]) -> Dataset:
    """Set the split of a dataset, on disk and in the returned dataset.

    Raises:
        OutputError: `dataset.toml` cannot be written.
    """
    split = replace(dataset, split_ranges=tuple(split_ranges))
    with atomic_file(dataset.path / DATASET_FILE) as draft:
        draft.write_text(_to_toml(split), encoding="utf-8", newline="\n")
    return split


def _to_toml(dataset: Dataset) -> str:
    """Write `dataset.toml`: strings, numbers and lists of JSON are valid TOML."""
    blocks = [f"annotate = {FORMAT_VERSION}\nclasses = {_toml_value(list(dataset.classes))}\n"]
    for name, clip in dataset.clips.items():
        blocks.append(f"[clips.{_toml_value(name)}]\n{_toml_pairs(clip)}")
    blocks += [f"[[sources]]\n{_toml_pairs(source)}" for source in dataset.sources]
    for each in dataset.split_ranges:
        record = {"clip": each.clip, "start": each.start, "stop": each.stop, "part": each.split}
        blocks.append(f"[[stretches]]\n{_toml_pairs(record)}")
    return "\n".join(blocks)


def _toml_pairs(table: Mapping[str, Any]) -> str:
    return "".join(f"{k} = {_toml_value(v)}\n" for k, v in table.items() if v is not None)


def _toml_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def utf8_name(file_name: str) -> str:
    """Write the bytes of a file name that are not UTF-8 as %E9."""
    return re.sub("[\udc80-\udcff]", lambda match: f"%{ord(match[0]) - 0xDC00:02X}", file_name)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link the image `source` as `target`; copy it where the disk cannot link.

    Raises:
        DatasetError: the image is not there, or `target` is.
    """
    if not source.is_file():
        raise DatasetError(f"{source}: the image is not there; build the dataset again")
    try:
        os.link(source.resolve() if source.is_symlink() else source, target)
    except FileExistsError:  # writing into a hard link would write into its source
        raise DatasetError(f"{source}: another image is called {target.name} already") from None
    except OSError:
        shutil.copyfile(source, target)


@dataclass
class ImportedClips:
    """Identify the clips of an imported dataset by their images: a name alone identifies none.

    `known` are the clips that the source describes; one with a fingerprint keeps it. The
    fingerprint of another is a SHA-256 of the index and the content of each of its images.
    """

    known: Mapping[str, Mapping[str, Any]]
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _digests: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)

    def add(self, item: Item, image_path: Path) -> None:
        """Add a frame and its image file."""
        if self.known.get(item.video, {}).get("fingerprint"):
            return
        self._sizes.setdefault(item.video, (item.width, item.height))
        digest = bytes.fromhex(sha256(image_path))
        self._digests.setdefault(item.video, []).append((item.frame, digest))

    def metadata(self) -> dict[str, dict[str, Any]]:
        """Describe the clips as a dataset does, by name."""
        described = {name: dict(clip) for name, clip in self.known.items()}
        for name, digests in self._digests.items():
            whole = hashlib.sha256()
            for frame, digest in sorted(digests):
                whole.update(b"%d\0%b" % (frame, digest))
            width, height = self._sizes[name]
            size = {"frame_count": max(digests)[0] + 1, "width": width, "height": height}
            recorded = {k: v for k, v in described.get(name, {}).items() if v is not None}
            entry = {**size, **recorded, "fingerprint": whole.hexdigest(), _OF_IMAGES: True}
            described[name] = entry
        return described


def _is_of_images(clip: Mapping[str, Any]) -> bool:
    """Return whether a clip is a set of imported images, and not a video."""
    return bool(clip.get(_OF_IMAGES)) or not clip.get("fingerprint")


def external_id(dataset: Dataset, video: str, frame: int | None = None) -> str:
    """Name a frame, or a clip, the same way in every project: `dock.mp4#75@5e1f5e1f`.

    The name has the fingerprint of the clip. An imported frame is named by its image instead
    (`Dataset.image_ids`).

    Raises:
        DatasetError: an imported image is not there.
    """
    clip = dataset.clips.get(video, {})
    name = video if frame is None else f"{video}#{frame}"
    if frame is not None and _is_of_images(clip):
        return dataset.image_ids.get((video, frame), name)
    fingerprint = clip.get("fingerprint") or ""
    return f"{name}@{fingerprint[:_ID_DIGITS]}" if fingerprint else name


def object_ids(objects: Sequence[Object]) -> list[str]:
    """Name each object of a frame by its content, independent of the other objects."""
    copies: Counter[str] = Counter()
    names = []
    for obj in objects:
        counts = obj.mask and obj.mask["counts"]
        content = (obj.label, obj.box, obj.score, obj.track, counts, obj.source)
        digest = hashlib.sha256(repr(content).encode()).hexdigest()[:10]
        copies[digest] += 1
        names.append(digest if copies[digest] == 1 else f"{digest}-{copies[digest]}")
    return names


def dataset_sha256(dataset: Dataset, split_lines: list[str] | None = None) -> str:
    """Hash what a trainer sees: the classes, and each frame's image, split, labels, boxes, masks.

    The order of frames and objects, names, paths and times do not count. `split_lines` gets a line
    for each frame, in order: the hash of its image, and its split.

    Raises:
        DatasetError: an image is not there.
    """
    lines, splits, classes = list[str](), list[str](), json.dumps(dataset.classes)
    for sample in dataset:
        objects = sample.item.objects
        content = sorted(json.dumps((o.label, o.box, o.mask and o.mask["counts"])) for o in objects)
        try:
            image = sha256(dataset.images / sample.image)
        except OSError:
            raise DatasetError(f"{dataset.images / sample.image}: the image is missing") from None
        splits.append(f"{image} {sample.split}")
        lines.append(f"{splits[-1]} {json.dumps(content)}")
    if split_lines is not None:
        split_lines += splits
    return hashlib.sha256("\n".join([classes, *sorted(lines)]).encode()).hexdigest()
