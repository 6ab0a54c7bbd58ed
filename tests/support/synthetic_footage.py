"""Make synthetic clips for tests of sampling: shots of textured scenes, still or panned."""

from fractions import Fraction

import cv2
import numpy as np

from annotate.video.writer import VideoWriter

SIZE_WH = (320, 180)
RATE = Fraction(10)


def scene(seed, size_wh=(480, 180)):
    """Make a picture wider than the frame, of patches of many sizes."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (6, 14, 30):
        patches = rng.uniform(0, 255, (cells * height // width + 1, cells, 3)).astype(np.float32)
        picture += cv2.resize(patches, size_wh, interpolation=cv2.INTER_NEAREST) / 3
    return picture.astype(np.uint8)


def view(seed, left=80):
    """Make the frame that shows a scene from column `left` on."""
    return np.ascontiguousarray(scene(seed)[:, left : left + SIZE_WH[0]])


def film(path, *shots):
    """Write a clip of shots, each a list of pictures."""
    with VideoWriter(path, RATE, SIZE_WH) as writer:
        for shot in shots:
            for picture in shot:
                writer.write(picture)
    return path


def still(seed, count=20):
    """Make a shot of a camera that does not move."""
    return [view(seed)] * count


def pan(seed, count=20, step=3):
    """Make a shot of a camera that turns."""
    return [view(seed, step * n) for n in range(count)]


def page(count=20):
    """Make a shot of a menu: a flat page with a few lines of text."""
    picture = np.full((SIZE_WH[1], SIZE_WH[0], 3), 40, np.uint8)
    for line, text in enumerate(("NEW GAME", "OPTIONS", "QUIT")):
        cv2.putText(picture, text, (90, 60 + 35 * line), 0, 0.8, (230, 230, 230), 2)
    return [picture] * count


def flat(level, count=10):
    """Make a shot of one grey level."""
    return [np.full((SIZE_WH[1], SIZE_WH[0], 3), level, np.uint8)] * count


def blurred(seed, count=10):
    """Make a shot in which no edge is sharp."""
    return [cv2.GaussianBlur(view(seed), (0, 0), 12)] * count
