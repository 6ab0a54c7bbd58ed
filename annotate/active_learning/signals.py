"""Find what a detector is unsure of in the items of a clip, frame by frame.

Every signal has a value, about 0 to 1, and a text; the objects of a frame add up:

- `missing`: an object is seen before and after the frame, at most three items away, and not on it:
  the lower of the two scores. `seen only here`: an object of a single frame: half of its score.
- what `annotate review` finds: jumps, drops of the score, covers, overlaps, lost and found again.
- `unsure`: the entropy of the score in bits, 1 at the threshold.
- `two classes`: boxes of two classes on one place, or a track that changes its class.
- where other detections are given: `contradictions.find_contradictions`.

Objects without a track are linked from item to item: the nearest box of about its size, less than
a size away. Links end where two items are more than half a second apart.

Temporal signals of detectors linked over time: Bengar et al. 2019, arXiv 1908.11757. Sums of
entropies over a frame: Yang et al. 2022, arXiv 2211.11612.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annotate.active_learning.contradictions import find_contradictions, score_of
from annotate.items.boxes import iou
from annotate.items.records import Box, Item, Object
from annotate.viewing.review import ReasonFinder

LINK_SECONDS = 0.5  # items that are farther apart are not linked
_MAX_GAP = 3  # items for which a track may be missing
_MAX_LOG_RATIO = math.log(2)  # of the sizes of boxes that are linked
_MIN_SCORE = 0.05  # boxes with a lower score are noise
_SAME_PLACE_IOU = 0.7  # from this IoU on, boxes of two classes are one object
_MIN_ENTROPY = 0.05  # bits: less is certain
_BRIEF_WEIGHT = 0.5
_REVIEW_WEIGHT = 0.5  # of the reasons of a review, which weigh 0.5 to 3
MISSING, BRIEF, UNSURE, TWO_CLASSES = "missing", "seen only here", "unsure", "of two classes"


class Signal(NamedTuple):
    """Why a frame is worth labelling: the number of its item, a class, a text and a value."""

    row: int
    label: str
    text: str
    value: float


@dataclass(slots=True)
class _Track:
    """An object that is linked from item to item: where it was last seen."""

    obj: Object
    place: _Place
    first_row: int
    row: int
    has_neighbour: bool  # the first item of the track has an item near it in time, before it


_Place = tuple[float, float, float]  # x and y of the centre and log of the size, pixels


def _place(box: Box) -> _Place:
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, math.log(max((x2 - x1) * (y2 - y1), 1.0)) / 2


class TrackLinker:
    """Gives each object of a clip a track; objects that have one keep it."""

    def __init__(self) -> None:
        self._open: dict[int, _Track] = {}
        self._next = -2  # tracks that are made here are negative
        self._last_seconds = -math.inf
        self._row = -1

    def link(self, item: Item) -> tuple[Item, list[Signal], list[int]]:
        """Link the next item: the item with tracks, signals, and the made tracks that ended."""
        self._row += 1
        seconds = float(item.seconds)
        near, self._last_seconds = seconds - self._last_seconds <= LINK_SECONDS, seconds
        signals: list[Signal] = []
        ended: list[int] = []
        if not near:
            ended = [number for number in self._open if number < 0]
            self._open.clear()
        places = [_place(obj.box) for obj in item.objects]
        numbers = self._match(item.objects, places)
        objects = []
        for obj, place, number in zip(item.objects, places, numbers, strict=True):
            track = self._open.get(number)
            if track is None:
                self._open[number] = _Track(obj, place, self._row, self._row, near)
            else:
                signals += self._gap_signals(track, obj)
                track.obj, track.place, track.row = obj, place, self._row
            objects.append(Object(obj.label, obj.box, obj.score, number, obj.mask, flags=obj.flags))
        for number in [n for n, t in self._open.items() if self._row - t.row >= _MAX_GAP]:
            track = self._open.pop(number)
            ended += [number] if number < 0 else []
            if track.first_row == track.row and track.has_neighbour:
                value = _BRIEF_WEIGHT * score_of(track.obj)
                signals.append(Signal(track.row, track.obj.label, BRIEF, value))
        return replace(item, objects=tuple(objects)), signals, ended

    def _gap_signals(self, track: _Track, obj: Object) -> Iterator[Signal]:
        value = min(score_of(track.obj), score_of(obj))
        for row in range(track.row + 1, self._row):
            yield Signal(row, obj.label, MISSING, value)
        if obj.label != track.obj.label:
            yield Signal(self._row, obj.label, TWO_CLASSES, value)

    def _match(self, objects: Sequence[Object], places: Sequence[_Place]) -> list[int]:
        """Return the track of each object: its own, that of the nearest box, or a new one."""
        numbers = {row: obj.track for row, obj in enumerate(objects) if obj.track is not None}
        free = [number for number in self._open if number < 0]
        loose = [row for row in range(len(objects)) if row not in numbers]
        if free and loose:
            tracks = np.array([self._open[number].place for number in free])
            distances = _distances(tracks, np.array([places[row] for row in loose]))
            rows, columns = np.nonzero(distances < 1)
            order = np.argsort(distances[rows, columns], kind="stable")
            taken: set[int] = set()
            for one, other in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
                if free[one] not in taken and loose[other] not in numbers:
                    numbers[loose[other]] = free[one]
                    taken.add(free[one])
        for row in range(len(objects)):
            if row not in numbers:
                numbers[row], self._next = self._next, self._next - 1
        return [numbers[row] for row in range(len(objects))]


def _distances(
    one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the distances of the centres of boxes, (N, M), in sizes of the larger box.

    The distance is infinite where one box is more than twice the size of the other.
    """
    difference = one[:, None] - other[None]
    size = np.exp(np.maximum(one[:, None, 2], other[None, :, 2]))
    alike = np.abs(difference[..., 2]) <= _MAX_LOG_RATIO
    return np.where(alike, np.hypot(difference[..., 0], difference[..., 1]) / size, np.inf)


@lru_cache(maxsize=4096)
def entropy_bits(score: float, threshold: float) -> float:
    """Compute the entropy of a score in bits, 0..1; the threshold stands for a chance of a half.

    Examples:
        >>> entropy_bits(0.3, 0.3), round(entropy_bits(0.9, 0.5), 3)
        (1.0, 0.469)
    """
    score, threshold = (min(max(each, 1e-6), 1 - 1e-6) for each in (score, threshold))
    odds = score / (1 - score) * (1 - threshold) / threshold
    chance = odds / (1 + odds)
    if not 0 < chance < 1:
        return 0.0
    return -sum(p * math.log2(p) for p in (chance, 1 - chance))


def clip_signals(
    items: Iterable[Item],
    threshold: float,
    others: Mapping[int, Sequence[Object]] | None = None,
    flagged: bool = False,
) -> Iterator[tuple[Item, list[Signal]]]:
    """Yield each item of a clip in order, and signals of it or of one of the items before it.

    `others` are the objects of another detector by frame; frames that it did not look at are not
    there. `flagged`: see `ReasonFinder`.
    """
    linker, finder = TrackLinker(), ReasonFinder(flagged=flagged)
    for row, item in enumerate(items):
        kept = tuple(obj for obj in item.objects if score_of(obj) >= _MIN_SCORE)
        whole = len(kept) == len(item.objects)
        linked, signals, ended = linker.link(item if whole else replace(item, objects=kept))
        signals += _still_signals(row, kept, threshold)
        signals += (
            Signal(row, each.label, each.text.partition(" (")[0], _REVIEW_WEIGHT * each.weight)
            for each in finder.reasons(linked)
        )
        if others is not None and item.frame in others:
            signals += disagreements(row, kept, others[item.frame], threshold)
        finder.forget(ended)
        yield item, signals


def _still_signals(row: int, objects: Sequence[Object], threshold: float) -> Iterator[Signal]:
    for obj in objects:
        if obj.score is not None:
            value = entropy_bits(obj.score, threshold)
            if value >= _MIN_ENTROPY:
                yield Signal(row, obj.label, UNSURE, value)
    if len({obj.label for obj in objects}) < 2:
        return
    for one, other in combinations(objects, 2):
        if one.label != other.label and _in_one_place(one.box, other.box):
            yield Signal(row, one.label, TWO_CLASSES, min(score_of(one), score_of(other)))


def _in_one_place(one: Box, other: Box) -> bool:
    low, high = max(one[0], other[0]), min(one[2], other[2])
    return low < high and iou(one, other) >= _SAME_PLACE_IOU


def disagreements(
    row: int, objects: Sequence[Object], others: Sequence[Object], threshold: float
) -> Iterator[Signal]:
    """Yield where another detector contradicts the objects of a frame."""
    for found in find_contradictions(objects, others, threshold):
        text = f"{found.kind} by the other detector"
        if found.kind == "missed" and found.detection is not None:
            text = "only by the other detector"
        if found.kind == "spurious":
            text = "not by the other detector"
        yield Signal(row, found.object.label, text, found.weight)
