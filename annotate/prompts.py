"""Read and check what a person wrote: vocabularies, points, boxes and masks on frames."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate.errors import PromptError, UnknownName
from annotate.records import Box, Mask, Prompt, Vocabulary
from annotate.shipped import home

if TYPE_CHECKING:
    import pandas as pd

UNNAMED = "object"  # the class of an object that was given none
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf", re.IGNORECASE)
_VOCABULARY_KEYS = {"classes", "description"}


def vocabularies() -> dict[str, Path]:
    """The vocabularies that ship, by name: `designator.v1`."""
    folder = home("prompts") / "vocabulary"
    return {path.name.removesuffix(".toml"): path for path in sorted(folder.glob("*.toml"))}


def read_vocabulary(name: str | Path) -> Vocabulary:
    """A vocabulary by the name under which it ships, or by its file.

    Raises:
        UnknownName: no such vocabulary; names the nearest.
        PromptError: malformed; says in which line, or which key.
    """
    known = vocabularies()
    path = known.get(str(name), Path(name))
    if not path.is_file():
        raise UnknownName("vocabulary", str(name), known)
    data = path.read_bytes()
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: malformed TOML: {error}") from None
    classes = _classes(table, path)
    return Vocabulary(path.name.removesuffix(".toml"), classes, hashlib.sha256(data).hexdigest())


def _classes(table: Mapping[str, Any], path: Path) -> Mapping[str, Mapping[str, Any]]:
    for key in table:
        if key not in _VOCABULARY_KEYS:
            raise PromptError(f"{path}: {UnknownName('key', key, _VOCABULARY_KEYS)}")
    classes = table.get("classes")
    if not isinstance(classes, dict) or not classes:
        raise PromptError(f"{path}: no classes: expected a table [classes.NAME] for each class")
    for label, words in classes.items():
        if not isinstance(words, dict):
            raise PromptError(f"{path}: classes.{label}: expected a table, got {words!r}")
    return classes


@dataclass(frozen=True)
class Scope:
    """What prompts must fit: the clip's size and length, and the classes, where they are known."""

    size_wh: tuple[int, int]
    frame_count: int | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PromptTable:
    """All prompts of a clip, in order of frames and objects, and each object's class."""

    prompts: tuple[Prompt, ...]
    labels: Mapping[int, str]

    def digest(self) -> str:
        """A short hash of all that was said: same prompts, same digest."""
        words = hashlib.sha256(repr(sorted(self.labels.items())).encode())
        for prompt in self.prompts:
            mask = b"" if prompt.mask is None else np.packbits(prompt.mask).tobytes()
            points = prompt.points_xy.tobytes() + prompt.point_labels.tobytes()
            words.update(repr((prompt.frame, prompt.object_id, prompt.box)).encode())
            words.update(points + mask)
        return words.hexdigest()[:16]


def read_points(source: str | Path | pd.DataFrame, scope: Scope) -> pd.DataFrame:
    """A points table, checked: columns frame_id, object_id, x, y, label, class, in its own order.

    `source` is a CSV file or a DataFrame with columns `frame_id, object_id, x, y, label[, class]`,
    or `point_xy`, holding the pair, in place of `x` and `y`.

    Raises:
        PromptError: names the file, the row, the column and what was expected.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        name, table = "points", source.reset_index(drop=True)
    else:
        name, table = str(source), _read_csv(Path(source))
    table = _with_xy(table, name)
    rows = [_Row(name, number, row, scope).checked() for number, row in enumerate(_records(table))]
    columns = ["frame_id", "object_id", "x", "y", "label", "class"]
    points = pd.DataFrame(rows, columns=columns)
    _check_duplicates(points, name)
    return points


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError:
        raise PromptError(f"{path}: no such file of points") from None
    except (
        OSError,
        ValueError,
        UnicodeDecodeError,
    ) as error:  # pandas' parser errors are ValueErrors
        raise PromptError(f"{path}: not a CSV table that can be read: {error}") from None


def _with_xy(table: pd.DataFrame, name: str) -> pd.DataFrame:
    if "point_xy" in table.columns:
        pairs = [_pair(value, _where(name, row)) for row, value in enumerate(table["point_xy"])]
        table = table.assign(x=[x for x, _ in pairs], y=[y for _, y in pairs])
    for column in ("frame_id", "object_id", "x", "y", "label"):
        if column not in table.columns:
            there = ", ".join(map(str, table.columns))
            expected = "frame_id, object_id, x, y (or point_xy), label and perhaps class"
            raise PromptError(f"{name}: no column {column!r}: expected {expected}; it has {there}")
    return table


def _pair(value: Any, where: str) -> tuple[Any, Any]:
    numbers = _NUMBER.findall(value) if isinstance(value, str) else list(value)
    if len(numbers) != 2:
        expected = "a pair such as (12, 34)"
        raise PromptError(f"{where}, column point_xy: expected {expected}, got {value!r}")
    return numbers[0], numbers[1]


def _where(name: str, number: int) -> str:
    return f"{name}, row {number + 1}"


@dataclass(frozen=True)
class _Row:
    """One row of a points table, on its way in; rows are counted from 1, without the header."""

    name: str
    number: int
    row: Mapping[str, Any]
    scope: Scope

    def checked(self) -> tuple[int, int, float, float, int, str]:
        width, height = self.scope.size_wh
        frame, object_id = self._whole("frame_id"), self._whole("object_id")
        frame_count = self.scope.frame_count
        if frame_count is not None and frame >= frame_count:
            self._fail("frame_id", f"a frame of the clip, 0 to {frame_count - 1}")
        x, y = self._within("x", width), self._within("y", height)
        label = self._whole("label")
        if label not in (0, 1):
            self._fail("label", "1 (inside the object) or 0 (outside)")
        return frame, object_id, x, y, label, self._class()

    def _class(self) -> str:
        value = self.row.get("class")
        text = "" if value is None or value != value else str(value).strip()
        known = self.scope.labels
        if text and known is not None and text not in known:
            where = f"{_where(self.name, self.number)}, column class"
            raise PromptError(f"{where}: {UnknownName('class', text, known)}")
        return text or (known[0] if known is not None and len(known) == 1 else UNNAMED)

    def _whole(self, column: str) -> int:
        number = self._number(column, "a whole number from 0")
        if number < 0 or number != int(number):
            self._fail(column, "a whole number from 0")
        return int(number)

    def _within(self, column: str, size: int) -> float:
        number = self._number(column, "a number of pixels")
        if not 0 <= number < size:
            width, height = self.scope.size_wh
            self._fail(column, f"a point inside the picture of {width}x{height}")
        return number

    def _number(self, column: str, expected: str) -> float:
        try:
            number = float(self.row[column])
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            self._fail(column, expected)
        return number

    def _fail(self, column: str, expected: str) -> None:
        where = f"{_where(self.name, self.number)}, column {column}"
        raise PromptError(f"{where}: expected {expected}, got {self.row[column]!r}")


def _check_duplicates(points: pd.DataFrame, name: str) -> None:
    seen: dict[tuple[int, int, float, float], int] = {}
    columns = zip(points["frame_id"], points["object_id"], points["x"], points["y"], strict=True)
    for number, key in enumerate(columns):
        if key in seen:
            first = seen[key] + 1
            raise PromptError(f"{_where(name, number)}: the same point as row {first}; remove one")
        seen[key] = number


def table(
    points: pd.DataFrame | None = None,
    boxes: Iterable[tuple[int, int, Box]] = (),
    masks: Iterable[tuple[int, int, Mask]] = (),
    *,
    scope: Scope,
) -> PromptTable:
    """All that a person said, gathered by frame and object.

    `points` is what `read_points` gave; `boxes` and `masks` are (frame, object, box or mask).

    Raises:
        PromptError: an object of two classes, or whose first frame does not say where it is.
    """
    gathered: dict[tuple[int, int], Prompt] = {}
    named = scope.labels[0] if scope.labels is not None and len(scope.labels) == 1 else UNNAMED
    labels: dict[int, str] = {}
    if points is not None:
        labels = _labels(points)
        for _, group in points.groupby(["frame_id", "object_id"], sort=True):
            frame, object_id = int(group["frame_id"].iloc[0]), int(group["object_id"].iloc[0])
            xy, inside = group[["x", "y"]].to_numpy(float), group["label"].to_numpy(np.int64)
            gathered[frame, object_id] = Prompt(frame, object_id, xy, inside)
    for frame, object_id, box in boxes:
        known = gathered.get((frame, object_id), Prompt(frame, object_id))
        gathered[frame, object_id] = replace(known, box=box)
    for frame, object_id, mask in masks:
        known = gathered.get((frame, object_id), Prompt(frame, object_id))
        gathered[frame, object_id] = replace(known, mask=mask)
    prompts = tuple(gathered[key] for key in sorted(gathered))
    _check_starts(prompts)
    return PromptTable(prompts, {p.object_id: labels.get(p.object_id, named) for p in prompts})


def _labels(points: pd.DataFrame) -> dict[int, str]:
    labels: dict[int, str] = {}
    for object_id, label in zip(points["object_id"], points["class"], strict=True):
        if labels.setdefault(int(object_id), label) != label:
            both = f"{labels[int(object_id)]!r} and {label!r}"
            raise PromptError(f"object {object_id} is of two classes, {both}: give it one")
    return labels


def _check_starts(prompts: Iterable[Prompt]) -> None:
    by_object = defaultdict(list)
    for prompt in prompts:
        by_object[prompt.object_id].append(prompt)
    for object_id, given in by_object.items():
        first = given[0]
        if first.box is None and first.mask is None and not first.point_labels.any():
            raise PromptError(
                f"object {object_id} starts on frame {first.frame} with negative points only: "
                "give it a positive point, a box or a mask there"
            )
