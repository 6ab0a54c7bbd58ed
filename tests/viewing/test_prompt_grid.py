from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from annotate.items import masks
from annotate.items.records import Frame, Item, Object, Prompt
from annotate.palette import label_colour
from annotate.prompts import PromptTable
from annotate.viewing.prompt_grid import (
    NEGATIVE_COLOUR,
    POSITIVE_COLOUR,
    mark_box,
    mark_mask,
    mark_points,
    prompt_cells,
)

LABELS = ["plate", "mug"]
GREY = 60
FRAME = Frame("dock.mp4", 12, Fraction(2, 5), np.full((240, 320, 3), GREY, np.uint8))
MASK = np.zeros((240, 320), bool)
MASK[100:140, 150:190] = True
CLICKS = Prompt(12, 3, np.array([[170.0, 120.0], [140.0, 120.0]]), np.array([1, 0]))
RESULT = Object("mug", (150, 100, 190, 140), 0.8, 3, masks.encode(MASK))


def item(*objects, lost=()):
    return Item("dock.mp4", 12, Fraction(2, 5), 320, 240, objects, lost)


def draw_cell(prompt, items=None):
    table = PromptTable((prompt,), {prompt.object_id: "mug"})
    [cell] = prompt_cells(table, [FRAME], items, LABELS)
    return cell


def share(picture, colour, tolerance=2):
    """Return the share of the pixels that have a colour."""
    return (np.abs(picture.astype(int) - colour).max(axis=2) <= tolerance).mean()


def test_points_and_the_resulting_mask_are_drawn():
    seen = draw_cell(CLICKS, {12: item(RESULT)}).picture
    tint = GREY * 0.6 + np.array(label_colour("mug", LABELS, 3)) * 0.4
    assert share(seen, tint) > 0.05
    assert share(seen, POSITIVE_COLOUR) > 0.0003
    assert share(seen, NEGATIVE_COLOUR) > 0.0003
    bare = draw_cell(CLICKS).picture
    assert share(bare, tint) == 0
    assert share(bare, POSITIVE_COLOUR) > 0.0003


def test_the_mask_of_another_object_is_not_drawn():
    seen = draw_cell(CLICKS, {12: item(replace(RESULT, track=4))})
    assert (seen.picture == draw_cell(CLICKS).picture).all()


@pytest.mark.parametrize("prompt", [Prompt(12, 3, box=RESULT.box), Prompt(12, 3, mask=MASK)])
def test_boxes_and_masks_are_dashed(prompt):
    seen = draw_cell(prompt).picture
    assert 0.001 < share(seen, (255, 255, 255)) < 0.05
    assert share(seen, (GREY, GREY, GREY)) > 0.9


def test_the_text_below_a_cell_describes_the_prompt():
    cell = draw_cell(CLICKS, {12: item(RESULT)})
    assert (cell.title, cell.subtitle) == ("frame 12 · 0.40 s", "#3 mug · 1+ 1−")
    both = draw_cell(replace(CLICKS, box=RESULT.box, mask=MASK))
    assert both.subtitle == "#3 mug · 1+ 1− box mask"


def test_a_frame_that_was_not_processed_is_marked():
    """The run ended before it, such as with `stop`: that is not an empty result."""
    assert draw_cell(CLICKS, {}).subtitle == "#3 mug · 1+ 1− → not processed"


@pytest.mark.parametrize("items", [{12: item(lost=(3,))}, {12: item()}])
def test_a_prompt_without_a_resulting_object_is_marked(items):
    assert draw_cell(CLICKS, items).subtitle == "#3 mug · 1+ 1− → nothing"


def test_a_cell_for_each_frame_and_object():
    prompts = (CLICKS, replace(CLICKS, object_id=5), replace(CLICKS, frame=40))
    table = PromptTable(prompts, {3: "mug", 5: "plate"})
    later = replace(FRAME, index=40, seconds=Fraction(4, 3))
    cells = prompt_cells(table, [FRAME, later], None, LABELS)
    assert [(cell.title[:8], cell.subtitle[:2]) for cell in cells] == [
        ("frame 12", "#3"),
        ("frame 12", "#5"),
        ("frame 40", "#3"),
    ]


BACKGROUNDS = [(0, 0, 0), (255, 255, 255), (52, 226, 96), (255, 72, 72), (120, 120, 120)]


def background(colour):
    return np.full((60, 80, 3), colour, np.uint8)


def colours(image):
    return {tuple(int(part) for part in pixel) for pixel in image.reshape(-1, 3)}


def test_positive_points_are_filled_and_negative_ones_are_rings():
    image = background((40, 60, 80))
    mark_points(image, np.array([[20.0, 30.0], [60.0, 30.0]]), np.array([1, 0]))
    assert tuple(image[30, 20]) == POSITIVE_COLOUR
    assert (image[28:33, 18:23] == POSITIVE_COLOUR).all()
    assert (image[28:33, 59:62] == (40, 60, 80)).all()
    assert NEGATIVE_COLOUR in colours(image[20:41, 50:71])
    assert NEGATIVE_COLOUR not in colours(image[20:41, 10:31])


@pytest.mark.parametrize("colour", BACKGROUNDS)
def test_all_marks_are_visible_on_any_background(colour):
    for mark in (
        lambda image: mark_points(image, np.array([[20.0, 30.0]]), np.array([1])),
        lambda image: mark_points(image, np.array([[20.0, 30.0]]), np.array([0])),
        lambda image: mark_box(image, (10, 10, 60, 50)),
        lambda image: mark_mask(image, np.pad(np.ones((30, 40), bool), ((15, 15), (20, 20)))),
    ):
        image = background(colour)
        mark(image)
        contrasting = [
            pixel for pixel in colours(image) if max(abs(np.subtract(pixel, colour))) > 100
        ]
        assert contrasting


def test_a_box_is_dashed():
    image = background((90, 90, 90))
    mark_box(image, (10, 10, 70, 50))
    top = (image[10, 14:66] == 255).all(axis=1)
    assert 0.3 < top.mean() < 0.8
    assert np.abs(np.diff(top.astype(int))).sum() >= 6
    assert (image[16:44, 16:64] == 90).all()


def test_a_mask_is_dashed_along_its_outline():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 20:60] = True
    image = background((90, 90, 90))
    mark_mask(image, mask)
    assert (image[26:34, 26:54] == 90).all()
    assert (image[:14] == 90).all()
    assert 0.3 < (image[20, 24:56] == 255).all(axis=1).mean() < 0.8


def test_a_mask_of_one_pixel_or_none_is_not_drawn():
    mask = np.zeros((60, 80), bool)
    image = background((90, 90, 90))
    mark_mask(image, mask)
    mask[3, 4] = True
    mark_mask(image, mask)
    assert (image == 90).all()
