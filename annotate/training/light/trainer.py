"""The trainer `light`: features computed once, a head trained on sampled cells, exported to ONNX.

In each epoch the head learns from the cells that must find a box, from cells drawn by lot, and
from those that scored highest, without reason, in the epoch before. After each epoch everything
that the next one depends on is in the file of the training's state, so that a training that was
killed goes on to the same tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from annotate.detectors.trained import (
    DETECTOR,
    decode,
    run_session,
    start_session,
    to_picture,
)
from annotate.errors import AnnotateError, WeightsError, needs
from annotate.evaluation.metrics import average_precision
from annotate.files import atomic_file
from annotate.items.records import Item, Object
from annotate.training.light.features import (
    FeatureFile,
    Tensors,
    cached_features,
    check_disk,
    fit_reduction,
    remove_features,
)
from annotate.training.light.graph import (
    classes_of,
    detector_graph,
    head_graph,
    read_tensors,
)
from annotate.training.light.grid import Ints
from annotate.training.light.head import AdamW, Rows, inherit_head, learn, new_head
from annotate.training.trainer import EpochReport, TrainedWeights, TrainingPlan
from annotate.weights.lineage import tensor_sha256

WEIGHTS = "weights.onnx"
STATE = "state.npz"
LICENCE = "Apache-2.0"
_BATCH = 4  # copies
# cells of a copy: with a box, near one, hard ones, and by lot
_FOUND, _NEAR, _HARD, _RANDOM = 64, 64, 48, 128
_EVALUATE_EVERY = 4  # epochs
MIN_SCORE = 0.02  # of the boxes that val is measured with
NMS_IOU = 0.5
_GROUPS = ("head", "first", "second", "average", "best")


@dataclass(frozen=True)
class LightTrainer:
    """Train a small head on the network that ships; no GPU, no PyTorch, nothing to fetch.

    `copies` is the number of pictures made of each frame: itself, and changed ones. `dropout` is
    the share of the hidden channels that a step leaves out: more of it suits more frames. An epoch
    has at least `min_steps` steps: a small dataset is gone over several times.
    """

    copies: int = 3
    learning_rate: float = 0.003
    dropout: float = 0.3
    min_steps: int = 60

    def __post_init__(self) -> None:
        if self.copies < 1 or not 0 < self.learning_rate < 1 or not 0 <= self.dropout < 1:
            raise AnnotateError(
                "light: copies must be 1 or more, learning_rate over 0 and under 1, dropout 0 to "
                f"under 1, got {self.copies}, {self.learning_rate}, {self.dropout}"
            )

    @property
    def default_epochs(self) -> int:
        """The number of epochs, where none is asked for."""
        return 16

    @property
    def default_image_size(self) -> int:
        """The longer side of a picture in pixels, where none is asked for."""
        return 640

    def ready(self) -> None:
        """Check for the package that writes ONNX files."""
        needs("onnx")

    def train(
        self, plan: TrainingPlan, folder: Path, report: Callable[[EpochReport], None]
    ) -> TrainedWeights:
        """Train the head and write `weights.onnx` into the folder."""
        with threadpool_limits(plan.threads):
            tensors, first = self._train(plan, folder, report)
        notes = {"classes": json.dumps(plan.classes), "image_size": str(plan.image_size)}
        (folder / WEIGHTS).write_bytes(detector_graph(tensors, notes))
        remove_features(folder)
        digest, epochs = tensor_sha256(tensors), (first, plan.epochs)
        return TrainedWeights(folder / WEIGHTS, DETECTOR, LICENCE, digest, True, epochs=epochs)

    def _train(
        self, plan: TrainingPlan, folder: Path, report: Callable[[EpochReport], None]
    ) -> tuple[Tensors, int]:
        """Train to the last epoch: the tensors, and the first epoch of this run."""
        check_disk(folder, plan, self.copies)
        parent = None if plan.parent is None else read_tensors(plan.parent)
        if parent is None:
            reduction = fit_reduction(plan.train, plan.image_size, plan.threads)
        else:
            reduction = {n: t for n, t in parent.items() if n.endswith(("_reduce", "e_shift"))}
        train = cached_features(folder, "train", plan.train, self.copies, reduction, plan)
        val = cached_features(folder, "val", plan.val, 1, reduction, plan)
        state = TrainingState.load(folder / STATE, plan, parent, len(train))
        first = min(state.epoch + 1, plan.epochs)

        def keep(each: EpochReport) -> None:
            state.save(folder / STATE)
            report(each)

        self.fit_head(plan, train, val, state, keep)
        return reduction | state.best, first

    def fit_head(
        self,
        plan: TrainingPlan,
        train: FeatureFile,
        val: FeatureFile,
        state: TrainingState,
        report: Callable[[EpochReport], None] = lambda each: None,
    ) -> None:
        """Train the head from the state on; its best tensors are in `state.best` at the end."""
        for epoch in range(state.epoch + 1, plan.epochs + 1):
            loss = self._run_epoch(plan, train, state, epoch)
            ap50 = None
            if epoch % _EVALUATE_EVERY == 0 or epoch == plan.epochs:
                ap50 = evaluate(state.optimizer.average, val, plan)
                if ap50 >= state.best_ap50:
                    state.best_ap50 = ap50
                    state.best = {n: t.copy() for n, t in state.optimizer.average.items()}
            state.epoch = epoch
            report(EpochReport(epoch, plan.epochs, loss, ap50))

    def _run_epoch(
        self, plan: TrainingPlan, train: FeatureFile, state: TrainingState, epoch: int
    ) -> float:
        random = np.random.default_rng((plan.seed, epoch))
        rounds = max(1, round(self.min_steps * _BATCH / len(train)))
        order = np.concatenate([random.permutation(len(train)) for _ in range(rounds)])
        steps = -(-len(order) // _BATCH)
        losses = []
        for number in range(steps):
            batch = order[number * _BATCH : (number + 1) * _BATCH]
            rows, cells, spans = sample_rows(train, batch, state.hard, random)
            learned = learn(state.optimizer.head, rows, self.dropout, random)
            progress = (epoch - 1 + number / steps) / plan.epochs
            warm = min(1.0, (state.optimizer.step + 1) / 100)
            rate = self.learning_rate * warm * (0.5 + 0.5 * np.cos(np.pi * progress))
            state.optimizer.update(learned.gradients, float(rate))
            losses.append(learned.loss)
            worst = learned.scores.max(axis=1)
            worst[rows.pair_rows] = -1
            for index, (start, end) in zip(batch, spans, strict=True):
                hardest = np.argsort(-worst[start:end], kind="stable")[:_HARD]
                state.hard[index] = cells[start:end][hardest]
        return float(np.mean(losses))


def sample_rows(
    train: FeatureFile, batch: Ints, hard: Ints, random: np.random.Generator
) -> tuple[Rows, Ints, list[tuple[int, int]]]:
    """Choose cells of some copies: the rows, their cells, and where the rows of each copy are."""
    fine, coarse, pairs, distances, centredness, all_cells, spans = [], [], [], [], [], [], []
    start = 0
    for index in batch:
        rows = train[index]
        targets, count = rows.targets, len(rows.grid.level)
        found = random.permutation(np.unique(targets.cells))[:_FOUND]
        near = random.permutation(targets.near)[:_NEAR]
        drawn = random.integers(0, count, _RANDOM)
        cells = np.unique(np.concatenate([found, near, drawn, hard[index][hard[index] >= 0]]))
        seen = rows.at(cells)
        place = np.full(count, -1)
        place[cells] = np.arange(len(cells))
        of_pairs = place[targets.cells]
        present = of_pairs >= 0
        pairs.append(np.stack([of_pairs[present] + start, targets.classes[present]]))
        distances.append(targets.distances[present])
        centredness.append(targets.centredness[present])
        fine.append(seen[0])
        coarse.append(seen[1])
        all_cells.append(cells)
        spans.append((start, start + len(cells)))
        start += len(cells)
    joined = np.concatenate(pairs, axis=1)
    rows_ = Rows(
        np.concatenate(fine),
        np.concatenate(coarse),
        joined[0],
        joined[1],
        np.concatenate(distances),
        np.concatenate(centredness),
    )
    return rows_, np.concatenate(all_cells), spans


def evaluate(head: Tensors, val: FeatureFile, plan: TrainingPlan) -> float:
    """Compute AP50 of the head on val, by COCO's rules."""
    truth = {(each.item.video, each.item.frame): each.item.objects for each in plan.val}
    found = find_objects(head, val, [each.item for each in plan.val], plan.classes, plan.threads)
    return average_precision(truth, found, plan.classes)[1]


def find_objects(
    head: Tensors, copies: FeatureFile, items: Sequence[Item], classes: Sequence[str], threads: int
) -> dict[tuple[str, int], list[Object]]:
    """Run the head on the features of unchanged frames: (video, frame) -> objects, best first.

    `items` are the frames, in the order of `copies`; the objects in them are not read.
    """
    session, found = start_session(head_graph(head), threads), {}
    for index, item in enumerate(items):
        rows = copies[index]
        table = decode(run_session(session, rows.maps()), MIN_SCORE)
        table = to_picture(table, rows.grid.size_wh, (item.width, item.height), NMS_IOU)
        found[item.video, item.frame] = [
            Object(classes[int(number)], (x1, y1, x2, y2), score)
            for x1, y1, x2, y2, score, number in table.tolist()
        ]
    return found


@dataclass
class TrainingState:
    """What the next epoch depends on.

    `hard` (copies, n) are the cells that scored high without reason, -1 for none.
    """

    optimizer: AdamW
    hard: Ints
    best: Tensors
    epoch: int = 0
    best_ap50: float = -1.0

    @classmethod
    def new(cls, plan: TrainingPlan, parent: Tensors | None, copies: int) -> TrainingState:
        """Make the state before the first epoch."""
        head = new_head(len(plan.classes), np.random.default_rng(plan.seed))
        if parent is not None and plan.parent is not None:
            head = inherit_head(head, parent, plan.classes, classes_of(plan.parent))
        hard = np.full((copies, _HARD), -1)
        return cls(AdamW(head), hard, {name: tensor.copy() for name, tensor in head.items()})

    @classmethod
    def load(
        cls, path: Path, plan: TrainingPlan, parent: Tensors | None, copies: int
    ) -> TrainingState:
        """Read the state of a training that was stopped, or make that of a new one."""
        if not path.exists():
            return cls.new(plan, parent, copies)
        try:
            return cls._read(path)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise WeightsError(
                f"{path}: the state of the training is damaged ({error}): begin again with `force`"
            ) from None

    @classmethod
    def _read(cls, path: Path) -> TrainingState:
        with path.open("rb") as file, np.load(file) as arrays:
            groups: dict[str, Tensors] = {name: {} for name in _GROUPS}
            for key in arrays.files:
                group, _, name = key.partition("/")
                if group in groups:
                    groups[group][name] = arrays[key]
            epoch, step = arrays["counts"].tolist()
            optimizer = AdamW(
                groups["head"],
                step=step,
                first=groups["first"],
                second=groups["second"],
                average=groups["average"],
            )
            return cls(optimizer, arrays["hard"], groups["best"], epoch, float(arrays["ap50"]))

    def save(self, path: Path) -> None:
        """Write the state atomically."""
        optimizer = self.optimizer
        tensors = (optimizer.head, optimizer.first, optimizer.second, optimizer.average, self.best)
        arrays: dict[str, npt.NDArray[Any]] = {
            f"{group}/{name}": tensor
            for group, each in zip(_GROUPS, tensors, strict=True)
            for name, tensor in each.items()
        }
        arrays |= {"hard": self.hard, "counts": np.array([self.epoch, optimizer.step])}
        arrays["ap50"] = np.array(self.best_ap50)
        with atomic_file(path) as draft:
            np.savez(draft, allow_pickle=False, **arrays)
