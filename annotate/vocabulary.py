"""Read vocabularies (TOML files of classes), and list each detector's phrases.

A vocabulary names the classes, in the order of their ids, and for each class the prompt of each
detector. Several phrases may stand for one class; one phrase may not stand for two classes.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.errors import PromptError, UnknownName
from annotate.files import data_dir
from annotate.items.records import Vocabulary


@dataclass(frozen=True)
class Phrase:
    """Words, and the class that they stand for."""

    text: str
    class_id: int


def detector_phrases(vocabulary: Vocabulary, detector: str) -> tuple[Phrase, ...]:
    """All that `detector` is told: for each class a phrase, or a list of alternatives.

    Raises:
        PromptError: no class tells it anything, a class tells it something else than phrases, or
            two classes tell it the same.
    """
    found: dict[str, Phrase] = {}
    for class_id, told in vocabulary.phrases(detector).items():
        label = vocabulary.labels[class_id]
        for text in _phrase_texts(
            told, f"vocabulary {vocabulary.name}, class {label!r}: {detector}"
        ):
            known = found.setdefault(text, Phrase(text, class_id))
            if known.class_id != class_id:
                both = f"{vocabulary.labels[known.class_id]!r} and {label!r}"
                raise PromptError(
                    f"vocabulary {vocabulary.name}: {both} tell {detector} the same, {text!r}: "
                    "give one of them other words"
                )
    if not found:
        raise PromptError(
            f"vocabulary {vocabulary.name} tells {detector} nothing: give a class a phrase, such "
            f'as {detector} = "red square", under [classes.{vocabulary.labels[0]}]'
        )
    return tuple(found.values())


def _phrase_texts(entry: Any, where: str) -> Sequence[str]:
    texts = entry if isinstance(entry, list | tuple) else [entry]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise PromptError(f"{where} must be a phrase, or a list of phrases, got {entry!r}")
    return [" ".join(text.split()) for text in texts]


_VOCABULARY_KEYS = {"classes", "description"}


def packaged_vocabularies() -> dict[str, Path]:
    """The vocabularies that ship, by name: `designator.v1`."""
    folder = data_dir("prompts") / "vocabulary"
    return {path.name.removesuffix(".toml"): path for path in sorted(folder.glob("*.toml"))}


def read_vocabulary(name: str | Path) -> Vocabulary:
    """A vocabulary by the name under which it ships, or by its file.

    Raises:
        UnknownName: no such vocabulary; names the nearest.
        PromptError: malformed; says in which line, or which key.
    """
    known = packaged_vocabularies()
    path = known.get(str(name), Path(name))
    if not path.is_file():
        raise UnknownName("vocabulary", str(name), known)
    data = path.read_bytes()
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: malformed TOML: {error}") from None
    classes = _checked_classes(table, path)
    return Vocabulary(path.name.removesuffix(".toml"), classes, hashlib.sha256(data).hexdigest())


def _checked_classes(table: Mapping[str, Any], path: Path) -> Mapping[str, Mapping[str, Any]]:
    for key in table:
        if key not in _VOCABULARY_KEYS:
            raise PromptError(f"{path}: {UnknownName('key', key, _VOCABULARY_KEYS)}")
    classes = table.get("classes")
    if not isinstance(classes, dict) or not classes:
        raise PromptError(f"{path}: no classes: expected a table [classes.NAME] for each class")
    for label, words in classes.items():
        if not isinstance(words, dict):
            raise PromptError(f"{path}: classes.{label}: expected a table, got {words!r}")
    return classes
