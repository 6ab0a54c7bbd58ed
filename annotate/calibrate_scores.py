"""Learn from corrected frames what a detector's scores are worth.

A box is right if it overlaps a true box of its class, that no surer box has taken, by IoU 0.5. The
share that is right is fitted over the score by isotonic regression (Zadrozny and Elkan 2002), or by
Platt's sigmoid (1999) where boxes are few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from annotate import folder, journal
from annotate.drafts import new_file
from annotate.errors import AnnotateError, ItemsError, OutputError, needs
from annotate.matching import IOU, matched
from annotate.records import Item, Object
from annotate.score_calibration import Curve, Scores, to_json

METHODS = ("auto", "isotonic", "platt")
FEWEST = 10  # boxes of a class below which nothing is said of it
_MANY = 1000  # boxes from which isotonic regression does not follow their noise

Frames = Mapping[tuple[str, int], Sequence[Object]]


@dataclass(frozen=True)
class Learnt:
    """What was learnt of one detector's class; `curve` is None where boxes were too few.

    Brier scores are the mean squared error of the score as a probability, before and after, over
    the boxes that have one: the smaller the better.
    """

    source: str
    label: str
    boxes: int
    right: int
    curve: Curve | None
    before: float
    after: float


def learn(items: Iterable[Path], truth: Path, *, method: str = "auto") -> list[Learnt]:
    """For each detector and class in `items`: what its scores mean, by the frames of `truth`.

    `truth` is a file of items or a dataset that a person has corrected; frames that it does not
    have are not looked at.

    Raises:
        AnnotateError: nothing to learn from, an unknown method.
    """
    if method not in METHODS:
        raise AnnotateError(f"method must be {', '.join(METHODS)}, got {method!r}")
    true = _frames(truth)
    rows: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    for path in items:
        found = _frames(path)
        if not found.keys() & true.keys():
            raise ItemsError(f"{path}: none of its frames is in {truth}")
        for key in found.keys() & true.keys():
            for thing, right in _judged(found[key], true[key]):
                score = np.nan if thing.score is None else thing.score
                rows[thing.source, thing.label].append((score, right))
    learnt = [_learn(*key, np.array(rows[key], float), method) for key in sorted(rows)]
    if not any(each.curve for each in learnt):
        raise AnnotateError(
            f"{truth}: no class has {FEWEST} boxes to learn from: correct more frames"
        )
    return learnt


def curves(learnt: Iterable[Learnt]) -> dict[str, dict[str, Curve]]:
    """Detector -> class -> curve, of what could be learnt."""
    found: dict[str, dict[str, Curve]] = defaultdict(dict)
    for each in learnt:
        if each.curve is not None:
            found[each.source][each.label] = each.curve
    return dict(found)


def write(learnt: Iterable[Learnt], out: Path, *, force: bool = False) -> None:
    """Write what was learnt, for `annotate detect --calibration`.

    Raises:
        OutputError: it is there already and `force` is not given, or nothing can be written there.
    """
    if out.exists() and not force:
        raise OutputError(f"{out}: is there already: give another -o, or --force to write over it")
    with new_file(out) as draft:
        draft.write_text(to_json(curves(learnt), IOU), "utf-8")


def _frames(path: Path) -> dict[tuple[str, int], Sequence[Object]]:
    if (path / folder.MARK).is_file():
        items: Iterable[Item] = (sample.item for sample in folder.load(path))
    else:
        items = journal.read(path)
    return {(item.video, item.frame): item.objects for item in items}


def _judged(found: Sequence[Object], true: Sequence[Object]) -> Iterable[tuple[Object, bool]]:
    for source in {thing.source for thing in found}:
        own = [thing for thing in found if thing.source == source]
        right = {row for row, _, _ in matched(own, true)}
        yield from ((thing, row in right) for row, thing in enumerate(own))


def _learn(source: str, label: str, rows: Scores, method: str) -> Learnt:
    """`rows` is (n, 2): score, and whether it is right."""
    scores, right = rows[np.lexsort(rows.T[::-1])].T
    scored = ~np.isnan(scores)
    curve = None
    if len(rows) >= FEWEST:
        curve = _fit(scores[scored], right[scored], method, _share(right[~scored]))
    before, after = (
        float(((each - right[scored]) ** 2).mean()) if scored.any() else float("nan")
        for each in (scores[scored], curve(scores[scored]) if curve else scores[scored])
    )
    return Learnt(source, label, len(rows), int(right.sum()), curve, before, after)


def _share(right: Scores) -> float | None:
    """How often boxes are right that cannot be told apart: Laplace's rule, never 0 or 1."""
    return round(float((right.sum() + 1) / (len(right) + 2)), 6) if len(right) else None


def _fit(scores: Scores, right: Scores, method: str, unscored: float | None) -> Curve:
    count = len(scores)
    if method == "auto":
        method = "isotonic" if count >= _MANY else "platt"
    if not count:
        return Curve("constant", count, unscored=unscored)
    if right.min() == right.max() or scores.min() == scores.max():
        share = _share(right) or 0.0
        return Curve("constant", count, (0.0,), (share,), unscored=unscored)
    if method == "isotonic":
        fitted: Any = (
            needs("sklearn.isotonic").IsotonicRegression(y_min=0, y_max=1).fit(scores, right)
        )
        knots = (_rounded(fitted.X_thresholds_), _rounded(fitted.y_thresholds_))
        return Curve("isotonic", count, *knots, unscored=unscored)
    slope, offset = _platt(scores, right)
    return Curve("platt", count, slope=slope, offset=offset, unscored=unscored)


def _platt(scores: Scores, right: Scores) -> tuple[float, float]:
    """Platt's sigmoid, towards his softened targets, so that few boxes do not make it a step."""
    good, bad = right.sum(), (1 - right).sum()
    target = np.where(right > 0, (good + 1) / (good + 2), 1 / (bad + 2))
    model: Any = needs("sklearn.linear_model").LogisticRegression(C=1e6, max_iter=1000)
    model.fit(
        np.tile(scores, 2)[:, None],
        np.repeat([1, 0], len(scores)),
        np.concatenate([target, 1 - target]),
    )
    return round(float(model.coef_[0, 0]), 6), round(float(model.intercept_[0]), 6)


def _rounded(values: Scores) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
