"""Which clips files of items speak of, where their videos are, and what each picture is called."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from annotate import journal, masks, video
from annotate.errors import DatasetError, ItemsError, UnknownName
from annotate.lines import Header
from annotate.records import Item, Object

_FACTS = ("fingerprint", "frame_count", "width", "height")


@dataclass(frozen=True)
class Told:
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
class Clip:
    """A clip under a name of its own, the files of items that speak of it, and where it is.

    Objects that score below `least` are left out; those without a score stay.

    `facts` are {"fingerprint", "frame_count", "width", "height"}; `stem` begins the names of its
    pictures.
    """

    name: str
    stem: str
    path: Path
    facts: Mapping[str, Any]
    told: tuple[Told, ...]
    least: float = 0.0

    def items(self) -> Iterator[Item]:
        """One item for each frame that any file has looked at, with the objects of all."""
        streams = [told.items() for told in self.told]
        merged = heapq.merge(*streams, key=lambda item: item.frame)
        for _, same in groupby(merged, key=lambda item: item.frame):
            item = joined(same)
            sure = (o for o in item.objects if o.score is None or o.score >= self.least)
            yield replace(item, video=self.name, objects=tuple(sure))

    def picture(self, frame: int, image_format: str) -> str:
        """The name of a frame's picture: `dock-000075.png`."""
        return f"{self.stem}-{frame:06d}.{image_format}"


def joined(items: Iterable[Item]) -> Item:
    """Items of one frame as one: all their objects, exact duplicates once.

    Raises:
        ItemsError: they disagree on the picture's size.
    """
    first, *others = items
    objects, lost = {_content(thing): thing for thing in first.objects}, set(first.lost)
    for item in others:
        if (item.width, item.height) != (first.width, first.height):
            raise ItemsError(
                f"{item.video}#{item.frame}: {item.width}x{item.height} in one file of items, "
                f"{first.width}x{first.height} in another; make both from the same clip"
            )
        for thing in item.objects:
            objects.setdefault(_content(thing), thing)
        lost |= set(item.lost)
    return replace(first, objects=tuple(objects.values()), lost=tuple(sorted(lost)))


def _content(thing: Object) -> tuple[Any, ...]:
    counts = thing.mask and thing.mask["counts"]
    return thing.label, thing.box, thing.score, thing.track, counts, thing.source


def find(
    journals: Sequence[journal.Journal],
    videos: Mapping[str, Path] | None = None,
    least: float = 0.0,
) -> list[Clip]:
    """The clips that the files speak of, in the order in which they first do.

    A clip is known by its fingerprint: two clips of one name are two, and get names of their own.

    Raises:
        ItemsError: a clip is not found, or is another than the one the items were made from.
    """
    told: dict[str, list[Told]] = {}
    for each in journals:
        for name, facts in each.header.videos.items():
            if not facts.get("fingerprint"):
                raise ItemsError(f"{each.path}: its header does not say which clip {name} is")
            told.setdefault(facts["fingerprint"], []).append(Told(each, name))
    if not told:
        raise ItemsError(f"{journals[0].path}: its header names no clip")
    stems = _unique({print_: Path(tells[0].clip).stem for print_, tells in told.items()})
    names = _unique({print_: tells[0].clip for print_, tells in told.items()})
    return [
        Clip(
            names[print_],
            stems[print_],
            _locate(tells[0], videos or {}),
            _facts(tells),
            (*tells,),
            least,
        )
        for print_, tells in told.items()
    ]


def _unique(names: Mapping[str, str]) -> dict[str, str]:
    """Names, by fingerprint; one that several clips have gets the beginning of the fingerprint."""
    often = Counter(name.casefold() for name in names.values())
    return {
        print_: name
        if often[name.casefold()] == 1
        else f"{Path(name).stem}-{print_[:8]}" + Path(name).suffix
        for print_, name in names.items()
    }


def _facts(tells: Sequence[Told]) -> dict[str, Any]:
    record = tells[0].journal.header.videos[tells[0].clip]
    return {fact: record.get(fact) for fact in _FACTS}


def _locate(told: Told, videos: Mapping[str, Path]) -> Path:
    source, record = told.journal.path, told.journal.header.videos[told.clip]
    near = source.parent
    tried = [
        videos.get(told.clip),
        record.get("path"),
        near / record.get("path", ""),
        near / told.clip,
    ]
    for path in (Path(place) for place in tried if place):
        if path.exists() and path != near:
            break
    else:
        raise ItemsError(
            f"{source}: its clip {told.clip} is not at {record.get('path')}; "
            f"say where it is: --video {told.clip}=PATH"
        )
    found = video.probe(path).fingerprint
    if found != record["fingerprint"]:
        raise ItemsError(
            f"{source}: made from another {told.clip} than {path} (fingerprint "
            f"{record['fingerprint'][:12]}, not {found[:12]}); say where it is: "
            f"--video {told.clip}=PATH, or make the items anew"
        )
    return path


def _check_masks(item: Item, where: str) -> None:
    for thing in item.objects:
        if thing.mask is not None:
            try:
                masks.check(thing.mask, (item.width, item.height))
            except ItemsError as error:
                raise ItemsError(f"{where}: {thing.label}: {error}") from None


def classes(journals: Sequence[journal.Journal], pinned: Sequence[str] | None) -> tuple[str, ...]:
    """The classes in the order of their ids: as pinned, or as the vocabularies have them.

    A file without a vocabulary adds its labels in alphabetical order.

    Raises:
        DatasetError: a label that neither `pinned` nor the file's own vocabulary has.
    """
    found = list(pinned or ())
    for each in journals:
        known = list(pinned or each.header.vocabulary.get("labels", ()))
        labels = dict.fromkeys(known) if known else _labels(each)
        found += [label for label in labels if label not in found]
        if known:
            _check_labels(each, known)
    return tuple(found)


def _labels(items: Iterable[Item]) -> list[str]:
    return sorted({thing.label for item in items for thing in item.objects})


def _check_labels(items: journal.Journal, known: Sequence[str]) -> None:
    for line, item in enumerate(items, start=2):
        for thing in item.objects:
            if thing.label not in known:
                raise DatasetError(
                    f"{items.path}:{line}: unknown class {thing.label!r}. There are: "
                    f"{', '.join(known)}; add it to the vocabulary or to the pinned classes"
                )


class Together(journal.Journal):
    """All that several files say of one clip, as if it were one file."""

    def __init__(self, clip: Clip) -> None:
        self.path, self._clip = clip.told[0].journal.path, clip
        files = [told.journal.header for told in clip.told]
        labels = dict.fromkeys(label for h in files for label in h.vocabulary.get("labels", ()))
        words = {"name": "", "sha256": "", "labels": list(labels)}
        self.header = Header("together", vocabulary=words, videos={clip.name: clip.facts})

    def __iter__(self) -> Iterator[Item]:
        return self._clip.items()


def one(
    journals: Sequence[journal.Journal],
    name: str | None,
    videos: Mapping[str, Path],
    least: float = 0.0,
) -> Clip:
    """The clip `name`, or the only one that the files speak of.

    Raises:
        UnknownName: the files do not speak of it.
        ItemsError: they speak of several, and none was named.
    """
    found = {clip.name: clip for clip in find(journals, videos, least)}
    if name is None and len(found) > 1:
        raise ItemsError(f"items of several clips: {', '.join(found)}; name one: --clip NAME")
    if name is not None and name not in found:
        raise UnknownName("clip", name, found)
    return next(iter(found.values())) if name is None else found[name]
