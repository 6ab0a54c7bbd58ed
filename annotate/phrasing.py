"""What a detector is told of each class, as phrases; several may stand for one class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from annotate.errors import PromptError
from annotate.records import Vocabulary


@dataclass(frozen=True)
class Phrase:
    """Words, and the class that they stand for."""

    text: str
    class_id: int


def phrases(vocabulary: Vocabulary, detector: str) -> tuple[Phrase, ...]:
    """All that `detector` is told: for each class a phrase, or a list of alternatives.

    Raises:
        PromptError: no class tells it anything, a class tells it something else than phrases, or
            two classes tell it the same.
    """
    found: dict[str, Phrase] = {}
    for class_id, told in vocabulary.phrases(detector).items():
        label = vocabulary.labels[class_id]
        for text in _texts(told, f"vocabulary {vocabulary.name}, class {label!r}: {detector}"):
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


def _texts(told: Any, where: str) -> Sequence[str]:
    texts = told if isinstance(told, list | tuple) else [told]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise PromptError(f"{where} must be a phrase, or a list of phrases, got {told!r}")
    return [" ".join(text.split()) for text in texts]
