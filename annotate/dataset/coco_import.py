"""Read COCO files of any program: each key of the foreign JSON is checked here, and only here.

Categories and images are distinguished by their ids.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from annotate.dataset.export import split_from_name
from annotate.errors import DatasetError, ItemsError
from annotate.files import parse_json
from annotate.items import masks
from annotate.items.foreign_masks import read_segmentation
from annotate.items.foreign_records import (
    Id,
    as_finite_number,
    as_id,
    as_table,
    as_whole_number,
    is_text,
    shown,
)
from annotate.items.import_report import ImportReport
from annotate.items.records import Box, Rle

_TABLES = ("images", "annotations", "categories")
_CLIP_KEYS = ("fingerprint", "frame_count", "width", "height")
_USED_ATTRIBUTES = {"score", "track_id", "rotation", "flags", "source", "iscrowd", "keyframe"}
_MAX_FRAME = 100_000_000  # a larger one is some other number, such as a time
_MAX_SIDE = 1_000_000  # pixels
_SECONDS = re.compile(r"\d{1,18}(/[1-9]\d{0,17}|\.\d{1,18})?")


@dataclass(frozen=True)
class CocoImage:
    """A checked entry of `images`; `file_name` is "" and `size_wh` None where they are missing."""

    id: Id
    file_name: str
    size_wh: tuple[int, int] | None = None
    video: str = ""
    frame: int | None = None
    seconds: Fraction | None = None

    @property
    def has_origin(self) -> bool:
        """Return whether the image is known to be a frame of a clip."""
        return bool(self.video) and self.frame is not None and self.seconds is not None


@dataclass(frozen=True)
class CocoAnnotation:
    """A checked entry of `annotations`; the segmentation is checked when it is read.

    `where` names the file and the annotation in messages. `box` is xyxy.
    """

    where: str
    id: Any
    image_id: Id
    category_id: Id
    box: Box | None
    segmentation: Any
    iscrowd: bool
    score: float | None
    track: int | None
    source: str
    flags: tuple[str, ...]

    def read_mask(self, size_wh: tuple[int, int], report: ImportReport) -> Rle | None:
        """Read the mask; None where there is none, or where it encloses no pixel.

        Raises:
            DatasetError: the segmentation is damaged.
        """
        try:
            mask, empty_count = read_segmentation(self.segmentation, size_wh)
        except ItemsError as error:
            raise DatasetError(f"{self.where}: {error}") from None
        if empty_count:
            report.notice(
                "an outline encloses no pixel and was left out; without another, there is no mask",
                self.where,
            )
        return mask

    def box_or_mask_box(self, mask: Rle | None) -> Box:
        """Return the box; without one, the box of the mask.

        Raises:
            DatasetError: neither a box nor a mask.
        """
        box = self.box or (masks.box(mask) if mask is not None else None)
        if box is None:
            raise DatasetError(f"{self.where}: neither a bbox nor a segmentation")
        return box


@dataclass(frozen=True)
class CocoFile:
    """One COCO file: class names by category id, images, annotations by image id."""

    path: Path
    split: str
    labels: Mapping[Id, str]
    images: Sequence[CocoImage]
    annotations: Mapping[Id, Sequence[CocoAnnotation]]
    clips: Mapping[str, Any]


def find_files(path: Path, report: ImportReport) -> list[Path]:
    """List a COCO file, or every COCO file under a folder; other JSON goes into the report.

    Raises:
        DatasetError: there is no such path, or JSON with the tables of COCO is damaged.
    """
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    if path.is_file():
        return [path]
    found = []
    for each in sorted(path.rglob("*.json")):
        if not each.is_file():
            continue
        try:
            table = _load_json(each)
        except DatasetError as error:
            if any(f'"{name}"'.encode() in each.read_bytes() for name in _TABLES):
                raise  # a COCO file that was cut or damaged
            report.notice("a JSON file that is no COCO file was not read", str(error))
            continue
        reason = _reason_not_coco(table)
        if reason is None:
            found.append(each)
        else:
            report.notice("a JSON file that is no COCO file was not read", f"{each} ({reason})")
    return found


def is_coco(path: Path) -> bool:
    """Return whether a file is JSON with the three tables of COCO."""
    try:
        return _reason_not_coco(_load_json(path)) is None
    except DatasetError:
        return False


def _load_json(path: Path) -> Any:
    """Load JSON of any Unicode encoding, with or without a byte order mark."""
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON: {error}") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None


def _reason_not_coco(table: Any) -> str | None:
    """Say why JSON is not a COCO dataset of objects; None if it is one."""
    if isinstance(table, list):
        if table and isinstance(table[0], dict) and "image_id" in table[0]:
            return "this is a list of results, not a dataset: it has no images and no categories"
        return "this is a list, not a table with images, annotations and categories"
    if not isinstance(table, dict):
        return "this is one value, not a table with images, annotations and categories"
    missing = [name for name in _TABLES if not isinstance(table.get(name), list)]
    if missing:
        return f"it has no list of {' and of '.join(missing)}"
    first = next(iter(table["annotations"]), None)
    if isinstance(first, dict) and "segments_info" in first:
        return "it is panoptic: its masks are in PNG files; give the file of instances"
    return None


def load_file(path: Path, report: ImportReport | None = None) -> CocoFile:
    """Load a COCO file, check each record, and group its annotations by image.

    Raises:
        DatasetError: not COCO, a damaged record, or an annotation of no image.
    """
    return load_files([path], report or ImportReport())[0]


def load_files(paths: Iterable[Path], report: ImportReport) -> list[CocoFile]:
    """Load COCO files, whose categories of one name are one class, if they are in several files.

    Raises:
        DatasetError: not COCO, a damaged record, or an annotation of no image.
    """
    files = [_load_unnamed(path, report) for path in paths]
    labels = _distinct_labels(files, report)
    return [
        replace(each, labels={i: labels.get((name, i), name) for i, name in each.labels.items()})
        for each in files
    ]


def _load_unnamed(path: Path, report: ImportReport) -> CocoFile:
    table = _load_json(path)
    if reason := _reason_not_coco(table):
        raise DatasetError(f"{path}: not a COCO file: {reason}")
    labels = _read_categories(table["categories"], path)
    images: dict[Id, CocoImage] = {}
    for number, record in enumerate(table["images"]):
        image = _check_image(record, f"{path}: images[{number}]", path, report)
        if images.setdefault(image.id, image).file_name != image.file_name:
            raise DatasetError(
                f"{path}: image {shown(image.id)} is both {shown(images[image.id].file_name)} and "
                f"{shown(image.file_name)}; give each image an id of its own"
            )
    by_image = defaultdict(list)
    for number, record in enumerate(table["annotations"]):
        annotation = _check_annotation(record, number, path, report)
        if annotation.image_id not in images:
            raise DatasetError(f"{annotation.where}: there is no image with its image_id")
        if annotation.category_id not in labels:
            raise DatasetError(f"{annotation.where}: there is no category with its category_id")
        by_image[annotation.image_id].append(annotation)
    split = split_from_name(path.stem if not path.stem.startswith("_") else path.parent.name)
    clips = _read_clips(table.get("info"))
    return CocoFile(path, split, labels, [*images.values()], by_image, clips)


def _read_categories(records: Sequence[Any], path: Path) -> dict[Id, str]:
    labels: dict[Id, str] = {}
    for number, record in enumerate(records):
        where = f"{path}: categories[{number}]"
        category_id = as_id(as_table(record, where).get("id"), f"{where}: id")
        name = record.get("name")
        if isinstance(name, int | float) and not isinstance(name, bool):
            name = str(name)
        if not is_text(name):
            raise DatasetError(
                f"{path}: category {shown(category_id)}: name must be text, got {shown(name)}"
            )
        if labels.setdefault(category_id, name) != name:
            raise DatasetError(
                f"{path}: category {shown(category_id)} is both {shown(labels[category_id])} and "
                f"{shown(name)}"
            )
    return dict(sorted(labels.items(), key=_id_order))


def _id_order(entry: tuple[Id, Any]) -> tuple[bool, int, str]:
    key = entry[0]
    return (False, key, "") if isinstance(key, int) else (True, 0, key)


def _distinct_labels(files: Sequence[CocoFile], report: ImportReport) -> dict[tuple[str, Id], str]:
    """Name the categories that have the name of another one of their file, if both are used."""
    used_ids: dict[str, dict[Id, None]] = {}  # name -> ids of its categories with annotations
    taken = {name for each in files for name in each.labels.values()}
    for each in files:
        used = {a.category_id for rows in each.annotations.values() for a in rows}
        ids_by_name: dict[str, list[Id]] = {}
        for category_id, name in each.labels.items():
            ids_by_name.setdefault(name, []).append(category_id)
        for name, ids in ids_by_name.items():
            if len(ids) > 1:
                used_ids.setdefault(name, {}).update({i: None for i in ids if i in used})
                report.notice(
                    "several categories have one name; those without objects were left out",
                    f"{each.path}: {name!r} is the name of categories {', '.join(map(str, ids))}",
                )
    labels = {}
    for name, ids_in_use in used_ids.items():
        for category_id in sorted(ids_in_use, key=lambda i: _id_order((i, None)))[1:]:
            label = f"{name} (id {category_id})"
            while label in taken:
                label += "'"
            taken.add(label)
            labels[name, category_id] = label
            report.note(f"category {category_id}, another {name!r}, is imported as {label!r}")
    return labels


def _check_image(record: Any, where: str, path: Path, report: ImportReport) -> CocoImage:
    image_id = as_id(as_table(record, where).get("id"), f"{where}: id")
    where = f"{path}: image {shown(image_id)}"
    name = record.get("file_name") or record.get("coco_url")
    if name and not is_text(name):
        raise DatasetError(f"{where} has no file_name, but {shown(name)}")
    video, frame, seconds = record.get("video"), record.get("frame"), record.get("seconds")
    if frame is None:
        frame = record.get("frame_index")
    index = as_whole_number(frame)
    if index is None or not 0 <= index <= _MAX_FRAME:
        if frame is not None:
            report.notice("a frame that is no frame index was not used", where)
        index = None
    is_time = _SECONDS.fullmatch(str(seconds)) is not None
    return CocoImage(
        image_id,
        name or "",
        _check_size(record, where),
        video if is_text(video) else "",
        index,
        Fraction(str(seconds)) if is_time else None,
    )


def _check_size(record: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """Check width and height; None where both or one are missing, or 0: not known."""
    sides = []
    for key in ("width", "height"):
        value = record.get(key)
        side = 0 if value is None else as_whole_number(value)
        if side is None or not 0 <= side <= _MAX_SIDE:
            raise DatasetError(
                f"{where}: width and height must be whole numbers, got {shown(value)}"
            )
        sides.append(side)
    width, height = sides
    return (width, height) if width and height else None


def _check_annotation(record: Any, number: int, path: Path, report: ImportReport) -> CocoAnnotation:
    record = as_table(record, f"{path}: annotations[{number}]")
    where = f"{path}: annotation {shown(record.get('id', 'without id'))}"
    attributes = record.get("attributes")
    extras = attributes if isinstance(attributes, dict) else {}
    values = {**extras, **{key: value for key, value in record.items() if value is not None}}
    score, track = as_finite_number(values.get("score")), as_whole_number(values.get("track_id"))
    if score is None and values.get("score") is not None:
        report.notice("a score that is no finite number was left out", where)
    if track is None and values.get("track_id") is not None:
        report.notice("a track_id that is no whole number was left out", where)
    if record.get("keypoints"):
        report.notice("keypoints were left out", where)
    if as_finite_number(extras.get("rotation")):
        report.notice("a box that is turned by an angle was taken without the turn", where)
    unused = [key for key, value in extras.items() if value and key not in _USED_ATTRIBUTES]
    for key in filter(is_text, unused):
        report.notice(f"the attribute {shown(key)} was left out", where)
    flags, source = values.get("flags"), values.get("source")
    return CocoAnnotation(
        where,
        record.get("id"),
        as_id(record.get("image_id"), f"{where}: there is no image with its image_id: it"),
        as_id(record.get("category_id"), f"{where}: category_id"),
        _check_box(record.get("bbox"), where),
        record.get("segmentation"),
        bool(record.get("iscrowd")) and record.get("iscrowd") != "0",
        score,
        track,
        source if is_text(source) else "",
        tuple(filter(is_text, flags)) if isinstance(flags, list) else (),
    )


def _check_box(bbox: Any, where: str) -> Box | None:
    """Check a bbox, x, y, width, height, and return it as xyxy; None where there is none."""
    if bbox is None or bbox in ([], {}, ""):
        return None
    sides = [as_finite_number(side) for side in bbox] if isinstance(bbox, list) else []
    if len(sides) != 4:
        raise DatasetError(f"{where}: bbox must be x, y, width, height, got {shown(bbox)}")
    x, y, width, height = sides
    if x is None or y is None or width is None or height is None or width < 0 or height < 0:
        raise DatasetError(f"{where}: a box of negative size, or not of numbers: {shown(bbox)}")
    return x, y, x + width, y + height


def _read_clips(info: Any) -> dict[str, dict[str, Any]]:
    """Read the clips that an export of ours names; those of other programs are left out."""
    clips = info.get("clips") if isinstance(info, dict) else None
    return {
        name: {key: value for key, value in entry.items() if key in _CLIP_KEYS}
        for name, entry in (clips.items() if isinstance(clips, dict) else ())
        if is_text(name) and isinstance(entry, dict) and _is_clip(entry)
    }


def _is_clip(entry: Mapping[str, Any]) -> bool:
    counts = [entry.get(key) for key in _CLIP_KEYS[1:]]
    fingerprint = entry.get("fingerprint")
    return all(c is None or (type(c) is int and c >= 0) for c in counts) and (
        fingerprint is None or fingerprint == "" or is_text(fingerprint)
    )
