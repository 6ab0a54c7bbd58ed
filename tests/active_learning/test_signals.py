from fractions import Fraction

import pytest

from annotate.active_learning.signals import TrackLinker, clip_signals, entropy_bits
from annotate.items.records import Item, Object


def box(x, y=100.0, side=40.0):
    return float(x), y, float(x) + side, y + side


def mech(x=100, score=0.9, label="mech", track=None, **where):
    return Object(label, box(x, **where), score, track)


def items(*frames, rate=30):
    """An item for each list of objects."""
    return [
        Item("dock.mp4", n, Fraction(n, rate), 800, 600, tuple(objects))
        for n, objects in enumerate(frames)
    ]


def texts(given, others=None, threshold=0.5, without=("unsure",)):
    """The signals of each frame, without those that every score gives."""
    found = {}
    for _, signals in clip_signals(given, threshold, others):
        for each in signals:
            if each.text not in without:
                found.setdefault(each.row, []).append((each.text, round(each.value, 2)))
    return found


def test_a_steady_object_has_no_signal():
    assert texts(items(*[[mech(100 + 2 * n)] for n in range(12)])) == {}


def test_a_box_that_is_missing_between_others_is_found_on_its_frame():
    frames = [[mech(score=0.8)] for _ in range(12)]
    frames[5] = []
    assert texts(items(*frames)) == {5: [("missing", 0.8)]}
    frames[6] = []
    assert texts(items(*frames)) == {5: [("missing", 0.8)], 6: [("missing", 0.8)]}


def test_an_object_that_stays_away_is_not_missing():
    frames = [[mech()] if n < 4 or n > 9 else [] for n in range(14)]
    assert texts(items(*frames)) == {}


def test_a_box_on_a_single_frame_is_found():
    frames = [[mech()] for _ in range(12)]
    frames[5].append(mech(500, 0.6))
    assert texts(items(*frames)) == {5: [("seen only here", 0.3)]}


def test_the_first_frame_and_items_far_apart_are_no_flicker():
    assert texts(items([mech()], [], [], [], [], [])) == {}
    frames = [[mech()] if n % 2 else [] for n in range(12)]
    assert texts(items(*frames, rate=1)) == {}  # a second apart
    assert texts(items(*frames, rate=30)) != {}


def test_given_tracks_are_kept_whatever_the_distance():
    frames = [[mech(60 * n, track=4)] for n in range(6)]
    linker = TrackLinker()
    linked = [linker.link(item)[0] for item in items(*frames)]
    assert {obj.track for item in linked for obj in item.objects} == {4}
    linker = TrackLinker()
    free = [linker.link(item)[0] for item in items(*[[mech(60 * n)] for n in range(6)])]
    assert len({obj.track for item in free for obj in item.objects}) == 6


def test_two_classes_in_one_place_and_a_change_of_class_are_found():
    frames = [[mech()] for _ in range(12)]
    frames[3] = [mech(), mech(102, 0.7, "car")]
    assert ("of two classes", 0.7) in texts(items(*frames))[3]
    frames = [[mech(label="car" if n > 5 else "mech")] for n in range(12)]
    assert texts(items(*frames)) == {6: [("of two classes", 0.9)]}


def test_the_reasons_of_a_review_are_signals():
    """A jump of place, of an object with a track, and a drop of the score."""
    frames = [[mech(100 + 2 * n, track=1)] for n in range(20)]
    frames[10] = [mech(500, track=1)]
    assert [text for text, _ in texts(items(*frames))[10]] == ["jumps"]
    frames = [[mech(score=0.9)] for _ in range(20)]
    frames[10] = [mech(score=0.45)]
    assert ("unsure", pytest.approx(0.5)) in texts(items(*frames), without=())[10]


def test_entropy_is_highest_at_the_threshold():
    assert [round(entropy_bits(s, 0.3), 2) for s in (0.0, 0.1, 0.3, 0.8, 1.0)] == [
        0.0, 0.73, 1.0, 0.46, 0.0
    ]  # fmt: skip


def test_another_detector_disagrees_only_on_frames_that_it_looked_at():
    frames = [[mech(score=0.9)] for _ in range(4)]
    others = {0: [mech(102)], 1: [], 2: [mech(), mech(400, 0.8)]}
    found = texts(items(*frames), others)
    assert found == {
        1: [("not by the other detector", 1.0)],
        2: [("only by the other detector", 0.8)],
    }
