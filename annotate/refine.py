"""Two small networks that have seen many things in generated gameplay: a mask, and its worth.

Neither knows any object. `CLICK` is told where a person clicked, or the mask of what is followed
(`annotate.redrawn`); `FOLLOW` what a classifier says that was taught the object, as in Robinson et
al., "Learning Fast and Robust Target Models for Video Object Segmentation", CVPR 2020. Both say how
good their mask should be, as in Huang et al., "Mask Scoring R-CNN", CVPR 2019. How they were made,
and how far to trust them: `models/light-refine.md`.
"""

import cv2
import numpy as np

from annotate.features import Trunk, answers, planes
from annotate.records import Mask, Picture
from annotate.windows import Map

CLICK, FOLLOW = "light-click.onnx", "light-follow.onnx"
SEEN, GRID = 128, 64  # sides of the picture and the mask; of what is told
STRIDES = {"s8": 32, "s16": 16}  # sides of the trunk's maps
FAR = 2.0  # distances from the mask before are told up to so many of its sizes


def refined(model: str, crop: Picture, trunk: Trunk, told: Map) -> tuple[Map, float]:
    """Logits of a mask, (128, 128), and the IoU, 0..1, it should have with the truth.

    `crop` is a square, `trunk` its maps, and `told` what the model is told, (6, 64, 64).
    """
    given = {"crop": planes(crop, (SEEN, SEEN)), "maps": told}
    for name, side in STRIDES.items():
        maps = getattr(trunk, name)
        if maps.shape[1] != side:
            maps = np.stack([cv2.resize(each, (side, side)) for each in maps])
        given[name] = maps
    logits, worth = answers(model, given)
    return logits[0], float(1 / (1 + np.exp(-worth)))


def on_grid(values: Map, how: int = cv2.INTER_LINEAR) -> Map:
    """A map of a window, of any side, as (64, 64)."""
    return np.asarray(cv2.resize(values, (GRID, GRID), interpolation=how), np.float32)


def drawn(first: Map, second: Map, prior: Map | None, on_picture: Mask, size: float) -> Map:
    """What a network is told, (6, 64, 64), out of maps of (64, 64).

    `prior` is the mask before, of an object of `size` cells, if there is one.
    """
    told = np.zeros((6, GRID, GRID), np.float32)
    told[0], told[1], told[5] = first, second, on_picture
    if prior is not None:
        away = cv2.distanceTransform((prior < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        told[2], told[3], told[4] = prior, np.minimum(away / max(size, 2), FAR), 1
    return told
