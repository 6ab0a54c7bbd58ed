"""Convert a model's box coordinates to pixels, and calibrate which format it uses.

Models give boxes as fractions of the image, in thousandths, or in pixels of an internally resized
image, in several corner orders. Calibration asks for rectangles drawn at known places, fits every
combination of unit and order, and keeps the simplest format with the best mean IoU. The result is
remembered for that model and address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annotate.errors import AnswerError, UnknownName
from annotate.items.records import Box, Picture
from annotate.vlm import messages
from annotate.vlm.client import MODES, Chat, write_model_notes
from annotate.vlm.messages import FourNumbers, ParsedBox
from annotate.vlm.retry import map_threads

BoxArray = npt.NDArray[np.float64]  # (n, 4)

_ReferenceSize = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
_UNITS: dict[
    str, _ReferenceSize
] = {  # from (width, height): the size of what is counted, up to a factor
    "relative": lambda wh: np.ones(2),  # shares of the picture; "relative 1000" in thousandths
    "sent": lambda wh: wh,  # pixels of the picture as it was sent; "sent 1"
    "longest": lambda wh: wh / wh.max(),  # pixels of it resized to a longest side
    "padded": lambda wh: wh / wh.max(),  # shares of a square in the middle of which it stands
    "shortest": lambda wh: wh / wh.min(),
    "area": lambda wh: wh / np.sqrt(wh.prod()),  # to a number of pixels, given as its square root
}
_ORDERS = ("xyxy", "yxyx", "xywh", "cxcywh")
_COMMON_SCALES = (1.0, 100.0, 999.0, 1000.0, 1024.0)
_SCALES_BY_UNIT = {"relative": _COMMON_SCALES, "padded": _COMMON_SCALES, "sent": (1.0,)}
_SNAP_TOLERANCE = 0.02  # share by which a fitted factor may miss the usual one
_MIN_FIT_IOU = 0.5  # mean IoU from which a fit is believed
_IOU_MARGIN = 0.02  # IoU: a simpler way to count is taken before one that fits so much better

RECTANGLE_COLOURS = {"red": (214, 40, 40), "blue": (40, 70, 214), "green": (30, 150, 60)}
_LAYOUTS = (  # shares of the picture, xyxy; no two alike, none mirrored in the diagonal
    ((0.08, 0.55, 0.42, 0.71), (0.61, 0.09, 0.74, 0.48), (0.53, 0.66, 0.93, 0.94)),
    ((0.57, 0.06, 0.95, 0.24), (0.07, 0.12, 0.31, 0.58), (0.22, 0.74, 0.66, 0.87)),
    ((0.05, 0.71, 0.28, 0.95), (0.12, 0.08, 0.63, 0.19), (0.69, 0.37, 0.84, 0.86)),
)


@dataclass(frozen=True)
class BoxFormat:
    """What four numbers mean: what they count, how much the whole picture is, in which order.

    >>> Convention.parse("relative 1000 yxyx").xyxy((250, 0, 500, 100), (800, 600))
    (0.0, 150.0, 80.0, 300.0)
    """

    unit: str
    scale: float
    order: str

    def __str__(self) -> str:
        return f"{self.unit} {self.scale:g} {self.order}"

    @classmethod
    def parse(cls, text: str) -> BoxFormat:
        """A convention as it is written: `relative 1000 xyxy`, `sent 1 yxyx`.

        Raises:
            UnknownName, AnswerError: it is not one.
        """
        unit, full, order = (*text.split(), "", "", "")[:3]
        for kind, word, known in (("unit", unit, _UNITS), ("order", order or "xyxy", _ORDERS)):
            if word not in known:
                raise UnknownName(f"coordinate {kind}", word, known)
        try:
            size = float(full)
        except ValueError:
            size = 0.0
        if not size > 0:
            raise AnswerError(f"convention {text!r}: expected one such as 'relative 1000 xyxy'")
        return cls(unit, size, order or "xyxy")

    def xyxy(self, numbers: FourNumbers, size_wh: tuple[int, int], order: str = "") -> Box:
        """A box in pixels of a picture of that size; `order` is what the model named, if it did.

        Numbers that are all within 0..1 are shares of the picture, whatever was said before: as
        pixels or thousandths they would be no box.
        """
        wh = np.array(size_wh, float)
        ordered = _to_xyxy(np.array([numbers], float), order or self.order)[0].reshape(2, 2)
        whole = self.scale * _UNITS[self.unit](wh)
        if whole.max() > 2 and 0 <= ordered.min() <= ordered.max() <= 1:
            whole = _UNITS["padded" if self.unit == "padded" else "relative"](wh)
        corners = ordered * wh / whole - _padding(self.unit, wh)
        (x1, y1), (x2, y2) = corners.min(0).tolist(), corners.max(0).tolist()
        return x1, y1, x2, y2


@dataclass(frozen=True)
class CalibrationImage:
    """A picture with rectangles, and where each of them is, by name."""

    image: Picture
    boxes: Mapping[str, Box]

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True)
class BoxFormatFit:
    """The convention that explains a model's answers best, and how well: a mean IoU."""

    box_format: BoxFormat
    iou: float
    box_count: int


def calibration_images(side: int) -> list[CalibrationImage]:
    """Three pictures, none of the shape of another, so that no two ways to count look alike."""
    sizes = ((side, side * 3 // 4), (side * 9 // 16, side), (side * 5 // 8, side * 5 // 8))
    return [
        _draw_calibration_image(size, layout) for size, layout in zip(sizes, _LAYOUTS, strict=True)
    ]


def _draw_calibration_image(size_wh: tuple[int, int], layout: Sequence[Box]) -> CalibrationImage:
    width, height = size_wh
    image = np.full((height, width, 3), 232, np.uint8)
    boxes = {}
    for (name, colour), shares in zip(RECTANGLE_COLOURS.items(), layout, strict=True):
        x1, y1, x2, y2 = (round(s * full) for s, full in zip(shares, size_wh * 2, strict=True))
        image[y1:y2, x1:x2] = colour
        boxes[f"{name} rectangle"] = (float(x1), float(y1), float(x2), float(y2))
    return CalibrationImage(image, boxes)


def fit_box_format(
    images: Sequence[CalibrationImage], answers: Sequence[Sequence[ParsedBox]]
) -> BoxFormatFit:
    """The convention by which `answers` are nearest the boxes that were drawn.

    Raises:
        AnswerError: too few of the boxes were named, or no convention fits.
    """
    pairs = [
        (box, said, picture.size_wh)
        for picture, answer in zip(images, answers, strict=True)
        for name, box in picture.boxes.items()
        for said in [each for each in answer if each.label.strip().casefold() == name][:1]
    ]
    drawn_count = sum(len(picture.boxes) for picture in images)
    if len(pairs) * 2 < drawn_count:
        raise AnswerError(f"of {drawn_count} drawn boxes it named {len(pairs)}: too few to tell")
    fits = [_fit_unit_and_order(pairs, unit, order) for unit, order in product(_UNITS, _ORDERS)]
    best = max(each.iou for each in fits)
    chosen = next(each for each in fits if each.iou >= best - _IOU_MARGIN)
    if chosen.iou < _MIN_FIT_IOU:
        raise AnswerError(
            f"its boxes fit no way to count (best: {chosen.box_format}, mean IoU "
            f"{chosen.iou:.2f}): it cannot place boxes, or not in this picture's size"
        )
    return chosen


def _fit_unit_and_order(
    pairs: Sequence[tuple[Box, ParsedBox, tuple[int, int]]], unit: str, order: str
) -> BoxFormatFit:
    true = np.array([box for box, _, _ in pairs])
    wh = np.array([size for _, _, size in pairs], float)
    said = np.concatenate(
        [_to_xyxy(np.array([each.numbers]), each.order or order) for _, each, _ in pairs]
    )
    whole = np.tile(np.stack([_UNITS[unit](each) for each in wh]), 2)
    padding = np.tile(np.stack([_padding(unit, each) for each in wh]), 2)
    full = float(np.median(said / (whole * (true + padding) / np.tile(wh, 2))))
    usual = [
        each for each in _SCALES_BY_UNIT.get(unit, ()) if abs(full / each - 1) < _SNAP_TOLERANCE
    ]
    full = min(usual, key=lambda each: abs(full - each)) if usual else float(round(full, 2))
    if not full > 0:
        return BoxFormatFit(BoxFormat(unit, 1.0, order), 0.0, len(pairs))
    placed = said * np.tile(wh, 2) / (full * whole) - padding
    return BoxFormatFit(
        BoxFormat(unit, full, order), float(_paired_iou(placed, true).mean()), len(pairs)
    )


def _padding(unit: str, wh: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Pixels of padding at the left and at the top, of whatever the model counts in."""
    return (wh.max() - wh) / 2 if unit == "padded" else np.zeros(2)


def _to_xyxy(numbers: BoxArray, order: str) -> BoxArray:
    first, second, third, fourth = numbers.T
    if order == "yxyx":
        return np.stack([second, first, fourth, third], 1)
    if order == "xywh":
        return np.stack([first, second, first + third, second + fourth], 1)
    if order == "cxcywh":
        w, h = third / 2, fourth / 2
        return np.stack([first - w, second - h, first + w, second + h], 1)
    return numbers


def _paired_iou(one: BoxArray, other: BoxArray) -> npt.NDArray[np.float64]:
    """IoU of each pair of boxes, (n,)."""
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    common = (high - low).clip(0).prod(1)
    areas = [(each[:, 2:] - each[:, :2]).clip(0).prod(1) for each in (one, other)]
    return np.asarray(common / np.maximum(areas[0] + areas[1] - common, 1e-9))


@dataclass(frozen=True)
class Calibration:
    """How a model counts and is best asked, and the file that remembers it."""

    fit: BoxFormatFit
    mode: str
    notes_path: Path


def calibrate(chat: Chat, side: int = 1024, detail: str | None = "high") -> Calibration:
    """Ask a model for boxes that are known, in each way until its answers fit; remember how.

    A server may take tools and then not see the picture, so that a way counts only if the boxes
    come out right.

    Raises:
        AnswerError: in no way do its answers fit; says what was wrong in each.
    """
    wrong: dict[str, list[str]] = {}  # what was wrong -> in which ways
    for way in MODES if chat.mode == "auto" else (chat.mode,):
        try:
            found = _ask_and_fit(replace(chat, mode=way, cached=False), side, detail)
        except AnswerError as error:
            wrong.setdefault(str(error), []).append(way)
            continue
        facts = {"convention": str(found.box_format), "iou": round(found.iou, 4), "side": side}
        return Calibration(found, way, write_model_notes(chat.url, chat.model, way=way, **facts))
    said = [f"asked by {', '.join(ways)}: {error}" for error, ways in wrong.items()]
    raise AnswerError(f"{chat.model} at {chat.url}, {'; '.join(said)}")


def _ask_and_fit(chat: Chat, side: int, detail: str | None) -> BoxFormatFit:
    pictures = calibration_images(side)
    told = messages.load_template("boxes.v1")

    def ask(picture: CalibrationImage) -> list[ParsedBox]:
        things = list(picture.boxes)
        shown = messages.image_part(messages.resize(picture.image, 0), detail)
        return chat.ask_boxes(
            [shown, messages.text_part(told.fill(things))], things, "a drawn picture"
        )

    return fit_box_format(pictures, map_threads(ask, pictures, 1))
