"""Read YOLO datasets of other programs: their YAML file, their images, their label files.

The datasets of Ultralytics, Roboflow, CVAT, labelImg, Label Studio and Darknet differ in where the
labels are and in how paths are written. A path or a label file that is found elsewhere than it is
named is taken and reported; fractions in a label file are of the upright image.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate.dataset.export import ImportedDataset, assign_frames
from annotate.dataset.folder import DEFAULT_SPLIT, Sample
from annotate.dataset.import_report import ImportReport
from annotate.dataset.yolo_rows import RowReader, parse_kpt_shape, parse_task, read_lines
from annotate.errors import DatasetError, VideoError, needs
from annotate.items.records import Object
from annotate.video.images import IMAGE_SUFFIXES, read_header

_SPLIT_KEYS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
_LABEL_FOLDERS = {"images": "labels", "jpegimages": "labels"}
_CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels/classes.txt")
_CLASS_FILES += ("images/classes.txt", "data/obj.names")


def read(path: Path, task: str = "") -> ImportedDataset:
    """Read a folder with a YAML file, or with names of classes and images; or the file itself.

    `task` says what the rows are where the YAML file does not: `segment` for outlines.

    Raises:
        DatasetError: names the file and the line.
    """
    report = ImportReport()
    description = _read_description(path, report)
    table, folder = description.table, description.path.parent
    classes = _read_classes(table.get("names"), folder)
    rows = RowReader(
        classes,
        report,
        parse_task(table.get("task"), description.path) or task,
        parse_kpt_shape(table.get("kpt_shape"), description.path),
    )
    splits = _list_splits(table, folder, report)
    labels = _LabelFiles(report, {(path.parent, path.stem) for path in splits})
    label_paths = {image_path: labels.find(image_path) for image_path in splits}
    splits = _without_unlabelled_splits(splits, label_paths, folder, report)
    for label_path in filter(None, (label_paths[image_path] for image_path in splits)):
        rows.look(read_lines(label_path))
    rows.decide(description.path)
    labels.report_unmatched(label_paths.values())
    samples = _samples(splits, label_paths, rows, folder.resolve().name)
    return ImportedDataset(classes, samples, report=report)


# ------------------------------------------------------------------- the description


@dataclass(frozen=True)
class _Description:
    """The table of a YAML file, or a table of the same keys made from other files."""

    path: Path
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
    for name in _CLASS_FILES:
        if (path / name).is_file():
            return _from_names(path / name, path)
    if found:
        return found[0]
    raise error or DatasetError(f"{path}: there is neither data.yaml nor classes.txt in it")


def _from_names(path: Path, folder: Path | None = None) -> _Description:
    folder = folder or path.parent
    return _Description(folder / path.name, {"names": _read_names(path)})


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
    return _Description(path, table)


def _text_loader(yaml: Any) -> Any:
    """Make a loader for which `yes`, `010` and `1.10` are text, and only `~` and nothing null."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers: Mapping[str, Any] = {
            first: [("tag:yaml.org,2002:null", re.compile(f"^{first}$"))] for first in ("~", "")
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            twice = [key for key in keys if keys.count(key) > 1] if len(keys) < 10_000 else []
            if twice:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is there twice")
            return super().construct_mapping(node, deep)

    return Loader


def _read_classes(names: Any, folder: Path) -> tuple[str, ...]:
    if isinstance(names, str) and (file := _find_entry(names, None, folder)) and file.is_file():
        names = _read_names(file)
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
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise DatasetError(
                f"{folder}: the name of class {number} is not text; put it in quotes"
            )
    if len(set(names)) != len(names):
        raise DatasetError(f"{folder}: two classes have the same name")
    return tuple(names)


# ------------------------------------------------------------------- the images


def _list_splits(table: Mapping[str, Any], folder: Path, report: ImportReport) -> dict[Path, str]:
    """List the images, each with its split."""
    if not _SPLIT_KEYS.keys() & table.keys():
        return _split_by_folder(folder, report)
    splits, missing, named = dict[Path, str](), list[str](), 0
    root = table.get("path")
    for key, split in _SPLIT_KEYS.items():
        entries, again = table.get(key) or (), list[Path]()
        for entry in [entries] if isinstance(entries, str) else entries:
            if not isinstance(entry, str) or isinstance(entries, dict):
                raise DatasetError(f"{folder}: {key} must be a path, or a list of paths")
            named += 1
            found = _find_entry(entry, root, folder)
            if found is None:
                missing.append(entry)
                report.note(f"{key} names {entry}, which is not there; it is left out")
                continue
            for image_path in _list_images(found, root, folder, report):
                if splits.setdefault(image_path, split) != split:
                    again.append(image_path)
        if again:
            first = splits[again[0]]
            report.note(
                f"{len(again)} images of {split} are images of another part too, and are imported "
                f"for that part: {again[0].name} is in {first}"
            )
    if missing and len(missing) == named:
        raise DatasetError(f"{folder}: the YAML file names {missing[0]}, which is not there")
    return splits


def _split_by_folder(folder: Path, report: ImportReport) -> dict[Path, str]:
    """Split the images under a folder by the folders train, val and test on their paths."""
    splits = {}
    for image_path in _walk_images(folder):
        parts = image_path.relative_to(_absolute(folder)).parts[:-1]
        words = [part.casefold() for part in parts]
        splits[image_path] = next(
            (_SPLIT_KEYS[word] for word in words if word in _SPLIT_KEYS), DEFAULT_SPLIT
        )
    if set(splits.values()) - {DEFAULT_SPLIT}:
        report.note("the parts are those of the folders train, val and test")
    return splits


def _find_entry(entry: str, root: Any, folder: Path) -> Path | None:
    """Find a path of another machine: relative to `path` or to the YAML file.

    Back-slashes are taken for slashes, and folders are dropped from its beginning (`../train`,
    `data/images`, `C:/Users/me/set/images`) until something is there.
    """
    roots = [folder]
    if isinstance(root, str) and root:
        slashed = Path(root.replace("\\", "/"))
        roots = [folder / root, folder / slashed, folder / slashed.name, folder]
    for tail in _tails(entry):
        for base in roots:
            if os.path.exists(base / tail):
                return base / tail
    return None


def _tails(entry: str) -> Iterator[Path]:
    yield Path(entry)
    slashed = entry.replace("\\", "/")
    yield Path(slashed)
    parts = [part for part in slashed.split("/") if part not in ("", ".", "..")]
    parts = parts[1:] if parts and re.fullmatch("[A-Za-z]:", parts[0]) else parts
    for start in range(len(parts)):
        yield Path(*parts[start:])


def _list_images(source: Path, root: Any, folder: Path, report: ImportReport) -> list[Path]:
    """List the images in a folder, or in a text file with a path per line."""
    if source.is_dir():
        return _walk_images(source)
    if source.suffix.lower() in IMAGE_SUFFIXES:
        return [_absolute(source)]
    image_paths, missing = dict[Path, str](), list[str]()
    for number, line in enumerate(read_lines(source), start=1):
        if not (text := line.strip()):
            continue
        found = _find_entry(text, None, source.parent) or _find_entry(text, root, folder)
        if found is None or not found.is_file():
            missing.append(f"{source}:{number}: no image {text}")
            continue
        first = image_paths.setdefault(_absolute(found), text)
        if first != text:
            raise DatasetError(f"{source}:{number}: {text} and {first} would both be {found}")
    if missing and not image_paths:
        raise DatasetError(missing[0])
    for place in missing:
        report.skip_image("the list names it, but it is not there", place)
    return list(image_paths)


def _walk_images(folder: Path) -> list[Path]:
    """List the images under a folder, through links too; names that begin with a dot are hidden."""
    image_paths, above = list[Path](), {os.path.realpath(folder)}

    def walk(at: Path, above: set[str]) -> None:
        for entry in sorted(os.scandir(at), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            path = at / entry.name
            if entry.is_dir():
                real = os.path.realpath(path)
                if real not in above:
                    walk(path, above | {real})
            elif path.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
                image_paths.append(path)

    try:
        walk(_absolute(folder), above)
    except OSError as error:
        raise DatasetError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return image_paths


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  # does not follow links


# ------------------------------------------------------------------- the labels


@dataclass
class _LabelFiles:
    """Finds the label file of each image, in the places that other programs write it."""

    report: ImportReport
    image_stems: set[tuple[Path, str]]
    _folders: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)
    _used: dict[Path, Path] = field(default_factory=dict)

    def find(self, image_path: Path) -> Path | None:
        """Find the label file of an image, by the path of the image itself, not of its link."""
        found = self._candidates(image_path)
        if not found and image_path.is_symlink() and (real := image_path.resolve()).is_file():
            found = self._candidates(real)
            for each in found[:1]:
                self.report.notice("its label file is beside the file that it links to", str(each))
        if not found:
            return None
        texts = {each: each.read_bytes() for each in found} if len(found) > 1 else {}
        if len(set(texts.values())) > 1:
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
        for folder in _label_folders(image_path.parent):
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

    def report_unmatched(self, used: Any) -> None:
        """Count the label files in the folders of labels that are of no image."""
        names = {*filter(None, used)}
        for listing in self._folders.values():
            for label_path in (each for group in listing.values() for each in group):
                if label_path not in names and _holds_labels(label_path):
                    self.report.unmatched_labels.add(str(label_path))


def _label_folders(folder: Path) -> list[Path]:
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
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.lower().endswith(".txt") and not entry.name.startswith("."):
                if entry.is_file():
                    path = folder / entry.name
                    listing.setdefault(_normalize(path.stem), []).append(path)
    return listing


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
        places = ", ".join(str(each) for each in _label_folders(image_path.parent)[:2])
        raise DatasetError(
            f"{folder}: none of the {len(splits)} images has a label file; that of {image_path.name} "
            f"was looked for as {image_path.stem}.txt in {places} and near there; an image without "
            "objects needs an empty file"
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
            rows.report.skip_image("it cannot be read", str(error))
            continue
        objects = _read_objects(label_paths[image_path], size_wh, rows)
        if objects is None:
            rows.report.skip_image("none of its objects can be used", str(image_path))
            continue
        yield image_path, frame.to_sample(size_wh, objects, split)


def _read_objects(
    label_path: Path | None, size_wh: tuple[int, int], rows: RowReader
) -> Sequence[Object] | None:
    """Read the objects of an image; None where there are some, but none that can be used."""
    if label_path is None:
        return ()
    lines = [(n, line) for n, line in enumerate(read_lines(label_path), start=1) if line.strip()]
    read_objects = [rows.read(line, size_wh, f"{label_path}:{number}") for number, line in lines]
    objects = [obj for obj in read_objects if obj is not None]
    return objects if objects or not lines else None
