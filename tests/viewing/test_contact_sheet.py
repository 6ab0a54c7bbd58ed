import weakref
from fractions import Fraction

import numpy as np
import pytest

from annotate.items.records import Item, Object
from annotate.viewing.contact_sheet import Cell, cell_width, lay_out, select_informative

COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]


def cell(colour, title="frame 1", subtitle="", size_wh=(90, 60)):
    return Cell(np.full((size_wh[1], size_wh[0], 3), colour, np.uint8), title, subtitle)


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
    sheet = lay_out([cell(colour) for colour in COLOURS])
    starts = []
    for colour in COLOURS:
        pixels = np.argwhere((sheet == colour).all(axis=2))
        assert len(pixels) == 90 * 60
        starts.append(tuple(pixels[0]))
    assert starts == sorted(starts)


@pytest.mark.parametrize("count, grid", [(1, (1, 1)), (3, (3, 1)), (24, (6, 4)), (7, (4, 2))])
def test_rows_and_columns(count, grid):
    height, width, _ = lay_out([cell((1, 2, 3), size_wh=(320, 180))] * count).shape
    assert (width, height) == (grid[0] * 332 + 12, grid[1] * 214 + 12)


def test_the_title_is_below_the_image():
    bare, titled = (lay_out([cell((9, 9, 9), title)]) for title in ("", "frame 12"))
    rows = np.argwhere((bare != titled).any(axis=(1, 2))).ravel()
    assert rows.min() >= 12 + 60
    assert rows.max() < len(bare)
    assert lay_out([cell((9, 9, 9), subtitle="#3 mug")]).shape[0] > len(bare)


def test_a_long_title_is_truncated():
    sheet = lay_out([cell((9, 9, 9), "a title far too long for its cell", size_wh=(90, 60))])
    background = sheet[0, 0]
    assert (sheet[:, 12 + 90 :] == background).all()


def test_many_cells_are_narrower_than_few():
    assert cell_width(3) > cell_width(24) > cell_width(5000) > 0
    assert cell_width(5000) ** 2 * 0.75 * 5000 < 100e6


def test_few_items_are_all_selected():
    assert frames(select_informative([item(5, "mug"), item(9, "mug")], 24)) == [5, 9]
    assert select_informative([], 24) == []


def test_selected_items_are_spread_over_the_clip():
    selected = frames(select_informative((item(n, "mug") for n in range(10_000)), 24))
    assert len(selected) == 24
    assert max(np.diff([0, *selected, 10_000])) < 2.5 * 10_000 / 24


def test_selected_items_are_spread_over_the_part_with_items():
    selected = frames(select_informative((item(n, "mug") for n in range(5000, 5100)), 10))
    assert len(selected) == 10
    assert max(np.diff([5000, *selected, 5100])) < 30


def test_a_long_clip_is_not_held_in_memory():
    alive, max_alive = weakref.WeakValueDictionary(), 0

    def items():
        nonlocal max_alive
        for n in range(2000):
            yield alive.setdefault(n, item(n, "mug"))
            max_alive = max(max_alive, len(alive))

    select_informative(items(), 10)
    assert max_alive < 100


def test_frames_with_the_most_objects_are_selected():
    full = {20: ("mug", "plate"), 70: ("mug", "mug", "mug")}
    selected = frames(select_informative((item(n, *full.get(n, ("mug",))) for n in range(100)), 4))
    assert set(full) <= set(selected)


def test_empty_frames_are_selected_only_if_all_are_empty():
    assert frames(
        select_informative((item(n, *["mug"] * (n % 50 == 3)) for n in range(100)), 10)
    ) == [3, 53]
    assert len(select_informative((item(n) for n in range(100)), 10)) == 10
