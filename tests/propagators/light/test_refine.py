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
NOWHERE = np.zeros((0, 2))


@pytest.fixture
def clicks(demo):
    """The demo's prompts: the picture, the point, the true mask."""
    told = json.loads((demo.parent / "demo.gt.json").read_text())
    true = {
        (each["image_id"], each["track_id"]): masks.decode(each["segmentation"])
        for each in told["annotations"]
        if "segmentation" in each and "track_id" in each
    }
    rows = csv.DictReader((demo.parent / "demo.points.csv").read_text().splitlines())
    found = []
    for row in rows:
        frame = int(row["frame_id"])
        [picture] = [each.image for each in reader.frames(demo, start=frame, stop=frame + 1)]
        point = np.array([[float(row["x"]), float(row["y"])]])
        found.append((picture, point, true[frame, int(row["object_id"])]))
    return found


def overlap(one, other):
    return masks.iou(masks.encode(one), masks.encode(other))


def best(found):
    return max(found, key=lambda each: each[1])[0]


def test_a_click_on_a_monster_gives_the_monster_among_others(clicks):
    bests = []
    for picture, at, true in clicks:
        found = list(masks_from_clicks(picture, at, NOWHERE))
        bests.append(max(overlap(mask, true) for mask, _ in found))
        assert all(0 < worth < 1 for _, worth in found)
    assert min(bests) > 0.4 and np.median(bests) > 0.5 and np.mean(bests) > 0.6


def test_the_predicted_iou_is_higher_for_good_masks(clicks):
    found = [(*each, true) for p, at, true in clicks for each in masks_from_clicks(p, at, NOWHERE)]
    said = np.array([worth for _, worth, _ in found])
    real = np.array([overlap(mask, true) for mask, _, true in found])
    least, most = np.quantile(said, (0.2, 0.8))
    assert real[said >= most].mean() > real[said <= least].mean() + 0.1


def test_a_point_outside_takes_away_what_is_round_it(clicks):
    picture, at, _ = clicks[0]
    whole = best(masks_from_clicks(picture, at, NOWHERE))
    y, x = np.nonzero(whole)
    lowest = np.array([[x[y.argmax()], y.max()]], float)
    less = best(masks_from_clicks(picture, at, lowest))
    assert less[int(at[0, 1]), int(at[0, 0])]
    assert not less[int(lowest[0, 1]), int(lowest[0, 0])]


def test_network_input():
    one, other = (np.zeros((64, 64), np.float32) for _ in range(2))
    one[10, 20] = other[5, 6] = 1
    on_picture, prior = np.ones((64, 64), bool), np.zeros((64, 64), np.float32)
    told = refine.build_network_input(one, other, None, on_picture, 0)
    assert told.shape == (6, 64, 64)
    assert (told[0].argmax(), told[1].argmax()) == (10 * 64 + 20, 5 * 64 + 6)
    assert not told[2:5].any() and told[5].all()
    prior[30:34, 30:34] = 1
    told = refine.build_network_input(one, other, prior, on_picture, 4)
    assert told[2].sum() == 16 and told[4].all() and not told[3][30:34, 30:34].any()
    np.testing.assert_allclose(told[3][32, 37], 1, atol=0.05)  # 4 cells away, of a size of 4
    assert told[3].max() == refine.MAX_DISTANCE


def test_a_crop_of_another_size_is_seen_as_well(clicks):
    picture, _, true = clicks[0]
    window, nothing = window_around_mask(true), np.zeros((64, 64), np.float32)
    prior, on_picture = (
        window.crop(true.astype(np.float32), 64, replicate_border=False),
        nothing == 0,
    )
    told = refine.build_network_input(nothing, nothing, prior, on_picture, 30)
    logits = []
    for size in (192, 256):
        crop = window.crop(picture, size)
        logits.append(
            refine.predict_mask(refine.CLICK_MODEL, crop, feature_maps(crop), told)[0] > 0
        )
    assert overlap(*logits) > 0.6


def test_the_network_has_a_vote_and_no_more(clicks, monkeypatch):
    picture, at, _ = clicks[0]
    wrong = np.zeros(picture.shape[:2], bool)
    wrong[:200, :200] = True
    prompt = Prompt(0, 1, at, np.array([1]))
    for votes, share in ((1, False), (60, True)):
        monkeypatch.setattr(
            initial_mask, "masks_from_clicks", lambda *_, votes=votes: [(wrong, 0.9)] * votes
        )
        assert (
            bool(
                (initial_mask.soft_mask_from_prompt(picture, prompt) > 0.5)[:200, :200].mean() > 0.9
            )
            == share
        )


def test_a_box_prompt_does_not_use_the_click_model(clicks, monkeypatch):
    picture, _, true = clicks[0]
    monkeypatch.setattr(
        initial_mask, "masks_from_clicks", lambda *_: pytest.fail("it knows no boxes")
    )
    found = initial_mask.soft_mask_from_prompt(picture, Prompt(0, 1, box=masks.box(true))) > 0.5
    assert overlap(found, true) > 0.4


def test_the_card_is_of_these_models():
    card = (MODELS / "light-refine.md").read_text(encoding="utf-8")
    models = [
        packaged_file("models", name).read_bytes()
        for name in (refine.CLICK_MODEL, refine.FOLLOW_MODEL)
    ]
    sums = [hashlib.sha256(model).hexdigest() for model in models]
    assert re.findall(r"`([0-9a-f]{64})`", card) == sums
    assert all(f"{len(model):,} bytes" in card for model in models)
