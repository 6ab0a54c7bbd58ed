"""YOLO's text files, of boxes and of outlines."""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from annotate import masks, ultralytics_network
from annotate.dataset import place
from annotate.errors import ExportDiffers
from annotate.exports import Imported
from annotate.folder import Dataset, Sample
from annotate.formats.yolo_reading import read
from annotate.records import Item, Object

_NUDGE = 0.01  # pixels: readers that round and readers that cut off then both land on the pixel
Numbers = npt.NDArray[np.float64]
_DIGITS = 8
_AT_ONCE = 32  # lines: the other reader makes a whole picture of each


@dataclass(frozen=True)
class YoloFormat:
    """`data.yaml`, `images/PART`, and `labels/PART` with a line `class x y width height` an object.

    A frame without objects has an empty file. Masks, tracks and scores have no place in it.
    """

    mark: ClassVar[str] = "data.yaml"
    least_iou: ClassVar[float] = 1.0

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""
        _write(dataset, out, _centred)

    def meant(self, thing: Object) -> Object:
        """Its label and box."""
        return Object(thing.label, thing.box)

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """For each sample, its objects as supervision reads them; ultralytics checks the files."""
        return (seen for _, seen in _reread(samples, path, outlines=False))

    def read(self, path: Path) -> Imported:
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

    least_iou: float = 0.5
    mark: ClassVar[str] = "data.yaml"

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""
        _write(dataset, out, _outline)

    def meant(self, thing: Object) -> Object:
        """Its label and its mask, whose box is then the object's; without a mask, its box."""
        tight = masks.box(thing.mask) if thing.mask is not None else None
        return Object(thing.label, tight or thing.box, mask=thing.mask if tight else None)

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """For each sample, its objects as supervision reads them; ultralytics checks the files."""
        for sample, seen in _reread(samples, path, outlines=True):
            bare = [self.meant(thing).mask is None for thing in sample.item.objects]
            if len(bare) == len(seen):  # the rectangle of a box is no mask
                seen = [replace(o, mask=None) if b else o for o, b in zip(seen, bare, strict=True)]
            yield seen

    def read(self, path: Path) -> Imported:
        """Read a YOLO dataset, of boxes or of outlines, by whomever it was written.

        Raises:
            DatasetError: names the file and the line.
        """
        return read(path)


def _write(dataset: Dataset, out: Path, line_of: Callable[[Object, Item], Numbers]) -> None:
    for part in dataset.parts:
        (out / "images" / part).mkdir(parents=True)
        (out / "labels" / part).mkdir(parents=True)
    for sample in dataset:
        place(dataset.images / sample.image, out / "images" / sample.part / sample.image)
        lines = [
            f"{dataset.classes.index(thing.label)} {_text(line_of(thing, sample.item))}\n"
            for thing in sample.item.objects
        ]
        _labels(out, sample).write_text("".join(lines), encoding="ascii", newline="\n")
    (out / "data.yaml").write_text(_yaml(dataset), encoding="utf-8", newline="\n")


def _labels(out: Path, sample: Sample) -> Path:
    return out / "labels" / sample.part / f"{Path(sample.image).stem}.txt"


def _yaml(dataset: Dataset) -> str:
    """`data.yaml`; JSON's strings are YAML's. Without `path`, what is in it lies beside it."""
    lines = [f"{part}: images/{part}" for part in dataset.parts]
    if "val" not in dataset.parts:
        lines.append(f"val: images/{dataset.parts[0]}  # not split: these are the same pictures")
    if "train" not in dataset.parts:
        lines.append(f"train: images/{dataset.parts[0]}  # no part is for training")
    names = [f"  {i}: {json.dumps(name)}" for i, name in enumerate(dataset.classes)]
    return "\n".join([*lines, "names:", *names, ""])


def _text(numbers: Numbers) -> str:
    return " ".join(f"{number:.{_DIGITS}f}" for number in numbers.ravel().tolist())


def _centred(thing: Object, item: Item) -> Numbers:
    x1, y1, x2, y2 = _cut_off(thing, item)
    numbers = np.array([[(x1 + x2) / 2, (y1 + y2) / 2], [x2 - x1, y2 - y1]])
    return numbers / (item.width, item.height)


def _outline(thing: Object, item: Item) -> Numbers:
    if thing.mask is not None and masks.area(thing.mask):
        ring = masks.bridge(masks.through_centres(masks.to_polygons(thing.mask))) - _NUDGE
        ring = np.concatenate([ring, np.repeat(ring[-1:], max(0, 3 - len(ring)), axis=0)])
    else:
        x1, y1, x2, y2 = _cut_off(thing, item)
        ring = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    return ring / (item.width, item.height)


def _cut_off(thing: Object, item: Item) -> tuple[float, float, float, float]:
    """The box without the half pixel by which rounding lets it overhang the picture."""
    x1, y1, x2, y2 = thing.box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(item.width)), min(y2, float(item.height))


def _reread(
    samples: Iterable[Sample], path: Path, *, outlines: bool
) -> Iterator[tuple[Sample, list[Object]]]:
    from PIL import Image
    from supervision.utils.file import read_yaml_file

    names: dict[int, str] = read_yaml_file(str(path / "data.yaml"))["names"]
    verify = _ultralytics()
    for sample in samples:
        picture, labels = path / "images" / sample.part / sample.image, _labels(path, sample)
        verify(picture, labels, len(names))
        with Image.open(picture) as image:
            size_wh = image.size
        lines = labels.read_text(encoding="ascii").splitlines()
        yield (
            sample,
            [thing for some in _chunks(lines) for thing in _seen(some, size_wh, names, outlines)],
        )


def _chunks(lines: list[str]) -> Iterator[list[str]]:
    return (lines[start : start + _AT_ONCE] for start in range(0, len(lines), _AT_ONCE))


def _seen(
    lines: list[str], size_wh: tuple[int, int], names: dict[int, str], outlines: bool
) -> Iterator[Object]:
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    found: Any = yolo_annotations_to_detections(lines, size_wh, with_masks=outlines)
    for row in range(len(found)):
        x1, y1, x2, y2 = found.xyxy[row].tolist()
        mask = masks.encode(found.mask[row]) if outlines else None
        yield Object(names[int(found.class_id[row])], (x1, y1, x2, y2), mask=mask)


def _ultralytics() -> Callable[[Path, Path, int], None]:
    """Ultralytics' own check of a picture and its labels, where it is installed."""
    if importlib.util.find_spec("ultralytics") is None:
        return lambda picture, labels, class_count: None
    ultralytics_network.package()  # the package is told to stay quiet before it is imported
    check: Any = importlib.import_module("ultralytics.data.utils").verify_image_label

    def verify(picture: Path, labels: Path, class_count: int) -> None:
        *_, corrupt, says = check((str(picture), str(labels), "", False, class_count, 0, 0, False))
        if corrupt:
            raise ExportDiffers(f"ultralytics does not take {labels.name}: {says}")

    return verify
