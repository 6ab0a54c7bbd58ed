"""Name the content of a dataset by a hash, and divide it into train and val.

The hash depends on the images, the splits, the classes, and the labels, boxes, masks and tracks of
the objects. It does not depend on the order of frames and objects, on names and places of files,
on times, or on who drew a box. One moved box changes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from annotate.dataset.folder import Dataset, Sample
from annotate.errors import DatasetError
from annotate.files import sha256
from annotate.items.records import Item
from annotate.training.trainer import TrainingFrame


@dataclass(frozen=True)
class DatasetContent:
    """The content of a dataset: its hashes, its frames by split, and the count of each class.

    `split_sha256` is over the images and their splits alone.
    """

    sha256: str
    split_sha256: str
    classes: tuple[str, ...]
    frames: dict[str, list[TrainingFrame]]

    def count_objects(self, split: str) -> dict[str, int]:
        """Count the objects of each class in a split."""
        counts = dict.fromkeys(self.classes, 0)
        for frame in self.frames.get(split, ()):
            for obj in frame.item.objects:
                counts[obj.label] += 1
        return counts


def read_content(dataset: Dataset) -> DatasetContent:
    """Read a dataset once: hash it, and list its frames by split.

    Frames that a filter dropped are left out. Classes are in alphabetical order, whatever their
    order in the dataset.

    Raises:
        DatasetError: the dataset is damaged, or an image is missing.
    """
    lines, splits = [], []
    frames: dict[str, list[TrainingFrame]] = {}
    for sample in dataset:
        if sample.item.dropped is not None:
            continue
        digest = _image_sha256(dataset, sample)
        splits.append(f"{digest} {sample.split}")
        lines.append(f"{digest} {sample.split} {canonical_item(sample.item)}")
        frame = TrainingFrame(dataset.images / sample.image, sample.item)
        frames.setdefault(sample.split, []).append(frame)
    classes = tuple(sorted(dataset.classes))
    head = json.dumps(classes, ensure_ascii=False)
    return DatasetContent(_digest(head, lines), _digest("", splits), classes, frames)


def _digest(head: str, lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join([head, *sorted(lines)]).encode()).hexdigest()


def _image_sha256(dataset: Dataset, sample: Sample) -> str:
    path = dataset.images / sample.image
    try:
        return sha256(path)
    except OSError:
        where = f"{sample.item.video}#{sample.item.frame}"
        raise DatasetError(f"{path}: the image of {where} is missing; build it again") from None


def canonical_item(item: Item) -> str:
    """Format what a trainer can see of an item as JSON, its objects in a fixed order."""
    objects = []
    for obj in item.objects:
        record: dict[str, Any] = {"label": obj.label, "box": [float(side) for side in obj.box]}
        record |= {"mask": dict(obj.mask)} if obj.mask is not None else {}
        record |= {"track": obj.track} if obj.track is not None else {}
        objects.append(json.dumps(record, sort_keys=True, ensure_ascii=False))
    return f"{item.width}x{item.height} [{','.join(sorted(objects))}]"
