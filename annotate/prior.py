"""Where an object may be, before its looks are asked: logits on the grid of a window."""

import cv2
import numpy as np

from annotate.windows import Map


def pulled(prior: Map, grid: int, reach: float) -> Map:
    """A little towards `prior`, and strongly away from what is far from it, in `reach` of cells."""
    small = cv2.resize(prior, (grid, grid), interpolation=cv2.INTER_AREA)
    outside = (small < 0.5).astype(np.uint8)
    far = cv2.distanceTransform(outside, cv2.DIST_L2, 5) / reach
    return np.asarray(2 * (small - 0.5) - 8 * np.clip(far - 0.35, 0, 10))


def central(grid: int) -> Map:
    """Nothing at the edge of a window that was put about a spot."""
    edge = np.abs(np.arange(grid) - (grid - 1) / 2) > 0.45 * grid
    return np.where(edge[:, None] | edge[None], -12, 0).astype(np.float32)
