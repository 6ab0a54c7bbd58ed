"""What came of a study: tables of words and phrases, and how close a model must look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from annotate import study_words
from annotate.drafts import new_file
from annotate.study_words import Said

if TYPE_CHECKING:
    import pandas as pd

_BINS = 12


@dataclass(frozen=True)
class Findings:
    """What descriptions say round a word: see the functions of `annotate.study_words`."""

    word: str
    table: pd.DataFrame
    neighbours: pd.DataFrame
    phrases: pd.DataFrame

    def write(self, out: Path) -> None:
        """Write `descriptions.csv`, `neighbours.csv`, `phrases.csv` and `offsets.png` into `out`.

        Raises:
            OutputError: nothing can be written there.
        """
        tables = {
            "descriptions": self.table,
            "neighbours": self.neighbours,
            "phrases": self.phrases,
        }
        for name, table in tables.items():
            with new_file(out / f"{name}.csv") as draft:
                table.round(4).to_csv(draft, index=False)
        histogram(self.table, self.word, out / "offsets.png")


def findings(said: Sequence[Said], word: str | None = None) -> Findings:
    """What descriptions say round a lemma; without one, round the noun that tells the object."""
    chosen = study_words.choose(said) or "" if word is None else word
    return Findings(
        chosen,
        study_words.table(said, chosen),
        study_words.neighbours(said, chosen),
        study_words.phrases(said, chosen),
    )


def histogram(table: pd.DataFrame, word: str, out: Path) -> None:
    """Draw the offsets of `study_words.table`, with the word and without it, as a PNG.

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
    sides = [(f"with “{word}”", offsets[has], "#d62728"), ("without", offsets[~has], "#b0b0b0")]
    names = [f"{name}: {len(these)}, {_middle(these)}" for name, these, _ in sides]
    axes.hist(
        [these for _, these, _ in sides],
        bins=list(edges),
        stacked=True,
        color=[colour for _, _, colour in sides],
        label=names,
    )
    axes.set_xscale("log")
    axes.set_xlabel("pixels by which the crop is wider than the box, on each side")
    axes.set_ylabel("descriptions")
    axes.legend(frameon=False)
    with new_file(out) as draft:
        figure.savefig(draft, format="png", dpi=110, metadata={"Software": None})


def _middle(offsets: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return f"median offset {np.median(offsets):.0f}" if len(offsets) else "none"
