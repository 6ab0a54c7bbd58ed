"""Clips that are like a clip, and clips that are most unlike each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annotate.atlas import Gathered
from annotate.diverse import farthest
from annotate.embed import Vectors, unit
from annotate.errors import UnknownName

WAYS = ("dtw", "mean")
_WARPED = 50  # clips, the likest by windows, that are warped onto the query
_WINDOW = 8  # frames


@dataclass(frozen=True)
class Alike:
    """A clip, how like the query it is (1: the same), and from where to where, in seconds."""

    clip: str
    likeness: float
    start_seconds: float
    stop_seconds: float


def similar(found: Gathered, query: str, most: int = 10, way: str = "dtw") -> list[Alike]:
    """The clips most like the clip `query`, the likest first.

    `mean` compares means of eight frames: each of the query's windows with the likest of the other
    clip. `dtw` warps the query onto the best stretch of each of the fifty likest by that.

    Raises:
        UnknownName: no such way, or no such clip.
    """
    if way not in WAYS:
        raise UnknownName("way", way, WAYS)
    if query not in found.clips:
        raise UnknownName("clip", query, found.clips)
    clips = _centred(found)
    asked = _windows(clips[query])
    ranked = []
    for name, vectors in clips.items():
        if name != query:
            alike = asked @ _windows(vectors).T
            best = alike.argmax(1)
            stretch = (int(best.min()), min(int(best.max()) + _WINDOW, len(vectors)))
            ranked.append((float(alike.max(1).mean()), name, stretch))
    ranked.sort(key=lambda each: (-each[0], each[1]))
    if way == "dtw":
        warped = [(*warp(clips[query], clips[name]), name) for _, name, _ in ranked[:_WARPED]]
        ranked = sorted(
            ((likeness, name, (start, stop)) for likeness, start, stop, name in warped),
            key=lambda each: (-each[0], each[1]),
        )
    return [_told(found, *each) for each in ranked[:most]]


def _told(found: Gathered, likeness: float, name: str, stretch: tuple[int, int]) -> Alike:
    number = list(found.clips).index(name)
    times = [s for s, clip in zip(found.seconds, found.clip, strict=True) if clip == number]
    return Alike(name, likeness, float(times[stretch[0]]), float(times[stretch[1] - 1]))


def _centred(found: Gathered) -> dict[str, Vectors]:
    """The vectors of each clip that has frames, from the middle of all, unit rows."""
    clips = {name: found.of_clip(name) for name in found.clips}
    clips = {name: vectors for name, vectors in clips.items() if len(vectors)}
    middle = np.concatenate([vectors.mean(0)[None] for vectors in clips.values()]).mean(0)
    return {name: unit(vectors - middle) for name, vectors in clips.items()}


def _windows(vectors: Vectors) -> Vectors:
    """Unit means of eight frames, one beginning at each frame that has them."""
    length = min(_WINDOW, len(vectors))
    sums = np.cumsum(np.vstack([np.zeros_like(vectors[:1]), vectors]), axis=0, dtype=np.float64)
    return unit(sums[length:] - sums[:-length])


def warp(query: Vectors, clip: Vectors) -> tuple[float, int, int]:
    """How well the query fits the best stretch of a clip, and the stretch, by dynamic time warping.

    The stretch may begin and end anywhere. The likeness is 1 less the mean cosine distance along
    the way.
    """
    cost = 1 - query @ clip.T
    row: npt.NDArray[np.float64] = cost[0].astype(np.float64)
    begun: npt.NDArray[np.int64] = np.arange(len(clip), dtype=np.int64)
    for costs in cost[1:].astype(np.float64):
        row, begun = _next_row(row, begun, costs)
    stop = int(row.argmin())
    start = int(begun[stop])
    return float(1 - row[stop] / max(len(query), stop - start + 1)), start, stop + 1


def _next_row(
    row: npt.NDArray[np.float64], begun: npt.NDArray[np.int64], costs: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """One frame of the query later: the cheapest way to each frame of the clip, and its beginning.

    A way comes from the frame itself or the one before it, then may run on along the clip; the
    latter is a running minimum, once what running on costs is taken off.
    """
    before = np.concatenate([[np.inf], row[:-1]])
    stepped = before < row
    entered = np.where(stepped, before, row)
    began = np.where(stepped, np.concatenate([[0], begun[:-1]]), begun)
    passed = np.concatenate([[0.0], np.cumsum(costs)[:-1]])
    least = np.minimum.accumulate(entered - passed)
    fresh = np.concatenate([[True], (entered - passed)[1:] < least[:-1]])
    origin = np.maximum.accumulate(np.where(fresh, np.arange(len(row)), 0))
    return least + np.cumsum(costs), began[origin]


def unlike(found: Gathered, most: int) -> list[tuple[str, float]]:
    """Clips, each as unlike those before it as can be, and how unlike the nearest of them it is.

    A clip is its frames' mean; unlikeness is 1 less the cosine. The first is the most like all, and
    has none to be unlike.
    """
    clips = {name: found.of_clip(name) for name in found.clips if len(found.of_clip(name))}
    means = unit(np.stack([vectors.mean(0) for vectors in clips.values()]))
    names, told = list(clips), []
    chosen: list[int] = []
    for place in farthest(means, most):
        nearest = 1 - max((means[chosen] @ means[place]).tolist(), default=float("nan"))
        told.append((names[place], nearest))
        chosen.append(place)
    return told
