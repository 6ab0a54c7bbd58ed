"""Split a dataset by clip and shot, never by frame; measure what still leaks.

Shots are cut where the colour histogram changes. Shots that share an image, compared by small
thumbnails (root mean square), stay in the same part. The leak report gives, for each frame that is
not for training, the nearest training frame in time and in appearance.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from annotate.dataset.folder import Dataset, SplitRange, with_split
from annotate.errors import DatasetError
from annotate.items.records import Picture

if TYPE_CHECKING:
    import pandas as pd


Float32Array = npt.NDArray[np.float32]
_THUMBNAIL_WH = (16, 12)
_HISTOGRAM_WH = (80, 60)
_BATCH_ROWS = 1024


def thumbnail_and_histogram(path: Path) -> tuple[Float32Array, Float32Array]:
    """An image's thumbnail, (576,) 0..255, and its histogram of colours, (512,) summing to 1.

    Raises:
        DatasetError: it is not there, or is no image.
    """
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise DatasetError(f"{path}: not an image that can be read; build the dataset anew")
    thumbnail = cv2.resize(image, _THUMBNAIL_WH, interpolation=cv2.INTER_AREA)
    return thumbnail.ravel().astype(np.float32), _colour_histogram(np.asarray(image, np.uint8))


def _colour_histogram(image: Picture) -> Float32Array:
    import cv2

    small = cv2.resize(image, _HISTOGRAM_WH, interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small, cv2.COLOR_BGR2HSV)
    bins = cv2.calcHist([hsv], [0, 1, 2], None, [16, 4, 8], [0, 180, 0, 256, 0, 256]).ravel()
    return np.asarray(bins / bins.sum(), np.float32)


def nearest_rows(
    queries: Float32Array, candidates: Float32Array
) -> tuple[npt.NDArray[np.int64], Float32Array]:
    """For each row of `of`: the row of `among` nearest to it, and how far, as root mean square."""
    rows = list(_nearest_batches(queries, candidates))
    return np.concatenate([r for r, _ in rows]), np.concatenate([d for _, d in rows])


def _nearest_batches(
    queries: Float32Array, candidates: Float32Array
) -> Iterator[tuple[npt.NDArray[np.int64], Float32Array]]:
    lengths = (candidates**2).sum(axis=1)
    for start in range(0, len(queries), _BATCH_ROWS):
        some = queries[start : start + _BATCH_ROWS]
        rows = (lengths - 2 * some @ candidates.T).argmin(axis=1)
        yield rows, np.sqrt(((some - candidates[rows]) ** 2).mean(axis=1))


DEFAULT_FRACTIONS = {"train": 0.8, "val": 0.2}
DUPLICATE_RMS = 5.0  # of 255, root mean square of thumbnails: as good as the same picture
_MIN_CUT_CHANGE = 0.3  # share of the colours that change at a cut
_CUT_WINDOW_FRAMES = 3  # frames on either side that must all differ; a flash does not make a shot
_MIN_SHOT_SECONDS = Fraction(1, 2)  # seconds; less is no shot
_SAMPLES_PER_SHOT = 16  # frames of a shot that are held against other shots


@dataclass
class _FrameFeatures:
    """The frames of a dataset, in its order, and for each a thumbnail and a histogram of colours.

    `thumbnails` is (n, 576), 0..255; `colours` is (n, 512), a row sums to 1.
    """

    images: list[str] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    seconds: list[Fraction] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    thumbnails: Float32Array = field(default_factory=lambda: np.zeros((0, 576), np.float32))
    colours: Float32Array = field(default_factory=lambda: np.zeros((0, 512), np.float32))


def _read_features(dataset: Dataset) -> _FrameFeatures:
    """Look at every picture once.

    Raises:
        DatasetError: a picture is not there, or is none.
    """
    looks, seen = _FrameFeatures(), []
    for sample in dataset:
        looks.images.append(sample.image)
        looks.clips.append(sample.item.video)
        looks.frames.append(sample.item.frame)
        looks.seconds.append(sample.item.seconds)
        looks.splits.append(sample.split)
        seen.append(thumbnail_and_histogram(dataset.images / sample.image))
    looks.thumbnails = np.array([thumbnail for thumbnail, _ in seen], np.float32)
    looks.colours = np.array([colours for _, colours in seen], np.float32)
    return looks


@dataclass(frozen=True)
class DatasetShot:
    """Frames `start` up to, not including, `stop` of a clip; `rows` are they in the dataset.

    Shots of one `group` show the same, somewhere: they stay together.
    """

    clip: str
    start: int
    stop: int
    rows: tuple[int, ...]
    group: int = 0


def find_shots(
    dataset: Dataset, cuts: Mapping[str, Sequence[int]] | None = None
) -> list[DatasetShot]:
    """The shots of every clip: found in the pictures, or begun at the frames that `cuts` names."""
    return _find_shots(_read_features(dataset), cuts or {})


def _find_shots(features: _FrameFeatures, cuts: Mapping[str, Sequence[int]]) -> list[DatasetShot]:
    clips = dict.fromkeys(features.clips)
    if strange := [name for name in cuts if name not in clips]:
        raise DatasetError(f"cuts of {strange[0]!r}, but there are: {', '.join(clips)}")
    found = []
    for clip in clips:
        rows = sorted(
            (i for i, c in enumerate(features.clips) if c == clip), key=features.frames.__getitem__
        )
        begins = (
            _given_cuts(features, rows, cuts[clip])
            if clip in cuts
            else _detect_cuts(features, rows)
        )
        for begin, end in pairwise([0, *begins, len(rows)]):
            frames = [features.frames[row] for row in rows[begin:end]]
            stop = features.frames[rows[end]] if end < len(rows) else frames[-1] + 1
            found.append(DatasetShot(clip, frames[0], stop, tuple(rows[begin:end])))
    return _group_shots(found, features.thumbnails)


def _given_cuts(features: _FrameFeatures, rows: Sequence[int], cuts: Sequence[int]) -> list[int]:
    frames = [features.frames[row] for row in rows]
    places = np.searchsorted(frames, sorted(cuts)).tolist()
    return sorted({place for place in places if 0 < place < len(rows)})


def _detect_cuts(features: _FrameFeatures, rows: Sequence[int]) -> list[int]:
    """Places in `rows` where a new shot begins: nothing after looks like anything before."""
    begins, last = [], features.seconds[rows[0]]
    colours = features.colours[list(rows)]
    for place in range(1, len(rows)):
        before, after = (
            colours[max(0, place - _CUT_WINDOW_FRAMES) : place],
            colours[place : place + _CUT_WINDOW_FRAMES],
        )
        change = np.abs(before[:, None] - after[None]).sum(axis=2).min() / 2
        seconds = features.seconds[rows[place]]
        if change > _MIN_CUT_CHANGE and seconds - last >= _MIN_SHOT_SECONDS:
            begins.append(place)
            last = seconds
    return begins


def _group_shots(ungrouped: Sequence[DatasetShot], thumbnails: Float32Array) -> list[DatasetShot]:
    """Shots that share a picture, as good as the same, get the number of the first of them."""
    groups = list(range(len(ungrouped)))
    some = [_spread_evenly(shot.rows) for shot in ungrouped]
    for later in range(1, len(ungrouped)):
        earlier = [row for rows in some[:later] for row in rows]
        owners = np.repeat(np.arange(later), [len(rows) for rows in some[:later]])
        places, distances = nearest_rows(thumbnails[some[later]], thumbnails[earlier])
        for same in {groups[owners[place]] for place in places[distances < DUPLICATE_RMS]}:
            kept = min(same, groups[later])
            groups = [kept if g in (same, groups[later]) else g for g in groups]
    return [
        DatasetShot(s.clip, s.start, s.stop, s.rows, g)
        for s, g in zip(ungrouped, groups, strict=True)
    ]


def _spread_evenly(rows: Sequence[int]) -> list[int]:
    places = np.linspace(0, len(rows) - 1, min(_SAMPLES_PER_SHOT, len(rows))).round().astype(int)
    return [rows[place] for place in places]


def split_dataset(
    dataset: Dataset,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    *,
    seed: int = 0,
    cuts: Mapping[str, Sequence[int]] | None = None,
) -> Dataset:
    """Give whole shots to the parts, so that each gets about its fraction of the frames.

    Shots that show the same stay together. The same dataset, fractions and seed give the same
    split. `dataset.toml` is written anew.

    Raises:
        DatasetError: the fractions do not add up to 1, or there are fewer shots than parts.
    """
    if not fractions or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise DatasetError(f"fractions must be above 0 and add up to 1, got {dict(fractions)}")
    found = find_shots(dataset, cuts)
    groups: dict[int, list[DatasetShot]] = {}
    for shot in found:
        groups.setdefault(shot.group, []).append(shot)
    if len(groups) < len(fractions):
        raise DatasetError(
            f"{dataset.path}: {len(groups)} shots that differ cannot be split into "
            f"{' and '.join(fractions)} without leaking; add clips, or say where shots begin"
        )
    part_of = _assign_splits(groups, fractions, seed)
    return with_split(
        dataset, [SplitRange(s.clip, s.start, s.stop, part_of[s.group]) for s in found]
    )


def _assign_splits(
    groups: Mapping[int, Sequence[DatasetShot]], fractions: Mapping[str, float], seed: int
) -> dict[int, str]:
    """Group -> part: in an order that only the seed decides, each to the part that lacks most."""
    sizes = {number: sum(len(shot.rows) for shot in group) for number, group in groups.items()}
    lacking = {part: fraction * sum(sizes.values()) for part, fraction in fractions.items()}
    empty, dealt = dict.fromkeys(fractions), dict[int, str]()
    order = sorted(groups, key=lambda number: _shuffle_key(seed, groups[number][0]))
    for left, number in zip(range(len(order), 0, -1), order, strict=True):
        open_to = empty if left <= len(empty) else lacking
        part = max(open_to, key=lacking.__getitem__)
        dealt[number] = part
        lacking[part] -= sizes[number]
        empty.pop(part, None)
    return dealt


def _shuffle_key(seed: int, shot: DatasetShot) -> str:
    return hashlib.sha256(f"{seed}/{shot.clip}/{shot.start}".encode()).hexdigest()


@dataclass(frozen=True)
class Leaks:
    """How near the training frames come to the others.

    `table` has a row a frame that is not for training: image, part, seconds to `near_in_time` (NaN
    when its clip has no training frame), distance of looks, 0..255, to `near_in_looks`.
    """

    table: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """A row a part: frames, least and median of both, and the share that looks the same."""
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
        """The frames that look most like a training frame."""
        return self.table.sort_values("distance").head(count)


def find_leaks(dataset: Dataset) -> Leaks:
    """For each frame that is not for training, the nearest training frame in time and in looks."""
    import pandas as pd

    looks = _read_features(dataset)
    train = [row for row, part in enumerate(looks.splits) if part == "train"]
    others = [row for row, part in enumerate(looks.splits) if part != "train"]
    columns = ["image", "part", "seconds", "near_in_time", "distance", "near_in_looks"]
    if not train or not others:
        return Leaks(pd.DataFrame(columns=columns))
    alike, distances = nearest_rows(looks.thumbnails[others], looks.thumbnails[train])
    rows = [
        (looks.images[row], looks.splits[row], *in_time, distance, looks.images[train[place]])
        for row, in_time, distance, place in zip(
            others, _nearest_in_time(looks, train, others), distances.tolist(), alike, strict=True
        )
    ]
    return Leaks(pd.DataFrame(rows, columns=columns))


def _nearest_in_time(
    features: _FrameFeatures, train: Sequence[int], others: Sequence[int]
) -> Iterator[tuple[float, str | None]]:
    by_clip: dict[str, list[tuple[Fraction, int]]] = {}
    for row in train:
        by_clip.setdefault(features.clips[row], []).append((features.seconds[row], row))
    for times in by_clip.values():
        times.sort()
    for row in others:
        now, there = features.seconds[row], by_clip.get(features.clips[row], [])
        after = bisect_left(there, (now, -1))
        around = [
            (abs(seconds - now), near) for seconds, near in there[max(0, after - 1) : after + 1]
        ]
        if around:
            apart, near = min(around)
            yield float(apart), features.images[near]
        else:
            yield float("nan"), None
