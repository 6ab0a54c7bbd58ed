"""Keep the answers of models, and notes on each model, in the user's cache folder.

Answers are kept under the SHA-256 of the whole question, so asking the same again costs nothing.
The notes of a model (one small JSON file for each address and model) hold what was found out about
it: its box format, the response mode and the parameters that its server accepts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from annotate.errors import OutputError
from annotate.files import cache_dir, check_writable, read_json, write_json
from annotate.progress import Notes

_NOT_KEPT = "answers could not be kept: asked again, these questions are paid for again"


def read_model_notes(url: str, model: str) -> dict[str, Any]:
    """Read what is remembered of a model; empty if there is nothing, or the file is damaged."""
    return read_json(_notes_path(url, model)) or {}


def write_model_notes(url: str, model: str, **facts: Any) -> Path:
    """Add facts to the notes of a model, and return the path of the file.

    Raises:
        OutputError: the file cannot be written.
    """
    path = _notes_path(url, model)
    notes = {"url": url.rstrip("/"), "model": model} | read_model_notes(url, model) | facts
    write_json(path, notes)
    return path


def check_notes_writable(url: str, model: str) -> None:
    """Check that the notes of a model can be written, before it is asked.

    Raises:
        OutputError: the file cannot be written.
    """
    check_writable(_notes_path(url, model))


def _notes_path(url: str, model: str) -> Path:
    digest = hashlib.sha256(f"{url.rstrip('/')} {model}".encode()).hexdigest()
    readable = re.sub(r"\W+", "-", model).strip("-")[:60]
    return cache_dir() / "models" / f"{readable}-{digest[:12]}.json"


def read_answer(digest: str) -> dict[str, Any] | None:
    """Read the answer to a question; None if there is none, or the file is damaged."""
    return read_json(_answer_path(digest))


def keep_answer(digest: str, answer: Mapping[str, Any], notes: Notes) -> None:
    """Keep the answer to a question; an answer that cannot be written is counted in `notes`."""
    try:
        write_json(_answer_path(digest), answer)
    except OutputError as error:
        notes.add(_NOT_KEPT, str(error))


def check_answers_writable() -> None:
    """Check that answers can be kept, before a question is paid for.

    Raises:
        OutputError: nothing can be written there.
    """
    try:
        check_writable(_answer_path("0" * 64))
    except OutputError as error:
        raise OutputError(
            f"answers cannot be kept: {error}; `cache=no` asks without keeping them"
        ) from None


def _answer_path(digest: str) -> Path:
    return cache_dir() / "answers" / digest[:2] / f"{digest}.json"
