import json
from fractions import Fraction

import numpy as np
import pytest

from annotate.evaluation import metrics
from annotate.items import masks
from annotate.items.records import Item, Object

SIZE = 60, 80  # height, width


def square(x, y, side=20):
    mask = np.zeros(SIZE, bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.fixture
def truth(tmp_path):
    """One mech on frames 0 to 2, moving right; frame 3 is empty."""
    annotations = [
        {
            "id": n + 1,
            "image_id": n,
            "category_id": 7,
            "track_id": 5,
            "bbox": [10.0 * n, 10, 20, 20],
            "area": 400,
            "iscrowd": 0,
            "segmentation": masks.encode(square(10 * n, 10)),
        }
        for n in range(3)
    ]
    images = [{"id": n, "width": 80, "height": 60} for n in range(4)]
    categories = [{"id": 7, "name": "mech"}, {"id": 8, "name": "other"}]
    path = tmp_path / "gt.json"
    record = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(record))
    return path


def item(n, *objects):
    return Item("a.mp4", n, Fraction(n), 80, 60, objects)


def mech(x, score=0.9):
    return Object("mech", (x, 10.0, x + 20, 30.0), score, 5, masks.encode(square(x, 10)))


def test_perfect_results_have_perfect_metrics(truth):
    items = [item(n, mech(10 * n)) for n in range(3)] + [item(3)]
    result = metrics.box_metrics(truth, items, "mech")
    assert (result.truth_count, result.proposed_count) == (3, 3)
    assert result.ap50 == pytest.approx(1) and result.ap == pytest.approx(1)
    [track] = metrics.track_metrics(truth, items)
    assert (track.label, track.frame_count, track.j, track.false_presence) == ("mech", 3, 1.0, 0.0)


def test_a_missed_and_a_false_object_lower_the_metrics(truth):
    items = [item(0, mech(0)), item(1, mech(10)), item(2), item(3, mech(50, 0.1))]
    assert metrics.box_metrics(truth, items, "mech").ap50 == pytest.approx(67 / 101, abs=1e-6)
    [track] = metrics.track_metrics(truth, items)
    assert track.j == pytest.approx(2 / 3) and track.false_presence == 1.0


def test_j_is_the_mean_iou_of_the_masks(truth):
    [track] = metrics.track_metrics(
        truth, [item(0, mech(10)), item(1, mech(10)), item(2, mech(20))]
    )
    assert track.j == pytest.approx((1 / 3 + 1 + 1) / 3)


def test_a_requested_track_without_masks_has_j_0(truth):
    [track] = metrics.track_metrics(truth, [item(0)], track_ids=[5, 77])
    assert (track.track, track.j, track.frame_count) == (5, 0.0, 3)


def test_without_detections_ap_is_0(truth):
    assert metrics.box_metrics(truth, [item(0)], "mech").ap50 == 0.0
    assert metrics.track_metrics(truth, [item(0)]) == []
