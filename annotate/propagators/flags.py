"""Flag masks that look wrong, from one frame to the next, for review by a person.

- `covers`: the mask covers more than half of the picture, and more than twice what it could have
  grown to at a tenth per frame from its last size. The mask of an object that comes near does not
  double within seven frames.
- `jump`: the centre is off its course, or the size changed, by more than the object's own recent
  motion makes likely: three times (the size: four times) the recent deviation, and at least half of
  the object's own size (the size: to half or double). Of the true masks of monsters in games about
  one in a hundred is that far off, with turning views and occlusions; one in twenty in a fight full
  of zooms.
- `overlap`: the mask shares more than a quarter of the smaller mask's pixels with another mask.
  Neighbours share their edges, which are a fifth of an object twenty pixels wide.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.items import masks
from annotate.items.records import Item, Object

COVERS, JUMP, OVERLAP = "covers", "jump", "overlap"
State = Mapping[str, npt.NDArray[Any]]

_MAX_PICTURE_SHARE = 0.5  # of the picture's pixels
_MAX_GROWTH, _SUDDEN_GROWTH = 1.1, 2.0  # times as many pixels: in a frame, and at once
_MIN_COURSE_JUMP, _MIN_SIZE_JUMP = 0.5, float(np.log(2))  # own sizes; natural logarithm of the size
_COURSE_FACTOR, _SIZE_FACTOR = 3.0, 4.0  # what it lately was
_MIN_RECENT_COURSE, _MIN_RECENT_SIZE = (
    0.1,
    0.05,
)  # what it lately was, at least: a mask's edge is never still
_SMOOTHING = 0.2  # the weight of the last frame in what it lately was
_MIN_OVERLAP_SHARE = 0.25  # of the smaller mask


@dataclass(frozen=True)
class _Motion:
    """How an object went so far; `size` is the root of its box's area, speeds are a frame's."""

    frame: float
    x: float
    y: float
    size: float
    pixels: float  # what it covers, or could have grown to
    speed_x: float = 0.0
    speed_y: float = 0.0
    course_change: float = 0.0  # its course, lately, in own sizes
    size_change: float = 0.0  # lately, |log| a frame


class AnomalyFlagger:
    """Looks at the items of a clip in turn; of each track it holds a few numbers."""

    def __init__(self) -> None:
        self._motions: dict[int, _Motion] = {}

    def flag_item(self, item: Item, prompted_tracks: Collection[int] = ()) -> Item:
        """The item with `covers` and `jump` where they are due.

        `told` are the tracks that were prompted on this frame: where they are is no surprise.
        """
        for track in prompted_tracks:
            self._motions.pop(track, None)
        surprises = self.anomaly_scores(item)
        objects = tuple(
            _with_flags(thing, [flag for flag, how_much in found.items() if how_much > 1])
            for thing, found in zip(item.objects, surprises, strict=True)
        )
        return replace(item, objects=objects)

    def anomaly_scores(self, item: Item) -> list[dict[str, float]]:
        """For each object, flag -> by how many times it is beyond what is likely."""
        return [self._object_scores(item, thing) for thing in item.objects]

    def state(self) -> State:
        """All that is held, as arrays."""
        ways = np.array([astuple(way) for way in self._motions.values()], np.float64)
        return {"tracks": np.array(list(self._motions), np.int64), "ways": ways}

    def restore(self, state: State) -> None:
        """Take up what `state` gave."""
        rows = zip(state["tracks"].tolist(), state["ways"].tolist(), strict=True)
        self._motions = {track: _Motion(*way) for track, way in rows}

    def _object_scores(self, item: Item, obj: Object) -> dict[str, float]:
        if obj.track is None:
            return {}
        now, most = _measure(item, obj), _MAX_PICTURE_SHARE * item.width * item.height
        before = self._motions.get(obj.track)
        if before is None:
            likely, found = min(now.pixels, most / _SUDDEN_GROWTH), {}
            after = replace(now, pixels=likely)
        else:
            frames = abs(now.frame - before.frame) or 1.0
            likely = min(now.pixels, before.pixels * _MAX_GROWTH ** min(frames, 100))
            after, beyond = _advance(before, now, frames)
            after, found = replace(after, pixels=likely), {JUMP: beyond}
        self._motions[obj.track] = after
        return {COVERS: min(now.pixels / most, now.pixels / (_SUDDEN_GROWTH * likely)), **found}


def flag_overlaps(item: Item) -> Item:
    """The item with `overlap` where it is due, and nowhere else."""
    rows = {row for pair in _overlapping_pairs(item.objects) for row in pair}
    objects = []
    for row, thing in enumerate(item.objects):
        clean = replace(thing, flags=tuple(flag for flag in thing.flags if flag != OVERLAP))
        objects.append(_with_flags(clean, [OVERLAP] if row in rows else []))
    return replace(item, objects=tuple(objects))


def _with_flags(obj: Object, flags: list[str]) -> Object:
    return replace(obj, flags=tuple(dict.fromkeys([*obj.flags, *flags])))


def _measure(item: Item, obj: Object) -> _Motion:
    x1, y1, x2, y2 = obj.box
    boxed = max((x2 - x1) * (y2 - y1), 1.0)
    pixels = max(boxed if obj.mask is None else float(masks.area(obj.mask)), 1.0)
    return _Motion(float(item.frame), (x1 + x2) / 2, (y1 + y2) / 2, float(np.sqrt(boxed)), pixels)


def _advance(before: _Motion, now: _Motion, frames: float) -> tuple[_Motion, float]:
    """The way after a step, and by how many times the step is beyond what is likely."""
    speed_x, speed_y = (now.x - before.x) / frames, (now.y - before.y) / frames
    off = float(np.hypot(speed_x - before.speed_x, speed_y - before.speed_y)) / before.size
    resized = abs(float(np.log(now.size / before.size))) / frames
    most_off = max(_MIN_COURSE_JUMP, _COURSE_FACTOR * (_MIN_RECENT_COURSE + before.course_change))
    most_resized = max(_MIN_SIZE_JUMP, _SIZE_FACTOR * (_MIN_RECENT_SIZE + before.size_change))
    after = replace(
        now,
        speed_x=speed_x,
        speed_y=speed_y,
        course_change=before.course_change
        + _SMOOTHING * (min(off, most_off) - before.course_change),
        size_change=before.size_change
        + _SMOOTHING * (min(resized, most_resized) - before.size_change),
    )
    beyond = max(off / most_off, resized / most_resized)
    # after a jump nothing is known of its speed: going on from there is not a second jump
    return (replace(after, speed_x=0.0, speed_y=0.0) if beyond > 1 else after), beyond


def _overlapping_pairs(objects: tuple[Object, ...]) -> Iterator[tuple[int, int]]:
    masked = [row for row, thing in enumerate(objects) if thing.mask is not None]
    for one, other in combinations(masked, 2):
        a, b = objects[one], objects[other]
        if _boxes_intersect(a, b) and a.mask is not None and b.mask is not None:
            areas = masks.area(a.mask), masks.area(b.mask)
            overlap = masks.iou(a.mask, b.mask)
            if overlap * sum(areas) / (1 + overlap) > _MIN_OVERLAP_SHARE * min(areas):
                yield one, other


def _boxes_intersect(a: Object, b: Object) -> bool:
    across = min(a.box[2], b.box[2]) > max(a.box[0], b.box[0])
    return across and min(a.box[3], b.box[3]) > max(a.box[1], b.box[1])
