"""Propose boxes by colour and shape, without weights.

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
from annotate.detectors.colour.rectangles import find_rectangles
from annotate.errors import AnnotateError, PromptError
from annotate.items.records import Frame, Picture, Vocabulary

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ColourDetector:
    """Boxes of each class's patches of colour, or of the rectangles drawn in its colour.

    The `colour` entries of the vocabulary describe the classes (`ranges.ColourSpec`). A patch needs
    at least `min_area` pixels; its confidence is the share of its box that it fills. The confidence
    of a drawn rectangle is the visible share of its outline, minus a penalty for strokes where none
    are expected; it must be at least `min_score`.
    """

    vocabulary: Vocabulary
    min_area: int = 25
    min_score: float = 0.35

    def __post_init__(self) -> None:
        _ = self._specs  # a wrong vocabulary fails here, not at the first frame
        if not 0 <= self.min_score <= 1:
            raise AnnotateError(f"colour: `min_score` must be 0 to 1, got {self.min_score}")

    @cached_property
    def _specs(self) -> dict[int, ColourSpec]:
        return read_colour_specs(self.vocabulary)

    def ready(self) -> None:
        """Check that the vocabulary describes a colour: without one, nothing would be searched.

        Raises:
            PromptError: no class has a `colour` entry.
        """
        if not self._specs:
            name, label = self.vocabulary.name, next(iter(self.vocabulary.labels), "NAME")
            raise PromptError(
                f"vocabulary {name} has no colour entry, so nothing could be found by colour: "
                f"give a class one, such as colour = [350, 10] under [classes.{label}]"
            )

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes for each frame, best first within a class.

        Raises:
            PromptError: no class has a `colour` entry.
        """
        self.ready()
        return [self._propose(frame.image) for frame in frames]

    def _propose(self, image: Picture) -> sv.Detections:
        tables = [
            self._find_rectangles(image, spec) if spec.outline else self._find_patches(image, spec)
            for spec in self._specs.values()
        ]
        class_id = np.repeat(np.array(list(self._specs), int), [len(table) for table in tables])
        table = np.concatenate([*tables, np.zeros((0, 5))])
        return sv.Detections(table[:, :4], confidence=table[:, 4], class_id=class_id)

    def _find_rectangles(self, image: Picture, spec: ColourSpec) -> FloatArray:
        """Find the drawn rectangles of one class, (n, 5) xyxy and confidence."""
        boxes, scores = find_rectangles(image, spec, self.min_score)
        return np.column_stack([boxes, scores])

    def _find_patches(self, image: Picture, spec: ColourSpec) -> FloatArray:
        """Find the patches of one class, (n, 5) xyxy and confidence."""
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
    """Find the boxes of connected components, (n, 4) xyxy, and their areas in pixels, (n,).

    Pixels with at most `gap_px` pixels between them are in the same component.
    """
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
