"""Predict the first mask of an object from the points or the box of its prompt.

A click says where an object is, not how large it is. So the object is segmented in windows of many
sizes, by two methods each: a self-trained ridge classifier on deep features, and GrabCut (Rother et
al., "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", SIGGRAPH 2004). The
mask that agrees best with the others is often only a part of the object, so the best masks are
grown as well. Then all masks vote, weighted by their mean IoU with the others and by their area,
because masks of parts are many and agree with each other.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from annotate.backbone import Map, feature_grid
from annotate.items import masks
from annotate.items.records import Mask, Picture, Prompt
from annotate.items.sequences import BoundedCache
from annotate.propagators.light.crops import CropWindow, window_around_mask
from annotate.propagators.light.refine import (
    Points,
    best_mask_from_clicks,
    guided_filter,
    masks_from_clicks,
    predict_in_window,
    windows_around_points,
)
from annotate.propagators.light.ridge_classifier import RidgeClassifier

CROP_SIDE = 192  # pixels of the crop of a window
WINDOW_STEP = 1.5  # from the side of one window around a click to the next
MAX_WINDOW_SCALE = 1.3  # side of the last window, in shorter sides of the picture
USUAL_FILL, FILL_LOG_SIGMA = 0.13, 0.8  # share of its window that an object fills: log-normal
SELF_TRAINING_ROUNDS = 4
GROWN_MASKS, GROW_ROUNDS = 4, 2  # the best masks are grown so often
GROW_WINDOW_SCALE = 2.5  # side of the window, in sides of the mask's box
GROW_REACH = 0.35  # distance to which a mask may grow freely, in roots of its area
RANDOM_FEATURES = 96
MIN_REMAINING = 0.5  # share of a mask that is left where a segmented part of it is removed
MIN_CENTRALITY = 0.7  # of an outside point in a mask that is all wrong
MAX_KEPT_BYTES = 32 * 2**20  # of the latest predictions
CLICK_MASK_VOTES = 2.0  # weight of a mask by the click model, relative to one by a classifier


@dataclass(frozen=True)
class WindowPrompt:
    """A prompt in one window: points, (n, 2), and a box, in pixels of the crop."""

    inside_points: npt.NDArray[np.float64]
    outside_points: npt.NDArray[np.float64]
    box: npt.NDArray[np.float64] | None  # xyxy

    @staticmethod
    def for_window(window: CropWindow, prompt: Prompt, others: Sequence[Prompt]) -> "WindowPrompt":
        """Convert a prompt to a window; points inside other objects are outside this one."""

        def to_crop(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            middle = np.array((window.x, window.y))
            return np.asarray((points - middle) * (CROP_SIDE / window.side) + (CROP_SIDE - 1) / 2)

        inside, outside = inside_outside_points(prompt, others)
        box = None
        if prompt.box is not None:
            box = to_crop(np.array(prompt.box).reshape(2, 2) - 0.5).ravel()
        return WindowPrompt(to_crop(inside), to_crop(outside), box)

    def near_points(self, points: npt.NDArray[np.float64], radius: float, grid: int) -> Mask:
        """Mark the cells, (grid, grid), within `radius` crop pixels of any of `points`."""
        y, x = np.mgrid[:grid, :grid] * (CROP_SIDE / grid) + (CROP_SIDE / grid - 1) / 2
        disks = [np.hypot(x - px, y - py) < radius for px, py in points]
        return np.any(disks, axis=0) if disks else np.zeros((grid, grid), bool)

    def surely_outside(self, grid: int, margin: float) -> Mask:
        """Mark the cells, (grid, grid), outside the box; without one, far from the centre.

        Far is more than `margin`, in sides of the crop.
        """
        y, x = np.mgrid[:grid, :grid] * (CROP_SIDE / grid) + (CROP_SIDE / grid - 1) / 2
        if self.box is not None:
            x1, y1, x2, y2 = self.box
            return np.asarray((x < x1) | (x > x2) | (y < y1) | (y > y2))
        middle = (CROP_SIDE - 1) / 2
        return np.asarray(np.hypot(x - middle, y - middle) > margin * CROP_SIDE)


def soft_mask_from_prompt(picture: Picture, prompt: Prompt, others: Sequence[Prompt] = ()) -> Map:
    """Predict the probability of each pixel, (H, W) in 0..1, of being the prompted object.

    Points inside the objects of `others` count as outside. A prompted mask is returned as it is.
    The latest predictions are kept: a person who corrects other frames does not wait for them.
    """
    if prompt.mask is not None:
        return prompt.mask.astype(np.float32)
    key = _digest(picture, prompt, others)
    if (soft := _kept(key, picture.shape[:2])) is None:
        soft = predict_soft_mask(picture, prompt, others)
        _keep(key, soft)
    return soft


def _digest(picture: Picture, prompt: Prompt, others: Sequence[Prompt]) -> bytes:
    """Hash all that the mask of a prompt depends on."""
    digest = hashlib.sha256(picture.tobytes())
    for points in (*inside_outside_points(prompt, others), np.array(prompt.box or ())):
        digest.update(repr(points.shape).encode() + points.astype(np.float64).tobytes())
    return digest.digest()


# the latest soft masks, each cut to its pixels above 0: top, left, part
_KEPT = BoundedCache[bytes, tuple[int, int, Map]](MAX_KEPT_BYTES)


def _keep(key: bytes, soft: Map) -> None:
    left, top, right, bottom = map(int, masks.box(soft > 0) or (0, 0, 0, 0))
    part = soft[top:bottom, left:right].copy()
    _KEPT.put(key, (top, left, part), part.nbytes)


def _kept(key: bytes, shape: tuple[int, ...]) -> Map | None:
    if (found := _KEPT.get(key)) is None:
        return None
    top, left, part = found
    soft = np.zeros(shape, np.float32)
    soft[top : top + part.shape[0], left : left + part.shape[1]] = part
    return soft


def predict_soft_mask(picture: Picture, prompt: Prompt, others: Sequence[Prompt] = ()) -> Map:
    """Predict what `soft_mask_from_prompt` returns for points or a box; nothing is kept."""
    candidates, fits = [], []
    for window in _prompt_windows(picture, prompt):
        for mask in _segment_window(
            window, picture, WindowPrompt.for_window(window, prompt, others)
        ):
            fill = max(float(mask.mean()), 1e-4)
            candidates.append(_mask_in_picture(window, mask, picture.shape[:2]))
            plausible = 0.02 < fill < 0.45 or prompt.box is not None
            deviation = np.log(fill / USUAL_FILL) / FILL_LOG_SIGMA
            fits.append(plausible * np.exp(-0.5 * deviation**2))
    agreement = _mean_iou(candidates, np.array(fits))
    for k in np.argsort(-agreement * fits, kind="stable")[:GROWN_MASKS]:
        mask = candidates[k]
        for _ in range(GROW_ROUNDS):
            mask = _grow_mask(mask, picture, prompt, others)
            candidates.append(mask)
            fits.append(fits[k])
    if prompt.box is None:
        for mask, iou in masks_from_clicks(picture, *inside_outside_points(prompt, others)):
            candidates.append(mask)
            fits.append(CLICK_MASK_VOTES * iou)
    areas = np.array([mask.sum() for mask in candidates], np.float64)
    votes = (_mean_iou(candidates, np.array(fits)) * fits) ** 3 * areas
    mean = np.tensordot(votes / max(votes.sum(), 1e-9), np.array(candidates, np.float32), 1)
    return mean.astype(np.float32)


def quick_mask_from_points(picture: Picture, prompt: Prompt, others: Sequence[Prompt] = ()) -> Mask:
    """Predict the mask, (H, W), of clicked points by the click model alone, in a tenth of the time.

    Of the masks in windows of several sizes the one with the highest predicted IoU is taken.
    """
    inside, outside = inside_outside_points(prompt, others)
    return best_mask_from_clicks(picture, inside, outside)


def mask_without_points(picture: Picture, mask: Mask, outside_points_xy: Points) -> Mask:
    """Correct a mask, (H, W): remove what lies at the points, (n, 2), that are in it.

    A point in the middle of the mask says that the object is not there at all: nothing remains.
    """
    for x, y in outside_points_xy:
        if mask[int(y), int(x)]:
            if _centrality(mask, x, y) > MIN_CENTRALITY:
                return np.zeros_like(mask)
            mask = _mask_without_point(picture, mask, x, y)
    return mask


def _mask_without_point(picture: Picture, mask: Mask, x: float, y: float) -> Mask:
    """Remove what lies at a point, segmented as from a click, if that is the smaller part.

    Else the click model refines the mask by the point. Where the result still has the point in it,
    the half of the mask that is nearer to it is removed.
    """
    points, none = np.array([[x, y]]), np.zeros((0, 2))
    rows, columns = np.indices(mask.shape)
    distance = np.hypot(columns - x, rows - y)
    click = Prompt(0, 0, points, np.ones(1, np.int64))
    remaining = mask & ~(soft_mask_from_prompt(picture, click) > 0.5)
    if remaining.sum() < MIN_REMAINING * mask.sum():
        remaining, _ = predict_in_window(picture, window_around_mask(mask), (none, points), mask)
        if remaining[int(y), int(x)] or not remaining.any():
            remaining = mask & (distance > np.median(distance[mask]))
    return np.asarray(remaining & (distance >= 1))  # the point itself goes in any case


def _centrality(mask: Mask, x: float, y: float) -> float:
    """Compute how far a point of a mask is from its edge, 0..1: 1 at the innermost point."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    return float(depth[int(y), int(x)] / depth.max())


def inside_outside_points(
    prompt: Prompt, others: Sequence[Prompt]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Collect the points inside the object, (n, 2), and those outside it or inside another one."""
    of_others = [other.points_xy[other.point_labels == 1] for other in others]
    outside = np.concatenate([prompt.points_xy[prompt.point_labels == 0], *of_others])
    return prompt.points_xy[prompt.point_labels == 1], outside


def _grow_mask(mask: Mask, picture: Picture, prompt: Prompt, others: Sequence[Prompt]) -> Mask:
    """Grow a mask of the picture: train on the mask against what is well away from it."""
    x1, y1, x2, y2 = masks.box(mask) or (0.0, 0.0, 0.0, 0.0)
    if x2 - x1 < 2 or y2 - y1 < 2:
        return mask
    side = GROW_WINDOW_SCALE * max(x2 - x1, y2 - y1, 12)
    window = CropWindow((x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2, side)
    window_prompt = WindowPrompt.for_window(window, prompt, others)
    crop, grid = window.crop(picture, CROP_SIDE), CROP_SIDE // 4
    outside = ~window.in_picture((picture.shape[1], picture.shape[0]), grid)
    outside |= window_prompt.near_points(window_prompt.outside_points, 0.03 * CROP_SIDE, grid)
    if prompt.box is not None:
        outside |= window_prompt.surely_outside(grid, 0)
    inside = (window.crop(mask.astype(np.float32), grid, replicate_border=False) > 0.5) & ~outside
    distance = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5)
    distance = distance / np.sqrt(inside.sum() + 1)
    weight = np.where(inside | outside | (distance > GROW_REACH), 1, 0.15).astype(np.float32)
    penalty = 12 * np.maximum(distance - GROW_REACH, 0)
    soft = _self_train(feature_grid(crop), inside, weight, penalty, np.where(outside, -20, 0))
    grown = _sharpen_mask(crop, soft, window_prompt)
    return _mask_in_picture(window, _grabcut(crop, window_prompt, grown), picture.shape[:2])


def _mean_iou(
    candidate_masks: Sequence[Mask], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Compute the mean IoU of each mask with those of positive weight."""
    flat = np.stack([mask.ravel() for mask in candidate_masks])
    used = flat[:, flat.any(axis=0)].astype(np.float32)
    intersections = used @ used.T
    areas = used.sum(axis=1)
    ious = intersections / np.maximum(areas[:, None] + areas[None] - intersections, 1)
    return np.asarray((ious * (weights > 0)[:, None]).sum(axis=0) / max((weights > 0).sum(), 1))


def _prompt_windows(picture: Picture, prompt: Prompt) -> Iterator[CropWindow]:
    """Yield the windows to segment in: two around a box, or many sizes around the points."""
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
    """Segment a window by deep features, and then by colour, starting from that mask."""
    crop = window.crop(picture, CROP_SIDE)
    mask = _segment_by_features(crop, window_prompt)
    yield mask
    yield _grabcut(crop, window_prompt, mask)


def _segment_by_features(crop: Picture, window_prompt: WindowPrompt) -> Mask:
    """Self-train a classifier: cells near the points, or in the box, against the border."""
    grid, boxed = CROP_SIDE // 4, window_prompt.box is not None
    near = window_prompt.near_points
    inside = near(window_prompt.inside_points, 0.03 * CROP_SIDE, grid)
    outside = window_prompt.surely_outside(grid, 0.47)
    outside |= near(window_prompt.outside_points, 0.03 * CROP_SIDE, grid)
    start = ~outside
    if not boxed:
        start &= near(window_prompt.inside_points, 0.1 * CROP_SIDE, grid)
    central = near(np.full((1, 2), (CROP_SIDE - 1) / 2), 0.38 * CROP_SIDE, grid)
    weight = (start | ~central | outside).astype(np.float32)
    y, x = (np.mgrid[:grid, :grid] - (grid - 1) / 2) / grid
    penalty = 0 * x if boxed else 12 * np.maximum(np.hypot(x, y) - 0.3, 0)
    fixed_logits = np.where(outside, -20, np.where(inside, 20, 0))
    soft = _self_train(feature_grid(crop), start, weight, penalty, fixed_logits)
    return _sharpen_mask(crop, soft, window_prompt)


def _self_train(maps: Map, inside: Mask, weight: Map, penalty: Map, fixed_logits: Map) -> Map:
    """Fit a ridge classifier to `inside`, then several times to its own output.

    Args:
        maps: Features, (grid, grid, channels).
        inside: The initial labels, (grid, grid).
        weight: Their weights; later ones are the certainty of the output.
        penalty: Subtracted from the logits; grows with the distance from the start.
        fixed_logits: Added to the logits: large where the label is known.

    Returns:
        The soft mask, (grid, grid) in 0..1.
    """
    target, shape = inside.astype(np.float32), inside.shape
    soft = target
    for _ in range(SELF_TRAINING_ROUNDS):
        ridge = RidgeClassifier(RANDOM_FEATURES)
        expanded = ridge.expand(maps)
        ridge.add_samples(expanded, target.ravel(), weight.ravel(), prompted=True)
        ridge.solve()
        logit = 4 * ridge.scores(expanded)[:, 0].reshape(shape) - penalty + fixed_logits
        soft = (1 / (1 + np.exp(-np.clip(logit, -30, 30)))).astype(np.float32)
        target, weight = (soft > 0.5).astype(np.float32), np.abs(2 * soft - 1) + np.float32(0.02)
    return soft


def _sharpen_mask(crop: Picture, soft: Map, window_prompt: WindowPrompt) -> Mask:
    """Sharpen a soft mask, (grid, grid), along the edges of the crop; keep the prompted parts."""
    sharp = guided_filter(crop, cv2.resize(soft, (CROP_SIDE, CROP_SIDE)), CROP_SIDE // 32)
    return _prompted_components(sharp > 0.5, window_prompt)


def _grabcut(crop: Picture, window_prompt: WindowPrompt, initial: Mask) -> Mask:
    """Segment the crop by GrabCut, starting from `initial`."""
    states = np.where(initial, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    radius, near = 0.02 * CROP_SIDE, window_prompt.near_points
    states[near(window_prompt.inside_points, radius, CROP_SIDE)] = cv2.GC_FGD
    states[window_prompt.surely_outside(CROP_SIDE, 0.5)] = cv2.GC_BGD
    states[near(window_prompt.outside_points, radius, CROP_SIDE)] = cv2.GC_BGD
    if not (states & 1).any() or (states & 1).all():
        return initial
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(crop[..., ::-1]), states, None, *models, 2, cv2.GC_INIT_WITH_MASK
    )
    return _prompted_components((states & 1).astype(bool), window_prompt)


def _prompted_components(mask: Mask, window_prompt: WindowPrompt) -> Mask:
    """Keep the connected components near a point inside; the whole mask if there are none."""
    _, components = cv2.connectedComponents(mask.astype(np.uint8))
    near = window_prompt.near_points(window_prompt.inside_points, 0.03 * CROP_SIDE, CROP_SIDE)
    prompted = np.unique(components[near])
    prompted = prompted[prompted > 0]
    return np.isin(components, prompted) if len(prompted) else mask


def _mask_in_picture(window: CropWindow, mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Convert a mask of the window's crop to one of the picture, (H, W)."""
    return window.mask(mask.astype(np.float32), (shape[1], shape[0]), 0.5)
