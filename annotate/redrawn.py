"""The mask of what is followed, drawn anew by the network that reads clicks.

The classifier was taught one object, on a coarse grid: it tells where that is, but not well where
it ends. The network has seen where many things end (`models/light-refine.md`): given a mask, as at
its second look at what is clicked, it draws a better one. That counts as far as it thinks it good.
"""

import cv2
import numpy as np

from annotate.place import Guess
from annotate.refine import CLICK, drawn, on_grid, refined
from annotate.windows import Map

BELIEVED = 3  # power of the IoU that it says: on photographs it is wrong, and says less
SMALLEST = 4  # cells, the root of the area of a mask that it is asked about


def redrawn(guess: Guess, soft: Map) -> Map:
    """A better mask than `soft`, (size, size) in 0..1, of what is seen in the guess's window."""
    before = on_grid(soft, cv2.INTER_AREA)
    cells = float(np.sqrt((before > 0.5).sum()))
    if cells < SMALLEST:
        return soft
    inside = on_grid(guess.inside.astype(np.float32)) > 0.5
    unclicked = np.zeros_like(before)
    told = drawn(unclicked, unclicked, before, inside, cells)
    logits, worth = refined(CLICK, guess.seen.crop, guess.seen.trunk, told)
    logits = cv2.resize(np.clip(logits, -20, 20), soft.shape[::-1])
    share = worth**BELIEVED
    return np.asarray(share / (1 + np.exp(-logits)) + (1 - share) * soft, np.float32)
