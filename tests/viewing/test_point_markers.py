import numpy as np
import pytest

from annotate.viewing import prompt_grid

GROUNDS = [(0, 0, 0), (255, 255, 255), (52, 226, 96), (255, 72, 72), (120, 120, 120)]


def ground(colour):
    return np.full((60, 80, 3), colour, np.uint8)


def colours(image):
    return {tuple(int(part) for part in pixel) for pixel in image.reshape(-1, 3)}


def test_positive_is_filled_and_negative_hollow():
    image = ground((40, 60, 80))
    prompt_grid.mark_points(image, np.array([[20.0, 30.0], [60.0, 30.0]]), np.array([1, 0]))
    assert tuple(image[30, 20]) == prompt_grid.POSITIVE_COLOUR
    assert (image[28:33, 18:23] == prompt_grid.POSITIVE_COLOUR).all()
    assert (image[28:33, 59:62] == (40, 60, 80)).all()
    assert prompt_grid.NEGATIVE_COLOUR in colours(image[20:41, 50:71])
    assert prompt_grid.NEGATIVE_COLOUR not in colours(image[20:41, 10:31])


@pytest.mark.parametrize("colour", GROUNDS)
def test_all_marks_show_on_any_ground(colour):
    for mark in (
        lambda image: prompt_grid.mark_points(image, np.array([[20.0, 30.0]]), np.array([1])),
        lambda image: prompt_grid.mark_points(image, np.array([[20.0, 30.0]]), np.array([0])),
        lambda image: prompt_grid.mark_box(image, (10, 10, 60, 50)),
        lambda image: prompt_grid.mark_mask(
            image, np.pad(np.ones((30, 40), bool), ((15, 15), (20, 20)))
        ),
    ):
        image = ground(colour)
        mark(image)
        far = [pixel for pixel in colours(image) if max(abs(np.subtract(pixel, colour))) > 100]
        assert far


def test_a_box_is_dashed():
    image = ground((90, 90, 90))
    prompt_grid.mark_box(image, (10, 10, 70, 50))
    top = (image[10, 14:66] == 255).all(axis=1)
    assert 0.3 < top.mean() < 0.8
    assert np.abs(np.diff(top.astype(int))).sum() >= 6
    assert (image[16:44, 16:64] == 90).all()


def test_a_mask_is_dashed_along_its_outline():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 20:60] = True
    image = ground((90, 90, 90))
    prompt_grid.mark_mask(image, mask)
    assert (image[26:34, 26:54] == 90).all()
    assert (image[:14] == 90).all()
    assert 0.3 < (image[20, 24:56] == 255).all(axis=1).mean() < 0.8


def test_a_mask_of_one_pixel_or_none_is_no_trouble():
    mask = np.zeros((60, 80), bool)
    image = ground((90, 90, 90))
    prompt_grid.mark_mask(image, mask)
    mask[3, 4] = True
    prompt_grid.mark_mask(image, mask)
    assert (image == 90).all()
