"""Locate the clips of files of items, and read frames from a clip or a dataset.

A clip is identified by its fingerprint: two clips with the same name are two clips and get
different names. A `FrameSource` gives the frames of a clip, or the images of a dataset, as often as
they are asked for.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol

from annotate.dataset.folder import DATASET_FILE, Dataset, Sample, load_dataset
from annotate.errors import DatasetError, ItemsError, UnknownName
from annotate.items import journal, masks
from annotate.items.records import Frame, Header, Item, Object
from annotate.items.sequences import evenly_spaced
from annotate.video import reader
from annotate.video.images import read_image
from annotate.video.reader import FrameSelection

_METADATA_KEYS = ("fingerprint", "frame_count", "width", "height")
FrameKey = tuple[str, int]  # name of the video, frame index


@dataclass(frozen=True)
class ItemsOfClip:
    """One clip of a file of items: the file, and the name of the clip in it."""

    journal: journal.Journal
    clip: str

    def items(self) -> Iterator[Item]:
        """Iterate over the items of the clip, in frame order, checked; dropped frames are left out.

        Raises:
            ItemsError: an item is of an unknown clip, out of order, or a mask does not fit.
        """
        last = -1
        for line, item in enumerate(self.journal, start=2):
            where = f"{self.journal.path}:{line}"
            if item.video not in self.journal.header.videos:
                raise ItemsError(f"{where}: a frame of {item.video}, which is not in the header")
            if item.video != self.clip or item.dropped is not None:
                continue
            if item.frame <= last:
                raise ItemsError(f"{where}: frame {item.frame} comes after {last}; sort the lines")
            last = item.frame
            _check_masks(item, where)
            yield item


@dataclass(frozen=True)
class LocatedClip:
    """A clip with a unique name, its path, and the files of items that are of it.

    Objects with a score below `min_score` are left out; those without a score stay. `metadata` is
    {"fingerprint", "frame_count", "width", "height"}. `stem` begins the names of its frames.
    """

    name: str
    stem: str
    path: Path
    metadata: Mapping[str, Any]
    sources: tuple[ItemsOfClip, ...]
    min_score: float = 0.0

    def items(self) -> Iterator[Item]:
        """Iterate over one item per frame, with the objects of all files."""
        streams = [source.items() for source in self.sources]
        merged = heapq.merge(*streams, key=lambda item: item.frame)
        for _, items_of_frame in groupby(merged, key=lambda item: item.frame):
            item = merge_items(items_of_frame)
            kept = [o for o in item.objects if o.score is None or o.score >= self.min_score]
            whole = item.video == self.name and len(kept) == len(item.objects)
            yield item if whole else replace(item, video=self.name, objects=tuple(kept))

    def frame_stem(self, frame: int) -> str:
        """Name a frame by its index: `dock-000075`."""
        return f"{self.stem}-{frame:06d}"


def merge_items(items: Iterable[Item]) -> Item:
    """Merge the items of one frame: all their objects, exact duplicates once.

    Raises:
        ItemsError: the items disagree on the size of the frame.
    """
    first, *others = items
    objects, lost = {_object_content(obj): obj for obj in first.objects}, set(first.lost)
    for item in others:
        if (item.width, item.height) != (first.width, first.height):
            raise ItemsError(
                f"{item.video}#{item.frame}: {item.width}x{item.height} in one file of items, "
                f"{first.width}x{first.height} in another; make both from the same clip"
            )
        for obj in item.objects:
            objects.setdefault(_object_content(obj), obj)
        lost |= set(item.lost)
    if not others and len(objects) == len(first.objects) and list(first.lost) == sorted(lost):
        return first
    attributes = {k: v for item in (first, *others) for k, v in (item.attributes or {}).items()}
    first = replace(first, attributes=attributes or None)
    return replace(first, objects=tuple(objects.values()), lost=tuple(sorted(lost)))


def _object_content(obj: Object) -> tuple[Any, ...]:
    counts = obj.mask and obj.mask["counts"]
    return obj.label, obj.box, obj.score, obj.track, counts, obj.source


def locate_clips(
    journals: Sequence[journal.Journal],
    videos: Mapping[str, Path] | None = None,
    min_score: float = 0.0,
) -> list[LocatedClip]:
    """Locate the clips of files of items, in the order of their first mention.

    A clip is identified by its fingerprint: two clips of the same name get different names.

    Raises:
        ItemsError: a clip is not found, or is not the one that the items were made from.
    """
    by_fingerprint: dict[str, list[ItemsOfClip]] = {}
    for each in journals:
        for name, entry in each.header.videos.items():
            if not entry.get("fingerprint"):
                raise ItemsError(f"{each.path}: its header has no fingerprint of the clip {name}")
            by_fingerprint.setdefault(entry["fingerprint"], []).append(ItemsOfClip(each, name))
    if not by_fingerprint:
        raise ItemsError(f"{journals[0].path}: its header names no clip")
    first_names = {key: sources[0].clip for key, sources in by_fingerprint.items()}
    stems = _unique_names({key: Path(name).stem for key, name in first_names.items()})
    names = _unique_names(first_names)
    return [
        LocatedClip(
            names[key],
            stems[key],
            _locate_video(sources[0], videos or {}),
            _metadata(sources[0]),
            tuple(sources),
            min_score,
        )
        for key, sources in by_fingerprint.items()
    ]


def _unique_names(names: Mapping[str, str]) -> dict[str, str]:
    """Make names unique: a name of several clips gets the start of the fingerprint (the key)."""
    counts = Counter(name.casefold() for name in names.values())
    return {
        fingerprint: name
        if counts[name.casefold()] == 1
        else f"{Path(name).stem}-{fingerprint[:8]}" + Path(name).suffix
        for fingerprint, name in names.items()
    }


def _metadata(clip_items: ItemsOfClip) -> dict[str, Any]:
    record = clip_items.journal.header.videos[clip_items.clip]
    return {key: record.get(key) for key in _METADATA_KEYS}


def _locate_video(clip_items: ItemsOfClip, videos: Mapping[str, Path]) -> Path:
    """Find the file of a clip: as given in `videos`, as in the header, or beside the items."""
    source, name = clip_items.journal.path, clip_items.clip
    record, folder = clip_items.journal.header.videos[name], source.parent
    recorded = record.get("path")
    candidates = [videos.get(name), recorded, folder / (recorded or ""), folder / name]
    paths = [Path(path) for path in candidates if path]
    path = next((path for path in paths if path.exists() and path != folder), None)
    if path is None:
        raise ItemsError(
            f"{source}: its clip {name} is not at {recorded}; give its path in `videos`"
        )
    fingerprint = reader.probe(path).fingerprint
    if fingerprint != record["fingerprint"]:
        raise ItemsError(
            f"{source}: made from another {name} than {path} (fingerprint "
            f"{record['fingerprint'][:12]}, not {fingerprint[:12]}); give the path of the right "
            "clip in `videos`, or make the items again"
        )
    return path


def _check_masks(item: Item, where: str) -> None:
    for obj in item.objects:
        if obj.mask is not None:
            try:
                masks.check(obj.mask, (item.width, item.height))
            except ItemsError as error:
                raise ItemsError(f"{where}: {obj.label}: {error}") from None


class MergedItems:
    """The items of one clip from several files, read as one file; `path` is the first of them."""

    def __init__(self, clip: LocatedClip) -> None:
        self.path, self._clip = clip.sources[0].journal.path, clip
        headers = [source.journal.header for source in clip.sources]
        labels = dict.fromkeys(label for h in headers for label in h.vocabulary.get("labels", ()))
        vocabulary = {"name": "", "sha256": "", "labels": list(labels)}
        self.header = Header("together", vocabulary=vocabulary, videos={clip.name: clip.metadata})

    def __iter__(self) -> Iterator[Item]:
        return self._clip.items()


def locate_clip(
    journals: Sequence[journal.Journal],
    name: str | None,
    videos: Mapping[str, Path],
    min_score: float = 0.0,
) -> LocatedClip:
    """Locate the clip `name`; without a name, the only clip of the files.

    Raises:
        UnknownName: the files have no such clip.
        ItemsError: the files have several clips, and no name was given.
    """
    clips = {clip.name: clip for clip in locate_clips(journals, videos, min_score)}
    if name is None and len(clips) > 1:
        raise ItemsError(f"items of several clips: {', '.join(clips)}; name one in `clip`")
    if name is not None and name not in clips:
        raise UnknownName("clip", name, clips)
    return next(iter(clips.values())) if name is None else clips[name]


class FrameSource(Protocol):
    """The frames of a clip or of a dataset; every call reads them again."""

    @property
    def path(self) -> Path:
        """The path of the clip or dataset."""

    @property
    def selection(self) -> FrameSelection:
        """Which of the frames are selected."""

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Iterate over the selected frames, without the first `skip`."""

    def frames_at(self, keys: Collection[FrameKey]) -> Iterator[Frame]:
        """Iterate over the frames of `keys`, in order."""

    def count(self) -> int | None:
        """Count the selected frames; None where that needs decoding."""

    def videos(self) -> dict[str, dict[str, Any]]:
        """Describe each clip as the header of a file of items does, by its name."""

    def classes_and_items(self) -> tuple[tuple[str, ...], Iterator[Item]] | None:
        """Read the classes and items of a dataset; None for a clip."""

    def image_keys(self) -> Mapping[str, FrameKey]:
        """Map the image names of a dataset to their frames; empty for a clip."""


def open_source(path: Path, selection: FrameSelection) -> FrameSource:
    """Open a clip or a dataset; of a dataset, `rate` and `keyframes` select nothing."""
    if (path / DATASET_FILE).is_file():
        return DatasetFrameSource(path, selection)
    return ClipFrameSource(path, selection)


def open_sources(paths: Sequence[Path], selection: FrameSelection) -> list[FrameSource]:
    """Open clips and datasets; a name of several clips of datasets gets their fingerprints."""
    sources = [open_source(path, selection) for path in paths]
    datasets = [each for each in sources if isinstance(each, DatasetFrameSource)]
    if len(sources) == 1 or not datasets:
        return sources
    described = {id(each): each.videos() for each in sources}
    names: dict[str, str] = {}  # fingerprint -> name
    for videos in described.values():
        names |= {entry["fingerprint"]: name for name, entry in videos.items()}
    names.pop("", None)
    unique_names = _unique_names(names)
    for number, each in enumerate(sources):
        if isinstance(each, DatasetFrameSource):
            entries = described[id(each)].items()
            new_names = {name: unique_names.get(e["fingerprint"], name) for name, e in entries}
            sources[number] = replace(each, new_names=new_names)
    return sources


@dataclass(frozen=True)
class ClipFrameSource:
    """The selected frames of a clip."""

    path: Path
    selection: FrameSelection = field(default_factory=FrameSelection)

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Iterate over the selected frames, without the first `skip`."""
        return islice(self.selection.frames(self.path), skip, None)

    def frames_at(self, keys: Collection[FrameKey]) -> Iterator[Frame]:
        """Iterate over the frames of `keys`, in order."""
        return reader.frames_at(self.path, sorted(frame for _, frame in keys))

    def count(self) -> int | None:
        """Count the selected frames; None where that needs decoding."""
        self.selection.check(self.path)
        return self.selection.count(reader.probe(self.path))

    def videos(self) -> dict[str, dict[str, Any]]:
        """Describe the clip as the header of a file of items does, by its name."""
        return reader.header_entry(reader.probe(self.path))

    def classes_and_items(self) -> None:
        """Return None: a clip has no items."""
        return None

    def image_keys(self) -> Mapping[str, FrameKey]:
        """Return nothing: the frames of a clip have no image names."""
        return {}


@dataclass(frozen=True)
class DatasetFrameSource:
    """The selected images of a dataset; `new_names` are the names of clips that were changed."""

    path: Path
    selection: FrameSelection = field(default_factory=FrameSelection)
    new_names: Mapping[str, str] = field(default_factory=dict)

    def _renamed(self, dataset: Dataset) -> Iterator[Sample]:
        for sample in dataset:
            name = self.new_names.get(sample.item.video)
            yield (
                sample if name is None else replace(sample, item=replace(sample.item, video=name))
            )

    def _samples(self) -> list[Sample]:
        chosen = slice(self.selection.start, self.selection.stop, self.selection.every)
        samples = list(self._renamed(load_dataset(self.path)))[chosen]
        return [samples[row] for row in evenly_spaced(len(samples), self.selection.maximum)]

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Iterate over the selected frames, without the first `skip`."""
        samples = self._samples()
        if not samples:
            raise DatasetError(f"{self.path}: no image of it is selected; change `start` or `stop`")
        return (self._frame(sample) for sample in samples[skip:])

    def frames_at(self, keys: Collection[FrameKey]) -> Iterator[Frame]:
        """Iterate over the frames of `keys`, in order."""
        chosen = (s for s in self._samples() if (s.item.video, s.item.frame) in keys)
        return (self._frame(sample) for sample in chosen)

    def _frame(self, sample: Sample) -> Frame:
        pixels = read_image(self.path / "images" / sample.image)
        return Frame(sample.item.video, sample.item.frame, sample.item.seconds, pixels)

    def count(self) -> int:
        """Count the selected images."""
        return len(self._samples())

    def videos(self) -> dict[str, dict[str, Any]]:
        """Describe each clip as the header of a file of items does, by its name."""
        clips: dict[str, dict[str, Any]] = {}
        dataset = load_dataset(self.path)
        # the items, too: an imported dataset of an earlier version names no clips
        for sample in self._renamed(dataset):
            item = sample.item
            size = {"width": item.width, "height": item.height}
            clips[item.video] = {"frame_count": item.frame + 1, **size}
        for name, metadata in dataset.clips.items():
            clips[self.new_names.get(name, name)] = dict(metadata)
        return {name: {"fingerprint": "", **metadata} for name, metadata in clips.items()}

    def classes_and_items(self) -> tuple[tuple[str, ...], Iterator[Item]]:
        """Read the classes and items of the dataset."""
        dataset = load_dataset(self.path)
        return dataset.classes, (sample.item for sample in self._renamed(dataset))

    def image_keys(self) -> Mapping[str, FrameKey]:
        """Map the names of the images to their frames."""
        return {s.image: (s.item.video, s.item.frame) for s in self._samples()}


def source_to_record(source: FrameSource) -> dict[str, Any]:
    """Describe a frame source as JSON, so that another process can open it."""
    return {
        "path": str(source.path.resolve()),
        "choice": dataclasses.asdict(source.selection),
        "clips": {name: entry["fingerprint"] for name, entry in source.videos().items()},
    }


def source_from_record(record: Mapping[str, Any]) -> FrameSource:
    """Open the frame source that `source_to_record` described."""
    return open_source(Path(record["path"]), FrameSelection(**record["choice"]))
