"""Gather the frame embeddings of clips, lay them out as a map, and compare clips."""

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

from annotate.dataset.frame_sources import DatasetFrameSource, FrameSource
from annotate.embeddings import ImageEmbedder, VectorCache, Vectors, normalize_rows
from annotate.errors import BrokenVideo, ItemsError, UnknownName, VideoError
from annotate.files import atomic_file
from annotate.footage_map import projection
from annotate.footage_map.projection import PlanePoints
from annotate.items import journal
from annotate.items.records import Frame, record_to_json
from annotate.sampling.duplicates import farthest_points

MAP_FILE = "map.json"
_VECTOR_BATCH_SIZE = 1024  # vectors read at a time
_FRAME_BATCH_SIZE = 16  # held at a time
FrameCallback = Callable[[Frame], object]


@dataclass
class FrameVectors:
    """Frames that were looked at, clip by clip, and their vectors, which stay on the disk.

    `clips` are name -> what a header says of it. `broken` are what clips said that broke off.
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
        """All vectors in order, some at a time."""
        rows = range(len(self))
        for clip, same in itertools.groupby(rows, key=lambda row: self.clip_index[row]):
            for some in _row_batches(same):
                yield self.vector_caches[clip].for_indices([self.frame_index[row] for row in some])

    def clip_vectors(self, name: str) -> Vectors:
        """The vectors of one clip, in order of time."""
        number = list(self.clips).index(name)
        return self.vector_caches[number].for_indices(self.frames_by_clip.get(name, []))


def _row_batches(rows: Iterable[int]) -> Iterator[list[int]]:
    waiting = iter(rows)
    while some := list(itertools.islice(waiting, _VECTOR_BATCH_SIZE)):
        yield some


def gather(
    sources: Sequence[FrameSource],
    embedder: ImageEmbedder,
    on_frame: FrameCallback = lambda _: None,
) -> FrameVectors:
    """Look at every frame of the sources, in order; `look` is shown each.

    A clip that breaks off is used up to there.

    Raises:
        VideoError: two clips have one name; there are no frames.
    """
    found = FrameVectors()
    for footage in sources:
        about = clip_entries(footage)
        if twice := [name for name in about if name in found.clips]:
            raise VideoError(f"two clips are called {twice[0]}: rename one, or map them apart")
        for name, fact in about.items():
            found.clips[name] = fact
            found.vector_caches.append(
                VectorCache(embedder, fact["fingerprint"], int(fact["frame_count"]))
            )
        _add_frames(found, footage, on_frame)
    if not len(found):
        raise VideoError("no frames to map; choose more of them: --every, --rate")
    return found


def _add_frames(gathered: FrameVectors, source: FrameSource, on_frame: FrameCallback) -> None:
    numbers = {name: number for number, name in enumerate(gathered.clips)}
    frames = source.frames()
    try:
        for some in _frame_batches(frames):
            for name, same in itertools.groupby(some, key=lambda frame: frame.video):
                held = list(same)
                gathered.vector_caches[numbers[name]].for_frames(held)
                for frame in held:
                    gathered.clip_index.append(numbers[name])
                    gathered.frame_index.append(frame.index)
                    gathered.frames_by_clip.setdefault(name, []).append(frame.index)
                    gathered.seconds.append(frame.seconds)
                    on_frame(frame)
    except BrokenVideo as error:
        gathered.decode_errors.append(str(error))


def _frame_batches(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    """A few frames at a time, and those before a break."""
    held: list[Frame] = []
    try:
        for frame in frames:
            held.append(frame)
            if len(held) == _FRAME_BATCH_SIZE:
                yield held
                held = []
    except BrokenVideo:
        yield held
        raise
    yield held


def clip_entries(source: FrameSource) -> dict[str, dict[str, Any]]:
    """Clip name -> what a header says of it; `frame_count` is always there."""
    if not isinstance(source, DatasetFrameSource):
        return source.videos()
    told = source.videos()
    known = journal.read(source.path / "items.jsonl").header.videos
    last: dict[str, int] = {}
    for name, frame in source.image_keys().values():
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
    clip_index: npt.NDArray[np.int64]
    frame_index: npt.NDArray[np.int64]
    seconds: tuple[Fraction, ...]
    xy: PlanePoints

    @property
    def clip_names(self) -> list[str]:
        """The clips' names; a row's `clip` is a place among them."""
        return list(self.clips)

    def clip_rows(self, name: str) -> npt.NDArray[np.int64]:
        """The rows of a clip, in order of time."""
        rows = np.flatnonzero(self.clip_index == self.clip_names.index(name))
        return rows[np.argsort(self.frame_index[rows], kind="stable")]

    def save(self, folder: Path) -> None:
        """Write it as `map.json`: one entry a frame, readable by anything."""
        told = {"sources": self.sources, "settings": self.settings, "clips": self.clips}
        told["frames"] = {
            "clip": self.clip_index.tolist(),
            "frame": self.frame_index.tolist(),
            "seconds": [str(each) for each in self.seconds],
            "x": self.xy[:, 0].round(6).tolist(),
            "y": self.xy[:, 1].round(6).tolist(),
        }
        with atomic_file(folder / MAP_FILE) as draft:
            draft.write_text(record_to_json(told) + "\n", encoding="utf-8")


def lay_out(
    gathered: FrameVectors,
    sources: Sequence[FrameSource],
    method: str,
    settings: Mapping[str, Any],
    seed: int,
) -> Atlas:
    """Give every frame its place."""
    clip, frame = np.array(gathered.clip_index, np.int64), np.array(gathered.frame_index, np.int64)
    seconds = np.array([float(each) for each in gathered.seconds])
    vectors = projection.principal_components(gathered.vector_batches)
    places = projection.spread_points(projection.project(vectors, method, clip, seconds, seed))
    paths = tuple(str(each.path.resolve()) for each in sources)
    told = {**settings, "method": method, "seed": seed}
    return Atlas(paths, gathered.clips, told, clip, frame, tuple(gathered.seconds), places)


def read(folder: Path) -> Atlas:
    """The map in a folder.

    Raises:
        ItemsError: there is none, or it is damaged.
    """
    try:
        told = json.loads((folder / MAP_FILE).read_text(encoding="utf-8"))
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
        raise ItemsError(f"{folder / MAP_FILE}: damaged ({error}); make it anew") from None


def to_ticks(seconds: Sequence[Fraction]) -> tuple[list[int], int]:
    """Times as whole numbers of ticks, and how many ticks a second has."""
    bottom = math.lcm(*(each.denominator for each in seconds)) if seconds else 1
    return [int(each * bottom) for each in seconds], bottom


SIMILARITY_METHODS = ("dtw", "mean")
_MAX_WARPED_CLIPS = 50  # clips, the likest by windows, that are warped onto the query
_WINDOW_FRAMES = 8  # frames


@dataclass(frozen=True)
class ClipSimilarity:
    """A clip, how like the query it is (1: the same), and from where to where, in seconds."""

    clip: str
    similarity: float
    start_seconds: float
    stop_seconds: float


def similar_clips(
    gathered: FrameVectors, query_name: str, max_clips: int = 10, method: str = "dtw"
) -> list[ClipSimilarity]:
    """The clips most like the clip `query`, the likest first.

    `mean` compares means of eight frames: each of the query's windows with the likest of the other
    clip. `dtw` warps the query onto the best stretch of each of the fifty likest by that.

    Raises:
        UnknownName: no such way, or no such clip.
    """
    if method not in SIMILARITY_METHODS:
        raise UnknownName("way", method, SIMILARITY_METHODS)
    if query_name not in gathered.clips:
        raise UnknownName("clip", query_name, gathered.clips)
    clips = _centred_vectors(gathered)
    asked = _window_means(clips[query_name])
    ranked = []
    for name, vectors in clips.items():
        if name != query_name:
            alike = asked @ _window_means(vectors).T
            best = alike.argmax(1)
            stretch = (int(best.min()), min(int(best.max()) + _WINDOW_FRAMES, len(vectors)))
            ranked.append((float(alike.max(1).mean()), name, stretch))
    ranked.sort(key=lambda each: (-each[0], each[1]))
    if method == "dtw":
        warped = [
            (*dtw_alignment(clips[query_name], clips[name]), name)
            for _, name, _ in ranked[:_MAX_WARPED_CLIPS]
        ]
        ranked = sorted(
            ((likeness, name, (start, stop)) for likeness, start, stop, name in warped),
            key=lambda each: (-each[0], each[1]),
        )
    return [_clip_similarity(gathered, *each) for each in ranked[:max_clips]]


def _clip_similarity(
    gathered: FrameVectors, similarity: float, name: str, frame_range: tuple[int, int]
) -> ClipSimilarity:
    number = list(gathered.clips).index(name)
    times = [
        s for s, clip in zip(gathered.seconds, gathered.clip_index, strict=True) if clip == number
    ]
    return ClipSimilarity(
        name, similarity, float(times[frame_range[0]]), float(times[frame_range[1] - 1])
    )


def _centred_vectors(gathered: FrameVectors) -> dict[str, Vectors]:
    """The vectors of each clip that has frames, from the middle of all, unit rows."""
    clips = {name: gathered.clip_vectors(name) for name in gathered.clips}
    clips = {name: vectors for name, vectors in clips.items() if len(vectors)}
    middle = np.concatenate([vectors.mean(0)[None] for vectors in clips.values()]).mean(0)
    return {name: normalize_rows(vectors - middle) for name, vectors in clips.items()}


def _window_means(vectors: Vectors) -> Vectors:
    """Unit means of eight frames, one beginning at each frame that has them."""
    length = min(_WINDOW_FRAMES, len(vectors))
    sums = np.cumsum(np.vstack([np.zeros_like(vectors[:1]), vectors]), axis=0, dtype=np.float64)
    return normalize_rows(sums[length:] - sums[:-length])


def dtw_alignment(query: Vectors, clip: Vectors) -> tuple[float, int, int]:
    """How well the query fits the best stretch of a clip, and the stretch, by dynamic time warping.

    The stretch may begin and end anywhere. The likeness is 1 less the mean cosine distance along
    the way.
    """
    cost = 1 - query @ clip.T
    row: npt.NDArray[np.float64] = cost[0].astype(np.float64)
    begun: npt.NDArray[np.int64] = np.arange(len(clip), dtype=np.int64)
    for costs in cost[1:].astype(np.float64):
        row, begun = _next_dtw_row(row, begun, costs)
    stop = int(row.argmin())
    start = int(begun[stop])
    return float(1 - row[stop] / max(len(query), stop - start + 1)), start, stop + 1


def _next_dtw_row(
    row: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], costs: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """One frame of the query later: the cheapest way to each frame of the clip, and its beginning.

    A way comes from the frame itself or the one before it, then may run on along the clip; the
    latter is a running minimum, once what running on costs is taken off.
    """
    before = np.concatenate([[np.inf], row[:-1]])
    stepped = before < row
    entered = np.where(stepped, before, row)
    began = np.where(stepped, np.concatenate([[0], starts[:-1]]), starts)
    passed = np.concatenate([[0.0], np.cumsum(costs)[:-1]])
    least = np.minimum.accumulate(entered - passed)
    fresh = np.concatenate([[True], (entered - passed)[1:] < least[:-1]])
    origin = np.maximum.accumulate(np.where(fresh, np.arange(len(row)), 0))
    return least + np.cumsum(costs), began[origin]


def diverse_clips(gathered: FrameVectors, max_clips: int) -> list[tuple[str, float]]:
    """Clips, each as unlike those before it as can be, and how unlike the nearest of them it is.

    A clip is its frames' mean; unlikeness is 1 less the cosine. The first is the most like all, and
    has none to be unlike.
    """
    clips = {
        name: gathered.clip_vectors(name)
        for name in gathered.clips
        if len(gathered.clip_vectors(name))
    }
    means = normalize_rows(np.stack([vectors.mean(0) for vectors in clips.values()]))
    names, told = list(clips), []
    chosen: list[int] = []
    for place in farthest_points(means, max_clips):
        nearest = 1 - max((means[chosen] @ means[place]).tolist(), default=float("nan"))
        told.append((names[place], nearest))
        chosen.append(place)
    return told
