"""The boxes of a model's answer."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate.vlm.answers import AnswerParseError, ParsedBox, count_unplaced, parse_boxes

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


TWO = '[{"label": "mech", "box": [1, 2, 30, 40]}, {"label": "raine", "box": [5, 6, 70, 80]}]'
DRAFT = 'Perhaps [{"label": "mech", "box": [9, 9, 19, 19]}]? No.'
THOUGHTS = [
    "{draft}</think>{answer}",
    "<think>{draft}</think>{answer}",
    "<thinking>{draft} <reflection>{draft}</reflection></thinking>{answer}",
    "[THINK]{draft}[/THINK]{answer}",
    "◁think▷{draft}◁/think▷{answer}",
    "<seed:think>{draft}</seed:think>{answer}",
    "<|begin_of_thought|>{draft}<|end_of_thought|><|begin_of_solution|>{answer}<|end_of_solution|>",
    "<|START_THINKING|>{draft}<|END_THINKING|><|START_RESPONSE|>{answer}<|END_RESPONSE|>",
    "<|channel|>analysis<|message|>{draft}<|end|><|start|>assistant<|channel|>final<|message|>{answer}",
    "analysis {draft}assistantfinal{answer}",
    "<unused94>thought {draft}<unused95>{answer}",
    "{draft}\n**Final answer:** {answer}",
    "Here is my thought process: {draft}\nHere is my response:\n{answer}",
    "<think>{draft}</think><answer>{answer}</answer>",
    "<THOUGHT>{draft}</THOUGHT>\n```json\n{answer}\n```",
    '{{"reasoning": [{{"label": "mech", "box": [9, 9, 19, 19]}}], "boxes": {answer}}}',
    "{answer}<think>{draft}",
]


@pytest.mark.parametrize("marked", THOUGHTS)
def test_a_draft_in_the_thoughts_is_not_the_answer(marked):
    assert parse_boxes(marked.format(draft=DRAFT, answer=TWO)) == [A, B]
    assert parse_boxes(marked.format(draft=DRAFT, answer="[]")) == []


@pytest.mark.parametrize("text", [f"<think>{DRAFT}", f"{TWO}</think>", f"<reasoning>{TWO}"])
def test_thoughts_alone_are_no_answer(text):
    with pytest.raises(AnswerParseError, match="only thoughts"):
        parse_boxes(text)


NAMED_ELSEWHERE = [
    '{"boxes": [[1, 2, 30, 40], [5, 6, 70, 80]], "labels": ["mech", "raine"]}',
    '{"<OD>": {"bboxes": [[1, 2, 30, 40], [5, 6, 70, 80]], "class_names": ["mech", "raine"]}}',
    "<|ref|>mech<|/ref|><|det|>[[1, 2, 30, 40]]<|/det|><|ref|>raine<|/ref|><|det|>[[5, 6, 70, 80]]",
    "<ref>mech</ref><box>(1,2),(30,40)</box><ref>raine</ref><box>(5,6),(70,80)</box>",
    "- **Mech**: [1, 2, 30, 40]\n- **Raine**: [5, 6, 70, 80]",
    '[["mech", 1, 2, 30, 40], [5, 6, 70, 80, "raine"]]',
    '[{"label": {"name": "mech"}, "box": [[1, 2, 30, 40]]}, {"label": ["raine"], '
    '"box": [5, 6, 70, 80]}]',
]


@pytest.mark.parametrize("text", NAMED_ELSEWHERE)
def test_names_are_found_where_models_write_them(text):
    found = parse_boxes(text, ["Mech", "raine"])
    assert [(box.label.lower(), box.numbers) for box in found] == [
        (box.label, box.numbers) for box in (A, B)
    ]


SEVERAL_VALUES = [
    "{'label': 'mech', 'box': [1, 2, 30, 40]}\n{'label': 'raine', 'box': [5, 6, 70, 80]}",
    "{'label': 'mech', 'box': (1, 2, 30, 40)}, {'label': 'raine', 'box': (5, 6, 70, 80)}",
    "{\"label\": \"mech\", \"box\": [1, 2, 30, 40]}\n{'label': 'raine', 'box': [5, 6, 70, 80]}",
    "{'label': 'mech', 'box': [1, 2, 30, 40]} and {\"label\": \"raine\", \"box\": [5, 6, 70, 80]}",
    "{'label': 'mech', 'box': [1, 2, 30, 40]\n{'label': 'raine', 'box': [5, 6, 70, 80]}",
]


@pytest.mark.parametrize("text", SEVERAL_VALUES)
def test_every_value_is_mended_not_only_the_last(text):
    assert parse_boxes(text) == [A, B]


@pytest.mark.parametrize("box", ["[1, 2, 30, 40, 0.93]", '"1 2 30 40 0.93"', "[[1, 2], [30, 40]]"])
def test_a_fifth_number_is_the_score(box):
    [found] = parse_boxes(f'[{{"label": "mech", "box": {box}}}]')
    assert found.numbers == A.numbers and found.score in (0.93, None)
    assert found.score == 0.93 or "0.93" not in box


def test_deep_brackets_are_read_in_no_time():
    for text in ("[" * 40_000, "[" * 20_000 + "]" * 20_000, "{'a': [" * 9_000 + "}"):
        with pytest.raises(AnswerParseError):
            parse_boxes(text)


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
    "text", ['{"boxes": []}', "[]", "None there: []", '{"objects":[]}', '{"answer": {"boxes": []}}']
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
        "{}",
        '{"boxes": null}',
        '{"boxes": {}}',
        '{"boxes": [], "error": "no picture"}',
        '{"boxes": [{"label": "mech"}], "objects": []}',
        "[[[[[[[[",
        "__import__('os').system('touch owned')",
        '{"boxes": "none"',
    ],
)
def test_a_refusal_is_not_nothing_there(text, tmp_path):
    with pytest.raises(AnswerParseError):
        parse_boxes(text)
    assert not (tmp_path / "owned").exists()


def test_objects_without_coordinates_are_counted():
    whole = '{"label": "mech", "box": [1, 2, 3, 4]}'
    assert count_unplaced(f'{{"boxes": [{whole}, {{"label": "raine"}}, {{}}]}}') == 2
    assert count_unplaced(f"[{whole}]") == count_unplaced("[]") == 0
    assert count_unplaced('{"mech": [1, 2, 30, 40], "raine": [[5, 6, 70, 80]]}') == 0


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
