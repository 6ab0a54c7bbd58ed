"""Mark what a person said, so that it shows on any ground: points, boxes and masks."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from annotate.records import Box, Mask, Picture

POSITIVE, NEGATIVE = (52, 226, 96), (255, 72, 72)
_LIGHT, _DARK = (255, 255, 255), (0, 0, 0)
_RADIUS, _HOLLOW = 5, 7  # pixels; of a ring, to the middle of its line
_DISC = ((_RADIUS + 2, _DARK), (_RADIUS + 1, _LIGHT), (_RADIUS, POSITIVE))  # radius, colour
_RING = ((6, _DARK), (4, _LIGHT), (2, NEGATIVE))  # width of the line, colour
_DASH, _SPACE = 8.0, 6.0  # pixels
_BITS = 4  # of a pixel's fraction, as OpenCV counts them
Line = npt.NDArray[np.float64]


def mark_points(image: Picture, points_xy: Line, point_labels: npt.NDArray[np.int64]) -> None:
    """Points in place: a filled disc for a positive one, a hollow ring for a negative one."""
    for (x, y), label in zip(points_xy, point_labels, strict=True):
        centre = (round(x * 2**_BITS), round(y * 2**_BITS))
        if label:
            for radius, colour in _DISC:
                cv2.circle(image, centre, radius << _BITS, colour, cv2.FILLED, cv2.LINE_AA, _BITS)
        else:
            for width, colour in _RING:
                cv2.circle(image, centre, _HOLLOW << _BITS, colour, width, cv2.LINE_AA, _BITS)


def mark_box(image: Picture, box: Box) -> None:
    """A box in place, dashed."""
    x1, y1, x2, y2 = box[0], box[1], box[2] - 1, box[3] - 1
    _dash(image, np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float))


def mark_mask(image: Picture, mask: Mask) -> None:
    """A mask's outline in place, dashed."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for outline in outlines:
        _dash(image, outline[:, 0].astype(float))


def _dash(image: Picture, ring_xy: Line) -> None:
    """A closed line, (N, 2), of light dashes on dark ones."""
    dashes = list(_dashes(np.vstack([ring_xy, ring_xy[:1]])))
    for colour, width in ((_DARK, 4), (_LIGHT, 2)):
        cv2.polylines(image, dashes, False, colour, width, cv2.LINE_AA, _BITS)


def _dashes(line_xy: Line) -> Iterable[npt.NDArray[np.int32]]:
    """The pieces of a line that are drawn."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line_xy, axis=0).T))])
    for start in np.arange(0.0, along[-1], _DASH + _SPACE):
        end = min(start + _DASH, along[-1])
        turns = along[(along > start) & (along < end)]  # a dash goes round the corner
        where = np.concatenate([[start], turns, [end]])
        piece = np.stack([np.interp(where, along, line_xy[:, axis]) for axis in (0, 1)], axis=1)
        yield np.round(piece * 2**_BITS).astype(np.int32)
