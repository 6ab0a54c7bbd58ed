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

from annotate.errors import AnswerError, UnknownName, UnreadableAnswer
from annotate.items.boxes import BoxArray, iou_matrix
from annotate.items.records import Box, Picture
from annotate.vlm import messages
from annotate.vlm.answer_cache import check_notes_writable, write_model_notes
from annotate.vlm.answers import FourNumbers, ParsedBox
from annotate.vlm.client import MODES, Chat, UnsupportedMode
from annotate.vlm.retry import map_threads

_ReferenceSize = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
# (width, height) of a picture -> the size, up to a factor, that its coordinates are counted in
_UNITS: dict[str, _ReferenceSize] = {
    "relative": lambda wh: np.ones(2),  # fractions of the picture; "relative 1000": thousandths
    "sent": lambda wh: wh,  # pixels of the picture as it was sent; "sent 1"
    "longest": lambda wh: wh / wh.max(),  # pixels after a resize to that longest side
    "padded": lambda wh: wh / wh.max(),  # fractions of a square with the picture in its middle
    "shortest": lambda wh: wh / wh.min(),  # pixels after a resize to that shortest side
    "area": lambda wh: wh / np.sqrt(wh.prod()),  # after a resize to an area, given by its root
}
_ORDERS = ("xyxy", "yxyx", "xywh", "cxcywh")
_COMMON_SCALES = (1.0, 100.0, 999.0, 1000.0, 1024.0)
_SCALES_BY_UNIT = {"relative": _COMMON_SCALES, "padded": _COMMON_SCALES, "sent": (1.0,)}
_SNAP_TOLERANCE = 0.02  # relative distance within which a fitted scale is set to a common one
_MIN_FIT_IOU = 0.5  # mean IoU below which no format fits
_IOU_MARGIN = (
    0.02  # a simpler format is taken before one with a mean IoU that is higher by up to this
)

RECTANGLE_COLOURS = {"red": (214, 40, 40), "blue": (40, 70, 214), "green": (30, 150, 60)}
_LAYOUTS = (  # xyxy as fractions of the picture; none is another one, or its transpose
    ((0.08, 0.55, 0.42, 0.71), (0.61, 0.09, 0.74, 0.48), (0.53, 0.66, 0.93, 0.94)),
    ((0.57, 0.06, 0.95, 0.24), (0.07, 0.12, 0.31, 0.58), (0.22, 0.74, 0.66, 0.87)),
    ((0.05, 0.71, 0.28, 0.95), (0.12, 0.08, 0.63, 0.19), (0.69, 0.37, 0.84, 0.86)),
)


@dataclass(frozen=True)
class BoxFormat:
    """How a model writes a box: the unit of its numbers, the number at full size, the order.

    Examples:
        >>> BoxFormat.parse("relative 1000 yxyx").xyxy((250, 0, 500, 100), (800, 600))
        (0.0, 150.0, 80.0, 300.0)
    """

    unit: str
    scale: float
    order: str

    def __str__(self) -> str:
        return f"{self.unit} {self.scale:g} {self.order}"

    @classmethod
    def parse(cls, text: str) -> BoxFormat:
        """Parse a format as it is written: `relative 1000 xyxy`, `sent 1 yxyx`.

        Raises:
            UnknownName, AnswerError: not a format.
        """
        unit, number, order = (*text.split(), "", "", "")[:3]
        for kind, word, choices in (("unit", unit, _UNITS), ("order", order or "xyxy", _ORDERS)):
            if word not in choices:
                raise UnknownName(f"coordinate {kind}", word, choices)
        try:
            scale = float(number)
        except ValueError:
            scale = 0.0
        if not scale > 0:
            raise AnswerError(f"box format {text!r}: expected one such as 'relative 1000 xyxy'")
        return cls(unit, scale, order or "xyxy")

    def xyxy(self, numbers: FourNumbers, size_wh: tuple[int, int], order: str = "") -> Box:
        """Convert a box to pixels of a picture of `size_wh`; a model may name the `order`.

        Numbers that are all within 0..1 are taken as fractions of the picture in every format: as
        pixels or thousandths they would not make a box.
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
    """A picture of coloured rectangles, and the box of each by name."""

    image: Picture
    boxes: Mapping[str, Box]

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True)
class BoxFormatFit:
    """The format that explains a model's answers best, its mean IoU, and the number of boxes."""

    box_format: BoxFormat
    iou: float
    box_count: int


def calibration_images(side: int) -> list[CalibrationImage]:
    """Draw three pictures of different aspect ratios, which tell all box formats apart.

    Their sides are multiples of `messages.PATCH_SIDE`, as are those of the pictures that are sent.
    """
    shapes = ((1.0, 0.75), (0.5625, 1.0), (0.625, 0.625))
    patch, count = messages.PATCH_SIDE, side // messages.PATCH_SIDE
    return [
        _draw_calibration_image((round(count * x) * patch, round(count * y) * patch), layout)
        for (x, y), layout in zip(shapes, _LAYOUTS, strict=True)
    ]


def _draw_calibration_image(size_wh: tuple[int, int], layout: Sequence[Box]) -> CalibrationImage:
    width, height = size_wh
    image = np.full((height, width, 3), 232, np.uint8)
    boxes = {}
    for (name, colour), box in zip(RECTANGLE_COLOURS.items(), layout, strict=True):
        x1, y1, x2, y2 = (round(f * side) for f, side in zip(box, size_wh * 2, strict=True))
        image[y1:y2, x1:x2] = colour
        boxes[f"{name} rectangle"] = (float(x1), float(y1), float(x2), float(y2))
    return CalibrationImage(image, boxes)


class _NoFit(AnswerError):
    """Answers that no box format explains."""


def fit_box_format(
    images: Sequence[CalibrationImage], answers: Sequence[Sequence[ParsedBox]]
) -> BoxFormatFit:
    """Fit the box format by which `answers` are nearest to the drawn boxes.

    Raises:
        AnswerError: too few of the boxes were named, or no format fits.
    """
    pairs = [
        (box, parsed, picture.size_wh)
        for picture, answer in zip(images, answers, strict=True)
        for name, box in picture.boxes.items()
        for parsed in [each for each in answer if each.label.strip().casefold() == name][:1]
    ]
    drawn_count = sum(len(picture.boxes) for picture in images)
    if len(pairs) * 2 < drawn_count:
        raise _NoFit(
            f"of {drawn_count} drawn boxes the model named {len(pairs)}: too few to fit a format"
        )
    fits = [_fit_unit_and_order(pairs, unit, order) for unit, order in product(_UNITS, _ORDERS)]
    best = max(each.iou for each in fits)
    chosen = next(each for each in fits if each.iou >= best - _IOU_MARGIN)
    if chosen.iou < _MIN_FIT_IOU:
        raise _NoFit(
            f"the model's boxes fit no box format (best: {chosen.box_format}, mean IoU "
            f"{chosen.iou:.2f}): it cannot place boxes, or not in pictures of this size"
        )
    return chosen


def _fit_unit_and_order(
    pairs: Sequence[tuple[Box, ParsedBox, tuple[int, int]]], unit: str, order: str
) -> BoxFormatFit:
    true = np.array([box for box, _, _ in pairs])
    wh = np.array([size for _, _, size in pairs], float)
    answered = np.concatenate(
        [_to_xyxy(np.array([each.numbers]), each.order or order) for _, each, _ in pairs]
    )
    whole = np.tile(np.stack([_UNITS[unit](each) for each in wh]), 2)
    padding = np.tile(np.stack([_padding(unit, each) for each in wh]), 2)
    scale = float(np.median(answered / (whole * (true + padding) / np.tile(wh, 2))))
    common = [s for s in _SCALES_BY_UNIT.get(unit, ()) if abs(scale / s - 1) < _SNAP_TOLERANCE]
    scale = min(common, key=lambda s: abs(scale - s)) if common else float(round(scale, 2))
    if not scale > 0:
        return BoxFormatFit(BoxFormat(unit, 1.0, order), 0.0, len(pairs))
    placed = answered * np.tile(wh, 2) / (scale * whole) - padding
    iou = float(np.diag(iou_matrix(placed, true)).mean())
    return BoxFormatFit(BoxFormat(unit, scale, order), iou, len(pairs))


def _padding(unit: str, wh: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the padding at the left and at the top, in pixels of the picture."""
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


@dataclass(frozen=True)
class Calibration:
    """The box format of a model, the mode to ask it in, and the file that remembers both."""

    fit: BoxFormatFit
    mode: str
    notes_path: Path


def calibrate(chat: Chat, side: int = 1024, detail: str | None = "high") -> Calibration:
    """Ask a model for known boxes, in each mode until its answers fit, and write down the format.

    A server may accept tool calls and then not see the picture, so a mode counts only if the boxes
    are right. `side` is the longest side of the pictures in pixels.

    Raises:
        AnswerError: the answers fit in no mode, and says what was wrong in each; or no answer came.
        OutputError: what is found could not be written down.
    """
    check_notes_writable(chat.url, chat.model)
    failures: dict[str, list[str]] = {}  # message -> the modes that failed with it
    for mode in MODES if chat.mode == "auto" else (chat.mode,):
        try:
            fit = _ask_and_fit(replace(chat, mode=mode, cached=False), side, detail)
        except (UnsupportedMode, UnreadableAnswer, _NoFit) as error:  # others: no mode would help
            failures.setdefault(str(error), []).append(mode)
            continue
        facts = {"convention": str(fit.box_format), "iou": round(fit.iou, 4), "side": side}
        return Calibration(fit, mode, write_model_notes(chat.url, chat.model, way=mode, **facts))
    reasons = [f"asked by {', '.join(modes)}: {error}" for error, modes in failures.items()]
    raise AnswerError(f"{chat.model} at {chat.url}, {'; '.join(reasons)}")


def _ask_and_fit(chat: Chat, side: int, detail: str | None) -> BoxFormatFit:
    pictures = calibration_images(side)
    template = messages.load_template("boxes.v1")

    def ask(picture: CalibrationImage) -> list[ParsedBox]:
        phrases = list(picture.boxes)
        image = messages.image_part(messages.resize(picture.image, 0), detail)
        text = messages.text_part(template.fill(phrases))
        return chat.ask_boxes([image, text], phrases, "a drawn picture")

    return fit_box_format(pictures, map_threads(ask, pictures, 1))
