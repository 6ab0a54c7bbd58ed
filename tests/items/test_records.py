"""The optional keys of an object in a line of items."""

from fractions import Fraction

from annotate.items.records import Item, Object, item_from_json, item_to_json

BY = {"who": "ada@example.com", "when": "2026-01-02T03:04:05Z", "region": "a1"}


def test_the_person_who_changed_an_object_is_written_only_if_set():
    changed = Object("mug", (1.0, 2.0, 3.0, 4.0), source="colour", by=BY)
    item = Item("dock.mp4", 0, Fraction(0), 64, 48, (changed, Object("mug", (0.0, 0.0, 1.0, 1.0))))
    line = item_to_json(item)
    assert item_from_json(line, "here") == item
    assert line.count('"by"') == 1


def test_the_phrase_of_an_object_is_written_only_if_set():
    found = Object("mug", (1.0, 2.0, 3.0, 4.0), source="moondream", phrase="a cup")
    item = Item("dock.mp4", 0, Fraction(0), 64, 48, (found, Object("mug", (0.0, 0.0, 1.0, 1.0))))
    line = item_to_json(item)
    assert item_from_json(line, "here") == item
    assert line.count('"phrase"') == 1
