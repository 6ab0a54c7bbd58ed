"""Read masks that other programs wrote: every number is checked before a pixel is filled.

pycocotools allocates as many values as an outline is long and a run length says, so a damaged
number would take all memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask

from annotate.errors import ItemsError
from annotate.items import masks
from annotate.items.foreign_records import shown
from annotate.items.records import Rle

_coco: Any = pycocotools.mask
_MAX_RING_PX = 2_000_000  # length of one outline; that of a noisy mask of 12 megapixels is shorter
# compressed run lengths: numbers of at most 35 bits, five bits a character, the last below "P"
_COMPRESSED_COUNTS = re.compile(r"(?:[P-o]{0,6}[0-O])+")
_KINDS = "a segmentation that is neither polygons nor RLE"


def read_segmentation(segmentation: Any, size_wh: tuple[int, int]) -> tuple[Rle | None, int]:
    """Convert COCO's polygons, compressed or uncompressed RLE to RLE.

    Returns the mask, None where there is none, and the number of outlines that enclose no pixel.

    Raises:
        ItemsError: a number is not finite or far outside the image, or the run lengths do not fill
            it.
    """
    if segmentation is None or segmentation in ([], {}, ""):
        return None, 0
    if isinstance(segmentation, list):
        return fill_outlines(_split_outlines(segmentation), size_wh)
    if isinstance(segmentation, dict):
        return _read_rle(segmentation, size_wh), 0
    raise ItemsError(_KINDS)


def fill_outlines(outlines: Sequence[Any], size_wh: tuple[int, int]) -> tuple[Rle | None, int]:
    """Fill outlines, each [x, y, x, y, ...] or [[x, y], ...], by COCO's rule.

    Returns the mask, None where no pixel is enclosed, and the number of outlines that enclose none.

    Raises:
        ItemsError: an outline is not of finite numbers, or reaches far out of the image.
    """
    rings = [check_ring(outline, size_wh) for outline in outlines]
    solid = [ring for ring in rings if len(ring) >= 3]  # fewer points enclose nothing
    if not solid:
        return None, len(rings)
    rle = masks.polygons_to_rle([masks.Polygon(ring) for ring in solid], size_wh)
    if not masks.area(rle):
        return None, len(rings)
    return rle, len(rings) - len(solid)


def check_ring(outline: Any, size_wh: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Check one outline, and return its points, (N, 2), xy in pixels.

    Raises:
        ItemsError: it is not of finite numbers in pairs, or reaches far out of the image.
    """
    try:
        values = np.array(outline, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ItemsError(_KINDS) from None
    if values.size % 2 or values.ndim > 2 or (values.ndim == 2 and values.shape[1] != 2):
        raise ItemsError(f"{_KINDS}: the points of an outline must be pairs of x and y")
    points = values.reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ItemsError(f"{_KINDS}: a coordinate is not a finite number")
    size = np.array(size_wh, np.float64)
    if ((points < -size) | (points > 2 * size)).any():
        far = points[((points < -size) | (points > 2 * size)).any(axis=1)][0]
        width, height = size_wh
        raise ItemsError(
            f"its outline has the point {far.tolist()}, far outside the image of {width}x{height}"
        )
    if len(points) and np.abs(np.diff(points, axis=0, append=points[:1])).max(1).sum() > (
        _MAX_RING_PX
    ):
        raise ItemsError(f"its outline is longer than {_MAX_RING_PX} pixels")
    return points


def _split_outlines(segmentation: list[Any]) -> list[Any]:
    """List the outlines of a segmentation, which may be one outline without a list round it."""
    if not all(isinstance(each, list) for each in segmentation):
        return [segmentation]
    flat_pairs = all(len(each) == 2 and not isinstance(each[0], list) for each in segmentation)
    return [segmentation] if flat_pairs and len(segmentation) >= 3 else segmentation


def _read_rle(segmentation: dict[str, Any], size_wh: tuple[int, int]) -> Rle:
    width, height = size_wh
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and isinstance(counts, list | str)):
        raise ItemsError('a mask must be {"size": [height, width], "counts": ...}, COCO\'s RLE')
    if size != [height, width]:
        raise ItemsError(
            f"the mask is {shown(size[1])}x{shown(size[0])}, but its picture is {width}x{height}"
        )
    if isinstance(counts, list):
        counts = _compress(counts, size_wh)
    elif _COMPRESSED_COUNTS.fullmatch(counts) is None:
        raise ItemsError("a mask must be COCO's RLE; its counts are damaged")
    rle: Rle = {"size": [height, width], "counts": counts}
    masks.check(rle, size_wh)
    return rle


def _compress(counts: list[Any], size_wh: tuple[int, int]) -> str:
    width, height = size_wh
    if not all(type(run) in (int, float) and 0 <= run <= width * height for run in counts) or (
        sum(counts) != width * height
    ):
        raise ItemsError(f"its run lengths do not fill its {width}x{height} pixels")
    if any(run != int(run) for run in counts):
        raise ItemsError(
            f"its run lengths do not fill its {width}x{height} pixels in whole numbers"
        )
    whole = {"size": [height, width], "counts": [int(run) for run in counts]}
    text: str = _coco.frPyObjects(whole, height, width)["counts"].decode("ascii")
    return text
