"""Edit a table of points by actions, each of which gives a new document.

A document never changes, so that undo and redo keep the documents themselves. An action is a record
as the page sends it: {"kind": "point", "frame": 3, "object": 1, "x": 40.5, "y": 80, "label": 1}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from annotate.errors import PromptError
from annotate.items.points import BOX_CORNERS, DEFAULT_LABEL, GONE, PromptScope
from annotate.web.point.table import NEGATIVE, POSITIVE, PointRow, PointTable, format_pixels

Action = Mapping[str, Any]
MAX_OBJECT_ID = 2**31 - 1
MAX_CLASS_LENGTH = 200


@dataclass(frozen=True)
class Document:
    """A table of points, and the frames of which a person said that they look right."""

    table: PointTable = field(default_factory=PointTable)
    reviewed: frozenset[int] = frozenset()

    @property
    def rows(self) -> tuple[PointRow, ...]:
        """The rows of the table."""
        return self.table.rows

    def object_ids(self) -> list[int]:
        """Return the ids of all objects, ascending."""
        return sorted({row.object_id for row in self.rows})

    def class_of(self, object_id: int) -> str | None:
        """Return the class of an object, "" where it has none; None for an object without rows."""
        of_object = [row.label_class for row in self.rows if row.object_id == object_id]
        return next((label for label in of_object if label), "") if of_object else None

    def with_rows(self, rows: Sequence[PointRow]) -> Document:
        """Return the document with other rows."""
        return replace(self, table=replace(self.table, rows=tuple(rows)))


def apply_action(document: Document, action: Action, scope: PromptScope) -> Document:
    """Return the document after an action.

    Raises:
        PromptError: the action is of no known kind, lacks a value, or would make a table that
            cannot be propagated; the text can be shown to a person.
    """
    kind = action.get("kind")
    if not isinstance(kind, str) or kind not in _ACTIONS:
        raise PromptError(f"no action {kind!r}; there are: {', '.join(_ACTIONS)}")
    after = _ACTIONS[kind](document, _Reader(action, scope))
    _check_objects(after.rows)
    return after


def _check_objects(rows: Sequence[PointRow]) -> None:
    """Refuse objects that start with what says only where they are not."""
    frames: dict[int, dict[int, set[int]]] = {}
    for row in rows:
        frames.setdefault(row.object_id, {}).setdefault(row.frame, set()).add(row.label)
    for object_id, labels_by_frame in frames.items():
        first = min(labels_by_frame)
        if not labels_by_frame[first] & {POSITIVE, *BOX_CORNERS}:
            raise PromptError(
                f"object {object_id} would start on frame {first} without a point inside it: "
                "click inside it there first"
            )
        for frame, labels in labels_by_frame.items():
            if GONE in labels and len(labels) > 1:
                raise PromptError(
                    f"object {object_id} is gone from frame {frame} on, and has points there: "
                    "remove one of the two"
                )


@dataclass(frozen=True)
class _Reader:
    """Reads and checks the values of an action."""

    action: Action
    scope: PromptScope

    def frame(self) -> int:
        frame = self._whole("frame")
        count = self.scope.frame_count
        if count is not None and frame >= count:
            raise PromptError(f"frame {frame}: the clip has frames 0 to {count - 1}")
        return frame

    def object_id(self) -> int:
        object_id = self._whole("object")
        if object_id > MAX_OBJECT_ID:
            raise PromptError(f"object {object_id}: the highest number is {MAX_OBJECT_ID}")
        return object_id

    def xy(self, x_name: str = "x", y_name: str = "y", *, edges: bool = False) -> tuple[float, ...]:
        """Read a point inside the picture; with `edges`, also one on its lower right border."""
        point = []
        for name, size in zip((x_name, y_name), self.scope.size_wh, strict=True):
            number = round(self._number(name), 2)
            if not (0 <= number < size or (edges and number == size)):
                width, height = self.scope.size_wh
                raise PromptError(f"{name} {number:g} is outside the picture of {width}x{height}")
            point.append(number)
        return tuple(point)

    def label(self) -> int:
        label = self._whole("label")
        if label not in (POSITIVE, NEGATIVE):
            raise PromptError("label: expected 1 (inside) or 0 (outside)")
        return label

    def label_class(self, name: str = "class") -> str:
        text = self.action.get(name)
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_CLASS_LENGTH:
            raise PromptError(f"{name}: expected 1 to {MAX_CLASS_LENGTH} characters")
        if not text.isprintable():
            raise PromptError(f"{name}: it has characters that cannot be shown")
        labels = self.scope.labels
        if labels is not None and text.strip() not in labels:
            raise PromptError(f"no class {text.strip()!r}; there are: {', '.join(labels)}")
        return text.strip()

    def _whole(self, name: str) -> int:
        number = self._number(name)
        if number < 0 or number != int(number):
            raise PromptError(f"{name}: expected a whole number from 0, got {number:g}")
        return int(number)

    def _number(self, name: str) -> float:
        value = self.action.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PromptError(f"{name}: expected a number, got {value!r}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise PromptError(f"{name}: expected a finite number")
        return number


def _class_for(document: Document, read: _Reader, object_id: int) -> str:
    """Return the class of an object; of a new one, the class that the action gives."""
    known = document.class_of(object_id)
    if known is not None:
        return known
    if read.action.get("class") is not None:
        return read.label_class()
    labels = read.scope.labels or ()
    return labels[0] if labels else DEFAULT_LABEL


def _point(document: Document, read: _Reader) -> Document:
    frame, object_id, label = read.frame(), read.object_id(), read.label()
    x, y = read.xy()
    for row in document.rows:
        if (row.frame, row.object_id, row.x, row.y) == (frame, object_id, x, y):
            raise PromptError("there is a point of this object on this pixel already")
    label_class = _class_for(document, read, object_id)
    rows = document.rows
    if label == POSITIVE:  # a point inside ends "gone from here" on its own frame
        rows = tuple(row for row in rows if row.key != (frame, object_id, None, None, GONE))
    elif any(row.key == (frame, object_id, None, None, GONE) for row in rows):
        raise PromptError(f"object {object_id} is gone here: a point outside it says no more")
    return document.with_rows((*rows, PointRow(frame, object_id, x, y, label, label_class)))


def _find(document: Document, read: _Reader) -> PointRow:
    frame, object_id = read.frame(), read.object_id()
    x, y = read.xy()
    for row in document.rows:
        same_place = (row.frame, row.object_id, row.x, row.y) == (frame, object_id, x, y)
        if same_place and row.label in (POSITIVE, NEGATIVE):
            return row
    place = f"({format_pixels(x)}, {format_pixels(y)})"
    raise PromptError(f"frame {frame}, object {object_id}: there is no point at {place}")


def _unpoint(document: Document, read: _Reader) -> Document:
    removed = _find(document, read)
    return document.with_rows([row for row in document.rows if row is not removed])


def _move(document: Document, read: _Reader) -> Document:
    moved, (x, y) = _find(document, read), read.xy("to_x", "to_y")
    for row in document.rows:
        place = row.frame, row.object_id, row.x, row.y
        if row is not moved and place == (moved.frame, moved.object_id, x, y):
            raise PromptError("there is a point of this object on this pixel already")
    return document.with_rows([row.moved(x, y) if row is moved else row for row in document.rows])


def _box(document: Document, read: _Reader) -> Document:
    frame, object_id = read.frame(), read.object_id()
    corners = read.xy("x1", "y1", edges=True), read.xy("x2", "y2", edges=True)
    (x1, y1), (x2, y2) = corners
    if not (x1 < x2 and y1 < y2):
        raise PromptError("a box needs a width and a height: drag from corner to corner")
    label_class = _class_for(document, read, object_id)
    replaced = {*BOX_CORNERS, GONE}
    rows = [
        row
        for row in document.rows
        if (row.frame, row.object_id) != (frame, object_id) or row.label not in replaced
    ]
    rows += [
        PointRow(frame, object_id, x, y, label, label_class)
        for (x, y), label in zip(corners, BOX_CORNERS, strict=True)
    ]
    return document.with_rows(rows)


def _boxes(document: Document, read: _Reader) -> Document:
    """Add several boxes as one action, such as those of a detector."""
    records = read.action.get("boxes")
    if not isinstance(records, list) or not records:
        raise PromptError("boxes: expected a list of boxes")
    for record in records:
        if not isinstance(record, dict):
            raise PromptError("boxes: expected JSON objects")
        document = _box(document, _Reader(record, read.scope))
    return document


def _clear(document: Document, read: _Reader) -> Document:
    """Remove what an object has on one frame; a frame without any stays as it is."""
    place = read.frame(), read.object_id()
    return document.with_rows([row for row in document.rows if (row.frame, row.object_id) != place])


def _gone(document: Document, read: _Reader) -> Document:
    """Say that an object is gone from a frame on, or take this back."""
    frame, object_id = read.frame(), read.object_id()
    key = frame, object_id, None, None, GONE
    if any(row.key == key for row in document.rows):
        return document.with_rows([row for row in document.rows if row.key != key])
    first = min((r.frame for r in document.rows if r.object_id == object_id), default=None)
    if first is None or frame <= first:
        raise PromptError(
            f"object {object_id} has not started before frame {frame}: there is nothing to end"
        )
    rows = [row for row in document.rows if (row.frame, row.object_id) != (frame, object_id)]
    label_class = document.class_of(object_id) or ""
    return document.with_rows([*rows, PointRow(frame, object_id, None, None, GONE, label_class)])


def _class(document: Document, read: _Reader) -> Document:
    object_id, label_class = read.object_id(), read.label_class()
    if document.class_of(object_id) is None:
        raise PromptError(f"there is no object {object_id}")
    return document.with_rows(
        [
            row.with_class(label_class) if row.object_id == object_id else row
            for row in document.rows
        ]
    )


def _delete(document: Document, read: _Reader) -> Document:
    object_id = read.object_id()
    rows = [row for row in document.rows if row.object_id != object_id]
    if len(rows) == len(document.rows):
        raise PromptError(f"there is no object {object_id}")
    return document.with_rows(rows)


def _reviewed(document: Document, read: _Reader) -> Document:
    """Note that a frame looks right, or with "value": false, take this back."""
    frame = read.frame()
    value = read.action.get("value", True)
    changed = document.reviewed | {frame} if value else document.reviewed - {frame}
    return replace(document, reviewed=changed)


_ACTIONS: Mapping[str, Callable[[Document, _Reader], Document]] = {
    "point": _point,
    "unpoint": _unpoint,
    "move": _move,
    "box": _box,
    "boxes": _boxes,
    "clear": _clear,
    "gone": _gone,
    "class": _class,
    "delete": _delete,
    "reviewed": _reviewed,
}
