"""Compare a model before and after training on a gold set, with intervals from a paired bootstrap.

Each model counts at its own threshold, chosen on the validation split; average precision needs
none. The resamples are the same for both models, so that the interval of the difference is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from annotate.dataset.frame_sources import FrameKey
from annotate.errors import ItemsError
from annotate.evaluation.gold.bootstrap import (
    MIN_CLIPS,
    SIZES,
    MatchCounts,
    Values,
    Weights,
    match_counts,
    mean_average_precision,
    percentile_interval,
    resample_clips,
)
from annotate.evaluation.gold.gold_set import GoldSet
from annotate.evaluation.metrics import ObjectsByFrame, filter_objects, match_boxes
from annotate.items.records import Item, Object

TOO_FEW_CLIPS = "too few clips to say"
BETTER, WORSE, UNDECIDED = "better", "worse", "no difference shown"


@dataclass(frozen=True)
class ModelOnGold:
    """The boxes of a model on every frame of a gold set, also with scores below `threshold`.

    `threshold` was chosen on the validation split. `digest` identifies the weights.
    """

    name: str
    items: Sequence[Item]
    threshold: float
    digest: str = ""


@dataclass(frozen=True)
class Estimate:
    """A measured value, NaN where not defined, and its 95 % interval, None if none is given."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class ComparedMeasure:
    """One measure of both models.

    `truth_count` is the number of true objects, of empty frames for false boxes on them. `seeds`
    are the values of all models after training, the first of which is `after`. `difference` is
    after minus before; without a model before it is None, and `verdict` is "".
    """

    name: str
    truth_count: int
    before: Estimate | None
    after: Estimate
    difference: Estimate | None
    seeds: tuple[float, ...]
    verdict: str


@dataclass(frozen=True)
class BeforeAfter:
    """The comparison of models on a gold set that was looked at `looks` times."""

    gold: GoldSet
    measures: tuple[ComparedMeasure, ...]
    clip_count: int
    frame_count: int
    looks: int
    before: ModelOnGold | None
    after: tuple[ModelOnGold, ...]

    def record(self) -> dict[str, Any]:
        """Return the measures as values of JSON, for the lineage of a model; null: not defined."""
        rows = {each.name: each for each in self.measures}
        results: dict[str, Any] = {
            "before": None
            if self.before is None
            else {name: _record(row.before) for name, row in rows.items()},
            "after": {name: _record(row.after) for name, row in rows.items()},
            "difference": None
            if self.before is None
            else {
                name: _record(row.difference) | {"verdict": row.verdict}
                for name, row in rows.items()
            },
        }
        if len(self.after) > 1:
            results["seeds"] = {name: list(row.seeds) for name, row in rows.items()}
        return results | {"clips": self.clip_count, "frames": self.frame_count}


def _record(estimate: Estimate | None) -> dict[str, Any]:
    assert estimate is not None
    low, high = estimate.interval or (None, None)
    value = None if np.isnan(estimate.value) else estimate.value
    return {"value": value, "low": low, "high": high}


@dataclass(frozen=True)
class _CountsOnGold:
    """What the measures of a model need, by clip: (clips,) but for the matches."""

    matches: Mapping[tuple[str, str], Sequence[MatchCounts]]  # (class, size) -> by IoU
    correct: Values  # boxes from the threshold on
    false: Values
    truth: Values
    false_on_empty: Values
    empty_frames: Values


@dataclass(frozen=True)
class _Measure:
    """A measure: its name, how it is computed from weighted clips, and on how many true objects."""

    name: str
    compute: Callable[[_CountsOnGold, Weights], Values]
    truth_count: int
    lower_is_better: bool = False


def compare_models(
    gold: GoldSet, after: Sequence[ModelOnGold], before: ModelOnGold | None = None
) -> BeforeAfter:
    """Compare a model with that from which it was trained, and count the look at the gold set.

    `after` has a model for each seed; the first is the one that is kept. "Better" needs an interval
    of the difference that excludes 0, and the same sign for every seed.

    Raises:
        ItemsError: a model has no item for a frame of the gold set, or a box without a score.
        OutputError: the look cannot be counted.
    """
    truth = {(s.item.video, s.item.frame): s.item.objects for s in gold.dataset}
    labels, clips = gold.dataset.classes, gold.clips
    counted = [_count_on_gold(model, truth, labels, clips) for model in after]
    first = None if before is None else _count_on_gold(before, truth, labels, clips)
    weights = resample_clips(len(clips))
    measures = [_compare(measure, first, counted, weights) for measure in _measures(truth, labels)]
    looks = gold.record_look(m.digest or m.name for m in (*after, *filter(None, [before])))
    return BeforeAfter(gold, tuple(measures), len(clips), len(truth), looks, before, tuple(after))


def objects_on_gold(model: ModelOnGold, keys: Sequence[FrameKey]) -> dict[FrameKey, list[Object]]:
    """Return the objects of a model on frames of a gold set.

    Raises:
        ItemsError: a frame has no item, or a box has no score.
    """
    found = {(item.video, item.frame): list(item.objects) for item in model.items}
    missing = [f"{video}#{frame}" for video, frame in keys if (video, frame) not in found]
    if missing:
        raise ItemsError(
            f"{model.name}: no item for {len(missing)} frames of the gold set, such as "
            f"{missing[0]}: detect on all of it"
        )
    if any(obj.score is None for objects in found.values() for obj in objects):
        raise ItemsError(f"{model.name}: boxes without a score have no order, so no precision")
    return {key: found[key] for key in keys}


def _count_on_gold(
    model: ModelOnGold, truth: ObjectsByFrame, labels: Sequence[str], clips: Sequence[str]
) -> _CountsOnGold:
    objects = objects_on_gold(model, list(truth))
    found = filter_objects(objects, labels)
    matches = match_counts(truth, found, labels, clips)
    columns = {clip: number for number, clip in enumerate(clips)}
    rows = np.zeros((5, len(clips)))
    for key, kept in filter_objects(found, labels, model.threshold).items():
        true_count, column = len(truth[key]), columns[key[0]]
        correct_count = len(match_boxes(kept, truth[key]))
        false_count = len(kept) - correct_count
        is_empty = not true_count
        rows[:, column] += (
            *(correct_count, false_count, true_count),
            *(false_count * is_empty, is_empty),
        )
    return _CountsOnGold(matches, *rows)


def _measures(truth: ObjectsByFrame, labels: Sequence[str]) -> list[_Measure]:
    objects = [obj for each in truth.values() for obj in each]
    areas = [(o.box[2] - o.box[0]) * (o.box[3] - o.box[1]) for o in objects]
    measures = [
        _Measure("AP50", _ap(labels, "all", first_iou=True), len(objects)),
        _Measure("AP", _ap(labels, "all"), len(objects)),
    ]
    if len(labels) > 1:
        measures += [
            _Measure(
                f"AP50 of {label}",
                _ap([label], "all", first_iou=True),
                sum(obj.label == label for obj in objects),
            )
            for label in labels
        ]
    for size, (low, high) in list(SIZES.items())[1:]:
        count = sum(low <= area <= high for area in areas)
        measures.append(_Measure(f"AP50, {size} boxes", _ap(labels, size, first_iou=True), count))
    measures += [
        _Measure("precision", lambda c, w: _ratio(w, c.correct, c.correct + c.false), len(objects)),
        _Measure("recall", lambda c, w: _ratio(w, c.correct, c.truth), len(objects)),
        _Measure(
            "false boxes per empty frame",
            lambda c, w: _ratio(w, c.false_on_empty, c.empty_frames),
            sum(not each for each in truth.values()),
            lower_is_better=True,
        ),
    ]
    return [each for each in measures if each.truth_count]  # others are not defined


def _ap(
    labels: Sequence[str], size: str, *, first_iou: bool = False
) -> Callable[[_CountsOnGold, Weights], Values]:
    """Make the mean AP of the classes that have true objects, over all IoUs or at IoU 0.5."""

    def compute(counts: _CountsOnGold, weights: Weights) -> Values:
        return mean_average_precision(
            counts.matches, labels, weights, size=size, first_iou=first_iou
        )

    return compute


def _ratio(weights: Weights, numerator: Values, denominator: Values) -> Values:
    return _divide(weights @ numerator, weights @ denominator)


def _divide(numerator: Values, denominator: Values) -> Values:
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1e-12), np.nan)


def _compare(
    measure: _Measure,
    before: _CountsOnGold | None,
    after: Sequence[_CountsOnGold],
    weights: Weights,
) -> ComparedMeasure:
    one, clip_count = np.ones((1, weights.shape[1])), weights.shape[1]

    def estimate(compute: Callable[[Weights], Values]) -> Estimate:
        return Estimate(float(compute(one)[0]), percentile_interval(compute(weights), clip_count))

    seeds = tuple(float(measure.compute(each, one)[0]) for each in after)
    estimated = estimate(lambda w: measure.compute(after[0], w))
    if before is None:
        return ComparedMeasure(measure.name, measure.truth_count, None, estimated, None, seeds, "")
    earlier = estimate(lambda w: measure.compute(before, w))
    difference = estimate(lambda w: measure.compute(after[0], w) - measure.compute(before, w))
    gains = [seed - earlier.value for seed in seeds]
    verdict = _verdict(difference, gains, clip_count, measure.lower_is_better)
    return ComparedMeasure(
        measure.name, measure.truth_count, earlier, estimated, difference, seeds, verdict
    )


def _verdict(
    difference: Estimate, gains: Sequence[float], clip_count: int, lower_is_better: bool
) -> str:
    if np.isnan(difference.value):
        return ""
    if clip_count < MIN_CLIPS or difference.interval is None:
        return TOO_FEW_CLIPS
    low, high = difference.interval
    higher, lower = (WORSE, BETTER) if lower_is_better else (BETTER, WORSE)
    if low > 0 and min(gains) > 0:
        return higher
    return lower if high < 0 and max(gains) < 0 else UNDECIDED
