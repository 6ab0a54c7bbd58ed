"""The clips of a curve with the true objects of their frames, and the pictures of these frames."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from annotate.dataset.build import build_dataset, save_image
from annotate.dataset.folder import Dataset, SplitRange, create_dataset, link_or_copy, with_split
from annotate.dataset.frame_sources import FrameKey, LocatedClip, locate_clips
from annotate.errors import ItemsError
from annotate.items import journal
from annotate.items.records import Header, Item, Object
from annotate.learning_curve.person import TrackedSequence, tracked_sequences
from annotate.training.content import DatasetContent, read_content
from annotate.training.trainer import TrainingFrame
from annotate.video import reader

ItemsByKey = Mapping[FrameKey, Item]
ItemsByFrame = Mapping[int, Item]
_GOLDEN_RATIO = 0.618033988749895  # multiples of it are spread evenly over 0 to 1
_LAST_FRAME = 1 << 60


def only_boxes(item: Item, classes: Collection[str] = ()) -> Item:
    """Return an item with nothing but the boxes of its objects, their classes and tracks.

    Only objects of `classes` stay, if any are given.
    """
    objects = tuple(
        Object(o.label, o.box, track=o.track)
        for o in item.objects
        if not classes or o.label in classes
    )
    return replace(item, objects=objects, lost=(), attributes=None)


@dataclass
class Footage:
    """The clips to label, with the truth of their frames, and those that stay apart as val.

    `pool` are the frames that are labelled: every `every`-th one with an item. `dataset` has the
    frames of the pool as train and those of `val` as val, with the true objects.
    """

    clips: Mapping[str, LocatedClip]
    truth: Mapping[str, ItemsByFrame]
    dataset: Dataset
    content: DatasetContent
    every: int
    folder: Path
    pool: Sequence[FrameKey] = field(init=False)
    images: dict[FrameKey, Path] = field(init=False)  # of all frames whose picture is saved

    def __post_init__(self) -> None:
        frames = self.content.frames["train"]
        self.images = {(f.item.video, f.item.frame): f.image for f in frames}
        self.pool = [(f.item.video, f.item.frame) for f in frames]
        (self.folder / "frames").mkdir(exist_ok=True)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in alphabetical order."""
        return self.content.classes

    @property
    def val(self) -> Sequence[TrainingFrame]:
        """The frames of val, with their true objects."""
        return self.content.frames["val"]

    def true_item(self, key: FrameKey) -> Item:
        """Return the true objects of a frame."""
        return self.truth[key[0]][key[1]]

    def sequences(self) -> list[TrackedSequence]:
        """Cut all clips where no track goes on."""
        return [
            each
            for clip, items in self.truth.items()
            for each in tracked_sequences(clip, list(items.values()))
        ]

    def frames(self, labels: ItemsByKey) -> list[TrainingFrame]:
        """Return labelled frames to train on, in order; pictures are decoded where needed."""
        self._decode([key for key in labels if key not in self.images])
        return [TrainingFrame(self.images[key], labels[key]) for key in sorted(labels)]

    def _decode(self, keys: Iterable[FrameKey]) -> None:
        by_clip: dict[str, list[int]] = {}
        for clip, number in sorted(keys):
            by_clip.setdefault(clip, []).append(number)
        for clip, numbers in by_clip.items():
            for frame in reader.frames_at(self.clips[clip].path, numbers):
                stem = self.clips[clip].frame_stem(frame.index)
                path = self.folder / "frames" / f"{stem}.jpg"
                save_image(frame.image, path)
                self.images[clip, frame.index] = path

    def header(self, stage: str, clips: Iterable[str]) -> Header:
        """Make the header of a file of items of some clips."""
        videos = {
            name: {"path": str(self.clips[name].path.resolve()), **self.clips[name].metadata}
            for name in clips
        }
        return Header(stage, vocabulary={"labels": list(self.classes)}, videos=videos)

    def write_items(self, path: Path, items: ItemsByKey, stage: str = "detect") -> Path:
        """Write items into a file, by clip and frame, and return its path."""
        ordered = [items[key] for key in sorted(items)]
        clips = dict.fromkeys(item.video for item in ordered)
        journal.write(path, self.header(stage, clips), ordered)
        return path

    def write_dataset(self, path: Path, labels: ItemsByKey) -> Dataset:
        """Write labelled frames as a dataset."""
        shutil.rmtree(path, ignore_errors=True)
        clips = {name: clip.metadata for name, clip in self.clips.items()}
        dataset = Dataset(path, self.classes, clips)
        with create_dataset(dataset, self.header("build", self.clips)) as writer:
            for frame in self.frames(labels):
                link_or_copy(frame.image, writer.images / frame.image.name)
                writer.add(frame.image.name, frame.item)
        return dataset


def read_footage(
    truth_paths: Sequence[Path],
    val_paths: Sequence[Path],
    every: int,
    folder: Path,
    classes: Collection[str] = (),
) -> Footage:
    """Read the true objects of clips, and save the pictures of every `every`-th frame.

    Only objects of `classes` are read; of all classes, if none is given.

    Raises:
        ItemsError: a file has no items, a clip is not found, or a clip is given twice.
        DatasetError: an object of a class is not among the clips to label.
    """
    journals, val_journals = (
        [journal.read(path) for path in paths] for paths in (truth_paths, val_paths)
    )
    clips = locate_clips([*journals, *val_journals])
    val_names = _val_names(clips, val_journals)
    truth = {c.name: {i.frame: only_boxes(i, classes) for i in c.items()} for c in clips}
    if not all(truth.values()):
        empty = next(clip for clip in clips if not truth[clip.name])
        raise ItemsError(f"{empty.sources[0].journal.path}: no frames of {empty.name} in it")
    dataset = _build_pool(clips, truth, every, folder)
    ranges = [
        SplitRange(name, 0, _LAST_FRAME, "val" if name in val_names else "train") for name in truth
    ]
    dataset = with_split(dataset, ranges)
    to_label = {clip.name: clip for clip in clips if clip.name not in val_names}
    own_truth = {name: truth[name] for name in to_label}
    return Footage(to_label, own_truth, dataset, read_content(dataset), every, folder)


def _build_pool(
    clips: Sequence[LocatedClip],
    truth: Mapping[str, ItemsByFrame],
    every: int,
    folder: Path,
) -> Dataset:
    """Save every `every`-th frame of all clips as a dataset."""
    labels = sorted(
        {o.label for items in truth.values() for i in items.values() for o in i.objects}
    )
    paths = []
    for number, clip in enumerate(clips):
        paths.append(folder / f"{number:04d}.items.jsonl")
        videos = {clip.name: {"path": str(clip.path.resolve()), **clip.metadata}}
        header = Header("truth", vocabulary={"labels": labels}, videos=videos)
        journal.write(paths[-1], header, truth[clip.name].values())
    return build_dataset(paths, folder / "pool", every=every, image_format="jpg", force=True)


def _val_names(clips: Sequence[LocatedClip], val_journals: Sequence[journal.Journal]) -> set[str]:
    """Return the clips of val.

    Raises:
        ItemsError: one of them is among the clips to label, too.
    """
    names = set()
    for clip in clips:
        is_val = {each.journal in val_journals for each in clip.sources}
        if len(is_val) > 1:
            raise ItemsError(
                f"{clip.name}: is among the clips to label and in `val`: val would praise what "
                "the detectors know by heart; give other clips as `val`"
            )
        names |= {clip.name} if is_val == {True} else set()
    return names


def spread(count: int, limit: int, seed: int) -> list[int]:
    """Choose `limit` of `count` positions, spread evenly; another seed moves all of them.

    Examples:
        >>> spread(20, 4, 0), spread(20, 4, 1)
        ([2, 7, 12, 17], [0, 5, 10, 15])
    """
    shift = (0.5 + seed * _GOLDEN_RATIO) % 1
    return [int((number + shift) * count / limit) for number in range(min(limit, count))]


def spread_order(count: int, seed: int) -> list[int]:
    """Order positions so that those of every beginning are spread over all.

    Examples:
        >>> spread_order(8, 0)
        [0, 5, 2, 7, 4, 1, 6, 3]
    """
    return sorted(range(count), key=lambda n: ((n + seed) * _GOLDEN_RATIO) % 1)
