"""The map of some footage: its frames, gathered as vectors, and where on a plane each lies."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate import journal, plane
from annotate.drafts import new_file
from annotate.embed import Embedder, Shelf, Vectors
from annotate.errors import BrokenVideo, ItemsError, VideoError
from annotate.footage import DatasetFootage, Footage
from annotate.lines import dumps
from annotate.plane import Plane
from annotate.records import Frame

NAME = "map.json"
_TOGETHER = 1024  # vectors read at a time
_FRAMES = 16  # held at a time
Look = Callable[[Frame], object]


@dataclass
class Gathered:
    """Frames that were looked at, clip by clip, and their vectors, which stay on the disk.

    `clips` are name -> what a header says of it. `broken` are what clips said that broke off.
    """

    clips: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    clip: list[int] = field(default_factory=list)
    frame: list[int] = field(default_factory=list)
    frames_of: dict[str, list[int]] = field(default_factory=dict)
    seconds: list[Fraction] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    shelves: list[Shelf] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frame)

    def chunks(self) -> Iterator[Vectors]:
        """All vectors in order, some at a time."""
        rows = range(len(self))
        for clip, same in itertools.groupby(rows, key=lambda row: self.clip[row]):
            for some in _batched(same):
                yield self.shelves[clip].rows([self.frame[row] for row in some])

    def of_clip(self, name: str) -> Vectors:
        """The vectors of one clip, in order of time."""
        number = list(self.clips).index(name)
        return self.shelves[number].rows(self.frames_of.get(name, []))


def _batched(rows: Iterable[int]) -> Iterator[list[int]]:
    waiting = iter(rows)
    while some := list(itertools.islice(waiting, _TOGETHER)):
        yield some


def gather(sources: Sequence[Footage], embedder: Embedder, look: Look = lambda _: None) -> Gathered:
    """Look at every frame of the sources, in order; `look` is shown each.

    A clip that breaks off is used up to there.

    Raises:
        VideoError: two clips have one name; there are no frames.
    """
    found = Gathered()
    for footage in sources:
        about = facts(footage)
        if twice := [name for name in about if name in found.clips]:
            raise VideoError(f"two clips are called {twice[0]}: rename one, or map them apart")
        for name, fact in about.items():
            found.clips[name] = fact
            found.shelves.append(Shelf(embedder, fact["fingerprint"], int(fact["frame_count"])))
        _add(found, footage, look)
    if not len(found):
        raise VideoError("no frames to map; choose more of them: --every, --rate")
    return found


def _add(found: Gathered, footage: Footage, look: Look) -> None:
    numbers = {name: number for number, name in enumerate(found.clips)}
    frames = footage.frames()
    try:
        for some in _batched_frames(frames):
            for name, same in itertools.groupby(some, key=lambda frame: frame.video):
                held = list(same)
                found.shelves[numbers[name]].of(held)
                for frame in held:
                    found.clip.append(numbers[name])
                    found.frame.append(frame.index)
                    found.frames_of.setdefault(name, []).append(frame.index)
                    found.seconds.append(frame.seconds)
                    look(frame)
    except BrokenVideo as error:
        found.broken.append(str(error))


def _batched_frames(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    """A few frames at a time, and those before a break."""
    held: list[Frame] = []
    try:
        for frame in frames:
            held.append(frame)
            if len(held) == _FRAMES:
                yield held
                held = []
    except BrokenVideo:
        yield held
        raise
    yield held


def facts(footage: Footage) -> dict[str, dict[str, Any]]:
    """Clip name -> what a header says of it; `frame_count` is always there."""
    if not isinstance(footage, DatasetFootage):
        return footage.videos()
    told = footage.videos()
    known = journal.read(footage.path / "items.jsonl").header.videos
    last: dict[str, int] = {}
    for name, frame in footage.pictures().values():
        last[name] = max(frame + 1, last.get(name, 0))
    counts = {name: {"frame_count": last[name]} for name in told if name in last}
    return {name: {**told[name], **known.get(name, {}), **counts[name]} for name in counts}


@dataclass(frozen=True)
class Atlas:
    """Where each frame lies on the unit square; x to the right, y down.

    `sources` are the clips and datasets; `clips` name -> what a header says of it.
    """

    sources: tuple[str, ...]
    clips: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    clip: npt.NDArray[np.int64]
    frame: npt.NDArray[np.int64]
    seconds: tuple[Fraction, ...]
    xy: Plane

    @property
    def names(self) -> list[str]:
        """The clips' names; a row's `clip` is a place among them."""
        return list(self.clips)

    def of_clip(self, name: str) -> npt.NDArray[np.int64]:
        """The rows of a clip, in order of time."""
        rows = np.flatnonzero(self.clip == self.names.index(name))
        return rows[np.argsort(self.frame[rows], kind="stable")]

    def save(self, folder: Path) -> None:
        """Write it as `map.json`: one entry a frame, readable by anything."""
        told = {"sources": self.sources, "settings": self.settings, "clips": self.clips}
        told["frames"] = {
            "clip": self.clip.tolist(),
            "frame": self.frame.tolist(),
            "seconds": [str(each) for each in self.seconds],
            "x": self.xy[:, 0].round(6).tolist(),
            "y": self.xy[:, 1].round(6).tolist(),
        }
        with new_file(folder / NAME) as draft:
            draft.write_text(dumps(told) + "\n", encoding="utf-8")


def lay_out(
    found: Gathered, sources: Sequence[Footage], method: str, settings: Mapping[str, Any], seed: int
) -> Atlas:
    """Give every frame its place."""
    clip, frame = np.array(found.clip, np.int64), np.array(found.frame, np.int64)
    seconds = np.array([float(each) for each in found.seconds])
    vectors = plane.components(found.chunks)
    places = plane.stretched(plane.flat(vectors, method, clip, seconds, seed))
    paths = tuple(str(each.path.resolve()) for each in sources)
    told = {**settings, "method": method, "seed": seed}
    return Atlas(paths, found.clips, told, clip, frame, tuple(found.seconds), places)


def read(folder: Path) -> Atlas:
    """The map in a folder.

    Raises:
        ItemsError: there is none, or it is damaged.
    """
    try:
        told = json.loads((folder / NAME).read_text(encoding="utf-8"))
        rows = told["frames"]
        return Atlas(
            tuple(told["sources"]),
            told["clips"],
            told["settings"],
            np.array(rows["clip"], np.int64),
            np.array(rows["frame"], np.int64),
            tuple(Fraction(each) for each in rows["seconds"]),
            np.column_stack([rows["x"], rows["y"]]).astype(float),
        )
    except FileNotFoundError:
        raise ItemsError(f"{folder}: no map: make one with `annotate map`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ItemsError(f"{folder / NAME}: damaged ({error}); make it anew") from None


def ticks(seconds: Sequence[Fraction]) -> tuple[list[int], int]:
    """Times as whole numbers of ticks, and how many ticks a second has."""
    bottom = math.lcm(*(each.denominator for each in seconds)) if seconds else 1
    return [int(each * bottom) for each in seconds], bottom
