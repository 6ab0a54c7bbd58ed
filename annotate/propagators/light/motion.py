"""Predict where an object may be: the mask warped by optical flow, and location priors.

The priors are logits on the grid of a window, added to those of the classifiers. The flow is DIS:
Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016, by OpenCV.
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
    """Warp the soft mask of the previous frame by the optical flow inside a window.

    Args:
        soft: The previous soft mask, (size, size).
        windows: The window of `soft`, and the window of the result.
        grey_pictures: The previous and the present picture.
        effort: Crop side and preset of the flow.

    Returns:
        The warped mask, (size / 2, size / 2).
    """
    (previous_window, window), size = windows, effort.crop_side // 2
    previous_grey, grey = (window.crop(picture, size) for picture in grey_pictures)
    flow = cv2.DISOpticalFlow.create(effort.flow_preset).calc(grey, previous_grey, None)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    previous = resample(soft, previous_window, window, size)
    return np.asarray(cv2.remap(previous, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR))


def location_prior(warped: Map, grid: int, reach_cells: float) -> Map:
    """Turn a warped mask into logits, (grid, grid).

    Inside the mask they are slightly positive; outside they fall steeply with the distance, in
    units of `reach_cells`.
    """
    small = cv2.resize(warped, (grid, grid), interpolation=cv2.INTER_AREA)
    outside = (small < 0.5).astype(np.uint8)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, 5) / reach_cells
    return np.asarray(2 * (small - 0.5) - 8 * np.clip(distance - 0.35, 0, 10))


def center_prior(grid: int) -> Map:
    """Make logits, (grid, grid), that exclude the border of a window placed on a candidate."""
    border = np.abs(np.arange(grid) - (grid - 1) / 2) > 0.45 * grid
    return np.where(border[:, None] | border[None], -12, 0).astype(np.float32)


def resample(values: Map, from_window: CropWindow, to_window: CropWindow, size: int) -> Map:
    """Resample a map of one window as a map, (size, size), of another; 0 outside the first."""
    zoom = from_window.side / len(values)
    x, y = (
        (to - start) / zoom
        for to, start in ((to_window.x, from_window.x), (to_window.y, from_window.y))
    )
    middle = (len(values) - 1) / 2
    cut = CropWindow(x + middle, y + middle, to_window.side / zoom).crop(
        values, size, replicate_border=False
    )
    return np.asarray(cut, np.float32)
