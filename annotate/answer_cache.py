"""Answers kept on disk by all that was asked, so that asking the same again costs nothing."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from annotate.errors import OutputError


def home() -> Path:
    """The user's folder for what can be had again: `$XDG_CACHE_HOME/annotate`."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "annotate"


def digest(question: Mapping[str, Any]) -> str:
    """The name of a question: address, model, words, pictures and settings, hashed."""
    text = json.dumps(question, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def recall(name: str) -> dict[str, Any] | None:
    """What was answered; None where nothing was, or what is there is damaged."""
    return read(_place(name))


def read(path: Path) -> dict[str, Any] | None:
    """A record that `save` wrote; None where there is none, or it is damaged."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def keep(name: str, answer: Mapping[str, Any]) -> None:
    """Write down what was answered.

    Raises:
        OutputError: nothing can be written there.
    """
    save(_place(name), answer)


def save(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, whole or not at all; several threads may write the same."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(record, file, ensure_ascii=False)
            Path(draft).replace(path)
        finally:
            with suppress(FileNotFoundError):
                Path(draft).unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def _place(name: str) -> Path:
    return home() / "answers" / name[:2] / f"{name}.json"
