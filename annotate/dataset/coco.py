"""Write and read COCO: one JSON file per split, with masks as RLE or polygons.

`CocoFormat` writes compressed RLE with the true mask area, and reads the export back with
pycocotools. The reader also takes COCO files of other programs: polygons, compressed and
uncompressed RLE, `iscrowd` annotations, and LVIS's image addresses.
"""

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar

import numpy as np
import pycocotools.mask
from pycocotools.coco import COCO

from annotate.dataset.export import (
    ImportedDataset,
    assign_frames,
    clip_imported_box,
    split_from_name,
    turn_upright,
)
from annotate.dataset.folder import Dataset, Sample, link_or_copy
from annotate.errors import DatasetError, ItemsError, VideoError
from annotate.items import masks
from annotate.items.records import Box, Object, Rle
from annotate.video.images import ImageHeader, read_header

_coco_mask: Any = pycocotools.mask
Record = Mapping[str, Any]
_BBOX_DIGITS = 6  # decimals of a pixel that survive x1 + (x2 - x1)


@dataclass(frozen=True)
class CocoFile:
    """One COCO file: category names by id, image records, annotations by image id."""

    path: Path
    split: str
    labels: Mapping[Any, str]
    images: Sequence[Record]
    annotations: Mapping[Any, Sequence[Record]]
    clips: Mapping[str, Any]


def read(path: Path) -> ImportedDataset:
    """Read a COCO file, or every COCO file under a folder; each file is a split.

    Raises:
        DatasetError: names the file and the annotation.
    """
    files = [load_file(each) for each in _find_files(path)]
    if not files:
        raise DatasetError(f"{path}: no COCO file (images, annotations, categories) found")
    classes = dict.fromkeys(label for each in files for label in each.labels.values())
    clips = {name: metadata for each in files for name, metadata in each.clips.items()}
    images = [image for each in files for image in each.images]
    origins = {(image["video"], image["frame"]) for image in images if _has_origin(image)}
    with_origin = len(origins) == len(images)  # every image has an origin of its own
    return ImportedDataset(tuple(classes), _samples(files, path, with_origin), clips)


def _find_files(path: Path) -> list[Path]:
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    if path.is_file():
        return [path]
    return [each for each in sorted(path.rglob("*.json")) if is_coco(each)]


def is_coco(path: Path) -> bool:
    """Return whether a file is JSON with the three tables of COCO."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return False
    return isinstance(table, dict) and {"images", "annotations", "categories"} <= table.keys()


def load_file(path: Path) -> CocoFile:
    """Load a COCO file, and group its annotations by image.

    Raises:
        DatasetError: not COCO, or an annotation of no image.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
        categories = sorted(table["categories"], key=lambda category: category["id"])
        labels = {category["id"]: str(category["name"]) for category in categories}
        images, annotations = table["images"], table["annotations"]
        image_ids = {image["id"] for image in images}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path}: not JSON: {error}") from None
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not a COCO file: {error} is missing or damaged") from None
    if len(set(labels.values())) != len(labels):
        raise DatasetError(f"{path}: two categories have the same name")
    by_image = defaultdict(list)
    for annotation in annotations:
        if annotation.get("image_id") not in image_ids:
            where = annotation_location(path, annotation)
            raise DatasetError(f"{where}: there is no image with its image_id")
        by_image[annotation["image_id"]].append(annotation)
    split = split_from_name(path.stem if not path.stem.startswith("_") else path.parent.name)
    info = table.get("info")
    clips = info.get("clips", {}) if isinstance(info, dict) else {}
    clips = clips if isinstance(clips, dict) else {}
    return CocoFile(path, split, labels, images, by_image, clips)


def _samples(
    files: Sequence[CocoFile], root: Path, with_origin: bool
) -> Iterator[tuple[Path, Sample]]:
    folder = root if root.is_dir() else root.parent
    rows = [(each, image) for each in files for image in each.images]
    image_paths = [_find_image(each, image, folder) for each, image in rows]
    frames = assign_frames(image_paths, folder.resolve().name)
    for image_path, frame, (file, image) in zip(image_paths, frames, rows, strict=True):
        recorded_wh, header = _recorded_size(image, file), _read_image_header(image_path)
        annotations = file.annotations.get(image["id"], ())
        objects = [_read_object(each, recorded_wh, file) for each in annotations]
        if recorded_wh != header.size_wh:
            if header.orientation < 5 or recorded_wh != header.size_wh[::-1]:
                sizes = ("x".join(map(str, wh)) for wh in (header.size_wh, recorded_wh))
                raise DatasetError(f"{file.path}: {image_path.name} is {', not '.join(sizes)}")
            objects = [turn_upright(obj, recorded_wh, header.orientation) for obj in objects]
        sample = frame.to_sample(header.size_wh, objects, file.split)
        yield image_path, _with_origin(sample, image) if with_origin else sample


def _recorded_size(image: Record, file: CocoFile) -> tuple[int, int]:
    try:
        return int(image["width"]), int(image["height"])
    except (KeyError, TypeError, ValueError):
        raise DatasetError(
            f"{file.path}: image {image['id']}: width and height must be whole numbers"
        ) from None


def _read_image_header(image_path: Path) -> ImageHeader:
    try:
        return read_header(image_path)
    except VideoError as error:
        raise DatasetError(str(error)) from None


def _has_origin(image: Record) -> bool:
    return {"video", "frame", "seconds"} <= image.keys()


def _with_origin(sample: Sample, image: Record) -> Sample:
    video, frame, seconds = image["video"], image["frame"], Fraction(image["seconds"])
    return replace(sample, item=replace(sample.item, video=video, frame=frame, seconds=seconds))


def _find_image(file: CocoFile, image: Record, folder: Path) -> Path:
    """Find the file of an image, near the COCO file, by file_name or by the URL in LVIS files."""
    name = image.get("file_name") or image.get("coco_url")
    if not name:
        raise DatasetError(f"{file.path}: image {image.get('id')} has no file_name")
    recorded = PurePosixPath(str(name).replace("\\", "/"))
    parents = [file.path.parent, file.path.parent.parent, folder]
    folders = [each for parent in parents for each in (parent, parent / "images")]
    folders += [each / file.split for each in folders]
    for tail in (recorded, recorded.name):
        for each in folders:
            if (each / tail).is_file():
                return each / tail
    raise DatasetError(f"{file.path}: image {name} not found; put it into {folders[1]}")


def annotation_location(path: Path, annotation: Record) -> str:
    """Name an annotation in an error message: its file and id."""
    return f"{path}: annotation {annotation.get('id', 'without id')}"


def _read_object(annotation: Record, size_wh: tuple[int, int], file: CocoFile) -> Object:
    where = annotation_location(file.path, annotation)
    label = file.labels.get(annotation.get("category_id"))
    if label is None:
        raise DatasetError(f"{where}: there is no category with its category_id")
    mask = read_mask(annotation.get("segmentation"), size_wh, where)
    box = clip_imported_box(read_box(annotation, mask, where), size_wh, where)
    extras = annotation.get("attributes")
    record = {**(extras if isinstance(extras, dict) else {}), **annotation}
    track, score, flags = record.get("track_id"), record.get("score"), record.get("flags")
    return Object(
        label,
        box,
        float(score) if isinstance(score, int | float) else None,
        track if isinstance(track, int) else None,
        mask,
        str(record.get("source", "")),
        tuple(map(str, flags)) if isinstance(flags, list) else (),
    )


def read_box(annotation: Record, mask: Rle | None, where: str) -> Box:
    """Return an annotation's `bbox` as xyxy; without one, the box of its mask.

    Raises:
        DatasetError: neither a bbox nor a mask, or a bbox that is not four numbers.
    """
    bbox = annotation.get("bbox")
    if bbox:
        try:
            x, y, width, height = map(float, bbox)
        except (TypeError, ValueError):
            raise DatasetError(f"{where}: bbox must be x, y, width, height, got {bbox}") from None
        return x, y, x + width, y + height
    mask_box = masks.box(mask) if mask is not None else None
    if mask_box is None:
        raise DatasetError(f"{where}: neither a bbox nor a segmentation")
    return mask_box


def read_mask(segmentation: Any, size_wh: tuple[int, int], where: str) -> Rle | None:
    """Convert polygons, compressed or uncompressed RLE to RLE; None where there is no mask."""
    if not segmentation:
        return None
    width, height = size_wh
    try:
        if isinstance(segmentation, list):
            rings = segmentation if isinstance(segmentation[0], list) else [segmentation]
            polygons = [masks.Polygon(np.array(ring, float).reshape(-1, 2)) for ring in rings]
            if not all(np.isfinite(polygon.outer).all() for polygon in polygons):
                raise ValueError
            return masks.polygons_to_rle(polygons, size_wh)
        if isinstance(segmentation["counts"], list):
            if sum(segmentation["counts"]) != width * height:
                raise ItemsError(f"its run lengths do not fill its {width}x{height} pixels")
            rle = _coco_mask.frPyObjects(segmentation, *segmentation["size"])
            segmentation = {**rle, "counts": rle["counts"].decode("ascii")}
        masks.check(segmentation, size_wh)
    except ItemsError as error:
        raise DatasetError(f"{where}: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise DatasetError(f"{where}: a segmentation that is neither polygons nor RLE") from None
    return {"size": list(segmentation["size"]), "counts": segmentation["counts"]}


@dataclass(frozen=True)
class CocoFormat:
    """`images/` and `annotations/instances_SPLIT.json`.

    Every object is an annotation with `iscrowd` 0. A mask is one compressed RLE; with `polygons` it
    is one ring per part, holes joined by bridges, which pycocotools fills to the same pixels. An
    object without a mask has an empty list for it, and the area of its box. `track_id`, `score`,
    `source` and `flags` are extra keys, as are `video`, `frame` and `seconds` of an image.
    """

    polygons: bool = False
    marker: ClassVar[str] = "annotations"
    min_iou: ClassVar[float] = 1.0

    def write(self, dataset: Dataset, out: Path) -> None:
        """Write the dataset into the empty folder `out`."""
        (out / "images").mkdir()
        (out / "annotations").mkdir()
        with contextlib.ExitStack() as stack:
            writers = {split: _SplitWriter(stack, out, split, dataset) for split in dataset.splits}
            annotation_id = 1
            for image_id, sample in enumerate(dataset, start=1):
                link_or_copy(dataset.images / sample.image, out / "images" / sample.image)
                writer = writers[sample.split]
                writer.images.append(_image_record(image_id, sample))
                for obj in sample.item.objects:
                    writer.add(self._annotation(annotation_id, image_id, obj, dataset.classes))
                    annotation_id += 1
            for writer in writers.values():
                writer.finish()

    def _annotation(
        self, annotation_id: int, image_id: int, obj: Object, classes: Sequence[str]
    ) -> dict[str, Any]:
        x1, y1, x2, y2 = obj.box
        width, height = round(x2 - x1, _BBOX_DIGITS), round(y2 - y1, _BBOX_DIGITS)
        extra: dict[str, Any] = {"track_id": obj.track, "score": obj.score}
        extra |= {"source": obj.source or None, "flags": list(obj.flags) or None}
        return {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": classes.index(obj.label) + 1,
            "bbox": [x1, y1, width, height],
            "area": masks.area(obj.mask) if obj.mask else width * height,
            "iscrowd": 0,
            "segmentation": self._segmentation(obj),
        } | {key: value for key, value in extra.items() if value is not None}

    def _segmentation(self, obj: Object) -> Any:
        if obj.mask is None:
            return []
        if not self.polygons:
            return dict(obj.mask)
        polygons = masks.to_polygons(obj.mask)
        return [masks.bridge_rings([polygon]).ravel().tolist() for polygon in polygons]

    def representable(self, obj: Object) -> Object:
        """Reduce an object to what COCO can hold: with `polygons`, an empty mask becomes None."""
        empty = self.polygons and obj.mask is not None and not masks.area(obj.mask)
        mask = None if empty else obj.mask
        return Object(obj.label, obj.box, obj.score, obj.track, mask)

    def reread(self, samples: Iterable[Sample], path: Path) -> Iterator[Sequence[Object]]:
        """Read the objects of each sample with pycocotools."""
        files: dict[str, tuple[COCO, dict[str, int]]] = {}
        for sample in samples:
            if sample.split not in files:
                with contextlib.redirect_stdout(io.StringIO()):  # it prints progress
                    coco = COCO(path / "annotations" / f"instances_{sample.split}.json")
                files[sample.split] = coco, {v["file_name"]: k for k, v in coco.imgs.items()}
            coco, ids = files[sample.split]
            yield [
                _reread_object(coco, annotation) for annotation in coco.imgToAnns[ids[sample.image]]
            ]

    def read(self, path: Path) -> ImportedDataset:
        """Read a COCO file, or a folder of COCO files, written by any program.

        Masks may be polygons, or compressed or uncompressed RLE. Annotations marked `iscrowd` are
        objects too, because some programs mark a mask with several parts or holes that way. Where
        the EXIF tag of an image turns it, and the file gives the size before the turn, boxes and
        masks are turned upright; with the size after the turn, or of a square image, they are
        taken as upright.

        Raises:
            DatasetError: names the file and the annotation.
        """
        return read(path)


class _SplitWriter:
    """Writes one COCO file: annotations as they come, then the images."""

    def __init__(
        self, stack: contextlib.ExitStack, out: Path, split: str, dataset: Dataset
    ) -> None:
        target = out / "annotations" / f"instances_{split}.json"
        self.images: list[Mapping[str, Any]] = []
        self._file: IO[str] = stack.enter_context(target.open("w", encoding="utf-8"))
        self._separator = "\n"
        categories = [{"id": i, "name": name} for i, name in enumerate(dataset.classes, start=1)]
        info = {"description": f"{split}, written by annotate-local", "clips": dict(dataset.clips)}
        head = json.dumps({"info": info, "licenses": [], "categories": categories})
        self._file.write(head[:-1] + ', "annotations": [')

    def add(self, annotation: Mapping[str, Any]) -> None:
        self._file.write(self._separator + json.dumps(annotation, ensure_ascii=False))
        self._separator = ",\n"

    def finish(self) -> None:
        self._file.write('],\n"images": ' + json.dumps(self.images, ensure_ascii=False) + "}\n")


def _image_record(image_id: int, sample: Sample) -> dict[str, Any]:
    item = sample.item
    size = {"width": item.width, "height": item.height}
    origin = {"video": item.video, "frame": item.frame, "seconds": str(item.seconds)}
    return {"id": image_id, "file_name": sample.image, **size, **origin}


def _reread_object(coco: COCO, annotation: Any) -> Object:
    [category] = coco.loadCats([annotation["category_id"]])
    x, y, width, height = annotation["bbox"]
    mask = None
    if annotation["segmentation"]:
        rle: Any = coco.annToRLE(annotation)
        counts = rle["counts"]
        text = counts if isinstance(counts, str) else counts.decode("ascii")
        mask = {"size": list(rle["size"]), "counts": text}
        if annotation["area"] != masks.area(mask) or annotation["iscrowd"]:
            mask = None  # a wrong area or `iscrowd`: let the comparison fail
    return Object(category["name"], (x, y, x + width, y + height), mask=mask)
