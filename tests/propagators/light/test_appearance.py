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
LATER_FRAMES = (10, 20, 30)


@pytest.fixture
def monster(demo):
    """Read pictures and masks of a monster of the demo clip, of the first and of later frames."""
    annotations = json.loads((demo.parent / "demo.gt.json").read_text())["annotations"]
    masks_by_frame = {
        each["image_id"]: masks.decode(each["segmentation"])
        for each in annotations
        if each.get("track_id") == 223 and "segmentation" in each
    }
    frames = [each for each in reader.frames(demo, stop=31) if each.index in (0, *LATER_FRAMES)]
    return [(each.image, masks_by_frame[each.index]) for each in frames]


def crop_view(picture, mask):
    window = window_around_mask(mask)
    inside = window.crop(mask.astype(np.float32), 64, replicate_border=False)
    return crop_features(window.crop(picture, 256)), (inside > 0.5).astype(np.float32)


def background_view(picture, mask):
    return crop_features(CropWindow(100, 450, window_around_mask(mask).side).crop(picture, 256))


def fit_classifier(picture, mask):
    classifier, (features, inside) = DiscriminativeClassifier(), crop_view(picture, mask)
    classifier.add_samples(features, inside, np.ones_like(inside))
    classifier.solve()
    return classifier


def mean_iou(monster):
    """Compute the mean IoU on later views, of a classifier fitted to the first view."""
    (picture, mask), *later = monster
    classifier, overlaps = fit_classifier(picture, mask), []
    for each in later:
        features, inside = crop_view(*each)
        predicted = classifier.scores(features) > 0
        overlaps.append((predicted & (inside > 0)).sum() / (predicted | (inside > 0)).sum())
    return np.mean(overlaps)


@pytest.mark.parametrize("size", [(256, 256), (192, 192), (208, 368)])
def test_crops_of_any_size_have_maps(size):
    crop = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    maps = appearance.discriminative_features(crop_features(crop))
    assert maps.shape == (size[0] // 4, size[1] // 4, 32)
    assert np.isfinite(maps).all() and maps.std(axis=(0, 1)).min() > 0


def test_the_learned_maps_raise_the_iou_on_later_views(monster, monkeypatch):
    with_them = mean_iou(monster)
    monkeypatch.setattr(
        appearance,
        "discriminative_features",
        lambda features: np.zeros((*features.grid.shape[:2], 32)),
    )
    assert with_them > 0.6 and with_them > mean_iou(monster) + 0.05


def test_few_cells_score_positive_where_the_object_is_absent(monster):
    (picture, mask), *_ = monster
    assert (fit_classifier(picture, mask).scores(background_view(picture, mask)) > 0).mean() < 0.12


def test_negatives_lower_the_score(monster):
    (picture, mask), *_ = monster
    classifier, background = fit_classifier(picture, mask), background_view(picture, mask)
    before = classifier.scores(background).mean()
    classifier.add_negatives(background, np.ones((64, 64), np.float32), 1.0)
    classifier.solve()
    assert classifier.scores(background).mean() < before


def test_a_restored_classifier_gives_the_same_scores(monster):
    (picture, mask), (later_picture, later_mask), *_ = monster
    classifier, restored = fit_classifier(picture, mask), DiscriminativeClassifier()
    restored.restore({"mean": np.zeros(3), **classifier.state()})
    features, _ = crop_view(later_picture, later_mask)
    np.testing.assert_array_equal(restored.scores(features), classifier.scores(features))


def test_the_weight_of_the_score_is_the_confidence_in_the_prompted_appearance(monster, monkeypatch):
    (picture, mask), *_ = monster
    tracker = Tracker(QUICK)
    tracker.fit(picture, mask.astype(np.float32))
    tracker.start(picture, mask)
    usual_share = (tracker.observe_window(picture, window_around_mask(mask)).soft > 0.5).mean()
    monkeypatch.setattr(
        DiscriminativeClassifier, "scores", lambda *_: np.full((48, 48), -9, np.float32)
    )
    assert (
        tracker.observe_window(picture, window_around_mask(mask)).soft > 0.5
    ).mean() < 0.1 * usual_share
    tracker._target.mean_prompt_score = 0.0
    assert (
        tracker.observe_window(picture, window_around_mask(mask)).soft > 0.5
    ).mean() > 0.7 * usual_share


def test_the_model_card_describes_this_file():
    card = (MODELS / "light-apart.md").read_text(encoding="utf-8")
    model = packaged_file("models", appearance.DISCRIMINATIVE_MODEL).read_bytes()
    assert re.findall(r"`([0-9a-f]{64})`", card) == [hashlib.sha256(model).hexdigest()]
    assert f"{len(model):,} bytes" in card
