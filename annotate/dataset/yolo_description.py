"""Read the file that describes a YOLO dataset: its YAML file, Darknet's `obj.data`, or names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from annotate.errors import DatasetError, needs
from annotate.items.foreign_records import shown
from annotate.items.import_report import ImportReport

SPLIT_KEYS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
_TASKS = ("detect", "obb", "pose", "segment")
_NAMES_FILES = (
    *("classes.txt", "obj.names", "_darknet.labels"),
    *("labels/classes.txt", "images/classes.txt", "data/obj.names"),
)


class YoloDescription(NamedTuple):
    """The table of a YAML file, or a table of the same keys made from other files."""

    path: Path
    folder: Path  # that its paths are relative to
    table: Mapping[str, Any]


def read_description(path: Path, report: ImportReport) -> YoloDescription:
    """Read the file that describes the dataset at `path`, a folder or that file.

    Raises:
        DatasetError: there is none, or it cannot be read.
    """
    if path.is_file():
        return _read_file(path, report)
    if not path.is_dir():
        raise DatasetError(f"{path}: no such file or folder")
    files = [each for each in sorted(path.iterdir()) if each.suffix.lower() in (".yaml", ".yml")]
    files.sort(key=lambda each: (each.stem not in ("data", "dataset"), each.stem != "data"))
    found, error = list[YoloDescription](), None
    for file in files:
        try:
            found.append(_read_yaml(file))
        except DatasetError as problem:
            error = error or problem
    described = [each for each in found if "names" in each.table]
    described.sort(key=lambda each: not SPLIT_KEYS.keys() & each.table.keys())
    if described:
        others = [each.path.name for each in described[1:] if SPLIT_KEYS.keys() & each.table.keys()]
        if others:
            report.note(f"read {described[0].path.name}; not read: {', '.join(others)}")
        return described[0]
    data_files = [path / "obj.data", path / "data" / "obj.data", *sorted(path.glob("*.data"))]
    for file in filter(Path.is_file, data_files):
        return _read_darknet(file, path, report)
    for name in _NAMES_FILES:
        if (path / name).is_file():
            return _from_names(path / name, path)
    if found:
        return found[0]
    raise error or DatasetError(
        f"{path}: there is neither data.yaml nor obj.data nor classes.txt in it"
    )


def _read_file(path: Path, report: ImportReport) -> YoloDescription:
    suffix = path.suffix.lower()
    if suffix == ".data":
        return _read_darknet(path, path.parent, report)
    return _read_yaml(path) if suffix in (".yaml", ".yml") else _from_names(path)


def _read_darknet(path: Path, folder: Path, report: ImportReport) -> YoloDescription:
    """Read Darknet's `obj.data`: lines `key = value` for the file of names and the lists of images.

    Its paths are relative to the folder that Darknet was run in, which is not known.
    """
    lines = [line.partition("=") for line in read_lines(path) if line.strip()[:1] not in "#;"]
    table: dict[str, Any] = {key.strip(): value.strip() for key, _, value in lines}
    roots = list(dict.fromkeys([folder, path.parent]))
    beside = [root / name for root in roots for name in _NAMES_FILES]
    names, _ = find_path(table.get("names", ""), roots, file=True)
    names = names or next(filter(Path.is_file, beside), None)
    if names is None:
        wanted = shown(table.get("names", "obj.names"))
        raise DatasetError(f"{path}: names must be a file with a class per line, got {wanted}")
    lists = {key: table[key] for key in SPLIT_KEYS if table.get(key)}
    if lists and not any(find_path(each, roots)[0] for each in lists.values()):
        missing = " and ".join(map(shown, lists.values()))
        report.note(f"{path}: {missing} not found; all images in {folder} are read instead")
        lists = {}
    return YoloDescription(
        path, folder, {**lists, "path": str(path.parent), "names": _read_names(names)}
    )


def _from_names(path: Path, folder: Path | None = None) -> YoloDescription:
    return YoloDescription(path, folder or path.parent, {"names": _read_names(path)})


def _read_names(path: Path) -> list[str]:
    """Read a file with the name of a class per line."""
    names = [name.strip() for name in read_lines(path)]
    while names and not names[-1]:
        names.pop()
    return names


def _read_yaml(path: Path) -> YoloDescription:
    """Read a YAML file; all its values stay text, as they are written."""
    yaml = needs("yaml")
    try:
        table = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_text_loader(yaml))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(table, dict):
        raise DatasetError(f"{path}: expected names, train and val, got a {type(table).__name__}")
    return YoloDescription(path, path.parent, table)


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


def read_classes(names: Any, folder: Path) -> tuple[str, ...]:
    """Read the names of the classes in the order of their ids, from `names` of the description.

    Raises:
        DatasetError: they are no names of text, or not of the ids from 0 on.
    """
    if isinstance(names, str):
        file, _ = find_path(names, [folder], file=True)
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


def parse_task(value: Any, where: Path) -> str:
    """Read the task; "" where there is none.

    Raises:
        DatasetError: there is no such task.
    """
    task = value.strip().casefold() if isinstance(value, str) else ""
    if (value and not task) or (task and task not in _TASKS):
        raise DatasetError(f"{where}: `task` must be one of {', '.join(_TASKS)}, or left out")
    return task


def parse_kpt_shape(value: Any, where: Path) -> tuple[int, int] | None:
    """Read how many keypoints an object has, and how many numbers each has.

    Raises:
        DatasetError: neither is such a number.
    """
    if value is None or value == "":
        return None
    try:
        points, dimensions = (int(number) for number in value)
    except (TypeError, ValueError):
        points = dimensions = 0
    if not 0 < points < 10**6 or dimensions not in (2, 3):
        raise DatasetError(f"{where}: kpt_shape must be a number of keypoints, and 2 or 3")
    return points, dimensions


def read_lines(label_path: Path) -> list[str]:
    """Read the lines of a label file.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return label_path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DatasetError(f"{label_path}: not UTF-8 text") from None
    except OSError as error:
        raise DatasetError(f"{label_path}: cannot be read ({error.strerror})") from None


def list_rows(label_path: Path) -> list[tuple[int, str]]:
    """List the rows of a label file of any encoding, as far as it can be read, with their lines."""
    try:
        text = label_path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return []
    return [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]


def find_path(entry: str, roots: Sequence[Path], *, file: bool = False) -> tuple[Path | None, bool]:
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
    return word.rstrip("0123456789") in SPLIT_KEYS
