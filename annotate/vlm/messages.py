"""Build the messages sent to a vision-language model.

Prompt templates are versioned files that are never edited once used; images are sent as JPEG with
full chroma resolution, so that thin coloured lines do not fade.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template as _Substitution
from typing import Any

from PIL import Image

from annotate.errors import PromptError, UnknownName
from annotate.files import data_dir
from annotate.items.records import Picture

_JPEG_QUALITY = 95
PATCH_SIDE = 28  # pixels; of Qwen2.5-VL, which counts in pixels of a picture of whole patches
PIXELS_PER_TOKEN = 750  # a typical value that makers of vision-language models give
_TOKENS_PER_PICTURE = 85  # beside those of its area
_CHARACTERS_PER_TOKEN = 3


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
    if not side or max(picture.size) == side:
        return picture
    scale = side / max(picture.size)
    width, height = (max(round(each * scale), 1) for each in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def pad_to_patches(picture: Image.Image) -> Image.Image:
    """Add black pixels at the right and below, so that both sides are multiples of PATCH_SIDE.

    A model that cuts pictures into patches would resize another one to whole patches itself, and
    count in the pixels of that picture. Added pixels move no coordinate.
    """
    width, height = (-(-each // PATCH_SIDE) * PATCH_SIDE for each in picture.size)
    if (width, height) == picture.size:
        return picture
    whole = Image.new("RGB", (width, height))
    whole.paste(picture, (0, 0))
    return whole


def estimate_tokens(request: Mapping[str, Any]) -> int:
    """Estimate the tokens of a request: of its pictures by their area, of its text by its length.

    Makers count differently; this is at the upper end of what they publish.
    """
    texts, picture_tokens = [json.dumps(request.get("tools") or request.get("response_format"))], 0
    for message in request.get("messages", ()):
        content = message["content"]
        for part in [text_part(content)] if isinstance(content, str) else content:
            if part["type"] == "image_url":
                picture_tokens += _picture_tokens(part["image_url"]["url"])
            else:
                texts.append(part["text"])
    return picture_tokens + round(sum(map(len, texts)) / _CHARACTERS_PER_TOKEN)


def _picture_tokens(data_url: str) -> int:
    data = base64.b64decode(data_url.partition(",")[2])
    width, height = Image.open(io.BytesIO(data)).size  # reads the head of the file alone
    return round(width * height / PIXELS_PER_TOKEN) + _TOKENS_PER_PICTURE


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
