"""Read what a trainer sees of a dataset: its frames by split, its classes, and its hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from annotate.dataset.folder import Dataset, dataset_sha256
from annotate.files import json_digest
from annotate.training.trainer import TrainingFrame


@dataclass(frozen=True)
class DatasetContent:
    """The frames of a dataset by split, and its classes in alphabetical order.

    `sha256` is that of the dataset's content (`dataset_sha256`), `split_sha256` that of the images
    and their splits alone.
    """

    sha256: str
    split_sha256: str
    classes: tuple[str, ...]
    frames: Mapping[str, Sequence[TrainingFrame]]

    def count_objects(self, split: str) -> dict[str, int]:
        """Count the objects of each class in a split."""
        counts = dict.fromkeys(self.classes, 0)
        for frame in self.frames.get(split, ()):
            for obj in frame.item.objects:
                counts[obj.label] += 1
        return counts


def read_content(dataset: Dataset) -> DatasetContent:
    """Read a dataset; frames that a filter dropped are left out.

    Raises:
        DatasetError: the dataset is damaged, or an image is missing.
    """
    splits, frames = list[str](), dict[str, list[TrainingFrame]]()
    digest = dataset_sha256(dataset, splits)
    for sample in dataset:
        if sample.item.dropped is None:
            frame = TrainingFrame(dataset.images / sample.image, sample.item)
            frames.setdefault(sample.split, []).append(frame)
    split_sha256 = json_digest({"splits": sorted(splits)})
    return DatasetContent(digest, split_sha256, tuple(sorted(dataset.classes)), frames)
