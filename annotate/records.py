"""The frozen things that cross rooms: Frame, Object, Item, Vocabulary, Prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
Rle = Mapping[str, Any]


@dataclass(frozen=True)
class Frame:
    """One picture from a video, and where in the video it stood.

    `image` is RGB, (H, W, 3), uint8. `index` counts the pictures of a full decode from 0. `seconds`
    is exact, so that two samplers landing on the same picture give it the same name.

    >>> frame = Frame("dock.mp4", 75, Fraction(5, 2), np.zeros((4, 6, 3), np.uint8))
    >>> frame.name, frame.size_wh
    ('dock.mp4#75', (6, 4))
    """

    video: str
    index: int
    seconds: Fraction
    image: Picture = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            got = f"{self.image.shape} {self.image.dtype}"
            raise ValueError(f"{self.name}: image must be (H, W, 3) uint8, got {got}")

    @property
    def name(self) -> str:
        """What a person calls it: `dock.mp4#75`."""
        return f"{self.video}#{self.index}"

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width, then height: the order used everywhere here."""
        height, width = self.image.shape[:2]
        return width, height


@dataclass(frozen=True)
class Object:
    """One thing on one frame.

    `box` is xyxy in pixels, x2 and y2 exclusive. `score` is None when the model gives none. `mask`
    is COCO compressed RLE, `counts` a str. `track` stays with the thing through the video. `flags`
    say what looks wrong with it: see `annotate.flags`. `by` tells of the person who changed it:
    {"who", "when", "region"}; None when nobody has. `phrase` is what a detector was told when it
    found it.
    """

    label: str
    box: Box
    score: float | None = None
    track: int | None = None
    mask: Rle | None = None
    source: str = ""
    flags: tuple[str, ...] = ()
    by: Mapping[str, str] | None = None
    phrase: str = ""


@dataclass(frozen=True)
class Item:
    """What is known of one frame: a line in a file of items.

    No objects means "looked at, nothing here". `lost` are the tracks which a propagator has started
    and does not see on this frame. `dropped` says why a frame is not to be used, where it is not:
    {"why", and for a duplicate "video", "frame", "similarity" of the one that is kept}.
    """

    video: str
    frame: int
    seconds: Fraction
    width: int
    height: int
    objects: tuple[Object, ...] = ()
    lost: tuple[int, ...] = ()
    dropped: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Vocabulary:
    """The classes, in the order of their ids, and what each detector is told of each.

    >>> words = Vocabulary("mugs.v1", {"plate": {}, "mug": {"yolo-world": ["cup"]}}, "5e1f")
    >>> words.labels, words.phrases("yolo-world")
    (('plate', 'mug'), {1: ['cup']})
    """

    name: str
    classes: Mapping[str, Mapping[str, Any]]
    sha256: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes; a class's place is its id."""
        return tuple(self.classes)

    @property
    def detectors(self) -> tuple[str, ...]:
        """The detectors that it tells anything."""
        return tuple(dict.fromkeys(name for words in self.classes.values() for name in words))

    def stamp(self) -> dict[str, Any]:
        """What a file of items records of it."""
        return {"name": self.name, "sha256": self.sha256, "labels": list(self.labels)}

    def phrases(self, detector: str) -> dict[int, Any]:
        """Class id -> what `detector` is told, for the classes that tell it anything."""
        told = enumerate(self.classes.values())
        return {class_id: words[detector] for class_id, words in told if detector in words}


@dataclass(frozen=True)
class Prompt:
    """All that a person says of one object on one frame: points, a box, a mask, or several of them.

    `points_xy` is (N, 2) in pixels, `point_labels` is (N,), 1 inside and 0 outside. `box` is xyxy.
    `mask` is (H, W) bool.
    """

    frame: int
    object_id: int
    points_xy: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    point_labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    box: Box | None = None
    mask: Mask | None = None
