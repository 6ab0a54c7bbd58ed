"""A shape whose appearance changed in place is fitted again, and nothing else is."""

import numpy as np
import pytest

from annotate.propagators.light.crops import CropWindow
from annotate.propagators.light.presence import same_shape_new_appearance
from annotate.propagators.light.ridge_classifier import RidgeClassifier
from annotate.propagators.light.target import Observation

GRID = 64
SHAPE = np.zeros((GRID, GRID), bool)
SHAPE[20:44, 24:40] = True


def lit(apart=True, like=0.0, elsewhere=0.0):
    """A guess where the object was, in another light, with the classifier that made it.

    The share `like` of its cells still look like it, and `elsewhere` as much is found.
    """
    random = np.random.default_rng(0)
    colours = random.normal(0, 1, (GRID, GRID, 3)).astype(np.float32)
    colours[SHAPE] += 6 * apart
    ridge = RidgeClassifier(0, (3,), (1.0,))
    expanded = ridge.expand(colours)
    score = np.full((GRID, GRID), -1, np.float32)
    score[20 : 20 + round(24 * like), 24:40] = 1
    soft = np.zeros((4 * GRID, 4 * GRID), np.float32)
    soft[: 4 * round(24 * elsewhere), : 4 * 16] = 1
    prior = np.repeat(np.repeat(SHAPE, 2, axis=0), 2, axis=1).astype(np.float32)
    window, inside = CropWindow(32, 32, 64), np.ones((GRID, GRID), bool)
    return Observation(None, window, soft, score, score, score, expanded, inside, prior), ridge


def test_a_separable_shape_in_another_light_is_found():
    was, weight = same_shape_new_appearance(*lit())
    assert (was == SHAPE).all()
    assert weight.shape == (GRID * GRID,) and (weight.reshape(GRID, GRID)[SHAPE] == 1).all()


@pytest.mark.parametrize(("like", "outlasts"), [(0.25, True), (0.5, False)])
def test_a_similar_appearance_is_not_fitted_again(like, outlasts):
    assert (same_shape_new_appearance(*lit(like=like)) is not None) == outlasts


@pytest.mark.parametrize(("elsewhere", "outlasts"), [(0.42, True), (0.6, False)])
def test_an_object_found_elsewhere_has_moved(elsewhere, outlasts):
    assert (same_shape_new_appearance(*lit(elsewhere=elsewhere)) is not None) == outlasts


def test_a_shape_that_is_not_separable_is_gone():
    assert same_shape_new_appearance(*lit(apart=False)) is None
