from fractions import Fraction

import pytest

from annotate.errors import ItemsError
from annotate.items.records import Item, Object
from annotate.learning_curve.person import Person, tracked_sequences

ONE, TWO = Person(1), Person(2)


def obj(x, label="mech", track=None):
    return Object(label, (float(x), 0.0, x + 10.0, 10.0), track=track)


def item(*objects, frame=0):
    return Item("dock", frame, Fraction(frame), 200, 50, objects)


def test_a_drawn_box_takes_a_drag_and_a_key_for_its_class_where_there_are_several():
    frame = item(obj(0), obj(40))
    assert ONE.draw(frame) == 1 + 2 * 2
    assert TWO.draw(frame) == 1 + 2 * (2 + 1)
    assert ONE.draw(item()) == 1  # the look at an empty frame


def test_a_click_takes_one_and_each_frame_with_clicks_one_more():
    clicks = [(3, obj(0)), (3, obj(40)), (9, obj(0))]
    assert ONE.click(clicks) == 3 * 1 + 2
    assert TWO.click(clicks) == 3 * (1 + 1) + 2


@pytest.mark.parametrize(
    ("proposed", "touches", "left"),
    [
        ([obj(40)], 1, 40),  # exact: kept
        ([obj(41)], 1, 41),  # IoU .82: kept as it is
        ([obj(43)], 1 + 2, 40),  # IoU .54: moved
        ([obj(46)], 1 + 1 + 2 + 1, 40),  # IoU .25: deleted, and a new one is drawn
        ([], 1 + 2 + 1, 40),  # drawn, with its class
        ([obj(40, "pod")], 1 + 1, 40),  # relabelled
        ([obj(43, "pod")], 1 + 1 + 2, 40),  # relabelled and moved
        ([obj(40), obj(90)], 1 + 1, 40),  # one too many
        ([obj(41, "pod"), obj(43)], 1 + 2 + 1, 40),  # the box of the right class is moved
        ([obj(x) for x in range(60, 180, 20)], 1 + 1 + 3, 40),  # all are cleared, one is drawn
    ],
)
def test_a_correction_costs_what_it_changes(proposed, touches, left):
    corrected, spent = TWO.correct(item(*proposed), item(obj(40)))
    assert spent == touches
    assert corrected.objects == (obj(left),)


def test_sequences_end_where_no_track_goes_on():
    lines = [
        item(frame=0),
        item(obj(0, track=1), frame=1),
        item(obj(0, track=1), obj(40, track=2), frame=2),
        item(obj(40, track=2), frame=3),
        item(obj(80, track=3), frame=4),
        item(frame=5),
    ]
    first, second = tracked_sequences("dock", lines)
    assert (first.start, first.stop, second.start, second.stop) == (1, 4, 4, 6)
    assert {track: frame for track, (frame, _) in first.first.items()} == {1: 1, 2: 2}
    assert second.first == {3: (4, obj(80, track=3))}
    assert tracked_sequences("dock", [item()]) == []


def test_an_object_without_a_track_is_named():
    with pytest.raises(ItemsError, match="dock#7: an object has no track"):
        tracked_sequences("dock", [item(obj(0), frame=7)])
