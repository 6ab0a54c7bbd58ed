"""Read ground truth from a file of items, a COCO file or a dataset."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.dataset.folder import DATASET_FILE, load_dataset
from annotate.dataset.frame_sources import FrameKey, FrameSource
from annotate.errors import DatasetError, ItemsError
from annotate.items import journal
from annotate.items.records import Item, Object

_FRAME_KEYS = ("frame", "frame_index", "id")  # of a COCO image: the first that it has is its frame


@dataclass(frozen=True)
class GroundTruth:
    """Classes, and the objects of every frame that somebody has looked at."""

    labels: tuple[str, ...]
    objects: Mapping[FrameKey, tuple[Object, ...]]


def read(path: Path | None, source: FrameSource) -> GroundTruth | None:
    """The truth in a file of items, a COCO file or a dataset; without `path`, what footage brings.

    In COCO an image's frame is its `frame`, its `frame_index` or its `id`. Where it names no video,
    it is of the clip, or is the dataset's picture of that name.

    Raises:
        ItemsError: neither items nor COCO, or it speaks of none of the footage's frames.
    """
    if path is None:
        known = source.classes_and_items()
        return None if known is None else _from_items(*known, source, source.path)
    if (path / DATASET_FILE).is_file():
        dataset = load_dataset(path)
        return _from_items(dataset.classes, (s.item for s in dataset), source, path)
    record = _read_coco_record(path)
    if record is not None:
        return _from_coco(record, source, path)
    book = journal.read(path)
    there = list(book)
    labels = book.header.vocabulary.get("labels") or sorted(
        {o.label for i in there for o in i.objects}
    )
    return _from_items(labels, there, source, path)


def _read_coco_record(path: Path) -> dict[str, Any] | None:
    """The COCO record in a file; None where the file is none of JSON as a whole."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    if not isinstance(record, dict) or not {"images", "categories"} <= set(record):
        return None
    return record


def _from_items(
    labels: Sequence[str], items: Iterable[Item], source: FrameSource, path: Path
) -> GroundTruth:
    objects = {(item.video, item.frame): item.objects for item in items}
    return _matched_to_source(GroundTruth(tuple(labels), objects), source, path)


def _from_coco(record: Mapping[str, Any], source: FrameSource, path: Path) -> GroundTruth:
    pictures = source.image_keys()
    names = {each["id"]: each["name"] for each in record["categories"]}
    found = defaultdict(list)
    try:
        for each in record.get("annotations", ()):
            if not each.get("iscrowd"):
                found[each["image_id"]].append(_coco_object(each, names))
        objects = {
            _image_key(image, pictures): tuple(found[image["id"]]) for image in record["images"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: not COCO as it should be: {error!r}") from None
    return _matched_to_source(GroundTruth(tuple(names.values()), objects), source, path)


def _image_key(image: Mapping[str, Any], keys_by_name: Mapping[str, FrameKey]) -> FrameKey:
    named = keys_by_name.get(Path(image.get("file_name", "")).name)
    if named is not None:
        return named
    frame = next(image[key] for key in _FRAME_KEYS if key in image)
    return image.get("video", ""), int(frame)


def _coco_object(annotation: Mapping[str, Any], names: Mapping[int, str]) -> Object:
    x, y, width, height = map(float, annotation["bbox"])
    return Object(names[annotation["category_id"]], (x, y, x + width, y + height))


def _matched_to_source(truth: GroundTruth, source: FrameSource, path: Path) -> GroundTruth:
    """The truth under the footage's names: one video on either side is the same video."""
    clips, told = set(source.videos()), {video for video, _ in truth.objects}
    if len(clips) == 1 and len(told) == 1:
        [clip] = clips
        return GroundTruth(truth.labels, {(clip, n): o for (_, n), o in truth.objects.items()})
    if not clips & told:
        there = ", ".join(sorted(told)) or "none"
        raise ItemsError(f"{path}: tells nothing of {', '.join(sorted(clips))}; its clips: {there}")
    return truth
