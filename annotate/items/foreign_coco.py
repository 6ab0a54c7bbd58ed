"""Check the images and annotations of COCO files of any program: every key may be of any type."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from annotate.errors import DatasetError, ItemsError
from annotate.items import masks
from annotate.items.foreign_masks import read_segmentation
from annotate.items.foreign_records import (
    Id,
    as_finite_number,
    as_id,
    as_table,
    as_whole_number,
    is_text,
    shown,
)
from annotate.items.import_report import ImportReport
from annotate.items.records import Box, Rle

_USED_ATTRIBUTES = {"score", "track_id", "rotation", "flags", "source", "iscrowd", "keyframe"}
_MAX_FRAME = 100_000_000  # a larger one is some other number, such as a time
_MAX_SIDE = 1_000_000  # pixels
_SECONDS = re.compile(r"\d{1,18}(/[1-9]\d{0,17}|\.\d{1,18})?")


@dataclass(frozen=True)
class CocoImage:
    """A checked entry of `images`; `file_name` is "" and `size_wh` None where they are missing."""

    id: Id
    file_name: str
    size_wh: tuple[int, int] | None = None
    video: str = ""
    frame: int | None = None
    seconds: Fraction | None = None

    @property
    def has_origin(self) -> bool:
        """Return whether the image is known to be a frame of a clip."""
        return bool(self.video) and self.frame is not None and self.seconds is not None


@dataclass(frozen=True)
class CocoAnnotation:
    """A checked entry of `annotations`; the segmentation is checked when it is read.

    `where` names the file and the annotation in messages. `box` is xyxy.
    """

    where: str
    id: Any
    image_id: Id
    category_id: Id
    box: Box | None
    segmentation: Any
    iscrowd: bool
    score: float | None
    track: int | None
    source: str
    flags: tuple[str, ...]

    def read_mask(self, size_wh: tuple[int, int], report: ImportReport) -> Rle | None:
        """Read the mask; None where there is none, or where it encloses no pixel.

        Raises:
            DatasetError: the segmentation is damaged.
        """
        try:
            mask, empty_count = read_segmentation(self.segmentation, size_wh)
        except ItemsError as error:
            raise DatasetError(f"{self.where}: {error}") from None
        if empty_count:
            report.notice(
                "an outline encloses no pixel and was left out; without another, there is no mask",
                self.where,
            )
        return mask

    def box_or_mask_box(self, mask: Rle | None) -> Box:
        """Return the box; without one, the box of the mask.

        Raises:
            DatasetError: neither a box nor a mask.
        """
        box = self.box or (masks.box(mask) if mask is not None else None)
        if box is None:
            raise DatasetError(f"{self.where}: neither a bbox nor a segmentation")
        return box


def read_id(record: Any, key: str) -> Id | None:
    """Read the id under a key of a record; None where there is none that can be read."""
    try:
        return as_id(as_table(record, "").get(key), "")
    except DatasetError:
        return None


def check_image(record: Any, number: int, path: Path, report: ImportReport) -> CocoImage:
    """Check the entry `number` of `images`.

    Raises:
        DatasetError: the id, the name or the size is damaged.
    """
    where = f"{path}: images[{number}]"
    image_id = as_id(as_table(record, where).get("id"), f"{where}: id")
    where = f"{path}: image {shown(image_id)}"
    name = record.get("file_name") or record.get("coco_url")
    if name and not is_text(name):
        raise DatasetError(f"{where} has no file_name, but {shown(name)}")
    video, frame, seconds = record.get("video"), record.get("frame"), record.get("seconds")
    if frame is None:
        frame = record.get("frame_index")
    index = as_whole_number(frame)
    if index is None or not 0 <= index <= _MAX_FRAME:
        if frame is not None:
            report.notice("a frame that is no frame index was not used", where)
        index = None
    is_time = _SECONDS.fullmatch(str(seconds)) is not None
    return CocoImage(
        image_id,
        name or "",
        _check_size(record, where),
        video if is_text(video) else "",
        index,
        Fraction(str(seconds)) if is_time else None,
    )


def _check_size(record: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """Check width and height; None where both or one are missing, or 0: not known."""
    sides = []
    for key in ("width", "height"):
        value = record.get(key)
        side = 0 if value is None else as_whole_number(value)
        if side is None or not 0 <= side <= _MAX_SIDE:
            raise DatasetError(
                f"{where}: width and height must be whole numbers, got {shown(value)}"
            )
        sides.append(side)
    width, height = sides
    return (width, height) if width and height else None


def check_annotation(
    record: Any, number: int, path: Path, categories: Container[Id], report: ImportReport
) -> CocoAnnotation:
    """Check the entry `number` of `annotations`, of one of the categories.

    Raises:
        DatasetError: an id or the box is damaged.
    """
    record = as_table(record, f"{path}: annotations[{number}]")
    where = f"{path}: annotation {shown(record.get('id', 'without id'))}"
    image_id = as_id(record.get("image_id"), f"{where}: there is no image with its image_id: it")
    category_id = as_id(record.get("category_id"), f"{where}: category_id")
    if category_id not in categories:
        raise DatasetError(f"{where}: there is no category with its category_id")
    box = _check_box(record.get("bbox"), where)
    attributes = record.get("attributes")
    extras = attributes if isinstance(attributes, dict) else {}
    values = {**extras, **{key: value for key, value in record.items() if value is not None}}
    score, track = as_finite_number(values.get("score")), as_whole_number(values.get("track_id"))
    if score is None and values.get("score") is not None:
        report.notice("a score that is no finite number was left out", where)
    if track is None and values.get("track_id") is not None:
        report.notice("a track_id that is no whole number was left out", where)
    if record.get("keypoints"):
        report.notice("keypoints were left out", where)
    if as_finite_number(extras.get("rotation")):
        report.notice("a box that is turned by an angle was taken without the turn", where)
    unused = [key for key, value in extras.items() if value and key not in _USED_ATTRIBUTES]
    for key in filter(is_text, unused):
        report.notice(f"the attribute {shown(key)} was left out", where)
    flags, source = values.get("flags"), values.get("source")
    return CocoAnnotation(
        where,
        record.get("id"),
        image_id,
        category_id,
        box,
        record.get("segmentation"),
        bool(record.get("iscrowd")) and record.get("iscrowd") != "0",
        score,
        track,
        source if is_text(source) else "",
        tuple(filter(is_text, flags)) if isinstance(flags, list) else (),
    )


def _check_box(bbox: Any, where: str) -> Box | None:
    """Check a bbox, x, y, width, height, and return it as xyxy; None where there is none."""
    if bbox is None or bbox in ([], {}, ""):
        return None
    sides = [as_finite_number(side) for side in bbox] if isinstance(bbox, list) else []
    if len(sides) != 4:
        raise DatasetError(f"{where}: bbox must be x, y, width, height, got {shown(bbox)}")
    x, y, width, height = sides
    if x is None or y is None or width is None or height is None or width < 0 or height < 0:
        raise DatasetError(f"{where}: a box of negative size, or not of numbers: {shown(bbox)}")
    return x, y, x + width, y + height
