from itertools import combinations, pairwise

import cv2
import numpy as np
import pytest

from annotate.errors import UnknownName
from annotate.palette import Colour, colour_of, palette

TEN = [f"class {n}" for n in range(10)]


def lab(colour):
    pixel = np.array([[colour]], np.float32) / 255
    return cv2.cvtColor(pixel, cv2.COLOR_RGB2LAB)[0, 0]


def test_classes_are_told_apart_and_bright():
    colours = palette(TEN)
    nearest = min(np.linalg.norm(lab(a) - lab(b)) for a, b in combinations(colours, 2))
    assert nearest > 25  # ΔE 2.3 is just noticeable
    assert min(lab(colour)[0] for colour in colours) > 55


def test_a_class_keeps_its_colour_when_others_join():
    assert palette(TEN)[:3] == palette(TEN[:3]) == [colour_of(label, TEN) for label in TEN[:3]]


def test_many_classes_all_differ():
    assert len(set(palette([str(n) for n in range(200)]))) == 200


def test_tracks_are_shades_of_their_class():
    shades = [colour_of("class 1", TEN, track) for track in range(30)]
    assert len(set(shades)) == 30
    neighbours = [np.linalg.norm(lab(a) - lab(b)) for a, b in pairwise(shades)]
    assert min(neighbours) > 10
    of_class = [np.linalg.norm(lab(shade) - lab(palette(TEN)[1])) for shade in shades]
    of_other = [np.linalg.norm(lab(shade) - lab(palette(TEN)[0])) for shade in shades]
    assert max(of_class) < min(of_other)


def test_an_unknown_class_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'mug'"):
        colour_of("mugg", ["plate", "mug"])


def test_hex_is_red_green_blue():
    assert Colour(255, 138, 1).hex == "#FF8A01"


@pytest.mark.parametrize("colour", [*palette(TEN), Colour(0, 0, 0), Colour(255, 255, 255)])
def test_ink_can_be_read(colour):
    assert abs(lab(colour)[0] - lab(colour.ink)[0]) > 40
