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

import numpy as np

from annotate.dataset.folder import DATASET_FILE, Sample, load_dataset
from annotate.errors import DatasetError, ItemsError, UnknownName
from annotate.items import journal, masks
from annotate.items.records import Frame, Header, Item, Object
from annotate.video import reader
from annotate.video.reader import FrameSelection

_METADATA_KEYS = ("fingerprint", "frame_count", "width", "height")


@dataclass(frozen=True)
class ItemsOfClip:
    """A file of items, and the name by which it calls a clip."""

    journal: journal.Journal
    clip: str

    def items(self) -> Iterator[Item]:
        """Its items of the clip that are not dropped, checked, in order of frames."""
        last = -1
        for line, item in enumerate(self.journal, start=2):
            where = f"{self.journal.path}:{line}"
            if item.video not in self.journal.header.videos:
                raise ItemsError(
                    f"{where}: a frame of {item.video}, which its header does not name"
                )
            if item.video != self.clip or item.dropped is not None:
                continue
            if item.frame <= last:
                raise ItemsError(f"{where}: frame {item.frame} comes after {last}; sort the lines")
            last = item.frame
            _check_masks(item, where)
            yield item


@dataclass(frozen=True)
class LocatedClip:
    """A clip under a name of its own, the files of items that speak of it, and where it is.

    Objects that score below `least` are left out; those without a score stay.

    `facts` are {"fingerprint", "frame_count", "width", "height"}; `stem` begins the names of its
    pictures.
    """

    name: str
    stem: str
    path: Path
    metadata: Mapping[str, Any]
    sources: tuple[ItemsOfClip, ...]
    min_score: float = 0.0

    def items(self) -> Iterator[Item]:
        """One item for each frame that any file has looked at, with the objects of all."""
        streams = [told.items() for told in self.sources]
        merged = heapq.merge(*streams, key=lambda item: item.frame)
        for _, same in groupby(merged, key=lambda item: item.frame):
            item = merge_items(same)
            sure = (o for o in item.objects if o.score is None or o.score >= self.min_score)
            yield replace(item, video=self.name, objects=tuple(sure))

    def image_name(self, frame: int, image_format: str) -> str:
        """The name of a frame's picture: `dock-000075.png`."""
        return f"{self.stem}-{frame:06d}.{image_format}"


def merge_items(items: Iterable[Item]) -> Item:
    """Items of one frame as one: all their objects, exact duplicates once.

    Raises:
        ItemsError: they disagree on the picture's size.
    """
    first, *others = items
    objects, lost = {_object_content(thing): thing for thing in first.objects}, set(first.lost)
    for item in others:
        if (item.width, item.height) != (first.width, first.height):
            raise ItemsError(
                f"{item.video}#{item.frame}: {item.width}x{item.height} in one file of items, "
                f"{first.width}x{first.height} in another; make both from the same clip"
            )
        for thing in item.objects:
            objects.setdefault(_object_content(thing), thing)
        lost |= set(item.lost)
    return replace(first, objects=tuple(objects.values()), lost=tuple(sorted(lost)))


def _object_content(obj: Object) -> tuple[Any, ...]:
    counts = obj.mask and obj.mask["counts"]
    return obj.label, obj.box, obj.score, obj.track, counts, obj.source


def locate_clips(
    journals: Sequence[journal.Journal],
    videos: Mapping[str, Path] | None = None,
    min_score: float = 0.0,
) -> list[LocatedClip]:
    """The clips that the files speak of, in the order in which they first do.

    A clip is known by its fingerprint: two clips of one name are two, and get names of their own.

    Raises:
        ItemsError: a clip is not found, or is another than the one the items were made from.
    """
    told: dict[str, list[ItemsOfClip]] = {}
    for each in journals:
        for name, facts in each.header.videos.items():
            if not facts.get("fingerprint"):
                raise ItemsError(f"{each.path}: its header does not say which clip {name} is")
            told.setdefault(facts["fingerprint"], []).append(ItemsOfClip(each, name))
    if not told:
        raise ItemsError(f"{journals[0].path}: its header names no clip")
    stems = _unique_names({print_: Path(tells[0].clip).stem for print_, tells in told.items()})
    names = _unique_names({print_: tells[0].clip for print_, tells in told.items()})
    return [
        LocatedClip(
            names[print_],
            stems[print_],
            _locate_video(tells[0], videos or {}),
            _metadata(tells),
            (*tells,),
            min_score,
        )
        for print_, tells in told.items()
    ]


def _unique_names(names: Mapping[str, str]) -> dict[str, str]:
    """Names, by fingerprint; one that several clips have gets the beginning of the fingerprint."""
    often = Counter(name.casefold() for name in names.values())
    return {
        print_: name
        if often[name.casefold()] == 1
        else f"{Path(name).stem}-{print_[:8]}" + Path(name).suffix
        for print_, name in names.items()
    }


def _metadata(sources: Sequence[ItemsOfClip]) -> dict[str, Any]:
    record = sources[0].journal.header.videos[sources[0].clip]
    return {fact: record.get(fact) for fact in _METADATA_KEYS}


def _locate_video(clip_items: ItemsOfClip, videos: Mapping[str, Path]) -> Path:
    source, record = clip_items.journal.path, clip_items.journal.header.videos[clip_items.clip]
    near = source.parent
    tried = [
        videos.get(clip_items.clip),
        record.get("path"),
        near / record.get("path", ""),
        near / clip_items.clip,
    ]
    for path in (Path(place) for place in tried if place):
        if path.exists() and path != near:
            break
    else:
        raise ItemsError(
            f"{source}: its clip {clip_items.clip} is not at {record.get('path')}; "
            f"say where it is: --video {clip_items.clip}=PATH"
        )
    found = reader.probe(path).fingerprint
    if found != record["fingerprint"]:
        raise ItemsError(
            f"{source}: made from another {clip_items.clip} than {path} (fingerprint "
            f"{record['fingerprint'][:12]}, not {found[:12]}); say where it is: "
            f"--video {clip_items.clip}=PATH, or make the items anew"
        )
    return path


def _check_masks(item: Item, where: str) -> None:
    for thing in item.objects:
        if thing.mask is not None:
            try:
                masks.check(thing.mask, (item.width, item.height))
            except ItemsError as error:
                raise ItemsError(f"{where}: {thing.label}: {error}") from None


def collect_classes(
    journals: Sequence[journal.Journal], pinned: Sequence[str] | None
) -> tuple[str, ...]:
    """The classes in the order of their ids: as pinned, or as the vocabularies have them.

    A file without a vocabulary adds its labels in alphabetical order.

    Raises:
        DatasetError: a label that neither `pinned` nor the file's own vocabulary has.
    """
    found = list(pinned or ())
    for each in journals:
        known = list(pinned or each.header.vocabulary.get("labels", ()))
        labels = dict.fromkeys(known) if known else _sorted_labels(each)
        found += [label for label in labels if label not in found]
        if known:
            _check_labels(each, known)
    return tuple(found)


def _sorted_labels(items: Iterable[Item]) -> list[str]:
    return sorted({thing.label for item in items for thing in item.objects})


def _check_labels(items: journal.Journal, known_classes: Sequence[str]) -> None:
    for line, item in enumerate(items, start=2):
        for thing in item.objects:
            if thing.label not in known_classes:
                raise DatasetError(
                    f"{items.path}:{line}: unknown class {thing.label!r}. There are: "
                    f"{', '.join(known_classes)}; add it to the vocabulary or to the pinned classes"
                )


class MergedItems(journal.Journal):
    """All that several files say of one clip, as if it were one file."""

    def __init__(self, clip: LocatedClip) -> None:
        self.path, self._clip = clip.sources[0].journal.path, clip
        files = [told.journal.header for told in clip.sources]
        labels = dict.fromkeys(label for h in files for label in h.vocabulary.get("labels", ()))
        words = {"name": "", "sha256": "", "labels": list(labels)}
        self.header = Header("together", vocabulary=words, videos={clip.name: clip.metadata})

    def __iter__(self) -> Iterator[Item]:
        return self._clip.items()


def locate_clip(
    journals: Sequence[journal.Journal],
    name: str | None,
    videos: Mapping[str, Path],
    min_score: float = 0.0,
) -> LocatedClip:
    """The clip `name`, or the only one that the files speak of.

    Raises:
        UnknownName: the files do not speak of it.
        ItemsError: they speak of several, and none was named.
    """
    found = {clip.name: clip for clip in locate_clips(journals, videos, min_score)}
    if name is None and len(found) > 1:
        raise ItemsError(f"items of several clips: {', '.join(found)}; name one: --clip NAME")
    if name is not None and name not in found:
        raise UnknownName("clip", name, found)
    return next(iter(found.values())) if name is None else found[name]


FrameKey = tuple[str, int]  # a frame: its video's name and its index there


class FrameSource(Protocol):
    """Frames that can be had as often as they are asked for."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def selection(self) -> FrameSelection:
        """Which of its frames are meant."""

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """The frames in order, but for the first `done`."""

    def frames_at(self, keys: Collection[FrameKey]) -> Iterator[Frame]:
        """These frames, in order."""

    def count(self) -> int | None:
        """How many frames there are, where it can be told without decoding."""

    def videos(self) -> dict[str, dict[str, Any]]:
        """Clip name -> what a header says of it."""

    def classes_and_items(self) -> tuple[tuple[str, ...], Iterator[Item]] | None:
        """The classes and items that it brings itself; None where it is bare."""

    def image_keys(self) -> Mapping[str, FrameKey]:
        """The names of its pictures, where they have any, and the frames that they are."""


def open_source(path: Path, selection: FrameSelection) -> FrameSource:
    """The frames of `choice` of a clip or dataset; a dataset has no rate and no keyframes."""
    if (path / DATASET_FILE).is_file():
        return DatasetFrameSource(path, selection)
    return ClipFrameSource(path, selection)


@dataclass(frozen=True)
class ClipFrameSource:
    """Frames of a clip."""

    path: Path
    selection: FrameSelection = field(default_factory=FrameSelection)

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """The frames in order, but for the first `done`."""
        return islice(self.selection.frames(self.path), skip, None)

    def frames_at(self, keys: Collection[FrameKey]) -> Iterator[Frame]:
        """These frames, in order."""
        return reader.frames_at(self.path, sorted(frame for _, frame in keys))

    def count(self) -> int | None:
        """How many frames there are."""
        return self.selection.count(reader.probe(self.path))

    def videos(self) -> dict[str, dict[str, Any]]:
        """Its own name -> what a header says of it."""
        return reader.header_entry(reader.probe(self.path))

    def classes_and_items(self) -> None:
        """A clip brings nothing."""
        return None

    def image_keys(self) -> Mapping[str, FrameKey]:
        """None has a name."""
        return {}


@dataclass(frozen=True)
class DatasetFrameSource:
    """Pictures of a dataset."""

    path: Path
    selection: FrameSelection = field(default_factory=FrameSelection)

    def _samples(self) -> list[Sample]:
        chosen = slice(self.selection.start, self.selection.stop, self.selection.every)
        every = list(load_dataset(self.path))[chosen]
        if self.selection.maximum is None:
            return every
        places = np.linspace(0, len(every) - 1, min(self.selection.maximum, len(every)))
        return [every[place] for place in places.round().astype(int)]

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """The frames in order, but for the first `done`."""
        return (self._frame(sample) for sample in self._samples()[skip:])

    def frames_at(self, keys: Collection[FrameKey]) -> Iterator[Frame]:
        """These frames, in order."""
        chosen = (s for s in self._samples() if (s.item.video, s.item.frame) in keys)
        return (self._frame(sample) for sample in chosen)

    def _frame(self, sample: Sample) -> Frame:
        from PIL import Image

        with Image.open(self.path / "images" / sample.image) as image:
            pixels = np.array(image.convert("RGB"), np.uint8)
        return Frame(sample.item.video, sample.item.frame, sample.item.seconds, pixels)

    def count(self) -> int:
        """How many pictures there are."""
        return len(self._samples())

    def videos(self) -> dict[str, dict[str, Any]]:
        """Clip name -> what a header says of it."""
        clips = load_dataset(self.path).clips
        return {name: {"fingerprint": "", **facts} for name, facts in clips.items()}

    def classes_and_items(self) -> tuple[tuple[str, ...], Iterator[Item]]:
        """The dataset's classes and its items."""
        dataset = load_dataset(self.path)
        return dataset.classes, (sample.item for sample in dataset)

    def image_keys(self) -> Mapping[str, FrameKey]:
        """The names of its pictures, and the frames that they are."""
        return {s.image: (s.item.video, s.item.frame) for s in self._samples()}


def source_to_record(source: FrameSource) -> dict[str, Any]:
    """Footage as JSON can carry it to another process."""
    return {
        "path": str(source.path.resolve()),
        "choice": dataclasses.asdict(source.selection),
        "clips": {name: facts["fingerprint"] for name, facts in source.videos().items()},
    }


def source_from_record(record: Mapping[str, Any]) -> FrameSource:
    """The footage of `to_record`."""
    return open_source(Path(record["path"]), FrameSelection(**record["choice"]))
