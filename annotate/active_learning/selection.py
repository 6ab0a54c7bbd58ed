"""Choose frames by their worth, different from each other, apart in time and spread over clips.

The frames of highest worth are a pool of four times the count. Of the pool, those are chosen that
are farthest from the labelled frames and from each other. Uncertainty alone takes frames that are
all alike: diversity on top of it is what gains (docs/how-to/active-learning.md).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.active_learning.signals import Signal
from annotate.errors import AnnotateError
from annotate.items.sequences import evenly_spaced
from annotate.sampling.duplicates import Vectors, farthest_points

MIN_SECONDS_APART = 0.5
POOL_FACTOR = 4
_MAX_CLIP_SHARE = 1 / 3
_MAX_CLASS_WEIGHT = 4.0
_CLOCK_ERROR = 1e-6  # seconds: of times as floating-point numbers
_REASONS = 3  # that are listed for a frame

EmbedRows = Callable[[Sequence[int]], Vectors]  # rows of candidates -> (n, width)


@dataclass(frozen=True)
class SelectionOptions:
    """How many frames are chosen, and how; `random_share` of them are drawn from all frames."""

    count: int = 40
    random_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise AnnotateError(f"`count` must be above 0, got {self.count}")
        if not 0 <= self.random_share <= 1:
            raise AnnotateError(f"`random_share` must be within 0 and 1, got {self.random_share}")


@dataclass
class Candidates:
    """The frames of all clips and their signals, as columns: about sixteen bytes for each."""

    clips: list[str] = field(default_factory=list)
    clip_index: array[int] = field(default_factory=lambda: array("i"))
    frame_index: array[int] = field(default_factory=lambda: array("i"))
    seconds: array[float] = field(default_factory=lambda: array("d"))
    class_counts: Counter[str] = field(default_factory=Counter)
    _names: dict[str, int] = field(default_factory=dict)  # labels and texts -> their numbers
    _rows: array[int] = field(default_factory=lambda: array("i"))  # of signals: row of the frame
    _labels: array[int] = field(default_factory=lambda: array("i"))
    _texts: array[int] = field(default_factory=lambda: array("i"))
    _values: array[float] = field(default_factory=lambda: array("f"))

    def __len__(self) -> int:
        return len(self.frame_index)

    def add_frame(self, clip: int, frame: int, seconds: float) -> None:
        """Append a frame of the clip of that number."""
        self.clip_index.append(clip)
        self.frame_index.append(frame)
        self.seconds.append(seconds)

    def add_signal(self, signal: Signal, first_row: int = 0) -> None:
        """Append a signal; its row counts from `first_row`."""
        self._rows.append(first_row + signal.row)
        self._labels.append(self._number(signal.label))
        self._texts.append(self._number(signal.text))
        self._values.append(signal.value)

    def _number(self, name: str) -> int:
        return self._names.setdefault(name, len(self._names))

    def _weighted_values(self) -> npt.NDArray[np.float32]:
        """Return the values of the signals, each times the weight of its class."""
        weights = np.ones(len(self._names), np.float32)
        for name, weight in class_weights(self.class_counts).items():
            if name in self._names:
                weights[self._names[name]] = weight
        return np.asarray(self._column(self._values) * weights[self._column(self._labels)])

    @staticmethod
    def _column(values: array[Any]) -> npt.NDArray[Any]:
        """View a column as an array; it is not copied."""
        return np.frombuffer(values, values.typecode)

    def worths(self) -> npt.NDArray[np.float64]:
        """Sum the weighted signals of each frame, (n,)."""
        rows = self._column(self._rows)
        sums = np.bincount(rows, self._weighted_values(), minlength=len(self))
        return np.asarray(sums, np.float64)

    def reasons(self, rows: Iterable[int]) -> dict[int, str]:
        """Describe the strongest signals of frames: row -> text."""
        wanted, names = set(rows), list(self._names)
        of_signal = self._column(self._rows)
        sums: dict[int, dict[str, float]] = {row: {} for row in wanted}
        counts: Counter[tuple[int, str]] = Counter()
        values = self._weighted_values()
        for n in np.flatnonzero(np.isin(of_signal, sorted(wanted))).tolist():
            row = self._rows[n]
            text = f"{names[self._labels[n]]} {names[self._texts[n]]}"
            sums[row][text] = sums[row].get(text, 0.0) + float(values[n])
            counts[row, text] += 1
        described = {}
        for row, by_text in sums.items():
            best = sorted(by_text, key=lambda text: (-by_text[text], text))[:_REASONS]
            described[row] = ", ".join(
                text if (many := counts[row, text]) == 1 else f"{many} x {text}" for text in best
            )
        return described


def class_weights(counts: Mapping[str, int]) -> dict[str, float]:
    """Weigh classes by the root of their rarity: the mean count by the count, at most 4.

    Examples:
        >>> class_weights({"monster": 90, "marker": 10})["marker"].__round__(2)
        2.24
    """
    if not counts:
        return {}
    mean = sum(counts.values()) / len(counts)
    return {
        name: min(float(np.sqrt(mean / max(count, 1))), _MAX_CLASS_WEIGHT)
        for name, count in counts.items()
    }


class Spacing:
    """The times that are taken in each clip: a frame near one of them is not free."""

    def __init__(self) -> None:
        self._times: dict[int, list[float]] = {}

    def is_free(self, clip: int, seconds: float) -> bool:
        """Return whether no taken time of the clip is less than half a second away."""
        times = self._times.get(clip, [])
        place = bisect_left(times, seconds)
        near = times[max(place - 1, 0) : place + 1]
        return all(abs(each - seconds) >= MIN_SECONDS_APART - _CLOCK_ERROR for each in near)

    def take(self, clip: int, seconds: float) -> None:
        """Take a time of a clip."""
        insort(self._times.setdefault(clip, []), seconds)


@dataclass(frozen=True)
class ChosenFrame:
    """The row of a chosen candidate, and whether it was drawn at random."""

    row: int
    is_random: bool


def choose_frames(
    candidates: Candidates,
    worths: npt.NDArray[np.float64],
    spacing: Spacing,
    options: SelectionOptions,
    embed: EmbedRows,
    known_vectors: Vectors | None = None,
) -> list[ChosenFrame]:
    """Choose at most `options.count` frames, in the order in which to label them.

    `spacing` has the times of the labelled frames, and `known_vectors` their features. Every tenth
    frame is drawn at random from all, so that any beginning of the list has an unbiased part. At
    most a third comes from one clip, if there are three or more. There are fewer frames than
    `count` where the clips have no more that are half a second apart.
    """
    random_count = round(options.count * options.random_share)
    drawn = _draw(candidates, spacing, random_count, options.seed)
    clips = len(set(candidates.clip_index)) or 1
    count = options.count - len(drawn)
    cap = -(-count // min(clips, round(1 / _MAX_CLIP_SHARE)))
    pool = list_pool(candidates, worths, spacing, count, cap)
    vectors = embed(pool)
    known = np.zeros((0, vectors.shape[1] if len(pool) else 0)) if known_vectors is None else (
        known_vectors
    )  # fmt: skip
    rows = np.concatenate([known, vectors]) if len(pool) else known
    order = farthest_points(rows, len(pool), chosen=list(range(len(known))))
    ranked = [pool[place - len(known)] for place in order]
    return _interleave(_capped(candidates, ranked, count, cap), drawn)


def _draw(candidates: Candidates, spacing: Spacing, count: int, seed: int) -> list[int]:
    """Draw rows at random, half a second apart, and take their times."""
    drawn: list[int] = []
    for row in np.random.default_rng(seed).permutation(len(candidates)).tolist():
        if len(drawn) == count:
            break
        place = candidates.clip_index[row], candidates.seconds[row]
        if spacing.is_free(*place):
            spacing.take(*place)
            drawn.append(row)
    return drawn


def list_pool(
    candidates: Candidates,
    worths: npt.NDArray[np.float64],
    spacing: Spacing,
    count: int,
    cap: int,
) -> list[int]:
    """List the rows of highest worth, half a second apart, capped per clip; then spread ones.

    Where there are too few frames for the whole pool, it is the better half of each clip's.
    """
    order = np.random.default_rng(0).permutation(len(worths))  # of equal worth: from all clips
    by_worth = order[np.argsort(-worths[order], kind="stable")]
    worthy = by_worth[worths[by_worth] > 0]
    others = np.sort(by_worth[len(worthy) :])
    spread = [int(others[n]) for n in evenly_spaced(len(others), POOL_FACTOR * count)]
    pool: list[int] = []
    per_clip: Counter[int] = Counter()
    for row in [*worthy.tolist(), *spread]:
        if len(pool) == POOL_FACTOR * count:
            break
        clip, seconds = candidates.clip_index[row], candidates.seconds[row]
        if per_clip[clip] < POOL_FACTOR * cap and spacing.is_free(clip, seconds):
            spacing.take(clip, seconds)
            per_clip[clip] += 1
            pool.append(row)
    if len(pool) == POOL_FACTOR * count:
        return pool
    left = {clip: max(cap, many // 2) for clip, many in per_clip.items()}
    return [row for row in pool if _count_down(left, candidates.clip_index[row])]


def _count_down(left: dict[int, int], key: int) -> bool:
    """Return whether some of a key are left, and take one."""
    left[key] -= 1
    return left[key] >= 0


def _capped(candidates: Candidates, ranked: Sequence[int], count: int, cap: int) -> list[int]:
    """Take the first rows, at most `cap` of a clip; more only where other clips have no more."""
    chosen: list[int] = []
    per_clip: Counter[int] = Counter()
    for row in ranked:
        clip = candidates.clip_index[row]
        if len(chosen) < count and per_clip[clip] < cap:
            per_clip[clip] += 1
            chosen.append(row)
    taken = set(chosen)
    return [*chosen, *(row for row in ranked if row not in taken)][:count]


def _interleave(chosen: Sequence[int], drawn: Sequence[int]) -> list[ChosenFrame]:
    """Spread the drawn rows evenly among the chosen ones."""
    total = len(chosen) + len(drawn)
    places = {(n + 1) * total // len(drawn) - 1 for n in range(len(drawn))}
    rest, random_rows = iter(chosen), iter(drawn)
    return [
        ChosenFrame(next(random_rows if place in places else rest), place in places)
        for place in range(total)
    ]
