"""What a line of items says of the person who changed an object."""

from fractions import Fraction

from annotate.items.records import Item, Object, item_from_json, item_to_json

BY = {"who": "ada@example.com", "when": "2026-01-02T03:04:05Z", "region": "a1"}


def test_who_changed_an_object_is_kept_and_nobody_is_not_written():
    told = Object("mug", (1.0, 2.0, 3.0, 4.0), source="colour", by=BY)
    item = Item("dock.mp4", 0, Fraction(0), 64, 48, (told, Object("mug", (0.0, 0.0, 1.0, 1.0))))
    line = item_to_json(item)
    assert item_from_json(line, "here") == item
    assert line.count('"by"') == 1


def test_what_it_was_found_by_is_kept_and_no_words_are_not_written():
    told = Object("mug", (1.0, 2.0, 3.0, 4.0), source="moondream", phrase="a cup")
    item = Item("dock.mp4", 0, Fraction(0), 64, 48, (told, Object("mug", (0.0, 0.0, 1.0, 1.0))))
    line = item_to_json(item)
    assert item_from_json(line, "here") == item
    assert line.count('"phrase"') == 1
