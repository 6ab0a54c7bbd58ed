"""COCO: a JSON file a part, with masks as run lengths and their true area."""

import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from pycocotools.coco import COCO

from annotate import masks
from annotate.dataset import place
from annotate.exports import Imported
from annotate.folder import Dataset, Sample
from annotate.formats.coco_reading import read
from annotate.records import Object

_DIGITS = 6  # of a pixel: what is left of x2 after x1 + (x2 - x1)


@dataclass(frozen=True)
class CocoFormat:
    """`images/` and `annotations/instances_PART.json`.

    Every object is an annotation with `iscrowd` 0; a mask is one compressed RLE, or, with
    `polygons`, a ring for each part, its holes bridged, which pycocotools fills to the same pixels.
    An object without a mask has the empty list for it and the area of its box. `track_id`, `score`,
    `source` and `flags` are extra keys, as are a picture's `video`, `frame` and `seconds`.
    """

    polygons: bool = False
    mark: ClassVar[str] = "annotations"
    least_iou: ClassVar[float] = 1.0

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""
        (out / "images").mkdir()
        (out / "annotations").mkdir()
        with contextlib.ExitStack() as stack:
            parts = {part: _Part(stack, out, part, dataset) for part in dataset.parts}
            annotation_id = 1
            for image_id, sample in enumerate(dataset, start=1):
                place(dataset.images / sample.image, out / "images" / sample.image)
                part = parts[sample.part]
                part.images.append(_image(image_id, sample))
                for thing in sample.item.objects:
                    part.add(self._annotation(annotation_id, image_id, thing, dataset.classes))
                    annotation_id += 1
            for part in parts.values():
                part.finish()

    def _annotation(
        self, annotation_id: int, image_id: int, thing: Object, classes: Sequence[str]
    ) -> dict[str, Any]:
        x1, y1, x2, y2 = thing.box
        width, height = round(x2 - x1, _DIGITS), round(y2 - y1, _DIGITS)
        extra: dict[str, Any] = {"track_id": thing.track, "score": thing.score}
        extra |= {"source": thing.source or None, "flags": list(thing.flags) or None}
        return {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": classes.index(thing.label) + 1,
            "bbox": [x1, y1, width, height],
            "area": masks.area(thing.mask) if thing.mask else width * height,
            "iscrowd": 0,
            "segmentation": self._segmentation(thing),
        } | {key: value for key, value in extra.items() if value is not None}

    def _segmentation(self, thing: Object) -> Any:
        if thing.mask is None:
            return []
        if not self.polygons:
            return dict(thing.mask)
        parts = masks.to_polygons(thing.mask)
        return [masks.bridge([part]).ravel().tolist() for part in parts]

    def meant(self, thing: Object) -> Object:
        """All of it; but as polygons an empty mask is none."""
        empty = self.polygons and thing.mask is not None and not masks.area(thing.mask)
        mask = None if empty else thing.mask
        return Object(thing.label, thing.box, thing.score, thing.track, mask)

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """For each sample, its objects as pycocotools reads them."""
        files: dict[str, tuple[COCO, dict[str, int]]] = {}
        for sample in samples:
            if sample.part not in files:
                with contextlib.redirect_stdout(io.StringIO()):  # it chats
                    coco = COCO(path / "annotations" / f"instances_{sample.part}.json")
                files[sample.part] = coco, {v["file_name"]: k for k, v in coco.imgs.items()}
            coco, ids = files[sample.part]
            yield [_seen(coco, annotation) for annotation in coco.imgToAnns[ids[sample.image]]]

    def read(self, path: Path) -> Imported:
        """Read a COCO file, or a folder of them, by whomever it was written.

        Polygons, run lengths and uncompressed run lengths are masks; annotations marked `iscrowd`
        are objects too, since that is how some writers mark a mask with parts or holes.

        Raises:
            DatasetError: names the file and the annotation.
        """
        return read(path)


class _Part:
    """One JSON file being written: annotations as they come, then the pictures."""

    def __init__(self, stack: contextlib.ExitStack, out: Path, part: str, data: Dataset) -> None:
        target = out / "annotations" / f"instances_{part}.json"
        self.images: list[Mapping[str, Any]] = []
        self._file: IO[str] = stack.enter_context(target.open("w", encoding="utf-8"))
        self._between = "\n"
        categories = [{"id": i, "name": name} for i, name in enumerate(data.classes, start=1)]
        info = {"description": f"{part}, written by annotate-local", "clips": dict(data.clips)}
        head = json.dumps({"info": info, "licenses": [], "categories": categories})
        self._file.write(head[:-1] + ', "annotations": [')

    def add(self, annotation: Mapping[str, Any]) -> None:
        self._file.write(self._between + json.dumps(annotation, ensure_ascii=False))
        self._between = ",\n"

    def finish(self) -> None:
        self._file.write('],\n"images": ' + json.dumps(self.images, ensure_ascii=False) + "}\n")


def _image(image_id: int, sample: Sample) -> dict[str, Any]:
    item = sample.item
    size = {"width": item.width, "height": item.height}
    origin = {"video": item.video, "frame": item.frame, "seconds": str(item.seconds)}
    return {"id": image_id, "file_name": sample.image, **size, **origin}


def _seen(coco: COCO, annotation: Any) -> Object:
    [category] = coco.loadCats([annotation["category_id"]])
    x, y, width, height = annotation["bbox"]
    mask = None
    if annotation["segmentation"]:
        rle: Any = coco.annToRLE(annotation)
        counts = rle["counts"]
        text = counts if isinstance(counts, str) else counts.decode("ascii")
        mask = {"size": list(rle["size"]), "counts": text}
        if annotation["area"] != masks.area(mask) or annotation["iscrowd"]:
            mask = None  # such an annotation does not say what was meant
    return Object(category["name"], (x, y, x + width, y + height), mask=mask)
