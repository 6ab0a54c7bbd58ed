"""A decoded picture as people see it: RGB, and turned as its display matrix says."""

from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter

from annotate.records import Picture


def upright_rgb(picture: Any, reformatter: VideoReformatter) -> Picture:
    """(H, W, 3) uint8 of an `av.VideoFrame`, in memory of its own.

    Colours are converted as the picture's tags say, by swscale's defaults where it has none (BT.601,
    limited range), as the `ffmpeg` command does. Alpha is dropped and 16 bits are scaled to 8.
    """
    converted = reformatter.reformat(picture, format="rgb24")
    image: Picture = _turned(converted.to_ndarray(), picture)
    if converted is picture or not image.flags.c_contiguous:  # the decoder's memory, or a view
        return np.array(image, order="C")
    return image


def _turned(image: Picture, picture: Any) -> Picture:
    """As the matrix [a b; c d] says: x' = a x + c y, y' = b x + d y, to the nearest quarter turn."""
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    (a, b), (c, d) = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].tolist()
    lying = abs(b) > abs(a)
    down, right = (b, c) if lying else (d, a)
    image = image.swapaxes(0, 1) if lying else image
    return image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
