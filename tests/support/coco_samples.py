"""An object with a mask of several parts."""

import numpy as np

from annotate.items import masks
from annotate.items.records import Object


def scattered():
    """Make an object with a ring, an island in it, and two squares that touch at a corner."""
    mask = np.zeros((48, 64), bool)
    mask[2:20, 2:20] = True
    mask[5:15, 5:15] = False
    mask[8:11, 8:11] = True
    mask[30:35, 40:45] = mask[35:40, 45:50] = True
    return Object("plate", masks.box(mask), 0.25, 7, masks.encode(mask), "test", ("jump",))
