"""Assign a colour to each class and part, and a shade of a class's colour to each track.

The first ten classes have fixed bright colours. Further hues, and the shades of the tracks, are
multiples of irrational ratios (golden, plastic) of a circle, so that no two are equal.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

from annotate.errors import UnknownName

_GOLDEN_RATIO = 0.618033988749895  # of a circle: no two multiples of it coincide
_PLASTIC_RATIO = 0.754877666246693  # likewise, and independent of the golden ratio
_HUE_SPREAD, _LIGHTNESS_SPREAD = 0.09, 0.28  # range of the shades of a class, of 1


class Colour(NamedTuple):
    """Red, green and blue, 0 to 255.

    Examples:
        >>> Colour(0, 217, 255).hex, Colour(0, 217, 255).text_colour
        ('#00D9FF', Colour(red=0, green=0, blue=0))
    """

    red: int
    green: int
    blue: int

    @property
    def hex(self) -> str:
        """The colour as `#RRGGBB`."""
        return f"#{self.red:02X}{self.green:02X}{self.blue:02X}"

    @property
    def text_colour(self) -> Colour:
        """Black or white: the colour of text that is readable on this colour."""
        light = 0.299 * self.red + 0.587 * self.green + 0.114 * self.blue  # luma, ITU-R BT.601
        return Colour(0, 0, 0) if light > 110 else Colour(255, 255, 255)

    @classmethod
    def from_hls(cls, hue: float, lightness: float, saturation: float) -> Colour:
        """Convert from hue, lightness and saturation, all 0 to 1."""
        return cls(*(round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, saturation)))


# Bright, because games are dark; red comes late, because head-up displays and blood are red.
_FIXED_COLOURS = (
    Colour(0, 217, 255),  # cyan
    Colour(255, 212, 0),  # yellow
    Colour(255, 95, 210),  # pink
    Colour(124, 255, 79),  # green
    Colour(255, 138, 31),  # orange
    Colour(186, 133, 255),  # violet
    Colour(255, 75, 75),  # red
    Colour(0, 255, 194),  # mint
    Colour(64, 128, 255),  # blue
    Colour(255, 179, 167),  # salmon
)


def class_colours(labels: Sequence[str]) -> list[Colour]:
    """Return a colour for each class; a longer list begins with the colours of a shorter one."""
    return [_class_colour(class_id) for class_id in range(len(labels))]


def label_colour(label: str, labels: Sequence[str], track: int | None = None) -> Colour:
    """Return the colour of a class by its position in `labels`, or the shade of one track of it.

    Raises:
        UnknownName: the label is not in `labels`.
    """
    if label not in labels:
        raise UnknownName("class", label, labels)
    colour = _class_colour(labels.index(label))
    return colour if track is None else _track_shade(colour, track)


def part_colour(index: int) -> Colour:
    """Return the colour of a part of a segmented image; parts that are listed together differ.

    Examples:
        >>> part_colour(0) == part_colour(1)
        False
    """
    lightness = 0.42 + 0.3 * (index * _PLASTIC_RATIO % 1)
    return Colour.from_hls(index * _GOLDEN_RATIO % 1, lightness, 0.85)


def _class_colour(class_id: int) -> Colour:
    if class_id < len(_FIXED_COLOURS):
        return _FIXED_COLOURS[class_id]
    return Colour.from_hls(class_id * _GOLDEN_RATIO % 1, 0.6 + 0.15 * (class_id % 2), 0.9)


def _track_shade(colour: Colour, track: int) -> Colour:
    hue, lightness, saturation = colorsys.rgb_to_hls(*(part / 255 for part in colour))
    turn = (track * _GOLDEN_RATIO % 1 - 0.5) * _HUE_SPREAD
    lift = (track * _PLASTIC_RATIO % 1 - 0.5) * _LIGHTNESS_SPREAD
    return Colour.from_hls((hue + turn) % 1, min(max(lightness + lift, 0.42), 0.82), saturation)
