"""Read and check tables of points: CSV files, and DataFrames.

A table comes from a person or another program, so every value is checked here, row by row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate.errors import PromptError, UnknownName

if TYPE_CHECKING:
    import pandas as pd


DEFAULT_LABEL = "object"  # the class of an object without one
GONE = -1  # label of a row without x and y: the object is gone until its next positive prompt
BOX_CORNERS = (2, 3)  # labels of the upper left and lower right corner, as SAM's own encoder has it
_NUMBER_PATTERN = re.compile(
    r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])|\b(?:nan|inf)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class PromptScope:
    """The limits of prompts: the clip's size and length, and the classes, where they are known."""

    size_wh: tuple[int, int]
    frame_count: int | None = None
    labels: tuple[str, ...] | None = None


def read_points(source: str | Path | pd.DataFrame, scope: PromptScope) -> pd.DataFrame:
    """Read and check a table of points; its rows stay in their order.

    `source` is a CSV file or a DataFrame with columns `frame_id, object_id, x, y, label[, class]`,
    or with `point_xy`, which holds the pair, in place of `x` and `y`. A row with label -1 has no x
    and y: the object is gone from that frame on, until its next positive prompt. Two rows with the
    labels 2 and 3 are the upper left and the lower right corner of a box, which may lie on the
    picture's right and lower edge. The result has the columns `frame_id, object_id, x, y, label,
    class`; x and y of a row with label -1 are NaN.

    Raises:
        PromptError: a wrong value; names the file, row and column, and what was expected.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        name, table = "points", source.reset_index(drop=True)
    else:
        name, table = str(source), read_table(Path(source))
    table = _with_xy_columns(table, name)
    rows = [
        _PointRow(name, number, row, scope).checked()
        for number, row in enumerate(_row_dicts(table))
    ]
    columns = ["frame_id", "object_id", "x", "y", "label", "class"]
    points = pd.DataFrame(rows, columns=columns)
    _check_pixels(points, name)
    _check_duplicates(points, name)
    _check_boxes(points, name)
    points["class"] = _classes(points, name, default_label(scope))
    return points


def _row_dicts(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        dict(zip(table.columns, row, strict=True))
        for row in table.itertuples(index=False, name=None)
    ]


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of texts; the separator is a comma, or a semicolon or tab as in spreadsheets.

    Raises:
        PromptError: not a CSV table that can be read.
    """
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = next((each for each in (",", ";", "\t") if each in first), ",")
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
            rows = [[cell.strip() for cell in row] for row in reader if any(row)]
    except FileNotFoundError:
        raise PromptError(f"{path}: no such file of points") from None
    except (OSError, ValueError, csv.Error) as error:  # also bytes that are not UTF-8
        raise PromptError(f"{path}: not a CSV table that can be read: {error}") from None
    header, rows = (rows[0], rows[1:]) if rows else ([], [])
    _check_columns(header, rows, str(path))
    width = len(header)
    filled = [[*row[:width], *[""] * (width - len(row))] for row in rows]
    return pd.DataFrame(filled, columns=header, dtype=str)


def _check_columns(header: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> None:
    """Refuse a row that is longer than the header: its values may be those of other columns."""
    for column in header:
        if column and header.count(column) > 1:
            raise PromptError(f"{name}: two columns are called {column!r}; remove one")
    for number, row in enumerate(rows):
        if any(row[len(header) :]):
            raise PromptError(
                f"{_row_location(name, number)}: {len(row)} values, but the header has "
                f"{len(header)} columns; quote a value that holds a comma"
            )


def _with_xy_columns(table: pd.DataFrame, name: str) -> pd.DataFrame:
    if "point_xy" in table.columns:
        pairs = [
            (None, None) if _is_blank(value) else _parse_pair(value, _row_location(name, row))
            for row, value in enumerate(table["point_xy"])
        ]
        xy: dict[str, list[Any]] = {"x": [x for x, _ in pairs], "y": [y for _, y in pairs]}
        table = table.assign(**xy)
    for column in ("frame_id", "object_id", "x", "y", "label"):
        if column not in table.columns:
            columns = ", ".join(map(str, table.columns))
            expected = "frame_id, object_id, x, y (or point_xy), label and optionally class"
            raise PromptError(
                f"{name}: no column {column!r}: expected {expected}; it has {columns}"
            )
    return table


def _is_blank(value: Any) -> bool:
    """Return whether a cell of a table holds nothing."""
    return value is None or (isinstance(value, str) and not value.strip()) or value is np.nan


def _parse_pair(value: Any, where: str) -> tuple[Any, Any]:
    if isinstance(value, str):
        numbers = _NUMBER_PATTERN.findall(value)
    else:
        numbers = list(value) if isinstance(value, Iterable) else []
    if len(numbers) != 2:
        expected = "a pair such as (12, 34)"
        raise PromptError(f"{where}, column point_xy: expected {expected}, got {value!r}")
    return numbers[0], numbers[1]


def _row_location(name: str, number: int) -> str:
    return f"{name}, row {number + 1}"


@dataclass(frozen=True)
class _PointRow:
    """One row of a points table, to be checked; messages count rows from 1, without the header."""

    name: str
    number: int
    row: Mapping[str, Any]
    scope: PromptScope

    def checked(self) -> tuple[int, int, float, float, int, str]:
        width, height = self.scope.size_wh
        frame, object_id = self._whole_number("frame_id"), self._whole_number("object_id")
        frame_count = self.scope.frame_count
        if frame_count is not None and frame >= frame_count:
            self._fail("frame_id", f"a frame of the clip, 0 to {frame_count - 1}")
        label = self._label()
        if label == GONE:
            for column in ("x", "y"):
                self._check_blank(column)
            return frame, object_id, float("nan"), float("nan"), label, self._class_label()
        edge = label in BOX_CORNERS
        x, y = (self._coordinate(*each, edge) for each in (("x", width), ("y", height)))
        return frame, object_id, x, y, label, self._class_label()

    def _label(self) -> int:
        expected = (
            "1 (inside the object), 0 (outside), 2 and 3 (corners of a box) or -1 (gone, without x "
            "and y)"
        )
        number = self._number("label", expected)
        if number not in (1, 0, GONE, *BOX_CORNERS):
            self._fail("label", expected)
        return int(number)

    def _check_blank(self, column: str) -> None:
        value = self.row[column]
        if not (_is_blank(value) or value != value):
            self._fail(column, "no value in a row with label -1 (the object is gone)")

    def _class_label(self) -> str:
        value = self.row.get("class")
        text = "" if value is None or value != value else str(value).strip()
        labels = self.scope.labels
        if text and labels is not None and text not in labels:
            where = f"{_row_location(self.name, self.number)}, column class"
            raise PromptError(f"{where}: {UnknownName('class', text, labels)}")
        return text

    def _whole_number(self, column: str) -> int:
        number = self._number(column, "a whole number from 0")
        if not 0 <= number < 2**53 or number != int(number):
            self._fail(column, "a whole number from 0")
        return int(number)

    def _coordinate(self, column: str, size: int, edge: bool) -> float:
        number = self._number(column, "a number of pixels")
        if not (0 <= number < size or (edge and number == size)):
            width, height = self.scope.size_wh
            self._fail(column, f"a point inside the picture of {width}x{height}")
        return number

    def _number(self, column: str, expected: str) -> float:
        try:
            number = float(self.row[column])
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not np.isfinite(number):
            self._fail(column, expected)
        return number

    def _fail(self, column: str, expected: str) -> None:
        where = f"{_row_location(self.name, self.number)}, column {column}"
        raise PromptError(f"{where}: expected {expected}, got {self.row[column]!r}")


def _check_pixels(points: pd.DataFrame, name: str) -> None:
    """Refuse points that are all within 0..1, unless they are all whole: they may be shares."""
    xy = points.loc[points["label"] != GONE, ["x", "y"]].to_numpy(float)
    if len(xy) and xy.max() <= 1 and (xy != xy.round()).any():
        raise PromptError(
            f"{name}: all x and y are within 0 and 1: are they shares of the picture? Points are "
            "in pixels: multiply x by the width of the picture and y by its height"
        )


def _classes(points: pd.DataFrame, name: str, default: str) -> list[str]:
    """Return the class of each row: an object's class, given on any of its rows, is that of all.

    Raises:
        PromptError: an object has two classes.
    """
    first_rows: dict[int, int] = {}  # object -> its first row with a class
    labels = points["class"].tolist()
    object_ids = points["object_id"].tolist()
    for number, (object_id, label) in enumerate(zip(object_ids, labels, strict=True)):
        first = first_rows.setdefault(object_id, number) if label else number
        if labels[first] != label:
            raise PromptError(
                f"{_row_location(name, number)}, column class: object {object_id} has two classes, "
                f"{labels[first]!r} and {label!r}: give it one; row {first + 1} gives the first"
            )
    return [labels[first_rows[each]] if each in first_rows else default for each in object_ids]


def default_label(scope: PromptScope) -> str:
    """Return the only class of the scope; DEFAULT_LABEL if it has several, or none."""
    labels = scope.labels or ()
    return labels[0] if len(labels) == 1 else DEFAULT_LABEL


def _check_duplicates(points: pd.DataFrame, name: str) -> None:
    rows: dict[tuple[Any, ...], int] = {}
    xy = points[["x", "y"]].fillna(-1)  # of a row with label -1, which has none
    corners = points["label"].where(points["label"].isin(BOX_CORNERS), 0)
    columns = zip(points["frame_id"], points["object_id"], xy["x"], xy["y"], corners, strict=True)
    for number, key in enumerate(columns):
        if key in rows:
            first = rows[key] + 1
            raise PromptError(
                f"{_row_location(name, number)}: the same point as row {first}; remove one"
            )
        rows[key] = number


def _check_boxes(points: pd.DataFrame, name: str) -> None:
    """Refuse a box without one of its corners, with two of a kind, or without an area."""
    upper_left, lower_right = BOX_CORNERS
    corners = points[points["label"].isin(BOX_CORNERS)]
    for (frame, object_id), rows in corners.groupby(["frame_id", "object_id"], sort=False):
        by_label = dict(zip(rows["label"], zip(rows["x"], rows["y"], strict=True), strict=True))
        first, last = by_label.get(upper_left), by_label.get(lower_right)
        if first is None or last is None or len(rows) != 2:
            problem = "expected one row with label 2 and one with label 3, the corners of a box"
        elif not (first[0] < last[0] and first[1] < last[1]):
            problem = "label 2 must be the upper left corner of the box, label 3 the lower right"
        else:
            continue
        where = _row_location(name, int(rows.index[0]))
        raise PromptError(f"{where}: frame {frame}, object {object_id}: {problem}")
