"""Boxes of several detectors on one picture, joined: weighted boxes fusion.

Solovyev, Wang, Gabruseva: "Weighted boxes fusion: Ensembling boxes from different object detection
models", Image and Vision Computing 107 (2021), 104117.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Given:
    """Boxes of one class on one picture, from all members: n of them.

    `boxes` is (n, 4), xyxy; `scores` is (n,), NaN where a member gave none; `members` is (n,).
    """

    boxes: Numbers
    scores: Numbers
    members: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Joined:
    """Boxes that are one thing: the fused box, its score, and the rows that it came from.

    The surest row is first. The score is NaN where none of them has one.
    """

    box: Numbers
    score: float
    rows: tuple[int, ...]


def fuse(
    given: Given, weights: Sequence[float], *, iou: float = 0.55, unscored: float = 0.5
) -> list[Joined]:
    """The fused boxes, surest first.

    A box joins the fused box that it overlaps most, from `iou` on. Corners are means weighted by
    score; a box without one counts as `unscored` there, and there only. The score is the mean of
    those given, times the share of the members' weight that found it.
    """
    trust = np.array(weights, float)[given.members]
    sure = np.where(np.isnan(given.scores), unscored, given.scores) * trust
    clusters: list[list[int]] = []
    fused = np.zeros((0, 4))
    for row in np.argsort(-sure, kind="stable").tolist():
        overlap = ious(given.boxes[row], fused)
        if len(overlap) and overlap.max() > iou:
            place = int(overlap.argmax())
            clusters[place].append(row)
            fused[place] = _mean(given.boxes, sure, clusters[place])
        else:
            clusters.append([row])
            fused = np.vstack([fused, given.boxes[row]])
    scores = [_score(given.scores, trust, rows, weights) for rows in clusters]
    joined = [Joined(*each) for each in zip(fused, scores, map(tuple, clusters), strict=True)]
    return sorted(joined, key=lambda each: -each.score if each.score == each.score else 0.0)


def _mean(boxes: Numbers, sure: Numbers, rows: Sequence[int]) -> Numbers:
    share = sure[rows] if sure[rows].any() else np.ones(len(rows))
    return np.asarray(np.average(boxes[rows], axis=0, weights=share))


def _score(scores: Numbers, trust: Numbers, rows: Sequence[int], weights: Sequence[float]) -> float:
    scored = [row for row in rows if not np.isnan(scores[row])]
    if not scored:
        return float("nan")
    mean = float((scores[scored] * trust[scored]).mean())
    return mean * min(len(weights), len(rows)) / float(np.sum(weights))


def ious(box: Numbers, boxes: Numbers) -> Numbers:
    """IoU of one box with each of several, (n,)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = (high - low).clip(0).prod(1)
    areas = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return np.asarray(common / np.maximum(areas - common, 1e-9))
