"""YOLO datasets by whomever they were written, as samples."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from annotate import masks
from annotate.errors import DatasetError, needs
from annotate.exports import Imported
from annotate.folder import Sample
from annotate.foreign import inside, places
from annotate.records import Box, Object

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_KEYS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


def read(path: Path) -> Imported:
    """A folder with `data.yaml` (or `classes.txt`, `images/` and `labels/`), or the YAML file.

    Raises:
        DatasetError: names the file and the line.
    """
    table, home = _table(path)
    classes = _classes(table.get("names"), home)
    pictures: dict[Path, str] = {}
    for key, part in _KEYS.items():
        entries = table.get(key) or ()
        for entry in [entries] if isinstance(entries, str) else entries:
            for picture in _pictures(_found(str(entry), table.get("path"), home)):
                pictures.setdefault(picture.resolve(), part)
    return Imported(classes, _samples(pictures, classes, home.resolve().name))


def _table(path: Path) -> tuple[Mapping[str, Any], Path]:
    """What the YAML file says, and the folder in which it lies."""
    if path.is_dir():
        files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")], key=lambda p: p.stem != "data")
        if not files and (path / "classes.txt").is_file():
            names = (path / "classes.txt").read_text(encoding="utf-8-sig").split("\n")
            return {"names": [name.strip() for name in names if name.strip()], "train": "."}, path
        if not files:
            raise DatasetError(f"{path}: neither data.yaml nor classes.txt is in it")
        path = files[0]
    yaml = needs("yaml")
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(table, dict):
        raise DatasetError(f"{path}: expected names, train and val, got {str(table)[:40]!r}")
    return table, path.parent


def _classes(names: Any, home: Path) -> tuple[str, ...]:
    if isinstance(names, dict):
        try:
            ordered = sorted((int(key), str(name)) for key, name in names.items())
        except ValueError:
            raise DatasetError(f"{home}: the keys of names must be class ids") from None
        if [key for key, _ in ordered] != list(range(len(ordered))):
            raise DatasetError(f"{home}: names must have the ids 0 to {len(ordered) - 1}")
        names = [name for _, name in ordered]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{home}: names must be a list, or ids with names")
    if len(set(names)) != len(names):
        raise DatasetError(f"{home}: two classes have the same name")
    return tuple(map(str, names))


def _found(entry: str, root: Any, home: Path) -> Path:
    """Where an entry of the YAML file leads: from `path`, or from the file itself."""
    given = Path(entry)
    roots = [home / str(root), home] if root else [home]
    tails = [given, Path(*[part for part in given.parts if part != ".."])]  # Roboflow's ../train
    for tail in tails:
        for base in roots:
            if (base / tail).exists():
                return base / tail
    raise DatasetError(f"{home}: its {entry} is not there")


def _pictures(place: Path) -> list[Path]:
    if place.is_dir():
        found = (each for each in sorted(place.rglob("*")) if each.suffix.lower() in _SUFFIXES)
        return list(found)
    pictures = []
    for number, line in enumerate(place.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            picture = place.parent / line.strip()
            if not picture.is_file():
                raise DatasetError(f"{place}:{number}: no picture {line.strip()}")
            pictures.append(picture)
    return pictures


def _samples(
    pictures: Mapping[Path, str], classes: Sequence[str], clip: str
) -> Iterator[tuple[Path, Sample]]:
    named = places(list(pictures), clip)
    for (picture, part), place in zip(pictures.items(), named, strict=True):
        try:
            with Image.open(picture) as image:
                size_wh = image.size
        except OSError as error:
            raise DatasetError(f"{picture}: not an image that can be read: {error}") from None
        yield picture, place.sample(size_wh, _objects(_labels(picture), size_wh, classes), part)


def _labels(picture: Path) -> Path:
    """`labels/train/x.txt` of `images/train/x.png`: the last `images` on the way is exchanged."""
    parts = list(picture.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return Path(*parts)


def _objects(labels: Path, size_wh: tuple[int, int], classes: Sequence[str]) -> list[Object]:
    if not labels.is_file():
        return []
    try:
        lines = labels.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DatasetError(f"{labels}: not text") from None
    return [
        _object(line, size_wh, classes, f"{labels}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _object(line: str, size_wh: tuple[int, int], classes: Sequence[str], where: str) -> Object:
    """A line: class and box, or class and outline; one number more is a score, or a track."""
    try:
        class_id, *numbers = map(float, line.split())
    except ValueError:
        raise DatasetError(f"{where}: not numbers: {line.strip()[:60]!r}") from None
    if len(numbers) < 4 or not all(map(math.isfinite, (class_id, *numbers))):
        raise DatasetError(f"{where}: expected a class and a box or an outline, got {line[:60]!r}")
    if class_id not in range(len(classes)):
        raise DatasetError(f"{where}: class {class_id:g}, but there are {len(classes)}, from 0")
    label = classes[int(class_id)]
    score, track = None, None
    if len(numbers) % 2:
        last = line.split()[-1]
        score, track = (None, int(last)) if last.isdigit() else (numbers[-1], None)
    pairs = np.array(numbers[: len(numbers) // 2 * 2]).reshape(-1, 2) * size_wh
    if len(pairs) == 2:
        (x, y), (width, height) = pairs.tolist()
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return Object(label, inside(box, size_wh, where), score, track)
    return _outlined(label, pairs, size_wh, score, track, where)


def _outlined(
    label: str,
    ring: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    size_wh: tuple[int, int],
    score: float | None,
    track: int | None,
    where: str,
) -> Object:
    """The outline filled as those who train on it fill it, its own points included."""
    (x1, y1), (x2, y2) = ring.min(axis=0), ring.max(axis=0)
    box: Box = inside((float(x1), float(y1), float(x2), float(y2)), size_wh, where)
    canvas = np.zeros(size_wh[::-1], np.uint8)
    cv2.fillPoly(canvas, [np.round(ring).astype(np.int32)], [1])
    mask = masks.encode(canvas.astype(np.bool_))
    return Object(label, masks.box(mask) or box, score, track, mask)
