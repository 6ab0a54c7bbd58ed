"""What is true of some frames: read from a file of items, from COCO, or from a dataset."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate import folder, journal
from annotate.errors import DatasetError, ItemsError
from annotate.footage import Footage, Key
from annotate.records import Item, Object

_FRAME_KEYS = ("frame", "frame_index", "id")  # of a COCO image: the first that it has is its frame


@dataclass(frozen=True)
class Truth:
    """Classes, and the objects of every frame that somebody has looked at."""

    labels: tuple[str, ...]
    objects: Mapping[Key, tuple[Object, ...]]


def read(path: Path | None, footage: Footage) -> Truth | None:
    """The truth in a file of items, a COCO file or a dataset; without `path`, what footage brings.

    In COCO an image's frame is its `frame`, its `frame_index` or its `id`. Where it names no video,
    it is of the clip, or is the dataset's picture of that name.

    Raises:
        ItemsError: neither items nor COCO, or it speaks of none of the footage's frames.
    """
    if path is None:
        known = footage.known()
        return None if known is None else _of_items(*known, footage, footage.path)
    if (path / folder.MARK).is_file():
        dataset = folder.load(path)
        return _of_items(dataset.classes, (s.item for s in dataset), footage, path)
    record = _json(path)
    if record is not None:
        return _of_coco(record, footage, path)
    book = journal.read(path)
    there = list(book)
    labels = book.header.vocabulary.get("labels") or sorted(
        {o.label for i in there for o in i.objects}
    )
    return _of_items(labels, there, footage, path)


def _json(path: Path) -> dict[str, Any] | None:
    """The COCO record in a file; None where the file is none of JSON as a whole."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    if not isinstance(record, dict) or not {"images", "categories"} <= set(record):
        return None
    return record


def _of_items(labels: Sequence[str], items: Iterable[Item], footage: Footage, path: Path) -> Truth:
    objects = {(item.video, item.frame): item.objects for item in items}
    return _fitting(Truth(tuple(labels), objects), footage, path)


def _of_coco(record: Mapping[str, Any], footage: Footage, path: Path) -> Truth:
    pictures = footage.pictures()
    names = {each["id"]: each["name"] for each in record["categories"]}
    found = defaultdict(list)
    try:
        for each in record.get("annotations", ()):
            if not each.get("iscrowd"):
                found[each["image_id"]].append(_object(each, names))
        objects = {_key(image, pictures): tuple(found[image["id"]]) for image in record["images"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: not COCO as it should be: {error!r}") from None
    return _fitting(Truth(tuple(names.values()), objects), footage, path)


def _key(image: Mapping[str, Any], pictures: Mapping[str, Key]) -> Key:
    named = pictures.get(Path(image.get("file_name", "")).name)
    if named is not None:
        return named
    frame = next(image[key] for key in _FRAME_KEYS if key in image)
    return image.get("video", ""), int(frame)


def _object(annotation: Mapping[str, Any], names: Mapping[int, str]) -> Object:
    x, y, width, height = map(float, annotation["bbox"])
    return Object(names[annotation["category_id"]], (x, y, x + width, y + height))


def _fitting(truth: Truth, footage: Footage, path: Path) -> Truth:
    """The truth under the footage's names: one video on either side is the same video."""
    clips, told = set(footage.videos()), {video for video, _ in truth.objects}
    if len(clips) == 1 and len(told) == 1:
        [clip] = clips
        return Truth(truth.labels, {(clip, n): o for (_, n), o in truth.objects.items()})
    if not clips & told:
        there = ", ".join(sorted(told)) or "none"
        raise ItemsError(f"{path}: tells nothing of {', '.join(sorted(clips))}; its clips: {there}")
    return truth
