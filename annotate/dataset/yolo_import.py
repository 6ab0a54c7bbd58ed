"""Read YOLO datasets of other programs: their YAML file, their images, their label files.

The datasets of Ultralytics, Roboflow, CVAT, labelImg, Label Studio and Darknet differ in where the
labels are and in how paths are written. A path or a label file that is found elsewhere than it is
named is taken and reported; fractions in a label file are of the upright image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from annotate.dataset.export import ImportedDataset, assign_frames
from annotate.dataset.folder import DEFAULT_SPLIT, Sample
from annotate.dataset.yolo_description import (
    SPLIT_KEYS,
    find_path,
    list_rows,
    parse_kpt_shape,
    parse_task,
    read_classes,
    read_description,
    read_lines,
)
from annotate.dataset.yolo_labels import LabelFiles, RowReader, label_folders
from annotate.errors import DatasetError, VideoError
from annotate.items.import_report import ImportReport
from annotate.items.records import Object
from annotate.video.images import IMAGE_SUFFIXES, read_header


def read(path: Path, task: str = "") -> ImportedDataset:
    """Read a folder with a YAML file, or with names of classes and images; or the file itself.

    `task` says what the rows are where the YAML file does not: `segment` for outlines.

    Raises:
        DatasetError: names the file and the line.
    """
    report = ImportReport()
    file, folder, table = read_description(path, report)
    classes = read_classes(table.get("names"), folder)
    task = parse_task(table.get("task"), file) or task
    rows = RowReader(classes, report, task, parse_kpt_shape(table.get("kpt_shape"), file))
    splits = _list_splits(table, folder, report)
    labels = LabelFiles(report, {(path.parent, path.stem) for path in splits})
    label_paths = {image_path: labels.find(image_path) for image_path in splits}
    splits = _without_unlabelled_splits(splits, label_paths, folder, report)
    for label_path in filter(None, (label_paths[image_path] for image_path in splits)):
        with suppress(DatasetError):  # one that cannot be read is named when its image is
            rows.look(read_lines(label_path))
    rows.decide(file)
    labels.report_unmatched(label_paths.values())
    samples = _samples(splits, label_paths, rows, folder.resolve().name)
    return ImportedDataset(classes, samples, report=report)


def _list_splits(table: Mapping[str, Any], folder: Path, report: ImportReport) -> dict[Path, str]:
    """List the images, each with its split."""
    if not SPLIT_KEYS.keys() & table.keys():
        return _split_by_folder(folder, report)
    splits, missing, found = dict[Path, str](), list[str](), list[tuple[str, Path]]()
    roots = _roots(table.get("path"), folder)
    for key, split in SPLIT_KEYS.items():
        entries = table.get(key) or []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(isinstance(each, str) for each in entries):
            raise DatasetError(f"{folder}: {key} must be a path, or a list of paths")
        for entry in entries:
            path, moved = find_path(entry, roots)
            if path is None:
                missing.append(f"{key} names {entry}, which is not there")
                continue
            if moved:
                report.note(f"{key} names {entry}, which is not there; {path} was taken")
            found.append((split, path))
    if missing and not found:
        raise DatasetError(f"{folder}: {missing[0]}")
    for each in missing:
        report.note(f"{each}; it is left out")
    for split, path in found:
        _add_split(splits, split, _list_images(path, roots, report), report)
    return splits


def _add_split(
    splits: dict[Path, str], split: str, image_paths: Sequence[Path], report: ImportReport
) -> None:
    again = [path for path in image_paths if splits.setdefault(path, split) != split]
    if again:
        report.note(
            f"{len(again)} images of {split} belong to another part too, and are imported for that "
            f"part only: {again[0].name} is in {splits[again[0]]}"
        )


def _split_by_folder(folder: Path, report: ImportReport) -> dict[Path, str]:
    """Split the images under a folder by the folders train, val and test on their paths."""
    splits = {}
    for image_path in _walk_images(folder, report):
        parts = image_path.relative_to(_absolute(folder)).parts[:-1]
        words = [part.casefold() for part in parts]
        splits[image_path] = next(
            (SPLIT_KEYS[word] for word in words if word in SPLIT_KEYS), DEFAULT_SPLIT
        )
    if set(splits.values()) - {DEFAULT_SPLIT}:
        report.note("the parts are those of the folders train, val and test")
    return splits


def _roots(root: Any, folder: Path) -> list[Path]:
    """List the folders that entries may be relative to: `path` of the YAML file, and its own."""
    if not isinstance(root, str) or not root.strip():
        return [folder]
    slashed = Path(root.replace("\\", "/"))
    return [folder / root, folder / slashed, folder / slashed.name, folder]


def _list_images(source: Path, roots: Sequence[Path], report: ImportReport) -> list[Path]:
    """List the images in a folder, or in a text file with a path per line."""
    if source.is_dir():
        return _walk_images(source, report)
    if source.suffix.lower() in IMAGE_SUFFIXES:
        return [_absolute(source)]
    image_paths, missing, all_moved = dict[Path, str](), list[str](), set[Path]()
    for number, line in enumerate(read_lines(source), start=1):
        if not (text := line.strip()):
            continue
        found, moved = find_path(text, [source.parent, *roots], file=True)
        if found is None:
            missing.append(f"{source}:{number}: no image {text}")
            continue
        path = _absolute(found)
        first = image_paths.setdefault(path, text)
        if moved:
            all_moved.add(path)
            report.notice("an image was found under a shorter path", f"{source}:{number}: {path}")
        if first != text and path in all_moved:
            raise DatasetError(f"{source}:{number}: {text} and {first} would both be {path}")
    if missing and not image_paths:
        raise DatasetError(missing[0])
    for place in missing:
        report.skip_image("a list names them, but they are not there", place)
    return list(image_paths)


def _walk_images(folder: Path, report: ImportReport) -> list[Path]:
    """List the images under a folder, through links too; names that begin with a dot are hidden."""
    image_paths = list[Path]()

    def walk(at: Path, above: set[str]) -> None:
        for name in sorted(os.listdir(at)):  # noqa: PTH208
            path = at / name
            if name.startswith("."):
                continue
            if path.is_dir():
                if (real := os.path.realpath(path)) not in above:
                    walk(path, above | {real})
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                if path.is_file():
                    image_paths.append(path)
                else:
                    report.skip_image("they are links to nothing", str(path))

    try:
        walk(_absolute(folder), {os.path.realpath(folder)})
    except OSError as error:
        raise DatasetError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return image_paths


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  # does not follow links


def _without_unlabelled_splits(
    splits: Mapping[Path, str],
    label_paths: Mapping[Path, Path | None],
    folder: Path,
    report: ImportReport,
) -> dict[Path, str]:
    """Leave out the splits of which no image has a label file; report the other images without."""
    labelled = {split for path, split in splits.items() if label_paths[path]}
    if splits and not labelled:
        image_path = next(iter(splits))
        places = ", ".join(str(each) for each in label_folders(image_path.parent)[:2])
        raise DatasetError(
            f"{folder}: none of the {len(splits)} images has a label file; {image_path.stem}.txt "
            f"is not in {places} or near there; an image without objects needs an empty file"
        )
    for image_path, split in splits.items():
        if split not in labelled:
            report.skip_image(f"no image of {split} has a label file", str(image_path))
        elif not label_paths[image_path]:
            report.unlabelled_images.add(str(image_path))
    return {path: split for path, split in splits.items() if split in labelled}


def _samples(
    splits: Mapping[Path, str], label_paths: Mapping[Path, Path | None], rows: RowReader, clip: str
) -> Iterator[tuple[Path, Sample]]:
    frames = assign_frames(list(splits), clip)
    for (image_path, split), frame in zip(splits.items(), frames, strict=True):
        try:
            size_wh, _ = read_header(image_path)
        except VideoError as error:
            rows.report.skip_damaged_image(str(error), reason="they cannot be read")
            continue
        objects = _read_objects(label_paths[image_path], image_path, size_wh, rows)
        if objects is not None:
            yield image_path, frame.to_sample(size_wh, objects, split)
    rows.report.check_damaged_images(len(splits))


def _read_objects(
    label_path: Path | None, image_path: Path, size_wh: tuple[int, int], rows: RowReader
) -> Sequence[Object] | None:
    """Read the objects of an image; None, and a line in the report, to leave it out.

    An image is left out where a row of it is damaged, or none can be used.
    """
    if label_path is None:
        return ()
    try:
        text = read_lines(label_path)
    except DatasetError as error:
        rows.report.skip_damaged_image(
            f"{error}: {image_path}",
            [f"{label_path}:{number}" for number, _ in list_rows(label_path)],
            "their label file cannot be read",
        )
        return None
    usable = rows.read_boxes([line for line in text if line.strip()], size_wh)
    if usable is not None:
        return usable
    objects: list[Object] = []
    places: list[str] = []  # of the objects
    damages: list[str] = []
    lines = [(f"{label_path}:{n}", line) for n, line in enumerate(text, start=1) if line.strip()]
    for where, line in lines:
        try:
            obj = rows.read(line, size_wh, where)
        except DatasetError as error:
            damages.append(str(error))
            continue
        if obj is not None:
            objects.append(obj)
            places.append(where)
    if damages:
        rows.report.skip_damaged_image(f"{damages[0]}: {image_path}", [*places, *damages])
        return None
    if lines and not objects:
        rows.report.skip_image("none of their objects can be used", str(image_path))
        return None
    return objects
