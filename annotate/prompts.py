"""Read and check prompts on a clip: points tables, boxes, masks and areas to ignore.

`read_points` checks a CSV file or DataFrame of points; `parse_box`, `parse_frame_box` and
`parse_mask` check texts such as `FRAME,OBJECT,X1,Y1,X2,Y2`; `prompt_table` joins all of them into
one PromptTable. `ignore_mask` makes the mask of the areas that are left out of a comparison.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate.errors import PromptError, UnknownName, VideoError
from annotate.items.records import Box, Mask, Prompt
from annotate.video.images import open_upright

if TYPE_CHECKING:
    import pandas as pd


DEFAULT_LABEL = "object"  # the class of an object that was given none
_NUMBER_PATTERN = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf", re.IGNORECASE)


@dataclass(frozen=True)
class PromptScope:
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


def read_points(source: str | Path | pd.DataFrame, scope: PromptScope) -> pd.DataFrame:
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
    table = _with_xy_columns(table, name)
    rows = [
        _PointRow(name, number, row, scope).checked()
        for number, row in enumerate(_row_dicts(table))
    ]
    columns = ["frame_id", "object_id", "x", "y", "label", "class"]
    points = pd.DataFrame(rows, columns=columns)
    _check_duplicates(points, name)
    return points


def _row_dicts(table: pd.DataFrame) -> list[dict[str, Any]]:
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


def _with_xy_columns(table: pd.DataFrame, name: str) -> pd.DataFrame:
    if "point_xy" in table.columns:
        pairs = [
            _parse_pair(value, _row_location(name, row))
            for row, value in enumerate(table["point_xy"])
        ]
        table = table.assign(x=[x for x, _ in pairs], y=[y for _, y in pairs])
    for column in ("frame_id", "object_id", "x", "y", "label"):
        if column not in table.columns:
            there = ", ".join(map(str, table.columns))
            expected = "frame_id, object_id, x, y (or point_xy), label and perhaps class"
            raise PromptError(f"{name}: no column {column!r}: expected {expected}; it has {there}")
    return table


def _parse_pair(value: Any, where: str) -> tuple[Any, Any]:
    numbers = _NUMBER_PATTERN.findall(value) if isinstance(value, str) else list(value)
    if len(numbers) != 2:
        expected = "a pair such as (12, 34)"
        raise PromptError(f"{where}, column point_xy: expected {expected}, got {value!r}")
    return numbers[0], numbers[1]


def _row_location(name: str, number: int) -> str:
    return f"{name}, row {number + 1}"


@dataclass(frozen=True)
class _PointRow:
    """One row of a points table, on its way in; rows are counted from 1, without the header."""

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
        x, y = self._coordinate("x", width), self._coordinate("y", height)
        label = self._whole_number("label")
        if label not in (0, 1):
            self._fail("label", "1 (inside the object) or 0 (outside)")
        return frame, object_id, x, y, label, self._class_label()

    def _class_label(self) -> str:
        value = self.row.get("class")
        text = "" if value is None or value != value else str(value).strip()
        known = self.scope.labels
        if text and known is not None and text not in known:
            where = f"{_row_location(self.name, self.number)}, column class"
            raise PromptError(f"{where}: {UnknownName('class', text, known)}")
        return text or (known[0] if known is not None and len(known) == 1 else DEFAULT_LABEL)

    def _whole_number(self, column: str) -> int:
        number = self._number(column, "a whole number from 0")
        if number < 0 or number != int(number):
            self._fail(column, "a whole number from 0")
        return int(number)

    def _coordinate(self, column: str, size: int) -> float:
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
        where = f"{_row_location(self.name, self.number)}, column {column}"
        raise PromptError(f"{where}: expected {expected}, got {self.row[column]!r}")


def _check_duplicates(points: pd.DataFrame, name: str) -> None:
    seen: dict[tuple[int, int, float, float], int] = {}
    columns = zip(points["frame_id"], points["object_id"], points["x"], points["y"], strict=True)
    for number, key in enumerate(columns):
        if key in seen:
            first = seen[key] + 1
            raise PromptError(
                f"{_row_location(name, number)}: the same point as row {first}; remove one"
            )
        seen[key] = number


def prompt_table(
    points: pd.DataFrame | None = None,
    boxes: Iterable[tuple[int, int, Box]] = (),
    masks: Iterable[tuple[int, int, Mask]] = (),
    *,
    scope: PromptScope,
) -> PromptTable:
    """All that a person said, gathered by frame and object.

    `points` is what `read_points` gave; `boxes` and `masks` are (frame, object, box or mask).

    Raises:
        PromptError: an object of two classes, or whose first frame does not say where it is.
    """
    gathered: dict[tuple[int, int], Prompt] = {}
    named = (
        scope.labels[0] if scope.labels is not None and len(scope.labels) == 1 else DEFAULT_LABEL
    )
    labels: dict[int, str] = {}
    if points is not None:
        labels = _object_labels(points)
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


def _object_labels(points: pd.DataFrame) -> dict[int, str]:
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


def parse_box(text: str, scope: PromptScope) -> tuple[int, int, Box]:
    """`FRAME,OBJECT,X1,Y1,X2,Y2` as frame, object and box (xyxy, pixels).

    Raises:
        PromptError: not six numbers, a frame beyond the clip, a box outside the picture.
    """
    frame, object_id, *box = _parse_numbers(text, "--box", "FRAME,OBJECT,X1,Y1,X2,Y2")
    _check_frame(frame, f"--box {text}", scope)
    return int(frame), int(object_id), _checked_box(box, f"--box {text}", scope)


def parse_frame_box(text: str, scope: PromptScope) -> tuple[int, Box]:
    """`FRAME,X1,Y1,X2,Y2` as frame and box (xyxy, pixels).

    Raises:
        PromptError: not five numbers, a frame beyond the clip, a box outside the picture.
    """
    frame, *box = _parse_numbers(text, "--box", "FRAME,X1,Y1,X2,Y2")
    _check_frame(frame, f"--box {text}", scope)
    return int(frame), _checked_box(box, f"--box {text}", scope)


def parse_mask(text: str, scope: PromptScope) -> tuple[int, int, Mask]:
    """`FRAME:OBJECT:mask.png` as frame, object and mask; what is brighter than half is inside.

    Raises:
        PromptError: no such file, no picture, a picture of another size, an empty mask.
    """
    parts = text.split(":", 2)
    if len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        raise PromptError(f"--mask {text}: expected FRAME:OBJECT:mask.png")
    _check_frame(int(parts[0]), f"--mask {text}", scope)
    try:
        mask = _read_bright_pixels(Path(parts[2]))
    except FileNotFoundError:
        raise PromptError(f"--mask {text}: no such file") from None
    except VideoError:
        raise PromptError(f"--mask {text}: not a picture that can be read") from None
    width, height = scope.size_wh
    if mask.shape != (height, width):
        got = f"{mask.shape[1]}x{mask.shape[0]}"
        raise PromptError(f"--mask {text}: a mask of {got}, but the clip is {width}x{height}")
    if not mask.any():
        raise PromptError(f"--mask {text}: an empty mask: nothing in it is white")
    return int(parts[0]), int(parts[1]), mask


def _parse_numbers(text: str, option: str, expected: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != expected.count(",") + 1 or not np.isfinite(numbers).all():
        raise PromptError(f"{option} {text}: expected {expected}")
    whole = numbers[: expected.split(",").index("X1")]
    if any(number < 0 or number != int(number) for number in whole):
        raise PromptError(f"{option} {text}: expected {expected}, whole numbers before the box")
    return numbers


def _check_frame(frame: float, where: str, scope: PromptScope) -> None:
    if scope.frame_count is not None and frame >= scope.frame_count:
        raise PromptError(f"{where}: the clip has frames 0 to {scope.frame_count - 1}")


def _checked_box(box: Sequence[float], where: str, scope: PromptScope) -> Box:
    x1, y1, x2, y2 = box
    width, height = scope.size_wh
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise PromptError(f"{where}: not a box (x1, y1, x2, y2) inside {width}x{height}")
    return x1, y1, x2, y2


_BOX_PATTERN = re.compile(r"[-\d.,\s]+")
_EXPECTED_AREA = "expected X1,Y1,X2,Y2 in pixels, or a picture whose white is meant"


def ignore_mask(areas: Sequence[str], size_wh: tuple[int, int]) -> Mask | None:
    """What boxes `X1,Y1,X2,Y2` and pictures, whose white is meant, cover together, (H, W) bool.

    Raises:
        PromptError: it is neither of these, does not fit the clip, or leaves nothing to look at.
    """
    if not areas:
        return None
    mask = np.zeros(size_wh[::-1], bool)
    for text in areas:
        mask |= (
            _mask_from_box(text, size_wh)
            if _BOX_PATTERN.fullmatch(text)
            else _mask_from_picture(text, size_wh)
        )
    if mask.all():
        raise PromptError(f"--ignore {' '.join(areas)}: nothing is left to look at")
    return mask


def _mask_from_box(text: str, size_wh: tuple[int, int]) -> Mask:
    width, height = size_wh
    try:
        x1, y1, x2, y2 = (int(part) for part in text.split(","))
    except ValueError:
        raise PromptError(f"--ignore {text}: {_EXPECTED_AREA}") from None
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise PromptError(f"--ignore {text}: not a box (x1, y1, x2, y2) inside {width}x{height}")
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def _read_bright_pixels(path: Path) -> Mask:
    """Read an image upright: True where it is brighter than half."""
    if not path.exists():
        raise FileNotFoundError(path)
    with open_upright(path) as image:
        return np.asarray(image.convert("L")) > 127


def _mask_from_picture(text: str, size_wh: tuple[int, int]) -> Mask:
    try:
        white = _read_bright_pixels(Path(text))
    except FileNotFoundError:
        raise PromptError(f"--ignore {text}: no such file; {_EXPECTED_AREA}") from None
    except VideoError:
        raise PromptError(f"--ignore {text}: not a picture that can be read") from None
    if white.shape[::-1] != size_wh:
        got, clip = (f"{w}x{h}" for w, h in (white.shape[::-1], size_wh))
        raise PromptError(f"--ignore {text}: a picture of {got}, but the clip is {clip}")
    return white
