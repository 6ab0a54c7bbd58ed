import weakref
from fractions import Fraction

import numpy as np
import pytest

from annotate.items.records import Item, Object
from annotate.viewing.contact_sheet import Cell, cell_width, lay_out, select_informative

COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]


def cell(colour, title="frame 1", remark="", size_wh=(90, 60)):
    return Cell(np.full((size_wh[1], size_wh[0], 3), colour, np.uint8), title, remark)


def item(frame, *labels):
    return Item(
        "dock.mp4",
        frame,
        Fraction(frame, 30),
        320,
        240,
        tuple(Object(label, (0, 0, 10, 10)) for label in labels),
    )


def frames(items):
    return [each.frame for each in items]


def test_every_cell_is_on_the_sheet_in_order():
    seen = lay_out([cell(colour) for colour in COLOURS])
    starts = []
    for colour in COLOURS:
        places = np.argwhere((seen == colour).all(axis=2))
        assert len(places) == 90 * 60
        starts.append(tuple(places[0]))
    assert starts == sorted(starts)


@pytest.mark.parametrize("count, grid", [(1, (1, 1)), (3, (3, 1)), (24, (6, 4)), (7, (4, 2))])
def test_rows_and_columns(count, grid):
    height, width, _ = lay_out([cell((1, 2, 3), size_wh=(320, 180))] * count).shape
    assert (width, height) == (grid[0] * 332 + 12, grid[1] * 214 + 12)


def test_the_title_stands_beneath():
    bare, titled = (lay_out([cell((9, 9, 9), title)]) for title in ("", "frame 12"))
    rows = np.argwhere((bare != titled).any(axis=(1, 2))).ravel()
    assert rows.min() >= 12 + 60
    assert rows.max() < len(bare)
    assert lay_out([cell((9, 9, 9), remark="#3 mug")]).shape[0] > len(bare)


def test_a_long_title_is_cut_short():
    seen = lay_out([cell((9, 9, 9), "a title far too long for its cell", size_wh=(90, 60))])
    paper = seen[0, 0]
    assert (seen[:, 12 + 90 :] == paper).all()


def test_cells_grow_smaller_when_they_are_many():
    assert cell_width(3) > cell_width(24) > cell_width(5000) > 0
    assert cell_width(5000) ** 2 * 0.75 * 5000 < 100e6


def test_all_items_are_telling_where_they_are_few():
    assert frames(select_informative([item(5, "mug"), item(9, "mug")], 24)) == [5, 9]
    assert select_informative([], 24) == []


def test_telling_items_are_spread_over_the_clip():
    found = frames(select_informative((item(n, "mug") for n in range(10_000)), 24))
    assert len(found) == 24
    assert max(np.diff([0, *found, 10_000])) < 2.5 * 10_000 / 24


def test_telling_items_are_spread_over_the_part_that_is_known():
    found = frames(select_informative((item(n, "mug") for n in range(5000, 5100)), 10))
    assert len(found) == 10
    assert max(np.diff([5000, *found, 5100])) < 30


def test_a_long_clip_is_not_held_in_memory():
    alive, most = weakref.WeakValueDictionary(), 0

    def items():
        nonlocal most
        for n in range(2000):
            yield alive.setdefault(n, item(n, "mug"))
            most = max(most, len(alive))

    select_informative(items(), 10)
    assert most < 100


def test_the_fullest_frames_are_telling():
    full = {20: ("mug", "plate"), 70: ("mug", "mug", "mug")}
    found = frames(select_informative((item(n, *full.get(n, ("mug",))) for n in range(100)), 4))
    assert set(full) <= set(found)


def test_empty_frames_tell_only_where_there_is_nothing_else():
    assert frames(
        select_informative((item(n, *["mug"] * (n % 50 == 3)) for n in range(100)), 10)
    ) == [3, 53]
    assert len(select_informative((item(n) for n in range(100)), 10)) == 10
