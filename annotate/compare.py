"""Detectors side by side: how well each finds what is there, and what it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate import matching
from annotate.columns import Column
from annotate.drafts import new_file
from annotate.errors import OutputError, UnknownName
from annotate.footage import Key
from annotate.records import Object, Vocabulary
from annotate.truth import Truth

if TYPE_CHECKING:
    import pandas as pd

NOT_MEASURED = "not measured"
_MIB = 1 << 20
_FORMATS = {  # column of the table -> how a number of it is written
    "AP": "{:.3f}",
    "AP50": "{:.3f}",
    "precision": "{:.3f}",
    "recall": "{:.3f}",
    "at score": "{:.3f}",
    "boxes/frame": "{:.2f}",
    "agreement F1": "{:.3f}",
    "agreement IoU": "{:.3f}",
    "ms/frame": "{:.1f}",
    "first batch s": "{:.2f}",
    "memory MiB": "{:,.0f}",
    "GPU MiB": "{:,.0f}",
    "weights MiB": "{:,.1f}",
    "cost/1000 frames": "{:.2f}",
    "cost/right box": "{:.4f}",
}


def classes(truth: Truth | None, detectors: Sequence[str]) -> Vocabulary:
    """The classes of the truth, each called by its name: what to look for where nobody says.

    Raises:
        OutputError: there is no truth either.
    """
    if truth is None:
        raise OutputError("what is to be looked for? give a vocabulary, -v, or the truth, --truth")
    named = {label: dict.fromkeys(detectors, label) for label in truth.labels}
    digest = hashlib.sha256(repr(truth.labels).encode()).hexdigest()
    return Vocabulary("classes of the truth", named, digest)


def check(truth: Truth | None, words: Vocabulary) -> None:
    """Refuse truth that has none of the vocabulary's classes.

    Raises:
        UnknownName: names the nearest.
    """
    if truth is not None and not set(truth.labels) & set(words.labels):
        raise UnknownName("class in the truth", words.labels[0], truth.labels)


@dataclass(frozen=True)
class Judged:
    """A column, held against the truth where there is any; NaN is: not measured.

    `found` are the objects of its classes on each frame. `curve` is None without truth.
    """

    column: Column
    found: Mapping[Key, Sequence[Object]]
    curve: matching.Curve | None = None
    ap: float = float("nan")
    ap50: float = float("nan")

    @property
    def title(self) -> str:
        """What heads it."""
        return self.column.entry.title

    @cached_property
    def best(self) -> tuple[float, float, float] | None:
        """Precision, recall and score at the threshold with the best F1."""
        if self.curve is None or self.curve.best is None:
            return None
        place = self.curve.best
        return tuple(float(each[place]) for each in self._lines)  # type: ignore[return-value]

    @property
    def _lines(self) -> tuple[matching.Numbers, ...]:
        assert self.curve is not None
        return self.curve.precision, self.curve.recall, self.curve.scores

    def shown(self, least: float) -> dict[Key, list[Object]]:
        """What it says at its best threshold; without truth, from `least` on."""
        floor = least if self.best is None else max(self.best[2], 0.0)
        return matching.only(self.found, self.column.entry.labels, floor)


def judge(column: Column, truth: Truth | None) -> Judged:
    """Hold a column against what is true of the frames that it looked at."""
    found = matching.only(column.found, column.entry.labels)
    if truth is None or column.error:
        return Judged(column, found)
    labels = [label for label in column.entry.labels if label in truth.labels]
    keys = found.keys() & truth.objects.keys()
    real = matching.only({key: truth.objects[key] for key in sorted(keys)}, labels)
    given = matching.only(found, labels)
    if not any(real.values()):
        return Judged(column, found)
    ap, ap50 = matching.average_precision(real, given, labels)
    return Judged(column, found, matching.curve(real, given), ap, ap50)


@dataclass(frozen=True)
class Comparison:
    """All columns; `least` is the score from which on boxes are counted where no truth tells."""

    judged: Sequence[Judged]
    least: float = 0.0

    @cached_property
    def pairs(self) -> dict[tuple[str, str], matching.Agreement]:
        """How far each two columns that reached their end agree, boxes below `least` left out."""
        said = {each.title: self._said(each) for each in self.judged if not each.column.error}
        return {(a, b): matching.agreement(said[a], said[b]) for a, b in combinations(said, 2)}

    def _said(self, judged: Judged) -> dict[Key, list[Object]]:
        return matching.only(judged.found, judged.column.entry.labels, self.least)

    def table(self) -> pd.DataFrame:
        """A row for each column; numbers, NaN where not measured, and a remark."""
        import pandas as pd

        rows = [self._row(judged) for judged in self.judged]
        titles = pd.Index([judged.title for judged in self.judged], name="detector")
        return pd.DataFrame(rows, titles, [*_FORMATS, "remark"])

    def _row(self, judged: Judged) -> dict[str, Any]:
        if judged.column.error:
            return {"remark": f"failed: {judged.column.error}"}
        took = judged.column.measured
        row: dict[str, Any] = {"AP": judged.ap, "AP50": judged.ap50, "remark": self._remark(judged)}
        if judged.best is not None:
            precision, recall, score = judged.best
            row |= {"precision": precision, "recall": recall}
            row |= {"at score": score} if score >= 0 else {}
        elif judged.curve is not None:
            row |= {"precision": 0.0, "recall": 0.0}
        said = self._said(judged).values()
        row["boxes/frame"] = sum(map(len, said)) / len(said) if said else None
        row |= self._agreement(judged.title)
        row |= {"ms/frame": _times(took.seconds, 1000), "first batch s": took.first_seconds}
        row |= {"memory MiB": _times(took.memory, 1 / _MIB)}
        row |= {"GPU MiB": _times(took.gpu_memory, 1 / _MIB)}
        row |= {"weights MiB": _times(took.weights, 1 / _MIB)}
        return row | {"cost/1000 frames": _times(took.money_per_frame, 1000)} | _cost(judged)

    def _agreement(self, title: str) -> dict[str, float]:
        mine = [pair for titles, pair in self.pairs.items() if title in titles]
        pairs = {"agreement F1": [p.f1 for p in mine], "agreement IoU": [p.iou for p in mine]}
        known = {name: [v for v in values if v == v] for name, values in pairs.items()}
        return {name: float(np.mean(values)) for name, values in known.items() if values}

    def _remark(self, judged: Judged) -> str:
        things = [thing for each in judged.found.values() for thing in each]
        if not things:
            return "found nothing"
        return "gives no scores" if all(thing.score is None for thing in things) else ""

    def texts(self, without: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
        """The table as texts: its columns, and its rows; some columns may be left out."""
        table = self.table().drop(columns=list(without))
        rows = [
            [str(title), *(_text(str(name), value) for name, value in row.items())]
            for title, row in zip(table.index, table.to_dict("records"), strict=True)
        ]
        return ["detector", *map(str, table.columns)], rows

    def unmeasured(self) -> list[str]:
        """The columns of the table in which nothing was measured."""
        table = self.table()
        return [name for name in _FORMATS if table[name].isna().all()]

    def agreements(self) -> pd.DataFrame:
        """A row for each pair of columns."""
        import pandas as pd

        rows = [(*titles, pair.f1, pair.iou) for titles, pair in self.pairs.items()]
        return pd.DataFrame(rows, columns=["detector", "other", "F1", "IoU"])


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _cost(judged: Judged) -> dict[str, float]:
    """Money for each box that the truth confirms, at the best threshold."""
    paid, curve = judged.column.measured.money_per_frame, judged.curve
    if paid is None or curve is None or judged.best is None:
        return {}
    right = judged.best[1] * curve.truth
    return {"cost/right box": paid * len(judged.found) / right}


def _text(name: str, value: Any) -> str:
    if name not in _FORMATS:
        return str(value)
    return NOT_MEASURED if value is None or value != value else _FORMATS[name].format(value)


def write(comparison: Comparison, out: Path) -> None:
    """Write `table.csv`, `table.md` and `agreement.csv` into the folder `out`.

    Raises:
        OutputError: nothing can be written there.
    """
    columns, rows = comparison.texts()
    lines = [columns, ["---"] * len(columns), *rows]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    with new_file(out / "table.md") as draft:
        draft.write_text("".join(f"| {line} |\n" for line in cells), encoding="utf-8")
    with new_file(out / "table.csv") as draft:
        comparison.table().to_csv(draft)
    with new_file(out / "agreement.csv") as draft:
        comparison.agreements().to_csv(draft, index=False)
