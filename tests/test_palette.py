from itertools import combinations, pairwise

import cv2
import numpy as np
import pytest

from annotate.errors import UnknownName
from annotate.palette import Colour, class_colours, label_colour

TEN = [f"class {n}" for n in range(10)]


def lab(colour):
    pixel = np.array([[colour]], np.float32) / 255
    return cv2.cvtColor(pixel, cv2.COLOR_RGB2LAB)[0, 0]


def test_classes_are_distinct_and_bright():
    colours = class_colours(TEN)
    nearest = min(np.linalg.norm(lab(a) - lab(b)) for a, b in combinations(colours, 2))
    assert nearest > 25  # ΔE 2.3 is just noticeable
    assert min(lab(colour)[0] for colour in colours) > 55


def test_a_class_keeps_its_colour_when_classes_are_added():
    assert (
        class_colours(TEN)[:3]
        == class_colours(TEN[:3])
        == [label_colour(label, TEN) for label in TEN[:3]]
    )


def test_the_colours_of_many_classes_all_differ():
    assert len(set(class_colours([str(n) for n in range(200)]))) == 200


def test_tracks_are_shades_of_their_class():
    shades = [label_colour("class 1", TEN, track) for track in range(30)]
    assert len(set(shades)) == 30
    neighbours = [np.linalg.norm(lab(a) - lab(b)) for a, b in pairwise(shades)]
    assert min(neighbours) > 10
    of_class = [np.linalg.norm(lab(shade) - lab(class_colours(TEN)[1])) for shade in shades]
    of_other = [np.linalg.norm(lab(shade) - lab(class_colours(TEN)[0])) for shade in shades]
    assert max(of_class) < min(of_other)


def test_an_unknown_class_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'mug'"):
        label_colour("mugg", ["plate", "mug"])


def test_hex_is_red_green_blue():
    assert Colour(255, 138, 1).hex == "#FF8A01"


@pytest.mark.parametrize("colour", [*class_colours(TEN), Colour(0, 0, 0), Colour(255, 255, 255)])
def test_the_text_colour_is_readable(colour):
    assert abs(lab(colour)[0] - lab(colour.text_colour)[0]) > 40
