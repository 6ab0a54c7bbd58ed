"""The learned feature maps and the discriminative classifier."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from annotate.backbone import crop_features
from annotate.files import packaged_file
from annotate.items import masks
from annotate.propagators.light import appearance
from annotate.propagators.light.appearance import DiscriminativeClassifier
from annotate.propagators.light.crops import QUICK, CropWindow, window_around_mask
from annotate.propagators.light.tracker import Tracker
from annotate.video import reader

MODELS = Path(__file__).parents[3] / "models"
LATER = (10, 20, 30)


@pytest.fixture
def monster(demo):
    """A monster of the demo: pictures and masks of the first frame and of a few later ones."""
    told = json.loads((demo.parent / "demo.gt.json").read_text())["annotations"]
    parts = {
        each["image_id"]: masks.decode(each["segmentation"])
        for each in told
        if each.get("track_id") == 223 and "segmentation" in each
    }
    frames = [each for each in reader.frames(demo, stop=31) if each.index in (0, *LATER)]
    return [(each.image, parts[each.index]) for each in frames]


def view(picture, mask):
    window = window_around_mask(mask)
    inside = window.crop(mask.astype(np.float32), 64, replicate_border=False)
    return crop_features(window.crop(picture, 256)), (inside > 0.5).astype(np.float32)


def floor(picture, mask):
    return crop_features(CropWindow(100, 450, window_around_mask(mask).side).crop(picture, 256))


def taught(picture, mask):
    shown, (sight, inside) = DiscriminativeClassifier(), view(picture, mask)
    shown.add_samples(sight, inside, np.ones_like(inside))
    shown.solve()
    return shown


def found(monster):
    """The IoU of later views with the truth, of a classifier that saw the first one."""
    (picture, mask), *later = monster
    shown, overlaps = taught(picture, mask), []
    for each in later:
        sight, inside = view(*each)
        there = shown.scores(sight) > 0
        overlaps.append((there & (inside > 0)).sum() / (there | (inside > 0)).sum())
    return np.mean(overlaps)


@pytest.mark.parametrize("size", [(256, 256), (192, 192), (208, 368)])
def test_there_are_maps_of_any_crop(size):
    crop = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    maps = appearance.discriminative_features(crop_features(crop))
    assert maps.shape == (size[0] // 4, size[1] // 4, 32)
    assert np.isfinite(maps).all() and maps.std(axis=(0, 1)).min() > 0


def test_the_learned_maps_raise_the_iou_on_later_views(monster, monkeypatch):
    with_them = found(monster)
    monkeypatch.setattr(
        appearance, "discriminative_features", lambda sight: np.zeros((*sight.grid.shape[:2], 32))
    )
    assert with_them > 0.6 and with_them > found(monster) + 0.05


def test_few_cells_score_positive_where_the_object_is_absent(monster):
    (picture, mask), *_ = monster
    assert (taught(picture, mask).scores(floor(picture, mask)) > 0).mean() < 0.12


def test_negatives_lower_the_score(monster):
    (picture, mask), *_ = monster
    shown, rest = taught(picture, mask), floor(picture, mask)
    before = shown.scores(rest).mean()
    shown.add_negatives(rest, np.ones((64, 64), np.float32), 1.0)
    shown.solve()
    assert shown.scores(rest).mean() < before


def test_a_restored_classifier_gives_the_same_scores(monster):
    (picture, mask), (other, there), *_ = monster
    shown, fresh = taught(picture, mask), DiscriminativeClassifier()
    fresh.restore({"mean": np.zeros(3), **shown.state()})
    sight, _ = view(other, there)
    np.testing.assert_array_equal(fresh.scores(sight), shown.scores(sight))


def test_the_score_counts_as_far_as_the_prompted_appearance_holds(monster, monkeypatch):
    (picture, mask), *_ = monster
    engine = Tracker(QUICK)
    engine.fit(picture, mask.astype(np.float32))
    engine.start(picture, mask)
    usual = (engine.observe_window(picture, window_around_mask(mask)).soft > 0.5).mean()
    monkeypatch.setattr(
        DiscriminativeClassifier, "scores", lambda *_: np.full((48, 48), -9, np.float32)
    )
    assert (
        engine.observe_window(picture, window_around_mask(mask)).soft > 0.5
    ).mean() < 0.1 * usual
    engine._target.mean_prompt_score = 0.0
    assert (
        engine.observe_window(picture, window_around_mask(mask)).soft > 0.5
    ).mean() > 0.7 * usual


def test_the_card_is_of_this_model():
    card = (MODELS / "light-apart.md").read_text(encoding="utf-8")
    model = packaged_file("models", appearance.DISCRIMINATIVE_MODEL).read_bytes()
    assert re.findall(r"`([0-9a-f]{64})`", card) == [hashlib.sha256(model).hexdigest()]
    assert f"{len(model):,} bytes" in card
