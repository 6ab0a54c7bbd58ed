"""Superpixels: parts of one colour, all about as large, that follow edges. Needs no weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import supervision as sv

from annotate import masks, segment
from annotate.errors import PromptError, needs
from annotate.records import Frame


@dataclass(frozen=True)
class SlicSegmenter:
    """SLIC superpixels (Achanta 2012) by scikit-image; together they cover the picture.

    `parts` is about how many. `compactness` weighs nearness against likeness of colour: parts are
    the squarer the higher it is. `blur` is a Gaussian's sigma in pixels.
    """

    parts: int = 200
    compactness: float = 10.0
    blur: float = 1.0

    def __post_init__(self) -> None:
        if self.parts < 1 or self.compactness <= 0 or self.blur < 0:
            raise PromptError("slic: parts and compactness must be above 0, blur at least 0")

    def segment(self, frame: Frame) -> sv.Detections:
        """Every superpixel of a picture, each in one piece; they have no score."""
        slic = needs("skimage.segmentation").slic
        parts = slic(
            frame.image,
            n_segments=self.parts,
            compactness=self.compactness,
            sigma=self.blur,
            start_label=0,
        )
        found = [masks.encode(parts == part) for part in np.unique(parts)]
        return segment.detections(found, [float("nan")] * len(found), frame.size_wh)
