"""Windows on pictures, with what is known of them: cut out, made larger or smaller."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from annotate import masks
from annotate.records import Box, Item, Mask, Object, Picture

_AIR = 1.7  # times as large as what is shown is the window round it
_LEAST_PART = 0.25  # of the picture's height is the least that a window shows


@dataclass(frozen=True)
class View:
    """A window on a picture, `window` in whole pixels as xyxy, shown `scale` times as large."""

    window: tuple[int, int, int, int]
    scale: float

    @property
    def size_wh(self) -> tuple[int, int]:
        """How large it is shown, in pixels."""
        x1, y1, x2, y2 = self.window
        return max(1, round((x2 - x1) * self.scale)), max(1, round((y2 - y1) * self.scale))

    def of_image(self, image: Picture) -> Picture:
        """What is seen of a picture."""
        x1, y1, x2, y2 = self.window
        way = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        return np.asarray(
            cv2.resize(image[y1:y2, x1:x2], self.size_wh, interpolation=way), np.uint8
        )

    def of_mask(self, mask: Mask) -> Mask:
        """What is seen of a mask."""
        x1, y1, x2, y2 = self.window
        seen = mask[y1:y2, x1:x2].astype(np.float32)
        return np.asarray(cv2.resize(seen, self.size_wh, interpolation=cv2.INTER_LINEAR) >= 0.5)

    def of_box(self, box: Box) -> Box:
        """Where a box lies, cut off at the window's edge."""
        left, top, _, _ = self.window
        width, height = self.size_wh
        x1, x2 = ((x - left) * self.scale for x in (box[0], box[2]))
        y1, y2 = ((y - top) * self.scale for y in (box[1], box[3]))
        return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))

    def of_points(self, points_xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Where points lie, (N, 2), the middle of a pixel being the middle of what it becomes."""
        return (points_xy + 0.5 - self.window[:2]) * self.scale - 0.5

    def of_item(self, item: Item) -> Item:
        """The item as of the picture that is seen; objects quite outside are left out."""
        width, height = self.size_wh
        seen = [self._of_object(thing, item) for thing in item.objects]
        objects = tuple(t for t in seen if t.box[0] < t.box[2] and t.box[1] < t.box[3])
        return replace(item, width=width, height=height, objects=objects)

    def _of_object(self, thing: Object, item: Item) -> Object:
        mask = thing.mask and masks.encode(self.of_mask(masks.decode(thing.mask)))
        return replace(thing, box=self.of_box(thing.box), mask=mask)


def whole(size_wh: tuple[int, int], room: int) -> View:
    """All of a picture, its longer side made `room` pixels."""
    return View((0, 0, *size_wh), room / max(size_wh))


def around(box: Box, size_wh: tuple[int, int], room: int) -> View:
    """A window of 4:3 inside the picture, with `box` and something round it, `room` pixels wide."""
    x1, y1, x2, y2 = box
    least = _LEAST_PART * size_wh[1]
    height = max((y2 - y1) * _AIR, (x2 - x1) * _AIR * 3 / 4, least)
    spans = [
        _span((low + high) / 2, length, most)
        for low, high, length, most in zip(
            (x1, y1), (x2, y2), (height * 4 / 3, height), size_wh, strict=True
        )
    ]
    (left, right), (top, bottom) = spans
    return View(
        (left, top, right, bottom), min(room / (right - left), room * 3 / 4 / (bottom - top))
    )


def _span(middle: float, length: float, most: int) -> tuple[int, int]:
    """Whole pixels round the middle, moved and at last cut so as to lie in 0 to `most`."""
    whole = min(max(1, round(length)), most)
    low = min(max(round(middle - whole / 2), 0), most - whole)
    return low, low + whole
