"""Find the bars of one colour around the content of pictures and clips.

Bars that are remembered would make foreign pictures between the same bars alike. So a clip is
stored without the bars that it has all the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from annotate.items.records import Picture
from annotate.items.sequences import evenly_spaced
from annotate.video import reader
from annotate.video.images import UnreadableImage

_MAX_CONTRAST = 8  # of the pixels of a bar, darkest to brightest
_MIN_CONTENT_SIDE = 16  # pixels; smaller content is no film between bars
_EXAMINED_FRAMES = 12  # of a clip, evenly spaced


class ContentBox(NamedTuple):
    """The part of a picture between its bars: columns x1 to x2, rows y1 to y2, without the ends."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def size_wh(self) -> tuple[int, int]:
        """The width and height of the content."""
        return self.x2 - self.x1, self.y2 - self.y1


def content_box(picture: Picture) -> ContentBox | None:
    """Find the content between the bars of a picture; None for a picture of one colour."""
    brightness = picture.max(axis=2)
    rows = np.flatnonzero(np.ptp(brightness, axis=1) > _MAX_CONTRAST)
    columns = np.flatnonzero(np.ptp(brightness, axis=0) > _MAX_CONTRAST)
    if not len(rows) or not len(columns):
        return None
    return ContentBox(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def clip_content_box(video: reader.Video) -> ContentBox:
    """Find the content that a clip has between its bars; the whole picture if there is too little.

    Raises:
        VideoError: the clip cannot be read.
    """
    whole = ContentBox(0, 0, video.width, video.height)
    boxes: list[ContentBox | None] = []
    for index in evenly_spaced(video.frame_count or 1, _EXAMINED_FRAMES):
        with suppress(UnreadableImage):  # of a folder: it is passed over here, too
            boxes.append(content_box(reader.seek(video.path, index).image))
        if _union(boxes) == whole:  # most clips have no bars, and each seek decodes many frames
            return whole
    found = _union(boxes)
    return whole if found is None or min(found.size_wh) < _MIN_CONTENT_SIDE else found


def crop(picture: Picture, box: ContentBox) -> Picture:
    """Crop a picture to its content."""
    return np.ascontiguousarray(picture[box.y1 : box.y2, box.x1 : box.x2])


def _union(boxes: Iterable[ContentBox | None]) -> ContentBox | None:
    known = np.array([box for box in boxes if box is not None])
    if not len(known):
        return None
    x1, y1 = known[:, :2].min(axis=0).tolist()
    x2, y2 = known[:, 2:].max(axis=0).tolist()
    return ContentBox(x1, y1, x2, y2)
