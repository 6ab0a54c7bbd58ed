"""Build the messages sent to a vision-language model, and parse boxes from its answers.

Prompt templates are versioned files that are never edited once used; images are sent as JPEG with
full chroma resolution, so that thin coloured lines do not fade. An answer is untrusted data: JSON
is found in it however it is wrapped, truncated or misspelt, then repaired and checked; nothing in
it is ever executed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template as _Substitution
from typing import Any

from PIL import Image

from annotate.errors import PromptError, UnknownName, needs
from annotate.files import data_dir
from annotate.items.records import Picture

_JPEG_QUALITY = 95  # of the JPEG; its colours are kept whole, or thin coloured lines would fade


@dataclass(frozen=True)
class Template:
    """The words of a question, from a file that is never edited once used; `$things` is filled."""

    name: str
    text: str
    sha256: str

    def fill(self, phrases: Sequence[str]) -> str:
        """The question after these things, one a line."""
        return _Substitution(self.text).substitute(things="\n".join(f'- "{t}"' for t in phrases))


def load_template(name: str) -> Template:
    """A template by the name under which it ships (`boxes.v1`), or by its file.

    Raises:
        UnknownName: no such template; names the nearest.
        PromptError: not text, or it does not say where the things go.
    """
    shipped = {p.name.removesuffix(".txt"): p for p in (data_dir("prompts") / "vlm").glob("*.txt")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise UnknownName("prompt template", name, shipped)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise PromptError(f"{path}: not text in UTF-8") from None
    if name not in shipped and "$things" not in text:
        raise PromptError(f"{path}: no $things: it must stand where the things looked for go")
    return Template(name, text, hashlib.sha256(data).hexdigest())


def resize(image: Picture, side: int) -> Image.Image:
    """The picture with its longest side made `side` pixels; as it is for 0."""
    picture = Image.fromarray(image)
    longest = max(picture.size)
    if side in (0, longest):
        return picture
    width, height = (max(round(each * side / longest), 1) for each in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def image_part(picture: Image.Image, detail: str | None) -> dict[str, Any]:
    """A picture as a part of a message; `detail` is what OpenAI's models take, None leaves it out.

    The same pixels give the same bytes.
    """
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    address = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    image_url = {"url": address} | ({"detail": detail} if detail else {})
    return {"type": "image_url", "image_url": image_url}


def text_part(text: str) -> dict[str, Any]:
    """Text as a part of a message."""
    return {"type": "text", "text": text}


def boxes_schema(phrases: Sequence[str]) -> dict[str, Any]:
    """The form of an answer after these things, as a JSON schema that strict servers accept."""
    box = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
    label = {"type": "string", "enum": list(phrases)}
    entry = strict_object({"label": label, "box_2d": box})
    return strict_object({"boxes": {"type": "array", "items": entry}})


def strict_object(properties: dict[str, Any]) -> dict[str, Any]:
    """An object of these properties, all of them needed, and no others."""
    told = {"type": "object", "properties": properties, "required": list(properties)}
    return told | {"additionalProperties": False}


@dataclass(frozen=True)
class ResponseFormat:
    """The form of an answer: a function to call, its arguments' schema, and templates' names.

    `of` is what an answer gives, in words; `plainly` says the form where nothing else does, and
    `again` asks anew after an answer that could not be read.
    """

    name: str
    function: str
    description: str
    schema: Mapping[str, Any]
    json_template: str
    retry_template: str

    def request_fields(self, mode: str) -> dict[str, Any]:
        """What a request says of it: `tool`, `schema`, or nothing for `json`."""
        if mode == "tool":
            told = {
                "name": self.function,
                "description": self.description,
                "parameters": self.schema,
            }
            choice = {"type": "function", "function": {"name": self.function}}
            return {"tools": [{"type": "function", "function": told}], "tool_choice": choice}
        if mode == "schema":
            named = {"name": self.name, "strict": True, "schema": self.schema}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        return {}


def boxes_format(phrases: Sequence[str]) -> ResponseFormat:
    """An answer that gives boxes of these things."""
    told = "Give the boxes."
    return ResponseFormat("boxes", "give_boxes", told, boxes_schema(phrases), "json.v1", "again.v1")


def verdicts_format(numbers: Sequence[int]) -> ResponseFormat:
    """An answer that says of each numbered picture whether it shows what is looked for."""
    entry = strict_object(
        {
            "id": {"type": "integer", "enum": list(numbers)},
            "shown": {"type": "boolean"},
            "confidence": {"type": "number"},
        }
    )
    told = strict_object({"pictures": {"type": "array", "items": entry}})
    say = "Say of every numbered picture whether it shows what is looked for."
    return ResponseFormat("verdicts", "judge_pictures", say, told, "find-json.v1", "find-again.v1")


FourNumbers = tuple[float, float, float, float]

_LABEL_KEYS = ("label", "name", "class", "object", "category", "phrase", "text", "type")
_BOX_KEYS = (
    "box_2d",
    "bbox_2d",
    "box",
    "bbox",
    "bounding_box",
    "boundingbox",
    "xyxy",
    "coordinates",
)
_LIST_KEYS = ("boxes", "objects", "detections", "bboxes", "bounding_boxes", "results", "items")
_SCORE_KEYS = ("score", "confidence", "probability")
_IMAGE_KEYS = ("picture", "image", "image_id", "picture_id", "image_index", "frame")
_CORNER_KEYS = {  # keys that name the sides -> what four numbers in that order are
    ("x_min", "y_min", "x_max", "y_max"): "xyxy",
    ("xmin", "ymin", "xmax", "ymax"): "xyxy",
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("left", "top", "right", "bottom"): "xyxy",
    ("x", "y", "width", "height"): "xywh",
    ("x", "y", "w", "h"): "xywh",
    ("left", "top", "width", "height"): "xywh",
}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_THINK_TAGS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)


class AnswerParseError(Exception):
    """There are no boxes in it, and it does not say that there are none."""


@dataclass(frozen=True)
class ParsedBox:
    """A box as a model said it; `order` is "" where nothing but their place tells the numbers."""

    label: str
    numbers: FourNumbers
    order: str = ""
    score: float | None = None
    image_id: str = ""


def parse_boxes(text: str) -> list[ParsedBox]:
    """The boxes in a model's words, in its order; none where it says that there are none.

    Raises:
        Unreadable: a refusal, other words, or JSON without boxes.
    """
    values = list(json_values(text))
    found = [said for value in values for said in _find_boxes(value, "", "")]
    if not found and not any(_is_empty_answer(value) for value in values):
        raise AnswerParseError(text.strip()[:120] or "an empty answer")
    return found


def json_values(text: str) -> Iterator[Any]:
    """The JSON values in a model's words, its thoughts left out; repaired where none is whole."""
    return _scan_json(_THINK_TAGS.sub("", text))


def _scan_json(text: str) -> Iterator[Any]:
    decoder, place, found = json.JSONDecoder(), 0, False
    while (opening := _next_bracket(text, place)) is not None:
        try:
            value, place = decoder.raw_decode(text, opening)
        except (ValueError, RecursionError):
            place = opening + 1
            if not found and (value := _repair_json(text[opening:])) is not None:
                yield value
                return
            continue
        if not _is_footnote(value):
            found = True
            yield value


def _next_bracket(text: str, start: int) -> int | None:
    found = re.compile(r"[\[{]").search(text, start)
    return found.start() if found else None


def _is_footnote(value: Any) -> bool:
    """A bracket in prose, such as [1] or [sic]."""
    return isinstance(value, list) and 0 < len(value) < 4 and not _has_containers(value)


def _has_containers(value: Sequence[Any]) -> bool:
    return any(isinstance(each, list | dict) for each in value)


def _repair_json(text: str) -> Any:
    """What a damaged text most likely meant; None where it is not JSON-like at all.

    What follows the last closed bracket is left out: a number at the very end may be half of one.
    """
    end = max(text.rfind("]"), text.rfind("}"))
    if end < 0 or not re.match(r"[\[{]\s*[\[{\"'\w\]}+-]", text):
        return None
    value = needs("json_repair").loads(text[: end + 1], skip_json_loads=True)
    return value if isinstance(value, list | dict) else None


def _is_empty_answer(value: Any) -> bool:
    """Whether it is an empty list, or an object that holds one or nothing."""
    if isinstance(value, dict):
        held = [each for key, each in value.items() if key.lower() in _LIST_KEYS]
        return not value or any(not each for each in held)
    return isinstance(value, list) and not value


def _find_boxes(value: Any, label: str, image_id: str) -> Iterator[ParsedBox]:
    """The boxes in a value; `label` and `picture` are what it stands under."""
    if isinstance(value, dict):
        keyed = {str(key).lower(): each for key, each in value.items()}
        label = _first_text(keyed, _LABEL_KEYS) or label
        image_id = _first_text(keyed, _IMAGE_KEYS) or image_id
        here = _box_numbers(keyed)
        if here is not None:
            yield ParsedBox(label, *here, score=_reported_score(keyed), image_id=image_id)
            return
        for key, each in value.items():
            inner = label if str(key).lower() in (*_LIST_KEYS, *_BOX_KEYS) else str(key)
            yield from _find_boxes(each, label or inner, image_id)
    elif isinstance(value, list):
        numbers = _four_numbers(value)
        if numbers is not None:
            yield ParsedBox(label, numbers, image_id=image_id)
        elif _has_containers(value):
            for each in value:
                yield from _find_boxes(each, label, image_id)


def _box_numbers(fields: Mapping[str, Any]) -> tuple[FourNumbers, str] | None:
    """Four numbers and their order ("" if unsaid), from under any of the names that are used."""
    for names, order in _CORNER_KEYS.items():
        if all(name in fields for name in names):
            four = _four_numbers([fields[name] for name in names])
            if four is not None:
                return four, order
    for name in _BOX_KEYS:
        held = fields.get(name)
        if isinstance(held, dict):
            return _box_numbers({str(key).lower(): each for key, each in held.items()})
        four = _four_numbers(held)
        if four is not None:
            return four, ""
    return None


def _four_numbers(value: Any) -> FourNumbers | None:
    if isinstance(value, str):
        value = _NUMBER.findall(value)
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, list) for v in value):
        value = [*value[0], *value[1]]  # two corners
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [_to_float(each) for each in value]
    if not all(map(math.isfinite, numbers)):
        return None
    first, second, third, fourth = numbers
    return first, second, third, fourth


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _first_text(fields: Mapping[str, Any], keys: Sequence[str]) -> str:
    said = [fields[name] for name in keys if isinstance(fields.get(name), str | int)]
    return str(said[0]) if said else ""


def _reported_score(fields: Mapping[str, Any]) -> float | None:
    """A score that the model gave of itself, if it is one."""
    numbers = [_to_float(fields[name]) for name in _SCORE_KEYS if name in fields]
    return numbers[0] if numbers and 0 <= numbers[0] <= 1 else None
