"""Refuse a dataset that cannot be trained on, or that val would flatter."""

from __future__ import annotations

from annotate.dataset.folder import Dataset
from annotate.dataset.split import DUPLICATE_RMS, Leaks, find_leaks
from annotate.errors import DatasetError
from annotate.progress import counted
from annotate.training.content import DatasetContent

MAX_ALIKE = 0.5  # share of the val frames that may look like a training frame
_SPLIT = "split it first: annotate split"


def check_dataset(dataset: Dataset, content: DatasetContent) -> None:
    """Refuse a dataset that is not split, or has no objects to train on or to check with.

    Raises:
        DatasetError: says what is missing, and names the class.
    """
    where = dataset.path
    if not content.frames:
        raise DatasetError(f"{where}: no frames in it; build it again")
    if not dataset.split_ranges:
        raise DatasetError(f"{where}: not split into train and val; {_SPLIT}")
    for split in ("train", "val"):
        if not content.frames.get(split):
            raise DatasetError(f"{where}: no frame is in {split}; {_SPLIT}")
    counts, val_counts = (content.count_objects(split) for split in ("train", "val"))
    missing = [name for name, count in counts.items() if not count]
    if not content.classes or len(missing) == len(content.classes):
        raise DatasetError(f"{where}: no object is in train: there is nothing to learn")
    if missing:
        raise DatasetError(
            f"{where}: the class {missing[0]!r} has no object in train; label some, split again "
            "with another `seed`, or build the dataset without the class"
        )
    if not any(val_counts.values()):
        raise DatasetError(
            f"{where}: no object is in val, so no epoch and no threshold can be chosen; split it "
            "again with another `seed`, or label more"
        )


def check_leaks(dataset: Dataset) -> Leaks:
    """Refuse a dataset in which most of val looks like train, as a split by frames makes it.

    Returns the distances of the val frames to the training frames.

    Raises:
        DatasetError: names a frame of val and the training frame that it looks like.
    """
    leaks = find_leaks(dataset)
    val = leaks.table[leaks.table["part"] == "val"]
    alike = val[val["distance"] < DUPLICATE_RMS]
    if len(alike) > MAX_ALIKE * len(val):
        worst = alike.sort_values("distance").iloc[0]
        raise DatasetError(
            f"{dataset.path}: {len(alike)} of {counted(len(val), 'val frame')} look like a frame "
            f"to train on, such as {worst['image']} like {worst['near_in_looks']}: val would "
            "praise what the model knows by heart; split by shots: annotate split"
        )
    return leaks


def describe(content: DatasetContent, leaks: Leaks) -> list[str]:
    """Describe the splits, and how far val is from the training frames, in lines of text."""
    lines = []
    for split in ("train", "val"):
        frames = content.frames[split]
        empty = sum(not frame.item.objects for frame in frames)
        counts = [f"{name} {count:,}" for name, count in content.count_objects(split).items()]
        lines.append(
            f"{split}: {counted(len(frames), 'frame')}, {empty:,} of them without objects; "
            f"objects: {', '.join(counts)}"
        )
    val = leaks.table[leaks.table["part"] == "val"]
    alike = int((val["distance"] < DUPLICATE_RMS).sum())
    nearest = val["distance"].min()
    lines.append(
        f"val against train: {alike} of {len(val)} look alike; the nearest differs by "
        f"{nearest:.1f} of 255 ({DUPLICATE_RMS:g} is alike)"
    )
    return lines
