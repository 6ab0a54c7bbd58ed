"""Boxes out of a model's words: JSON, however it is wrapped, cut short or misspelt.

A model's words are data: they are parsed, repaired and checked, and never run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotate.errors import needs

Four = tuple[float, float, float, float]

_LABELS = ("label", "name", "class", "object", "category", "phrase", "text", "type")
_BOXES = ("box_2d", "bbox_2d", "box", "bbox", "bounding_box", "boundingbox", "xyxy", "coordinates")
_LISTS = ("boxes", "objects", "detections", "bboxes", "bounding_boxes", "results", "items")
_SCORES = ("score", "confidence", "probability")
_PICTURES = ("picture", "image", "image_id", "picture_id", "image_index", "frame")
_SIDES = {  # keys that name the sides -> what four numbers in that order are
    ("x_min", "y_min", "x_max", "y_max"): "xyxy",
    ("xmin", "ymin", "xmax", "ymax"): "xyxy",
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("left", "top", "right", "bottom"): "xyxy",
    ("x", "y", "width", "height"): "xywh",
    ("x", "y", "w", "h"): "xywh",
    ("left", "top", "width", "height"): "xywh",
}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)


class Unreadable(Exception):
    """There are no boxes in it, and it does not say that there are none."""


@dataclass(frozen=True)
class Said:
    """A box as a model said it; `order` is "" where nothing but their place tells the numbers."""

    label: str
    numbers: Four
    order: str = ""
    score: float | None = None
    picture: str = ""


def read(text: str) -> list[Said]:
    """The boxes in a model's words, in its order; none where it says that there are none.

    Raises:
        Unreadable: a refusal, other words, or JSON without boxes.
    """
    values = list(json_values(text))
    found = [said for value in values for said in _boxes(value, "", "")]
    if not found and not any(_says_none(value) for value in values):
        raise Unreadable(text.strip()[:120] or "an empty answer")
    return found


def json_values(text: str) -> Iterator[Any]:
    """The JSON values in a model's words, its thoughts left out; repaired where none is whole."""
    return _values(_THOUGHTS.sub("", text))


def _values(text: str) -> Iterator[Any]:
    decoder, place, found = json.JSONDecoder(), 0, False
    while (opening := _opening(text, place)) is not None:
        try:
            value, place = decoder.raw_decode(text, opening)
        except (ValueError, RecursionError):
            place = opening + 1
            if not found and (value := _repaired(text[opening:])) is not None:
                yield value
                return
            continue
        if not _is_footnote(value):
            found = True
            yield value


def _opening(text: str, start: int) -> int | None:
    found = re.compile(r"[\[{]").search(text, start)
    return found.start() if found else None


def _is_footnote(value: Any) -> bool:
    """A bracket in prose, such as [1] or [sic]."""
    return isinstance(value, list) and 0 < len(value) < 4 and not _has_containers(value)


def _has_containers(value: Sequence[Any]) -> bool:
    return any(isinstance(each, list | dict) for each in value)


def _repaired(text: str) -> Any:
    """What a damaged text most likely meant; None where it is not JSON-like at all.

    What follows the last closed bracket is left out: a number at the very end may be half of one.
    """
    end = max(text.rfind("]"), text.rfind("}"))
    if end < 0 or not re.match(r"[\[{]\s*[\[{\"'\w\]}+-]", text):
        return None
    value = needs("json_repair").loads(text[: end + 1], skip_json_loads=True)
    return value if isinstance(value, list | dict) else None


def _says_none(value: Any) -> bool:
    """Whether it is an empty list, or an object that holds one or nothing."""
    if isinstance(value, dict):
        held = [each for key, each in value.items() if key.lower() in _LISTS]
        return not value or any(not each for each in held)
    return isinstance(value, list) and not value


def _boxes(value: Any, label: str, picture: str) -> Iterator[Said]:
    """The boxes in a value; `label` and `picture` are what it stands under."""
    if isinstance(value, dict):
        keyed = {str(key).lower(): each for key, each in value.items()}
        label = _text(keyed, _LABELS) or label
        picture = _text(keyed, _PICTURES) or picture
        here = _numbers(keyed)
        if here is not None:
            yield Said(label, *here, score=_score(keyed), picture=picture)
            return
        for key, each in value.items():
            inner = label if str(key).lower() in (*_LISTS, *_BOXES) else str(key)
            yield from _boxes(each, label or inner, picture)
    elif isinstance(value, list):
        numbers = _four(value)
        if numbers is not None:
            yield Said(label, numbers, picture=picture)
        elif _has_containers(value):
            for each in value:
                yield from _boxes(each, label, picture)


def _numbers(keyed: Mapping[str, Any]) -> tuple[Four, str] | None:
    """Four numbers and their order ("" if unsaid), from under any of the names that are used."""
    for names, order in _SIDES.items():
        if all(name in keyed for name in names):
            four = _four([keyed[name] for name in names])
            if four is not None:
                return four, order
    for name in _BOXES:
        held = keyed.get(name)
        if isinstance(held, dict):
            return _numbers({str(key).lower(): each for key, each in held.items()})
        four = _four(held)
        if four is not None:
            return four, ""
    return None


def _four(value: Any) -> Four | None:
    if isinstance(value, str):
        value = _NUMBER.findall(value)
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, list) for v in value):
        value = [*value[0], *value[1]]  # two corners
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [_number(each) for each in value]
    if not all(map(math.isfinite, numbers)):
        return None
    first, second, third, fourth = numbers
    return first, second, third, fourth


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _text(keyed: Mapping[str, Any], names: Sequence[str]) -> str:
    said = [keyed[name] for name in names if isinstance(keyed.get(name), str | int)]
    return str(said[0]) if said else ""


def _score(keyed: Mapping[str, Any]) -> float | None:
    """A score that the model gave of itself, if it is one."""
    numbers = [_number(keyed[name]) for name in _SCORES if name in keyed]
    return numbers[0] if numbers and 0 <= numbers[0] <= 1 else None
