"""Lay out many images with captions on one sheet, and select the items for such a sheet.

The items are selected so that they spread over the clip and show many classes and objects.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from annotate.items import boxes
from annotate.items.records import Item, Picture
from annotate.viewing import fonts

BACKGROUND, TEXT_COLOUR, PALE_TEXT_COLOUR = (17, 19, 24), (236, 239, 244), (150, 158, 172)
_GAP_PX = 12  # between the cells and round them
_TEXT_HEIGHT = 15  # pixels
_SHEET_ASPECT = 16 / 9  # preferred width / height of a sheet
_EMPTY_CELL_WEIGHT = 5  # cost of the share of empty cells, relative to that of a wrong aspect

_FEW_CELLS = 6  # up to so many, cells are wide
_WIDE_CELL_PX, _NARROW_CELL_PX, _MIN_CELL_PX = 480, 360, 64  # width of a cell
_MAX_SHEET_PIXELS = 40e6  # approximate


def cell_width(count: int) -> int:
    """Choose the width in pixels of the image in each of `count` cells."""
    width = _WIDE_CELL_PX if count <= _FEW_CELLS else _NARROW_CELL_PX
    return max(_MIN_CELL_PX, min(width, int(math.sqrt(_MAX_SHEET_PIXELS / max(count, 1)))))


@dataclass(frozen=True)
class Cell:
    """An image and the two lines of text beneath it; the second line is paler."""

    picture: Picture
    title: str
    subtitle: str = ""


def lay_out(cells: Sequence[Cell]) -> Picture:
    """Lay out cells on one sheet, row by row, (H, W, 3); the sheet has about the shape of a screen.

    Cells may differ in size: each gets the space of the largest.
    """
    width = max(cell.picture.shape[1] for cell in cells)
    height = max(cell.picture.shape[0] for cell in cells)
    lines = 2 if any(cell.subtitle for cell in cells) else 1
    pitch_x, pitch_y = width + _GAP_PX, height + _GAP_PX + lines * (_TEXT_HEIGHT + 5) + 2
    columns = _column_count(len(cells), pitch_x, pitch_y)
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (columns * pitch_x + _GAP_PX, rows * pitch_y + _GAP_PX), BACKGROUND)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        corner = (_GAP_PX + column * pitch_x, _GAP_PX + row * pitch_y)
        sheet.paste(Image.fromarray(cell.picture), corner)
        _write_text(sheet, cell, corner[0], corner[1] + height + 4, width)
    return np.array(sheet, np.uint8)


def _column_count(count: int, pitch_x: int, pitch_y: int) -> int:
    """Choose the number of cells in a row: few empty cells, and a good shape of the sheet."""

    def cost(columns: int) -> float:
        rows = math.ceil(count / columns)
        aspect = columns * pitch_x / (rows * pitch_y)
        empty_share = (rows * columns - count) / count
        return abs(math.log(aspect / _SHEET_ASPECT)) + _EMPTY_CELL_WEIGHT * empty_share

    return min(range(1, count + 1), key=cost)


def _write_text(sheet: Image.Image, cell: Cell, x: int, y: int, width: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for text, colour in ((cell.title, TEXT_COLOUR), (cell.subtitle, PALE_TEXT_COLOUR)):
        shown = truncate_text(fonts.drawable(text), width)
        draw.text((x, y), shown, fill=colour, font=fonts.font(_TEXT_HEIGHT, shown))
        y += _TEXT_HEIGHT + 5


def truncate_text(text: str, width_px: int) -> str:
    """Cut a text with an ellipsis so that it is at most `width_px` wide."""
    font = fonts.font(_TEXT_HEIGHT, text)
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"


def select_informative(items: Iterable[Item], count: int) -> list[Item]:
    """Select at most `count` items that show the most, spread over the clip, in order of frames.

    Items without objects are selected only if all are without. At most a few items for each
    selected one are held in memory, however many `items` there are.
    """
    with_objects, without = _SpreadSelector(count), _SpreadSelector(count)
    for item in items:
        (with_objects if item.objects else without).add(item)
    return with_objects.selected() or without.selected()


class _SpreadSelector:
    """Keeps the best item of each stretch of a clip; stretches grow with the clip."""

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
        best = self._best.get(stretch)
        if best is None or _information(item) > _information(best):
            self._best[stretch] = item

    def selected(self) -> list[Item]:
        items = sorted(self._best.values(), key=lambda item: item.frame)
        parts = min(self._count, len(items))
        edges = [round(n * len(items) / parts) for n in range(parts + 1)] if parts else []
        return [max(items[a:b], key=_information) for a, b in itertools.pairwise(edges)]


def _information(item: Item) -> tuple[int, int, float]:
    """Rank an item by how much it shows: number of classes, number of objects, area of boxes."""
    area = float(boxes.areas([obj.box for obj in item.objects]).sum())
    return len({obj.label for obj in item.objects}), len(item.objects), area


def letterbox(picture: Picture, size_wh: tuple[int, int]) -> Picture:
    """Scale an image to fit into `size_wh`, (h, w, 3), centred on a dark background."""
    width, height = size_wh
    scale = min(width / picture.shape[1], height / picture.shape[0])
    fitted_width, fitted_height = (
        limit if abs(side * scale - limit) < 1.5 else max(round(side * scale), 1)
        for side, limit in zip(picture.shape[1::-1], size_wh, strict=True)
    )
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    fitted = cv2.resize(picture, (fitted_width, fitted_height), interpolation=method)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = BACKGROUND
    left, top = (width - fitted_width) // 2, (height - fitted_height) // 2
    canvas[top : top + fitted_height, left : left + fitted_width] = fitted
    return canvas
