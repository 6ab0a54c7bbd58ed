import cv2
import numpy as np
import pytest
from synthetic_footage import view

from annotate.sampling import duplicates
from annotate.sampling.duplicates import SsimImage, farthest_points


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
def test_exact_ssim_equals_scikit_image(one, other):
    skimage = pytest.importorskip("skimage.metrics")
    expected = skimage.structural_similarity(one, other, data_range=255)
    assert duplicates.exact_ssim(SsimImage(one), SsimImage(other)) == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize("one, other", PAIRS[:-1])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.6, 0.9])
def test_decision_equals_scikit_image(one, other, threshold):
    skimage = pytest.importorskip("skimage.metrics")
    expected = skimage.structural_similarity(one, other, data_range=255)
    similarity = duplicates.ssim(SsimImage(one), SsimImage(other), threshold)
    assert (similarity >= threshold) == (expected >= threshold)
    assert similarity == pytest.approx(expected, abs=0.05)


def test_ssim_is_exact_near_the_threshold():
    one, other = PAIRS[2]
    skimage = pytest.importorskip("skimage.metrics")
    expected = skimage.structural_similarity(one, other, data_range=255)
    assert duplicates.ssim(SsimImage(one), SsimImage(other), expected) == pytest.approx(
        expected, abs=1e-4
    )


def test_pictures_smaller_than_a_window_are_compared_by_pixels():
    one, other = PAIRS[-1]
    assert duplicates.ssim(SsimImage(one), SsimImage(other), 0.6) == 1.0


@pytest.mark.parametrize("threshold", [0.99, 0.6])
def test_ignored_pixels_do_not_count(threshold):
    one, other, mask = grey(1), grey(1).copy(), np.zeros((180, 320), bool)
    other[100:160, 200:300] = 255 - other[100:160, 200:300]
    mask[95:165, 195:305] = True
    similarity = duplicates.ssim(SsimImage(one, mask), SsimImage(other, mask), threshold)
    assert similarity == pytest.approx(1.0)
    assert duplicates.ssim(SsimImage(one), SsimImage(other), threshold) < 0.9


def test_farthest_points_are_ordered_by_distance():
    line = [[0.0], [1.0], [9.0], [5.0]]
    assert farthest_points(line, 3) == [3, 0, 2]
    assert farthest_points(line, 2) == farthest_points(line, 4)[:2]
    assert farthest_points(line, 9, chosen=[2]) == [0, 3, 1]
    assert farthest_points([[1.0, 2.0]] * 3, 9) == [0, 1, 2]
    assert farthest_points([], 3) == []


def test_farthest_points_cover_every_cluster():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (8, 16))
    rows = np.repeat(centres, 50, axis=0) + rng.normal(0, 0.1, (400, 16))
    assert {row // 50 for row in farthest_points(rows, 8)} == set(range(8))
