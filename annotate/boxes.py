"""A detector's boxes of a clip, read from a file of items; and how far boxes overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from annotate import journal
from annotate.errors import ItemsError, PromptError, UnknownName
from annotate.records import Box, Item
from annotate.video import Video

LEAST = 0.25  # score below which a box is ignored


@dataclass(frozen=True)
class Boxes:
    """The boxes of a clip in a file of items; those with a score below `least` are ignored.

    `digest` stands for the file, `labels` are its classes, `tracks` those that it names: such a box
    is of that object, whatever else it looks like. `video` is the clip's name there.
    """

    path: Path
    least: float
    digest: str
    labels: tuple[str, ...]
    tracks: frozenset[int]
    video: str

    def told(self) -> dict[str, Any]:
        """What the header of a file of items says of them."""
        return {"boxes": self.digest, "least": self.least}

    def items(self) -> Iterator[Item]:
        """The frames that were looked at, in order, each with the boxes that count."""
        last = -1
        for item in journal.read(self.path):
            if self.video and item.video != self.video:
                continue
            if item.frame <= last:
                raise ItemsError(
                    f"{self.path}: frame {item.frame} stands behind frame {last}: boxes must be "
                    "in the order of the clip, one item a frame"
                )
            last = item.frame
            strong = (o for o in item.objects if o.score is None or o.score >= self.least)
            yield replace(item, objects=tuple(strong))

    def first(self, start: int, stop: int | None) -> int | None:
        """The first frame from `start` on, and before `stop`, with a box that counts."""
        for item in self.items():
            if stop is not None and item.frame >= stop:
                return None
            if item.objects and item.frame >= start:
                return item.frame
        return None


def read(
    path: Path, clip: Video, least: float = LEAST, classes: tuple[str, ...] | None = None
) -> Boxes:
    """The boxes in a file of items, checked to be of `clip`, and of `classes` if there are any.

    Raises:
        ItemsError: no file of items, one of another clip, or of pictures of another size.
        PromptError: a box of another class.
    """
    book = journal.read(path)
    known = book.header.videos
    same = [name for name, told in known.items() if told.get("fingerprint") == clip.fingerprint]
    if known and not same:
        there = ", ".join(known)
        raise ItemsError(f"{path}: boxes of {there}, not of {clip.path}: give the clip's own boxes")
    tracks, labels = set[int](), set[str]()
    for item in book:
        if same and item.video != same[0]:
            continue
        if (item.width, item.height) != (clip.width, clip.height):
            got, want = f"{item.width}x{item.height}", f"{clip.width}x{clip.height}"
            raise ItemsError(f"{path}: boxes on pictures of {got}, but the clip is {want}")
        tracks |= {thing.track for thing in item.objects if thing.track is not None}
        labels |= {thing.label for thing in item.objects}
    for label in sorted(labels - set(classes or labels)):
        raise PromptError(f"{path}: {UnknownName('class', label, classes or ())}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    name = same[0] if same else ""
    return Boxes(path, least, digest, tuple(sorted(labels)), frozenset(tracks), name)


def iou(one: Box, other: Box) -> float:
    """Intersection over union, 0..1."""
    both = shared(one, other)
    return both and both / (area(one) + area(other) - both)


def shared(one: Box, other: Box) -> float:
    """Pixels that both have."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def area(box: Box) -> float:
    """Pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])
