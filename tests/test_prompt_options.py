import numpy as np
import pytest
from PIL import Image

from annotate import prompts
from annotate.errors import PromptError
from annotate.prompts import PromptScope

SCOPE = PromptScope((64, 48), 100)


def test_boxes_are_parsed_with_and_without_an_object():
    assert prompts.parse_box("7,3,1,2.5,64,48", SCOPE) == (7, 3, (1, 2.5, 64, 48))
    assert prompts.parse_frame_box("7,1,2,9,9", SCOPE) == (7, (1, 2, 9, 9))


@pytest.mark.parametrize(
    "text, message",
    [
        ("7,3,1,2,9", "expected FRAME,OBJECT,X1,Y1,X2,Y2"),
        ("7,3,a,2,9,9", "expected FRAME,OBJECT"),
        ("7,3,nan,2,9,9", "expected FRAME,OBJECT"),
        ("7.5,3,1,2,9,9", "whole numbers before the box"),
        ("7,-3,1,2,9,9", "whole numbers before the box"),
        ("100,3,1,2,9,9", "the clip has frames 0 to 99"),
        ("7,3,9,2,1,9", "not a box"),
        ("7,3,1,2,65,9", "inside 64x48"),
    ],
)
def test_a_bad_box_is_named(text, message):
    with pytest.raises(PromptError, match=f"`box` {text}: .*{message}"):
        prompts.parse_box(text, SCOPE)


def test_the_bright_pixels_of_a_picture_are_the_mask(tmp_path):
    image = np.zeros((48, 64), np.uint8)
    image[4:9, 5:20], image[30, 30] = 255, 100
    Image.fromarray(image).save(tmp_path / "a:b.png")
    frame, object_id, mask = prompts.parse_mask(f"7:3:{tmp_path / 'a:b.png'}", SCOPE)
    assert (frame, object_id, mask.sum()) == (7, 3, 75)


@pytest.mark.parametrize(
    "image, message",
    [
        (Image.new("L", (64, 47), 255), "the mask is 64x47, but the clip is 64x48"),
        (Image.new("L", (64, 48)), "the mask is empty"),
        (None, "not a picture"),
    ],
)
def test_a_bad_mask_is_named(tmp_path, image, message):
    path = tmp_path / "m.png"
    image.save(path) if image else path.write_text("no picture")
    with pytest.raises(PromptError, match=message):
        prompts.parse_mask(f"7:3:{path}", SCOPE)


@pytest.mark.parametrize("text", ["7:3", "7:x:m.png", "m.png"])
def test_a_bad_mask_text_is_named(text):
    with pytest.raises(PromptError, match="expected FRAME:OBJECT:mask.png"):
        prompts.parse_mask(text, SCOPE)


def test_a_missing_mask_file_is_named():
    with pytest.raises(PromptError, match="no such file"):
        prompts.parse_mask("0:1:nowhere.png", SCOPE)
