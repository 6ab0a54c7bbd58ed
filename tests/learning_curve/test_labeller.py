from types import SimpleNamespace

from annotate.learning_curve.labeller import Labeller, Labels


def labeller(**footage):
    return Labeller(SimpleNamespace(footage=SimpleNamespace(**footage)), None, 0)


def test_the_frames_for_next_do_not_depend_on_what_was_decoded_before():
    keys = [("dock", frame) for frame in range(1, 9)]
    one = labeller(every=4, pool=[("dock", 1), ("dock", 5)], images={("dock", 7): "7.jpg"})
    assert [frame for _, frame in one.dense_keys(keys)] == [1, 2, 4, 5, 6, 8]


def test_a_frame_that_costs_more_than_is_left_is_not_taken():
    labels = Labels(5)
    assert labels.take(("dock", 1), "first", 3)
    assert not labels.take(("dock", 2), "second", 3)
    assert labels.take(("dock", 3), "third", 2)
    assert (labels.left, list(labels.looked_at)) == (0, [("dock", 1), ("dock", 3)])
