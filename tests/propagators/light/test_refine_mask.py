"""Masks of tracked objects are refined for output only."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from annotate.propagators.light import refine, tracker
from annotate.propagators.light.crops import QUICK, THOROUGH, window_around_mask
from annotate.propagators.light.engine import _resolve_overlaps
from annotate.propagators.light.tracker import Tracker


def seen(picture, mask, effort=THOROUGH):
    """An engine that was shown the mask, what it sees there, and the mask in that window."""
    engine = Tracker(effort)
    engine.fit(picture, mask.astype(np.float32))
    engine.start(picture, mask)
    window = window_around_mask(mask)
    soft = window.crop(mask.astype(np.float32), effort.crop_side, replicate_border=False)
    return (
        engine,
        engine.observe_window(picture, window, cv2.resize(soft, None, fx=0.5, fy=0.5)),
        soft,
    )


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def test_a_dilated_or_eroded_mask_is_improved(monsters):
    picture, shown = monsters
    before, after = [], []
    for mask in shown:
        _, guess, soft = seen(picture, mask)
        true = soft > 0.5
        block = np.ones((9, 9), np.uint8)
        for hard in (cv2.dilate(soft, block), cv2.erode(soft, block)):
            spoilt = cv2.GaussianBlur(hard, (31, 31), 0)
            before.append(iou(spoilt > 0.5, true))
            after.append(iou(refine.refine_mask(guess, spoilt) > 0.5, true))
    assert all(np.array(after) > before) and np.mean(after) > np.mean(before) + 0.05


@pytest.mark.parametrize(("worth", "kept"), [(0.0, 1.0), (0.5, 0.875), (1.0, 0.0)])
def test_the_refined_mask_is_weighted_by_the_predicted_iou(monsters, monkeypatch, worth, kept):
    picture, [mask, *_] = monsters
    _, guess, soft = seen(picture, mask)
    nothing = np.full((128, 128), -50.0, np.float32)
    monkeypatch.setattr(refine, "predict_mask", lambda *_: (nothing, worth))
    np.testing.assert_allclose(refine.refine_mask(guess, soft), kept * soft, atol=1e-6)


def test_an_empty_mask_is_not_refined(monsters, monkeypatch):
    picture, [mask, *_] = monsters
    _, guess, soft = seen(picture, mask)
    monkeypatch.setattr(refine, "predict_mask", lambda *_: pytest.fail("asked"))
    assert not refine.refine_mask(guess, 0 * soft).any()


@pytest.mark.parametrize(("effort", "redraws"), [(THOROUGH, True), (QUICK, False)])
def test_the_refined_mask_is_output_and_not_learned_from(monsters, monkeypatch, effort, redraws):
    picture, [mask, *_] = monsters
    size_wh, states, found = picture.shape[1::-1], [], []
    for corner in (False, True):

        def marked(_, soft, corner=corner):
            soft = soft.copy()
            soft[:20, :20] = corner
            return soft

        monkeypatch.setattr(tracker, "refine_mask", marked)
        engine, guess, _ = seen(picture, mask, effort)
        found.append(engine.update(guess, None, size_wh)[0])
        states.append(engine.state())
    assert (found[0] != found[1]).any() == redraws
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])


def test_a_refined_mask_leaves_out_pixels_of_other_objects(monsters, monkeypatch):
    picture, [mask, *_] = monsters
    engine, guess, soft = seen(picture, mask)
    monkeypatch.setattr(tracker, "refine_mask", lambda _, soft: np.ones_like(soft))
    taken = np.zeros_like(soft)
    taken[:, :40] = 1
    found, _ = engine.update(replace(guess, soft=soft), taken, picture.shape[1::-1])
    others = guess.window.mask(taken, picture.shape[1::-1], 0.5)
    assert found.sum() > mask.sum() and not (found & others).any()


def test_overlapping_pixels_go_to_the_higher_score():
    one, other, third = (np.zeros((4, 12), bool) for _ in range(3))
    one[:, 0:5], other[:, 3:9], third[:, 8:12] = True, True, True
    apart = _resolve_overlaps({1: (one, 0.2), 2: (other, 0.9), 3: (third, 0.1)})
    assert [np.flatnonzero(apart[of][0][0]).tolist() for of in (1, 2, 3)] == [
        [0, 1, 2],
        [3, 4, 5, 6, 7, 8],
        [9, 10, 11],
    ]
    assert {of: fit for of, (_, fit) in apart.items()} == {1: 0.2, 2: 0.9, 3: 0.1}
