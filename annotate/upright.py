"""A decoded picture as people see it: RGB, and turned as its display matrix says."""

from typing import Any

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from annotate.records import Picture

_SWS_DEFAULT = 5  # SWS_CS_DEFAULT, which is BT.601
_SWS_MATRIX = {1: 1, 4: 4, 7: 7, 9: 9, 10: 9}  # AVCOL_SPC_ to SWS_CS_, where it is not BT.601
_FULL = 2  # AVCOL_RANGE_JPEG
_BICUBIC = 4  # SWS_BICUBIC: for the chroma of pictures of more than 8 bits


def upright_rgb(picture: Any, reformatter: VideoReformatter) -> Picture:
    """(H, W, 3) uint8 of an `av.VideoFrame`, in memory of its own.

    Colours are converted as the picture's tags say, and where it has none by swscale's defaults
    (BT.601, limited range), as the `ffmpeg` command does. Alpha is dropped, 16 bits scaled to 8.
    """
    converted = reformatter.reformat(picture, format="rgb24", **_tags(picture))
    pixels: Any = converted.to_ndarray()
    image: Picture = _turned(pixels, picture)
    if converted is picture or not image.flags.c_contiguous:  # the decoder's memory, or a view
        return np.array(image, order="C")
    return image


def _tags(picture: Any) -> dict[str, int]:
    """What swscale is told, for PyAV before 17 tells it nothing unless source and target differ."""
    matrix = _SWS_MATRIX.get(int(picture.colorspace), _SWS_DEFAULT)
    full = int(picture.color_range) == _FULL or picture.format.name.startswith("yuvj")
    return {
        "src_colorspace": matrix,
        "dst_colorspace": _SWS_DEFAULT,
        "src_color_range": _FULL if full else 0,
        "interpolation": _BICUBIC,
    }


def _turned(image: Picture, picture: Any) -> Picture:
    """To the nearest quarter turn of the matrix [a b; c d]: x' = a x + c y, y' = b x + d y."""
    # not `picture.side_data`: which ties picture and container together until the garbage is
    # collected, and a hundred decoded pictures are in memory instead of a few
    beside = SideDataContainer(picture)  # type: ignore[call-arg]  # left out of PyAV's stubs
    matrix = beside.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    (a, b), (c, d) = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].tolist()
    lying = abs(b) > abs(a)
    down, right = (b, c) if lying else (d, a)
    image = image.swapaxes(0, 1) if lying else image
    return image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
