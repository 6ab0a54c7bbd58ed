"""Areas, IoUs and clipping of boxes."""

import numpy as np
import pytest
import supervision as sv

from annotate.items import boxes


def random_boxes(count, seed):
    corners = np.random.default_rng(seed).uniform(0, 50, (count, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def test_iou_is_exact_for_simple_boxes():
    assert boxes.iou((0, 0, 4, 4), (0, 0, 4, 2)) == 0.5
    assert boxes.iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0.0  # they touch
    assert boxes.iou((0, 0, 10, 7), (0, 0, 10, 10)) == 0.7  # in float32 this is below 0.7
    assert boxes.iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0.0  # empty


def test_iou_matrix_agrees_with_supervision():
    a, b = random_boxes(20, 0), random_boxes(30, 1)
    expected = sv.box_iou_batch(a, b)  # float32: 24 bits
    np.testing.assert_allclose(boxes.iou_matrix(a, b), expected, rtol=2**-23, atol=0)


def test_no_boxes_give_an_empty_matrix():
    assert boxes.iou_matrix([], [(0, 0, 1, 1)]).shape == (0, 1)
    assert boxes.intersection_matrix(random_boxes(2, 0), np.zeros((0, 4))).shape == (2, 0)
    assert boxes.clip([], (4, 3)).shape == (0, 4)


def test_a_box_with_corners_in_the_wrong_order_has_no_area():
    assert boxes.areas([(2, 3, 6, 5), (6, 3, 2, 5)]).tolist() == [8, 0]
    assert boxes.area((2, 3, 6, 5)) == 8.0


def test_boxes_are_clipped_at_the_edge_of_the_picture():
    originals = np.array([[-1, 2, 30, 8], [3, 4, 5, 6], [25, 12, 30, 14]], np.float32)
    clipped = boxes.clip(originals, (20, 10))
    assert clipped.tolist() == [[0, 2, 20, 8], [3, 4, 5, 6], [20, 10, 20, 10]]
    assert clipped.dtype == np.float64 and originals[0, 0] == -1
    assert boxes.clip_box((-1.5, 2, 30, 8), (20, 10)) == (0.0, 2.0, 20.0, 8.0)


@pytest.mark.parametrize(
    "a, b, shared", [((0, 0, 4, 4), (2, 2, 6, 6), 4), ((0, 0, 1, 1), (3, 3, 4, 4), 0)]
)
def test_intersection_is_the_shared_area(a, b, shared):
    assert boxes.intersection_matrix([a], [b]).tolist() == [[shared]]
