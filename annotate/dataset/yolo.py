"""Write and read YOLO's text files, of boxes and of outlines.

An export is read back with supervision, and checked by ultralytics where that is installed. The
reader also takes YOLO datasets of other programs, with `data.yaml` or `classes.txt`.
"""

import importlib.util
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from annotate.dataset.export import ImportedDataset, assign_frames, clip_box
from annotate.dataset.folder import Dataset, Sample, link_or_copy
from annotate.detectors import yolo
from annotate.errors import DatasetError, ExportDiffers, needs
from annotate.items import masks
from annotate.items.records import Box, Item, Object

_IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_SPLIT_KEYS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


def read(path: Path) -> ImportedDataset:
    """A folder with `data.yaml` (or `classes.txt`, `images/` and `labels/`), or the YAML file.

    Raises:
        DatasetError: names the file and the line.
    """
    table, home = _read_yaml(path)
    classes = _read_classes(table.get("names"), home)
    pictures: dict[Path, str] = {}
    for key, part in _SPLIT_KEYS.items():
        entries = table.get(key) or ()
        for entry in [entries] if isinstance(entries, str) else entries:
            for picture in _list_images(_resolve_entry(str(entry), table.get("path"), home)):
                pictures.setdefault(picture.resolve(), part)
    return ImportedDataset(classes, _samples(pictures, classes, home.resolve().name))


def _read_yaml(path: Path) -> tuple[Mapping[str, Any], Path]:
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


def _read_classes(names: Any, home: Path) -> tuple[str, ...]:
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


def _resolve_entry(entry: str, root: Any, home: Path) -> Path:
    """Where an entry of the YAML file leads: from `path`, or from the file itself."""
    given = Path(entry)
    roots = [home / str(root), home] if root else [home]
    tails = [given, Path(*[part for part in given.parts if part != ".."])]  # Roboflow's ../train
    for tail in tails:
        for base in roots:
            if (base / tail).exists():
                return base / tail
    raise DatasetError(f"{home}: its {entry} is not there")


def _list_images(source: Path) -> list[Path]:
    if source.is_dir():
        found = (
            each for each in sorted(source.rglob("*")) if each.suffix.lower() in _IMAGE_SUFFIXES
        )
        return list(found)
    pictures = []
    for number, line in enumerate(source.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            picture = source.parent / line.strip()
            if not picture.is_file():
                raise DatasetError(f"{source}:{number}: no picture {line.strip()}")
            pictures.append(picture)
    return pictures


def _samples(
    pictures: Mapping[Path, str], classes: Sequence[str], clip: str
) -> Iterator[tuple[Path, Sample]]:
    named = assign_frames(list(pictures), clip)
    for (picture, part), place in zip(pictures.items(), named, strict=True):
        try:
            with Image.open(picture) as image:
                size_wh = image.size
        except OSError as error:
            raise DatasetError(f"{picture}: not an image that can be read: {error}") from None
        yield (
            picture,
            place.to_sample(
                size_wh, _read_objects(_source_label_path(picture), size_wh, classes), part
            ),
        )


def _source_label_path(picture: Path) -> Path:
    """`labels/train/x.txt` of `images/train/x.png`: the last `images` on the way is exchanged."""
    parts = list(picture.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return Path(*parts)


def _read_objects(labels: Path, size_wh: tuple[int, int], classes: Sequence[str]) -> list[Object]:
    if not labels.is_file():
        return []
    try:
        lines = labels.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DatasetError(f"{labels}: not text") from None
    return [
        _parse_line(line, size_wh, classes, f"{labels}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _parse_line(line: str, size_wh: tuple[int, int], classes: Sequence[str], where: str) -> Object:
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
        return Object(label, clip_box(box, size_wh, where), score, track)
    return _object_from_outline(label, pairs, size_wh, score, track, where)


def _object_from_outline(
    label: str,
    ring: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    size_wh: tuple[int, int],
    score: float | None,
    track: int | None,
    where: str,
) -> Object:
    """The outline filled as those who train on it fill it, its own points included."""
    (x1, y1), (x2, y2) = ring.min(axis=0), ring.max(axis=0)
    box: Box = clip_box((float(x1), float(y1), float(x2), float(y2)), size_wh, where)
    canvas = np.zeros(size_wh[::-1], np.uint8)
    cv2.fillPoly(canvas, [np.round(ring).astype(np.int32)], [1])
    mask = masks.encode(canvas.astype(np.bool_))
    return Object(label, masks.box(mask) or box, score, track, mask)


_NUDGE_PX = 0.01  # pixels: readers that round and readers that cut off then both land on the pixel
FloatArray = npt.NDArray[np.float64]
_COORDINATE_DIGITS = 8
_LINES_PER_BATCH = 32  # lines: the other reader makes a whole picture of each


@dataclass(frozen=True)
class YoloFormat:
    """`data.yaml`, `images/PART`, and `labels/PART` with a line `class x y width height` an object.

    A frame without objects has an empty file. Masks, tracks and scores have no place in it.
    """

    marker: ClassVar[str] = "data.yaml"
    min_iou: ClassVar[float] = 1.0

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""
        _write_dataset(dataset, out, _normalized_cxcywh)

    def representable(self, obj: Object) -> Object:
        """Its label and box."""
        return Object(obj.label, obj.box)

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """For each sample, its objects as supervision reads them; ultralytics checks the files."""
        return (seen for _, seen in _reread_samples(samples, path, outlines=False))

    def read(self, path: Path) -> ImportedDataset:
        """Read a YOLO dataset, of boxes or of outlines, by whomever it was written.

        Raises:
            DatasetError: names the file and the line.
        """
        return read(path)


@dataclass(frozen=True)
class YoloSegFormat:
    """As `yolo`, but a line is `class x y x y ...`, the outline of the whole mask.

    One instance is one line: its parts and holes are joined by bridges of no width. Readers fill an
    outline with `cv2.fillPoly`, which paints its points too; so it runs through the centres of the
    outermost pixels, and a mask of one part, holes or not, reads back to the pixel. A bridge
    between two parts is painted as a line of one pixel: that lowers the IoU of thin and scattered
    masks, of which a class must keep `least_iou` on average: at 0.5 half of what is read was meant.
    An object without a mask is its box's rectangle.
    """

    min_iou: float = 0.5
    marker: ClassVar[str] = "data.yaml"

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""
        _write_dataset(dataset, out, _normalized_outline)

    def representable(self, obj: Object) -> Object:
        """Its label and its mask, whose box is then the object's; without a mask, its box."""
        tight = masks.box(obj.mask) if obj.mask is not None else None
        return Object(obj.label, tight or obj.box, mask=obj.mask if tight else None)

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """For each sample, its objects as supervision reads them; ultralytics checks the files."""
        for sample, seen in _reread_samples(samples, path, outlines=True):
            bare = [self.representable(thing).mask is None for thing in sample.item.objects]
            if len(bare) == len(seen):  # the rectangle of a box is no mask
                seen = [replace(o, mask=None) if b else o for o, b in zip(seen, bare, strict=True)]
            yield seen

    def read(self, path: Path) -> ImportedDataset:
        """Read a YOLO dataset, of boxes or of outlines, by whomever it was written.

        Raises:
            DatasetError: names the file and the line.
        """
        return read(path)


def _write_dataset(
    dataset: Dataset, out: Path, to_numbers: Callable[[Object, Item], FloatArray]
) -> None:
    for part in dataset.splits:
        (out / "images" / part).mkdir(parents=True)
        (out / "labels" / part).mkdir(parents=True)
    for sample in dataset:
        link_or_copy(dataset.images / sample.image, out / "images" / sample.split / sample.image)
        lines = [
            f"{dataset.classes.index(thing.label)} {_format_numbers(to_numbers(thing, sample.item))}\n"
            for thing in sample.item.objects
        ]
        _export_label_path(out, sample).write_text("".join(lines), encoding="ascii", newline="\n")
    (out / "data.yaml").write_text(_data_yaml(dataset), encoding="utf-8", newline="\n")


def _export_label_path(out: Path, sample: Sample) -> Path:
    return out / "labels" / sample.split / f"{Path(sample.image).stem}.txt"


def _data_yaml(dataset: Dataset) -> str:
    """`data.yaml`; JSON's strings are YAML's. Without `path`, what is in it lies beside it."""
    lines = [f"{part}: images/{part}" for part in dataset.splits]
    if "val" not in dataset.splits:
        lines.append(f"val: images/{dataset.splits[0]}  # not split: these are the same pictures")
    if "train" not in dataset.splits:
        lines.append(f"train: images/{dataset.splits[0]}  # no part is for training")
    names = [f"  {i}: {json.dumps(name)}" for i, name in enumerate(dataset.classes)]
    return "\n".join([*lines, "names:", *names, ""])


def _format_numbers(numbers: FloatArray) -> str:
    return " ".join(f"{number:.{_COORDINATE_DIGITS}f}" for number in numbers.ravel().tolist())


def _normalized_cxcywh(obj: Object, item: Item) -> FloatArray:
    x1, y1, x2, y2 = _clip_to_image(obj, item)
    numbers = np.array([[(x1 + x2) / 2, (y1 + y2) / 2], [x2 - x1, y2 - y1]])
    return numbers / (item.width, item.height)


def _normalized_outline(obj: Object, item: Item) -> FloatArray:
    if obj.mask is not None and masks.area(obj.mask):
        ring = (
            masks.bridge_rings(masks.through_pixel_centres(masks.to_polygons(obj.mask))) - _NUDGE_PX
        )
        ring = np.concatenate([ring, np.repeat(ring[-1:], max(0, 3 - len(ring)), axis=0)])
    else:
        x1, y1, x2, y2 = _clip_to_image(obj, item)
        ring = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    return ring / (item.width, item.height)


def _clip_to_image(obj: Object, item: Item) -> tuple[float, float, float, float]:
    """The box without the half pixel by which rounding lets it overhang the picture."""
    x1, y1, x2, y2 = obj.box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(item.width)), min(y2, float(item.height))


def _reread_samples(
    samples: Iterable[Sample], path: Path, *, outlines: bool
) -> Iterator[tuple[Sample, list[Object]]]:
    from PIL import Image
    from supervision.utils.file import read_yaml_file

    names: dict[int, str] = read_yaml_file(str(path / "data.yaml"))["names"]
    verify = _ultralytics_check()
    for sample in samples:
        picture, labels = (
            path / "images" / sample.split / sample.image,
            _export_label_path(path, sample),
        )
        verify(picture, labels, len(names))
        with Image.open(picture) as image:
            size_wh = image.size
        lines = labels.read_text(encoding="ascii").splitlines()
        yield (
            sample,
            [
                thing
                for some in _line_batches(lines)
                for thing in _reread_objects(some, size_wh, names, outlines)
            ],
        )


def _line_batches(lines: list[str]) -> Iterator[list[str]]:
    return (
        lines[start : start + _LINES_PER_BATCH] for start in range(0, len(lines), _LINES_PER_BATCH)
    )


def _reread_objects(
    lines: list[str], size_wh: tuple[int, int], names: dict[int, str], outlines: bool
) -> Iterator[Object]:
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    found: Any = yolo_annotations_to_detections(lines, size_wh, with_masks=outlines)
    for row in range(len(found)):
        x1, y1, x2, y2 = found.xyxy[row].tolist()
        mask = masks.encode(found.mask[row]) if outlines else None
        yield Object(names[int(found.class_id[row])], (x1, y1, x2, y2), mask=mask)


def _ultralytics_check() -> Callable[[Path, Path, int], None]:
    """Ultralytics' own check of a picture and its labels, where it is installed."""
    if importlib.util.find_spec("ultralytics") is None:
        return lambda picture, labels, class_count: None
    yolo.import_ultralytics()  # the package is told to stay quiet before it is imported
    check: Any = importlib.import_module("ultralytics.data.utils").verify_image_label

    def verify(picture: Path, labels: Path, class_count: int) -> None:
        *_, corrupt, says = check((str(picture), str(labels), "", False, class_count, 0, 0, False))
        if corrupt:
            raise ExportDiffers(f"ultralytics does not take {labels.name}: {says}")

    return verify
