"""Compute the small pictures of a frame that sampling looks at, each once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from annotate.items.records import Frame, Mask, Picture

WIDTH = 256  # pixels, of the small picture
_IGNORED_GREY = 127  # of what is not looked at


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A frame, and what is seen of it; `ignored`, (H, W) bool, is not looked at."""

    frame: Frame
    ignored: Mask | None = None

    @cached_property
    def grey(self) -> Picture:
        """(H, W) uint8, as large as the frame."""
        return np.asarray(cv2.cvtColor(self.frame.image, cv2.COLOR_RGB2GRAY), np.uint8)

    @cached_property
    def small_rgb(self) -> Picture:
        """(h, 256, 3) RGB, no larger than the frame; grey where it is not looked at."""
        width, height = self.frame.size_wh
        scale = min(1.0, WIDTH / width)
        size_wh = (max(round(width * scale), 1), max(round(height * scale), 1))
        small = _downscaled(self.frame.image, size_wh)
        if self.ignored is not None:
            small[~_valid_mask(self.ignored, size_wh)] = _IGNORED_GREY
        return small

    @cached_property
    def small_grey(self) -> Picture:
        """(h, 256) uint8."""
        return np.asarray(cv2.cvtColor(self.small_rgb, cv2.COLOR_RGB2GRAY), np.uint8)

    @cached_property
    def valid(self) -> Mask:
        """(h, 256) bool: where the small picture is looked at."""
        height, width = self.small_rgb.shape[:2]
        if self.ignored is None:
            return np.ones((height, width), bool)
        return _valid_mask(self.ignored, (width, height))


def _valid_mask(ignored: Mask, size_wh: tuple[int, int]) -> Mask:
    return np.asarray(_downscaled(ignored.astype(np.uint8) * 255, size_wh) == 0)


def _downscaled(picture: Picture, size_wh: tuple[int, int]) -> Picture:
    """First by a whole number, which is quick, then by what is left, of few pixels."""
    whole = max(min(picture.shape[1] // size_wh[0], picture.shape[0] // size_wh[1]), 1)
    near_wh = (picture.shape[1] // whole, picture.shape[0] // whole)
    cut = picture[: near_wh[1] * whole, : near_wh[0] * whole]
    near = cv2.resize(cut, near_wh, interpolation=cv2.INTER_AREA) if whole > 1 else picture
    return np.asarray(cv2.resize(near, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
