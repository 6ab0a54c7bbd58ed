"""Read colour ranges and shapes from a vocabulary, check them, and apply them to an image.

The `colour` entry of a class holds one or more RGB or HSV ranges and limits on gap, side, aspect
ratio and fill. A hue range with a low end above its high end wraps through 0 degrees.
"""

from __future__ import annotations

import colorsys
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.errors import PromptError
from annotate.items.records import Mask, Picture, Vocabulary

Interval = tuple[float, float]
GreyImage = npt.NDArray[Any]  # (H, W) uint8

# colour space -> its channels and their limits
COLOUR_SPACES: dict[str, dict[str, Interval]] = {
    "rgb": {"red": (0, 255), "green": (0, 255), "blue": (0, 255)},
    "hsv": {"hue_degrees": (0, 360), "saturation": (0, 1), "value": (0, 1)},
}
_VIVID_LIMITS = {"saturation": (0.3, 1.0), "value": (0.2, 1.0)}  # below these a hue is noise


@dataclass(frozen=True)
class ColourRange:
    """The interval of each channel of `space`; a hue interval with low above high wraps.

    Examples:
        >>> ColourRange("hsv", ((340, 20), (0.3, 1), (0.2, 1))).middle_rgb()
        (153.0, 53.55, 53.55)
    """

    space: str
    channels: tuple[Interval, Interval, Interval]

    def middle_rgb(self) -> tuple[float, float, float]:
        """Compute the colour in the middle of every channel, as RGB 0..255."""
        (low, high), second, third = self.channels
        if self.space == "rgb":
            red, green, blue = (sum(channel) / 2 for channel in self.channels)
            return red, green, blue
        hue = low + (high - low) % 360 / 2
        rgb = colorsys.hsv_to_rgb(hue % 360 / 360, sum(second) / 2, sum(third) / 2)
        red, green, blue = (round(255 * channel, 6) for channel in rgb)
        return red, green, blue


@dataclass(frozen=True)
class Outline:
    """How the rectangle of a class is drawn in thin strokes.

    `arm_share` is the share of a side that is drawn from each of its ends: 0.5 is a whole frame,
    less leaves the middle of the side open. `min_corners` is the number of corners that must be
    inside the image.
    """

    arm_share: Interval = (0.5, 0.5)
    min_corners: int = 2


@dataclass(frozen=True)
class ColourSpec:
    """The `colour` entry of a class: its ranges and its limits of shape.

    Parts with at most `gap_px` pixels between them are one patch. `side_px` limits both sides of
    the box; `aspect` is width divided by height; `fill` is the share of the box that has the
    colour. With an `outline` the class is a drawn rectangle, otherwise a patch.
    """

    ranges: tuple[ColourRange, ...]
    gap_px: int = 0
    side_px: Interval = (1, math.inf)
    aspect: Interval = (0, math.inf)
    fill: Interval = (0, 1)
    outline: Outline | None = None


def in_ranges(image: Picture, ranges: Iterable[ColourRange]) -> Mask:
    """Find the pixels of an RGB image that are in any of the ranges; (H, W) bool."""
    return in_ranges_u8(image, ranges) > 0


def in_ranges_u8(image: Picture, ranges: Iterable[ColourRange]) -> GreyImage:
    """Find the same pixels as `in_ranges`, as 255 and 0 for OpenCV."""
    binary_image = np.zeros(image.shape[:2], np.uint8)
    if not image.size:
        return binary_image
    hsv: Any = None
    for colour_range in ranges:
        if colour_range.space == "hsv" and hsv is None:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # every channel 0..255
        pixels = image if colour_range.space == "rgb" else hsv
        for low, high in _bounds_8bit(colour_range):
            inside = cv2.inRange(pixels, np.array(low), np.array(high))
            cv2.bitwise_or(binary_image, inside, binary_image)
    return binary_image


def _bounds_8bit(colour_range: ColourRange) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Convert a range to 8 bit bounds: low and high; two pairs if the hue wraps."""
    if colour_range.space == "rgb":
        return [_round_bounds(colour_range.channels)]
    (low, high), *others = colour_range.channels
    scaled = [(a * 255, b * 255) for a, b in others]
    hues = [(low, high)] if low <= high else [(low, 360), (0, high)]
    return [_round_bounds([(a * 256 / 360, b * 256 / 360), *scaled]) for a, b in hues]


def _round_bounds(channels: Sequence[Interval]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    low, high = zip(*channels, strict=True)
    return tuple(min(255, round(a)) for a in low), tuple(min(255, round(b)) for b in high)


def colour_strength(image: Picture, ranges: Iterable[ColourRange]) -> GreyImage:
    """Measure the strength of the ranges' colour in every pixel, (H, W) uint8.

    The strength is linear, so that averaging keeps a thin line: the channels of the colour less
    0.6 of the other channels. Subtracting all of them would measure chroma alone, and lose a red
    line on a red wall; on a grey wall a little brightness does no harm.
    """
    strongest = np.zeros(image.shape[:2], np.uint8)
    channels = [cv2.extractChannel(image, channel) for channel in range(3)]
    for colour_range in ranges:
        weights, offset = _channel_weights(np.array(colour_range.middle_rgb()))
        summed: Any = np.full_like(strongest, offset)
        for channel in np.argsort(-weights):  # positive first, as each sum is clipped to 0..255
            summed = cv2.addWeighted(summed, 1, channels[channel], weights[channel], 0)
        np.maximum(strongest, summed, out=strongest)
    return strongest


def _channel_weights(rgb: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Compute the weight of each channel, and an offset, for one colour."""
    difference = rgb - rgb.mean()
    if np.abs(difference).max() < 16:  # white, grey or black: use the brightness
        third = np.full(3, 1 / 3)
        return (third, 0.0) if rgb.mean() > 127 else (-third, 255.0)
    own, others = difference.clip(min=0), difference.clip(max=0)
    return own / own.sum() - 0.6 * others / others.sum(), 0.0


def read_colour_specs(vocabulary: Vocabulary) -> dict[int, ColourSpec]:
    """Read the `colour` entries of a vocabulary, as class id -> spec.

    Raises:
        PromptError: an entry is wrong; the message names the vocabulary, the class and the key.
    """
    entries = vocabulary.phrases("colour")
    return {
        class_id: _EntryParser(vocabulary.name, vocabulary.labels[class_id]).parse_spec(entry)
        for class_id, entry in entries.items()
    }


@dataclass(frozen=True)
class _EntryParser:
    """Parses the `colour` entry of one class, and says in errors where it is wrong."""

    vocabulary: str
    label: str

    def error(self, key: str, expected: str, value: Any) -> PromptError:
        where = f"vocabulary {self.vocabulary}, class {self.label!r}, colour{key}"
        return PromptError(f"{where}: expected {expected}, got {value!r}")

    def check_table(self, key: str, value: Any, allowed_keys: Iterable[str]) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self.error(key, "a table", value)
        for name in value:
            if name not in (allowed_keys := sorted(allowed_keys)):
                near = difflib.get_close_matches(name, allowed_keys, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise self.error(key, f"only the keys {', '.join(allowed_keys)}{hint}", name)
        return value

    def parse_interval(
        self, key: str, value: Any, limits: Interval, wraps: bool = False
    ) -> Interval:
        numbers = isinstance(value, list | tuple) and all(
            isinstance(n, int | float) and not isinstance(n, bool) and limits[0] <= n <= limits[1]
            for n in value
        )
        if not numbers or len(value) != 2 or (value[0] > value[1] and not wraps):
            rising = "" if wraps else ", the lower first"
            raise self.error(key, f"two numbers from {limits[0]} to {limits[1]}{rising}", value)
        return value[0], value[1]

    def parse_int(self, key: str, value: Any, limits: tuple[int, int]) -> int:
        valid = isinstance(value, int) and not isinstance(value, bool)
        if not valid or not limits[0] <= value <= limits[1]:
            raise self.error(key, f"a whole number from {limits[0]} to {limits[1]}", value)
        return int(value)

    def parse_spec(self, entry: Any) -> ColourSpec:
        if isinstance(entry, list) and not any(isinstance(part, Mapping) for part in entry):
            entry = {"ranges": [{"space": "hsv", "hue_degrees": entry, **_VIVID_LIMITS}]}
        table = self.check_table("", entry, ["ranges", "gap", "size", "aspect", "fill", "outline"])
        ranges = table.get("ranges")
        if not isinstance(ranges, list) or not ranges:
            raise self.error(
                ".ranges", "one table or more, each with a space and its channels", ranges
            )
        outline = self.parse_outline(table["outline"]) if "outline" in table else None
        for key in {"gap", "fill"} & set(table):
            if outline is not None:
                raise self.error(f".{key}", "no such key beside outline", table[key])
        return ColourSpec(
            tuple(self.parse_range(f".ranges[{row}]", each) for row, each in enumerate(ranges)),
            self.parse_int(".gap", table.get("gap", 0), (0, 1000)),
            self.parse_interval(".size", table.get("size", [1, math.inf]), (1, math.inf)),
            self.parse_interval(".aspect", table.get("aspect", [0, math.inf]), (0, math.inf)),
            self.parse_interval(".fill", table.get("fill", [0, 1]), (0, 1)),
            outline,
        )

    def parse_range(self, key: str, value: Any) -> ColourRange:
        space = value.get("space") if isinstance(value, Mapping) else None
        if space not in COLOUR_SPACES:
            raise self.error(f"{key}.space", " or ".join(map(repr, COLOUR_SPACES)), space)
        table = self.check_table(key, value, ["space", *COLOUR_SPACES[space]])
        first, second, third = (
            self.parse_interval(
                f"{key}.{name}", table.get(name, list(whole)), whole, name == "hue_degrees"
            )
            for name, whole in COLOUR_SPACES[space].items()
        )
        return ColourRange(space, (first, second, third))

    def parse_outline(self, value: Any) -> Outline:
        table = self.check_table(".outline", value, ["arms", "corners"])
        return Outline(
            self.parse_interval(".outline.arms", table.get("arms", [0.5, 0.5]), (0.05, 0.5)),
            self.parse_int(".outline.corners", table.get("corners", 2), (2, 4)),
        )
