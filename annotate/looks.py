"""What pictures look like, small; and how far two of them are apart."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annotate.errors import DatasetError
from annotate.records import Picture

Table = npt.NDArray[np.float32]
_THUMBNAIL_WH = (16, 12)
_HISTOGRAM_WH = (80, 60)
_AT_ONCE = 1024


def look(path: Path) -> tuple[Table, Table]:
    """An image's thumbnail, (576,) 0..255, and its histogram of colours, (512,) summing to 1.

    Raises:
        DatasetError: it is not there, or is no image.
    """
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise DatasetError(f"{path}: not an image that can be read; build the dataset anew")
    thumbnail = cv2.resize(image, _THUMBNAIL_WH, interpolation=cv2.INTER_AREA)
    return thumbnail.ravel().astype(np.float32), _colours(np.asarray(image, np.uint8))


def _colours(image: Picture) -> Table:
    import cv2

    small = cv2.resize(image, _HISTOGRAM_WH, interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small, cv2.COLOR_BGR2HSV)
    bins = cv2.calcHist([hsv], [0, 1, 2], None, [16, 4, 8], [0, 180, 0, 256, 0, 256]).ravel()
    return np.asarray(bins / bins.sum(), np.float32)


def nearest(of: Table, among: Table) -> tuple[npt.NDArray[np.int64], Table]:
    """For each row of `of`: the row of `among` nearest to it, and how far, as root mean square."""
    rows = list(_nearest(of, among))
    return np.concatenate([r for r, _ in rows]), np.concatenate([d for _, d in rows])


def _nearest(of: Table, among: Table) -> Iterator[tuple[npt.NDArray[np.int64], Table]]:
    lengths = (among**2).sum(axis=1)
    for start in range(0, len(of), _AT_ONCE):
        some = of[start : start + _AT_ONCE]
        rows = (lengths - 2 * some @ among.T).argmin(axis=1)
        yield rows, np.sqrt(((some - among[rows]) ** 2).mean(axis=1))
