"""Refine masks: two small mask networks that ship with the package, and a guided filter.

Both networks were trained on many objects of generated gameplay and know no class. The click model
(`CLICK_MODEL`) reads where a person clicked, or the mask of a tracked object; the other
(`FOLLOW_MODEL`) reads the scores of the classifiers that were fitted to the object, as in Robinson
et al., "Learning Fast and Robust Target Models for Video Object Segmentation", CVPR 2020. Both also
predict the IoU of their mask, as in Huang et al., "Mask Scoring R-CNN", CVPR 2019.

* Clicks: windows of several sizes around the clicks; the best masks are refined a second time.
* Tracked masks: the classifier works on a coarse grid and places the object well but not its edge.
  The click model refines that mask, which counts as far as the predicted IoU is high.
* Objectness: a search result of which no good mask can be predicted, such as a wall or a part of
  the head-up display, is no object.

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
    """`soft`, (H, W) in 0..1, as a local linear function of `picture`'s colours.

    He, Sun, Tang, "Guided Image Filtering", ECCV 2010, with a colour guide.
    """

    def mean(values: Map) -> Map:
        size = (2 * radius + 1, 2 * radius + 1)
        return np.asarray(cv2.boxFilter(values, -1, size, borderType=cv2.BORDER_REFLECT))

    guide = picture.astype(np.float32) * np.float32(1 / 255)
    r, g, b = (np.ascontiguousarray(guide[..., k]) for k in range(3))
    mean_r, mean_g, mean_b, mean_soft = mean(r), mean(g), mean(b), mean(soft)
    cov_r, cov_g, cov_b = (
        mean(channel * soft) - middle * mean_soft
        for channel, middle in ((r, mean_r), (g, mean_g), (b, mean_b))
    )
    rr, gg, bb = (
        mean(channel * channel) - middle * middle + np.float32(epsilon)
        for channel, middle in ((r, mean_r), (g, mean_g), (b, mean_b))
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
NETWORK_SIDE, INPUT_GRID = 128, 64  # sides of the picture and the mask; of what is told
TRUNK_SIDES = {"s8": 32, "s16": 16}  # sides of the trunk's maps
MAX_DISTANCE = 2.0  # distances from the mask before are told up to so many of its sizes


def predict_mask(
    model: str, crop: Picture, trunk: FeatureMaps, network_input: Map
) -> tuple[Map, float]:
    """Logits of a mask, (128, 128), and the IoU, 0..1, it should have with the truth.

    `crop` is a square, `trunk` its maps, and `told` what the model is told, (6, 64, 64).
    """
    given = {"crop": resize_chw(crop, (NETWORK_SIDE, NETWORK_SIDE)), "maps": network_input}
    for name, side in TRUNK_SIDES.items():
        maps = getattr(trunk, name)
        if maps.shape[1] != side:
            maps = np.stack([cv2.resize(each, (side, side)) for each in maps])
        given[name] = maps
    logits, worth = run_model(model, given)
    return logits[0], float(1 / (1 + np.exp(-worth)))


def resize_to_input(values: Map, interpolation: int = cv2.INTER_LINEAR) -> Map:
    """A map of a window, of any side, as (64, 64)."""
    return np.asarray(
        cv2.resize(values, (INPUT_GRID, INPUT_GRID), interpolation=interpolation), np.float32
    )


def build_network_input(
    first_channel: Map, second_channel: Map, prior: Map | None, in_picture: Mask, size_cells: float
) -> Map:
    """What a network is told, (6, 64, 64), out of maps of (64, 64).

    `prior` is the mask before, of an object of `size` cells, if there is one.
    """
    told = np.zeros((6, INPUT_GRID, INPUT_GRID), np.float32)
    told[0], told[1], told[5] = first_channel, second_channel, in_picture
    if prior is not None:
        away = cv2.distanceTransform((prior < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        told[2], told[3], told[4] = prior, np.minimum(away / max(size_cells, 2), MAX_DISTANCE), 1
    return told


IOU_POWER = 3  # power of the IoU that it says: on photographs it is wrong, and says less
MIN_MASK_SIDE = 4  # cells, the root of the area of a mask that it is asked about


def refine_mask(observation: Observation, soft: Map) -> Map:
    """A better mask than `soft`, (size, size) in 0..1, of what is seen in the guess's window."""
    before = resize_to_input(soft, cv2.INTER_AREA)
    cells = float(np.sqrt((before > 0.5).sum()))
    if cells < MIN_MASK_SIDE:
        return soft
    inside = resize_to_input(observation.in_picture.astype(np.float32)) > 0.5
    unclicked = np.zeros_like(before)
    told = build_network_input(unclicked, unclicked, before, inside, cells)
    logits, worth = predict_mask(
        CLICK_MODEL, observation.features.crop, observation.features.maps, told
    )
    logits = cv2.resize(np.clip(logits, -20, 20), soft.shape[::-1])
    share = worth**IOU_POWER
    return np.asarray(share / (1 + np.exp(-logits)) + (1 - share) * soft, np.float32)


CLICK_CROP_SIDE = 256  # side of a window
MIN_CLICK_WINDOW_SIDE, CLICK_WINDOW_STEP, MAX_CLICK_WINDOW_SCALE = (
    48.0,
    1.4,
    1.4,
)  # sides of windows: first, to the next, in pictures
REFINED_MASKS, REFINE_ROUNDS = 3, 2  # so many of the best are looked at again, so often
CLICK_RADIUS_CELLS = 1.5  # radius of a click, in cells

Points = npt.NDArray[np.float64]


def masks_from_clicks(
    picture: Picture, inside_xy: Points, outside_xy: Points
) -> Iterator[tuple[Mask, float]]:
    """Masks, (H, W), of what is clicked, each with the IoU, 0..1, that it should have.

    `inside` and `outside` are (n, 2) of the picture; at least one point is inside.
    """
    found = []
    for window in windows_around_points(
        picture, inside_xy, CLICK_WINDOW_STEP, MAX_CLICK_WINDOW_SCALE
    ):
        found.append(_predict_in_window(picture, window, (inside_xy, outside_xy), None))
    yield from found
    for mask, _ in sorted(found, key=lambda each: -each[1])[:REFINED_MASKS]:
        for _ in range(REFINE_ROUNDS):
            if mask.sum() < 16:
                break
            mask, worth = _predict_in_window(
                picture, window_around_mask(mask), (inside_xy, outside_xy), mask
            )
            yield mask, worth


def windows_around_points(
    picture: Picture, points_xy: Points, step: float, max_scale: float
) -> Iterator[CropWindow]:
    """Windows about (n, 2) points, each `step` times the one before, up to `largest` pictures."""
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
    """What the network is told, (6, 64, 64), of clicks inside and outside, and the mask before."""
    prior, size = None, 0.0
    if previous_mask is not None:
        prior = window.crop(previous_mask.astype(np.float32), INPUT_GRID, replicate_border=False)
        size = float(np.sqrt((prior > 0.5).sum()))
    inside, outside = (_click_heatmap(points, window) for points in clicks)
    return build_network_input(inside, outside, prior, window.in_picture(size_wh, INPUT_GRID), size)


def _predict_in_window(
    picture: Picture, window: CropWindow, clicks: tuple[Points, Points], previous_mask: Mask | None
) -> tuple[Mask, float]:
    size_wh = (picture.shape[1], picture.shape[0])
    crop = window.crop(picture, CLICK_CROP_SIDE)
    logits, worth = predict_mask(
        CLICK_MODEL,
        crop,
        feature_maps(crop),
        click_network_input(size_wh, window, clicks, previous_mask),
    )
    return window.mask(cv2.resize(logits, (CLICK_CROP_SIDE, CLICK_CROP_SIDE)), size_wh, 0), worth


def _click_heatmap(points_xy: Points, window: CropWindow) -> Map:
    """Where (n, 2) points of the picture are on a window's grid, (64, 64) in 0..1."""
    cells = (points_xy - (window.x, window.y)) * (INPUT_GRID / window.side) + (INPUT_GRID - 1) / 2
    y, x = np.mgrid[:INPUT_GRID, :INPUT_GRID]
    spots = [
        np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * CLICK_RADIUS_CELLS**2)) for px, py in cells
    ]
    return np.asarray(np.max([np.zeros((INPUT_GRID, INPUT_GRID)), *spots], axis=0), np.float32)


MIN_OBJECT_IOU = 0.2  # the IoU that a mask of it should have with the truth
MAX_ABS_SCORE = 2.0  # scores beyond say no more


def is_object(observation: Observation) -> bool:
    """Whether a good mask can be had of what was found.

    Of mere wall, or of a part of the head-up display, it can't, however like the object the
    classifier finds that. Where a person showed just such a thing, it is no use to ask.
    """
    _, worth = predict_mask(
        FOLLOW_MODEL,
        observation.features.crop,
        observation.features.maps,
        observation_network_input(observation, 0),
    )
    return worth > MIN_OBJECT_IOU


def observation_network_input(observation: Observation, size_cells: float) -> Map:
    """What the network is told, (6, 64, 64), of a guess, and of an object of `size` cells."""
    score, sure = (
        resize_to_input(np.clip(s, -MAX_ABS_SCORE, MAX_ABS_SCORE))
        for s in (observation.score, observation.prompt_score)
    )
    prior = (
        None if observation.prior is None else resize_to_input(observation.prior, cv2.INTER_AREA)
    )
    inside = resize_to_input(observation.in_picture.astype(np.float32)) > 0.5
    return build_network_input(score, sure, prior, inside, size_cells)
