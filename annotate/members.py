"""Detectors inside a detector, told in text: which they are, and each one's options."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping

from annotate import detect
from annotate.detect import Detector
from annotate.errors import AnnotateError, UnknownName
from annotate.records import Vocabulary


def load(members: str, options: str, vocabulary: Vocabulary) -> dict[str, Detector]:
    """Detectors by name: `colour, a=vlm, b=vlm` with `colour.smallest=40 a.model=x b.model=y`.

    Raises:
        UnknownName: no such detector or option, or options of nobody.
        AnnotateError: two of one name, or a text that says nothing.
    """
    kinds: dict[str, str] = {}
    for text in members.replace(",", " ").split():
        name, equals, kind = text.partition("=")
        if name in kinds:
            raise AnnotateError(f"two members are {name!r}: name them, a={name},b={name}")
        kinds[name] = kind if equals else name
    told = _options(options, kinds)
    return {
        name: detect.load(kind, vocabulary, **detect.parse_options(kind, told[name]))
        for name, kind in kinds.items()
    }


def _options(text: str, names: Iterable[str]) -> Mapping[str, dict[str, str]]:
    told: dict[str, dict[str, str]] = defaultdict(dict)
    for key, value in pairs(text, "MEMBER.OPTION=VALUE").items():
        name, dot, option = key.partition(".")
        if name not in names:
            raise UnknownName("member", name, names)
        if not dot:
            raise AnnotateError(f"expected MEMBER.OPTION=VALUE, got {key}={value}")
        told[name][option] = value
    return told


def pairs(text: str, expected: str) -> dict[str, str]:
    """What `a=1 b='2 3'` says; commas or spaces between, quotes round a value that holds some.

    Raises:
        AnnotateError: says what was expected.
    """
    found = {}
    for word in _words(text, expected):
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise AnnotateError(f"expected {expected}, got {word!r}")
        found[key] = value
    return found


def _words(text: str, expected: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="")
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    lexer.whitespace += ","
    try:
        return list(lexer)
    except ValueError as error:
        raise AnnotateError(f"expected {expected}, got {text!r}: {error}") from None


def numbers(text: str, expected: str) -> dict[str, float]:
    """What `a=1 b=2.5` says, as numbers.

    Raises:
        AnnotateError: says what was expected.
    """
    try:
        return {key: float(value) for key, value in pairs(text, expected).items()}
    except ValueError:
        raise AnnotateError(f"expected {expected}, got {text!r}") from None
