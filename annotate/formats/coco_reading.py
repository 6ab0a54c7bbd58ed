"""COCO files by whomever they were written, as samples."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pycocotools.mask
from PIL import Image

from annotate import masks
from annotate.errors import DatasetError, ItemsError
from annotate.exports import Imported
from annotate.folder import Sample
from annotate.foreign import Place, inside, part_of, places
from annotate.records import Box, Item, Object, Rle

_coco: Any = pycocotools.mask
Record = Mapping[str, Any]


@dataclass(frozen=True)
class _File:
    """One JSON file: what its categories are called, its pictures, their annotations."""

    path: Path
    part: str
    labels: Mapping[Any, str]
    images: Sequence[Record]
    annotations: Mapping[Any, Sequence[Record]]
    clips: Mapping[str, Any]


def read(path: Path) -> Imported:
    """A COCO file, or every COCO file under a folder; each is a part.

    Raises:
        DatasetError: names the file and the annotation.
    """
    files = [_load(each) for each in _files(path)]
    if not files:
        raise DatasetError(f"{path}: no COCO file (images, annotations, categories) is there")
    classes = dict.fromkeys(label for each in files for label in each.labels.values())
    clips = {name: facts for each in files for name, facts in each.clips.items()}
    known = {
        (image["video"], image["frame"]) for each in files for image in each.images if _ours(image)
    }
    ours = len(known) == sum(len(each.images) for each in files)
    return Imported(tuple(classes), _samples(files, path, ours), clips)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise DatasetError(f"{path}: there is no such file or folder")
    if path.is_file():
        return [path]
    return [each for each in sorted(path.rglob("*.json")) if _is_coco(each)]


def _is_coco(path: Path) -> bool:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return False
    return isinstance(table, dict) and {"images", "annotations", "categories"} <= table.keys()


def _load(path: Path) -> _File:
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
        categories = sorted(table["categories"], key=lambda category: category["id"])
        labels = {category["id"]: str(category["name"]) for category in categories}
        images = table["images"]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path}: not JSON: {error}") from None
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not a COCO file: {error} is missing or damaged") from None
    if len(set(labels.values())) != len(labels):
        raise DatasetError(f"{path}: two categories have the same name")
    by_image = defaultdict(list)
    known = {image["id"] for image in images}
    for annotation in table["annotations"]:
        if annotation.get("image_id") not in known:
            raise DatasetError(f"{_name(path, annotation)}: its image_id is of no image")
        by_image[annotation["image_id"]].append(annotation)
    part = part_of(path.stem if not path.stem.startswith("_") else path.parent.name)
    info = table.get("info")
    clips = info.get("clips", {}) if isinstance(info, dict) else {}
    return _File(path, part, labels, images, by_image, clips if isinstance(clips, dict) else {})


def _samples(files: Sequence[_File], root: Path, ours: bool) -> Iterator[tuple[Path, Sample]]:
    folder = root if root.is_dir() else root.parent
    pictures = [_picture(each, image, folder) for each in files for image in each.images]
    rows = ((each, image) for each in files for image in each.images)
    named = places(pictures, folder.resolve().name)
    for picture, place, (file, image) in zip(pictures, named, rows, strict=True):
        size_wh = (int(image["width"]), int(image["height"]))
        _check_size(picture, size_wh, file)
        annotations = file.annotations.get(image["id"], ())
        objects = [_object(each, size_wh, file) for each in annotations]
        sample = place.sample(size_wh, objects, file.part)
        yield picture, _as_written(sample, place, image) if ours else sample


def _check_size(picture: Path, size_wh: tuple[int, int], file: _File) -> None:
    try:
        with Image.open(picture) as image:
            seen = image.size
    except OSError as error:
        raise DatasetError(f"{picture}: not an image that can be read: {error}") from None
    if sorted(seen) != sorted(size_wh):  # a camera's picture may lie on its side
        says = "{}x{}".format(*size_wh)
        raise DatasetError(f"{file.path}: {picture.name} is {seen[0]}x{seen[1]}, not {says}")


def _ours(image: Record) -> bool:
    return {"video", "frame", "seconds"} <= image.keys()


def _as_written(sample: Sample, place: Place, image: Record) -> Sample:
    item, seconds = sample.item, Fraction(image["seconds"])
    origin = Item(image["video"], image["frame"], seconds, item.width, item.height, item.objects)
    return Sample(place.image, origin, sample.part)


def _picture(file: _File, image: Record, folder: Path) -> Path:
    """Where a picture lies: by its file name, folders and all or without, or LVIS's address."""
    name = image.get("file_name") or image.get("coco_url")
    if not name:
        raise DatasetError(f"{file.path}: image {image.get('id')} has no file_name")
    given = PurePosixPath(str(name).replace("\\", "/"))
    here = file.path.parent
    homes = [here, here / "images", here.parent, here.parent / "images", folder, folder / "images"]
    homes += [home / file.part for home in homes]
    for tail in (given, given.name):
        for home in homes:
            if (home / tail).is_file():
                return home / tail
    raise DatasetError(f"{file.path}: the picture {name} is not near it; put it into {homes[1]}")


def _name(path: Path, annotation: Record) -> str:
    return f"{path}: annotation {annotation.get('id', 'without id')}"


def _object(annotation: Record, size_wh: tuple[int, int], file: _File) -> Object:
    where = _name(file.path, annotation)
    label = file.labels.get(annotation.get("category_id"))
    if label is None:
        raise DatasetError(f"{where}: its category_id is of no category")
    mask = _mask(annotation.get("segmentation"), size_wh, where)
    box = inside(_box(annotation, mask, where), size_wh, where)
    extras = annotation.get("attributes")
    told = {**(extras if isinstance(extras, dict) else {}), **annotation}
    track, score, flags = told.get("track_id"), told.get("score"), told.get("flags")
    return Object(
        label,
        box,
        float(score) if isinstance(score, int | float) else None,
        track if isinstance(track, int) else None,
        mask,
        str(told.get("source", "")),
        tuple(map(str, flags)) if isinstance(flags, list) else (),
    )


def _box(annotation: Record, mask: Rle | None, where: str) -> Box:
    bbox = annotation.get("bbox")
    if bbox:
        try:
            x, y, width, height = map(float, bbox)
        except (TypeError, ValueError):
            raise DatasetError(f"{where}: bbox must be x, y, width, height, got {bbox}") from None
        return x, y, x + width, y + height
    tight = masks.box(mask) if mask is not None else None
    if tight is None:
        raise DatasetError(f"{where}: neither a bbox nor a segmentation")
    return tight


def _mask(segmentation: Any, size_wh: tuple[int, int], where: str) -> Rle | None:
    """Polygons, compressed or uncompressed run lengths, as ours; None for none."""
    if not segmentation:
        return None
    width, height = size_wh
    try:
        if isinstance(segmentation, list):
            rings = segmentation if isinstance(segmentation[0], list) else [segmentation]
            parts = [masks.Polygon(np.array(ring, float).reshape(-1, 2)) for ring in rings]
            if not all(np.isfinite(part.outer).all() for part in parts):
                raise ValueError
            return masks.polygons_rle(parts, size_wh)
        if isinstance(segmentation["counts"], list):
            if sum(segmentation["counts"]) != width * height:
                raise ItemsError(f"its run lengths do not fill its {width}x{height} pixels")
            rle = _coco.frPyObjects(segmentation, *segmentation["size"])
            segmentation = {**rle, "counts": rle["counts"].decode("ascii")}
        masks.check(segmentation, size_wh)
    except ItemsError as error:
        raise DatasetError(f"{where}: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise DatasetError(f"{where}: a segmentation that is neither polygons nor RLE") from None
    return {"size": list(segmentation["size"]), "counts": segmentation["counts"]}
