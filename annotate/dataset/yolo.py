"""Write and read YOLO text files, of boxes and of segmentation outlines.

An export is read back with supervision, and checked with Ultralytics where that is installed.
Datasets of other programs are read by `yolo_import`. The fractions in a label file are of the
upright image, as Ultralytics takes them.
"""

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from annotate.dataset import yolo_import
from annotate.dataset.export import ImportedDataset
from annotate.dataset.folder import Dataset, Sample, link_or_copy
from annotate.detectors import ultralytics
from annotate.errors import ExportDiffers, needs
from annotate.items import boxes, masks
from annotate.items.records import Box, Item, Object
from annotate.items.sequences import chunks
from annotate.video.images import read_header

FloatArray = npt.NDArray[np.float64]
_NUDGE_PX = 0.01  # so that readers that round and readers that truncate find the same pixel
_COORDINATE_DIGITS = 8
_LINES_PER_BATCH = 32  # supervision makes a mask of the whole image for each line


@dataclass(frozen=True)
class YoloFormat:
    """`data.yaml`, `images/SPLIT` and `labels/SPLIT`: a line `class x y width height` per object.

    A frame without objects has an empty file. The format holds no masks, tracks or scores.
    """

    marker: ClassVar[str] = "data.yaml"
    min_iou: ClassVar[float] = 1.0

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""
        _write_dataset(dataset, out, _box_rows)

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
        return yolo_import.read(path)


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
        _write_dataset(dataset, out, _outline_rows)

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
        return yolo_import.read(path, "segment")


def _write_dataset(
    dataset: Dataset, out: Path, to_rows: Callable[[Item], Iterable[FloatArray]]
) -> None:
    class_ids = {label: number for number, label in enumerate(dataset.classes)}
    for split in dataset.splits:
        (out / "images" / split).mkdir(parents=True)
        (out / "labels" / split).mkdir(parents=True)
    for sample in dataset:
        link_or_copy(dataset.images / sample.image, out / "images" / sample.split / sample.image)
        text = _label_lines(sample.item, class_ids, to_rows(sample.item))
        _export_label_path(out, sample).write_text(text, encoding="ascii", newline="\n")
    (out / "data.yaml").write_text(_data_yaml(dataset), encoding="utf-8", newline="\n")


def _label_lines(item: Item, class_ids: Mapping[str, int], rows: Iterable[FloatArray]) -> str:
    return "".join(
        f"{class_ids[obj.label]} {_format_numbers(numbers)}\n"
        for obj, numbers in zip(item.objects, rows, strict=True)
    )


def box_label_lines(item: Item, class_ids: Mapping[str, int]) -> str:
    """Format the boxes of an item as the lines of its label file."""
    return _label_lines(item, class_ids, _box_rows(item))


def _export_label_path(out: Path, sample: Sample) -> Path:
    return out / "labels" / sample.split / f"{Path(sample.image).stem}.txt"


def _data_yaml(dataset: Dataset) -> str:
    """Write `data.yaml`; without `path`, its entries are relative to its folder."""
    lines = [f"{split}: images/{split}" for split in dataset.splits]
    if "val" not in dataset.splits:
        lines.append(f"val: images/{dataset.splits[0]}  # not split: these are the same pictures")
    if "train" not in dataset.splits:
        lines.append(f"train: images/{dataset.splits[0]}  # no part is for training")
    names = [f"  {number}: {_quoted(name)}" for number, name in enumerate(dataset.classes)]
    return "\n".join([*lines, "names:", *names, ""])


def _quoted(text: str) -> str:
    """Write a text as a quoted YAML string in one line."""
    written: str = needs("yaml").safe_dump(text, default_style='"', allow_unicode=True, width=10**9)
    return written.rstrip("\n")


def _format_numbers(numbers: FloatArray) -> str:
    return (f"%.{_COORDINATE_DIGITS}f " * numbers.size % tuple(numbers.ravel().tolist()))[:-1]


def _box_rows(item: Item) -> FloatArray:
    """Return the rows x, y, width, height of all boxes, clipped: rounding may let them overhang."""
    x1, y1, x2, y2 = boxes.clip([obj.box for obj in item.objects], (item.width, item.height)).T
    numbers = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
    sides = np.array([item.width, item.height, item.width, item.height])
    return np.asarray(numbers / sides)


def _outline_rows(item: Item) -> Iterator[FloatArray]:
    for obj in item.objects:
        yield _normalized_outline(obj, item)


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
        # the check rewrites a JPEG that has bytes after its end, so it gets a copy of the image
        with tempfile.TemporaryDirectory() as folder:
            copied_path = Path(folder) / image_path.name
            shutil.copyfile(image_path, copied_path)
            arguments = (str(copied_path), str(label_path), "", False, class_count, 0, 0, False)
            *_, corrupt, message = check(arguments)
        if corrupt:
            raise ExportDiffers(f"Ultralytics refuses {label_path.name}: {message}")

    return verify
