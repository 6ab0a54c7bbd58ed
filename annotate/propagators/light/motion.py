"""Predict where an object may be: the mask warped by optical flow, and location priors.

The priors are logits on the grid of a window, added to those of the classifiers.
"""

import cv2
import numpy as np
import numpy.typing as npt

from annotate.backbone import Map
from annotate.propagators.light.crops import CropWindow, Effort

GreyPicture = npt.NDArray[np.uint8]


def warp_mask(
    soft: Map,
    windows: tuple[CropWindow, CropWindow],
    grey_pictures: tuple[GreyPicture, GreyPicture],
    effort: Effort,
) -> Map:
    """The mask of the frame before, taken along by the optical flow in the window.

    `windows` are of `soft` and of what is returned, (size / 2, size / 2); `greys` the pictures, in
    grey, of the frame before and now.
    """
    (was, here), size = windows, effort.crop_side // 2
    then, now = (here.crop(grey, size) for grey in grey_pictures)
    flow = cv2.DISOpticalFlow.create(effort.flow_preset).calc(now, then, None)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    before = resample(soft, was, here, size)
    return np.asarray(cv2.remap(before, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR))


def location_prior(prior: Map, grid: int, reach_cells: float) -> Map:
    """A little towards `prior`, and strongly away from what is far from it, in `reach` of cells."""
    small = cv2.resize(prior, (grid, grid), interpolation=cv2.INTER_AREA)
    outside = (small < 0.5).astype(np.uint8)
    far = cv2.distanceTransform(outside, cv2.DIST_L2, 5) / reach_cells
    return np.asarray(2 * (small - 0.5) - 8 * np.clip(far - 0.35, 0, 10))


def center_prior(grid: int) -> Map:
    """Nothing at the edge of a window that was put about a spot."""
    edge = np.abs(np.arange(grid) - (grid - 1) / 2) > 0.45 * grid
    return np.where(edge[:, None] | edge[None], -12, 0).astype(np.float32)


def resample(values: Map, from_window: CropWindow, to_window: CropWindow, size: int) -> Map:
    """A map of the window `was` as a map, (size, size), of the window `now`."""
    zoom = from_window.side / len(values)
    x, y = (
        (there - here) / zoom
        for there, here in ((to_window.x, from_window.x), (to_window.y, from_window.y))
    )
    middle = (len(values) - 1) / 2
    cut = CropWindow(x + middle, y + middle, to_window.side / zoom).crop(
        values, size, replicate_border=False
    )
    return np.asarray(cut, np.float32)
