"""Lay out many images on one sheet with captions, and crop images with their items.

A `CropView` maps an image, a mask, a box, points or a whole item into a scaled window. The items
for a sheet are selected so that they spread over the clip and show many classes and objects.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from annotate.items import masks
from annotate.items.records import Box, Item, Mask, Object, Picture
from annotate.viewing.overlay import font

_CONTEXT_SCALE = 1.7  # times as large as what is shown is the window round it
_MIN_HEIGHT_SHARE = 0.25  # of the picture's height is the least that a window shows


@dataclass(frozen=True)
class CropView:
    """A window on a picture, `window` in whole pixels as xyxy, shown `scale` times as large."""

    window_xyxy: tuple[int, int, int, int]
    scale: float

    @property
    def size_wh(self) -> tuple[int, int]:
        """How large it is shown, in pixels."""
        x1, y1, x2, y2 = self.window_xyxy
        return max(1, round((x2 - x1) * self.scale)), max(1, round((y2 - y1) * self.scale))

    def crop_image(self, image: Picture) -> Picture:
        """What is seen of a picture."""
        x1, y1, x2, y2 = self.window_xyxy
        way = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        return np.asarray(
            cv2.resize(image[y1:y2, x1:x2], self.size_wh, interpolation=way), np.uint8
        )

    def crop_mask(self, mask: Mask) -> Mask:
        """What is seen of a mask."""
        x1, y1, x2, y2 = self.window_xyxy
        seen = mask[y1:y2, x1:x2].astype(np.float32)
        return np.asarray(cv2.resize(seen, self.size_wh, interpolation=cv2.INTER_LINEAR) >= 0.5)

    def crop_box(self, box: Box) -> Box:
        """Where a box lies, cut off at the window's edge."""
        left, top, _, _ = self.window_xyxy
        width, height = self.size_wh
        x1, x2 = ((x - left) * self.scale for x in (box[0], box[2]))
        y1, y2 = ((y - top) * self.scale for y in (box[1], box[3]))
        return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))

    def map_points(self, points_xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Where points lie, (N, 2), the middle of a pixel being the middle of what it becomes."""
        return (points_xy + 0.5 - self.window_xyxy[:2]) * self.scale - 0.5

    def crop_item(self, item: Item) -> Item:
        """The item as of the picture that is seen; objects quite outside are left out."""
        width, height = self.size_wh
        seen = [self._crop_object(thing, item) for thing in item.objects]
        objects = tuple(t for t in seen if t.box[0] < t.box[2] and t.box[1] < t.box[3])
        return replace(item, width=width, height=height, objects=objects)

    def _crop_object(self, obj: Object, item: Item) -> Object:
        mask = obj.mask and masks.encode(self.crop_mask(masks.decode(obj.mask)))
        return replace(obj, box=self.crop_box(obj.box), mask=mask)


def full_view(size_wh: tuple[int, int], long_side: int) -> CropView:
    """All of a picture, its longer side made `room` pixels."""
    return CropView((0, 0, *size_wh), long_side / max(size_wh))


def view_around(box: Box, size_wh: tuple[int, int], width_px: int) -> CropView:
    """A window of 4:3 inside the picture, with `box` and something round it, `room` pixels wide."""
    x1, y1, x2, y2 = box
    least = _MIN_HEIGHT_SHARE * size_wh[1]
    height = max((y2 - y1) * _CONTEXT_SCALE, (x2 - x1) * _CONTEXT_SCALE * 3 / 4, least)
    spans = [
        _clamped_span((low + high) / 2, length, most)
        for low, high, length, most in zip(
            (x1, y1), (x2, y2), (height * 4 / 3, height), size_wh, strict=True
        )
    ]
    (left, right), (top, bottom) = spans
    return CropView(
        (left, top, right, bottom),
        min(width_px / (right - left), width_px * 3 / 4 / (bottom - top)),
    )


def _clamped_span(centre: float, length: float, limit: int) -> tuple[int, int]:
    """Whole pixels round the middle, moved and at last cut so as to lie in 0 to `most`."""
    whole = min(max(1, round(length)), limit)
    low = min(max(round(centre - whole / 2), 0), limit - whole)
    return low, low + whole


BACKGROUND, _TEXT_COLOUR, _PALE_TEXT_COLOUR = (17, 19, 24), (236, 239, 244), (150, 158, 172)
_GAP_PX = 12  # pixels between the cells and round them
_TEXT_HEIGHT = 15  # pixels high
_SHEET_ASPECT = 16 / 9  # of a sheet, as near as whole rows come to it
_EMPTY_CELL_WEIGHT = 5  # what an empty part of a sheet weighs against a wrong shape


_FEW_CELLS, _WIDE_CELL_PX, _NARROW_CELL_PX, _MIN_CELL_PX = (
    6,
    480,
    360,
    64,
)  # cells, and how wide they are in pixels
_MAX_SHEET_PIXELS = 40e6  # a sheet has no more than about these


def cell_width(count: int) -> int:
    """How wide a cell's picture should be where there are `count`, in pixels."""
    width = _WIDE_CELL_PX if count <= _FEW_CELLS else _NARROW_CELL_PX
    return max(_MIN_CELL_PX, min(width, int(math.sqrt(_MAX_SHEET_PIXELS / max(count, 1)))))


@dataclass(frozen=True)
class Cell:
    """A picture and what stands beneath it: a line, and a paler one."""

    picture: Picture
    title: str
    subtitle: str = ""


def lay_out(cells: Sequence[Cell]) -> Picture:
    """All cells on one sheet, row by row, (H, W, 3); the sheet is about as wide as a screen.

    Cells may differ in size: each has the room of the largest.
    """
    width = max(cell.picture.shape[1] for cell in cells)
    height = max(cell.picture.shape[0] for cell in cells)
    lines = 2 if any(cell.subtitle for cell in cells) else 1
    pitch_x, pitch_y = width + _GAP_PX, height + _GAP_PX + lines * (_TEXT_HEIGHT + 5) + 2
    columns = _column_count(len(cells), pitch_x, pitch_y)
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (columns * pitch_x + _GAP_PX, rows * pitch_y + _GAP_PX), BACKGROUND)
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        corner = (_GAP_PX + column * pitch_x, _GAP_PX + row * pitch_y)
        sheet.paste(Image.fromarray(cell.picture), corner)
        _write_text(sheet, cell, corner[0], corner[1] + height + 4, width)
    return np.array(sheet, np.uint8)


def _column_count(count: int, pitch_x: int, pitch_y: int) -> int:
    """How many cells a row has: few of the last row are left empty, and the shape is right."""

    def badness(columns: int) -> float:
        rows = math.ceil(count / columns)
        shape = columns * pitch_x / (rows * pitch_y)
        return (
            abs(math.log(shape / _SHEET_ASPECT))
            + _EMPTY_CELL_WEIGHT * (rows * columns - count) / count
        )

    return min(range(1, count + 1), key=badness)


def _write_text(sheet: Image.Image, cell: Cell, x: int, y: int, width: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for text, ink in ((cell.title, _TEXT_COLOUR), (cell.subtitle, _PALE_TEXT_COLOUR)):
        draw.text((x, y), truncate_text(text, width), fill=ink, font=font(_TEXT_HEIGHT))
        y += _TEXT_HEIGHT + 5


def truncate_text(text: str, width_px: int) -> str:
    """The text, cut short with an ellipsis where it is wider than `width` pixels."""
    if font(_TEXT_HEIGHT).getlength(text) <= width_px:
        return text
    while text and font(_TEXT_HEIGHT).getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"


def select_informative(items: Iterable[Item], count: int) -> list[Item]:
    """At most `count` items, in order of frames: spread over the clip, and those that show most.

    Items without objects are chosen only where there are no others. However many `items` there are,
    a few for each one chosen are held at a time.
    """
    full, bare = _SpreadSelector(count), _SpreadSelector(count)
    for item in items:
        (full if item.objects else bare).add(item)
    return full.selected() or bare.selected()


class _SpreadSelector:
    """The best item of each stretch of a clip; stretches grow with the clip."""

    def __init__(self, count: int) -> None:
        self._count, self._stretch_frames = count, 1
        self._best: dict[int, Item] = {}  # by stretch

    def add(self, item: Item) -> None:
        self._keep_best(item)
        while len(self._best) > 4 * self._count:
            self._stretch_frames *= 2
            kept, self._best = self._best, {}
            for each in kept.values():
                self._keep_best(each)

    def _keep_best(self, item: Item) -> None:
        stretch = item.frame // self._stretch_frames
        there = self._best.get(stretch)
        if there is None or _information(item) > _information(there):
            self._best[stretch] = item

    def selected(self) -> list[Item]:
        items = sorted(self._best.values(), key=lambda item: item.frame)
        parts = min(self._count, len(items))
        edges = [round(n * len(items) / parts) for n in range(parts + 1)] if parts else []
        return [max(items[a:b], key=_information) for a, b in itertools.pairwise(edges)]


def _information(item: Item) -> tuple[int, int, float]:
    """How much an item shows: kinds of things, things, and how large they are."""
    sizes = ((t.box[2] - t.box[0]) * (t.box[3] - t.box[1]) for t in item.objects)
    return len({thing.label for thing in item.objects}), len(item.objects), sum(sizes)


def letterbox(picture: Picture, size_wh: tuple[int, int]) -> Picture:
    """(h, w, 3): the picture as large as fits, to a pixel, on dark paper where it leaves room."""
    width, height = size_wh
    scale = min(width / picture.shape[1], height / picture.shape[0])
    wide, high = (
        most if abs(side * scale - most) < 1.5 else max(round(side * scale), 1)
        for side, most in zip(picture.shape[1::-1], size_wh, strict=True)
    )
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(picture, (wide, high), interpolation=way)
    room = np.empty((height, width, 3), np.uint8)
    room[:] = BACKGROUND
    left, top = (width - wide) // 2, (height - high) // 2
    room[top : top + high, left : left + wide] = small
    return room
