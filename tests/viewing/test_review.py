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


def thing(box, track=1, score=0.9, flags=(), label="mech", masked=False):
    mask = None
    if masked:
        dense = np.zeros(SIZE_WH[::-1], bool)
        dense[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
        mask = masks.encode(dense)
    return Object(label, box, score, track, mask, "light", tuple(flags))


def item(frame, *objects, lost=()):
    return Item("demo.mp4", frame, Fraction(frame, 35), *SIZE_WH, objects, tuple(lost))


def steady(count=140, **changes):
    """A mech that walks on quietly; some frames are put in its place."""
    items = {n: item(n, thing(square(50 + 2 * n, 100))) for n in range(count)}
    return [*(items | changes.get("at", {})).values()]


def found(items, count=24, flagged=False):
    return [
        (look.item.frame, look.summary)
        for look in review.find_frames(items, count, flagged=flagged)
    ]


def test_where_nothing_happens_nothing_is_worth_a_look():
    assert found(steady()) == []


def test_the_worst_comes_first():
    at = {20: item(20, thing(square(90, 100), score=0.6))}  # unsure
    at |= {60: item(60, thing((0.0, 0.0, 700.0, 550.0)))}  # covers the picture
    at |= {n: item(n, lost=[1]) for n in range(100, 103)}
    frames = [frame for frame, _ in found(steady(at=at))]
    assert frames[0] == 60 and set(frames) >= {20, 60, 100, 103}
    assert frames.index(100) < frames.index(20) or frames.index(103) < frames.index(20)


def test_lost_and_found_again_are_told_once_each():
    at = {n: item(n, lost=[1]) for n in range(40, 60)}
    assert dict(found(steady(at=at))) == {40: "mech #1 lost", 60: "mech #1 found again"}


def test_what_leaves_the_picture_is_worth_less_than_what_is_lost_within():
    out = [item(n, thing(square(740, 100))) for n in range(10)]
    within = [item(n, thing(square(300, 100))) for n in range(10)]
    [left], [lost] = (review.find_frames([*items, item(10, lost=[1])]) for items in (out, within))
    assert (left.summary, lost.summary) == (
        "mech #1 left",
        "mech #1 lost",
    ) and left.priority < lost.priority


def test_unsure_is_told_against_what_is_usual_for_the_object():
    low = [item(n, thing(square(50, 50), score=0.4)) for n in range(20)]
    assert found(low) == []
    assert found([*low, item(20, thing(square(50, 50), score=0.3))]) == [
        (20, "mech #1 unsure (0.30)")
    ]


def test_flags_are_believed_where_the_run_gave_them():
    leap = [item(n, thing(square(100 if n < 9 else 400, 100))) for n in range(18)]
    assert found(leap) == [(9, "mech #1 jumps")]
    assert found(leap, flagged=True) == []  # it was prompted there: the run knew
    leap[9] = item(9, thing(square(400, 100), flags=["jump"]))
    assert found(leap, flagged=True) == [(9, "mech #1 jumps")]


def test_masks_that_overlap_are_found_in_items_of_others():
    both = [thing(square(100, 100), masked=True), thing(square(110, 100), track=2, masked=True)]
    assert found([item(0, *both)]) == [(0, "mech #1 overlaps another, mech #2 overlaps another")]


def test_one_moment_is_looked_at_once():
    """Three bad frames in a row and one later: the second look is the later one."""
    at = {n: item(n, thing(square(50 + 2 * n, 100), flags=["overlap"])) for n in (50, 51, 52, 90)}
    frames = [frame for frame, _ in found(steady(at=at), count=2, flagged=True)]
    assert frames == [50, 90]
    assert len(found(steady(at=at), count=1, flagged=True)) == 1


def test_however_long_the_clip_few_are_held(monkeypatch):
    monkeypatch.setattr(review, "_CANDIDATES_PER_FRAME", 2)
    weights = np.random.default_rng(1).permutation(500)
    bad = [item(20 * n, thing(square(9, 9), track=n, score=0.9)) for n in range(500)]
    unsure = [
        item(20 * n + 1, thing(square(9, 9), track=n, score=0.1 + w / 1e3))
        for n, w in enumerate(weights)
    ]
    items = sorted([*bad, *unsure], key=lambda each: each.frame)
    best = [20 * int(np.flatnonzero(weights == n)[0]) + 1 for n in range(5)]
    assert [frame for frame, _ in found(items, count=5)] == best


@pytest.fixture
def flagged(tmp_path, demo):
    """A file of items of the demo, as a propagation leaves it, with two things to look at."""
    at = {60: item(60, thing(square(400, 300), flags=["jump"]))}
    at |= {n: item(n, lost=[1]) for n in range(100, 140)}
    videos = reader.header_entry(reader.probe(demo))
    path = tmp_path / "m.jsonl"
    journal.write(path, Header("propagate", videos=videos), steady(at=at))
    return path


def test_from_the_command_line(annotate, flagged, tmp_path):
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


def test_the_sheet_shows_the_thing_and_not_the_whole_picture(flagged, demo, tmp_path):
    looks = review.find_frames(journal.read(flagged), 1, flagged=True)
    review.draw_sheet(looks, demo, ["mech"], tmp_path / "one.png")
    review.draw_sheet([replace(looks[0], item=item(60))], demo, ["mech"], tmp_path / "bare.png")
    one, bare = (np.asarray(Image.open(tmp_path / f"{n}.png"), int) for n in ("one", "bare"))
    rows, columns = np.nonzero(np.abs(one - bare).sum(axis=2)[:360])
    assert np.ptp(rows) > 120 and np.ptp(columns) > 120  # it is 60 pixels wide


def test_nothing_to_draw(demo, tmp_path):
    with pytest.raises(ItemsError, match="no frame needs a review"):
        review.draw_sheet([], demo, [], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
