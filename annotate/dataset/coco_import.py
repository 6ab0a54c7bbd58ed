"""Read COCO files of any program: each key of the foreign JSON is checked here, and only here.

Categories and images are distinguished by their ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from annotate.dataset.export import split_from_name
from annotate.errors import DatasetError
from annotate.files import parse_json
from annotate.items.foreign_coco import (
    CocoAnnotation,
    CocoImage,
    check_annotation,
    check_image,
    read_id,
)
from annotate.items.foreign_records import Id, as_id, as_table, is_text, shown
from annotate.items.import_report import ImportReport

_TABLES = ("images", "annotations", "categories")
_CLIP_KEYS = ("fingerprint", "frame_count", "width", "height")


@dataclass(frozen=True)
class CocoFile:
    """One COCO file: class names by category id, images, annotations by image id.

    `damaged` are messages about the annotations that cannot be read, by image id; `of_no_image`
    about those of which not even the image is known.
    """

    path: Path
    split: str
    labels: Mapping[Id, str]
    images: Sequence[CocoImage]
    annotations: Mapping[Id, Sequence[CocoAnnotation]]
    clips: Mapping[str, Any]
    damaged: Mapping[Id, Sequence[str]]
    of_no_image: Sequence[str]

    @property
    def has_annotations(self) -> bool:
        """Return whether there is an annotation, of any kind."""
        return bool(self.annotations or self.damaged or self.of_no_image)

    def is_unlabelled(self, image: CocoImage) -> bool:
        """Return whether no annotation is of an image, though some are of no known image."""
        labelled = self.annotations.get(image.id) or self.damaged.get(image.id)
        return bool(self.of_no_image) and not labelled


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
        DatasetError: not COCO, a damaged category, or two images of one id.
    """
    return load_files([path], report or ImportReport())[0]


def load_files(paths: Iterable[Path], report: ImportReport) -> list[CocoFile]:
    """Load COCO files, whose categories of one name are one class, if they are in several files.

    Raises:
        DatasetError: not COCO, a damaged category, or two images of one id.
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
    images, damaged_images = _read_images(table["images"], path, report)
    by_image = defaultdict[Id, list[CocoAnnotation]](list)
    damaged = defaultdict[Any, list[str]](list)
    for number, record in enumerate(table["annotations"]):
        try:
            annotation = check_annotation(record, number, path, labels, report)
            if annotation.image_id not in images:
                raise DatasetError(f"{annotation.where}: there is no image with its image_id")
            by_image[annotation.image_id].append(annotation)
        except DatasetError as error:
            damaged[read_id(record, "image_id")].append(str(error))
    of_no_image = []
    for image_id in [each for each in damaged if each not in images]:
        messages = damaged.pop(image_id)
        if image_id in damaged_images:
            report.skip_rows_of_image(messages)
        else:
            of_no_image += messages
    for message in of_no_image:
        report.skip_row("they are of no known image", message)
    split = split_from_name(path.stem if not path.stem.startswith("_") else path.parent.name)
    clips = _read_clips(table.get("info"))
    return CocoFile(path, split, labels, [*images.values()], by_image, clips, damaged, of_no_image)


def _read_images(
    records: Sequence[Any], path: Path, report: ImportReport
) -> tuple[dict[Id, CocoImage], set[Id]]:
    """Read the images by id, and the ids of the damaged ones, which go into the report."""
    images: dict[Id, CocoImage] = {}
    damaged = set[Id]()
    for number, record in enumerate(records):
        try:
            image = check_image(record, number, path, report)
        except DatasetError as error:
            image_id = read_id(record, "id")
            damaged |= set() if image_id is None else {image_id}
            report.skip_damaged_image(str(error), reason="their entry is damaged")
            continue
        if images.setdefault(image.id, image).file_name != image.file_name:
            raise DatasetError(
                f"{path}: image {shown(image.id)} is both {shown(images[image.id].file_name)} and "
                f"{shown(image.file_name)}; give each image an id of its own"
            )
    return images, damaged


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
