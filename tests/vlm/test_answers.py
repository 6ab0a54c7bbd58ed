"""Boxes out of a model's words."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate.vlm.answers import AnswerParseError, ParsedBox, parse_boxes

A, B = ParsedBox("mech", (1, 2, 30, 40)), ParsedBox("raine", (5, 6, 70, 80))
WHOLE = (
    '{"boxes": [{"label": "mech", "box_2d": [1, 2, 30, 40]}, '
    '{"label": "raine", "box_2d": [5, 6, 70, 80]}]}'
)

READABLE = {
    "sound": WHOLE,
    "prose round it": f"Sure! As in [1], {{so to say}}:\n```json\n{WHOLE}\n```\nMore?",
    "thoughts before it": f'<think>[{{"label": "x", "box_2d": [9, 9, 9, 9]}}]</think>{WHOLE}',
    "single quotes": WHOLE.replace('"', "'"),
    "no quotes, commas too many": WHOLE.replace('"boxes"', "boxes").replace("]},", "],},"),
    "a bare list": json.dumps(json.loads(WHOLE)["boxes"]),
    "one object a line": "\n".join(json.dumps(b) for b in json.loads(WHOLE)["boxes"]),
    "under their names": '{"mech": [1, 2, 30, 40], "raine": [[5, 6, 70, 80]]}',
    "other keys": '[{"class": "mech", "bbox": "[1, 2, 30, 40]"}, {"name": "raine", "BBOX_2D": '
    '["5", "6", "70", "80"]}]',
    "two corners": '[{"label": "mech", "box": [[1, 2], [30, 40]]}, '
    '{"label": "raine", "coordinates": [[5, 6], [70, 80]]}]',
    "numbers that are none": WHOLE[:-2] + ', {"label": "mech", "box_2d": [1, NaN, 3, 1e999]}, '
    '{"label": "mech", "box_2d": [1, 2, true, 3]}, {"label": "mech", "box_2d": [1, 2, 3]}]}',
}


@pytest.mark.parametrize("how", READABLE)
def test_boxes_are_read_however_they_are_wrapped(how):
    assert parse_boxes(READABLE[how]) == [A, B]


@pytest.mark.parametrize("end", range(WHOLE.index("raine"), len(WHOLE)))
def test_a_cut_answer_gives_only_boxes_that_are_whole(end):
    """Wherever it is cut: a number at the end may be half of one, and is not believed."""
    assert parse_boxes(WHOLE[:end]) in ([A], [A, B])
    assert end > WHOLE.index("80]") or parse_boxes(WHOLE[:end]) == [A]


SIDES = {
    '{"x_min": 1, "y_min": 2, "x_max": 30, "y_max": 40}': "xyxy",
    '{"ymin": 2, "xmin": 1, "ymax": 40, "xmax": 30}': "xyxy",
    '{"left": 1, "top": 2, "right": 30, "bottom": 40}': "xyxy",
    '{"x": 1, "y": 2, "width": 30, "height": 40}': "xywh",
}


@pytest.mark.parametrize("box", SIDES)
def test_sides_that_are_named_say_their_order(box):
    expected = ParsedBox("mech", (1, 2, 30, 40), SIDES[box])
    assert parse_boxes(f'[{{"label": "mech", "box": {box}}}]') == [expected]
    assert parse_boxes(f'[{{"label": "mech", {box[1:]}]') == [expected]


@pytest.mark.parametrize(
    "text", ['{"boxes": []}', "[]", "{}", "None there: []", '{"objects":null}']
)
def test_nothing_there_is_an_answer(text):
    assert parse_boxes(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I'm sorry, I can't help with that.",
        "I see none [sic] of them.",
        '{"boxes": [{"label": "mech"}]}',
        '{"error": "no picture"}',
        "[[[[[[[[",
        "__import__('os').system('touch owned')",
        '{"boxes": "none"',
    ],
)
def test_a_refusal_is_not_nothing_there(text, tmp_path):
    with pytest.raises(AnswerParseError):
        parse_boxes(text)
    assert not (tmp_path / "owned").exists()


def test_a_score_that_is_one_is_kept():
    [one, two] = parse_boxes('[{"box": [1,2,3,4], "score": 0.5}, {"box": [1,2,3,4], "score": 95}]')
    assert one.score == 0.5 and two.score is None


@settings(deadline=None)
@given(st.text(alphabet="[]{}\":,'0123456789.-eE boxeslabl_2d\n`", max_size=200))
def test_any_words_at_all_give_boxes_or_are_unreadable(text):
    try:
        found = parse_boxes(text)
    except AnswerParseError:
        return
    for said in found:
        assert len(said.numbers) == 4 and all(abs(n) < float("inf") for n in said.numbers)
