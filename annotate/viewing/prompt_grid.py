"""Draw prompts and their resulting masks, one cell for each frame and object.

Points, boxes and masks are drawn in two tones, light on dark, so that they show on any background.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from annotate.items import masks
from annotate.items.records import Box, Frame, Item, Mask, Object, Picture, Prompt
from annotate.prompts import PromptTable
from annotate.viewing.contact_sheet import Cell, cell_width
from annotate.viewing.crop_view import CropView, view_around
from annotate.viewing.overlay import draw_masks

POSITIVE_COLOUR, NEGATIVE_COLOUR = (52, 226, 96), (255, 72, 72)
_LIGHT, _DARK = (255, 255, 255), (0, 0, 0)
_DISC_RADIUS, _RING_RADIUS = 5, 7  # pixels; of the ring, to the middle of its line
_DISC_LAYERS = (  # radius, colour
    (_DISC_RADIUS + 2, _DARK),
    (_DISC_RADIUS + 1, _LIGHT),
    (_DISC_RADIUS, POSITIVE_COLOUR),
)
_RING_LAYERS = ((6, _DARK), (4, _LIGHT), (2, NEGATIVE_COLOUR))  # width of the line, colour
_DASH_LENGTH, _DASH_GAP = 8.0, 6.0  # pixels
_SUBPIXEL_BITS = 4  # fractional bits of OpenCV's `shift` argument
PointsXy = npt.NDArray[np.float64]


def mark_points(image: Picture, points_xy: PointsXy, point_labels: npt.NDArray[np.int64]) -> None:
    """Draw points into `image`: filled discs for positive points, rings for negative ones."""
    for (x, y), label in zip(points_xy, point_labels, strict=True):
        centre = (round(x * 2**_SUBPIXEL_BITS), round(y * 2**_SUBPIXEL_BITS))
        if label:
            for radius, colour in _DISC_LAYERS:
                cv2.circle(
                    image,
                    centre,
                    radius << _SUBPIXEL_BITS,
                    colour,
                    cv2.FILLED,
                    cv2.LINE_AA,
                    _SUBPIXEL_BITS,
                )
        else:
            for width, colour in _RING_LAYERS:
                cv2.circle(
                    image,
                    centre,
                    _RING_RADIUS << _SUBPIXEL_BITS,
                    colour,
                    width,
                    cv2.LINE_AA,
                    _SUBPIXEL_BITS,
                )


def mark_box(image: Picture, box: Box) -> None:
    """Draw a dashed box into `image`."""
    x1, y1, x2, y2 = box[0], box[1], box[2] - 1, box[3] - 1
    _draw_dashed(image, np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float))


def mark_mask(image: Picture, mask: Mask) -> None:
    """Draw the dashed outline of a mask into `image`."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for outline in outlines:
        _draw_dashed(image, outline[:, 0].astype(float))


def _draw_dashed(image: Picture, polygon_xy: PointsXy) -> None:
    """Draw a closed line, (N, 2), in light dashes on darker, wider ones."""
    dashes = list(_dash_segments(np.vstack([polygon_xy, polygon_xy[:1]])))
    for colour, width in ((_DARK, 4), (_LIGHT, 2)):
        cv2.polylines(image, dashes, False, colour, width, cv2.LINE_AA, _SUBPIXEL_BITS)


def _dash_segments(line_xy: PointsXy) -> Iterable[npt.NDArray[np.int32]]:
    """Cut a line into its dashes, in fixed-point coordinates."""
    distance = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line_xy, axis=0).T))])
    for start in np.arange(0.0, distance[-1], _DASH_LENGTH + _DASH_GAP):
        end = min(start + _DASH_LENGTH, distance[-1])
        corners = distance[(distance > start) & (distance < end)]  # a dash goes round corners
        stops = np.concatenate([[start], corners, [end]])
        dash = np.stack([np.interp(stops, distance, line_xy[:, axis]) for axis in (0, 1)], axis=1)
        yield np.round(dash * 2**_SUBPIXEL_BITS).astype(np.int32)


def prompt_cells(
    prompts: PromptTable,
    frames: Iterable[Frame],
    items: Mapping[int, Item] | None,
    labels: Sequence[str],
) -> list[Cell]:
    """Draw a cell for each prompt, frame by frame.

    `frames` are all frames with prompts. `items`, by frame index, hold the resulting masks; None
    if there are none yet. A frame without an item was not processed. `labels` are all classes.
    """
    width_px = cell_width(len(prompts.prompts))
    by_frame = defaultdict(list)
    for prompt in prompts.prompts:
        by_frame[prompt.frame].append(prompt)
    cells = []
    for frame in frames:
        item = None if items is None else items.get(frame.index)
        for prompt in by_frame[frame.index]:
            obj = None if item is None else _find_object(item, prompt.object_id)
            extent = _cell_extent(prompt, obj, frame.size_wh)
            view = view_around(extent, frame.size_wh, width_px)
            picture = _draw_cell(frame, prompt, obj, view, labels)
            result = "" if obj or items is None else _describe_absence(prompt, item)
            summary = f"{_describe_prompt(prompt)}{result}"
            title = f"frame {frame.index} · {float(frame.seconds):.2f} s"
            name = f"#{prompt.object_id} {prompts.labels[prompt.object_id]}"
            cells.append(Cell(picture, title, f"{name} · {summary}"))
    return cells


def _describe_absence(prompt: Prompt, item: Item | None) -> str:
    """Describe why a prompt has no resulting object: a run may have stopped before its frame."""
    if item is None:
        return " → not processed"
    return "" if prompt.gone else " → nothing"


def _empty_item(frame: Frame) -> Item:
    return Item(frame.video, frame.index, frame.seconds, *frame.size_wh)


def _find_object(item: Item, object_id: int) -> Object | None:
    """Find the object with that track in an item."""
    return next((obj for obj in item.objects if obj.track == object_id), None)


def _cell_extent(prompt: Prompt, obj: Object | None, size_wh: tuple[int, int]) -> Box:
    """Compute a box round the prompt and the resulting object; the picture if there is neither."""
    boxes = [(x, y, x + 1, y + 1) for x, y in prompt.points_xy]
    mask_box = None if prompt.mask is None else masks.box(prompt.mask)
    boxes += [box for box in (prompt.box, mask_box, obj and obj.box) if box]
    if not boxes:
        return 0.0, 0.0, float(size_wh[0]), float(size_wh[1])
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _draw_cell(
    frame: Frame, prompt: Prompt, obj: Object | None, view: CropView, labels: Sequence[str]
) -> Picture:
    item = replace(_empty_item(frame), objects=(obj,) if obj else ())
    picture = draw_masks(view.crop_image(frame.image), view.crop_item(item), labels)
    if prompt.mask is not None:
        mark_mask(picture, view.crop_mask(prompt.mask))
    if prompt.box is not None:
        mark_box(picture, view.crop_box(prompt.box))
    mark_points(picture, view.map_points(prompt.points_xy), prompt.point_labels)
    return picture


def _describe_prompt(prompt: Prompt) -> str:
    """Describe a prompt in short: `2+ 1− box`."""
    inside = int(np.count_nonzero(prompt.point_labels))
    outside = len(prompt.point_labels) - inside
    parts = {
        f"{inside}+": inside > 0,
        f"{outside}−": outside > 0,
        "box": prompt.box is not None,
        "mask": prompt.mask is not None,
        "gone": prompt.gone,
    }
    return " ".join(text for text, present in parts.items() if present)
