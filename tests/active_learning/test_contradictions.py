import pytest

from annotate.active_learning.contradictions import ClassCounts, find_contradictions
from annotate.items.records import Object


def obj(x, label="mech", score=None, y=0.0, side=40.0):
    return Object(label, (float(x), y, x + side, y + side), score)


def kinds(labels, detections, **options):
    return [(each.kind, round(each.weight, 2)) for each in find_contradictions(
        labels, detections, **options
    )]  # fmt: skip


def test_what_agrees_is_no_contradiction():
    assert kinds([obj(0), obj(100, "car")], [obj(3, score=0.9), obj(100, "car", 0.6)]) == []


def test_each_kind_is_found_once():
    assert kinds([], [obj(0, score=0.9)]) == [("missed", 0.9)]
    assert kinds([obj(0)], []) == [("spurious", 1.0)]
    assert kinds([obj(0, "car")], [obj(1, score=0.9)]) == [("other class", 0.9)]
    assert kinds([obj(0)], [obj(20, score=0.9)]) == [("badly placed", 0.6)]  # IoU 1/3


def test_a_low_score_is_no_missed_object_but_supports_a_label():
    assert kinds([], [obj(0, score=0.3)]) == []
    assert kinds([obj(0)], [obj(0, score=0.3)]) == []
    assert kinds([obj(0)], [obj(10, score=0.4)], threshold=0.3) == []
    assert kinds([obj(0)], [obj(20, score=0.3)]) == [("spurious", 0.8)]


def test_a_second_box_on_a_label_is_not_a_missed_object():
    assert kinds([obj(0)], [obj(0, score=0.9), obj(4, score=0.8)]) == []


def test_the_better_box_of_two_is_the_partner():
    assert kinds([obj(0), obj(30)], [obj(29, score=0.6), obj(1, score=0.9)]) == []


def test_weights_follow_what_the_detector_is_good_at():
    counts = ClassCounts()
    for _ in range(8):
        find_contradictions([obj(0), obj(0, "car", y=200.0)], [obj(0, score=0.9)], counts=counts)
    [missing_mech] = find_contradictions([obj(0)], [], counts=counts)
    [missing_car] = find_contradictions([obj(0, "car")], [], counts=counts)
    assert counts.weigh(missing_mech) == pytest.approx(
        0.03 / (0.03 + 2 / 11)
    )  # it sees 8 of 9 mechs
    assert counts.weigh(missing_car) == pytest.approx(0.03 / (0.03 + 10 / 11))  # and none of 9 cars
