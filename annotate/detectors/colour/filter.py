"""Restrict the pixels that a detector sees by the colour of a class.

Either every pixel outside the colour ranges becomes black, or the detector gets only crops round
the boxes that the colour detector proposes; its boxes are then mapped back to the whole frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from annotate.detectors.colour.ranges import ColourSpec, in_ranges, read_colour_specs
from annotate.detectors.run import DETECTORS, Detector, propose_checked
from annotate.errors import AnnotateError, PromptError, UnknownName
from annotate.items.records import Frame, Mask, Vocabulary

if TYPE_CHECKING:
    import supervision as sv

CropBox = tuple[int, int, int, int]  # xyxy, whole pixels


def filter_by_colour(
    detector: Detector, *, mask: str | None = None, near: str | None = None, margin: int = 40
) -> Detector:
    """Wrap a detector so that it sees only pixels in the colour of a class, or near such a class.

    The colour ranges of the class `mask` are kept. Crops are made round the boxes of the class
    `near`, `margin` pixels larger. With both, the crops are masked; with neither, the
    detector is returned as it is.

    Raises:
        UnknownName: the vocabulary has no such class; the message names the nearest.
        PromptError: the class has no `colour` entry.
    """
    if mask is not None:
        detector = ColourMaskedDetector(detector, mask)
    return detector if near is None else ColourCroppedDetector(detector, near, margin)


@dataclass(frozen=True)
class ColourMaskedDetector:
    """Runs a detector on frames that are black outside the colour ranges of the class `mask`."""

    inner: Detector
    mask: str

    def __post_init__(self) -> None:
        _require_spec(self.vocabulary, self.mask)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the inner detector."""
        return self.inner.vocabulary

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes with the inner detector on the blackened frames."""
        ranges = _require_spec(self.vocabulary, self.mask).ranges
        blackened = [_black_out(frame, in_ranges(frame.image, ranges)) for frame in frames]
        return propose_checked(self.inner, blackened, type(self.inner).__name__)


@dataclass(frozen=True)
class ColourCroppedDetector:
    """Runs a detector on crops, `margin` pixels round the colour detector's boxes of class `near`.

    Crops that overlap are merged, so that no object is found twice. A frame without crops gets no
    detections.
    """

    inner: Detector
    near: str
    margin: int = 40

    def __post_init__(self) -> None:
        _require_spec(self.vocabulary, self.near)
        if self.margin < 0:
            raise AnnotateError(f"`margin` must be 0 pixels or more, got {self.margin}")

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the inner detector."""
        return self.inner.vocabulary

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes with the inner detector in the crops, mapped to the whole frames."""
        anchors = _near_boxes(self.vocabulary, self.near, frames)
        windows = [
            crop_windows(xyxy, self.margin, frame.size_wh)
            for xyxy, frame in zip(anchors, frames, strict=True)
        ]
        crops = [
            replace(frame, image=np.ascontiguousarray(frame.image[y1:y2, x1:x2]))
            for frame, of_frame in zip(frames, windows, strict=True)
            for x1, y1, x2, y2 in of_frame
        ]
        source = type(self.inner).__name__
        proposed = iter(propose_checked(self.inner, crops, source) if crops else [])
        return [
            _merge_detections(
                [_to_frame_coordinates(next(proposed), window, frame) for window in of_frame]
            )
            for frame, of_frame in zip(frames, windows, strict=True)
        ]


def check_filter(vocabulary: Vocabulary, mask: str | None, near: str | None) -> None:
    """Check that the classes of a filter have colours; see `filter_by_colour`."""
    for label in (mask, near):
        if label is not None:
            _require_spec(vocabulary, label)


def visible_frame(
    frame: Frame, vocabulary: Vocabulary, mask: str | None, near: str | None, margin: int = 40
) -> Frame:
    """Return what a filtered detector sees of a frame: the rest is black; see `filter_by_colour`.

    Outside the crops round the class `near` everything is black, too.
    """
    keep = np.ones(frame.image.shape[:2], bool)
    if mask is not None:
        keep = in_ranges(frame.image, _require_spec(vocabulary, mask).ranges)
    if near is not None:
        in_windows = np.zeros_like(keep)
        [anchors] = _near_boxes(vocabulary, near, [frame])
        for x1, y1, x2, y2 in crop_windows(anchors, margin, frame.size_wh):
            in_windows[y1:y2, x1:x2] = True
        keep &= in_windows
    return _black_out(frame, keep)


def _near_boxes(
    vocabulary: Vocabulary, near: str, frames: list[Frame]
) -> list[npt.NDArray[np.float64]]:
    """Find the boxes of the colour detector for the class `near`, (n, 4) xyxy for each frame."""
    classes = {near: vocabulary.classes[near]}
    detector = DETECTORS.load("colour", Vocabulary(vocabulary.name, classes, vocabulary.sha256))
    return [np.asarray(each.xyxy, float) for each in detector.propose(frames)]


def crop_windows(xyxy: npt.NDArray[Any], margin: int, size_wh: tuple[int, int]) -> list[CropBox]:
    """Grow boxes by a margin, clip them to the image, and merge those that overlap; sorted."""
    limits = np.array([*size_wh, *size_wh])
    low, high = np.floor(xyxy[:, :2]) - margin, np.ceil(xyxy[:, 2:]) + margin
    pending = [tuple(map(int, row)) for row in np.hstack([low, high]).clip(0, limits)]
    merged: list[CropBox] = []
    while pending:
        x1, y1, x2, y2 = pending.pop()
        for other in merged:
            if x1 < other[2] and other[0] < x2 and y1 < other[3] and other[1] < y2:
                merged.remove(other)  # the union of the two may overlap a third
                corners = np.array([(x1, y1, x2, y2), other])
                pending.append((*map(int, corners[:, :2].min(0)), *map(int, corners[:, 2:].max(0))))
                break
        else:
            if x1 < x2 and y1 < y2:
                merged.append((x1, y1, x2, y2))
    return sorted(merged)


def _require_spec(vocabulary: Vocabulary, label: str) -> ColourSpec:
    if label not in vocabulary.labels:
        raise UnknownName("class", label, vocabulary.labels)
    spec = read_colour_specs(vocabulary).get(vocabulary.labels.index(label))
    if spec is None:
        raise PromptError(
            f"vocabulary {vocabulary.name}, class {label!r}: no colour entry; add one"
        )
    return spec


def _black_out(frame: Frame, keep: Mask) -> Frame:
    return replace(frame, image=frame.image * keep[:, :, None])


def _to_frame_coordinates(
    detections: sv.Detections, crop_xyxy: CropBox, frame: Frame
) -> sv.Detections:
    """Map detections in a crop to the whole frame."""
    import supervision as sv

    x, y = crop_xyxy[:2]
    width, height = frame.size_wh
    mask = None
    if detections.mask is not None:
        mask = np.zeros((len(detections), height, width), bool)
        mask[:, y : crop_xyxy[3], x : crop_xyxy[2]] = detections.mask
    return sv.Detections(
        detections.xyxy + np.array([x, y, x, y]),
        mask,
        detections.confidence,
        detections.class_id,
        data=detections.data,
    )


def _merge_detections(parts: list[sv.Detections]) -> sv.Detections:
    import supervision as sv

    parts = [part for part in parts if len(part)]
    if parts:
        return sv.Detections.merge(parts)
    return sv.Detections(np.zeros((0, 4)), confidence=np.zeros(0), class_id=np.zeros(0, int))
