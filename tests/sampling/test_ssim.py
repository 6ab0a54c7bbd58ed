import cv2
import numpy as np
import pytest
from synthetic_footage import view

from annotate.sampling import duplicates
from annotate.sampling.duplicates import SsimImage

skimage = pytest.importorskip("skimage.metrics")


def grey(seed, left=80):
    return cv2.cvtColor(view(seed, left), cv2.COLOR_RGB2GRAY)


def noisy(picture, levels):
    noise = np.random.default_rng(0).normal(0, levels, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


PAIRS = [
    (grey(1), grey(1)),
    (grey(1), noisy(grey(1), 8)),
    (grey(1), noisy(grey(1), 30)),
    (grey(1), grey(1, 82)),
    (grey(1), grey(2)),
    (grey(1)[:40, :30], grey(2)[:40, :30]),
    (grey(1)[:5, :5], grey(1)[:5, :5]),
]


@pytest.mark.parametrize("one, other", PAIRS[:-1])
def test_exact_is_scikit_image_s(one, other):
    expected = skimage.structural_similarity(one, other, data_range=255)
    assert duplicates.exact_ssim(SsimImage(one), SsimImage(other)) == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize("one, other", PAIRS[:-1])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.6, 0.9])
def test_the_verdict_is_scikit_image_s(one, other, threshold):
    expected = skimage.structural_similarity(one, other, data_range=255)
    found = duplicates.ssim(SsimImage(one), SsimImage(other), threshold)
    assert (found >= threshold) == (expected >= threshold)
    assert found == pytest.approx(expected, abs=0.05)


def test_near_the_threshold_it_is_exact():
    one, other = PAIRS[2]
    expected = skimage.structural_similarity(one, other, data_range=255)
    assert duplicates.ssim(SsimImage(one), SsimImage(other), expected) == pytest.approx(
        expected, abs=1e-4
    )


def test_smaller_than_a_window():
    one, other = PAIRS[-1]
    assert duplicates.ssim(SsimImage(one), SsimImage(other), 0.6) == 1.0


@pytest.mark.parametrize("threshold", [0.99, 0.6])
def test_what_is_ignored_changes_nothing(threshold):
    one, other, mask = grey(1), grey(1).copy(), np.zeros((180, 320), bool)
    other[100:160, 200:300] = 255 - other[100:160, 200:300]
    mask[95:165, 195:305] = True
    found = duplicates.ssim(SsimImage(one, mask), SsimImage(other, mask), threshold)
    assert found == pytest.approx(1.0)
    assert duplicates.ssim(SsimImage(one), SsimImage(other), threshold) < 0.9
