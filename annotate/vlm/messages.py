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

_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Template:
    """The text of a question, from a versioned file; `$things` stands for the list of phrases."""

    name: str
    text: str
    sha256: str

    def fill(self, phrases: Sequence[str]) -> str:
        """Return the question for these phrases, one a line."""
        return _Substitution(self.text).substitute(things="\n".join(f'- "{t}"' for t in phrases))


def load_template(name: str) -> Template:
    """Load a prompt template by the name of a packaged one (`boxes.v1`), or by its path.

    Raises:
        UnknownName: no such template; names the nearest.
        PromptError: not UTF-8, or the file holds no `$things`.
    """
    packaged = {p.name.removesuffix(".txt"): p for p in (data_dir("prompts") / "vlm").glob("*.txt")}
    path = packaged.get(name, Path(name))
    if not path.is_file():
        raise UnknownName("prompt template", name, packaged)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise PromptError(f"{path}: not text in UTF-8") from None
    if name not in packaged and "$things" not in text:
        raise PromptError(f"{path}: no $things in it: write $things where the list of phrases goes")
    return Template(name, text, hashlib.sha256(data).hexdigest())


def resize(image: Picture, side: int) -> Image.Image:
    """Resize a picture so that its longest side is `side` pixels; 0 keeps its size."""
    picture = Image.fromarray(image)
    longest = max(picture.size)
    if side in (0, longest):
        return picture
    width, height = (max(round(each * side / longest), 1) for each in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def image_part(picture: Image.Image, detail: str | None) -> dict[str, Any]:
    """Encode a picture as a part of a message, in JPEG with full chroma resolution.

    `detail` is an option of OpenAI's models; None leaves it out. Equal pixels give equal bytes.
    """
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    data_url = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    image_url = {"url": data_url} | ({"detail": detail} if detail else {})
    return {"type": "image_url", "image_url": image_url}


def text_part(text: str) -> dict[str, Any]:
    """Make a text part of a message."""
    return {"type": "text", "text": text}


def boxes_schema(phrases: Sequence[str]) -> dict[str, Any]:
    """Make the JSON schema of an answer with boxes of these phrases, for strict servers too."""
    box = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
    label = {"type": "string", "enum": list(phrases)}
    entry = strict_object({"label": label, "box_2d": box})
    return strict_object({"boxes": {"type": "array", "items": entry}})


def strict_object(properties: dict[str, Any]) -> dict[str, Any]:
    """Make the JSON schema of an object that has all these properties, and no others."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return schema | {"additionalProperties": False}


@dataclass(frozen=True)
class ResponseFormat:
    """A format of answers: a function to call, the schema of its arguments, and prompt templates.

    `name` is what an answer holds ("boxes"). `json_template` describes the format in mode "json";
    `retry_template` asks again after an answer that could not be parsed.
    """

    name: str
    function: str
    description: str
    schema: Mapping[str, Any]
    json_template: str
    retry_template: str

    def request_fields(self, mode: str) -> dict[str, Any]:
        """Return the fields of a request that ask for this format; none in mode "json"."""
        if mode == "tool":
            function = {
                "name": self.function,
                "description": self.description,
                "parameters": self.schema,
            }
            choice = {"type": "function", "function": {"name": self.function}}
            return {"tools": [{"type": "function", "function": function}], "tool_choice": choice}
        if mode == "schema":
            json_schema = {"name": self.name, "strict": True, "schema": self.schema}
            return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
        return {}


def boxes_format(phrases: Sequence[str]) -> ResponseFormat:
    """Make the format of an answer that holds boxes of these phrases."""
    return ResponseFormat(
        "boxes", "give_boxes", "Give the boxes.", boxes_schema(phrases), "json.v1", "again.v1"
    )


def verdicts_format(numbers: Sequence[int]) -> ResponseFormat:
    """Make the format of an answer that judges each numbered picture."""
    entry = strict_object(
        {
            "id": {"type": "integer", "enum": list(numbers)},
            "shown": {"type": "boolean"},
            "confidence": {"type": "number"},
        }
    )
    schema = strict_object({"pictures": {"type": "array", "items": entry}})
    description = "Say of every numbered picture whether it shows what is looked for."
    templates = ("find-json.v1", "find-again.v1")
    return ResponseFormat("verdicts", "judge_pictures", description, schema, *templates)


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
_CORNER_KEYS = {  # keys of the four numbers -> the order of the numbers
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
    """An answer that holds no boxes, and does not say that there are none."""


@dataclass(frozen=True)
class ParsedBox:
    """A box as a model wrote it; `order` is "" where the numbers have no names."""

    label: str
    numbers: FourNumbers
    order: str = ""
    score: float | None = None
    image_id: str = ""


def parse_boxes(text: str) -> list[ParsedBox]:
    """Parse the boxes of an answer, in its order; an empty list where it holds an empty one.

    Raises:
        AnswerParseError: a refusal, other text, or JSON without boxes.
    """
    values = list(json_values(text))
    boxes = [box for value in values for box in _find_boxes(value, "", "")]
    if not boxes and not any(_is_empty_answer(value) for value in values):
        raise AnswerParseError(text.strip()[:120] or "an empty answer")
    return boxes


def json_values(text: str) -> Iterator[Any]:
    """Find the JSON values in an answer, without its thoughts; repaired where none is valid."""
    return _scan_json(_THINK_TAGS.sub("", text))


def _scan_json(text: str) -> Iterator[Any]:
    decoder, position, any_valid = json.JSONDecoder(), 0, False
    while (opening := _next_bracket(text, position)) is not None:
        try:
            value, position = decoder.raw_decode(text, opening)
        except (ValueError, RecursionError):
            position = opening + 1
            if not any_valid and (value := _repair_json(text[opening:])) is not None:
                yield value
                return
            continue
        if not _is_footnote(value):
            any_valid = True
            yield value


def _next_bracket(text: str, start: int) -> int | None:
    match = re.compile(r"[\[{]").search(text, start)
    return match.start() if match else None


def _is_footnote(value: Any) -> bool:
    """Return whether a JSON value is a bracket in prose, such as [1] or [sic]."""
    return isinstance(value, list) and 0 < len(value) < 4 and not _has_containers(value)


def _has_containers(value: Sequence[Any]) -> bool:
    return any(isinstance(each, list | dict) for each in value)


def _repair_json(text: str) -> Any:
    """Repair damaged JSON; None where the text does not look like JSON.

    The text after the last closing bracket is dropped: a number at its end may be cut off.
    """
    end = max(text.rfind("]"), text.rfind("}"))
    if end < 0 or not re.match(r"[\[{]\s*[\[{\"'\w\]}+-]", text):
        return None
    value = needs("json_repair").loads(text[: end + 1], skip_json_loads=True)
    return value if isinstance(value, list | dict) else None


def _is_empty_answer(value: Any) -> bool:
    """Return whether a value is an empty list or object, or an object that holds an empty list."""
    if isinstance(value, dict):
        lists = [each for key, each in value.items() if key.lower() in _LIST_KEYS]
        return not value or any(not each for each in lists)
    return isinstance(value, list) and not value


def _find_boxes(value: Any, label: str, image_id: str) -> Iterator[ParsedBox]:
    """Find the boxes in a JSON value; `label` and `image_id` come from the values around it."""
    if isinstance(value, dict):
        fields = {str(key).lower(): each for key, each in value.items()}
        label = _first_text(fields, _LABEL_KEYS) or label
        image_id = _first_text(fields, _IMAGE_KEYS) or image_id
        numbers_order = _box_numbers(fields)
        if numbers_order is not None:
            score = _reported_score(fields)
            yield ParsedBox(label, *numbers_order, score=score, image_id=image_id)
            return
        for key, each in value.items():
            is_label = str(key).lower() not in (*_LIST_KEYS, *_BOX_KEYS)
            yield from _find_boxes(each, label or (str(key) if is_label else ""), image_id)
    elif isinstance(value, list):
        numbers = _four_numbers(value)
        if numbers is not None:
            yield ParsedBox(label, numbers, image_id=image_id)
        elif _has_containers(value):
            for each in value:
                yield from _find_boxes(each, label, image_id)


def _box_numbers(fields: Mapping[str, Any]) -> tuple[FourNumbers, str] | None:
    """Find the four numbers of a box under any known key, and their order ("" if unknown)."""
    for names, order in _CORNER_KEYS.items():
        if all(name in fields for name in names):
            four = _four_numbers([fields[name] for name in names])
            if four is not None:
                return four, order
    for name in _BOX_KEYS:
        value = fields.get(name)
        if isinstance(value, dict):
            return _box_numbers({str(key).lower(): each for key, each in value.items()})
        four = _four_numbers(value)
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
    texts = [fields[key] for key in keys if isinstance(fields.get(key), str | int)]
    return str(texts[0]) if texts else ""


def _reported_score(fields: Mapping[str, Any]) -> float | None:
    """Read the score that the model reports, if it is within 0..1."""
    numbers = [_to_float(fields[name]) for name in _SCORE_KEYS if name in fields]
    return numbers[0] if numbers and 0 <= numbers[0] <= 1 else None
