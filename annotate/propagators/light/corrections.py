"""Combine a click with what is known of its object already: a correction refines.

One click says where an object is, not how large it is. On a later frame there is more to go by: the
classifiers that were fitted to the other prompts, and the mask that was tracked onto the frame. The
three vote for each pixel; the click model then refines the result with the click, as interactive
segmentation with a previous mask does: Sofiiuk et al., "Reviving Iterative Training with Mask
Guidance for Interactive Segmentation", ICIP 2022.
"""

import cv2
import numpy as np

from annotate.backbone import Map
from annotate.items.records import Mask, Picture
from annotate.propagators.light.appearance import ObjectModel
from annotate.propagators.light.crops import CropWindow, window_around_mask
from annotate.propagators.light.motion import resample
from annotate.propagators.light.refine import IOU_POWER, Points, predict_in_window
from annotate.propagators.light.target import Observation, TargetState, overlap

WINDOW_SCALE = 1.2  # side of the window, in sides of that of the larger mask
MAX_GROWTH = 2.0  # of the window of a clicked mask, for the size that the object had before
CLICK_CERTAINTY = 0.8  # of a pixel that is surely inside or outside by the click alone
PROMPTED_CONFIDENCE = 0.8  # in the prompted appearance, whatever was tracked before
MIN_TRACKED_OVERLAP = 0.3  # IoU of the tracked mask with the clicked one; else it is another thing
MIN_AREA = 16  # pixels


def refine_clicked_mask(
    picture: Picture,
    clicked: Map,
    clicks: tuple[Points, Points],
    model: ObjectModel,
    target: TargetState,
    tracked: Observation | None,
) -> Mask:
    """Refine the mask of a click by the classifiers of its object, and by the tracked mask.

    Args:
        picture: RGB, (H, W, 3).
        clicked: By the click alone, the probability of being the object, (H, W) in 0..1.
        clicks: Points inside and outside, (n, 2) each, in pixels.
        model: The classifiers, which know other prompts of the object.
        target: Where and how large the object was before.
        tracked: What tracking found on this picture, if it did.

    Returns:
        The mask, (H, W); that of the click alone where the classifiers see no object at it.
    """
    mask, size_wh = clicked > 0.5, (picture.shape[1], picture.shape[0])
    window = _common_window(mask, clicks[0], target)
    certain = TargetState(mean_prompt_score=PROMPTED_CONFIDENCE)
    observation = model.classify(model.window_features(picture, window), window, None, certain)
    size = len(observation.soft)
    by_click = window.crop(clicked, size, replicate_border=False)
    votes = [np.clip(by_click, 1 - CLICK_CERTAINTY, CLICK_CERTAINTY), observation.soft]
    if tracked is not None:
        by_tracking = resample(tracked.soft, tracked.window, window, size)
        if overlap(by_tracking > 0.5, by_click > 0.5) > MIN_TRACKED_OVERLAP:
            votes.append(by_tracking)
    voted = window.mask(np.mean(votes, axis=0).astype(np.float32), size_wh, 0.5)
    voted = _parts_at(voted, clicks[0])
    if voted.sum() < MIN_AREA:
        return mask
    refined, iou = predict_in_window(picture, window_around_mask(voted), clicks, voted)
    return refined if iou**IOU_POWER > 0.5 and refined.any() else voted


def _common_window(mask: Mask, inside_xy: Points, target: TargetState) -> CropWindow:
    """Return a window for the clicked mask, and for the object as large as it was before."""
    window, (x, y) = window_around_mask(mask), inside_xy.mean(axis=0).tolist()
    side = min(target.window.side, MAX_GROWTH * window.side) if target.started else 0.0
    side = WINDOW_SCALE * max(side, window.side)
    return CropWindow((window.x + x) / 2, (window.y + y) / 2, side)


def _parts_at(mask: Mask, points_xy: Points) -> Mask:
    """Keep the connected parts of a mask in which any of the points, (n, 2), lies."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    hit = {int(parts[int(y), int(x)]) for x, y in points_xy} - {0}
    return np.isin(parts, list(hit))
