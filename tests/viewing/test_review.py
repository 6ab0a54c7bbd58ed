from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from annotate.errors import ItemsError
from annotate.items import journal, masks
from annotate.items.records import Header, Item, Object
from annotate.video import reader
from annotate.viewing import review

SIZE_WH = (800, 600)


def square(x, y, side=60):
    return float(x), float(y), float(x + side), float(y + side)


def mech(box, track=1, score=0.9, flags=(), label="mech", masked=False):
    mask = None
    if masked:
        dense = np.zeros(SIZE_WH[::-1], bool)
        dense[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
        mask = masks.encode(dense)
    return Object(label, box, score, track, mask, "light", tuple(flags))


def item(frame, *objects, lost=()):
    return Item("demo.mp4", frame, Fraction(frame, 35), *SIZE_WH, objects, tuple(lost))


def steady(count=140, **changes):
    """Items of a mech that walks steadily; `at` replaces some of them, by frame."""
    items = {n: item(n, mech(square(50 + 2 * n, 100))) for n in range(count)}
    return [*(items | changes.get("at", {})).values()]


def find(items, count=24, flagged=False):
    return [
        (frame.item.frame, frame.summary)
        for frame in review.find_frames(items, count, flagged=flagged)
    ]


def test_a_steady_track_needs_no_review():
    assert find(steady()) == []


def test_the_worst_comes_first():
    at = {20: item(20, mech(square(90, 100), score=0.6))}  # unsure
    at |= {60: item(60, mech((0.0, 0.0, 700.0, 550.0)))}  # covers the picture
    at |= {n: item(n, lost=[1]) for n in range(100, 103)}
    frames = [frame for frame, _ in find(steady(at=at))]
    assert frames[0] == 60 and set(frames) >= {20, 60, 100, 103}
    assert frames.index(100) < frames.index(20) or frames.index(103) < frames.index(20)


def test_lost_and_found_again_are_reported_once_each():
    at = {n: item(n, lost=[1]) for n in range(40, 60)}
    assert dict(find(steady(at=at))) == {40: "mech #1 lost", 60: "mech #1 found again"}


def test_an_object_that_leaves_has_a_lower_priority_than_one_that_is_lost():
    out = [item(n, mech(square(740, 100))) for n in range(10)]
    within = [item(n, mech(square(300, 100))) for n in range(10)]
    [left], [lost] = (review.find_frames([*items, item(10, lost=[1])]) for items in (out, within))
    assert (left.summary, lost.summary) == (
        "mech #1 left",
        "mech #1 lost",
    ) and left.priority < lost.priority


def test_a_score_is_low_only_relative_to_the_mean_of_its_object():
    low = [item(n, mech(square(50, 50), score=0.4)) for n in range(20)]
    assert find(low) == []
    assert find([*low, item(20, mech(square(50, 50), score=0.3))]) == [
        (20, "mech #1 unsure (0.30)")
    ]


def test_flags_of_the_items_replace_our_own():
    leap = [item(n, mech(square(100 if n < 9 else 400, 100))) for n in range(18)]
    assert find(leap) == [(9, "mech #1 jumps")]
    assert find(leap, flagged=True) == []  # the run prompted the object there
    leap[9] = item(9, mech(square(400, 100), flags=["jump"]))
    assert find(leap, flagged=True) == [(9, "mech #1 jumps")]


def test_overlapping_masks_are_found_in_items_without_flags():
    both = [mech(square(100, 100), masked=True), mech(square(110, 100), track=2, masked=True)]
    assert find([item(0, *both)]) == [(0, "mech #1 overlaps another, mech #2 overlaps another")]


def test_chosen_frames_are_apart_in_time():
    """Of three bad frames in a row and one later, the later one is chosen second."""
    at = {n: item(n, mech(square(50 + 2 * n, 100), flags=["overlap"])) for n in (50, 51, 52, 90)}
    frames = [frame for frame, _ in find(steady(at=at), count=2, flagged=True)]
    assert frames == [50, 90]
    assert len(find(steady(at=at), count=1, flagged=True)) == 1


def test_the_number_of_candidates_in_memory_is_limited(monkeypatch):
    monkeypatch.setattr(review, "_CANDIDATES_PER_FRAME", 2)
    weights = np.random.default_rng(1).permutation(500)
    bad = [item(20 * n, mech(square(9, 9), track=n, score=0.9)) for n in range(500)]
    unsure = [
        item(20 * n + 1, mech(square(9, 9), track=n, score=0.1 + w / 1e3))
        for n, w in enumerate(weights)
    ]
    items = sorted([*bad, *unsure], key=lambda each: each.frame)
    best = [20 * int(np.flatnonzero(weights == n)[0]) + 1 for n in range(5)]
    assert [frame for frame, _ in find(items, count=5)] == best


@pytest.fixture
def flagged(tmp_path, demo):
    """A file of items of the demo, as a propagation leaves it, with two frames to review."""
    at = {60: item(60, mech(square(400, 300), flags=["jump"]))}
    at |= {n: item(n, lost=[1]) for n in range(100, 140)}
    videos = reader.header_entry(reader.probe(demo))
    path = tmp_path / "m.jsonl"
    journal.write(path, Header("propagate", videos=videos), steady(at=at))
    return path


def test_the_command_prints_a_table_and_draws_a_sheet(annotate, flagged, tmp_path):
    code, out, err = annotate("review", flagged, "-o", "sheet.png")
    rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0, err
    assert rows[0] == ["frame", "seconds", "priority", "reasons"]
    assert {row[0]: row[3] for row in rows[1:3]} == {"60": "mech #1 jumps", "100": "mech #1 lost"}
    assert rows[3] == ["sheet.png"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 900 and np.asarray(sheet).std() > 20
    code, _, err = annotate("review", flagged, "-o", "sheet.png")
    assert code == 1 and "--force" in err
    code, out, _ = annotate("review", flagged, "--max-frames", "1")
    assert code == 0 and len(out.splitlines()) == 2


def test_a_cell_of_the_sheet_is_a_window_round_the_object(flagged, demo, tmp_path):
    review_frames = review.find_frames(journal.read(flagged), 1, flagged=True)
    review.draw_sheet(review_frames, demo, ["mech"], tmp_path / "one.png")
    review.draw_sheet(
        [replace(review_frames[0], item=item(60))], demo, ["mech"], tmp_path / "bare.png"
    )
    one, bare = (np.asarray(Image.open(tmp_path / f"{n}.png"), int) for n in ("one", "bare"))
    rows, columns = np.nonzero(np.abs(one - bare).sum(axis=2)[:360])
    assert np.ptp(rows) > 120 and np.ptp(columns) > 120  # the box is 60 pixels wide


def test_a_sheet_of_no_frames_is_an_error(demo, tmp_path):
    with pytest.raises(ItemsError, match="no frame needs a review"):
        review.draw_sheet([], demo, [], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
