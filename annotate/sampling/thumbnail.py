"""Compute the small pictures of a frame that sampling works on, each one once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from annotate.items.records import Frame, Mask, Picture

WIDTH = 256  # pixels, of the small picture
_IGNORED_GREY = 127  # value of ignored pixels


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A frame and its small pictures; pixels where `ignored`, (H, W) bool, is set do not count."""

    frame: Frame
    ignored: Mask | None = None

    @cached_property
    def grey(self) -> Picture:
        """The frame in grey, (H, W) uint8, at full size."""
        return np.asarray(cv2.cvtColor(self.frame.image, cv2.COLOR_RGB2GRAY), np.uint8)

    @cached_property
    def small_rgb(self) -> Picture:
        """The frame scaled down to a width of 256, (h, 256, 3) RGB; ignored pixels are grey."""
        width, height = self.frame.size_wh
        scale = min(1.0, WIDTH / width)
        size_wh = (max(round(width * scale), 1), max(round(height * scale), 1))
        small = _downscaled(self.frame.image, size_wh)
        if self.ignored is not None:
            small[~_valid_mask(self.ignored, size_wh)] = _IGNORED_GREY
        return small

    @cached_property
    def small_grey(self) -> Picture:
        """The small picture in grey, (h, 256) uint8."""
        return np.asarray(cv2.cvtColor(self.small_rgb, cv2.COLOR_RGB2GRAY), np.uint8)

    @cached_property
    def valid(self) -> Mask:
        """The pixels of the small picture that are not ignored, (h, 256) bool."""
        height, width = self.small_rgb.shape[:2]
        if self.ignored is None:
            return np.ones((height, width), bool)
        return _valid_mask(self.ignored, (width, height))


def _valid_mask(ignored: Mask, size_wh: tuple[int, int]) -> Mask:
    return np.asarray(_downscaled(ignored.astype(np.uint8) * 255, size_wh) == 0)


def _downscaled(picture: Picture, size_wh: tuple[int, int]) -> Picture:
    """Scale down by a whole number first, which is fast, then by the rest."""
    factor = max(min(picture.shape[1] // size_wh[0], picture.shape[0] // size_wh[1]), 1)
    if factor > 1:
        near_wh = (picture.shape[1] // factor, picture.shape[0] // factor)
        cropped = picture[: near_wh[1] * factor, : near_wh[0] * factor]
        picture = np.asarray(cv2.resize(cropped, near_wh, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
