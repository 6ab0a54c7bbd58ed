"""Flag masks that look wrong, from one frame to the next, for review by a person.

- `covers`: the mask covers more than half of the picture, and more than twice the area that it
  could have reached by growing 10 % per frame. The mask of an object that comes near does not
  double within seven frames.
- `jump`: the centre is off the position predicted by a constant velocity, or the size has changed,
  by more than the object's own recent motion makes likely: three times (the size: four times) the
  recent deviation, and at least half of the object's own size (the size: to half or double). Of the
  true masks of monsters in games about one in a hundred is that far off, with turning views and
  occlusions; one in twenty in a fight full of zooms.
- `overlap`: the mask shares more than a quarter of the smaller mask's pixels with another mask.
  The edges that neighbours share are a fifth of an object twenty pixels wide.
"""

from collections.abc import Collection, Iterator
from dataclasses import astuple, dataclass, replace
from itertools import combinations

import numpy as np

from annotate.items import masks
from annotate.items.records import Item, Object, State

COVERS, JUMP, OVERLAP = "covers", "jump", "overlap"

_MAX_PICTURE_SHARE = 0.5  # of the picture's pixels
_MAX_GROWTH, _SUDDEN_GROWTH = 1.1, 2.0  # ratios of areas: per frame, and at once
_MIN_COURSE_JUMP, _MIN_SIZE_JUMP = 0.5, float(np.log(2))  # own sizes; |log| of the ratio of sizes
_COURSE_FACTOR, _SIZE_FACTOR = 3.0, 4.0  # times the recent deviation
_MIN_RECENT_COURSE, _MIN_RECENT_SIZE = 0.1, 0.05  # added to it: a mask's edge is never still
_SMOOTHING = 0.2  # weight of the last frame in the recent deviation
_MIN_OVERLAP_SHARE = 0.25  # of the smaller mask


@dataclass(frozen=True)
class _Motion:
    """The last position and the recent motion of an object."""

    frame: float
    x: float  # centre of its box, pixels
    y: float
    size: float  # root of the area of its box, pixels
    pixels: float  # area of its mask, at most as large as it could have grown
    speed_x: float = 0.0  # pixels per frame
    speed_y: float = 0.0
    course_change: float = 0.0  # recent deviation from a constant velocity, in own sizes
    size_change: float = 0.0  # recent |log| of the ratio of sizes, per frame


class AnomalyFlagger:
    """Flag the items of a clip in order; a few numbers are kept for each track."""

    def __init__(self) -> None:
        self._motions: dict[int, _Motion] = {}

    def flag_item(self, item: Item, prompted_tracks: Collection[int] = ()) -> Item:
        """Add `covers` and `jump` to the objects of an item.

        The motion of `prompted_tracks` starts again: a prompt may move a track anywhere.
        """
        for track in prompted_tracks:
            self.forget(track)
        objects = tuple(
            _with_flags(obj, [flag for flag, score in scores.items() if score > 1])
            for obj, scores in zip(item.objects, self.anomaly_scores(item), strict=True)
        )
        return replace(item, objects=objects)

    def forget(self, track: int) -> None:
        """Forget the motion of a track."""
        self._motions.pop(track, None)

    def anomaly_scores(self, item: Item) -> list[dict[str, float]]:
        """Score the flags of each object: above 1, the flag is set."""
        return [self._object_scores(item, obj) for obj in item.objects]

    def state(self) -> State:
        """Return the motion of every track as arrays."""
        motions = np.array([astuple(motion) for motion in self._motions.values()], np.float64)
        return {"tracks": np.array(list(self._motions), np.int64), "ways": motions}

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        rows = zip(state["tracks"].tolist(), state["ways"].tolist(), strict=True)
        self._motions = {track: _Motion(*motion) for track, motion in rows}

    def _object_scores(self, item: Item, obj: Object) -> dict[str, float]:
        if obj.track is None:
            return {}
        now, max_pixels = _measure(item, obj), _MAX_PICTURE_SHARE * item.width * item.height
        before = self._motions.get(obj.track)
        jump = {}
        if before is None:
            likely = min(now.pixels, max_pixels / _SUDDEN_GROWTH)
            after = replace(now, pixels=likely)
        else:
            frames = abs(now.frame - before.frame) or 1.0
            likely = min(now.pixels, before.pixels * _MAX_GROWTH ** min(frames, 100))
            after, jump[JUMP] = _advance(before, now, frames, likely)
        self._motions[obj.track] = after
        covers = min(now.pixels / max_pixels, now.pixels / (_SUDDEN_GROWTH * likely))
        return {COVERS: covers, **jump}


def flag_overlaps(item: Item) -> Item:
    """Set `overlap` on the objects of an item that overlap, and remove it from all others."""
    if not any(obj.mask or obj.flags for obj in item.objects):
        return item
    rows = {row for pair in _overlapping_pairs(item.objects) for row in pair}
    objects = []
    for row, obj in enumerate(item.objects):
        clean = replace(obj, flags=tuple(flag for flag in obj.flags if flag != OVERLAP))
        objects.append(_with_flags(clean, [OVERLAP] if row in rows else []))
    return replace(item, objects=tuple(objects))


def _with_flags(obj: Object, flags: list[str]) -> Object:
    return replace(obj, flags=tuple(dict.fromkeys([*obj.flags, *flags])))


def _measure(item: Item, obj: Object) -> _Motion:
    x1, y1, x2, y2 = obj.box
    box_area = max((x2 - x1) * (y2 - y1), 1.0)
    pixels = max(box_area if obj.mask is None else float(masks.area(obj.mask)), 1.0)
    size = float(np.sqrt(box_area))
    return _Motion(float(item.frame), (x1 + x2) / 2, (y1 + y2) / 2, size, pixels)


def _advance(
    before: _Motion, now: _Motion, frames: float, likely_pixels: float
) -> tuple[_Motion, float]:
    """Advance a motion to the present box; also score the step: above 1, it is a jump."""
    speed_x, speed_y = (now.x - before.x) / frames, (now.y - before.y) / frames
    course = float(np.hypot(speed_x - before.speed_x, speed_y - before.speed_y)) / before.size
    resize = abs(float(np.log(now.size / before.size))) / frames
    max_course = max(_MIN_COURSE_JUMP, _COURSE_FACTOR * (_MIN_RECENT_COURSE + before.course_change))
    max_resize = max(_MIN_SIZE_JUMP, _SIZE_FACTOR * (_MIN_RECENT_SIZE + before.size_change))
    score = max(course / max_course, resize / max_resize)
    if score > 1:  # the speed of a jump says nothing: to stay there is not a second jump
        speed_x = speed_y = 0.0
    course_change = before.course_change + _SMOOTHING * (
        min(course, max_course) - before.course_change
    )
    size_change = before.size_change + _SMOOTHING * (min(resize, max_resize) - before.size_change)
    place = now.frame, now.x, now.y, now.size, likely_pixels
    return _Motion(*place, speed_x, speed_y, course_change, size_change), score


def _overlapping_pairs(objects: tuple[Object, ...]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of rows with masks that share too much of the smaller one."""
    masked = [row for row, obj in enumerate(objects) if obj.mask is not None]
    for one, other in combinations(masked, 2):
        a, b = objects[one], objects[other]
        if _boxes_intersect(a, b) and a.mask is not None and b.mask is not None:
            areas = masks.area(a.mask), masks.area(b.mask)
            iou = masks.iou(a.mask, b.mask)
            intersection = iou * sum(areas) / (1 + iou)
            if intersection > _MIN_OVERLAP_SHARE * min(areas):
                yield one, other


def _boxes_intersect(a: Object, b: Object) -> bool:
    along_x = min(a.box[2], b.box[2]) > max(a.box[0], b.box[0])
    return along_x and min(a.box[3], b.box[3]) > max(a.box[1], b.box[1])
