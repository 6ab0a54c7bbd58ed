"""Gather the frame embeddings of clips, and lay them out as a map."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.dataset import frame_sources
from annotate.dataset.frame_sources import DatasetFrameSource, FrameSource
from annotate.embeddings import ImageEmbedder, VectorCache, Vectors
from annotate.errors import BrokenVideo, ItemsError, VideoError
from annotate.files import atomic_file
from annotate.footage_map import projection
from annotate.footage_map.projection import PlanePoints
from annotate.items import journal
from annotate.items.records import Frame, record_to_json
from annotate.items.sequences import chunks, sum_or_none
from annotate.progress import ProgressBar, no_progress
from annotate.video.reader import FrameSelection

MAP_FILE = "map.json"
DEFAULT_RATE = 2.0  # frames a second: twelve hours are then 86,400 frames
_VECTOR_BATCH_SIZE = 1024
_FRAME_BATCH_SIZE = 16

FrameCallback = Callable[[Frame], object]


def open_sources(
    clips: Sequence[str | Path],
    *,
    every: int | None = None,
    rate: float | None = None,
    keyframes: bool = False,
) -> list[FrameSource]:
    """Open clips and datasets; by default, two frames a second are selected.

    Raises:
        VideoError: a clip cannot be read.
    """
    if rate is None and every is None and not keyframes:
        rate = DEFAULT_RATE
    selection = FrameSelection(every or 1, rate, keyframes)
    return frame_sources.open_sources([Path(clip) for clip in clips], selection)


def count_frames(sources: Sequence[FrameSource]) -> int | None:
    """Count the frames of all sources; None if that needs decoding."""
    return sum_or_none(source.count() for source in sources)


@dataclass
class FrameVectors:
    """Frames of several clips, clip by clip, and their embeddings, which stay on disk.

    `clips` is clip name -> header entry. `decode_errors` are the errors of damaged clips;
    their frames before the damage are used.
    """

    clips: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    clip_index: list[int] = field(default_factory=list)
    frame_index: list[int] = field(default_factory=list)
    frames_by_clip: dict[str, list[int]] = field(default_factory=dict)
    seconds: list[Fraction] = field(default_factory=list)
    decode_errors: list[str] = field(default_factory=list)
    vector_caches: list[VectorCache] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frame_index)

    def vector_batches(self) -> Iterator[Vectors]:
        """Yield all embeddings in order, in batches."""
        rows = range(len(self))
        for clip, clip_rows in itertools.groupby(rows, key=lambda row: self.clip_index[row]):
            for batch in chunks(clip_rows, _VECTOR_BATCH_SIZE):
                yield self.vector_caches[clip].for_indices([self.frame_index[row] for row in batch])

    def clip_vectors(self, name: str) -> Vectors:
        """Return the embeddings of one clip, in order of time."""
        number = list(self.clips).index(name)
        return self.vector_caches[number].for_indices(self.frames_by_clip.get(name, []))


def gather(
    sources: Sequence[FrameSource],
    embedder: ImageEmbedder,
    on_frame: FrameCallback = lambda _: None,
    progress: ProgressBar = no_progress,
) -> FrameVectors:
    """Embed every frame of the sources, in order; `on_frame` is called with each.

    A clip that is damaged is used up to the damage.

    Raises:
        VideoError: two clips have the same name, or no frame is selected.
    """
    gathered = FrameVectors()
    with progress("frames", count_frames(sources)) as advance:
        for source in sources:
            entries = clip_entries(source)
            if duplicates := [name for name in entries if name in gathered.clips]:
                raise VideoError(
                    f"two clips are called {duplicates[0]}: rename one, or make a map of each"
                )
            for name, entry in entries.items():
                gathered.clips[name] = entry
                count = int(entry["frame_count"])
                gathered.vector_caches.append(VectorCache(embedder, entry["fingerprint"], count))
            for frame in _add_frames(gathered, source):
                on_frame(frame)
                advance()
    if not len(gathered):
        raise VideoError("no frames to map: select more of them by `every` or `rate`")
    return gathered


def _add_frames(gathered: FrameVectors, source: FrameSource) -> Iterator[Frame]:
    numbers = {name: number for number, name in enumerate(gathered.clips)}
    try:
        for batch in _frame_batches(source.frames()):
            for name, clip_frames in itertools.groupby(batch, key=lambda frame: frame.video):
                frames = list(clip_frames)
                gathered.vector_caches[numbers[name]].for_frames(frames)
                for frame in frames:
                    gathered.clip_index.append(numbers[name])
                    gathered.frame_index.append(frame.index)
                    gathered.frames_by_clip.setdefault(name, []).append(frame.index)
                    gathered.seconds.append(frame.seconds)
                    yield frame
    except BrokenVideo as error:
        gathered.decode_errors.append(str(error))


def _frame_batches(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    """Yield frames in batches; the frames before an error come before it (`chunks` drops them)."""
    batch: list[Frame] = []
    try:
        for frame in frames:
            batch.append(frame)
            if len(batch) == _FRAME_BATCH_SIZE:
                yield batch
                batch = []
    except BrokenVideo:
        yield batch
        raise
    yield batch


def clip_entries(source: FrameSource) -> dict[str, dict[str, Any]]:
    """Return clip name -> header entry; `frame_count` is always in it."""
    if not isinstance(source, DatasetFrameSource):
        return source.videos()
    videos = source.videos()
    header_videos = journal.read(source.path / "items.jsonl").header.videos
    counts: dict[str, int] = {}
    for name, frame in source.image_keys().values():
        counts[name] = max(frame + 1, counts.get(name, 0))
    return {
        name: {**entry, **header_videos.get(name, {}), "frame_count": counts[name]}
        for name, entry in videos.items()
        if name in counts
    }


@dataclass(frozen=True)
class Atlas:
    """The position of each frame on the unit square, x to the right, y down.

    `sources` are the paths of the clips and datasets; `clips` is clip name -> header entry. The
    rows of `clip_index` (into `clips`), `frame_index`, `seconds` and `xy`, (n, 2), are frames.
    """

    sources: tuple[str, ...]
    clips: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    clip_index: npt.NDArray[np.int64]
    frame_index: npt.NDArray[np.int64]
    seconds: tuple[Fraction, ...]
    xy: PlanePoints

    @property
    def clip_names(self) -> list[str]:
        """The names of the clips, which `clip_index` counts."""
        return list(self.clips)

    def clip_rows(self, name: str) -> npt.NDArray[np.int64]:
        """Return the rows of a clip, in order of time."""
        rows = np.flatnonzero(self.clip_index == self.clip_names.index(name))
        return rows[np.argsort(self.frame_index[rows], kind="stable")]

    def save(self, folder: Path) -> None:
        """Write the map as `map.json`: columns with a value for each frame.

        Raises:
            OutputError: nothing can be written there.
        """
        record = {"sources": self.sources, "settings": self.settings, "clips": self.clips}
        record["frames"] = {
            "clip": self.clip_index.tolist(),
            "frame": self.frame_index.tolist(),
            "seconds": [str(each) for each in self.seconds],
            "x": self.xy[:, 0].round(6).tolist(),
            "y": self.xy[:, 1].round(6).tolist(),
        }
        with atomic_file(folder / MAP_FILE) as draft:
            draft.write_text(record_to_json(record) + "\n", encoding="utf-8")


def lay_out(
    gathered: FrameVectors,
    sources: Sequence[FrameSource],
    method: str,
    settings: Mapping[str, Any],
    seed: int,
) -> Atlas:
    """Project the embeddings to a plane, and spread them over the unit square."""
    clip_index = np.array(gathered.clip_index, np.int64)
    frame_index = np.array(gathered.frame_index, np.int64)
    seconds = np.array([float(each) for each in gathered.seconds])
    vectors = projection.principal_components(gathered.vector_batches)
    xy = projection.spread_points(projection.project(vectors, method, clip_index, seconds, seed))
    paths = tuple(str(each.path.resolve()) for each in sources)
    settings = {**settings, "method": method, "seed": seed}
    return Atlas(
        paths, gathered.clips, settings, clip_index, frame_index, tuple(gathered.seconds), xy
    )


def read(folder: Path) -> Atlas:
    """Read the map in a folder.

    Raises:
        ItemsError: no map is there, or a damaged one.
    """
    try:
        record = json.loads((folder / MAP_FILE).read_text(encoding="utf-8"))
        columns = record["frames"]
        return Atlas(
            tuple(record["sources"]),
            record["clips"],
            record["settings"],
            np.array(columns["clip"], np.int64),
            np.array(columns["frame"], np.int64),
            tuple(Fraction(each) for each in columns["seconds"]),
            np.column_stack([columns["x"], columns["y"]]).astype(float),
        )
    except FileNotFoundError:
        raise ItemsError(f"{folder}: no map in it; make one with `annotate map`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ItemsError(f"{folder / MAP_FILE}: damaged ({error}); make it again") from None


def to_ticks(seconds: Sequence[Fraction]) -> tuple[list[int], int]:
    """Return times as whole numbers of ticks, and the ticks per second."""
    denominator = math.lcm(*(each.denominator for each in seconds)) if seconds else 1
    return [int(each * denominator) for each in seconds], denominator
