"""Masks from clicks by the click model, and its votes in the first mask."""

import csv
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from annotate.backbone import feature_maps
from annotate.files import packaged_file
from annotate.items import masks
from annotate.items.records import Prompt
from annotate.propagators.light import initial_mask, refine
from annotate.propagators.light.crops import window_around_mask
from annotate.propagators.light.refine import masks_from_clicks
from annotate.video import reader

MODELS = Path(__file__).parents[3] / "models"
NO_POINTS = np.zeros((0, 2))


@pytest.fixture
def clicks(demo):
    """Read the clicks of the demo clip: picture, point, true mask."""
    truth = json.loads((demo.parent / "demo.gt.json").read_text())
    true_masks = {
        (each["image_id"], each["track_id"]): masks.decode(each["segmentation"])
        for each in truth["annotations"]
        if "segmentation" in each and "track_id" in each
    }
    rows = csv.DictReader((demo.parent / "demo.points.csv").read_text().splitlines())
    clicks = []
    for row in rows:
        frame = int(row["frame_id"])
        [picture] = [each.image for each in reader.frames(demo, start=frame, stop=frame + 1)]
        point = np.array([[float(row["x"]), float(row["y"])]])
        clicks.append((picture, point, true_masks[frame, int(row["object_id"])]))
    return clicks


def iou(one, other):
    return masks.iou(masks.encode(one), masks.encode(other))


def best_mask(predicted_masks):
    return max(predicted_masks, key=lambda each: each[1])[0]


def test_one_of_the_masks_of_a_click_is_the_monster(clicks):
    bests = []
    for picture, point, true_mask in clicks:
        predicted_masks = list(masks_from_clicks(picture, point, NO_POINTS))
        bests.append(max(iou(mask, true_mask) for mask, _ in predicted_masks))
        assert all(0 < predicted_iou < 1 for _, predicted_iou in predicted_masks)
    assert min(bests) > 0.4 and np.median(bests) > 0.5 and np.mean(bests) > 0.6


def test_the_predicted_iou_is_higher_for_good_masks(clicks):
    predicted_masks = [
        (*each, true_mask)
        for p, point, true_mask in clicks
        for each in masks_from_clicks(p, point, NO_POINTS)
    ]
    predicted_ious = np.array([predicted_iou for _, predicted_iou, _ in predicted_masks])
    actual_ious = np.array([iou(mask, true_mask) for mask, _, true_mask in predicted_masks])
    low, high = np.quantile(predicted_ious, (0.2, 0.8))
    assert (
        actual_ious[predicted_ious >= high].mean() > actual_ious[predicted_ious <= low].mean() + 0.1
    )


def test_a_point_outside_removes_the_mask_around_it(clicks):
    picture, point, _ = clicks[0]
    first_mask = best_mask(masks_from_clicks(picture, point, NO_POINTS))
    y, x = np.nonzero(first_mask)
    lowest = np.array([[x[y.argmax()], y.max()]], float)
    second_mask = best_mask(masks_from_clicks(picture, point, lowest))
    assert second_mask[int(point[0, 1]), int(point[0, 0])]
    assert not second_mask[int(lowest[0, 1]), int(lowest[0, 0])]


def test_network_input():
    one, other = (np.zeros((64, 64), np.float32) for _ in range(2))
    one[10, 20] = other[5, 6] = 1
    on_picture, prior = np.ones((64, 64), bool), np.zeros((64, 64), np.float32)
    network_input = refine.build_network_input(one, other, None, on_picture, 0)
    assert network_input.shape == (6, 64, 64)
    assert (network_input[0].argmax(), network_input[1].argmax()) == (10 * 64 + 20, 5 * 64 + 6)
    assert not network_input[2:5].any() and network_input[5].all()
    prior[30:34, 30:34] = 1
    network_input = refine.build_network_input(one, other, prior, on_picture, 4)
    assert (
        network_input[2].sum() == 16
        and network_input[4].all()
        and not network_input[3][30:34, 30:34].any()
    )
    # 4 cells away from an object of size 4
    np.testing.assert_allclose(network_input[3][32, 37], 1, atol=0.05)
    assert network_input[3].max() == refine.MAX_DISTANCE


def test_crops_of_different_sizes_give_similar_masks(clicks):
    picture, _, true_mask = clicks[0]
    window, nothing = window_around_mask(true_mask), np.zeros((64, 64), np.float32)
    prior, on_picture = (
        window.crop(true_mask.astype(np.float32), 64, replicate_border=False),
        nothing == 0,
    )
    network_input = refine.build_network_input(nothing, nothing, prior, on_picture, 30)
    logits = []
    for size in (192, 256):
        crop = window.crop(picture, size)
        logits.append(
            refine.predict_mask(refine.CLICK_MODEL, crop, feature_maps(crop), network_input)[0] > 0
        )
    assert iou(*logits) > 0.6


def test_one_mask_of_the_click_model_is_one_vote(clicks, monkeypatch):
    picture, point, _ = clicks[0]
    wrong_mask = np.zeros(picture.shape[:2], bool)
    wrong_mask[:200, :200] = True
    prompt = Prompt(0, 1, point, np.array([1]))
    for votes, dominates in ((1, False), (60, True)):
        monkeypatch.setattr(
            initial_mask, "masks_from_clicks", lambda *_, votes=votes: [(wrong_mask, 0.9)] * votes
        )
        assert (
            bool((initial_mask.predict_soft_mask(picture, prompt) > 0.5)[:200, :200].mean() > 0.9)
            == dominates
        )


def test_a_box_prompt_does_not_use_the_click_model(clicks, monkeypatch):
    picture, _, true_mask = clicks[0]
    monkeypatch.setattr(
        initial_mask, "masks_from_clicks", lambda *_: pytest.fail("the click model was used")
    )
    predicted_mask = (
        initial_mask.predict_soft_mask(picture, Prompt(0, 1, box=masks.box(true_mask))) > 0.5
    )
    assert iou(predicted_mask, true_mask) > 0.4


def test_the_model_card_describes_these_files():
    card = (MODELS / "light-refine.md").read_text(encoding="utf-8")
    models = [
        packaged_file("models", name).read_bytes()
        for name in (refine.CLICK_MODEL, refine.FOLLOW_MODEL)
    ]
    sums = [hashlib.sha256(model).hexdigest() for model in models]
    assert re.findall(r"`([0-9a-f]{64})`", card) == sums
    assert all(f"{len(model):,} bytes" in card for model in models)
