"""The guided filter: a soft mask made to follow the edges of a picture."""

import cv2
import numpy as np

from annotate.records import Picture
from annotate.windows import Map


def guided(picture: Picture, soft: Map, radius: int, epsilon: float = 1e-3) -> Map:
    """`soft`, (H, W) in 0..1, as a local linear function of `picture`'s colours.

    He, Sun, Tang, "Guided Image Filtering", ECCV 2010, with a colour guide.
    """

    def mean(values: Map) -> Map:
        size = (2 * radius + 1, 2 * radius + 1)
        return np.asarray(cv2.boxFilter(values, -1, size, borderType=cv2.BORDER_REFLECT))

    guide = picture.astype(np.float32) * np.float32(1 / 255)
    r, g, b = (np.ascontiguousarray(guide[..., k]) for k in range(3))
    mean_r, mean_g, mean_b, mean_soft = mean(r), mean(g), mean(b), mean(soft)
    cov_r, cov_g, cov_b = (
        mean(channel * soft) - middle * mean_soft
        for channel, middle in ((r, mean_r), (g, mean_g), (b, mean_b))
    )
    rr, gg, bb = (
        mean(channel * channel) - middle * middle + np.float32(epsilon)
        for channel, middle in ((r, mean_r), (g, mean_g), (b, mean_b))
    )
    rg, rb, gb = (
        mean(r * g) - mean_r * mean_g,
        mean(r * b) - mean_r * mean_b,
        mean(g * b) - mean_g * mean_b,
    )
    # the inverse of the symmetric 3x3 covariance of each neighbourhood, by cofactors
    irr, irg, irb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    igg, igb, ibb = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    scale = 1 / (rr * irr + rg * irg + rb * irb)
    slope_r = (irr * cov_r + irg * cov_g + irb * cov_b) * scale
    slope_g = (irg * cov_r + igg * cov_g + igb * cov_b) * scale
    slope_b = (irb * cov_r + igb * cov_g + ibb * cov_b) * scale
    offset = mean_soft - slope_r * mean_r - slope_g * mean_g - slope_b * mean_b
    filtered = mean(slope_r) * r + mean(slope_g) * g + mean(slope_b) * b + mean(offset)
    return np.clip(filtered, 0, 1)
