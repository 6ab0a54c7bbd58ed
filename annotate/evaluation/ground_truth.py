"""Read ground truth: the classes and objects of a file of items, a COCO file or a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.dataset import coco
from annotate.dataset.folder import DATASET_FILE, load_dataset
from annotate.dataset.frame_sources import FrameKey, FrameSource
from annotate.errors import DatasetError, ItemsError
from annotate.items import journal
from annotate.items.records import Item, Object

_FRAME_KEYS = ("frame", "frame_index", "id")  # keys of a COCO image; the first present is its frame


@dataclass(frozen=True)
class GroundTruth:
    """Classes, and the objects of every frame that somebody has looked at."""

    labels: tuple[str, ...]
    objects: Mapping[FrameKey, tuple[Object, ...]]


def read(
    path: Path, *, image_keys: Mapping[str, FrameKey] | None = None, with_masks: bool = False
) -> GroundTruth:
    """Read the ground truth in a file of items, a COCO file or a dataset's folder.

    The frame index of a COCO image is its `frame`, `frame_index` or `id`, and its video is its
    `video`, or "" without that key; `image_keys` gives the frame of an image by the file's name.
    COCO needs no pictures. Its `iscrowd` annotations are left out, and its masks are read only
    `with_masks`.

    Raises:
        ItemsError: neither items nor COCO.
        DatasetError: a damaged COCO file or dataset.
    """
    if (path / DATASET_FILE).is_file():
        dataset = load_dataset(path)
        return _from_items(dataset.classes, (sample.item for sample in dataset))
    if path.is_file() and coco.is_coco(path):
        return _read_coco(path, image_keys or {}, with_masks)
    items_file = journal.read(path)
    items = list(items_file)
    labels = items_file.header.vocabulary.get("labels")
    return _from_items(labels or sorted({o.label for i in items for o in i.objects}), items)


def read_for_source(path: Path | None, source: FrameSource) -> GroundTruth | None:
    """Read the ground truth of a source's frames; without `path`, a dataset's own.

    If both the truth and the source have one video, it is the same video, whatever its name.
    None if there is no `path` and the source is a clip.

    Raises:
        ItemsError: neither items nor COCO, or of none of the source's videos.
        DatasetError: a damaged COCO file or dataset.
    """
    if path is not None:
        return _match_videos(read(path, image_keys=source.image_keys()), source, path)
    labelled = source.classes_and_items()
    return None if labelled is None else _match_videos(_from_items(*labelled), source, source.path)


def _from_items(labels: Sequence[str], items: Iterable[Item]) -> GroundTruth:
    return GroundTruth(tuple(labels), {(item.video, item.frame): item.objects for item in items})


def _read_coco(path: Path, image_keys: Mapping[str, FrameKey], with_masks: bool) -> GroundTruth:
    file = coco.load_file(path)
    try:
        objects = {
            _frame_key(image, image_keys): tuple(
                _coco_object(annotation, image if with_masks else None, file)
                for annotation in file.annotations.get(image["id"], ())
                if not annotation.get("iscrowd")
            )
            for image in file.images
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: a damaged COCO file: {error!r}") from None
    return GroundTruth(tuple(file.labels.values()), objects)


def _frame_key(image: Mapping[str, Any], image_keys: Mapping[str, FrameKey]) -> FrameKey:
    key = image_keys.get(Path(image.get("file_name", "")).name)
    if key is not None:
        return key
    frame_key = next((key for key in _FRAME_KEYS if key in image), "id")
    return image.get("video", ""), int(image[frame_key])


def _coco_object(
    annotation: Mapping[str, Any], image: Mapping[str, Any] | None, file: coco.CocoFile
) -> Object:
    where = coco.annotation_location(file.path, annotation)
    mask = None
    if image is not None:
        size_wh = (int(image["width"]), int(image["height"]))
        mask = coco.read_mask(annotation.get("segmentation"), size_wh, where)
    box = coco.read_box(annotation, mask, where)
    label = file.labels[annotation["category_id"]]
    return Object(label, box, track=annotation.get("track_id"), mask=mask)


def _match_videos(truth: GroundTruth, source: FrameSource, path: Path) -> GroundTruth:
    """Give the truth the source's name of the video, if each has one video."""
    of_source, of_truth = set(source.videos()), {video for video, _ in truth.objects}
    if len(of_source) == 1 and len(of_truth) == 1:
        [video] = of_source
        return GroundTruth(truth.labels, {(video, n): o for (_, n), o in truth.objects.items()})
    if not of_source & of_truth:
        videos, others = (", ".join(sorted(each)) or "none" for each in (of_source, of_truth))
        raise ItemsError(f"{path}: no ground truth of {videos}; its clips: {others}")
    return truth
