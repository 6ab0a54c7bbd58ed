"""Read ground truth: the classes and objects of a file of items, a COCO file or a dataset."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from annotate.dataset import coco_import
from annotate.dataset.folder import DATASET_FILE, load_dataset
from annotate.dataset.frame_sources import FrameKey, FrameSource
from annotate.errors import DatasetError, ItemsError
from annotate.items import journal
from annotate.items.foreign_coco import CocoAnnotation, CocoImage
from annotate.items.import_report import ImportReport
from annotate.items.records import Item, Object


@dataclass(frozen=True)
class GroundTruth:
    """Classes, and the objects of every frame that somebody has looked at.

    `notes` are lines about what was left out of a COCO file, or read otherwise than it stands.
    """

    labels: tuple[str, ...]
    objects: Mapping[FrameKey, tuple[Object, ...]]
    sizes_wh: frozenset[tuple[int, int]] = frozenset()  # of its pictures, as far as it says
    notes: tuple[str, ...] = ()


def read(
    path: Path, *, image_keys: Mapping[str, FrameKey] | None = None, with_masks: bool = False
) -> GroundTruth:
    """Read the ground truth in a file of items, a COCO file or a dataset's folder.

    The frame index of a COCO image is its `frame`, `frame_index` or `id`, and its video is its
    `video`, or "" without that key; `image_keys` gives the frame of an image by the file's name.
    COCO needs no pictures. Its `iscrowd` annotations are left out, and its masks are read only
    `with_masks`. An image with a damaged annotation is left out, and noted.

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
    report = ImportReport()
    file = coco_import.load_file(path, report)
    image_count = len(file.images) + report.damaged_images.count
    objects: dict[FrameKey, tuple[Object, ...]] = {}
    left_out = set[FrameKey]()
    for image in file.images:
        key = _frame_key(image, image_keys, path)
        read_objects = _coco_objects(image, file, with_masks, report)
        if read_objects is None:
            left_out.add(key)
        else:
            objects[key] = objects.get(key, ()) + read_objects
    report.check_damaged_images(image_count)
    kept = {key: each for key, each in objects.items() if key not in left_out}
    sizes_wh = frozenset(image.size_wh for image in file.images if image.size_wh is not None)
    labels = tuple(dict.fromkeys(file.labels.values()))
    return GroundTruth(labels, kept, sizes_wh, tuple(report.warnings()))


def _coco_objects(
    image: CocoImage, file: coco_import.CocoFile, with_masks: bool, report: ImportReport
) -> tuple[Object, ...] | None:
    """Read the objects of an image; None, and a line in the report, where one is damaged."""
    damages, objects = [*file.damaged.get(image.id, ())], list[Object]()
    annotations = file.annotations.get(image.id, ())
    for annotation in annotations:
        try:
            obj = _coco_object(annotation, image, file, with_masks, report)
        except DatasetError as error:
            damages.append(str(error))
            continue
        if not annotation.iscrowd:
            objects.append(obj)
    where = image.file_name or str(image.id)
    if damages:
        places = [each.where for each in annotations] + [*file.damaged.get(image.id, ())]
        report.skip_damaged_image(f"{damages[0]}: {where}", places)
        return None
    if file.is_unlabelled(image):
        report.skip_unlabelled_image(f"{file.of_no_image[0]}: {where}")
        return None
    return tuple(objects)


def _frame_key(image: CocoImage, image_keys: Mapping[str, FrameKey], path: Path) -> FrameKey:
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
    annotation: CocoAnnotation,
    image: CocoImage,
    file: coco_import.CocoFile,
    with_masks: bool,
    report: ImportReport,
) -> Object:
    mask = None
    if with_masks and annotation.segmentation:
        if image.size_wh is None:
            raise DatasetError(f"{file.path}: image {image.id}: its masks need width and height")
        mask = annotation.read_mask(image.size_wh, report)
    box = annotation.box_or_mask_box(mask)
    return Object(file.labels[annotation.category_id], box, track=annotation.track, mask=mask)


def with_video(truth: GroundTruth, video: str) -> GroundTruth:
    """Give all frames the name of one video."""
    objects = {(video, frame): each for (_, frame), each in truth.objects.items()}
    return replace(truth, objects=objects)


def check_sizes(
    truth: GroundTruth, sizes_wh: Collection[tuple[int, int]], name: str, path: Path
) -> None:
    """Refuse the truth of another clip: both have pictures of one size, and not the same one.

    `sizes_wh` are those of `name`; datasets may mix sizes.

    Raises:
        ItemsError: the sizes differ.
    """
    if len(truth.sizes_wh) == len(sizes_wh) == 1 and truth.sizes_wh != frozenset(sizes_wh):
        [true_size_wh], [size_wh] = truth.sizes_wh, sizes_wh
        true_size, size = ("x".join(map(str, each)) for each in (true_size_wh, size_wh))
        raise ItemsError(
            f"{path}: its pictures are {true_size}, and {name} is {size}: it is the truth of "
            "another clip, or of a copy in another size; give the truth of this clip"
        )


def _known_sizes(source: FrameSource, video: str) -> set[tuple[int, int]]:
    """Return the size of a clip; none for a dataset, and none where the clip does not state it."""
    entry = source.videos()[video]
    size_wh: tuple[Any, Any] = entry.get("width"), entry.get("height")
    is_known = source.classes_and_items() is None and None not in size_wh
    return {size_wh} if is_known else set()


def _match_videos(truth: GroundTruth, source: FrameSource, path: Path) -> GroundTruth:
    """Give the truth the source's name of the video, if each has one video."""
    of_source, of_truth = set(source.videos()), {video for video, _ in truth.objects}
    if len(of_source) == 1 and len(of_truth) == 1:
        [video] = of_source
        check_sizes(truth, _known_sizes(source, video), video, path)
        return with_video(truth, video)
    if not of_source & of_truth:
        videos, others = (", ".join(sorted(each)) or "none" for each in (of_source, of_truth))
        raise ItemsError(f"{path}: no ground truth of {videos}; its clips: {others}")
    return truth
