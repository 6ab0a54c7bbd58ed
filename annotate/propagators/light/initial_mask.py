"""Predict the first mask of an object from the points or the box that a person gave.

A click says where an object is, not how large it is. So the object is segmented in windows of many
sizes, by two methods each: a self-trained classifier on deep features, and GrabCut. The mask that
most others agree with is often only a part of the object, so the best masks are grown as well. Then
all masks vote, weighted by their agreement (mean IoU) with the others and by their area, because
masks of parts agree with each other and are many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from annotate.backbone import Map, feature_grid
from annotate.items import masks
from annotate.items.records import Mask, Picture, Prompt
from annotate.propagators.light.crops import CropWindow
from annotate.propagators.light.refine import (
    guided_filter,
    masks_from_clicks,
    windows_around_points,
)
from annotate.propagators.light.ridge_classifier import RidgeClassifier

CROP_SIDE = 192  # of a window, in pixels of the crop
WINDOW_STEP, MAX_WINDOW_SCALE = (
    1.5,
    1.3,
)  # sides of the windows round a click: to the next, in pictures
USUAL_FILL, FILL_LOG_SIGMA = (
    0.13,
    0.8,
)  # how much of its window an object fills; how widely ln of it spreads
SELF_TRAINING_ROUNDS = 4
GROWN_MASKS, GROW_ROUNDS = 4, 2  # how many are let grow, and how often
GROW_WINDOW_SCALE, GROW_REACH = (
    2.5,
    0.35,
)  # the window of growing; how far, in root areas, it may reach
RANDOM_FEATURES = 96
CLICK_MASK_VOTES = 2.0  # votes of each mask by the network that has seen things clicked


@dataclass(frozen=True)
class WindowPrompt:
    """What is known for sure in a window: points, as (n, 2) of its crop, and a box."""

    inside_points: npt.NDArray[np.float64]
    outside_points: npt.NDArray[np.float64]
    box: npt.NDArray[np.float64] | None  # xyxy

    @staticmethod
    def for_window(window: CropWindow, prompt: Prompt, others: Sequence[Prompt]) -> "WindowPrompt":
        """A prompt's; where another object is, this one is not."""

        def seen(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            middle = np.array((window.x, window.y))
            return np.asarray((points - middle) * (CROP_SIDE / window.side) + (CROP_SIDE - 1) / 2)

        inside, outside = _inside_outside_points(prompt, others)
        box = None if prompt.box is None else seen(np.array(prompt.box).reshape(2, 2) - 0.5).ravel()
        return WindowPrompt(seen(inside), seen(outside), box)

    def near_points(self, points: npt.NDArray[np.float64], radius: float, grid: int) -> Mask:
        """Which of (grid, grid) lie within `radius` crop pixels of any of `points`."""
        y, x = np.mgrid[:grid, :grid] * (CROP_SIDE / grid) + (CROP_SIDE / grid - 1) / 2
        close = [np.hypot(x - px, y - py) < radius for px, py in points]
        return np.any(close, axis=0) if close else np.zeros((grid, grid), bool)

    def surely_outside(self, grid: int, margin: float) -> Mask:
        """Which of (grid, grid) are surely outside: beyond the box, or this near to the edge."""
        y, x = np.mgrid[:grid, :grid] * (CROP_SIDE / grid) + (CROP_SIDE / grid - 1) / 2
        if self.box is not None:
            x1, y1, x2, y2 = self.box
            return np.asarray((x < x1) | (x > x2) | (y < y1) | (y > y2))
        middle = (CROP_SIDE - 1) / 2
        return np.asarray(np.hypot(x - middle, y - middle) > margin * CROP_SIDE)


def soft_mask_from_prompt(picture: Picture, prompt: Prompt, others: Sequence[Prompt] = ()) -> Map:
    """How sure it is, (H, W) in 0..1, that a pixel is what `prompt` means.

    Points inside `others` are outside it.
    """
    if prompt.mask is not None:
        return prompt.mask.astype(np.float32)
    found, fits = [], []
    for window in _prompt_windows(picture, prompt):
        for mask in _segment_window(
            window, picture, WindowPrompt.for_window(window, prompt, others)
        ):
            filled = max(float(mask.mean()), 1e-4)
            found.append(_mask_in_picture(window, mask, picture.shape[:2]))
            sane = 0.02 < filled < 0.45 or prompt.box is not None
            fits.append(sane * np.exp(-0.5 * (np.log(filled / USUAL_FILL) / FILL_LOG_SIGMA) ** 2))
    for k in np.argsort(-_mean_iou(found, np.array(fits)) * fits, kind="stable")[:GROWN_MASKS]:
        mask = found[k]
        for _ in range(GROW_ROUNDS):
            mask = _grow_mask(mask, picture, prompt, others)
            found.append(mask)
            fits.append(fits[k])
    if prompt.box is None:
        for mask, worth in masks_from_clicks(picture, *_inside_outside_points(prompt, others)):
            found.append(mask)
            fits.append(CLICK_MASK_VOTES * worth)
    areas = np.array([mask.sum() for mask in found], np.float64)
    votes = (_mean_iou(found, np.array(fits)) * fits) ** 3 * areas
    sure = np.tensordot(votes / max(votes.sum(), 1e-9), np.array(found, np.float32), 1)
    return sure.astype(np.float32)


def _inside_outside_points(
    prompt: Prompt, others: Sequence[Prompt]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The points that are inside, (n, 2), and those that are not: what is another's is not."""
    apart = [each.points_xy[each.point_labels == 1] for each in others]
    outside = np.concatenate([prompt.points_xy[prompt.point_labels == 0], *apart])
    return prompt.points_xy[prompt.point_labels == 1], outside


def _grow_mask(mask: Mask, picture: Picture, prompt: Prompt, others: Sequence[Prompt]) -> Mask:
    """The mask again, from itself against what is well away from it."""
    x1, y1, x2, y2 = masks.box(mask) or (0.0, 0.0, 0.0, 0.0)
    if x2 - x1 < 2 or y2 - y1 < 2:
        return mask
    side = GROW_WINDOW_SCALE * max(x2 - x1, y2 - y1, 12)
    window = CropWindow((x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2, side)
    marks, crop, grid = (
        WindowPrompt.for_window(window, prompt, others),
        window.crop(picture, CROP_SIDE),
        CROP_SIDE // 4,
    )
    never = ~window.in_picture((picture.shape[1], picture.shape[0]), grid)
    never |= marks.near_points(marks.outside_points, 0.03 * CROP_SIDE, grid)
    if prompt.box is not None:
        never |= marks.surely_outside(grid, 0)
    was = (window.crop(mask.astype(np.float32), grid, replicate_border=False) > 0.5) & ~never
    away = cv2.distanceTransform((~was).astype(np.uint8), cv2.DIST_L2, 5) / np.sqrt(was.sum() + 1)
    weight = np.where(was | never | (away > GROW_REACH), 1, 0.15).astype(np.float32)
    pull = 12 * np.maximum(away - GROW_REACH, 0)
    soft = _self_train(feature_grid(crop), was, weight, pull, np.where(never, -20, 0))
    deep = _sharpen_mask(crop, soft, marks)
    return _mask_in_picture(window, _grabcut(crop, marks, deep), picture.shape[:2])


def _mean_iou(
    candidate_masks: Sequence[Mask], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The mean IoU of each mask with those that are of a sane size."""
    flat = np.stack([mask.ravel() for mask in candidate_masks])
    used = flat[:, flat.any(axis=0)].astype(np.float32)
    shared = used @ used.T
    areas = used.sum(axis=1)
    overlap = shared / np.maximum(areas[:, None] + areas[None] - shared, 1)
    return np.asarray((overlap * (weights > 0)[:, None]).sum(axis=0) / max((weights > 0).sum(), 1))


def _prompt_windows(picture: Picture, prompt: Prompt) -> Iterator[CropWindow]:
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        for zoom in (1.3, 1.7):
            side = zoom * max(x2 - x1, y2 - y1, 8)
            yield CropWindow((x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2, side)
        return
    points = prompt.points_xy[prompt.point_labels == 1]
    yield from windows_around_points(picture, points, WINDOW_STEP, MAX_WINDOW_SCALE)


def _segment_window(
    window: CropWindow, picture: Picture, window_prompt: WindowPrompt
) -> Iterator[Mask]:
    """The object in the window: by deep features, and that again by colour."""
    crop = window.crop(picture, CROP_SIDE)
    deep = _segment_by_features(crop, window_prompt)
    yield deep
    yield _grabcut(crop, window_prompt, deep)


def _segment_by_features(crop: Picture, window_prompt: WindowPrompt) -> Mask:
    """A classifier of points against the edge, taught a few times by what it finds."""
    grid = CROP_SIDE // 4
    within = window_prompt.near_points(window_prompt.inside_points, 0.03 * CROP_SIDE, grid)
    never = window_prompt.surely_outside(grid, 0.47) | window_prompt.near_points(
        window_prompt.outside_points, 0.03 * CROP_SIDE, grid
    )
    start = window_prompt.near_points(window_prompt.inside_points, 0.1 * CROP_SIDE, grid) & ~never
    if window_prompt.box is not None:
        start = ~never
    far = window_prompt.near_points(np.full((1, 2), (CROP_SIDE - 1) / 2), 0.38 * CROP_SIDE, grid)
    weight = (start | ~far | never).astype(np.float32)
    y, x = (np.mgrid[:grid, :grid] - (grid - 1) / 2) / grid
    pull = 0 * x if window_prompt.box is not None else 12 * np.maximum(np.hypot(x, y) - 0.3, 0)
    sure = np.where(never, -20, np.where(within, 20, 0))
    return _sharpen_mask(
        crop, _self_train(feature_grid(crop), start, weight, pull, sure), window_prompt
    )


def _self_train(maps: Map, inside: Mask, weight: Map, penalty: Map, fixed_logits: Map) -> Map:
    """A soft mask by a classifier taught, a few times, by what it finds itself."""
    taught, shape = inside.astype(np.float32), inside.shape
    soft = taught
    for _ in range(SELF_TRAINING_ROUNDS):
        ridge = RidgeClassifier(RANDOM_FEATURES)
        expanded = ridge.expand(maps)
        ridge.add_samples(expanded, taught.ravel(), weight.ravel(), prompted=True)
        ridge.solve()
        logit = 4 * ridge.scores(expanded)[:, 0].reshape(shape) - penalty + fixed_logits
        soft = (1 / (1 + np.exp(-np.clip(logit, -30, 30)))).astype(np.float32)
        taught, weight = (soft > 0.5).astype(np.float32), np.abs(2 * soft - 1) + np.float32(0.02)
    return soft


def _sharpen_mask(crop: Picture, soft: Map, window_prompt: WindowPrompt) -> Mask:
    sharp = guided_filter(crop, cv2.resize(soft, (CROP_SIDE, CROP_SIDE)), CROP_SIDE // 32)
    return _prompted_components(sharp > 0.5, window_prompt)


def _grabcut(crop: Picture, window_prompt: WindowPrompt, initial: Mask) -> Mask:
    """GrabCut from that mask."""
    states = np.where(initial, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    states[window_prompt.near_points(window_prompt.inside_points, 0.02 * CROP_SIDE, CROP_SIDE)] = (
        cv2.GC_FGD
    )
    states[window_prompt.surely_outside(CROP_SIDE, 0.5)] = cv2.GC_BGD
    states[window_prompt.near_points(window_prompt.outside_points, 0.02 * CROP_SIDE, CROP_SIDE)] = (
        cv2.GC_BGD
    )
    if not (states & 1).any() or (states & 1).all():
        return initial
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(crop[..., ::-1]), states, None, *models, 2, cv2.GC_INIT_WITH_MASK
    )
    return _prompted_components((states & 1).astype(bool), window_prompt)


def _prompted_components(mask: Mask, window_prompt: WindowPrompt) -> Mask:
    """The connected parts with a point in them; without one, all of it."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    asked = np.unique(
        parts[window_prompt.near_points(window_prompt.inside_points, 0.03 * CROP_SIDE, CROP_SIDE)]
    )
    asked = asked[asked > 0]
    return np.isin(parts, asked) if len(asked) else mask


def _mask_in_picture(window: CropWindow, mask: Mask, shape: tuple[int, ...]) -> Mask:
    """A mask of the window as one of the picture."""
    return window.mask(mask.astype(np.float32), (shape[1], shape[0]), 0.5)
