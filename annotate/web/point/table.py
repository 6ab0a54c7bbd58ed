"""Read a table of points so that it can be edited and written back with all else as it was.

Columns that this package does not know, their order, the separator, the line ends and the texts of
rows that were not edited all stay. What a row means is checked by `annotate.items.points`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from annotate.errors import PromptError
from annotate.files import atomic_file
from annotate.items.points import PromptScope, read_points

DEFAULT_COLUMNS = ("frame_id", "object_id", "x", "y", "label", "class")
POSITIVE, NEGATIVE = 1, 0  # labels of a row: inside, outside


@dataclass(frozen=True)
class PointRow:
    """One row: a point in pixels, or with GONE a frame, where `x` and `y` are None.

    `label_class` is empty where the table has no classes. `cells` are the texts of the row in its
    file, by column, without those that were edited since.
    """

    frame: int
    object_id: int
    x: float | None
    y: float | None
    label: int
    label_class: str = ""
    cells: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int, float | None, float | None, int]:
        """What identifies the row: no two rows of a table have the same."""
        return self.frame, self.object_id, self.x, self.y, self.label

    def moved(self, x: float, y: float) -> PointRow:
        """Return the row with other coordinates."""
        return replace(self, x=x, y=y, cells=self._cells_without("x", "y", "point_xy"))

    def with_class(self, label_class: str) -> PointRow:
        """Return the row with another class."""
        return replace(self, label_class=label_class, cells=self._cells_without("class"))

    def _cells_without(self, *columns: str) -> dict[str, str]:
        return {name: text for name, text in self.cells.items() if name not in columns}


@dataclass(frozen=True)
class PointTable:
    """The rows of a table of points, and the form of its file."""

    rows: tuple[PointRow, ...] = ()
    columns: tuple[str, ...] = DEFAULT_COLUMNS
    separator: str = ","
    line_end: str = "\n"
    byte_order_mark: bool = False

    def to_csv(self) -> bytes:
        """Format the file; `read_point_table` reads it back as equal rows."""
        columns = self.columns
        if "class" not in columns and any(row.label_class for row in self.rows):
            columns = (*columns, "class")
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self.separator, lineterminator=self.line_end)
        writer.writerow(columns)
        for row in self.rows:
            cells = _cells(row)
            writer.writerow([cells.get(column, "") for column in columns])
        return ("\ufeff" if self.byte_order_mark else "").encode() + text.getvalue().encode()

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            OutputError: nothing can be written there.
        """
        with atomic_file(path) as draft:
            draft.write_bytes(self.to_csv())


def read_point_table(path: Path, scope: PromptScope) -> PointTable:
    """Read and check a CSV file of points; an empty table where there is no file.

    Raises:
        PromptError: a wrong value; names the file, row and column.
    """
    if not path.exists():
        return PointTable()
    checked = read_points(path, scope)
    text = path.read_bytes().decode("utf-8-sig")
    first_line = text.partition("\n")[0]
    separator = next((each for each in (",", ";", "\t") if each in first_line), ",")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    header, *cells = [[cell.strip() for cell in line] for line in lines if any(line)]
    if len(cells) != len(checked):
        raise PromptError(f"{path}: {len(cells)} rows, of which {len(checked)} can be read")
    rows = [
        PointRow(
            frame,
            object_id,
            x,
            y,
            label,
            label_class if "class" in header else "",
            dict(zip(header, line, strict=False)),
        )
        for (frame, object_id, x, y, label, label_class), line in zip(
            checked.itertuples(index=False), cells, strict=True
        )
    ]
    return PointTable(
        tuple(_without_nan(row) for row in rows),
        tuple(header),
        separator,
        "\r\n" if first_line.endswith("\r") else "\n",
        path.read_bytes().startswith(b"\xef\xbb\xbf"),
    )


def _without_nan(row: PointRow) -> PointRow:
    return row if row.x == row.x else replace(row, x=None, y=None)


def format_pixels(number: float | None) -> str:
    """Format a coordinate; at most two digits after the point.

    Examples:
        >>> format_pixels(12.0), format_pixels(12.5), format_pixels(12.346), format_pixels(None)
        ('12', '12.5', '12.35', '')
    """
    return "" if number is None else f"{number:.2f}".rstrip("0").rstrip(".")


def _cells(row: PointRow) -> dict[str, str]:
    """Return the texts of a row by column."""
    x, y = format_pixels(row.x), format_pixels(row.y)
    texts = {
        "frame_id": str(row.frame),
        "object_id": str(row.object_id),
        "x": x,
        "y": y,
        "label": str(row.label),
        "class": row.label_class,
        "point_xy": f"({x}, {y})" if x else "",
    }
    return texts | dict(row.cells)
