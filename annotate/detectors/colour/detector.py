"""Propose boxes by colour and shape: a detector that needs no weights.

A class without an outline gives the boxes of its connected patches of colour. A class with an
outline gives the rectangles that are drawn in thin strokes of its colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv

from annotate.detectors.colour.ranges import ColourSpec, GreyImage, in_ranges_u8, read_colour_specs
from annotate.detectors.colour.rectangles import find_rectangles, trim_to_visible
from annotate.errors import AnnotateError
from annotate.items.records import Frame, Picture, Vocabulary

FloatArray = npt.NDArray[np.float64]  # (n, 5): xyxy and confidence


@dataclass(frozen=True)
class ColourDetector:
    """Boxes of each class's patches of colour, or of the rectangles drawn in it.

    What is looked for stands in the vocabulary (`colours.Look`). A patch of fewer than `smallest`
    pixels is noise. The confidence of a patch is how much of its box it fills; that of a drawn
    rectangle how much of its outline is there, less what should not be; below `least` it is noise.
    """

    vocabulary: Vocabulary
    min_area: int = 25
    min_score: float = 0.35

    def __post_init__(self) -> None:
        _ = self._specs  # a vocabulary that cannot be read is known at once
        if not 0 <= self.min_score <= 1:
            raise AnnotateError(f"colour: least must be 0 to 1, got {self.min_score}")

    @cached_property
    def _specs(self) -> dict[int, ColourSpec]:
        return read_colour_specs(self.vocabulary)

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Boxes for each frame, best first within a class."""
        return [self._propose(frame.image) for frame in frames]

    def _propose(self, image: Picture) -> sv.Detections:
        found = [
            self._find_rectangles(image, look) if look.outline else self._find_patches(image, look)
            for look in self._specs.values()
        ]
        class_id = np.repeat(np.array(list(self._specs), int), [len(each) for each in found])
        table = np.concatenate([*found, np.zeros((0, 5))])
        return sv.Detections(table[:, :4], confidence=table[:, 4], class_id=class_id)

    def _find_rectangles(self, image: Picture, spec: ColourSpec) -> FloatArray:
        assert spec.outline is not None
        boxes, fits = find_rectangles(image, spec, self.min_score)
        boxes = trim_to_visible(boxes, (image.shape[1], image.shape[0]), spec.outline)
        return np.column_stack([boxes, fits])

    def _find_patches(self, image: Picture, spec: ColourSpec) -> FloatArray:
        boxes, area = connected_components(in_ranges_u8(image, spec.ranges), spec.gap_px)
        width, height = (boxes[:, 2:] - boxes[:, :2]).T
        filled = area / (width * height)
        keep = area >= self.min_area
        for value, (low, high) in (
            (np.minimum(width, height), (spec.side_px[0], math.inf)),
            (np.maximum(width, height), (0, spec.side_px[1])),
            (width / height, spec.aspect),
            (filled, spec.fill),
        ):
            keep &= (value >= low) & (value <= high)
        return np.column_stack([boxes, filled / spec.fill[1]])[keep]


def connected_components(binary_image: GreyImage, gap_px: int = 0) -> tuple[FloatArray, FloatArray]:
    """Boxes of connected pixels, (n, 4) xyxy, and their pixels, (n,); a gap does not part them."""
    joined = (
        cv2.dilate(binary_image, np.ones((gap_px + 1, gap_px + 1), np.uint8))
        if gap_px
        else binary_image
    )
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    if not gap_px:
        x, y, width, height, area = stats[1:].astype(float).T
        return np.stack([x, y, x + width, y + height], 1), area
    y, x = np.nonzero(binary_image)
    label = np.asarray(labels)[y, x].astype(np.intp)
    boxes = np.tile([np.inf, np.inf, -np.inf, -np.inf], (count, 1))
    for column, values in enumerate((x, y)):
        np.minimum.at(boxes[:, column], label, values)
        np.maximum.at(boxes[:, column + 2], label, values + 1)
    return boxes[1:], np.bincount(label, minlength=count)[1:].astype(float)
