"""The head of `light` in NumPy: its output, its loss, the gradients, and AdamW.

The head sees the features round a cell, has two hidden layers, and gives for each class a logit
and the distances to the four sides of a box. The loss of the logits is the quality focal loss (Li
and others, 2020): a cell that must find a box should score the IoU that it
reaches, less towards the sides of the box. The loss of
the distances is -log IoU (Yu and others, 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from annotate.detectors.trained import UNIT_PX
from annotate.training.light.features import COARSE_KEPT, FINE_KEPT, Tensors
from annotate.training.light.graph import COARSE_OFFSETS, FINE_OFFSETS
from annotate.training.light.grid import Floats, Ints

HIDDEN = 128  # channels of both hidden layers
_PRIOR = 0.05  # score of every cell before the training
_BOX_WEIGHT = 1.0
_BETAS, _EPSILON = (0.9, 0.99), 1e-8


def new_head(classes: int, random: np.random.Generator) -> Tensors:
    """Make the tensors of a head that was not trained (He initialisation)."""
    shapes = {
        "fine_weights": (len(FINE_OFFSETS) * FINE_KEPT, HIDDEN),
        "coarse_weights": (len(COARSE_OFFSETS) * COARSE_KEPT, HIDDEN),
        "second_weights": (HIDDEN, HIDDEN),
        "last_weights": (HIDDEN, 5 * classes),
    }
    inputs = shapes["fine_weights"][0] + shapes["coarse_weights"][0]
    spread = {"second_weights": HIDDEN, "last_weights": 100 * HIDDEN}
    head = {
        name: (random.normal(size=shape) * np.sqrt(2 / spread.get(name, inputs))).astype(np.float32)
        for name, shape in shapes.items()
    }
    last_bias = np.zeros(5 * classes, np.float32)
    last_bias[:classes] = np.log(_PRIOR / (1 - _PRIOR))
    zeros = {name: np.zeros(HIDDEN, np.float32) for name in ("fine_bias", "second_bias")}
    return head | zeros | {"last_bias": last_bias}


def inherit_head(
    head: Tensors, parent: Tensors, classes: Sequence[str], parent_classes: Sequence[str]
) -> Tensors:
    """Take over the tensors of a parent's head; those of a class go by its name."""
    for name in head:
        if not name.startswith("last"):
            head[name] = parent[name].copy()
    weights, old = head["last_weights"], parent["last_weights"]
    for row, name in enumerate(classes):
        if name in parent_classes:
            places = _class_columns(row, len(classes))
            old_places = _class_columns(parent_classes.index(name), len(parent_classes))
            weights[:, places] = old[:, old_places]
            head["last_bias"][places] = parent["last_bias"][old_places]
    return head


def _class_columns(row: int, classes: int) -> list[int]:
    """List the columns of a class in the head's output: its logit, and its four distances."""
    return [row, *range(classes + 4 * row, classes + 4 * row + 4)]


class Rows(NamedTuple):
    """Cells to learn from: what the head sees there, and what it must find.

    `pair_rows`, `pair_classes`, `distances` and `centredness` are the pairs of a row and a class
    that have a box.
    """

    fine: Floats
    coarse: Floats
    pair_rows: Ints
    pair_classes: Ints
    distances: Floats
    centredness: Floats


class Learned(NamedTuple):
    """The loss, the gradient of each tensor, and the scores (n, C) of some rows."""

    loss: float
    gradients: Tensors
    scores: Floats


def learn(head: Tensors, rows: Rows, dropout: float, random: np.random.Generator) -> Learned:
    """Compute the loss of some rows and its gradients.

    A share `dropout` of the hidden channels, drawn by lot, is left out.
    """
    first = rows.fine @ head["fine_weights"] + rows.coarse @ head["coarse_weights"]
    first_kept, second_kept = (_kept(first.shape, dropout, random) for _ in range(2))
    first = np.maximum(first + head["fine_bias"], 0) * first_kept
    second = np.maximum(first @ head["second_weights"] + head["second_bias"], 0) * second_kept
    output = second @ head["last_weights"] + head["last_bias"]
    classes = output.shape[1] // 5
    pairs = max(float(rows.centredness.sum()), 1.0)
    slope = np.zeros_like(output)
    sides = output[:, classes:].reshape(-1, classes, 4)
    chosen = sides[rows.pair_rows, rows.pair_classes]
    iou, box_loss, box_slope = iou_loss(chosen, rows.distances)
    side_slope = np.zeros_like(sides)
    side_slope[rows.pair_rows, rows.pair_classes] = (
        box_slope * rows.centredness[:, None] * np.float32(_BOX_WEIGHT / pairs)
    )
    slope[:, classes:] = side_slope.reshape(len(output), -1)
    wanted = np.zeros((len(output), classes), np.float32)
    wanted[rows.pair_rows, rows.pair_classes] = iou * rows.centredness
    score_loss, score_slope, scores = focal_loss(output[:, :classes], wanted)
    slope[:, :classes] = score_slope / pairs
    loss = float(score_loss.sum() + _BOX_WEIGHT * (box_loss * rows.centredness).sum()) / pairs
    gradients = {"last_weights": second.T @ slope, "last_bias": slope.sum(0)}
    slope = (slope @ head["last_weights"].T) * (second > 0) * second_kept
    gradients |= {"second_weights": first.T @ slope, "second_bias": slope.sum(0)}
    slope = (slope @ head["second_weights"].T) * (first > 0) * first_kept
    gradients |= {"fine_weights": rows.fine.T @ slope, "fine_bias": slope.sum(0)}
    gradients |= {"coarse_weights": rows.coarse.T @ slope}
    return Learned(loss, gradients, scores)


def _kept(shape: tuple[int, ...], dropout: float, random: np.random.Generator) -> Floats:
    """Draw which channels are kept, scaled so that the mean stays."""
    return (random.random(shape, np.float32) >= dropout) * np.float32(1 / (1 - dropout))


def focal_loss(logits: Floats, wanted: Floats) -> tuple[Floats, Floats, Floats]:
    """Compute the quality focal loss with exponent 2, its slope, and the scores."""
    scores = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    gap = scores - wanted
    cross = np.maximum(logits, 0) - logits * wanted + np.log1p(np.exp(-np.abs(logits)))
    slope = 2 * gap * scores * (1 - scores) * cross + gap**3
    return np.asarray(gap**2 * cross), np.asarray(slope), np.asarray(scores, np.float32)


def iou_loss(outputs: Floats, distances: Floats) -> tuple[Floats, Floats, Floats]:
    """Compute the IoU of boxes round the same cells, -log IoU, and its slope: (n,), (n,), (n, 4).

    `outputs` are logarithms of distances in units of 24 pixels, `distances` are pixels.
    """
    limited = np.clip(outputs, -4, 4)
    found = UNIT_PX * np.exp(limited)
    shared = np.minimum(found, distances)
    wide, high = shared[:, 0] + shared[:, 2], shared[:, 1] + shared[:, 3]
    inner = wide * high
    area = (found[:, 0] + found[:, 2]) * (found[:, 1] + found[:, 3])
    union = area + (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3]) - inner
    other_inner = np.stack([high, wide, high, wide], axis=1)
    across, down = found[:, 1] + found[:, 3], found[:, 0] + found[:, 2]
    other_area = np.stack([across, down, across, down], axis=1)
    inner_slope = (found < distances) * other_inner
    union_slope = other_area - inner_slope
    slope = (union_slope / union[:, None] - inner_slope / inner[:, None]) * found
    iou: Floats = inner / union
    inside = np.asarray(limited == outputs, np.float32)
    return iou, -np.log(iou), np.asarray(slope * inside, np.float32)


@dataclass
class AdamW:
    """Adam with decoupled weight decay, and a moving average of the tensors."""

    head: Tensors
    weight_decay: float = 0.02
    averaging: float = 0.995
    step: int = 0
    first: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)
    average: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        for moments in (self.first, self.second):
            for name, tensor in self.head.items():
                moments.setdefault(name, np.zeros_like(tensor))
        for name, tensor in self.head.items():
            self.average.setdefault(name, tensor.copy())

    def update(self, gradients: Tensors, rate: float) -> None:
        """Take a step with the learning rate `rate`."""
        self.step += 1
        one, two = _BETAS
        keep = min(self.averaging, (1 + self.step) / (10 + self.step))
        for name, tensor in self.head.items():
            gradient = gradients[name]
            self.first[name] = one * self.first[name] + (1 - one) * gradient
            self.second[name] = two * self.second[name] + (1 - two) * gradient**2
            mean = self.first[name] / (1 - one**self.step)
            spread = np.sqrt(self.second[name] / (1 - two**self.step)) + _EPSILON
            decay = self.weight_decay * tensor if tensor.ndim == 2 else 0
            tensor -= np.float32(rate) * (mean / spread + decay)
            self.average[name] += np.float32(1 - keep) * (tensor - self.average[name])
