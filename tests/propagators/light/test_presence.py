"""Only an object with a new appearance and the same shape and position is fitted again."""

import numpy as np
import pytest

from annotate.propagators.light.crops import CropWindow
from annotate.propagators.light.presence import same_shape_new_appearance
from annotate.propagators.light.ridge_classifier import RidgeClassifier
from annotate.propagators.light.target import Observation

GRID = 64
SHAPE = np.zeros((GRID, GRID), bool)
SHAPE[20:44, 24:40] = True


def observation(separable=True, similar_share=0.0, elsewhere_share=0.0):
    """Make an observation of the object with new colours, and the classifier of that observation.

    A share `similar_share` of its cells has a high score; `elsewhere_share` is the area of the mask
    outside the object, relative to the object.
    """
    random = np.random.default_rng(0)
    colours = random.normal(0, 1, (GRID, GRID, 3)).astype(np.float32)
    colours[SHAPE] += 6 * separable
    ridge = RidgeClassifier(0, (3,), (1.0,))
    expanded = ridge.expand(colours)
    score = np.full((GRID, GRID), -1, np.float32)
    score[20 : 20 + round(24 * similar_share), 24:40] = 1
    soft = np.zeros((4 * GRID, 4 * GRID), np.float32)
    soft[: 4 * round(24 * elsewhere_share), : 4 * 16] = 1
    prior = np.repeat(np.repeat(SHAPE, 2, axis=0), 2, axis=1).astype(np.float32)
    window, inside = CropWindow(32, 32, 64), np.ones((GRID, GRID), bool)
    return Observation(None, window, soft, score, score, score, expanded, inside, prior), ridge


def test_a_separable_shape_with_new_colours_is_fitted_again():
    shape, weight = same_shape_new_appearance(*observation())
    assert (shape == SHAPE).all()
    assert weight.shape == (GRID * GRID,) and (weight.reshape(GRID, GRID)[SHAPE] == 1).all()


@pytest.mark.parametrize(("similar_share", "fitted_again"), [(0.25, True), (0.5, False)])
def test_a_similar_appearance_is_not_fitted_again(similar_share, fitted_again):
    assert (
        same_shape_new_appearance(*observation(similar_share=similar_share)) is not None
    ) == fitted_again


@pytest.mark.parametrize(("elsewhere_share", "fitted_again"), [(0.42, True), (0.6, False)])
def test_a_moved_object_is_not_fitted_again(elsewhere_share, fitted_again):
    assert (
        same_shape_new_appearance(*observation(elsewhere_share=elsewhere_share)) is not None
    ) == fitted_again


def test_a_shape_that_is_not_separable_is_not_fitted_again():
    assert same_shape_new_appearance(*observation(separable=False)) is None
