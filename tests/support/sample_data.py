"""The folders of the bundled and the shared clips, and frames that show their index."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from annotate.items.records import Frame

CLIPS = Path(__file__).parents[1] / "clips"
SHARED = Path(__file__).parents[3] / "shared"


def picture(index, size_wh=(64, 48)):
    """Make a frame that shows its index: no two indices below 65,536 give the same picture."""
    width, height = size_wh
    image = np.full((height, width, 3), 40, np.uint8)
    image[..., 0], image[..., 1] = index % 256, index // 256
    return Frame("dock.mp4", index, Fraction(index, 30), image)
