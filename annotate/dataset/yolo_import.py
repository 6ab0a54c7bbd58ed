"""Read YOLO datasets of other programs: their YAML file, their images, their label files.

The datasets of Ultralytics, Roboflow, CVAT, labelImg, Label Studio and Darknet differ in where the
labels are and in how paths are written. A path or a label file that is found elsewhere than it is
named is taken and reported; fractions in a label file are of the upright image.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from annotate.dataset.export import ImportedDataset, assign_frames
from annotate.dataset.folder import DEFAULT_SPLIT, Sample
from annotate.dataset.yolo_labels import LabelFiles, RowReader, label_folders, read_lines
from annotate.errors import DatasetError, VideoError, needs
from annotate.items.import_report import ImportReport
from annotate.items.records import Object
from annotate.video.images import IMAGE_SUFFIXES, read_header

_SPLIT_KEYS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
_TASKS = ("detect", "obb", "pose", "segment")
_NAMES_FILES = (
    *("classes.txt", "obj.names", "_darknet.labels"),
    *("labels/classes.txt", "images/classes.txt", "data/obj.names"),
)


def read(path: Path, task: str = "") -> ImportedDataset:
    """Read a folder with a YAML file, or with names of classes and images; or the file itself.

    `task` says what the rows are where the YAML file does not: `segment` for outlines.

    Raises:
        DatasetError: names the file and the line.
    """
    report = ImportReport()
    file, folder, table = _read_description(path, report)
    classes = _read_classes(table.get("names"), folder)
    task = _parse_task(table.get("task"), file) or task
    rows = RowReader(classes, report, task, _parse_kpt_shape(table.get("kpt_shape"), file))
    splits = _list_splits(table, folder, report)
    labels = LabelFiles(report, {(path.parent, path.stem) for path in splits})
    label_paths = {image_path: labels.find(image_path) for image_path in splits}
    splits = _without_unlabelled_splits(splits, label_paths, folder, report)
    for label_path in filter(None, (label_paths[image_path] for image_path in splits)):
        rows.look(read_lines(label_path))
    rows.decide(file)
    labels.report_unmatched(label_paths.values())
    samples = _samples(splits, label_paths, rows, folder.resolve().name)
    return ImportedDataset(classes, samples, report=report)


class _Description(NamedTuple):
    """The table of a YAML file, or a table of the same keys made from other files."""

    path: Path
    folder: Path  # that its paths are relative to
    table: Mapping[str, Any]


def _read_description(path: Path, report: ImportReport) -> _Description:
    """Read the file that describes the dataset at `path`, a folder or that file."""
    if path.is_file():
        return _read_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else _from_names(path)
    if not path.is_dir():
        raise DatasetError(f"{path}: no such file or folder")
    files = [each for each in sorted(path.iterdir()) if each.suffix.lower() in (".yaml", ".yml")]
    files.sort(key=lambda each: (each.stem not in ("data", "dataset"), each.stem != "data"))
    found, error = list[_Description](), None
    for file in files:
        try:
            found.append(_read_yaml(file))
        except DatasetError as problem:
            error = error or problem
    described = [each for each in found if "names" in each.table]
    described.sort(key=lambda each: not _SPLIT_KEYS.keys() & each.table.keys())
    if described:
        others = [
            each.path.name for each in described[1:] if _SPLIT_KEYS.keys() & each.table.keys()
        ]
        if others:
            report.note(f"read {described[0].path.name}; not read: {', '.join(others)}")
        return described[0]
    for name in _NAMES_FILES:
        if (path / name).is_file():
            return _from_names(path / name, path)
    if found:
        return found[0]
    raise error or DatasetError(f"{path}: there is neither data.yaml nor classes.txt in it")


def _from_names(path: Path, folder: Path | None = None) -> _Description:
    return _Description(path, folder or path.parent, {"names": _read_names(path)})


def _read_names(path: Path) -> list[str]:
    """Read a file with the name of a class per line."""
    names = [name.strip() for name in read_lines(path)]
    while names and not names[-1]:
        names.pop()
    return names


def _read_yaml(path: Path) -> _Description:
    """Read a YAML file; all its values stay text, as they are written."""
    yaml = needs("yaml")
    try:
        table = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_text_loader(yaml))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(table, dict):
        raise DatasetError(f"{path}: expected names, train and val, got a {type(table).__name__}")
    return _Description(path, path.parent, table)


def _text_loader(yaml: Any) -> Any:
    """Make a loader for which `yes`, `010` and `1.10` are text, and only `~` and nothing null."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers: Mapping[str, Any] = {
            first: [("tag:yaml.org,2002:null", re.compile(f"^{first}$"))] for first in ("~", "")
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            twice = [key for key, count in Counter(keys).items() if count > 1]
            if twice:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is there twice")
            return super().construct_mapping(node, deep)

    return Loader


def _read_classes(names: Any, folder: Path) -> tuple[str, ...]:
    if isinstance(names, str):
        file, _ = _find_entry(names, [folder], file=True)
        names = _read_names(file) if file else names
    if isinstance(names, dict):
        try:
            ordered = sorted((int(key), number) for number, key in enumerate(names))
        except (TypeError, ValueError):
            raise DatasetError(f"{folder}: the keys of names must be class ids") from None
        if [key for key, _ in ordered] != list(range(len(ordered))):
            raise DatasetError(f"{folder}: names must have the ids 0 to {len(ordered) - 1}")
        values = list(names.values())
        names = [values[number] for _, number in ordered]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{folder}: names must be a list, or ids with names")
    for number, name in enumerate(names):
        if not isinstance(name, str) or not _is_text(name):
            raise DatasetError(f"{folder}: class {number} has no name of text; write it in quotes")
    if len(set(names)) != len(names):
        raise DatasetError(f"{folder}: two classes have the same name")
    return tuple(names)


def _is_text(name: str) -> bool:
    unusable = {"Cc", "Cs"}  # control characters and surrogates
    return bool(name.strip()) and not any(unicodedata.category(each) in unusable for each in name)


def _parse_task(value: Any, where: Path) -> str:
    task = value.strip().casefold() if isinstance(value, str) else ""
    if (value and not task) or (task and task not in _TASKS):
        raise DatasetError(f"{where}: `task` must be one of {', '.join(_TASKS)}, or left out")
    return task


def _parse_kpt_shape(value: Any, where: Path) -> tuple[int, int] | None:
    """Read how many keypoints an object has, and how many numbers each has."""
    if value is None or value == "":
        return None
    try:
        points, dimensions = (int(number) for number in value)
    except (TypeError, ValueError):
        points = dimensions = 0
    if not 0 < points < 10**6 or dimensions not in (2, 3):
        raise DatasetError(f"{where}: kpt_shape must be a number of keypoints, and 2 or 3")
    return points, dimensions


def _list_splits(table: Mapping[str, Any], folder: Path, report: ImportReport) -> dict[Path, str]:
    """List the images, each with its split."""
    if not _SPLIT_KEYS.keys() & table.keys():
        return _split_by_folder(folder, report)
    splits, missing, found = dict[Path, str](), list[str](), list[tuple[str, Path]]()
    roots = _roots(table.get("path"), folder)
    for key, split in _SPLIT_KEYS.items():
        entries = table.get(key) or []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(isinstance(each, str) for each in entries):
            raise DatasetError(f"{folder}: {key} must be a path, or a list of paths")
        for entry in entries:
            path, moved = _find_entry(entry, roots)
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
            (_SPLIT_KEYS[word] for word in words if word in _SPLIT_KEYS), DEFAULT_SPLIT
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


def _find_entry(
    entry: str, roots: Sequence[Path], *, file: bool = False
) -> tuple[Path | None, bool]:
    """Find a path, or file, that another machine wrote; return whether it had to be shortened.

    Back-slashes are taken for slashes. Where nothing is there, folders are dropped from the
    beginning (`../train`, `data/images`, `C:/Users/me/set/images`), but never the name of a split
    or of the last folder `images`.
    """
    there = os.path.isfile if file else os.path.exists  # these swallow errors of odd names
    for number, tail in enumerate(_tails(entry.strip())):
        for base in roots:
            if there(base / tail):
                return base / tail, number > 2
    return None, False


def _tails(entry: str) -> Iterator[Path]:
    if not entry:
        return
    yield Path(entry)
    slashed = entry.replace("\\", "/")
    yield Path(slashed)
    parts = [part for part in slashed.split("/") if part not in ("", ".", "..")]
    words = [part.casefold() for part in parts]
    kept = [len(words) - 1 - words[::-1].index(word) for word in words if word == "images"]
    kept += [number for number, word in enumerate(words) if _is_split_word(word)][-1:]
    for start in range(min([len(parts) - 1, *kept]) + 1):
        yield Path(*parts[start:])


def _is_split_word(word: str) -> bool:
    """Return whether a folder is named after a split: train, val2017."""
    return word.rstrip("0123456789") in _SPLIT_KEYS


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
        found, moved = _find_entry(text, [source.parent, *roots], file=True)
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
            rows.report.skip_image("they cannot be read", str(error))
            continue
        objects = _read_objects(label_paths[image_path], size_wh, rows)
        if objects is None:
            rows.report.skip_image("none of their objects can be used", str(image_path))
            continue
        yield image_path, frame.to_sample(size_wh, objects, split)


def _read_objects(
    label_path: Path | None, size_wh: tuple[int, int], rows: RowReader
) -> Sequence[Object] | None:
    """Read the objects of an image; None where there are some, but none that can be used."""
    if label_path is None:
        return ()
    text = read_lines(label_path)
    usable = rows.read_boxes([line for line in text if line.strip()], size_wh)
    if usable is not None:
        return usable
    lines = [(n, line) for n, line in enumerate(text, start=1) if line.strip()]
    read_objects = [rows.read(line, size_wh, f"{label_path}:{number}") for number, line in lines]
    objects = [obj for obj in read_objects if obj is not None]
    return objects if objects or not lines else None
