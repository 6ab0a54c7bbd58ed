"""Find YOLO label files, and read their rows: boxes, outlines, keypoints, scores, track ids.

A row does not say what its numbers are. The dataset does (`kpt_shape` and `task` in `data.yaml`),
or all of its rows together: `RowReader` looks at every row before the first one is read.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from annotate.dataset.export import clip_imported_box
from annotate.dataset.yolo_description import read_lines
from annotate.errors import DatasetError
from annotate.items import boxes, masks
from annotate.items.import_report import ImportReport
from annotate.items.records import Object

_BOX_COLUMNS = 5  # class, x, y, width, height
_MAX_BOX_COLUMNS = 7  # with score and track
_OBB_COLUMNS = 9  # class and four corners
_MIN_ROWS = 3  # that all must look alike before a rare reading is taken
_MAX_TRACK = 2**53
_OVERHANG = 0.01  # as for an imported box
_LABEL_FOLDERS = {"images", "jpegimages"}  # beside which there is a folder `labels`
_HOW_TO_DECIDE = "set `task` (detect, segment or pose) in the YAML file"


@dataclass
class _Column:
    """What the last numbers of all rows of one length have in common."""

    rows: int = 0
    whole: bool = True  # the last number of each row is a whole number, such as 3.0
    digits: bool = True  # and is written without decimals, such as 3
    max_last: float = -math.inf
    scores: bool = True  # the number before the last is within 0 and 1
    boxes: bool = True  # the first four numbers are a box inside the image
    other_digits: bool = False  # another number is written so too
    # columns after the keypoints -> whether each row could be a box and keypoints before those
    keypoints: dict[int, bool] = field(default_factory=lambda: {0: True, 1: True, 2: True})

    def add(self, words: Sequence[str], numbers: Sequence[float]) -> None:
        """Look at one more row: its words, and its numbers after the class."""
        self.rows += 1
        self.whole &= numbers[-1] % 1 == 0
        self.digits &= _is_digits(words[-1])
        self.max_last = max(self.max_last, numbers[-1])
        self.scores &= 0 <= numbers[-2] <= 1
        self.boxes &= _is_box(numbers)
        if self.digits and not self.other_digits:
            self.other_digits = any(map(_is_digits, words[1:-1]))
        for extra, holds in self.keypoints.items():
            if holds:
                self.keypoints[extra] = _are_keypoints(numbers[: len(numbers) - extra])

    @property
    def has_track(self) -> bool:
        """True where the last column can only be, or looks like, a track id."""
        if not self.scores:
            return False
        return (self.whole and self.max_last > 1) or (self.digits and not self.other_digits)


@dataclass
class RowReader:
    """Reads rows as the dataset says they are, or as all its rows together suggest.

    `task` and `kpt_shape` are those of `data.yaml`, as text. Call `look` with every label file,
    then `decide`, then `read`.
    """

    classes: Sequence[str]
    report: ImportReport
    task: str = ""
    kpt_shape: tuple[int, int] | None = None
    _columns: dict[int, _Column] = field(default_factory=dict)
    _extras: dict[int, int | None] = field(default_factory=lambda: {_BOX_COLUMNS: 0})
    _tracked: dict[int, bool] = field(default_factory=dict)

    def look(self, lines: Iterable[str]) -> None:
        """Look at the rows of one label file; damaged rows are named when they are read."""
        for line in lines:
            words = line.split()
            if len(words) <= _BOX_COLUMNS:
                continue
            try:
                column = self._columns.get(len(words)) or _Column()
                parsed = words[1:] if any(column.keypoints.values()) else words[1:5] + words[-2:]
                column.add(words, [float(word) for word in parsed])
            except ValueError:
                continue
            self._columns[len(words)] = column

    def decide(self, where: Path) -> None:
        """Decide what the numbers of each length of row are, and note it in the report.

        Raises:
            DatasetError: the rows are probably keypoints, but the dataset does not say so.
        """
        if self.task == "pose" and self.kpt_shape is None:
            raise DatasetError(f"{where}: `task` is pose, but there is no kpt_shape; add it")
        if self.kpt_shape is not None and self._columns:
            self.report.note("the keypoints are not imported, only the boxes of the objects")
        elif not self.task:
            self._refuse_keypoints(where)
        for count, column in self._columns.items():
            extra = self._extras[count] = self._count_extras(count, column)
            if extra:
                self._tracked[count] = extra == 2 or column.max_last > 1 or column.digits
                kind = ("score", "track")[self._tracked[count]] if extra == 1 else "score, track"
                shape = "box" if self.kpt_shape or count <= _MAX_BOX_COLUMNS else "outline"
                self.report.note(f"rows of {count} numbers were read as class, {shape}, {kind}")

    def _refuse_keypoints(self, where: Path) -> None:
        """Refuse rows of one length that would all be a box with keypoints and their marks."""
        if len(self._columns) != 1:
            return
        [(count, column)] = self._columns.items()
        for extra, holds in column.keypoints.items():
            if holds:
                points = (count - extra - _BOX_COLUMNS) // 3
                raise DatasetError(
                    f"{where}: rows of {count} numbers look like a box and {points} keypoints; if "
                    f"they are, add kpt_shape: [{points}, 3] to the YAML file; if they are "
                    "outlines, add task: segment"
                )
        if count > _OBB_COLUMNS and column.rows > 1:
            self.report.note(
                f"all rows have {count} numbers, and were read as outlines; if they are keypoints, "
                "add kpt_shape to the YAML file"
            )

    def _count_extras(self, count: int, column: _Column) -> int | None:
        """Count the columns after the shape: 0, 1 (score or track) or 2; None for other rows."""
        if self.kpt_shape is not None or self.task == "obb":
            extra = count - self._full_columns
            return extra if 0 <= extra <= 2 else None
        if count % 2 == 0:
            return 1
        if count > _MAX_BOX_COLUMNS:
            sure = column.max_last > 1 + _OVERHANG or column.rows >= _MIN_ROWS
            return 2 if column.has_track and sure else 0
        if self.task == "detect":
            return 2
        if self.task == "segment" and column.max_last <= 1 + _OVERHANG:
            return 0
        only_boxes = column.boxes and max(self._columns) == _MAX_BOX_COLUMNS
        return 2 if column.has_track and only_boxes else 0

    @property
    def _full_columns(self) -> int:
        """The numbers of a row with keypoints, or of an oriented box."""
        return _BOX_COLUMNS + math.prod(self.kpt_shape) if self.kpt_shape else _OBB_COLUMNS

    def read(self, line: str, size_wh: tuple[int, int], where: str) -> Object | None:
        """Read a row; None where it has no area, which the report counts.

        Raises:
            DatasetError: the row is damaged, or of a class that is not there.
        """
        words = line.split()
        label, numbers = self._read_class(line, words, where)
        extra = self._extras[len(words)]
        if extra is None:
            what = f"kpt_shape {list(self.kpt_shape)}" if self.kpt_shape else "task obb"
            raise DatasetError(
                f"{where}: {len(words)} numbers, but a row of {what} has {self._full_columns}"
            )
        score, track = self._read_extras(numbers, len(words), extra, where)
        shape = numbers[: len(numbers) - extra]
        if self.kpt_shape is not None or len(shape) == 4:
            x, y, width, height = (
                side * size for side, size in zip(shape[:4], (*size_wh, *size_wh), strict=True)
            )
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            obj = Object(label, clip_imported_box(corners, size_wh, where), score, track)
        else:
            obj = _read_outline(label, np.array(shape).reshape(-1, 2) * size_wh, size_wh, where)
            obj = Object(label, obj.box, score, track, obj.mask)
        x1, y1, x2, y2 = obj.box
        if x1 < x2 and y1 < y2:
            return obj
        self.report.skip_row("they have no area", where)
        return None

    def read_boxes(self, lines: Sequence[str], size_wh: tuple[int, int]) -> list[Object] | None:
        """Read rows that are all a class and a usable box; None if any is not: see `read`."""
        rows = [line.split() for line in lines]
        if self.kpt_shape is not None or any(len(words) != _BOX_COLUMNS for words in rows):
            return None
        try:
            numbers = np.array([[float(word) for word in words] for words in rows])
        except ValueError:
            return None
        if not len(rows) or not np.isfinite(numbers).all():
            return None
        ids, (x, y, width, height) = numbers[:, 0], numbers[:, 1:].T * [[s] for s in size_wh * 2]
        xyxy = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
        low, high = -_OVERHANG * np.array(size_wh), (1 + _OVERHANG) * np.array(size_wh)
        is_class = (ids % 1 == 0) & (ids >= 0) & (ids < len(self.classes))
        is_inside = (xyxy[:, :2] >= low).all(axis=1) & (xyxy[:, 2:] <= high).all(axis=1)
        clipped = boxes.clip(xyxy, size_wh).tolist()
        rounded = [(round(a, 3), round(b, 3), round(c, 3), round(d, 3)) for a, b, c, d in clipped]
        has_area = all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in rounded)
        if not (is_class & is_inside).all() or not has_area:
            return None
        labels = [self.classes[number] for number in ids.astype(int).tolist()]
        return [Object(label, box) for label, box in zip(labels, rounded, strict=True)]

    def _read_class(self, line: str, words: list[str], where: str) -> tuple[str, list[float]]:
        try:
            class_id, *numbers = map(float, words)
        except ValueError:
            raise DatasetError(f"{where}: not numbers: {line.strip()[:60]!r}") from None
        if len(numbers) < 4 or not all(map(math.isfinite, (class_id, *numbers))):
            raise DatasetError(
                f"{where}: expected a class and a box or an outline, got {line[:60]!r}"
            )
        if class_id not in range(len(self.classes)):
            raise DatasetError(
                f"{where}: class id {class_id:g}, but there are only 0 to {len(self.classes) - 1}"
            )
        return self.classes[int(class_id)], numbers

    def _read_extras(
        self, numbers: list[float], count: int, extra: int, where: str
    ) -> tuple[float | None, int | None]:
        score, track = None, None
        if extra == 2 or (extra == 1 and not self._tracked[count]):
            score = numbers[-extra]
            if not 0 <= score <= 1:
                raise DatasetError(
                    f"{where}: {score:g} is no score within 0 and 1; if the rows are no boxes or "
                    f"outlines with a score, {_HOW_TO_DECIDE}"
                )
        if extra and self._tracked[count]:
            if numbers[-1] % 1 or abs(numbers[-1]) > _MAX_TRACK:
                raise DatasetError(
                    f"{where}: {numbers[-1]:g} is no track id; if the rows do not end with one, "
                    f"{_HOW_TO_DECIDE}"
                )
            track = int(numbers[-1]) if numbers[-1] >= 0 else None  # -1: not tracked
        return score, track


def _is_digits(word: str) -> bool:
    return word.lstrip("+-").isdigit()


def _is_box(numbers: Sequence[float]) -> bool:
    low, high = -_OVERHANG, 1 + _OVERHANG
    return all(
        side > 0 and low <= centre - side / 2 and centre + side / 2 <= high
        for centre, side in ((numbers[0], numbers[2]), (numbers[1], numbers[3]))
    )


def _are_keypoints(numbers: Sequence[float]) -> bool:
    """Return whether a row could be a box and keypoints, each with a mark of 0, 1 or 2."""
    marks = numbers[6::3]
    return (
        len(numbers) % 3 == 1
        and len(numbers) > _MAX_BOX_COLUMNS
        and _is_box(numbers)
        and all(mark in (0, 1, 2) for mark in marks)
    )


def _read_outline(
    label: str, ring: npt.NDArray[np.float64], size_wh: tuple[int, int], where: str
) -> Object:
    """Fill an outline as training programs do: with its own points."""
    (x1, y1), (x2, y2) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    box = clip_imported_box((x1, y1, x2, y2), size_wh, where)
    points = np.round(ring).astype(np.int32)
    left = min(max(int(points[:, 0].min()), 0), size_wh[0] - 1)
    right = min(max(int(points[:, 0].max()) + 1, left + 1), size_wh[0])
    columns = np.zeros((size_wh[1], right - left), np.uint8)  # all that the outline can paint
    cv2.fillPoly(columns, [points - np.array([left, 0], np.int32)], [1])
    mask = masks.encode_columns(columns.view(np.bool_), left, size_wh[0])
    mask_box = masks.box(mask)
    return Object(label, mask_box or (box[0], box[1], box[0], box[1]), mask=mask)


@dataclass
class LabelFiles:
    """Finds the label file of each image, in the places that other programs write it."""

    report: ImportReport
    image_stems: set[tuple[Path, str]]
    _folders: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)
    _used: dict[Path, Path] = field(default_factory=dict)

    def find(self, image_path: Path) -> Path | None:
        """Find the label file of an image, by the path of the image itself, not of its link."""
        found = self._candidates(image_path)
        if not found and (real := image_path.resolve()) != image_path:
            found = self._candidates(real)
            for each in found[:1]:
                self.report.notice("its label file is beside the file that it links to", str(each))
        if not found:
            return None
        if len(found) > 1 and len({_content(each) for each in found}) > 1:
            others = ", not ".join(map(str, found))
            self.report.notice("it has several label files, and the first was read", others)
        other = self._used.setdefault(found[0], image_path)
        if other != image_path:
            self.report.notice(
                "it shares its label file with another image", f"{image_path}, with {other.name}"
            )
        return found[0]

    def _candidates(self, image_path: Path) -> list[Path]:
        """List the label files that could be meant: that of Ultralytics' rule first."""
        found: dict[Path, None] = {}
        for folder in label_folders(image_path.parent):
            listing = self._folders.get(folder)
            if listing is None:
                listing = self._folders[folder] = _list_labels(folder)
            for stem in (image_path.stem, image_path.name):
                same_name = listing.get(_normalize(stem), [])
                exact = [each for each in same_name if each.stem == stem]
                others = [
                    each
                    for each in same_name
                    if (image_path.parent, each.stem) not in self.image_stems
                ]
                found.update(dict.fromkeys((exact or others)[:1]))
        return list(found)

    def report_unmatched(self, used: Iterable[Path | None]) -> None:
        """Count the label files in the folders of labels that are of no image."""
        names = {*filter(None, used)}
        for listing in self._folders.values():
            for label_path in (each for group in listing.values() for each in group):
                if label_path not in names and _holds_labels(label_path):
                    self.report.unmatched_labels.add(str(label_path))


def label_folders(folder: Path) -> list[Path]:
    """List where the label files of the images in a folder may be."""
    parts = folder.parts
    at = [number for number, part in enumerate(parts) if part.casefold() in _LABEL_FOLDERS]
    replaced = [
        Path(*parts[:number], name, *parts[number + 1 :])
        for number in reversed(at)
        for name in ("labels", "Labels")
    ]
    beside = [folder, folder / "labels", folder.parent / "labels"]
    beside.append(folder.parent / "labels" / folder.name)
    return list(dict.fromkeys([*replaced[:2], *beside, *replaced[2:]]))


def _list_labels(folder: Path) -> dict[str, list[Path]]:
    """List the text files of a folder by name, without case and suffix."""
    listing: dict[str, list[Path]] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() == ".txt" and path.name[0] != "." and not path.is_dir():
                listing.setdefault(_normalize(path.stem), []).append(path)
    return listing


def _content(label_path: Path) -> tuple[str, ...]:
    """Return the lines of a label file, or its path where they cannot be read."""
    try:
        return tuple(read_lines(label_path))
    except DatasetError:
        return (str(label_path),)


def _normalize(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()


def _holds_labels(path: Path) -> bool:
    """Return whether a text file holds rows of numbers; an empty one, if it is among labels."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            line = next((line for line in file if line.strip()), "")
    except OSError:
        return True
    if not line:
        return any(part.casefold() == "labels" for part in path.parts[:-1])
    return re.fullmatch(r"[-+0-9.eE\s]+", line) is not None and len(line.split()) >= 5
