"""Read ground truth: the classes and objects of a file of items, a COCO file or a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    sizes_wh: frozenset[tuple[int, int]] = frozenset()  # of its pictures, as far as it says


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
    objects, sizes_wh = {}, set()
    for item in items:
        objects[item.video, item.frame] = item.objects
        sizes_wh.add((item.width, item.height))
    return GroundTruth(tuple(labels), objects, frozenset(sizes_wh))


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
    sizes_wh = frozenset(image.size_wh for image in file.images if image.size_wh is not None)
    return GroundTruth(tuple(dict.fromkeys(file.labels.values())), objects, sizes_wh)


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


def with_video(truth: GroundTruth, video: str) -> GroundTruth:
    """Give all frames the name of one video."""
    objects = {(video, frame): each for (_, frame), each in truth.objects.items()}
    return replace(truth, objects=objects)


def _check_size(truth: GroundTruth, source: FrameSource, path: Path) -> None:
    """Refuse the truth of another clip, whose pictures have another size; datasets may mix sizes.

    Raises:
        ItemsError: the sizes differ.
    """
    [(video, entry)] = source.videos().items()
    size_wh = entry.get("width"), entry.get("height")
    if source.classes_and_items() is None and len(truth.sizes_wh) == 1:
        [true_size_wh] = truth.sizes_wh
        if None not in size_wh and size_wh != true_size_wh:
            true_size, size = ("x".join(map(str, each)) for each in (true_size_wh, size_wh))
            raise ItemsError(
                f"{path}: its pictures are {true_size}, and {video} is {size}: it is the truth of "
                "another clip, or of a copy in another size; give the truth of this clip"
            )


def _match_videos(truth: GroundTruth, source: FrameSource, path: Path) -> GroundTruth:
    """Give the truth the source's name of the video, if each has one video."""
    of_source, of_truth = set(source.videos()), {video for video, _ in truth.objects}
    if len(of_source) == 1 and len(of_truth) == 1:
        [video] = of_source
        _check_size(truth, source, path)
        return with_video(truth, video)
    if not of_source & of_truth:
        videos, others = (", ".join(sorted(each)) or "none" for each in (of_source, of_truth))
        raise ItemsError(f"{path}: no ground truth of {videos}; its clips: {others}")
    return truth
