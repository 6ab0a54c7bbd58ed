"""Read vocabularies (TOML files of classes), and list each detector's phrases.

A vocabulary names the classes, in the order of their ids, and for each class the prompt of each
detector. Several phrases may stand for one class; one phrase may not stand for two classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from annotate.errors import PromptError, UnknownName
from annotate.files import data_dir, parse_toml
from annotate.items.records import Vocabulary
from annotate.plugins import FAMILIES


@dataclass(frozen=True)
class Phrase:
    """Words that describe a class to a detector, and the id of that class."""

    text: str
    class_id: int


def detector_phrases(vocabulary: Vocabulary, detector: str) -> tuple[Phrase, ...]:
    """List a detector's phrases: each class has a phrase, or a list of alternatives.

    Raises:
        PromptError: no class has a phrase for the detector, an entry is not a phrase, or two
            classes have the same phrase.
    """
    phrases: dict[str, Phrase] = {}
    for class_id, entry in vocabulary.phrases(detector).items():
        label = vocabulary.labels[class_id]
        context = f"vocabulary {vocabulary.name}, class {label!r}: {detector}"
        for text in _phrase_texts(entry, context):
            phrase = phrases.setdefault(text, Phrase(text, class_id))
            if phrase.class_id != class_id:
                both = f"{vocabulary.labels[phrase.class_id]!r} and {label!r}"
                raise PromptError(
                    f"vocabulary {vocabulary.name}: {both} have the same phrase for {detector}, "
                    f"{text!r}: give one of them another phrase"
                )
    if not phrases:
        raise PromptError(
            f"vocabulary {vocabulary.name} has no phrase for {detector}: give a class a phrase, "
            f'such as {detector} = "red square", under [classes.{vocabulary.labels[0]}]'
        )
    return tuple(phrases.values())


def _phrase_texts(entry: Any, context: str) -> Sequence[str]:
    texts = entry if isinstance(entry, list | tuple) else [entry]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise PromptError(f"{context} must be a phrase, or a list of phrases, got {entry!r}")
    return [" ".join(text.split()) for text in texts]


_VOCABULARY_KEYS = {"classes", "description"}


def packaged_vocabularies() -> dict[str, Path]:
    """List the packaged vocabularies: name, such as `designator.v1`, to file."""
    folder = data_dir("prompts") / "vocabulary"
    return {path.name.removesuffix(".toml"): path for path in sorted(folder.glob("*.toml"))}


def read_vocabulary(name: str | Path) -> Vocabulary:
    """Read a vocabulary by its packaged name, or by its file.

    Raises:
        UnknownName: no such vocabulary; names the nearest.
        PromptError: the file is malformed; names the line or the key.
    """
    packaged = packaged_vocabularies()
    path = packaged.get(str(name), Path(name))
    if not path.is_file():
        raise UnknownName("vocabulary", str(name), packaged)
    data = path.read_bytes()
    try:
        table = parse_toml(data)
    except ValueError as error:
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
        _check_detector_names(words, f"{path}: classes.{label}")
    return classes


def _check_detector_names(words: Mapping[str, Any], where: str) -> None:
    """Refuse a misspelt detector: its class would not be searched for.

    A name that is like no installed detector may be one of a package that is not installed here.
    """
    installed = FAMILIES["detectors"].names()
    for name in words:
        if name not in installed and get_close_matches(name, installed, n=1, cutoff=0.8):
            raise PromptError(f"{where}: {UnknownName('detector', name, installed)}")
