"""Match boxes to true objects once for each frame, and bootstrap average precision by clip.

The matches are those of pycocotools. A resample of clips gives each clip a weight: how often it was
drawn. Average precision needs only the counts of boxes up to each correct box, by clip, so that all
resamples are computed by one product of matrices. Frames of a clip are much alike: to resample them
would make the interval far too narrow, so the unit is the clip.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import COCOeval

from annotate.dataset.frame_sources import FrameKey
from annotate.evaluation.metrics import MAX_BOXES, RECALL_THRESHOLDS, ObjectsByFrame, coco_table

RESAMPLES = 2000
CONFIDENCE = 0.95
MIN_CLIPS = 5  # with fewer, no interval is given
SIZES = {  # COCO's: the area of a box in pixels, from and to
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
Weights = npt.NDArray[np.float64]  # (resamples, clips): how often each clip was drawn
Values = npt.NDArray[np.float64]  # (resamples,)


@dataclass(frozen=True)
class MatchCounts:
    """The matches of one class and size at one IoU, by clip: what average precision needs.

    `boxes` is (correct boxes, clips): for each correct box, in order of score, how many boxes of
    each clip score at least as high. `correct` counts the correct ones among these. `truth` is
    (clips,), the true objects.
    """

    boxes: Weights
    correct: Weights
    truth: Values

    def average_precision(self, weights: Weights) -> Values:
        """Compute COCO's average precision for each row of weights; NaN without true objects."""
        truth = weights @ self.truth
        correct = weights @ self.correct.T  # (resamples, correct boxes)
        precision = correct / np.maximum(weights @ self.boxes.T, 1e-12)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = correct / np.maximum(truth, 1e-12)[:, None]
        reached = np.searchsorted(RECALL_THRESHOLDS, recall.ravel(), side="right")
        gained = np.diff(reached.reshape(recall.shape), axis=1, prepend=0)
        average = (envelope * gained).sum(axis=1) / len(RECALL_THRESHOLDS)
        return np.where(truth > 0, average, np.nan)


def match_counts(
    truth: ObjectsByFrame, detections: ObjectsByFrame, labels: Sequence[str], clips: Sequence[str]
) -> dict[tuple[str, str], list[MatchCounts]]:
    """Match the boxes of every frame once: (class, size) -> counts at IoU 0.5, 0.55 ... 0.95.

    `clips` are the videos of the frames; the order is that of the columns of the counts.
    """
    keys = list(truth)
    evaluation = _evaluate(truth, detections, labels, keys)
    columns = np.array([clips.index(video) for video, _ in keys], int)
    per_cell = len(keys)
    counts, cells = {}, evaluation.evalImgs
    for class_number, label in enumerate(labels):
        for size_number, size in enumerate(SIZES):
            start = (class_number * len(SIZES) + size_number) * per_cell
            found = [
                (column, cell)
                for column, cell in zip(columns, cells[start : start + per_cell], strict=True)
                if cell is not None
            ]
            counts[label, size] = _count(found, len(clips), len(evaluation.params.iouThrs))
    return counts


def _evaluate(
    truth: ObjectsByFrame,
    detections: ObjectsByFrame,
    labels: Sequence[str],
    keys: Sequence[FrameKey],
) -> Any:
    image_ids = {key: number for number, key in enumerate(keys, start=1)}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        true_table, table = (coco_table(each, image_ids, labels) for each in (truth, detections))
        evaluation: Any = COCOeval(true_table, table, "bbox")
        evaluation.params.maxDets = [MAX_BOXES]
        evaluation.params.areaRng = [list(limits) for limits in SIZES.values()]
        evaluation.params.areaRngLbl = list(SIZES)
        evaluation.evaluate()
    return evaluation


def _count(found: Sequence[tuple[int, Any]], clip_count: int, iou_count: int) -> list[MatchCounts]:
    """Count the matches of one class and size; `found` is (column of the clip, COCO's record)."""
    truth = np.zeros(clip_count)
    for column, cell in found:
        truth[column] += np.count_nonzero(np.asarray(cell["gtIgnore"]) == 0)
    columns = np.repeat([c for c, _ in found], [len(each["dtScores"]) for _, each in found])
    scores = np.concatenate([np.zeros(0), *(each["dtScores"] for _, each in found)])
    order = np.argsort(-scores, kind="mergesort")  # as pycocotools: equal scores by frame
    one_hot = np.eye(clip_count)[columns.astype(int)[order]]
    empty = np.zeros((iou_count, 0))
    matched, ignored = (
        np.concatenate([empty, *(np.asarray(each[key]) for _, each in found)], axis=1)[:, order] > 0
        for key in ("dtMatches", "dtIgnore")
    )
    counts = []
    for row in range(iou_count):
        correct = matched[row] & ~ignored[row]
        boxes = np.cumsum(one_hot * ~ignored[row][:, None], axis=0)[correct]
        counts.append(MatchCounts(boxes, np.cumsum(one_hot[correct], axis=0), truth))
    return counts


def mean_average_precision(
    counts: Mapping[tuple[str, str], Sequence[MatchCounts]],
    labels: Sequence[str],
    weights: Weights,
    *,
    size: str = "all",
    first_iou: bool = False,
) -> Values:
    """Compute the mean AP of the classes that have true objects, over all IoUs or at IoU 0.5.

    NaN where no class has true objects.
    """
    used = [each for label in labels for each in counts[label, size][: 1 if first_iou else None]]
    values = np.array([each.average_precision(weights) for each in used])
    count = (~np.isnan(values)).sum(axis=0)
    total = np.nansum(values, axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def resample_clips(clip_count: int, resamples: int = RESAMPLES, seed: int = 0) -> Weights:
    """Draw clips with replacement: how often each was drawn, (resamples, clips)."""
    drawn = np.random.default_rng(seed).integers(clip_count, size=(resamples, clip_count))
    return np.asarray((drawn[:, :, None] == np.arange(clip_count)).sum(axis=1), float)


def percentile_interval(values: Values, clip_count: int) -> tuple[float, float] | None:
    """Compute the 95 % percentile interval; None for too few clips, or where nothing is defined.

    The percentiles are wider than 2.5 and 97.5 for few clips, as Student's t is wider than the
    normal distribution (the expanded percentile interval, Hesterberg 2015, section 5.3).
    """
    defined = values[~np.isnan(values)]
    if clip_count < MIN_CLIPS or not len(defined):
        return None
    from scipy.stats import t

    spread = (clip_count / (clip_count - 1)) ** 0.5
    tail = NormalDist().cdf(-spread * float(t.ppf((1 + CONFIDENCE) / 2, clip_count - 1)))
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)
