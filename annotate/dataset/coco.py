"""Write and read COCO: one JSON file per split, with masks as RLE or polygons.

`CocoFormat` writes compressed RLE with the true mask area, and reads the export back with
pycocotools. The reader also takes COCO files of other programs: polygons, compressed and
uncompressed RLE, `iscrowd` annotations, and LVIS's image addresses.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, ClassVar

from pycocotools.coco import COCO

from annotate.dataset.coco_import import CocoFile, find_files, load_files
from annotate.dataset.export import (
    ImportedDataset,
    assign_frames,
    clip_imported_box,
    turn_upright,
)
from annotate.dataset.folder import Dataset, Sample, link_or_copy
from annotate.errors import DatasetError, VideoError
from annotate.items import masks
from annotate.items.foreign_coco import CocoAnnotation, CocoImage
from annotate.items.foreign_records import shown
from annotate.items.import_report import ImportReport
from annotate.items.records import Object
from annotate.video.image_search import ImageFinder, images_beside
from annotate.video.images import ImageHeader, read_header

Entry = tuple[CocoFile, CocoImage]
_BBOX_DIGITS = 6  # decimals of a pixel that survive x1 + (x2 - x1)


def read(path: Path) -> ImportedDataset:
    """Read a COCO file, or every COCO file under a folder; each file is a split.

    Several entries of one image are joined, also from several files. A damaged annotation leaves
    out its image, and the report counts both.

    Raises:
        DatasetError: names the file and the annotation.
    """
    report = ImportReport()
    files = load_files(find_files(path, report), report)
    if not files:
        reasons = "".join(f"; {line}" for line in report.warnings())
        raise DatasetError(f"{path}: no COCO file (images, annotations, categories) found{reasons}")
    if not any(each.has_annotations for each in files):
        report.note(f"{path}: there is no annotation: every image is one without objects")
    classes = dict.fromkeys(label for each in files for label in each.labels.values())
    clips = {name: metadata for each in files for name, metadata in each.clips.items()}
    return ImportedDataset(tuple(classes), _samples(files, path, report), clips, report)


def _samples(
    files: Sequence[CocoFile], root: Path, report: ImportReport
) -> Iterator[tuple[Path, Sample]]:
    folder = root if root.is_dir() else root.parent
    entries = _entries_by_image(files, folder, report)
    image_count = len(entries) + report.damaged_images.count
    for path in images_beside(entries, root if root.is_dir() else None):
        report.unlisted_images.add(str(path))
    origins = {(i.video, i.frame) for rows in entries.values() for _, i in rows if i.has_origin}
    with_origin = len(origins) == len(entries) and all(
        rows[0][1].has_origin for rows in entries.values()
    )
    frames = assign_frames([*entries], folder.resolve().name)
    for (image_path, rows), frame in zip(entries.items(), frames, strict=True):
        try:
            header = read_header(image_path)
            sizes_wh = [_recorded_size(image, header, image_path, f, report) for f, image in rows]
        except (VideoError, DatasetError) as error:
            report.skip_damaged_image(str(error), _places(rows), "they cannot be used")
            continue
        objects = _read_objects(rows, sizes_wh, image_path, header, report)
        if objects is None:
            continue
        if len({file.split for file, _ in rows}) > 1:
            report.notice(
                "an image is in several splits; it was imported into the first", str(image_path)
            )
        sample = frame.to_sample(header.size_wh, objects, rows[0][0].split)
        yield image_path, _with_origin(sample, rows[0][1]) if with_origin else sample
    report.check_damaged_images(image_count)


def _places(rows: Sequence[Entry]) -> list[str]:
    """List where the annotations of an image are."""
    places = [a.where for file, image in rows for a in file.annotations.get(image.id, ())]
    return places + [m for file, image in rows for m in file.damaged.get(image.id, ())]


def _entries_by_image(
    files: Sequence[CocoFile], folder: Path, report: ImportReport
) -> dict[Path, list[Entry]]:
    """Find the file of each image; several entries may be of one file.

    Raises:
        DatasetError: no file, or several that could be meant.
    """
    entries: dict[Path, list[Entry]] = {}
    paths: dict[str, Path] = {}  # resolved path -> path of its first entry
    for file in files:
        recorded_names = [image.file_name for image in file.images]
        finder = ImageFinder(file.path, folder, file.split, recorded_names)
        for image in file.images:
            if not image.file_name:
                where = f"{file.path}: image {shown(image.id)} has no file_name"
                report.skip_damaged_image(where, _places([(file, image)]), "they have no name")
                continue
            try:
                found = finder.find(image.file_name)
            except VideoError as error:
                raise DatasetError(f"{file.path}: {error}") from None
            image_path = paths.setdefault(os.path.realpath(found), found)
            entries.setdefault(image_path, []).append((file, image))
    return entries


def _read_objects(
    rows: Sequence[Entry],
    sizes_wh: Sequence[tuple[int, int]],
    image_path: Path,
    header: ImageHeader,
    report: ImportReport,
) -> list[Object] | None:
    """Read the objects of an image, upright; None, and a line in the report, to leave it out.

    An image is left out where an annotation of it is damaged, none is usable, or it has none and
    others may have been of it.
    """
    objects: dict[Any, tuple[Object, str]] = {}
    damages = [message for file, image in rows for message in file.damaged.get(image.id, ())]
    count = 0
    for (file, image), size_wh in zip(rows, sizes_wh, strict=True):
        for annotation in file.annotations.get(image.id, ()):
            count += 1
            try:
                obj = _read_object(annotation, size_wh, file.labels, report)
            except DatasetError as error:
                damages.append(str(error))
                continue
            if obj is None:
                continue
            if size_wh != header.size_wh:
                obj = turn_upright(obj, size_wh, header.orientation)
            counts = obj.mask and obj.mask["counts"]
            key = str(annotation.id), obj.label, obj.box, counts, obj.track, obj.score
            if objects.setdefault(key, (obj, annotation.where))[0] is not obj:
                report.notice("an annotation was there twice", annotation.where)
    if damages:
        left_out = [*(where for _, where in objects.values()), *damages]
        report.skip_damaged_image(f"{damages[0]}: {image_path}", left_out)
        return None
    if count and not objects:
        report.skip_image("no object in it could be used", str(image_path))
        return None
    if not count and any(file.is_unlabelled(image) for file, image in rows):
        messages = [message for file, _ in rows for message in file.of_no_image]
        report.skip_unlabelled_image(f"{messages[0]}: {image_path}")
        return None
    return [obj for obj, _ in objects.values()]


def _recorded_size(
    image: CocoImage,
    header: ImageHeader,
    image_path: Path,
    file: CocoFile,
    report: ImportReport,
) -> tuple[int, int]:
    """Return the size that the annotations of an image are of: upright, or as it is stored.

    Raises:
        DatasetError: neither is the size in the COCO file.
    """
    if image.size_wh is None:
        where = f"{file.path}: image {shown(image.id)}"
        report.notice("width and height were taken from the image", where)
        return header.size_wh
    turned = header.orientation >= 5 and image.size_wh == header.size_wh[::-1]
    if image.size_wh != header.size_wh and not turned:
        sizes = ("x".join(map(str, wh)) for wh in (header.size_wh, image.size_wh))
        raise DatasetError(f"{file.path}: {image_path.name} is {', not '.join(sizes)}")
    return image.size_wh


def _read_object(
    annotation: CocoAnnotation,
    size_wh: tuple[int, int],
    labels: Mapping[Any, str],
    report: ImportReport,
) -> Object | None:
    """Make the object of an annotation; None, and a line in the report, where it has no area."""
    mask = annotation.read_mask(size_wh, report)
    box = clip_imported_box(annotation.box_or_mask_box(mask), size_wh, annotation.where)
    if box[0] >= box[2] or box[1] >= box[3]:
        mask_box = masks.box(mask) if mask is not None else None
        if mask_box is None:
            report.skip_row("their box has no area", annotation.where)
            return None
        box = mask_box
    return Object(
        labels[annotation.category_id],
        box,
        annotation.score,
        annotation.track,
        mask,
        annotation.source,
        annotation.flags,
    )


def _with_origin(sample: Sample, image: CocoImage) -> Sample:
    assert image.frame is not None and image.seconds is not None
    item = replace(sample.item, video=image.video, frame=image.frame, seconds=image.seconds)
    return replace(sample, item=item)


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
