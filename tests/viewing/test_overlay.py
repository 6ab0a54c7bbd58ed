from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from annotate.errors import DatasetError, ItemsError
from annotate.items import masks
from annotate.items.records import Item, Object
from annotate.palette import label_colour
from annotate.viewing import overlay

LABELS = ["plate", "mug"]
GREY = 60


def picture(width=320, height=240):
    return np.full((height, width, 3), GREY, np.uint8)


def item(*objects, lost=(), size_wh=(320, 240)):
    return Item("dock.mp4", 7, Fraction(1, 5), *size_wh, objects, lost)


def disc(x, y, radius):
    """A mask of 320x240 and its box."""
    rows, columns = np.mgrid[:240, :320]
    mask = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return mask, (x - radius, y - radius, x + radius + 1, y + radius + 1)


def is_inside(box, size_wh):
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size_wh[0] and box[3] <= size_wh[1]


def test_a_mask_has_its_class_colour_and_other_pixels_are_unchanged():
    mask, box = disc(160, 120, 40)
    image = picture()
    seen = overlay.draw_masks(image, item(Object("mug", box, mask=masks.encode(mask))), LABELS)
    colour = np.array(label_colour("mug", LABELS))
    np.testing.assert_allclose(seen[120, 160], GREY * 0.6 + colour * 0.4, atol=1)
    np.testing.assert_array_equal(seen[120, 120], colour)  # the outline, in red, green, blue
    _, outer = disc(160, 120, 43)
    x1, y1, x2, y2 = outer
    untouched = np.ones((240, 320), bool)
    untouched[y1:y2, x1:x2] = False
    assert (seen[untouched] == GREY).all()
    assert (image == GREY).all()


def test_only_objects_with_masks_are_filled():
    mask, box = disc(80, 120, 30)
    both = item(Object("mug", box, mask=masks.encode(mask)), Object("plate", (200, 90, 260, 150)))
    image = picture()
    seen = overlay.draw_item(image, both, LABELS)
    assert (image == GREY).all()
    assert (seen[100:140, 210:250] == GREY).all()
    assert (seen[110:130, 75:85] != GREY).any()


@pytest.mark.parametrize("label", LABELS)
def test_a_box_is_drawn_in_its_colour(label):
    seen = overlay.draw_item(picture(), item(Object(label, (100, 100, 200, 180))), LABELS)
    for y, x in ((140, 100), (180, 150), (140, 200)):
        assert tuple(seen[y, x]) == label_colour(label, LABELS)
    assert tuple(seen[140, 150]) == (GREY, GREY, GREY)


def test_tracks_of_a_class_have_different_shades():
    one, other = (Object("mug", (100, 100, 200, 180), track=track) for track in (1, 2))
    seen = [overlay.draw_item(picture(), item(obj), LABELS)[140, 100] for obj in (one, other)]
    assert tuple(seen[0]) == label_colour("mug", LABELS, 1)
    assert tuple(seen[1]) == label_colour("mug", LABELS, 2)


def test_a_caption_has_class_track_and_score():
    obj = Object("mug", (0, 0, 9, 9))
    assert overlay.caption(obj) == "mug"
    assert overlay.caption(replace(obj, track=3, score=0.914)) == "mug #3 0.91"
    assert overlay.caption(replace(obj, score=0.0)) == "mug 0.00"


def test_the_dots_of_an_umlaut_are_drawn():
    boxes = {"Tur": None, "Tür": None, "T□r": None}
    for label in boxes:
        obj = Object(label, (100, 100, 200, 180))
        boxes[label] = overlay.draw_item(picture(), item(obj), [label])[70:100, 95:200]
    plain, dotted, unknown = boxes.values()
    assert (plain != dotted).any()
    assert (unknown != dotted).any()


def test_lost_tracks_are_listed_in_the_corner():
    seen = overlay.draw_item(picture(), item(lost=(3, 12)), LABELS)
    changed = np.argwhere((seen != GREY).any(axis=2))
    assert len(changed) > 100
    assert changed[:, 0].min() > 200
    assert changed[:, 1].max() < 160


def test_an_item_without_objects_leaves_the_image_unchanged():
    np.testing.assert_array_equal(overlay.draw_item(picture(), item(), LABELS), picture())


@pytest.mark.parametrize("size_wh", [(1, 1), (3, 200), (1921, 1081)])
def test_images_of_any_size_are_drawn(size_wh):
    obj = Object("mug", (0, 0, *size_wh), 0.5, 1, masks.encode(np.ones(size_wh[::-1], bool)))
    seen = overlay.draw_item(picture(*size_wh), item(obj, lost=(2,), size_wh=size_wh), LABELS)
    assert seen.shape == (size_wh[1], size_wh[0], 3)
    assert seen.dtype == np.uint8


def test_text_and_lines_grow_with_the_image():
    assert (
        overlay.text_height((320, 180))
        < overlay.text_height((1280, 720))
        < overlay.text_height((3840, 2160))
    )
    assert [overlay.line_width(size) for size in ((320, 180), (1280, 720), (3840, 2160))] == [
        1,
        2,
        4,
    ]


def test_an_item_of_another_size_is_refused():
    with pytest.raises(ItemsError, match="dock.mp4#7: .* 320x240, but this one is 64x48"):
        overlay.draw_item(picture(64, 48), item(), LABELS)


def test_an_unknown_class_is_refused():
    with pytest.raises(DatasetError, match="unknown class 'fork'"):
        overlay.draw_item(picture(), item(Object("fork", (0, 0, 9, 9))), LABELS)


corner = st.tuples(st.floats(0, 600), st.floats(0, 440))
any_box = st.builds(lambda xy, wh: (*xy, xy[0] + wh[0], xy[1] + wh[1]), corner, corner)


@settings(deadline=None)
@given(st.lists(any_box, min_size=1, max_size=12), st.integers(20, 150))
@example([(0.0, 0.0, 0.0, 0.0), (0.0, 4.0, 0.0, 444.0), (0.0, 0.0, 0.0, 427.0)], 20)  # on the edge
def test_labels_are_inside_the_image_and_do_not_overlap(boxes, width):
    label_wh = (width, 18)
    corners = overlay.place_labels(boxes, [label_wh] * len(boxes), (640, 480))
    label_count = np.zeros((480, 640), int)
    for x, y in corners:
        assert is_inside((x, y, x + width, y + 18), (640, 480))
        label_count[y : y + 18, x : x + width] += 1
    assert label_count.max() == 1


def test_a_label_is_above_its_box():
    assert overlay.place_labels([(100, 100, 200, 180)], [(60, 18)], (640, 480)) == [(100, 82)]


def test_labels_without_room_are_still_inside_the_image():
    boxes = [(0, 0, 30, 20)] * 5
    assert set(overlay.place_labels(boxes, [(28, 12)] * 5, (30, 20))) <= {
        (x, y) for x in range(3) for y in range(9)
    }


def test_parts_of_a_segmented_image_have_a_colour_each_and_no_boxes_or_labels():
    """As in a picture of superpixels: 60 parts, one class, no score."""
    objects = []
    for row in range(6):
        for column in range(10):
            mask = np.zeros((240, 320), bool)
            mask[40 * row : 40 * row + 40, 32 * column : 32 * column + 32] = True
            x, y = 32 * column, 40 * row
            box = (x, y, x + 32, y + 40)
            objects.append(Object("segment", box, 0.87, mask=masks.encode(mask)))
    seen = overlay.draw_item(picture(), item(*objects), ["segment"])
    middles = [tuple(seen[40 * r + 20, 32 * c + 16].tolist()) for r in range(6) for c in range(10)]
    assert len(set(middles)) == 60
    parts = seen.reshape(6, 40, 10, 32, 3)[:, 6:-6, :, 6:-6]
    assert (parts.max(axis=(1, 3)) - parts.min(axis=(1, 3)) == 0).all()  # no box, no text
    neighbours = np.abs(np.diff(np.array(middles, int).reshape(6, 10, 3), axis=1)).max(axis=2)
    assert neighbours.min() > 20


def test_an_object_of_a_vocabulary_beside_parts_keeps_its_box_and_label():
    mask, box = disc(60, 60, 30)
    part = Object("segment", box, mask=masks.encode(mask))
    mug = Object("mug", (200, 90, 260, 150), 0.9)
    labels = ["mug", "segment"]
    alone = overlay.draw_item(picture(), item(mug), labels)
    both = overlay.draw_item(picture(), item(part, mug), labels)
    np.testing.assert_array_equal(both[:, 150:], alone[:, 150:])
    assert (both[50:70, 50:70] != GREY).any()


def test_a_class_that_no_font_can_draw_is_labelled_by_its_id(monkeypatch, caplog):
    from annotate.viewing import fonts

    monkeypatch.setattr(fonts, "system_fonts", lambda: ())
    fonts._best_system_font.cache_clear()
    fonts.report_replaced.cache_clear()
    box = (100, 90, 200, 190)
    seen = overlay.draw_item(picture(), item(Object("標的", box, 0.5)), ["mug", "標的"])
    fonts._best_system_font.cache_clear()
    same = overlay.draw_item(picture(), item(Object("class 1", box, 0.5)), ["mug", "class 1"])
    np.testing.assert_array_equal(seen, same)
    assert "'標的'" in caplog.text and "'class 1'" in caplog.text


def test_the_label_has_the_phrase_and_two_digits_of_a_small_score():
    obj = Object("mug", (0, 0, 9, 9), 0.0012, phrase="red cup")
    assert overlay.caption(obj) == "mug “red cup” 0.0012"
    assert overlay.caption(replace(obj, phrase="mug", score=0.996, track=3)) == "mug #3 1.00"
    assert overlay.caption(replace(obj, phrase="x" * 99)).startswith("mug “" + "x" * 31 + "…”")
