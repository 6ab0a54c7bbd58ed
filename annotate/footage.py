"""What detectors are compared on: the frames of a clip, or the pictures of a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from annotate import folder, journal, video
from annotate.records import Frame, Item
from annotate.sample import Choice

Key = tuple[str, int]  # a frame: its video's name and its index there


class Footage(Protocol):
    """Frames that can be had as often as they are asked for."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def choice(self) -> Choice:
        """Which of its frames are meant."""

    def frames(self, done: int = 0) -> Iterator[Frame]:
        """The frames in order, but for the first `done`."""

    def at(self, keys: Collection[Key]) -> Iterator[Frame]:
        """These frames, in order."""

    def count(self) -> int | None:
        """How many frames there are, where it can be told without decoding."""

    def videos(self) -> dict[str, dict[str, Any]]:
        """Clip name -> what a header says of it."""

    def known(self) -> tuple[tuple[str, ...], Iterator[Item]] | None:
        """The classes and items that it brings itself; None where it is bare."""

    def pictures(self) -> Mapping[str, Key]:
        """The names of its pictures, where they have any, and the frames that they are."""


def of(path: Path, choice: Choice) -> Footage:
    """The frames of `choice` of a clip or dataset; a dataset has no rate and no keyframes."""
    if (path / folder.MARK).is_file():
        return DatasetFootage(path, choice)
    return ClipFootage(path, choice)


@dataclass(frozen=True)
class ClipFootage:
    """Frames of a clip."""

    path: Path
    choice: Choice = field(default_factory=Choice)

    def frames(self, done: int = 0) -> Iterator[Frame]:
        """The frames in order, but for the first `done`."""
        return islice(self.choice.frames(self.path), done, None)

    def at(self, keys: Collection[Key]) -> Iterator[Frame]:
        """These frames, in order."""
        return video.frames_at(self.path, sorted(frame for _, frame in keys))

    def count(self) -> int | None:
        """How many frames there are."""
        return self.choice.count(video.probe(self.path))

    def videos(self) -> dict[str, dict[str, Any]]:
        """Its own name -> what a header says of it."""
        return journal.about(video.probe(self.path))

    def known(self) -> None:
        """A clip brings nothing."""
        return None

    def pictures(self) -> Mapping[str, Key]:
        """None has a name."""
        return {}


@dataclass(frozen=True)
class DatasetFootage:
    """Pictures of a dataset."""

    path: Path
    choice: Choice = field(default_factory=Choice)

    def _samples(self) -> list[folder.Sample]:
        chosen = slice(self.choice.start, self.choice.stop, self.choice.every)
        every = list(folder.load(self.path))[chosen]
        if self.choice.maximum is None:
            return every
        places = np.linspace(0, len(every) - 1, min(self.choice.maximum, len(every)))
        return [every[place] for place in places.round().astype(int)]

    def frames(self, done: int = 0) -> Iterator[Frame]:
        """The frames in order, but for the first `done`."""
        return (self._frame(sample) for sample in self._samples()[done:])

    def at(self, keys: Collection[Key]) -> Iterator[Frame]:
        """These frames, in order."""
        chosen = (s for s in self._samples() if (s.item.video, s.item.frame) in keys)
        return (self._frame(sample) for sample in chosen)

    def _frame(self, sample: folder.Sample) -> Frame:
        from PIL import Image

        with Image.open(self.path / "images" / sample.image) as image:
            pixels = np.array(image.convert("RGB"), np.uint8)
        return Frame(sample.item.video, sample.item.frame, sample.item.seconds, pixels)

    def count(self) -> int:
        """How many pictures there are."""
        return len(self._samples())

    def videos(self) -> dict[str, dict[str, Any]]:
        """Clip name -> what a header says of it."""
        clips = folder.load(self.path).clips
        return {name: {"fingerprint": "", **facts} for name, facts in clips.items()}

    def known(self) -> tuple[tuple[str, ...], Iterator[Item]]:
        """The dataset's classes and its items."""
        dataset = folder.load(self.path)
        return dataset.classes, (sample.item for sample in dataset)

    def pictures(self) -> Mapping[str, Key]:
        """The names of its pictures, and the frames that they are."""
        return {s.image: (s.item.video, s.item.frame) for s in self._samples()}


def to_record(footage: Footage) -> dict[str, Any]:
    """Footage as JSON can carry it to another process."""
    return {
        "path": str(footage.path.resolve()),
        "choice": dataclasses.asdict(footage.choice),
        "clips": {name: facts["fingerprint"] for name, facts in footage.videos().items()},
    }


def from_record(record: Mapping[str, Any]) -> Footage:
    """The footage of `to_record`."""
    return of(Path(record["path"]), Choice(**record["choice"]))
