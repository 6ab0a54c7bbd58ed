"""What a model is asked: templates from files, pictures as they are sent, the form of an answer."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template as _Substitution
from typing import Any

from PIL import Image

from annotate.errors import PromptError, UnknownName
from annotate.records import Picture
from annotate.shipped import home

_QUALITY = 95  # of the JPEG; its colours are kept whole, or thin coloured lines would fade


@dataclass(frozen=True)
class Template:
    """The words of a question, from a file that is never edited once used; `$things` is filled."""

    name: str
    text: str
    sha256: str

    def ask(self, things: Sequence[str]) -> str:
        """The question after these things, one a line."""
        return _Substitution(self.text).substitute(things="\n".join(f'- "{t}"' for t in things))


def template(name: str) -> Template:
    """A template by the name under which it ships (`boxes.v1`), or by its file.

    Raises:
        UnknownName: no such template; names the nearest.
        PromptError: not text, or it does not say where the things go.
    """
    shipped = {p.name.removesuffix(".txt"): p for p in (home("prompts") / "vlm").glob("*.txt")}
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


def resized(image: Picture, side: int) -> Image.Image:
    """The picture with its longest side made `side` pixels; as it is for 0."""
    picture = Image.fromarray(image)
    longest = max(picture.size)
    if side in (0, longest):
        return picture
    width, height = (max(round(each * side / longest), 1) for each in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def part(picture: Image.Image, detail: str | None) -> dict[str, Any]:
    """A picture as a part of a message; `detail` is what OpenAI's models take, None leaves it out.

    The same pixels give the same bytes.
    """
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=_QUALITY, subsampling=0)
    address = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    image_url = {"url": address} | ({"detail": detail} if detail else {})
    return {"type": "image_url", "image_url": image_url}


def words(text: str) -> dict[str, Any]:
    """Text as a part of a message."""
    return {"type": "text", "text": text}


def schema(things: Sequence[str]) -> dict[str, Any]:
    """The form of an answer after these things, as a JSON schema that strict servers accept."""
    box = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
    label = {"type": "string", "enum": list(things)}
    entry = closed({"label": label, "box_2d": box})
    return closed({"boxes": {"type": "array", "items": entry}})


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    """An object of these properties, all of them needed, and no others."""
    told = {"type": "object", "properties": properties, "required": list(properties)}
    return told | {"additionalProperties": False}


@dataclass(frozen=True)
class Form:
    """The form of an answer: a function to call, its arguments' schema, and templates' names.

    `of` is what an answer gives, in words; `plainly` says the form where nothing else does, and
    `again` asks anew after an answer that could not be read.
    """

    of: str
    function: str
    told: str
    schema: Mapping[str, Any]
    plainly: str
    again: str

    def request(self, way: str) -> dict[str, Any]:
        """What a request says of it: `tool`, `schema`, or nothing for `json`."""
        if way == "tool":
            told = {"name": self.function, "description": self.told, "parameters": self.schema}
            choice = {"type": "function", "function": {"name": self.function}}
            return {"tools": [{"type": "function", "function": told}], "tool_choice": choice}
        if way == "schema":
            named = {"name": self.of, "strict": True, "schema": self.schema}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        return {}


def boxes(things: Sequence[str]) -> Form:
    """An answer that gives boxes of these things."""
    told = "Give the boxes."
    return Form("boxes", "give_boxes", told, schema(things), "json.v1", "again.v1")


def verdicts(numbers: Sequence[int]) -> Form:
    """An answer that says of each numbered picture whether it shows what is looked for."""
    entry = closed(
        {
            "id": {"type": "integer", "enum": list(numbers)},
            "shown": {"type": "boolean"},
            "confidence": {"type": "number"},
        }
    )
    told = closed({"pictures": {"type": "array", "items": entry}})
    say = "Say of every numbered picture whether it shows what is looked for."
    return Form("verdicts", "judge_pictures", say, told, "find-json.v1", "find-again.v1")
