"""Read ground truth: the classes and objects of a file of items, a COCO file or a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from annotate.dataset import coco_import
from annotate.dataset.folder import DATASET_FILE, load_dataset
from annotate.dataset.frame_sources import FrameKey, FrameSource
from annotate.errors import DatasetError, ItemsError
from annotate.items import journal
from annotate.items.import_report import ImportReport
from annotate.items.records import Item, Object


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
    if path.is_file() and coco_import.is_coco(path):
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
    file = coco_import.load_file(path)
    objects: dict[FrameKey, tuple[Object, ...]] = {}
    for image in file.images:
        key = _frame_key(image, image_keys, path)
        objects[key] = objects.get(key, ()) + tuple(
            _coco_object(annotation, image, file, with_masks)
            for annotation in file.annotations.get(image.id, ())
            if not annotation.iscrowd
        )
    return GroundTruth(tuple(dict.fromkeys(file.labels.values())), objects)


def _frame_key(
    image: coco_import.CocoImage, image_keys: Mapping[str, FrameKey], path: Path
) -> FrameKey:
    key = image_keys.get(PurePosixPath(image.file_name.replace("\\", "/")).name)
    if key is not None:
        return key
    frame = image.id if image.frame is None else image.frame
    if not isinstance(frame, int):
        raise DatasetError(
            f"{path}: image {image.id}: it has no frame, and its id is no frame index; give `frame`"
        )
    return image.video, frame


def _coco_object(
    annotation: coco_import.CocoAnnotation,
    image: coco_import.CocoImage,
    file: coco_import.CocoFile,
    with_masks: bool,
) -> Object:
    mask = None
    if with_masks and annotation.segmentation:
        if image.size_wh is None:
            raise DatasetError(f"{file.path}: image {image.id}: its masks need width and height")
        mask = annotation.read_mask(image.size_wh, ImportReport())
    box = annotation.box_or_mask_box(mask)
    return Object(file.labels[annotation.category_id], box, track=annotation.track, mask=mask)


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
