"""Refine masks: two small mask networks that ship with the package, and a guided filter.

Both networks were trained on many objects of generated gameplay and are class-agnostic. The click
model (`CLICK_MODEL`) takes clicks, or the mask of a tracked object; the follow model
(`FOLLOW_MODEL`) takes the scores of the classifiers that were fitted to the object, as in Robinson
et al., "Learning Fast and Robust Target Models for Video Object Segmentation", CVPR 2020. Both also
predict the IoU of their mask, as in Huang et al., "Mask Scoring R-CNN", CVPR 2019.

* Clicks: the click model predicts masks in windows of several sizes around the clicks; the best
  ones are refined a second time.
* Tracked masks: the classifiers work on a coarse grid, so they place the object well but not its
  edge. The click model refines the mask; the result is mixed in by its predicted IoU.
* Objectness: if the follow model predicts a low IoU for a search result, such as a wall or a part
  of the head-up display, it is no object.

How the networks were trained, and how far to trust them: `models/light-refine.md`.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from annotate.backbone import FeatureMaps, Map, feature_maps, resize_chw, run_model
from annotate.items.records import Mask, Picture
from annotate.propagators.light.crops import CropWindow, window_around_mask
from annotate.propagators.light.target import Observation


def guided_filter(picture: Picture, soft: Map, radius: int, epsilon: float = 1e-3) -> Map:
    """Smooth `soft`, (H, W) in 0..1, along the edges of `picture`, its colour guide.

    He, Sun and Tang, "Guided Image Filtering", ECCV 2010. Ours, because OpenCV has it only in
    opencv-contrib, which is no dependency.
    """

    def mean(values: Map) -> Map:
        size = (2 * radius + 1, 2 * radius + 1)
        return np.asarray(cv2.boxFilter(values, -1, size, borderType=cv2.BORDER_REFLECT))

    guide = picture.astype(np.float32) * np.float32(1 / 255)
    r, g, b = (np.ascontiguousarray(guide[..., k]) for k in range(3))
    mean_r, mean_g, mean_b, mean_soft = mean(r), mean(g), mean(b), mean(soft)
    cov_r, cov_g, cov_b = (
        mean(channel * soft) - channel_mean * mean_soft
        for channel, channel_mean in ((r, mean_r), (g, mean_g), (b, mean_b))
    )
    rr, gg, bb = (
        mean(channel * channel) - channel_mean * channel_mean + np.float32(epsilon)
        for channel, channel_mean in ((r, mean_r), (g, mean_g), (b, mean_b))
    )
    rg, rb, gb = (
        mean(r * g) - mean_r * mean_g,
        mean(r * b) - mean_r * mean_b,
        mean(g * b) - mean_g * mean_b,
    )
    # the inverse of the symmetric 3x3 covariance of each neighbourhood, by cofactors
    irr, irg, irb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    igg, igb, ibb = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    scale = 1 / (rr * irr + rg * irg + rb * irb)
    slope_r = (irr * cov_r + irg * cov_g + irb * cov_b) * scale
    slope_g = (irg * cov_r + igg * cov_g + igb * cov_b) * scale
    slope_b = (irb * cov_r + igb * cov_g + ibb * cov_b) * scale
    offset = mean_soft - slope_r * mean_r - slope_g * mean_g - slope_b * mean_b
    filtered = mean(slope_r) * r + mean(slope_g) * g + mean(slope_b) * b + mean(offset)
    return np.clip(filtered, 0, 1)


CLICK_MODEL, FOLLOW_MODEL = "light-click.onnx", "light-follow.onnx"
NETWORK_SIDE, INPUT_GRID = 128, 64  # sides: of the crop and the logits; of the other input maps
TRUNK_SIDES = {"s8": 32, "s16": 16}  # sides of the backbone's maps
MAX_DISTANCE = 2.0  # from the prior mask, in sizes of the object; further is clipped


def predict_mask(
    model: str, crop: Picture, trunk: FeatureMaps, network_input: Map
) -> tuple[Map, float]:
    """Run a mask network: logits of the mask, (128, 128), and its predicted IoU, 0..1.

    Args:
        model: `CLICK_MODEL` or `FOLLOW_MODEL`.
        crop: A square crop, RGB.
        trunk: The backbone's maps of the crop.
        network_input: By `build_network_input`, (6, 64, 64).
    """
    inputs = {"crop": resize_chw(crop, (NETWORK_SIDE, NETWORK_SIDE)), "maps": network_input}
    for name, side in TRUNK_SIDES.items():
        maps = getattr(trunk, name)
        if maps.shape[1] != side:
            maps = np.stack([cv2.resize(each, (side, side)) for each in maps])
        inputs[name] = maps
    logits, iou_logit = run_model(model, inputs)
    return logits[0], float(1 / (1 + np.exp(-iou_logit)))


def resize_to_input(values: Map, interpolation: int = cv2.INTER_LINEAR) -> Map:
    """Resize a map of a window to (64, 64)."""
    return np.asarray(
        cv2.resize(values, (INPUT_GRID, INPUT_GRID), interpolation=interpolation), np.float32
    )


def build_network_input(
    first_channel: Map, second_channel: Map, prior: Map | None, in_picture: Mask, size_cells: float
) -> Map:
    """Stack the input of a mask network, (6, 64, 64).

    Args:
        first_channel: Clicks inside, or the ridge score, (64, 64).
        second_channel: Clicks outside, or the prompted score, (64, 64).
        prior: A mask to start from, (64, 64) in 0..1, if there is one.
        in_picture: Cells that lie on the picture.
        size_cells: Root of the area of `prior`, in cells.
    """
    channels = np.zeros((6, INPUT_GRID, INPUT_GRID), np.float32)
    channels[0], channels[1], channels[5] = first_channel, second_channel, in_picture
    if prior is not None:
        distance = cv2.distanceTransform((prior < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        channels[2], channels[4] = prior, 1
        channels[3] = np.minimum(distance / max(size_cells, 2), MAX_DISTANCE)
    return channels


IOU_POWER = 3  # of the predicted IoU, as weight: on photographs masks are worse, and it is lower
MIN_MASK_SIDE = 4  # cells: the root of the area; a smaller mask is not refined


def refine_mask(observation: Observation, soft: Map) -> Map:
    """Refine the soft mask of an observation, (size, size) in 0..1, by the click model."""
    prior = resize_to_input(soft, cv2.INTER_AREA)
    size_cells = float(np.sqrt((prior > 0.5).sum()))
    if size_cells < MIN_MASK_SIDE:
        return soft
    in_picture = resize_to_input(observation.in_picture.astype(np.float32)) > 0.5
    no_clicks = np.zeros_like(prior)
    channels = build_network_input(no_clicks, no_clicks, prior, in_picture, size_cells)
    logits, iou = predict_mask(
        CLICK_MODEL, observation.features.crop, observation.features.maps, channels
    )
    logits = cv2.resize(np.clip(logits, -20, 20), soft.shape[::-1])
    share = iou**IOU_POWER
    return np.asarray(share / (1 + np.exp(-logits)) + (1 - share) * soft, np.float32)


CLICK_CROP_SIDE = 256  # pixels of the crop of a window
MIN_CLICK_WINDOW_SIDE = 48.0  # pixels of the picture
CLICK_WINDOW_STEP = 1.4  # from one window's side to the next
MAX_CLICK_WINDOW_SCALE = 1.4  # side of the last window, in shorter sides of the picture
QUICK_WINDOW_STEP, QUICK_WINDOW_SCALE = 2.0, 1.0  # of a mask that is needed at once
REFINED_MASKS, REFINE_ROUNDS = 3, 2  # the best masks are refined so often
CLICK_RADIUS_CELLS = 1.5  # standard deviation of a click's Gaussian, in cells

Points = npt.NDArray[np.float64]


def masks_from_clicks(
    picture: Picture, inside_xy: Points, outside_xy: Points
) -> Iterator[tuple[Mask, float]]:
    """Predict masks, (H, W), of a clicked object, each with its predicted IoU, 0..1.

    Clicks are (n, 2) in pixels of the picture; at least one is inside.
    """
    clicks = inside_xy, outside_xy
    predictions = [
        predict_in_window(picture, window, clicks, None)
        for window in windows_around_points(
            picture, inside_xy, CLICK_WINDOW_STEP, MAX_CLICK_WINDOW_SCALE
        )
    ]
    yield from predictions
    for mask, _ in sorted(predictions, key=lambda prediction: -prediction[1])[:REFINED_MASKS]:
        for _ in range(REFINE_ROUNDS):
            if mask.sum() < 16:
                break
            mask, iou = predict_in_window(picture, window_around_mask(mask), clicks, mask)
            yield mask, iou


def best_mask_from_clicks(picture: Picture, inside_xy: Points, outside_xy: Points) -> Mask:
    """Predict the mask, (H, W), of a clicked object in few windows: the best of one round.

    Clicks are (n, 2) in pixels of the picture; at least one is inside.
    """
    clicks = inside_xy, outside_xy
    windows = windows_around_points(picture, inside_xy, QUICK_WINDOW_STEP, QUICK_WINDOW_SCALE)
    predictions = [predict_in_window(picture, window, clicks, None) for window in windows]
    return max(predictions, key=lambda prediction: prediction[1])[0]


def windows_around_points(
    picture: Picture, points_xy: Points, step: float, max_scale: float
) -> Iterator[CropWindow]:
    """Yield windows centred on (n, 2) points, each `step` times as large as the one before.

    The last is at most `max_scale` times the shorter side of the picture.
    """
    low, high = points_xy.min(axis=0), points_xy.max(axis=0)
    x, y = ((low + high) / 2).tolist()
    side = max(MIN_CLICK_WINDOW_SIDE, 1.5 * float((high - low).max()))
    last = max(max_scale * min(picture.shape[:2]), side)
    while side <= last:
        yield CropWindow(x, y, side)
        side *= step


def click_network_input(
    size_wh: tuple[int, int],
    window: CropWindow,
    clicks: tuple[Points, Points],
    previous_mask: Mask | None,
) -> Map:
    """Make the input of the click model, (6, 64, 64), from clicks and, if any, a previous mask."""
    prior, size = None, 0.0
    if previous_mask is not None:
        prior = window.crop(previous_mask.astype(np.float32), INPUT_GRID, replicate_border=False)
        size = float(np.sqrt((prior > 0.5).sum()))
    inside, outside = (_click_heatmap(points, window) for points in clicks)
    return build_network_input(inside, outside, prior, window.in_picture(size_wh, INPUT_GRID), size)


def predict_in_window(
    picture: Picture, window: CropWindow, clicks: tuple[Points, Points], previous_mask: Mask | None
) -> tuple[Mask, float]:
    """Predict a mask, (H, W), in one window by the click model, and its IoU, 0..1."""
    size_wh = (picture.shape[1], picture.shape[0])
    crop = window.crop(picture, CLICK_CROP_SIDE)
    network_input = click_network_input(size_wh, window, clicks, previous_mask)
    logits, iou = predict_mask(CLICK_MODEL, crop, feature_maps(crop), network_input)
    logits = cv2.resize(logits, (CLICK_CROP_SIDE, CLICK_CROP_SIDE))
    return window.mask(logits, size_wh, 0), iou


def _click_heatmap(points_xy: Points, window: CropWindow) -> Map:
    """Draw (n, 2) points of the picture as Gaussians on a window's grid, (64, 64) in 0..1."""
    cells = (points_xy - (window.x, window.y)) * (INPUT_GRID / window.side) + (INPUT_GRID - 1) / 2
    y, x = np.mgrid[:INPUT_GRID, :INPUT_GRID]
    gaussians = [
        np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * CLICK_RADIUS_CELLS**2)) for px, py in cells
    ]
    return np.asarray(np.max([np.zeros((INPUT_GRID, INPUT_GRID)), *gaussians], axis=0), np.float32)


MIN_OBJECT_IOU = 0.2  # predicted
MAX_ABS_SCORE = 2.0  # scores are clipped to this


def is_object(observation: Observation) -> bool:
    """Decide whether an observation is an object at all: a good mask of it can be predicted.

    It is not for a wall or a part of the head-up display, even if its appearance is similar. If the
    prompted object itself fails the test, the test says nothing.
    """
    network_input = observation_network_input(observation, 0)
    _, iou = predict_mask(
        FOLLOW_MODEL, observation.features.crop, observation.features.maps, network_input
    )
    return iou > MIN_OBJECT_IOU


def observation_network_input(observation: Observation, size_cells: float) -> Map:
    """Make the input of the follow model, (6, 64, 64), from an observation."""
    score, prompt_score = (
        resize_to_input(np.clip(scores, -MAX_ABS_SCORE, MAX_ABS_SCORE))
        for scores in (observation.score, observation.prompt_score)
    )
    prior = observation.prior
    if prior is not None:
        prior = resize_to_input(prior, cv2.INTER_AREA)
    in_picture = resize_to_input(observation.in_picture.astype(np.float32)) > 0.5
    return build_network_input(score, prompt_score, prior, in_picture, size_cells)
