"""Actions on a table of points: what each does, and what is refused."""

import pytest

from annotate.errors import PromptError
from annotate.items.points import PromptScope
from annotate.web.point.document import Document, apply_action

SCOPE = PromptScope((640, 480), 100)


def act(document, kind, **fields):
    return apply_action(document, {"kind": kind, **fields}, SCOPE)


def point(document, frame, object_id, x, y, label=1, **fields):
    return act(document, "point", frame=frame, object=object_id, x=x, y=y, label=label, **fields)


def keys(document):
    return [row.key for row in document.rows]


@pytest.fixture
def started():
    return point(Document(), 3, 1, 10, 20, **{"class": "imp"})


def test_points_are_added_moved_and_removed(started):
    more = point(started, 3, 1, 40.126, 50, 0)
    assert keys(more) == [(3, 1, 10, 20, 1), (3, 1, 40.13, 50, 0)]
    moved = act(more, "move", frame=3, object=1, x=10, y=20, to_x=11.5, to_y=21)
    assert keys(moved) == [(3, 1, 11.5, 21, 1), (3, 1, 40.13, 50, 0)]
    assert keys(act(more, "unpoint", frame=3, object=1, x=40.13, y=50)) == [(3, 1, 10, 20, 1)]
    assert [row.label_class for row in more.rows] == ["imp", "imp"]
    assert keys(started) == [(3, 1, 10, 20, 1)]  # a document does not change


def test_a_box_replaces_the_box_of_its_frame(started):
    box = {"frame": 3, "object": 2}
    first = act(started, "box", **box, x1=1, y1=2, x2=640, y2=480)
    second = act(first, "box", **box, x1=5, y1=6, x2=7, y2=8)
    assert keys(second)[1:] == [(3, 2, 5, 6, 2), (3, 2, 7, 8, 3)]


def test_gone_is_set_taken_back_and_ended_by_a_point(started):
    gone = act(started, "gone", frame=9, object=1)
    assert keys(gone)[1:] == [(9, 1, None, None, -1)]
    assert keys(act(gone, "gone", frame=9, object=1)) == keys(started)
    assert keys(point(gone, 9, 1, 5, 5))[1:] == [(9, 1, 5, 5, 1)]
    with pytest.raises(PromptError, match="gone here"):
        point(gone, 9, 1, 5, 5, label=0)
    with pytest.raises(PromptError, match="nothing to end"):
        act(started, "gone", frame=3, object=1)
    with pytest.raises(PromptError, match="nothing to end"):
        act(started, "gone", frame=9, object=7)


def test_class_and_delete_are_of_all_frames(started):
    both = point(started, 8, 1, 1, 1)
    renamed = act(both, "class", object=1, **{"class": " demon "})
    assert [row.label_class for row in renamed.rows] == ["demon", "demon"]
    assert act(both, "delete", object=1).rows == ()
    assert keys(act(both, "clear", frame=8, object=1)) == keys(started)


def test_reviewed_frames_are_kept_beside_the_table(started):
    seen = act(act(started, "reviewed", frame=3), "reviewed", frame=5)
    assert seen.reviewed == {3, 5}
    assert act(seen, "reviewed", frame=5, value=False).reviewed == {3}
    assert seen.rows == started.rows


def test_an_object_starts_with_a_point_inside_it(started):
    with pytest.raises(PromptError, match="click inside it there first"):
        point(Document(), 0, 1, 5, 5, label=0)
    outside_later = point(started, 7, 1, 5, 5, label=0)
    with pytest.raises(PromptError, match="would start on frame 7"):
        act(outside_later, "unpoint", frame=3, object=1, x=10, y=20)
    with pytest.raises(PromptError, match="would start on frame 1"):
        point(started, 1, 1, 5, 5, label=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frame": 100}, "0 to 99"),
        ({"frame": -1}, "whole number"),
        ({"frame": 1.5}, "whole number"),
        ({"frame": True}, "expected a number"),
        ({"frame": "3"}, "expected a number"),
        ({"object": 2**31}, "highest number"),
        ({"x": 640}, "outside the picture"),
        ({"x": -0.01}, "outside the picture"),
        ({"y": float("nan")}, "finite"),
        ({"y": float("inf")}, "finite"),
        ({"y": 10**400}, "finite"),
        ({"y": None}, "expected a number"),
        ({"label": 2}, "inside"),
        ({"class": ""}, "characters"),
        ({"class": "a\nb"}, "cannot be shown"),
        ({"class": "x" * 201}, "characters"),
        ({"class": ["imp"]}, "characters"),
        ({"kind": "drop"}, "no action"),
        ({"kind": None}, "no action"),
        ({"kind": ["point"]}, "no action"),
    ],
)
def test_wrong_values_are_refused_in_one_line(fields, message):
    action = {"kind": "point", "frame": 3, "object": 1, "x": 5, "y": 5, "label": 1} | fields
    with pytest.raises(PromptError, match=message) as caught:
        apply_action(Document(), action, SCOPE)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_cannot_be_edited(started):
    for kind, fields in [
        ("unpoint", {"frame": 3, "object": 1, "x": 1, "y": 1}),
        ("move", {"frame": 3, "object": 1, "x": 1, "y": 1, "to_x": 2, "to_y": 2}),
        ("class", {"object": 4, "class": "imp"}),
        ("delete", {"object": 4}),
    ]:
        with pytest.raises(PromptError, match="there is no"):
            act(started, kind, **fields)
    with pytest.raises(PromptError, match="already"):
        point(started, 3, 1, 10, 20, label=0)
    with pytest.raises(PromptError, match="width and a height"):
        act(started, "box", frame=3, object=1, x1=5, y1=5, x2=5, y2=9)


def test_classes_of_a_vocabulary_are_the_only_ones(started):
    scope = PromptScope((640, 480), 100, ("imp", "demon"))
    action = {"kind": "class", "object": 1, "class": "dragon"}
    with pytest.raises(PromptError, match="imp, demon"):
        apply_action(started, action, scope)
    first = {"kind": "point", "frame": 3, "object": 1, "x": 5, "y": 5, "label": 1}
    assert apply_action(Document(), first, scope).rows[0].label_class == "imp"
