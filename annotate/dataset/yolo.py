"""Write and read YOLO text files, of boxes and of segmentation outlines.

An export is read back with supervision, and checked with Ultralytics where that is installed. The
reader also takes YOLO datasets of other programs, with `data.yaml` or `classes.txt`. The fractions
in a label file are of the upright image, as Ultralytics takes them.
"""

import importlib.util
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from annotate.dataset.export import ImportedDataset, assign_frames, clip_imported_box
from annotate.dataset.folder import Dataset, Sample, link_or_copy
from annotate.detectors import ultralytics
from annotate.errors import DatasetError, ExportDiffers, VideoError, needs
from annotate.items import boxes, masks
from annotate.items.records import Box, Item, Object
from annotate.items.sequences import chunks
from annotate.video.images import read_header

_IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_SPLIT_KEYS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
FloatArray = npt.NDArray[np.float64]
_NUDGE_PX = 0.01  # so that readers that round and readers that truncate find the same pixel
_COORDINATE_DIGITS = 8
_LINES_PER_BATCH = 32  # supervision makes a mask of the whole image for each line


def read(path: Path) -> ImportedDataset:
    """Read a folder with `data.yaml` (or with `classes.txt`, `images/` and `labels/`), or the YAML.

    Raises:
        DatasetError: names the file and the line.
    """
    table, folder = _read_yaml(path)
    classes = _read_classes(table.get("names"), folder)
    splits: dict[Path, str] = {}  # path of an image -> its split
    for key, split in _SPLIT_KEYS.items():
        entries = table.get(key) or ()
        for entry in [entries] if isinstance(entries, str) else entries:
            for image_path in _list_images(_resolve_entry(str(entry), table.get("path"), folder)):
                splits.setdefault(image_path.resolve(), split)
    return ImportedDataset(classes, _samples(splits, classes, folder.resolve().name))


def _read_yaml(path: Path) -> tuple[Mapping[str, Any], Path]:
    """Read the YAML file, or make its table from `classes.txt`; return table and folder."""
    if path.is_dir():
        files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")], key=lambda p: p.stem != "data")
        if not files and (path / "classes.txt").is_file():
            names = (path / "classes.txt").read_text(encoding="utf-8-sig").split("\n")
            return {"names": [name.strip() for name in names if name.strip()], "train": "."}, path
        if not files:
            raise DatasetError(f"{path}: there is neither data.yaml nor classes.txt in it")
        path = files[0]
    yaml = needs("yaml")
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(table, dict):
        raise DatasetError(f"{path}: expected names, train and val, got {str(table)[:40]!r}")
    return table, path.parent


def _read_classes(names: Any, folder: Path) -> tuple[str, ...]:
    if isinstance(names, dict):
        try:
            ordered = sorted((int(key), str(name)) for key, name in names.items())
        except ValueError:
            raise DatasetError(f"{folder}: the keys of names must be class ids") from None
        if [key for key, _ in ordered] != list(range(len(ordered))):
            raise DatasetError(f"{folder}: names must have the ids 0 to {len(ordered) - 1}")
        names = [name for _, name in ordered]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{folder}: names must be a list, or ids with names")
    if len(set(names)) != len(names):
        raise DatasetError(f"{folder}: two classes have the same name")
    return tuple(map(str, names))


def _resolve_entry(entry: str, root: Any, folder: Path) -> Path:
    """Find the path of an entry of the YAML file: relative to its `path`, or to the file."""
    given = Path(entry)
    roots = [folder / str(root), folder] if root else [folder]
    tails = [given, Path(*[part for part in given.parts if part != ".."])]  # Roboflow's ../train
    for tail in tails:
        for base in roots:
            if (base / tail).exists():
                return base / tail
    raise DatasetError(f"{folder}: the YAML file names {entry}, which is not there")


def _list_images(source: Path) -> list[Path]:
    """List the images in a folder, or in a text file with a path per line."""
    if source.is_dir():
        return [
            path for path in sorted(source.rglob("*")) if path.suffix.lower() in _IMAGE_SUFFIXES
        ]
    image_paths = []
    for number, line in enumerate(source.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            image_path = source.parent / line.strip()
            if not image_path.is_file():
                raise DatasetError(f"{source}:{number}: no image {line.strip()}")
            image_paths.append(image_path)
    return image_paths


def _samples(
    splits: Mapping[Path, str], classes: Sequence[str], clip: str
) -> Iterator[tuple[Path, Sample]]:
    frames = assign_frames(list(splits), clip)
    for (image_path, split), frame in zip(splits.items(), frames, strict=True):
        try:
            size_wh, _ = read_header(image_path)
        except VideoError as error:
            raise DatasetError(str(error)) from None
        objects = _read_objects(_source_label_path(image_path), size_wh, classes)
        yield image_path, frame.to_sample(size_wh, objects, split)


def _source_label_path(image_path: Path) -> Path:
    """Derive `labels/train/x.txt` from `images/train/x.png`: the last `images` is replaced."""
    parts = list(image_path.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return Path(*parts)


def _read_objects(
    label_path: Path, size_wh: tuple[int, int], classes: Sequence[str]
) -> list[Object]:
    if not label_path.is_file():
        return []
    try:
        lines = label_path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DatasetError(f"{label_path}: not UTF-8 text") from None
    return [
        _parse_line(line, size_wh, classes, f"{label_path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _parse_line(line: str, size_wh: tuple[int, int], classes: Sequence[str], where: str) -> Object:
    """Parse a line: class and box, or class and outline; an extra number is a score or a track."""
    try:
        class_id, *numbers = map(float, line.split())
    except ValueError:
        raise DatasetError(f"{where}: not numbers: {line.strip()[:60]!r}") from None
    if len(numbers) < 4 or not all(map(math.isfinite, (class_id, *numbers))):
        raise DatasetError(f"{where}: expected a class and a box or an outline, got {line[:60]!r}")
    if class_id not in range(len(classes)):
        raise DatasetError(
            f"{where}: class id {class_id:g}, but there are only 0 to {len(classes) - 1}"
        )
    label = classes[int(class_id)]
    score, track = None, None
    if len(numbers) % 2:
        last = line.split()[-1]
        score, track = (None, int(last)) if last.isdigit() else (numbers[-1], None)
    pairs = np.array(numbers[: len(numbers) // 2 * 2]).reshape(-1, 2) * size_wh
    if len(pairs) == 2:
        (x, y), (width, height) = pairs.tolist()
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return Object(label, clip_imported_box(box, size_wh, where), score, track)
    return _object_from_outline(label, pairs, size_wh, score, track, where)


def _object_from_outline(
    label: str,
    ring: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    size_wh: tuple[int, int],
    score: float | None,
    track: int | None,
    where: str,
) -> Object:
    """Fill an outline as training programs do: with its own points."""
    (x1, y1), (x2, y2) = ring.min(axis=0), ring.max(axis=0)
    box: Box = clip_imported_box((float(x1), float(y1), float(x2), float(y2)), size_wh, where)
    canvas = np.zeros(size_wh[::-1], np.uint8)
    cv2.fillPoly(canvas, [np.round(ring).astype(np.int32)], [1])
    mask = masks.encode(canvas.astype(np.bool_))
    return Object(label, masks.box(mask) or box, score, track, mask)


@dataclass(frozen=True)
class YoloFormat:
    """`data.yaml`, `images/SPLIT` and `labels/SPLIT`: a line `class x y width height` per object.

    A frame without objects has an empty file. The format holds no masks, tracks or scores.
    """

    marker: ClassVar[str] = "data.yaml"
    min_iou: ClassVar[float] = 1.0

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""
        _write_dataset(dataset, out, _normalized_cxcywh)

    def representable(self, obj: Object) -> Object:
        """Reduce an object to its label and box."""
        return Object(obj.label, obj.box)

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """Read the objects of each sample with supervision; Ultralytics checks the files."""
        return (objects for _, objects in _reread_samples(samples, path, outlines=False))

    def read(self, path: Path) -> ImportedDataset:
        """Read a YOLO dataset, of boxes or of outlines, written by any program.

        Raises:
            DatasetError: names the file and the line.
        """
        return read(path)


@dataclass(frozen=True)
class YoloSegFormat:
    """As `yolo`, but a line is `class x y x y ...`, the outline of the whole mask.

    One object is one line: parts and holes are joined by bridges of zero width. Readers fill an
    outline with `cv2.fillPoly`, which also paints its points. The outline therefore runs through
    the centres of the outermost pixels, and a mask of one part, with or without holes, reads back
    exactly. A bridge between two parts reads back as a line of one pixel, which lowers the IoU of
    thin and scattered masks: `min_iou` is the mean IoU that each class must reach. An object
    without a mask is written as the rectangle of its box.
    """

    min_iou: float = 0.5
    marker: ClassVar[str] = "data.yaml"

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""
        _write_dataset(dataset, out, _normalized_outline)

    def representable(self, obj: Object) -> Object:
        """Reduce an object to its label and mask, with the mask's box; without a mask, its box."""
        mask_box = masks.box(obj.mask) if obj.mask is not None else None
        return Object(obj.label, mask_box or obj.box, mask=obj.mask if mask_box else None)

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """Read the objects of each sample with supervision; Ultralytics checks the files."""
        for sample, objects in _reread_samples(samples, path, outlines=True):
            written = [self.representable(obj) for obj in sample.item.objects]
            if len(written) == len(objects):  # the rectangle of a box is not a mask
                objects = [
                    replace(read, mask=None) if expected.mask is None else read
                    for read, expected in zip(objects, written, strict=True)
                ]
            yield objects

    def read(self, path: Path) -> ImportedDataset:
        """Read a YOLO dataset, of boxes or of outlines, written by any program.

        Raises:
            DatasetError: names the file and the line.
        """
        return read(path)


def _write_dataset(
    dataset: Dataset, out: Path, to_numbers: Callable[[Object, Item], FloatArray]
) -> None:
    for split in dataset.splits:
        (out / "images" / split).mkdir(parents=True)
        (out / "labels" / split).mkdir(parents=True)
    for sample in dataset:
        link_or_copy(dataset.images / sample.image, out / "images" / sample.split / sample.image)
        lines = [
            f"{dataset.classes.index(obj.label)} {_format_numbers(to_numbers(obj, sample.item))}\n"
            for obj in sample.item.objects
        ]
        _export_label_path(out, sample).write_text("".join(lines), encoding="ascii", newline="\n")
    (out / "data.yaml").write_text(_data_yaml(dataset), encoding="utf-8", newline="\n")


def _export_label_path(out: Path, sample: Sample) -> Path:
    return out / "labels" / sample.split / f"{Path(sample.image).stem}.txt"


def _data_yaml(dataset: Dataset) -> str:
    """Write `data.yaml`, with strings in JSON; without `path`, its entries are relative to it."""
    lines = [f"{split}: images/{split}" for split in dataset.splits]
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


def _clip_to_image(obj: Object, item: Item) -> Box:
    """Clip the box to the image: rounding may let it overhang by half a pixel."""
    return boxes.clip_box(obj.box, (item.width, item.height))


def _reread_samples(
    samples: Iterable[Sample], path: Path, *, outlines: bool
) -> Iterator[tuple[Sample, list[Object]]]:
    from supervision.utils.file import read_yaml_file

    names: dict[int, str] = read_yaml_file(str(path / "data.yaml"))["names"]
    verify = _ultralytics_check()
    for sample in samples:
        image_path = path / "images" / sample.split / sample.image
        label_path = _export_label_path(path, sample)
        verify(image_path, label_path, len(names))
        size_wh, _ = read_header(image_path)
        lines, objects = label_path.read_text(encoding="ascii").splitlines(), list[Object]()
        for batch in chunks(lines, _LINES_PER_BATCH):
            objects += _reread_objects(batch, size_wh, names, outlines)
        yield sample, objects


def _reread_objects(
    lines: list[str], size_wh: tuple[int, int], names: dict[int, str], outlines: bool
) -> Iterator[Object]:
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    detections: Any = yolo_annotations_to_detections(lines, size_wh, with_masks=outlines)
    for row in range(len(detections)):
        x1, y1, x2, y2 = detections.xyxy[row].tolist()
        mask = masks.encode(detections.mask[row]) if outlines else None
        yield Object(names[int(detections.class_id[row])], (x1, y1, x2, y2), mask=mask)


def _ultralytics_check() -> Callable[[Path, Path, int], None]:
    """Return the check of an image and its labels by Ultralytics; no check where not installed."""
    if importlib.util.find_spec("ultralytics") is None:
        return lambda image_path, label_path, class_count: None
    ultralytics.import_ultralytics()  # offline and silent, before anything else imports it
    check: Any = importlib.import_module("ultralytics.data.utils").verify_image_label

    def verify(image_path: Path, label_path: Path, class_count: int) -> None:
        # the check writes a JPEG anew that has bytes after its end: it gets a copy of the image
        with tempfile.TemporaryDirectory() as folder:
            copied_path = Path(folder) / image_path.name
            shutil.copyfile(image_path, copied_path)
            arguments = (str(copied_path), str(label_path), "", False, class_count, 0, 0, False)
            *_, corrupt, message = check(arguments)
        if corrupt:
            raise ExportDiffers(f"Ultralytics refuses {label_path.name}: {message}")

    return verify
