"""Split a dataset by clip and shot, never by frame; measure what still leaks.

Shots are cut where the colour histogram changes. Shots that share an image, compared by small
thumbnails (root mean square), stay in the same split. The leak report gives, for each frame that is
not for training, the nearest training frame in time and in appearance.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from annotate.dataset.folder import DEFAULT_SPLIT, Dataset, SplitRange, with_split
from annotate.errors import DatasetError, VideoError
from annotate.items.records import Picture
from annotate.items.sequences import evenly_spaced
from annotate.video.images import read_image

if TYPE_CHECKING:
    import pandas as pd


Float32Array = npt.NDArray[np.float32]
_THUMBNAIL_WH = (16, 12)
_HISTOGRAM_WH = (80, 60)
_BATCH_ROWS = 1024
DEFAULT_FRACTIONS = {"train": 0.8, "val": 0.2}
DUPLICATE_RMS = 5.0  # of 255, between thumbnails: below it, two images count as the same
_MIN_CUT_CHANGE = 0.3  # share of the colour histogram that changes at a cut
_CUT_WINDOW_FRAMES = 3  # frames on either side that must all differ, so that a flash is not a cut
_MIN_SHOT_SECONDS = Fraction(1, 2)
_SAMPLES_PER_SHOT = 16  # frames of a shot that are compared with other shots


def thumbnail_and_histogram(path: Path) -> tuple[Float32Array, Float32Array]:
    """Compute the thumbnail of an image, (576,) 0..255, and its colour histogram, (512,), sum 1.

    Raises:
        DatasetError: the file is missing, or not an image.
    """
    import cv2

    try:
        rgb = read_image(path)
    except VideoError as error:
        raise DatasetError(f"{error}; build the dataset again") from None
    image = np.ascontiguousarray(rgb[..., ::-1])  # BGR, as OpenCV takes it
    thumbnail = cv2.resize(image, _THUMBNAIL_WH, interpolation=cv2.INTER_AREA)
    return thumbnail.ravel().astype(np.float32), _colour_histogram(image)


def _colour_histogram(image: Picture) -> Float32Array:
    import cv2

    small = cv2.resize(image, _HISTOGRAM_WH, interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small, cv2.COLOR_BGR2HSV)
    bins = cv2.calcHist([hsv], [0, 1, 2], None, [16, 4, 8], [0, 180, 0, 256, 0, 256]).ravel()
    return np.asarray(bins / bins.sum(), np.float32)


def nearest_rows(
    queries: Float32Array, candidates: Float32Array
) -> tuple[npt.NDArray[np.int64], Float32Array]:
    """Find the nearest candidate of each query: its row, and the root-mean-square distance."""
    batches = list(_nearest_batches(queries, candidates))
    return np.concatenate([r for r, _ in batches]), np.concatenate([d for _, d in batches])


def _nearest_batches(
    queries: Float32Array, candidates: Float32Array
) -> Iterator[tuple[npt.NDArray[np.int64], Float32Array]]:
    lengths = (candidates**2).sum(axis=1)
    for batch in np.split(queries, range(_BATCH_ROWS, len(queries), _BATCH_ROWS)):
        rows = (lengths - 2 * batch @ candidates.T).argmin(axis=1)
        yield rows, np.sqrt(((batch - candidates[rows]) ** 2).mean(axis=1))


@dataclass
class _FrameFeatures:
    """The frames of a dataset, in its order, with a thumbnail and a colour histogram of each.

    `thumbnails` is (n, 576), 0..255; `colours` is (n, 512), each row sums to 1.
    """

    images: list[str] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    seconds: list[Fraction] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    thumbnails: Float32Array = field(default_factory=lambda: np.zeros((0, 576), np.float32))
    colours: Float32Array = field(default_factory=lambda: np.zeros((0, 512), np.float32))


def _read_features(dataset: Dataset) -> _FrameFeatures:
    """Read every image of a dataset once, and compute its features.

    Raises:
        DatasetError: an image is missing or unreadable.
    """
    features, pairs = _FrameFeatures(), []
    for sample in dataset:
        features.images.append(sample.image)
        features.clips.append(sample.item.video)
        features.frames.append(sample.item.frame)
        features.seconds.append(sample.item.seconds)
        features.splits.append(sample.split)
        pairs.append(thumbnail_and_histogram(dataset.images / sample.image))
    features.thumbnails = np.array([thumbnail for thumbnail, _ in pairs], np.float32)
    features.colours = np.array([histogram for _, histogram in pairs], np.float32)
    return features


@dataclass(frozen=True)
class DatasetShot:
    """The frames of a clip from `start` up to, not including, `stop`.

    `rows` are their row numbers in the dataset. Shots of one `group` share an image, and stay in
    the same split.
    """

    clip: str
    start: int
    stop: int
    rows: tuple[int, ...]
    group: int = 0


def find_shots(
    dataset: Dataset, cuts: Mapping[str, Sequence[int]] | None = None
) -> list[DatasetShot]:
    """Find the shots of every clip: detected, or cut at the frames of `cuts` (by clip name)."""
    return _find_shots(_read_features(dataset), cuts or {})


def _find_shots(features: _FrameFeatures, cuts: Mapping[str, Sequence[int]]) -> list[DatasetShot]:
    clips = dict.fromkeys(features.clips)
    if unknown := [name for name in cuts if name not in clips]:
        raise DatasetError(
            f"`cuts` names the clip {unknown[0]!r}, but there are: {', '.join(clips)}"
        )
    shots = []
    for clip in clips:
        rows = [row for row, name in enumerate(features.clips) if name == clip]
        rows.sort(key=features.frames.__getitem__)
        starts = (
            _given_cuts(features, rows, cuts[clip])
            if clip in cuts
            else _detect_cuts(features, rows)
        )
        for start, end in pairwise([0, *starts, len(rows)]):
            frames = [features.frames[row] for row in rows[start:end]]
            stop = features.frames[rows[end]] if end < len(rows) else frames[-1] + 1
            shots.append(DatasetShot(clip, frames[0], stop, tuple(rows[start:end])))
    return _group_shots(shots, features.thumbnails)


def _given_cuts(features: _FrameFeatures, rows: Sequence[int], cuts: Sequence[int]) -> list[int]:
    frames = [features.frames[row] for row in rows]
    starts = np.searchsorted(frames, sorted(cuts)).tolist()
    return sorted({start for start in starts if 0 < start < len(rows)})


def _detect_cuts(features: _FrameFeatures, rows: Sequence[int]) -> list[int]:
    """Detect the indices in `rows` where a shot starts: no frame after is like any before."""
    starts, last_seconds = [], features.seconds[rows[0]]
    colours = features.colours[list(rows)]
    for index in range(1, len(rows)):
        before = colours[max(0, index - _CUT_WINDOW_FRAMES) : index]
        after = colours[index : index + _CUT_WINDOW_FRAMES]
        change = np.abs(before[:, None] - after[None]).sum(axis=2).min() / 2
        seconds = features.seconds[rows[index]]
        if change > _MIN_CUT_CHANGE and seconds - last_seconds >= _MIN_SHOT_SECONDS:
            starts.append(index)
            last_seconds = seconds
    return starts


def _group_shots(ungrouped: Sequence[DatasetShot], thumbnails: Float32Array) -> list[DatasetShot]:
    """Group shots that share an image; a group has the number of its first shot."""
    groups = list(range(len(ungrouped)))
    sampled = [
        [shot.rows[i] for i in evenly_spaced(len(shot.rows), _SAMPLES_PER_SHOT)]
        for shot in ungrouped
    ]
    for later in range(1, len(ungrouped)):
        earlier = [row for rows in sampled[:later] for row in rows]
        owners = np.repeat(np.arange(later), [len(rows) for rows in sampled[:later]])
        nearest, distances = nearest_rows(thumbnails[sampled[later]], thumbnails[earlier])
        for other in {groups[owners[row]] for row in nearest[distances < DUPLICATE_RMS]}:
            joined = (other, groups[later])
            groups = [min(joined) if group in joined else group for group in groups]
    return [replace(shot, group=group) for shot, group in zip(ungrouped, groups, strict=True)]


def split_dataset(
    dataset: Dataset,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    *,
    seed: int = 0,
    cuts: Mapping[str, Sequence[int]] | None = None,
) -> Dataset:
    """Assign whole shots to splits, so that each split has about its fraction of the frames.

    Shots that share an image stay together. The same dataset, fractions and seed give the same
    split, which is written to `dataset.toml`. `cuts` are the first frames of shots by clip name,
    for clips in which shots need not be detected.

    Raises:
        DatasetError: the fractions do not add up to 1, or there are fewer shots than splits.
    """
    if not fractions or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise DatasetError(f"`fractions` must be above 0 and add up to 1, got {dict(fractions)}")
    shots = find_shots(dataset, cuts)
    groups: dict[int, list[DatasetShot]] = {}
    for shot in shots:
        groups.setdefault(shot.group, []).append(shot)
    if len(groups) < len(fractions):
        raise DatasetError(
            f"{dataset.path}: cannot be split into {' and '.join(fractions)} without leaking: "
            f"shots that share no image: {len(groups)}; add clips, or give `cuts`"
        )
    splits = _assign_splits(groups, fractions, seed)
    return with_split(
        dataset, [SplitRange(s.clip, s.start, s.stop, splits[s.group]) for s in shots]
    )


def _assign_splits(
    groups: Mapping[int, Sequence[DatasetShot]], fractions: Mapping[str, float], seed: int
) -> dict[int, str]:
    """Assign each group to the split that lacks most frames, in an order given by the seed.

    Where there are no more groups than splits, the largest group goes to the largest split.
    """
    sizes = {number: sum(len(shot.rows) for shot in group) for number, group in groups.items()}
    missing = {split: fraction * sum(sizes.values()) for split, fraction in fractions.items()}
    empty, assigned = dict.fromkeys(fractions), dict[int, str]()
    order = sorted(groups, key=lambda number: _shuffle_key(seed, groups[number][0]))
    if len(order) == len(fractions):
        order.sort(key=lambda number: -sizes[number])
    for left, number in zip(range(len(order), 0, -1), order, strict=True):
        candidates = empty if left <= len(empty) else missing  # no split may stay empty
        split = max(candidates, key=missing.__getitem__)
        assigned[number] = split
        missing[split] -= sizes[number]
        empty.pop(split, None)
    return assigned


def _shuffle_key(seed: int, shot: DatasetShot) -> str:
    return hashlib.sha256(f"{seed}/{shot.clip}/{shot.start}".encode()).hexdigest()


def extend_ranges(
    known: Sequence[SplitRange], frames: Iterable[tuple[str, int]]
) -> tuple[SplitRange, ...]:
    """Add a range for each frame, clip and index, that lies in none: in the split of the nearest.

    Examples:
        >>> known = [SplitRange("dock.mp4", 0, 10, "train"), SplitRange("dock.mp4", 20, 30, "val")]
        >>> added = extend_ranges(known, [("dock.mp4", 12), ("dock.mp4", 16), ("pier.mp4", 3)])
        >>> [(each.clip, each.start, each.split) for each in added[2:]]
        [('dock.mp4', 12, 'train'), ('dock.mp4', 16, 'val'), ('pier.mp4', 3, 'train')]
    """
    ranges = list(known)
    for clip, frame in frames:
        near = [each for each in known if each.clip == clip]
        nearest = min(near, key=lambda each: _frames_between(each, frame), default=None)
        if nearest is None or _frames_between(nearest, frame):
            split = DEFAULT_SPLIT if nearest is None else nearest.split
            ranges.append(SplitRange(clip, frame, frame + 1, split))
    return tuple(ranges)


def _frames_between(split_range: SplitRange, frame: int) -> int:
    """Count the frames from a range to a frame outside; 0 for a frame inside."""
    return max(split_range.start - frame, frame - split_range.stop + 1, 0)


@dataclass(frozen=True)
class Leaks:
    """The distances of frames that are not for training to the training frames.

    `table` has a row per such frame: image, part (its split), seconds to the training frame
    `near_in_time` (NaN when its clip has none), and the distance in appearance, 0..255, to the
    training frame `near_in_looks`.
    """

    table: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Summarize by split: frames, minimum and median of both, and the share of duplicates."""
        by_part = self.table.groupby("part", sort=False)
        return by_part.agg(
            frames=("image", "size"),
            seconds_least=("seconds", "min"),
            seconds_median=("seconds", "median"),
            distance_least=("distance", "min"),
            distance_median=("distance", "median"),
            alike=("distance", lambda distances: (distances < DUPLICATE_RMS).mean()),
        )

    def worst(self, count: int = 5) -> pd.DataFrame:
        """List the frames that are most similar to a training frame."""
        return self.table.sort_values("distance").head(count)


def find_leaks(dataset: Dataset) -> Leaks:
    """Find the nearest training frame, in time and in appearance, of each other frame."""
    import pandas as pd

    features = _read_features(dataset)
    train = [row for row, split in enumerate(features.splits) if split == "train"]
    others = [row for row, split in enumerate(features.splits) if split != "train"]
    columns = ["image", "part", "seconds", "near_in_time", "distance", "near_in_looks"]
    if not train or not others:
        return Leaks(pd.DataFrame(columns=columns))
    nearest, distances = nearest_rows(features.thumbnails[others], features.thumbnails[train])
    in_time = _nearest_in_time(features, train, others)
    images, splits = features.images, features.splits
    rows = [
        (images[row], splits[row], *pair, distance, images[train[index]])
        for row, pair, distance, index in zip(
            others, in_time, distances.tolist(), nearest, strict=True
        )
    ]
    return Leaks(pd.DataFrame(rows, columns=columns))


def _nearest_in_time(
    features: _FrameFeatures, train: Sequence[int], others: Sequence[int]
) -> Iterator[tuple[float, str | None]]:
    """Find the nearest training frame in the clip of each other frame: seconds, and image."""
    by_clip: dict[str, list[tuple[Fraction, int]]] = {}
    for row in train:
        by_clip.setdefault(features.clips[row], []).append((features.seconds[row], row))
    for times in by_clip.values():
        times.sort()
    for row in others:
        own_seconds, times = features.seconds[row], by_clip.get(features.clips[row], [])
        after = bisect_left(times, (own_seconds, -1))
        neighbours = [
            (abs(seconds - own_seconds), near)
            for seconds, near in times[max(0, after - 1) : after + 1]
        ]
        if neighbours:
            distance, near = min(neighbours)
            yield float(distance), features.images[near]
        else:
            yield float("nan"), None
