"""Crop square windows from a picture and paste masks back; crops to fit classifiers on.

A prompted frame is shown to the classifiers in several augmented crops around the object, and in
crops of the background. `Effort` sets crop size, number of random features and update interval.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.backbone import Map
from annotate.items.masks import pixel_box
from annotate.items.records import Mask, Picture


@dataclass(frozen=True)
class CropWindow:
    """A square of `side` pixels about (x, y); it may reach over the picture's edge.

    >>> Window(10.0, 20.0, 8.0).scaled(2.0)
    Window(x=10.0, y=20.0, side=16.0)
    """

    x: float
    y: float
    side: float

    def scaled(self, factor: float) -> "CropWindow":
        """The same centre, another side."""
        return CropWindow(self.x, self.y, self.side * factor)

    def crop(self, picture: npt.NDArray[Any], size: int, *, replicate_border: bool = True) -> Any:
        """The window as (size, size); beyond the edge is the edge (`outside`) or nothing."""
        border = cv2.BORDER_REPLICATE if replicate_border else cv2.BORDER_CONSTANT
        part, x, y, (fx, fy) = self._downscaled(picture, size / self.side)
        kx, ky = size / self.side / fx, size / self.side / fy
        middle = (size - 1) / 2
        matrix = np.array([[kx, 0, middle - kx * x], [0, ky, middle - ky * y]])
        return cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)

    def _downscaled(
        self, picture: npt.NDArray[Any], zoom: float
    ) -> tuple[npt.NDArray[Any], float, float, tuple[float, float]]:
        """The part about the window, averaged down where sampling would alias, and the centre."""
        half = self.side / 2 + 2
        left, top = max(int(self.x - half), 0), max(int(self.y - half), 0)
        part = picture[top : int(self.y + half) + 1, left : int(self.x + half) + 1]
        if zoom >= 0.6 or min(part.shape[:2], default=0) < 4:
            return picture, self.x, self.y, (1.0, 1.0)
        aim = max(zoom * 1.2, 0.02) if zoom < 0.3 else 0.5
        wide, high = (max(2, round(side * aim)) for side in part.shape[1::-1])
        fx, fy = wide / part.shape[1], high / part.shape[0]
        part = cv2.resize(part, (wide, high), interpolation=cv2.INTER_AREA)
        return part, (self.x - left + 0.5) * fx - 0.5, (self.y - top + 0.5) * fy - 0.5, (fx, fy)

    def in_picture(self, size_wh: tuple[int, int], size: int) -> Mask:
        """Which of (size, size) lie on the picture."""
        steps = (np.arange(size) - (size - 1) / 2) * (self.side / size)
        across, down = self.x + steps, self.y + steps
        on_x = (across > -0.5) & (across < size_wh[0] - 0.5)
        on_y = (down > -0.5) & (down < size_wh[1] - 0.5)
        return np.asarray(on_y[:, None] & on_x[None])

    def paste(self, values: Map, size_wh: tuple[int, int]) -> tuple[int, int, Map]:
        """The part of the picture under the window, filled from it: left, top, values there."""
        left, top = max(int(np.floor(self.x - self.side / 2)), 0), 0
        top = max(int(np.floor(self.y - self.side / 2)), 0)
        right = min(int(np.ceil(self.x + self.side / 2)), size_wh[0])
        bottom = min(int(np.ceil(self.y + self.side / 2)), size_wh[1])
        if right <= left or bottom <= top:
            return 0, 0, np.zeros((0, 0), np.float32)
        k, middle = len(values) / self.side, (len(values) - 1) / 2
        matrix = np.array(
            [[k, 0, middle - k * (self.x - left)], [0, k, middle - k * (self.y - top)]]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return left, top, cv2.warpAffine(values, matrix, (right - left, bottom - top), flags=flags)

    def mask(self, values: Map, size_wh: tuple[int, int], threshold: float) -> Mask:
        """Which pixels of the picture are under the window and more than `above` there."""
        left, top, part = self.paste(values, size_wh)
        mask = np.zeros(size_wh[::-1], bool)
        mask[top : top + part.shape[0], left : left + part.shape[1]] = part > threshold
        return mask


# How a prompted frame is shown to the classifier: zoom out, mirror, shift, brighten. What it learns
# then survives a turn, a zoom and a muzzle flash, and it sees more of what is round the object.
AUGMENTATIONS = (
    (1.0, False, 0.0, 0.0),
    (1.0, True, 0.1, 0.4),
    (1.0, False, -0.1, -0.4),
    (1.25, False, 0.0, 0.0),
    (1.6, True, 0.0, 0.0),
)


MAX_BACKGROUND_CROPS = 12  # crops of the rest of a prompted picture


@dataclass(frozen=True)
class Effort:
    """What is spent: crop side in pixels, random features, frames between updates, and doubts.

    With `redraws` every mask is drawn again, finer.
    """

    crop_side: int
    random_features: int
    update_interval: int
    pixel_stride: int  # one pixel of so many is learnt from
    flow_preset: int  # cv2's DIS preset
    refines_masks: bool

    @property
    def grid(self) -> int:
        """Side of the grid of features."""
        return self.crop_side // 4


THOROUGH = Effort(256, 256, 1, 3, 1, refines_masks=True)
QUICK = Effort(192, 64, 3, 3, 0, refines_masks=False)


def augmented_crops(
    picture: Picture, soft: Map, effort: Effort
) -> Iterator[tuple[Picture, Map, Map]]:
    """Crops round what is inside `soft`, (H, W) in 0..1; what of each grid cell is, and its weight.

    Where `soft` is not sure, there is little weight.
    """
    hard, size_wh = (soft > 0.5).astype(np.float32), (picture.shape[1], picture.shape[0])
    window = window_around_mask(soft > 0.5)
    for zoom, mirrored, shift, brighter in AUGMENTATIONS:
        view = CropWindow(
            window.x + shift * window.side / CONTEXT_SCALE, window.y, window.side * zoom
        )
        crop = view.crop(picture, effort.crop_side)
        inside = view.crop(hard, effort.grid, replicate_border=False)
        sure = np.abs(2 * view.crop(soft, effort.grid, replicate_border=False) - 1)
        sure = np.where(np.abs(2 * inside - 1) > 0.9, sure, 1)  # an edge is no doubt
        weight = (view.in_picture(size_wh, effort.grid) * sure).astype(np.float32)
        tones = 255 * (np.arange(256) / 255) ** (2.0**brighter)
        crop = cv2.LUT(crop, np.round(tones).astype(np.uint8))
        if mirrored:
            crop, inside, weight = (
                np.ascontiguousarray(a[:, ::-1]) for a in (crop, inside, weight)
            )
        yield crop, inside, weight


def background_crops(picture: Picture, mask: Mask, effort: Effort) -> Iterator[tuple[Picture, Map]]:
    """Crops of the rest of the picture, as large as that round `mask`; which cells are outside."""
    window, (high, wide) = window_around_mask(mask), picture.shape[:2]
    across, down = max(1, round(wide / window.side)), max(1, round(high / window.side))
    middles = [
        ((column + 0.5) * wide / across, (row + 0.5) * high / down)
        for row in range(down)
        for column in range(across)
    ]
    reach = 0.6 * window.side
    apart = [m for m in middles if max(abs(m[0] - window.x), abs(m[1] - window.y)) > reach]
    for k in np.random.default_rng(0).permutation(len(apart))[:MAX_BACKGROUND_CROPS]:
        view = CropWindow(apart[k][0], apart[k][1], window.side)
        inside = view.crop(mask.astype(np.float32), effort.grid, replicate_border=False)
        outside = (inside < 0.02) & view.in_picture((wide, high), effort.grid)
        if outside.any():
            yield view.crop(picture, effort.crop_side), outside.astype(np.float32)


CONTEXT_SCALE = 1.6  # side of the window, in sides of the object's box
MIN_WINDOW_SIDE = 24.0  # side of the smallest window, in pixels


def window_around_mask(mask: Mask) -> CropWindow:
    """The window to see a mask in."""
    x0, y0, x1, y1 = pixel_box(mask)
    return CropWindow((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2, window_side(x1 - x0, y1 - y0))


def window_side(width: float, height: float) -> float:
    """Side of the window round a box."""
    return max(CONTEXT_SCALE * max(width, height), MIN_WINDOW_SIDE)


def window_around_part(mask: Mask, window: CropWindow) -> CropWindow:
    """The window to see what is in a part of `window` in."""
    zoom, centre = window.side / len(mask), (len(mask) - 1) / 2
    x0, y0, x1, y1 = pixel_box(mask)
    x, y = (zoom * ((low + high - 1) / 2 - centre) for low, high in ((x0, x1), (y0, y1)))
    return CropWindow(window.x + x, window.y + y, window_side(zoom * (x1 - x0), zoom * (y1 - y0)))
