"""Sheets: many pictures on one, with a line or two of text beneath each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from annotate.paint import font
from annotate.records import Item, Picture

_PAPER, _INK, _PALE_INK = (17, 19, 24), (236, 239, 244), (150, 158, 172)
_GAP = 12  # pixels between the cells and round them
_TEXT = 15  # pixels high
_SHAPE = 16 / 9  # of a sheet, as near as whole rows come to it
_EMPTY = 5  # what an empty part of a sheet weighs against a wrong shape


_FEW, _WIDE, _NARROW, _LEAST = 6, 480, 360, 64  # cells, and how wide they are in pixels
_SHEET_PIXELS = 40e6  # a sheet has no more than about these


def cell_width(count: int) -> int:
    """How wide a cell's picture should be where there are `count`, in pixels."""
    width = _WIDE if count <= _FEW else _NARROW
    return max(_LEAST, min(width, int(math.sqrt(_SHEET_PIXELS / max(count, 1)))))


@dataclass(frozen=True)
class Cell:
    """A picture and what stands beneath it: a line, and a paler one."""

    picture: Picture
    title: str
    remark: str = ""


def lay_out(cells: Sequence[Cell]) -> Picture:
    """All cells on one sheet, row by row, (H, W, 3); the sheet is about as wide as a screen.

    Cells may differ in size: each has the room of the largest.
    """
    width = max(cell.picture.shape[1] for cell in cells)
    height = max(cell.picture.shape[0] for cell in cells)
    lines = 2 if any(cell.remark for cell in cells) else 1
    pitch_x, pitch_y = width + _GAP, height + _GAP + lines * (_TEXT + 5) + 2
    columns = _columns(len(cells), pitch_x, pitch_y)
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (columns * pitch_x + _GAP, rows * pitch_y + _GAP), _PAPER)
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        corner = (_GAP + column * pitch_x, _GAP + row * pitch_y)
        sheet.paste(Image.fromarray(cell.picture), corner)
        _write(sheet, cell, corner[0], corner[1] + height + 4, width)
    return np.array(sheet, np.uint8)


def _columns(count: int, pitch_x: int, pitch_y: int) -> int:
    """How many cells a row has: few of the last row are left empty, and the shape is right."""

    def badness(columns: int) -> float:
        rows = math.ceil(count / columns)
        shape = columns * pitch_x / (rows * pitch_y)
        return abs(math.log(shape / _SHAPE)) + _EMPTY * (rows * columns - count) / count

    return min(range(1, count + 1), key=badness)


def _write(sheet: Image.Image, cell: Cell, x: int, y: int, width: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for text, ink in ((cell.title, _INK), (cell.remark, _PALE_INK)):
        draw.text((x, y), fitting(text, width), fill=ink, font=font(_TEXT))
        y += _TEXT + 5


def fitting(text: str, width: int) -> str:
    """The text, cut short with an ellipsis where it is wider than `width` pixels."""
    if font(_TEXT).getlength(text) <= width:
        return text
    while text and font(_TEXT).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def telling(items: Iterable[Item], count: int) -> list[Item]:
    """At most `count` items, in order of frames: spread over the clip, and those that show most.

    Items without objects are chosen only where there are no others. However many `items` there are,
    a few for each one chosen are held at a time.
    """
    full, bare = _Spread(count), _Spread(count)
    for item in items:
        (full if item.objects else bare).add(item)
    return full.chosen() or bare.chosen()


class _Spread:
    """The best item of each stretch of a clip; stretches grow with the clip."""

    def __init__(self, count: int) -> None:
        self._count, self._length = count, 1
        self._best: dict[int, Item] = {}  # by stretch

    def add(self, item: Item) -> None:
        self._keep(item)
        while len(self._best) > 4 * self._count:
            self._length *= 2
            kept, self._best = self._best, {}
            for each in kept.values():
                self._keep(each)

    def _keep(self, item: Item) -> None:
        stretch = item.frame // self._length
        there = self._best.get(stretch)
        if there is None or _worth(item) > _worth(there):
            self._best[stretch] = item

    def chosen(self) -> list[Item]:
        items = sorted(self._best.values(), key=lambda item: item.frame)
        parts = min(self._count, len(items))
        edges = [round(n * len(items) / parts) for n in range(parts + 1)] if parts else []
        return [max(items[a:b], key=_worth) for a, b in itertools.pairwise(edges)]


def _worth(item: Item) -> tuple[int, int, float]:
    """How much an item shows: kinds of things, things, and how large they are."""
    sizes = ((t.box[2] - t.box[0]) * (t.box[3] - t.box[1]) for t in item.objects)
    return len({thing.label for thing in item.objects}), len(item.objects), sum(sizes)
