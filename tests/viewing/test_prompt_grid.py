from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from annotate.items import masks
from annotate.items.records import Frame, Item, Object, Prompt
from annotate.palette import label_colour
from annotate.prompts import PromptTable
from annotate.viewing.prompt_grid import NEGATIVE_COLOUR, POSITIVE_COLOUR, prompt_cells

LABELS = ["plate", "mug"]
GREY = 60
FRAME = Frame("dock.mp4", 12, Fraction(2, 5), np.full((240, 320, 3), GREY, np.uint8))
MASK = np.zeros((240, 320), bool)
MASK[100:140, 150:190] = True
CLICKS = Prompt(12, 3, np.array([[170.0, 120.0], [140.0, 120.0]]), np.array([1, 0]))
FOUND = Object("mug", (150, 100, 190, 140), 0.8, 3, masks.encode(MASK))


def item(*objects, lost=()):
    return Item("dock.mp4", 12, Fraction(2, 5), 320, 240, objects, lost)


def one(prompt, items=None):
    table = PromptTable((prompt,), {prompt.object_id: "mug"})
    [cell] = prompt_cells(table, [FRAME], items, LABELS)
    return cell


def share(picture, colour, tolerance=2):
    """How much of a picture is of a colour."""
    return (np.abs(picture.astype(int) - colour).max(axis=2) <= tolerance).mean()


def test_points_and_the_mask_they_gave():
    seen = one(CLICKS, {12: item(FOUND)}).picture
    tint = GREY * 0.6 + np.array(label_colour("mug", LABELS, 3)) * 0.4
    assert share(seen, tint) > 0.05
    assert share(seen, POSITIVE_COLOUR) > 0.0003
    assert share(seen, NEGATIVE_COLOUR) > 0.0003
    bare = one(CLICKS).picture
    assert share(bare, tint) == 0
    assert share(bare, POSITIVE_COLOUR) > 0.0003


def test_another_objects_mask_is_left_out():
    seen = one(CLICKS, {12: item(replace(FOUND, track=4))})
    assert (seen.picture == one(CLICKS).picture).all()


@pytest.mark.parametrize("prompt", [Prompt(12, 3, box=FOUND.box), Prompt(12, 3, mask=MASK)])
def test_boxes_and_masks_are_dashed(prompt):
    seen = one(prompt).picture
    assert 0.001 < share(seen, (255, 255, 255)) < 0.05
    assert share(seen, (GREY, GREY, GREY)) > 0.9


def test_what_stands_beneath():
    cell = one(CLICKS, {12: item(FOUND)})
    assert (cell.title, cell.subtitle) == ("frame 12 · 0.40 s", "#3 mug · 1+ 1−")
    both = one(replace(CLICKS, box=FOUND.box, mask=MASK))
    assert both.subtitle == "#3 mug · 1+ 1− box mask"


@pytest.mark.parametrize("items", [{}, {12: item(lost=(3,))}, {12: item()}])
def test_a_prompt_that_gave_nothing_says_so(items):
    assert one(CLICKS, items).subtitle == "#3 mug · 1+ 1− → nothing"


def test_a_cell_for_each_frame_and_object():
    prompts = (CLICKS, replace(CLICKS, object_id=5), replace(CLICKS, frame=40))
    table = PromptTable(prompts, {3: "mug", 5: "plate"})
    later = replace(FRAME, index=40, seconds=Fraction(4, 3))
    found = prompt_cells(table, [FRAME, later], None, LABELS)
    assert [(cell.title[:8], cell.subtitle[:2]) for cell in found] == [
        ("frame 12", "#3"),
        ("frame 12", "#5"),
        ("frame 40", "#3"),
    ]
