import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate import vocabulary
from annotate.detectors.colour.ranges import (
    ColourRange,
    colour_strength,
    in_ranges,
    read_colour_specs,
)
from annotate.errors import PromptError
from annotate.items.records import Vocabulary

RED, GREEN, BLUE, GREY = (230, 30, 40), (30, 200, 40), (20, 40, 230), (90, 90, 90)
REDS = ColourRange("hsv", ((340, 20), (0.3, 1), (0.2, 1)))


def row(*colours):
    return np.array([colours], np.uint8)


def vocabulary_of(entry):
    return Vocabulary("mugs.v1", {"plate": {}, "mug": {"colour": entry}}, "")


def test_a_hue_range_may_wrap():
    assert in_ranges(row(RED, GREEN, BLUE, GREY), [REDS]).tolist() == [[True, False, False, False]]
    others = ColourRange("hsv", ((20, 340), (0.3, 1), (0.2, 1)))
    assert in_ranges(row(RED, GREEN, BLUE, GREY), [others]).tolist() == [[False, True, True, False]]


def test_pale_and_dark_are_not_red():
    assert in_ranges(row((200, 170, 170), (30, 2, 2)), [REDS]).tolist() == [[False, False]]


def test_any_of_several_ranges_in_either_space():
    blues = ColourRange("rgb", ((0, 60), (0, 60), (200, 255)))
    assert in_ranges(row(RED, GREEN, BLUE), [REDS, blues]).tolist() == [[True, False, True]]


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20))
def test_the_limits_of_an_rgb_range_are_inclusive(colours):
    for colour in colours:
        exactly = ColourRange("rgb", tuple((channel, channel) for channel in colour))
        expected = [[other == colour for other in colours]]
        assert in_ranges(row(*colours), [exactly]).tolist() == expected


def test_the_full_range_contains_every_colour():
    image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for whole in (
        ColourRange("hsv", ((0, 360), (0, 1), (0, 1))),
        ColourRange("rgb", ((0, 255), (0, 255), (0, 255))),
    ):
        assert in_ranges(image, [whole]).all()


@pytest.mark.parametrize(
    "middle, strongest",
    [(RED, 0), (GREEN, 1), (BLUE, 2), ((250, 250, 250), 3), ((5, 5, 5), 4)],
    ids=["red", "green", "blue", "white", "black"],
)
def test_the_strength_is_highest_for_the_same_colour(middle, strongest):
    exactly = ColourRange("rgb", tuple((channel, channel) for channel in middle))
    strength = colour_strength(row(RED, GREEN, BLUE, (255, 255, 255), (0, 0, 0)), [exactly])
    assert strength[0].argmax() == strongest
    assert np.sort(strength[0])[-2] < 0.7 * strength[0].max()


def test_a_red_line_stands_out_from_grey_and_from_red():
    line, on_grey, on_red = colour_strength(
        row((242, 46, 41), (128, 128, 128), (190, 5, 5)), [REDS]
    )[0]
    assert line > on_red + 10 and line > on_grey + 100


def test_two_numbers_are_a_hue_range():
    [(class_id, spec)] = read_colour_specs(vocabulary_of([340, 20])).items()
    assert class_id == 1 and spec.outline is None
    assert in_ranges(row(RED, GREEN), spec.ranges).tolist() == [[True, False]]


def test_the_shipped_designator_is_a_square_of_brackets():
    [spec] = read_colour_specs(vocabulary.read_vocabulary("designator.v1")).values()
    assert spec.outline is not None and spec.outline.arm_share[1] < 0.5
    assert spec.aspect[0] < 1 < spec.aspect[1]
    assert in_ranges(row(RED, GREEN, GREY), spec.ranges).tolist() == [[True, False, False]]


HUE = {"space": "hsv", "hue_degrees": [340, 20]}


@pytest.mark.parametrize(
    "entry, message",
    [
        ("red", r"colour: expected a table, got 'red'"),
        ({}, r"colour\.ranges: expected one table or more"),
        ({"ranges": []}, r"colour\.ranges: expected one table or more"),
        ({"ranges": [{"space": "lab"}]}, r"ranges\[0\]\.space: expected 'rgb' or 'hsv', got 'lab'"),
        ({"ranges": [HUE, 3]}, r"ranges\[1\]\.space"),
        ({"ranges": [HUE | {"hue_degree": [1, 2]}]}, r"did you mean 'hue_degrees'"),
        ({"ranges": [HUE | {"value": [1, 0]}]}, r"value: .* the lower first, got \[1, 0\]"),
        ({"ranges": [HUE | {"value": [0, 255]}]}, r"value: expected two numbers from 0 to 1"),
        ({"ranges": [HUE | {"value": [0, float("nan")]}]}, r"value: expected two numbers"),
        ({"ranges": [HUE | {"value": [0.5]}]}, r"value: expected two numbers"),
        ({"ranges": [{"space": "rgb", "red": [True, 9]}]}, r"red: expected two numbers"),
        ({"ranges": [HUE], "apsect": [1, 2]}, r"did you mean 'aspect'\?\), got 'apsect'"),
        ({"ranges": [HUE], "gap": 1.5}, r"gap: expected a whole number from 0 to 1000, got 1.5"),
        ({"ranges": [HUE], "fill": [0, 2]}, r"fill: expected two numbers from 0 to 1"),
        ({"ranges": [HUE], "outline": {"arms": [0, 1]}}, r"outline\.arms: expected two numbers"),
        ({"ranges": [HUE], "outline": {"corners": 5}}, r"outline\.corners: .* from 2 to 4, got 5"),
        ({"ranges": [HUE], "outline": {}, "gap": 3}, r"gap: expected no such key beside outline"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_key(entry, message):
    with pytest.raises(PromptError, match=message) as caught:
        read_colour_specs(vocabulary_of(entry))
    assert "vocabulary mugs.v1, class 'mug', colour" in str(caught.value)
