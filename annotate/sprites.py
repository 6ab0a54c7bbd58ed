"""Thumbnails of many frames, packed onto few pictures."""

from __future__ import annotations

import cv2
import numpy as np

from annotate.records import Picture

SIDE = 2048  # pixels of a page, at most
_PIXELS = 64e6  # of all thumbnails together
_NARROWEST, _WIDEST = 32, 160  # a thumbnail, in pixels
_QUALITY = 72  # of the JPEG
_PAPER = (17, 19, 24)


def cell(count: int, size_wh: tuple[int, int]) -> tuple[int, int]:
    """The size of each of `count` thumbnails of pictures of that size."""
    shape = size_wh[0] / size_wh[1]
    width = min(max((_PIXELS / max(count, 1) * shape) ** 0.5, _NARROWEST), _WIDEST)
    return round(width), max(round(width / shape), 1)


class Sprites:
    """Thumbnails of `cell_wh` pixels in rows, page after page; only the last page is held open."""

    def __init__(self, cell_wh: tuple[int, int]) -> None:
        self.cell_wh = cell_wh
        self.columns, self.rows = (max(SIDE // side, 1) for side in cell_wh)
        self._done: list[bytes] = []
        self._open: list[Picture] = []

    def add(self, picture: Picture) -> None:
        """One more, in the middle of its cell and as large as fits."""
        self._open.append(fitted(picture, self.cell_wh))
        if len(self._open) == self.columns * self.rows:
            self._done.append(self._page())
            self._open = []

    def pages(self) -> list[bytes]:
        """All pages, as JPEG."""
        return [*self._done, *([self._page()] if self._open else [])]

    def _page(self) -> bytes:
        width, height = self.cell_wh
        rows = -(-len(self._open) // self.columns)
        page = np.empty((rows * height, self.columns * width, 3), np.uint8)
        page[:] = _PAPER
        for place, picture in enumerate(self._open):
            row, column = divmod(place, self.columns)
            page[row * height :, column * width :][:height, :width] = picture
        return jpeg(page, _QUALITY)


def fitted(picture: Picture, size_wh: tuple[int, int]) -> Picture:
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
    room[:] = _PAPER
    left, top = (width - wide) // 2, (height - high) // 2
    room[top : top + high, left : left + wide] = small
    return room


def jpeg(picture: Picture, quality: int) -> bytes:
    """The picture as a JPEG file; the same pixels give the same bytes."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()
