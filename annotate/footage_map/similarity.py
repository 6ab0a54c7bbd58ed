"""Rank clips by similarity to a clip, and choose clips that differ most from each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annotate import embeddings
from annotate.embeddings import Vectors, normalize_rows
from annotate.errors import UnknownName, VideoError
from annotate.footage_map.atlas import (
    FrameVectors,
    clip_entries,
    gather,
    open_sources,
)
from annotate.progress import ProgressBar, no_progress
from annotate.sampling.duplicates import farthest_points

SIMILARITY_METHODS = ("dtw", "mean")
_MAX_WARPED_CLIPS = 50  # the most similar clips by windows, which are compared by DTW
_WINDOW_FRAMES = 8  # length of a window


@dataclass(frozen=True)
class ClipSimilarity:
    """A clip, its similarity to the query (1: equal), and the range that is similar."""

    clip: str
    similarity: float
    start_seconds: float
    stop_seconds: float


def find_similar(
    query: str | Path,
    clips: Sequence[str | Path],
    *,
    every: int | None = None,
    rate: float | None = None,
    keyframes: bool = False,
    model: str = embeddings.DEFAULT_EMBEDDER,
    device: str | None = None,
    max_clips: int = 10,
    method: str = "dtw",
    progress: ProgressBar = no_progress,
) -> list[ClipSimilarity]:
    """Find the clips most similar to the clip `query`, the most similar first.

    The query and the clips may be datasets; the query is one clip.
    By default two frames a second are embedded. `method`: see `similar_clips`.

    Raises:
        UnknownName: no such method, or no such model.
        VideoError: a clip cannot be read, or two clips have the same name.
    """
    if method not in SIMILARITY_METHODS:
        raise UnknownName("method", method, SIMILARITY_METHODS)
    others = [clip for clip in clips if Path(clip).resolve() != Path(query).resolve()]
    sources = open_sources([query, *others], every=every, rate=rate, keyframes=keyframes)
    gathered = gather(sources, embeddings.load(model, device), progress=progress)
    names = [*clip_entries(sources[0])]
    if len(names) != 1:
        raise VideoError(
            f"{query}: a dataset of {len(names)} clips ({', '.join(names[:5])}); give one clip"
        )
    return similar_clips(gathered, names[0], max_clips, method)


def find_diverse(
    clips: Sequence[str | Path],
    *,
    every: int | None = None,
    rate: float | None = None,
    keyframes: bool = False,
    model: str = embeddings.DEFAULT_EMBEDDER,
    device: str | None = None,
    max_clips: int = 10,
    progress: ProgressBar = no_progress,
) -> list[tuple[str, float]]:
    """Find the clips that differ most from each other: (clip, distance), see `diverse_clips`.

    Raises:
        UnknownName, VideoError: as `find_similar`.
    """
    sources = open_sources(clips, every=every, rate=rate, keyframes=keyframes)
    gathered = gather(sources, embeddings.load(model, device), progress=progress)
    return diverse_clips(gathered, max_clips)


def similar_clips(
    gathered: FrameVectors, query_name: str, max_clips: int = 10, method: str = "dtw"
) -> list[ClipSimilarity]:
    """Return the clips most similar to the clip `query_name`, the most similar first.

    `mean` compares means of eight frames: each window of the query with the most similar window of
    the other clip. `dtw` then warps the query onto the best range of each of the fifty most similar
    clips.

    Raises:
        UnknownName: no such method, or no such clip.
    """
    if method not in SIMILARITY_METHODS:
        raise UnknownName("method", method, SIMILARITY_METHODS)
    if query_name not in gathered.clips:
        raise UnknownName("clip", query_name, gathered.clips)
    clips = _centred_vectors(_vectors_by_clip(gathered))
    query_means = _window_means(clips[query_name])
    ranked = []
    for name, vectors in clips.items():
        if name != query_name:
            similarity = query_means @ _window_means(vectors).T
            best = similarity.argmax(1)
            frames = (int(best.min()), min(int(best.max()) + _WINDOW_FRAMES, len(vectors)))
            ranked.append((float(similarity.max(1).mean()), name, frames))
    ranked.sort(key=lambda each: (-each[0], each[1]))
    if method == "dtw":
        warped = [
            (*dtw_alignment(clips[query_name], clips[name]), name)
            for _, name, _ in ranked[:_MAX_WARPED_CLIPS]
        ]
        ranked = sorted(
            ((similarity, name, (start, stop)) for similarity, start, stop, name in warped),
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


def _vectors_by_clip(gathered: FrameVectors) -> dict[str, Vectors]:
    """Read the embeddings of each clip that has frames."""
    clips = {name: gathered.clip_vectors(name) for name in gathered.clips}
    return {name: vectors for name, vectors in clips.items() if len(vectors)}


def _centred_vectors(clips: Mapping[str, Vectors]) -> dict[str, Vectors]:
    """Subtract the mean of all clips from the embeddings, and normalize the rows."""
    mean = np.concatenate([vectors.mean(0)[None] for vectors in clips.values()]).mean(0)
    return {name: normalize_rows(vectors - mean) for name, vectors in clips.items()}


def _window_means(vectors: Vectors) -> Vectors:
    """Return the means of each eight frames in a row, as unit rows."""
    length = min(_WINDOW_FRAMES, len(vectors))
    sums = np.cumsum(np.vstack([np.zeros_like(vectors[:1]), vectors]), axis=0, dtype=np.float64)
    return normalize_rows(sums[length:] - sums[:-length])


def dtw_alignment(query: Vectors, clip: Vectors) -> tuple[float, int, int]:
    """Align the query with the best range of a clip by dynamic time warping.

    Returns (similarity, start, stop) in rows of `clip`; the range may begin and end anywhere. The
    similarity is 1 less the mean cosine distance along the path.
    """
    cost = 1 - query @ clip.T
    row: npt.NDArray[np.float64] = cost[0].astype(np.float64)
    starts: npt.NDArray[np.int64] = np.arange(len(clip), dtype=np.int64)
    for costs in cost[1:].astype(np.float64):
        row, starts = _next_dtw_row(row, starts, costs)
    stop = int(row.argmin())
    start = int(starts[stop])
    return float(1 - row[stop] / max(len(query), stop - start + 1)), start, stop + 1


def _next_dtw_row(
    row: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], costs: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Compute the next row of the DTW matrix: the cost of the best path to each frame of the clip.

    `starts` are the frames of the clip where the paths begin. A path comes from the same frame of
    the clip or the one before it, and may then go on along the clip. Going on is a running minimum,
    after the cumulative cost of going on is subtracted.
    """
    previous = np.concatenate([[np.inf], row[:-1]])
    diagonal = previous < row
    entry_cost = np.where(diagonal, previous, row)
    entry_start = np.where(diagonal, np.concatenate([[0], starts[:-1]]), starts)
    cumulative = np.concatenate([[0.0], np.cumsum(costs)[:-1]])
    minimum = np.minimum.accumulate(entry_cost - cumulative)
    is_entry = np.concatenate([[True], (entry_cost - cumulative)[1:] < minimum[:-1]])
    entry = np.maximum.accumulate(np.where(is_entry, np.arange(len(row)), 0))
    return minimum + np.cumsum(costs), entry_start[entry]


def diverse_clips(gathered: FrameVectors, max_clips: int) -> list[tuple[str, float]]:
    """Choose clips one by one, each as far from the chosen ones as possible.

    Returns each clip's name and its distance to the nearest clip before it. A clip is the mean of
    its embeddings, a distance 1 less the cosine. The first clip is the nearest to all clips; its
    distance is NaN.
    """
    clips = _vectors_by_clip(gathered)
    means = normalize_rows(np.stack([vectors.mean(0) for vectors in clips.values()]))
    names, distances = list(clips), []
    chosen: list[int] = []
    for index in farthest_points(means, max_clips):
        distance = 1 - max((means[chosen] @ means[index]).tolist(), default=float("nan"))
        distances.append((names[index], distance))
        chosen.append(index)
    return distances
