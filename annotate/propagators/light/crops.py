"""Crop square windows from a picture and paste masks back; make training crops of a prompted frame.

The classifiers are fitted to several augmented crops around the object, and to crops of the
background. `Effort` sets the crop side, the number of random features and the update interval.
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
    """A square of `side` pixels centred on (x, y); it may reach beyond the picture.

    Examples:
        >>> CropWindow(10.0, 20.0, 8.0).scaled(2.0)
        CropWindow(x=10.0, y=20.0, side=16.0)
    """

    x: float
    y: float
    side: float

    def scaled(self, factor: float) -> "CropWindow":
        """Multiply the side; the centre stays."""
        return CropWindow(self.x, self.y, self.side * factor)

    def crop(self, picture: npt.NDArray[Any], size: int, *, replicate_border: bool = True) -> Any:
        """Resample the window to (size, size); beyond the picture is its border, or 0."""
        border = cv2.BORDER_REPLICATE if replicate_border else cv2.BORDER_CONSTANT
        part, x, y, (fx, fy) = self._downscaled(picture, size / self.side)
        kx, ky = size / self.side / fx, size / self.side / fy
        middle = (size - 1) / 2
        matrix = np.array([[kx, 0, middle - kx * x], [0, ky, middle - ky * y]])
        return cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)

    def _downscaled(
        self, picture: npt.NDArray[Any], zoom: float
    ) -> tuple[npt.NDArray[Any], float, float, tuple[float, float]]:
        """Cut the part around the window and shrink it if sampling would alias.

        Returns the part, the window's centre in it, and its scale along x and y.
        """
        half = self.side / 2 + 2
        left, top = max(int(self.x - half), 0), max(int(self.y - half), 0)
        part = picture[top : int(self.y + half) + 1, left : int(self.x + half) + 1]
        if zoom >= 0.6 or min(part.shape[:2], default=0) < 4:
            return picture, self.x, self.y, (1.0, 1.0)
        scale = max(zoom * 1.2, 0.02) if zoom < 0.3 else 0.5
        width, height = (max(2, round(side * scale)) for side in part.shape[1::-1])
        fx, fy = width / part.shape[1], height / part.shape[0]
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        return part, (self.x - left + 0.5) * fx - 0.5, (self.y - top + 0.5) * fy - 0.5, (fx, fy)

    def slices(self, margin: float) -> tuple[slice, slice]:
        """Return the rows and columns of a picture in the window and `margin` pixels around it."""
        half = self.side / 2 + margin
        return (
            slice(max(int(self.y - half), 0), max(int(self.y + half) + 1, 0)),
            slice(max(int(self.x - half), 0), max(int(self.x + half) + 1, 0)),
        )

    def in_picture(self, size_wh: tuple[int, int], size: int) -> Mask:
        """Mark the cells, (size, size), that lie on the picture."""
        steps = (np.arange(size) - (size - 1) / 2) * (self.side / size)
        x, y = self.x + steps, self.y + steps
        on_x = (x > -0.5) & (x < size_wh[0] - 0.5)
        on_y = (y > -0.5) & (y < size_wh[1] - 0.5)
        return np.asarray(on_y[:, None] & on_x[None])

    def paste(self, values: Map, size_wh: tuple[int, int]) -> tuple[int, int, Map]:
        """Resample values of the window to pixels of the picture: left, top, and the part."""
        left = max(int(np.floor(self.x - self.side / 2)), 0)
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
        """Mark the pixels of the picture, (H, W), where values of the window exceed `threshold`."""
        left, top, part = self.paste(values, size_wh)
        mask = np.zeros(size_wh[::-1], bool)
        mask[top : top + part.shape[0], left : left + part.shape[1]] = part > threshold
        return mask


# Zoom out, mirror, shift (in sides of the object's box), brighten (exponent of 2 of the gamma):
# the classifier then survives a turn, a zoom and a muzzle flash, and sees more of the background.
AUGMENTATIONS = (
    (1.0, False, 0.0, 0.0),
    (1.0, True, 0.1, 0.4),
    (1.0, False, -0.1, -0.4),
    (1.25, False, 0.0, 0.0),
    (1.6, True, 0.0, 0.0),
)
MAX_BACKGROUND_CROPS = 12  # per prompted frame
CONTEXT_SCALE = 1.6  # side of the window, in sides of the object's box
MIN_WINDOW_SIDE = 24.0  # pixels


@dataclass(frozen=True)
class Effort:
    """How much is computed per object and frame."""

    crop_side: int  # pixels
    random_features: int  # of the ridge classifier
    update_interval: int  # frames
    pixel_stride: int  # an update takes one cell in so many
    flow_preset: int  # of OpenCV's DIS optical flow: 0 is ultrafast, 1 fast
    refines_masks: bool  # refine every mask by the click model

    @property
    def grid(self) -> int:
        """Side of the feature grid, which has stride 4."""
        return self.crop_side // 4


THOROUGH = Effort(256, 256, 1, 3, 1, refines_masks=True)
QUICK = Effort(192, 64, 3, 3, 0, refines_masks=False)


def augmented_crops(
    picture: Picture, soft: Map, effort: Effort
) -> Iterator[tuple[Picture, Map, Map]]:
    """Yield augmented crops around the object.

    Args:
        picture: RGB, (H, W, 3).
        soft: Probability of being the object, (H, W) in 0..1.
        effort: Side of the crops and of the grid.

    Yields:
        A crop, the share of the object in each cell, (grid, grid), and the weight of each cell,
        which is low where `soft` is uncertain.
    """
    hard, size_wh = (soft > 0.5).astype(np.float32), (picture.shape[1], picture.shape[0])
    window = window_around_mask(soft > 0.5)
    for zoom, mirrored, shift, gamma in AUGMENTATIONS:
        view = CropWindow(
            window.x + shift * window.side / CONTEXT_SCALE, window.y, window.side * zoom
        )
        crop = view.crop(picture, effort.crop_side)
        inside = view.crop(hard, effort.grid, replicate_border=False)
        certainty = np.abs(2 * view.crop(soft, effort.grid, replicate_border=False) - 1)
        # a cell on the edge of the mask is mixed, not uncertain
        certainty = np.where(np.abs(2 * inside - 1) > 0.9, certainty, 1)
        weight = (view.in_picture(size_wh, effort.grid) * certainty).astype(np.float32)
        tones = 255 * (np.arange(256) / 255) ** (2.0**gamma)
        crop = cv2.LUT(crop, np.round(tones).astype(np.uint8))
        if mirrored:
            crop, inside, weight = (
                np.ascontiguousarray(a[:, ::-1]) for a in (crop, inside, weight)
            )
        yield crop, inside, weight


def background_crops(picture: Picture, mask: Mask, effort: Effort) -> Iterator[tuple[Picture, Map]]:
    """Yield crops of the rest of the picture, as large as the window of `mask`.

    With each crop comes the weight of its cells, (grid, grid): 1 where there is surely no object.
    """
    window, (height, width) = window_around_mask(mask), picture.shape[:2]
    columns, rows = max(1, round(width / window.side)), max(1, round(height / window.side))
    centres = [
        ((column + 0.5) * width / columns, (row + 0.5) * height / rows)
        for row in range(rows)
        for column in range(columns)
    ]
    reach = 0.6 * window.side
    away = [(x, y) for x, y in centres if max(abs(x - window.x), abs(y - window.y)) > reach]
    for k in np.random.default_rng(0).permutation(len(away))[:MAX_BACKGROUND_CROPS]:
        view = CropWindow(away[k][0], away[k][1], window.side)
        inside = view.crop(mask.astype(np.float32), effort.grid, replicate_border=False)
        outside = (inside < 0.02) & view.in_picture((width, height), effort.grid)
        if outside.any():
            yield view.crop(picture, effort.crop_side), outside.astype(np.float32)


def window_around_mask(mask: Mask) -> CropWindow:
    """Return the window around a mask of the picture."""
    x0, y0, x1, y1 = pixel_box(mask)
    return CropWindow((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2, window_side(x1 - x0, y1 - y0))


def window_side(width: float, height: float) -> float:
    """Compute the side of the window around a box."""
    return max(CONTEXT_SCALE * max(width, height), MIN_WINDOW_SIDE)


def window_around_part(mask: Mask, window: CropWindow) -> CropWindow:
    """Return the window around a mask, (size, size), that is given in another window."""
    zoom, centre = window.side / len(mask), (len(mask) - 1) / 2
    x0, y0, x1, y1 = pixel_box(mask)
    x, y = (zoom * ((low + high - 1) / 2 - centre) for low, high in ((x0, x1), (y0, y1)))
    return CropWindow(window.x + x, window.y + y, window_side(zoom * (x1 - x0), zoom * (y1 - y0)))
