"""What the pictures of a dataset look like, small; and how far two of them are apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annotate.errors import DatasetError
from annotate.folder import Dataset
from annotate.records import Picture

Table = npt.NDArray[np.float32]
_THUMBNAIL_WH = (16, 12)
_HISTOGRAM_WH = (80, 60)
_AT_ONCE = 1024


@dataclass(frozen=True)
class Looks:
    """The frames of a dataset, in its order, and for each a thumbnail and a histogram of colours.

    `thumbnails` is (n, 576), 0..255; `colours` is (n, 512), a row sums to 1.
    """

    images: list[str]
    clips: list[str]
    frames: list[int]
    seconds: list[Fraction]
    parts: list[str]
    thumbnails: Table
    colours: Table


def look(dataset: Dataset) -> Looks:
    """Look at every picture once.

    Raises:
        DatasetError: a picture is not there, or is none.
    """
    samples = list(dataset)
    seen = [_small(dataset.images / sample.image) for sample in samples]
    return Looks(
        [sample.image for sample in samples],
        [sample.item.video for sample in samples],
        [sample.item.frame for sample in samples],
        [sample.item.seconds for sample in samples],
        [sample.part for sample in samples],
        np.array([thumbnail for thumbnail, _ in seen], np.float32).reshape(len(seen), -1),
        np.array([colours for _, colours in seen], np.float32).reshape(len(seen), -1),
    )


def _small(path: Path) -> tuple[Table, Table]:
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
