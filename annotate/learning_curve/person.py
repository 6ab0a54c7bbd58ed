"""Simulate a person who labels: what the labels are, and how many touches they take.

A touch is one deliberate act: a click or a key is 1, a drag (draw, move or resize a box) is 2. The
person knows the true objects. A frame on which the person stops takes a key. Where there is more
than one class, a new object takes a key for its class too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from annotate.dataset.diff import LOOK_TOUCHES, TOUCHES
from annotate.errors import ItemsError
from annotate.items.boxes import iou_matrix
from annotate.items.records import Item, Object

CLICK_TOUCHES, CLASS_TOUCHES, CLEAR_TOUCHES = 1, 1, 1
KEPT_IOU, MOVED_IOU = 0.7, 0.3  # from which a proposed box is kept, or moved


@dataclass(frozen=True)
class Person:
    """A person who labels objects of so many classes, and knows the true ones."""

    class_count: int

    @property
    def _class_touches(self) -> int:
        return CLASS_TOUCHES if self.class_count > 1 else 0

    def draw(self, truth: Item) -> int:
        """Count the touches that all boxes of an empty frame take."""
        return LOOK_TOUCHES + len(truth.objects) * (TOUCHES["added"] + self._class_touches)

    def click(self, objects: Iterable[tuple[int, Object]]) -> int:
        """Count the touches of a click on each object, given as (frame, object)."""
        frames = [frame for frame, _ in objects]
        each = CLICK_TOUCHES + self._class_touches
        return LOOK_TOUCHES * len(set(frames)) + each * len(frames)

    def correct(self, proposed: Item, truth: Item) -> tuple[Item, int]:
        """Correct the proposed boxes of a frame: the corrected frame, and the touches.

        A box is kept if its IoU with a true object is 0.7 or more, and moved from 0.3 on; one of
        another class gets the true class. Others are deleted, and what is missing is drawn. Where
        it takes less, all boxes are deleted at once by a key, and all are drawn.
        """
        drawn = self.draw(truth) + CLEAR_TOUCHES
        corrected, touches = self._correct_each(proposed, truth)
        return (corrected, touches) if touches <= drawn else (truth, drawn)

    def _correct_each(self, proposed: Item, truth: Item) -> tuple[Item, int]:
        ious = iou_matrix([o.box for o in proposed.objects], [o.box for o in truth.objects])
        same = np.array([[p.label == t.label for t in truth.objects] for p in proposed.objects])
        order = ious + same.reshape(ious.shape) * (ious >= MOVED_IOU)  # the right class goes first
        objects, touches, found = list(truth.objects), LOOK_TOUCHES, 0
        while ious.size and order.max() >= MOVED_IOU:
            row, column = np.unravel_index(int(order.argmax()), ious.shape)
            before, after = proposed.objects[row], truth.objects[column]
            if ious[row, column] >= KEPT_IOU:
                objects[column] = replace(after, box=before.box)
            else:
                touches += TOUCHES["moved"]
            touches += TOUCHES["relabelled"] * (before.label != after.label)
            order[row], order[:, column], found = 0, 0, found + 1
        touches += TOUCHES["deleted"] * (len(proposed.objects) - found)
        touches += (TOUCHES["added"] + self._class_touches) * (len(truth.objects) - found)
        return replace(truth, objects=tuple(objects)), touches


@dataclass(frozen=True)
class TrackedSequence:
    """Consecutive frames of a clip, `start` up to `stop` (exclusive), whose tracks end in them.

    `first` is the first frame and the object there of each track: where the person clicks.
    """

    clip: str
    start: int
    stop: int
    first: Mapping[int, tuple[int, Object]]


def tracked_sequences(clip: str, items: Sequence[Item]) -> list[TrackedSequence]:
    """Cut a clip where no track goes on, as at the cut between two shots.

    `items` are in order of frames. A sequence ends where the next track begins.

    Raises:
        ItemsError: an object has no track.
    """
    first: dict[int, tuple[int, Object]] = {}
    last: dict[int, int] = {}
    for item in items:
        for obj in item.objects:
            if obj.track is None:
                raise ItemsError(
                    f"{clip}#{item.frame}: an object has no track, so that it is not known which "
                    "click it belongs to; leave out the arms clicked and clicked-next"
                )
            first.setdefault(obj.track, (item.frame, obj))
            last[obj.track] = item.frame
    groups: list[list[int]] = []
    end = -1
    for track in sorted(first, key=lambda t: (first[t][0], t)):
        if first[track][0] > end:
            groups.append([])
        groups[-1].append(track)
        end = max(end, last[track])
    starts = [first[group[0]][0] for group in groups]
    stops = [*starts[1:], items[-1].frame + 1] if starts else []
    return [
        TrackedSequence(clip, start, stop, {track: first[track] for track in group})
        for group, start, stop in zip(groups, starts, stops, strict=True)
    ]
