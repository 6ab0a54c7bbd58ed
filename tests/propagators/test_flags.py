"""The flags jump, covers and overlap."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from annotate.items import masks
from annotate.items.records import Item, Object
from annotate.propagators.flags import COVERS, JUMP, OVERLAP, AnomalyFlagger, flag_overlaps

SIZE_WH = (200, 100)


def make_object(x1, y1, x2, y2, track=1, masked=True):
    mask = np.zeros(SIZE_WH[::-1], bool)
    mask[y1:y2, x1:x2] = True
    return Object("mug", (x1, y1, x2, y2), 0.5, track, masks.encode(mask) if masked else None)


def item(frame, *objects):
    return Item("dock.mp4", frame, Fraction(frame, 30), *SIZE_WH, objects)


def flags_by_frame(boxes, flagger=None, step=1):
    """Compute the flags by frame of a track with these boxes; None on a frame without a box."""
    flagger = flagger or AnomalyFlagger()
    items = [item(n * step, *([make_object(*p)] if p else [])) for n, p in enumerate(boxes)]
    flagged = [flagger.flag_item(each) for each in items]
    return [set(each.objects[0].flags) if each.objects else None for each in flagged]


def square(x, y, side=20):
    return x, y, x + side, y + side


def test_steady_motion_is_no_jump():
    assert flags_by_frame([square(4 * n, 2 * n) for n in range(30)]) == [set()] * 30


def test_a_jump_is_flagged_once():
    boxes = [square(10, 10)] * 5 + [square(90, 40)] * 5
    assert [n for n, flags in enumerate(flags_by_frame(boxes)) if flags == {JUMP}] == [5]


def test_the_limit_is_half_of_the_objects_size():
    for step, flags in ((10, set()), (11, {JUMP})):
        assert flags_by_frame([square(10, 10)] * 5 + [square(10 + step, 10)])[-1] == flags


def test_the_limit_grows_with_the_speed():
    """The same motion is a jump of an object at rest, and no jump of an object that moves fast."""
    boxes = [square(50 + 9 * (n % 2), 10) for n in range(40)]
    assert flags_by_frame([*boxes, square(50 + 25, 10)])[-1] == set()
    assert flags_by_frame([*boxes[::2], square(50 + 25, 10)])[-1] == {JUMP}


def test_a_change_of_size_is_a_jump():
    assert flags_by_frame([square(40, 10)] * 5 + [square(30, 0, 42)])[-1] == {JUMP}
    assert flags_by_frame([square(40, 10)] * 5 + [square(39, 9, 23)])[-1] == set()


def test_the_limit_grows_with_frames_unseen():
    near, gap = square(10, 10), [None] * 9
    assert flags_by_frame([near, near, *gap, square(90, 10)])[-1] == set()
    assert flags_by_frame([near, near, square(90, 10)])[-1] == {JUMP}


def test_a_prompted_frame_is_no_jump():
    flagger = AnomalyFlagger()
    flagger.flag_item(item(0, make_object(*square(10, 10))))
    assert (
        flagger.flag_item(item(1, make_object(*square(150, 10))), prompted_tracks=[1])
        .objects[0]
        .flags
        == ()
    )


@pytest.mark.parametrize("first, flag", [((0, 0, 200, 51), {COVERS}), ((0, 0, 200, 49), set())])
def test_a_first_mask_of_more_than_half_of_the_picture_is_flagged(first, flag):
    assert flags_by_frame([first])[0] == flag


def test_a_sudden_large_mask_is_flagged_until_it_could_have_grown():
    by_frame = flags_by_frame([square(90, 40)] * 3 + [(0, 0, 200, 100)] * 60)
    covers = [n for n, flags in enumerate(by_frame) if COVERS in flags]
    assert covers == list(range(3, covers[-1] + 1)) and 20 < len(covers) < 45


def test_an_object_that_grows_slowly_may_fill_the_picture():
    sides = [20 * 1.04**n for n in range(42)]
    boxes = [(0, 0, round(min(2 * side, 200)), round(side)) for side in sides]
    assert boxes[-1] == (0, 0, 200, 100) and flags_by_frame(boxes) == [set()] * 42


@pytest.mark.parametrize("shift, flags", [(15, {OVERLAP}), (16, set())], ids=["1/4+", "1/5"])
def test_masks_that_overlap_by_a_quarter_are_flagged(shift, flags):
    """Each mask is 20 columns wide; they share all but `shift` columns and one row."""
    one, other = make_object(0, 0, 20, 20), make_object(shift - 1, 0, shift + 19, 20, track=2)
    flagged_item = flag_overlaps(item(0, one, other, make_object(150, 50, 160, 60, track=3)))
    assert [set(each.flags) for each in flagged_item.objects] == [flags, flags, set()]


def test_overlapping_boxes_without_masks_are_not_flagged():
    one, other = (
        make_object(0, 0, 20, 20, masked=False),
        make_object(0, 0, 20, 20, track=2, masked=False),
    )
    assert flag_overlaps(item(0, one, other)).objects == (one, other)


def test_overlap_is_computed_again_and_other_flags_stay():
    old = replace(make_object(0, 0, 20, 20), flags=(JUMP, OVERLAP))
    assert flag_overlaps(item(0, old)).objects[0].flags == (JUMP,)


def test_a_flagger_continues_from_its_state():
    random = np.random.default_rng(1)
    boxes = [square(*map(int, random.integers(0, (180, 80)))) for _ in range(40)]
    expected = flags_by_frame(boxes)
    assert {JUMP} in expected and set() in expected
    for stop in (0, 1, 17):
        first, second = AnomalyFlagger(), AnomalyFlagger()
        flags_by_frame(boxes[:stop], first)
        second.restore(first.state())
        items = [item(n, make_object(*boxes[n])) for n in range(stop, 40)]
        assert [set(second.flag_item(each).objects[0].flags) for each in items] == expected[stop:]


def test_an_object_without_a_track_is_not_flagged():
    trackless = Object("mug", (0, 0, 200, 100), 0.5)
    assert AnomalyFlagger().flag_item(item(0, trackless)).objects == (trackless,)
