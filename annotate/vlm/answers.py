"""Parse the boxes of a vision-language model's answer.

An answer is untrusted data: its thoughts are removed, JSON is found in the rest however it is
wrapped, truncated or misspelt, then repaired and checked; nothing in it is ever executed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from annotate.errors import needs
from annotate.vlm.thoughts import without_thoughts

FourNumbers = tuple[float, float, float, float]

_LABEL_KEYS = (
    *("label", "name", "class", "class_name", "object", "category", "category_name", "label_name"),
    *("phrase", "text", "type", "title", "entity", "tag"),
)
_BOX_KEYS = (
    *("box_2d", "bbox_2d", "box", "bbox", "bounding_box", "boundingbox", "xyxy", "coordinates"),
    *("bounding_box_2d", "box2d", "bbox2d", "coords", "position", "location"),
)
_LIST_KEYS = (
    *("boxes", "objects", "detections", "bboxes", "bounding_boxes", "results", "items"),
    *("bboxes_2d", "boxes_2d", "predictions", "annotations", "instances"),
)
_WRAPPER_KEYS = ("result", "answer", "response", "output", "data", "arguments", "parameters")
_LABEL_LIST_KEYS = (
    *("labels", "names", "classes", "class_names", "categories", "phrases", "texts", "objects"),
    *_LABEL_KEYS,
)
_SCORE_KEYS = ("score", "confidence", "probability", "scores", "confidences", "probabilities")
_IMAGE_KEYS = ("picture", "image", "image_id", "picture_id", "image_index", "frame")
_THOUGHT_KEYS = ("thought", "thoughts", "thinking", "reasoning", "analysis", "draft", "rationale")
_CORNER_KEYS = {  # keys of the four numbers -> the order of the numbers
    ("x_min", "y_min", "x_max", "y_max"): "xyxy",
    ("xmin", "ymin", "xmax", "ymax"): "xyxy",
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("left", "top", "right", "bottom"): "xyxy",
    ("x", "y", "width", "height"): "xywh",
    ("x", "y", "w", "h"): "xywh",
    ("left", "top", "width", "height"): "xywh",
}
_MAX_NUMBER = 1e9  # beyond any unit of coordinates
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_TUPLE = re.compile(r"\(\s*((?:[-+\d.eE]+\s*,\s*)+[-+\d.eE]+)\s*,?\s*\)")
_CORNER_PAIR = re.compile(  # Qwen-VL's own notation, (x1,y1),(x2,y2)
    r"\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)\s*,\s*\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)"
)
_NAME_TAG = re.compile(r"<\|?ref\|?>(.*?)<\|?/ref\|?>(?:\s|<[^<>]*>)*\Z", re.DOTALL)


class AnswerParseError(Exception):
    """An answer that holds no boxes, and does not say that there are none."""


@dataclass(frozen=True)
class ParsedBox:
    """A box as a model wrote it; `order` is "" where the numbers have no names."""

    label: str
    numbers: FourNumbers
    order: str = ""
    score: float | None = None
    image_id: str = ""


def parse_boxes(text: str, phrases: Sequence[str] = ()) -> list[ParsedBox]:
    """Parse the boxes of an answer, in its order; an empty list where it holds an empty one.

    A box without a label gets the name before it in the text, if that is one of `phrases`.

    Raises:
        AnswerParseError: a refusal, other text, or JSON without boxes.
    """
    answer = without_thoughts(text)
    boxes: list[ParsedBox] = []
    is_empty = False
    for value, before in _values_and_text_before(answer):
        label = _name_before(before, phrases)
        try:
            found = list(_find_boxes(value, "", ""))
        except RecursionError:
            raise AnswerParseError("brackets that are nested too deeply") from None
        boxes += [box if box.label else replace(box, label=label) for box in found]
        is_empty = is_empty or _is_empty_answer(value)
    if not boxes and not is_empty:
        thoughts_only = "only thoughts, no answer" if text.strip() else "an empty answer"
        raise AnswerParseError(answer.strip()[:120] or thoughts_only)
    return boxes


def count_unplaced(text: str) -> int:
    """Count the objects that an answer lists without coordinates that can be read."""
    return sum(map(_count_unplaced, json_values(text)))


def _count_unplaced(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_count_unplaced(each) for each in value.values())
    if not isinstance(value, list):
        return 0
    return sum(isinstance(each, dict) and not any(_find_boxes(each, "", "")) for each in value)


def nearest_text(label: str, texts: Sequence[str]) -> str | None:
    """Return the text that a model means by its label, near misses included, or None.

    Articles, numbers behind a name ("cat 2") and underscores do not count.
    """
    by_folded = {text.casefold(): text for text in reversed(texts)}
    plain = label.strip().strip("\"'").casefold()
    words = re.sub(r"[\s_-]+", " ", plain)
    bare = re.sub(r"^(?:an?|the) |\s*#?\d+$", "", words).strip()
    for variant in (plain, words, bare):
        nearest = get_close_matches(variant, by_folded, n=1, cutoff=0.8)
        if nearest:
            return by_folded[nearest[0]]
    return None


def json_values(text: str) -> Iterator[Any]:
    """Find the JSON values in an answer, without its thoughts; repaired where one is not valid."""
    return (value for value, _ in _values_and_text_before(without_thoughts(text)))


def _values_and_text_before(text: str) -> Iterator[tuple[Any, str]]:
    """Yield each JSON value, and the text between it and the value before it."""
    text = _CORNER_PAIR.sub(r"[\1, \2, \3, \4]", text)
    decoder, position, before_start = json.JSONDecoder(), 0, 0
    value_ends, may_repair_rest = _value_ends(text), True
    while (opening := _next_bracket(text, position)) is not None:
        if too_deep := _MAX_NESTING.match(text, opening):
            position = too_deep.end()
            continue
        try:
            value, end = decoder.raw_decode(text, opening)
            values = [value]
        except (ValueError, RecursionError):
            is_closed = opening in value_ends
            end = value_ends.get(opening, len(text))
            values = _repaired_values(text[opening:end]) if is_closed or may_repair_rest else []
            if not values:  # prose in brackets, or brackets that are never closed
                position = end if is_closed else opening + 1
                may_repair_rest = may_repair_rest and is_closed
                continue
        if not _is_footnote(values[0]):
            before = text[before_start:opening]
            yield from ((value, before) for value in values)
            before_start = end
        position = end


def _value_ends(text: str) -> dict[int, int]:
    """Map each opening bracket to the end of its value, where it is closed."""
    ends: dict[int, int] = {}
    open_brackets: list[tuple[str, int]] = []
    pairs = {"]": "[", "}": "{"}
    counts = {"[": 0, "{": 0}
    for match in re.finditer(r"[\[\]{}]", text):
        bracket = match[0]
        if bracket in counts:
            open_brackets.append((bracket, match.start()))
            counts[bracket] += 1
        elif counts[pairs[bracket]]:
            while open_brackets:  # a bracket between them was never closed
                opened, start = open_brackets.pop()
                counts[opened] -= 1
                if opened == pairs[bracket]:
                    ends[start] = match.end()
                    break
    return ends


def _next_bracket(text: str, start: int) -> int | None:
    match = re.compile(r"[\[{]").search(text, start)
    return match.start() if match else None


def _is_footnote(value: Any) -> bool:
    """Return whether a JSON value is a bracket in prose, such as [1] or [sic]."""
    return isinstance(value, list) and 0 < len(value) < 4 and not _has_containers(value)


def _has_containers(value: Sequence[Any]) -> bool:
    return any(isinstance(each, list | dict) for each in value)


_MAX_NESTING = re.compile(r"(?:[\[{][^\[\]{}]*){100}")  # deeper than any answer: not repaired
_NEW_VALUE = re.compile(r"(?<=[\]}\w'\"])[ \t]*\r?\n\s*(?=\{)")  # no comma: not of the same list


def _repaired_values(text: str) -> list[Any]:
    """Repair the damaged JSON of one value, or of several if none of them is closed."""
    pieces = (_repair_json(piece) for piece in _NEW_VALUE.split(text))
    return [piece for piece in pieces if piece is not None]


def _repair_json(text: str) -> Any:
    """Repair damaged JSON; None where the text does not look like JSON.

    The text after the last closing bracket is dropped: a number at its end may be cut off.
    """
    text = _TUPLE.sub(r"[\1]", text)
    end = max(text.rfind("]"), text.rfind("}"))
    if end < 0 or _MAX_NESTING.search(text) or not re.match(r"[\[{]\s*[\[{\"'\w\]}+-]", text):
        return None
    try:
        value = needs("json_repair").loads(text[: end + 1], skip_json_loads=True)
    except (ValueError, RecursionError):
        return None
    if not value and re.search(r"\w", text[:end]):  # words that no repair could read
        return None
    return value if isinstance(value, list | dict) else None


def _name_before(text: str, phrases: Sequence[str]) -> str:
    """Read the name that stands before a value: in a <ref> tag, or at the end of its line."""
    if match := _NAME_TAG.search(text):
        return match[1].strip()
    words = re.sub(r"<[^<>]*>|```\w*", " ", text).rstrip(" \t:=-–*_`\"'(")
    line = re.sub(r"[\s*_`\"']+", " ", words.rpartition("\n")[2]).casefold().strip()
    named = [p for p in phrases if re.search(rf"(?:^|\W){re.escape(p.casefold())}$", line)]
    return max(named, key=len, default="")


def _is_empty_answer(value: Any) -> bool:
    """Return whether a value is an empty list, or an object that holds one under a known key.

    An empty object and null say nothing: a tool call without arguments is not "nothing there".
    """
    if isinstance(value, dict):
        fields = {str(key).lower(): each for key, each in value.items()}
        lists = [fields[key] for key in _LIST_KEYS if key in fields]
        if lists or fields.get("error"):
            return [] in lists and not any(lists) and not fields.get("error")
        return any(_is_empty_answer(fields[key]) for key in _WRAPPER_KEYS if key in fields)
    return isinstance(value, list) and not value


def _find_boxes(value: Any, label: str, image_id: str) -> Iterator[ParsedBox]:
    """Find the boxes in a JSON value; `label` and `image_id` come from the values around it.

    A value nested deeper than Python's own limit raises RecursionError: see `parse_boxes`.
    """
    if isinstance(value, dict):
        yield from _boxes_of_object(value, label, image_id)
    elif isinstance(value, list):
        box = _box_of_list(value)
        if box is not None:
            yield replace(box, label=box.label or label, image_id=image_id)
        elif _has_containers(value):
            for each in value:
                yield from _find_boxes(each, label, image_id)


def _boxes_of_object(value: Mapping[str, Any], label: str, image_id: str) -> Iterator[ParsedBox]:
    fields = {str(key).lower(): each for key, each in value.items()}
    label = _first_text(fields, _LABEL_KEYS) or label
    image_id = _first_text(fields, _IMAGE_KEYS) or image_id
    if (box := _box_of_fields(fields)) is not None:
        score = _reported_score(fields)
        score = box.score if score is None else score
        yield replace(box, label=label or box.label, score=score, image_id=image_id)
        return
    if columns := _columns(fields):
        yield from (replace(box, image_id=image_id) for box in columns)
        return
    for key, each in value.items():
        name = str(key).lower()
        if name not in _THOUGHT_KEYS:
            is_label = name not in (*_LIST_KEYS, *_BOX_KEYS, *_WRAPPER_KEYS)
            yield from _find_boxes(each, label or (str(key) if is_label else ""), image_id)


def _columns(fields: Mapping[str, Any]) -> list[ParsedBox]:
    """Read an object of lists side by side: the boxes, their labels, and perhaps their scores."""
    for name in (*_LIST_KEYS, *_BOX_KEYS):
        rows = fields.get(name)
        if not isinstance(rows, list) or not rows:
            continue
        boxes = [box for row in rows if isinstance(row, list) and (box := _box_of_list(row))]
        labels = _column(fields, [key for key in _LABEL_LIST_KEYS if key != name], len(rows))
        if len(boxes) != len(rows) or not labels:
            continue
        scores = _column(fields, _SCORE_KEYS, len(rows)) or [None] * len(rows)
        return [
            replace(
                box,
                label=box.label or _first_text({"label": label}, ("label",)),
                score=box.score if score is None else _reported_score({"score": score}),
            )
            for box, label, score in zip(boxes, labels, scores, strict=True)
        ]
    return []


def _column(fields: Mapping[str, Any], names: Sequence[str], length: int) -> list[Any]:
    columns = (fields[name] for name in names if isinstance(fields.get(name), list))
    return next((column for column in columns if len(column) == length), [])


def _box_of_fields(fields: Mapping[str, Any]) -> ParsedBox | None:
    """Find the four numbers of a box under any known key, and their order ("" if unknown)."""
    for names, order in _CORNER_KEYS.items():
        if all(name in fields for name in names):
            box = _box_of_list([fields[name] for name in names])
            if box is not None:
                return replace(box, order=order)
    for name in _BOX_KEYS:
        value = fields.get(name)
        if isinstance(value, dict):
            return _box_of_fields({str(key).lower(): each for key, each in value.items()})
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
            value = value[0]
        box = _box_of_list(value)
        if box is not None:
            return box
    return None


def _box_of_list(value: Any) -> ParsedBox | None:
    """Read four numbers, perhaps with a score behind them, and a name before or behind them."""
    if isinstance(value, str):
        value = _NUMBER.findall(value)
    if not isinstance(value, list):
        return None
    if len(value) == 2 and all(isinstance(corner, list) for corner in value):
        value = [*value[0], *value[1]]  # two corners
    numbers = [_to_float(each) for each in value]
    names = [each for each in value if isinstance(each, str) and math.isnan(_to_float(each))]
    if len(names) == 1 and (value[0] is names[0] or value[-1] is names[0]):
        numbers = [_to_float(each) for each in value if each is not names[0]]
    else:
        names = []
    if len(numbers) not in (4, 5) or not all(abs(each) < _MAX_NUMBER for each in numbers):
        return None
    first, second, third, fourth, *scores = numbers
    if scores and not 0 <= scores[0] <= 1:
        return None
    score = scores[0] if scores else None
    return ParsedBox("".join(names), (first, second, third, fourth), score=score)


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _first_text(fields: Mapping[str, Any], keys: Sequence[str]) -> str:
    for key in keys:
        value = fields.get(key)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            value = value.get("name", value.get("label"))
        if isinstance(value, str | int):
            return str(value)
    return ""


def _reported_score(fields: Mapping[str, Any]) -> float | None:
    """Read the score that the model reports, if it is within 0..1."""
    numbers = [_to_float(fields[name]) for name in _SCORE_KEYS if name in fields]
    return numbers[0] if numbers and 0 <= numbers[0] <= 1 else None
