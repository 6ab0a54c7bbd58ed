"""The biggest of what people changed, as a sheet: before and after, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from annotate import masks, sheet, view
from annotate.corrections import Change
from annotate.errors import DatasetError, OutputError
from annotate.folder import Dataset
from annotate.paint import annotated
from annotate.records import Box, Object, Picture

_ROOM = 240  # pixels that a half of a cell is wide
_LINE = (236, 239, 244)


def biggest(found: Sequence[Change], count: int) -> list[Change]:
    """The `count` changes that cost a person most: those by which most pixels changed hands."""
    made = [change for change in found if change.kind != "kept"]
    return sorted(made, key=_pixels, reverse=True)[:count]


def _pixels(change: Change) -> float:
    """The pixels that are of one of the two and not of the other."""
    areas = [_area(thing) for thing in (change.was, change.now) if thing is not None]
    if change.kind == "relabelled":
        return sum(areas)
    both = change.iou * sum(areas) / (1 + change.iou)
    return sum(areas) - 2 * both


def _area(thing: Object) -> float:
    if thing.mask is not None:
        return float(masks.area(thing.mask))
    return (thing.box[2] - thing.box[0]) * (thing.box[3] - thing.box[1])


def draw(dataset: Dataset, corrected: Dataset, found: Sequence[Change], count: int = 24) -> Picture:
    """A sheet of the biggest changes, (H, W, 3): what was proposed left, what it became right.

    Raises:
        DatasetError: nothing was changed.
    """
    chosen = biggest(found, count)
    if not chosen:
        raise DatasetError(f"{corrected.path}: nothing of {dataset.path} was changed")
    return sheet.lay_out([_cell(dataset, corrected, change) for change in chosen])


def save(picture: Picture, path: Path) -> None:
    """Write a picture, under another name first.

    Raises:
        OutputError: nothing can be written there, or not of that kind.
    """
    from PIL import Image

    draft = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        Image.fromarray(picture).save(draft)
        draft.replace(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot write there: {error}; try changes.png") from None
    finally:
        draft.unlink(missing_ok=True)


def _cell(dataset: Dataset, corrected: Dataset, change: Change) -> sheet.Cell:
    from PIL import Image

    with Image.open(dataset.images / change.image) as image:
        pixels = np.array(image.convert("RGB"), np.uint8)
    seen = view.around(_round(change), (change.item.width, change.item.height), _ROOM)
    halves = []
    for thing in (change.was, change.now):
        shown = replace(change.item, objects=() if thing is None else (thing,), lost=())
        part = seen.of_image(pixels)
        halves.append(annotated(part, seen.of_item(shown), corrected.classes))
    line = np.full((halves[0].shape[0], 2, 3), _LINE, np.uint8)
    name = change.object.label
    if change.kind == "relabelled" and change.now is not None:
        name += f" → {change.now.label}"
    iou = f", IoU {change.iou:.2f}" if change.kind == "moved" else ""
    title = f"{change.kind}: {name}{iou}"
    where = f"{change.image}  {change.object.source}"
    return sheet.Cell(np.hstack([halves[0], line, halves[1]]), title, where)


def _round(change: Change) -> Box:
    boxes = np.array([thing.box for thing in (change.was, change.now) if thing is not None])
    x1, y1 = boxes[:, :2].min(axis=0).tolist()
    x2, y2 = boxes[:, 2:].max(axis=0).tolist()
    return x1, y1, x2, y2
