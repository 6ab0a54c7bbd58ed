"""Masks of tracked objects are refined for output only."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from annotate.propagators.light import refine, tracker
from annotate.propagators.light.crops import QUICK, THOROUGH, window_around_mask
from annotate.propagators.light.engine import _resolve_overlaps
from annotate.propagators.light.tracker import Tracker


def fit_and_observe(picture, mask, effort=THOROUGH):
    """Fit a tracker to a mask; returns it, its observation there, and the mask in the window."""
    fitted = Tracker(effort)
    fitted.fit(picture, mask.astype(np.float32))
    fitted.start(picture, mask)
    window = window_around_mask(mask)
    soft = window.crop(mask.astype(np.float32), effort.crop_side, replicate_border=False)
    return (
        fitted,
        fitted.observe_window(picture, window, cv2.resize(soft, None, fx=0.5, fy=0.5)),
        soft,
    )


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def test_a_dilated_or_eroded_mask_is_improved(monsters):
    picture, monster_masks = monsters
    before, after = [], []
    for mask in monster_masks:
        _, observation, soft = fit_and_observe(picture, mask)
        true_mask = soft > 0.5
        block = np.ones((9, 9), np.uint8)
        for hard in (cv2.dilate(soft, block), cv2.erode(soft, block)):
            degraded = cv2.GaussianBlur(hard, (31, 31), 0)
            before.append(iou(degraded > 0.5, true_mask))
            after.append(iou(refine.refine_mask(observation, degraded) > 0.5, true_mask))
    assert all(np.array(after) > before) and np.mean(after) > np.mean(before) + 0.05


@pytest.mark.parametrize(("predicted_iou", "kept"), [(0.0, 1.0), (0.5, 0.875), (1.0, 0.0)])
def test_the_refined_mask_is_weighted_by_the_predicted_iou(
    monsters, monkeypatch, predicted_iou, kept
):
    picture, [mask, *_] = monsters
    _, observation, soft = fit_and_observe(picture, mask)
    empty_logits = np.full((128, 128), -50.0, np.float32)
    monkeypatch.setattr(refine, "predict_mask", lambda *_: (empty_logits, predicted_iou))
    np.testing.assert_allclose(refine.refine_mask(observation, soft), kept * soft, atol=1e-6)


def test_an_empty_mask_is_not_refined(monsters, monkeypatch):
    picture, [mask, *_] = monsters
    _, observation, soft = fit_and_observe(picture, mask)
    monkeypatch.setattr(refine, "predict_mask", lambda *_: pytest.fail("the network was used"))
    assert not refine.refine_mask(observation, 0 * soft).any()


@pytest.mark.parametrize(("effort", "refines"), [(THOROUGH, True), (QUICK, False)])
def test_the_refined_mask_is_output_and_not_learned_from(monsters, monkeypatch, effort, refines):
    picture, [mask, *_] = monsters
    size_wh, states, output_masks = picture.shape[1::-1], [], []
    for corner in (False, True):

        def refine_corner(_, soft, corner=corner):
            soft = soft.copy()
            soft[:20, :20] = corner
            return soft

        monkeypatch.setattr(tracker, "refine_mask", refine_corner)
        fitted, observation, _ = fit_and_observe(picture, mask, effort)
        output_masks.append(fitted.update(observation, None, size_wh)[0])
        states.append(fitted.state())
    assert (output_masks[0] != output_masks[1]).any() == refines
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])


def test_a_refined_mask_leaves_out_pixels_of_other_objects(monsters, monkeypatch):
    picture, [mask, *_] = monsters
    fitted, observation, soft = fit_and_observe(picture, mask)
    monkeypatch.setattr(tracker, "refine_mask", lambda _, soft: np.ones_like(soft))
    other_objects = np.zeros_like(soft)
    other_objects[:, :40] = 1
    output, _ = fitted.update(replace(observation, soft=soft), other_objects, picture.shape[1::-1])
    others = observation.window.mask(other_objects, picture.shape[1::-1], 0.5)
    assert output.sum() > mask.sum() and not (output & others).any()


def test_overlapping_pixels_go_to_the_higher_score():
    one, other, third = (np.zeros((4, 12), bool) for _ in range(3))
    one[:, 0:5], other[:, 3:9], third[:, 8:12] = True, True, True
    resolved = _resolve_overlaps({1: (one, 0.2), 2: (other, 0.9), 3: (third, 0.1)})
    assert [np.flatnonzero(resolved[object_id][0][0]).tolist() for object_id in (1, 2, 3)] == [
        [0, 1, 2],
        [3, 4, 5, 6, 7, 8],
        [9, 10, 11],
    ]
    assert {n: score for n, (_, score) in resolved.items()} == {
        1: 0.2,
        2: 0.9,
        3: 0.1,
    }
