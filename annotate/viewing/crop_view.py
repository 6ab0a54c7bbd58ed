"""Crop and scale an image together with its masks, boxes, points and items.

A `CropView` is a window on an image, and the scale at which the window is shown. It maps an image,
a mask, a box, points or a whole item into the pixels of what is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from annotate.items import masks
from annotate.items.boxes import clip_box
from annotate.items.records import Box, Item, Mask, Object, Picture

_CONTEXT_SCALE = 1.7  # size of a window, relative to the box in it
_MIN_HEIGHT_SHARE = 0.25  # smallest height of a window, as a share of the image's height


@dataclass(frozen=True)
class CropView:
    """A window on an image, xyxy in whole pixels, shown `scale` times as large."""

    window_xyxy: tuple[int, int, int, int]
    scale: float

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the shown window, in pixels."""
        x1, y1, x2, y2 = self.window_xyxy
        return max(1, round((x2 - x1) * self.scale)), max(1, round((y2 - y1) * self.scale))

    def crop_image(self, image: Picture) -> Picture:
        """Crop and scale an image, (H, W, 3)."""
        x1, y1, x2, y2 = self.window_xyxy
        method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        shown = cv2.resize(image[y1:y2, x1:x2], self.size_wh, interpolation=method)
        return np.asarray(shown, np.uint8)

    def crop_mask(self, mask: Mask) -> Mask:
        """Crop and scale a mask, (H, W) bool."""
        x1, y1, x2, y2 = self.window_xyxy
        cropped = mask[y1:y2, x1:x2].astype(np.float32)
        return np.asarray(cv2.resize(cropped, self.size_wh, interpolation=cv2.INTER_LINEAR) >= 0.5)

    def crop_box(self, box: Box) -> Box:
        """Map a box, clipped to the window; a box outside becomes empty."""
        left, top, _, _ = self.window_xyxy
        x1, x2 = ((x - left) * self.scale for x in (box[0], box[2]))
        y1, y2 = ((y - top) * self.scale for y in (box[1], box[3]))
        return clip_box((x1, y1, x2, y2), self.size_wh)

    def map_points(self, points_xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Map points, (N, 2) xy; pixel centres map to the centres of the scaled pixels."""
        return (points_xy + 0.5 - self.window_xyxy[:2]) * self.scale - 0.5

    def crop_item(self, item: Item) -> Item:
        """Map an item to the shown window; objects that are wholly outside are left out."""
        width, height = self.size_wh
        cropped = [self._crop_object(obj) for obj in item.objects]
        objects = tuple(o for o in cropped if o.box[0] < o.box[2] and o.box[1] < o.box[3])
        return replace(item, width=width, height=height, objects=objects)

    def _crop_object(self, obj: Object) -> Object:
        mask = obj.mask and masks.encode(self.crop_mask(masks.decode(obj.mask)))
        return replace(obj, box=self.crop_box(obj.box), mask=mask)


def full_view(size_wh: tuple[int, int], long_side: int) -> CropView:
    """View the whole image, with its longer side scaled to `long_side` pixels."""
    return CropView((0, 0, *size_wh), long_side / max(size_wh))


def view_around(box: Box, size_wh: tuple[int, int], width_px: int) -> CropView:
    """View a 4:3 window inside the image round `box`, at most `width_px` pixels wide when shown."""
    x1, y1, x2, y2 = box
    min_height = _MIN_HEIGHT_SHARE * size_wh[1]
    height = max((y2 - y1) * _CONTEXT_SCALE, (x2 - x1) * _CONTEXT_SCALE * 3 / 4, min_height)
    spans = [
        _clamped_span((low + high) / 2, length, limit)
        for low, high, length, limit in zip(
            (x1, y1), (x2, y2), (height * 4 / 3, height), size_wh, strict=True
        )
    ]
    (left, right), (top, bottom) = spans
    return CropView(
        (left, top, right, bottom),
        min(width_px / (right - left), width_px * 3 / 4 / (bottom - top)),
    )


def _clamped_span(centre: float, length: float, limit: int) -> tuple[int, int]:
    """Place a span of whole pixels round `centre`, moved or cut so as to lie in 0..`limit`."""
    size = min(max(1, round(length)), limit)
    low = min(max(round(centre - size / 2), 0), limit - size)
    return low, low + size
