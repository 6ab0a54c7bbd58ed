"""Pictures of foreign datasets: their parts, names of their own, and where in a clip they stood."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from annotate.errors import DatasetError
from annotate.folder import UNSPLIT, Sample
from annotate.records import Box, Item, Object

_OURS = re.compile(r"(.+)-(\d{6})")  # dock-000075, as sampling and building name pictures
_PARTS = {"valid": "val", "validation": "val", "train": "train", "val": "val", "test": "test"}
_OVERHANG = 0.01  # of the picture's size: a box may reach so far out of it, and is cut off


@dataclass(frozen=True)
class Place:
    """A picture's name in the dataset, and the frame that it is."""

    image: str
    video: str
    frame: int

    def sample(self, size_wh: tuple[int, int], objects: Sequence[Object], part: str) -> Sample:
        """The picture as a sample; like every folder of pictures, one a second."""
        seconds = Fraction(self.frame)
        return Sample(
            self.image, Item(self.video, self.frame, seconds, *size_wh, (*objects,)), part
        )


def part_of(name: str) -> str:
    """The part that a file or folder is named after: `valid`, `instances_val2017` are val."""
    words = re.split(r"[^a-z]+", name.casefold())
    return next((_PARTS[word] for word in words if word in _PARTS), UNSPLIT)


def places(pictures: Sequence[Path], clip: str) -> list[Place]:
    """A place for each picture.

    `dock-000075.png` is frame 75 of the clip `dock`, where all are named so. Else the pictures are
    the frames of one clip, in this order.
    """
    ours = [_OURS.fullmatch(picture.stem) for picture in pictures]
    known = [(m[1], int(m[2])) for m in ours if m]
    if len({(name.casefold(), frame) for name, frame in known}) == len(pictures):
        return [Place(picture.name, *frame) for picture, frame in zip(pictures, known, strict=True)]
    stems = [picture.stem.casefold() for picture in pictures]
    return [
        Place(_name(picture, stems.count(picture.stem.casefold()) > 1, number), clip, number)
        for number, picture in enumerate(pictures)
    ]


def _name(picture: Path, shared: bool, number: int) -> str:
    return f"{picture.stem}-{number:06d}{picture.suffix}" if shared else picture.name


def inside(box: Box, size_wh: tuple[int, int], where: str) -> Box:
    """The box cut off at the picture's edge, to a thousandth of a pixel.

    Raises:
        DatasetError: it is no box, or reaches more than a hundredth of the picture out of it.
    """
    width, height = size_wh
    x1, y1, x2, y2 = box
    x, y = _OVERHANG * width, _OVERHANG * height
    if not (x1 <= x2 and y1 <= y2):
        raise DatasetError(f"{where}: a box of negative or no size: {list(box)}")
    if x1 < -x or y1 < -y or x2 > width + x or y2 > height + y:
        raise DatasetError(f"{where}: box {list(box)} is outside the picture of {width}x{height}")
    cut = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    left, top, right, bottom = (round(side, 3) for side in cut)
    return left, top, right, bottom
