"""The first mask of an object, from the points or the box that a person gave."""

from collections.abc import Sequence

import cv2
import numpy as np

from annotate.records import Mask, Picture, Prompt
from annotate.windows import Window

SIDE = 240  # of the picture GrabCut works on


def seed(picture: Picture, prompt: Prompt, others: Sequence[Prompt] = ()) -> Mask:
    """What `prompt` most likely means, (H, W); points inside `others` are outside it."""
    if prompt.mask is not None:
        return prompt.mask
    window = _window(picture, prompt)
    marks = _marks(window, prompt, others)
    crop = window.cut(picture, SIDE)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(crop[..., ::-1].copy(), marks, None, *models, 4, cv2.GC_INIT_WITH_MASK)
    found = ((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)).astype(np.float32)
    size_wh = (picture.shape[1], picture.shape[0])
    left, top, part = window.paste(found, size_wh)
    mask = np.zeros(picture.shape[:2], bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part > 0.5
    return mask


def _window(picture: Picture, prompt: Prompt) -> Window:
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        return Window((x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2, 1.5 * max(x2 - x1, y2 - y1, 8))
    points = prompt.points_xy[prompt.point_labels == 1]
    low, high = points.min(axis=0), points.max(axis=0)
    side = max(0.35 * min(picture.shape[:2]), 2 * float((high - low).max()))
    return Window(*((low + high) / 2).tolist(), side)


def _marks(window: Window, prompt: Prompt, others: Sequence[Prompt]) -> Mask:
    """GrabCut's marks: surely inside at points, surely outside beyond the box or the edge."""
    zoom, middle = SIDE / window.side, (SIDE - 1) / 2
    y, x = (np.mgrid[:SIDE, :SIDE] - middle) / zoom
    x, y = x + window.x, y + window.y
    marks = np.full((SIDE, SIDE), cv2.GC_PR_BGD, np.uint8)
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        within = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        marks[:] = np.where(within, cv2.GC_PR_FGD, cv2.GC_BGD)
    else:
        radius = np.hypot(x - window.x, y - window.y) / window.side
        marks[radius < 0.2] = cv2.GC_PR_FGD
        marks[radius > 0.48] = cv2.GC_BGD
    said = [(prompt.points_xy, prompt.point_labels)]
    said += [(each.points_xy[each.point_labels == 1], None) for each in others]
    for points, labels in said:
        for row, (px, py) in enumerate(points):
            near = np.hypot(x - px, y - py) * zoom < 5
            marks[near] = cv2.GC_FGD if labels is not None and labels[row] == 1 else cv2.GC_BGD
    return marks
