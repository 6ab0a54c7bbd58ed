"""Train the detectors of a curve, propose boxes with them, and measure them on gold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from annotate.dataset.frame_sources import FrameKey
from annotate.evaluation.gold.bootstrap import (
    match_counts,
    mean_average_precision,
    resample_clips,
)
from annotate.evaluation.metrics import precision_recall_curve
from annotate.files import atomic_file, json_digest
from annotate.items.records import Item, Object
from annotate.learning_curve.features import FeatureStore
from annotate.learning_curve.footage import Footage, ItemsByKey
from annotate.training.light.features import FeatureFile, Tensors
from annotate.training.light.trainer import TrainingState, find_objects
from annotate.training.trainer import TRAINERS, TrainingFrame, TrainingPlan
from annotate.weights.lineage import tensor_sha256

_DEFAULT_THRESHOLD = 0.25  # of a model that finds nothing on val
_NOTHING = 1.0  # threshold of a detector that has not seen an object


class Precision(NamedTuple):
    """AP50 and AP on gold: of gold as it is, then of each resample of its clips."""

    ap50: npt.NDArray[np.float64]
    ap: npt.NDArray[np.float64]


@runtime_checkable
class HeadTrainer(Protocol):
    """A trainer that can train on features that were computed elsewhere."""

    @property
    def copies(self) -> int:
        """How many pictures are made of each frame."""

    def fit_head(
        self, plan: TrainingPlan, train: FeatureFile, val: FeatureFile, state: TrainingState
    ) -> None:
        """Train a head from the state on; its best tensors are in `state.best` at the end."""


def load_trainer(options: Mapping[str, Any]) -> HeadTrainer:
    """Load the trainer of a curve, `light`, with its options."""
    trainer = TRAINERS.load("light", **options)
    trainer.ready()
    assert isinstance(trainer, HeadTrainer)
    return trainer


@dataclass(frozen=True)
class TrainedHead:
    """The head of a detector, the score from which on its boxes count, and a key of its labels."""

    tensors: Tensors
    threshold: float
    key: str


@dataclass
class Laboratory:
    """Trains detectors on labels of the footage, all alike, and keeps what was computed.

    `folder` holds the heads and their results: a run that was stopped does not train them again.
    """

    footage: Footage
    gold: Sequence[TrainingFrame]
    trainer: HeadTrainer
    epochs: int
    image_size: int
    threads: int
    folder: Path
    store: FeatureStore = field(init=False)
    _val: FeatureFile = field(init=False)
    _gold: FeatureFile = field(init=False)
    digests: set[str] = field(default_factory=set)  # of the tensors that were measured on gold

    def __post_init__(self) -> None:
        for name in ("heads", "results"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        pool = self.footage.content.frames["train"]
        args = self.folder, pool, self.footage.classes, self.image_size, self.threads
        with threadpool_limits(self.threads):
            self.store = FeatureStore(*args)
            self._val = self.store.copies(self.footage.val, 1, 0)
            self._gold = self.store.copies(self.gold, 1, 0)

    def key(self, labels: ItemsByKey, seed: int) -> str:
        """Return a digest of labels and the seed of their training."""
        record = {
            f"{clip}#{frame}": [(o.label, *o.box) for o in labels[clip, frame].objects]
            for clip, frame in sorted(labels)
        }
        return json_digest({"labels": record, "seed": seed})[:20]

    def train(self, labels: ItemsByKey, seed: int) -> TrainedHead:
        """Train a detector on labels, or take the one that was trained on them before.

        Without an object there is nothing to learn: the detector proposes nothing.
        """
        key = self.key(labels, seed)
        path = self.folder / "heads" / f"{key}.npz"
        if not path.exists():
            head = self._train(labels, seed)
            is_empty = not any(item.objects for item in labels.values())
            threshold = np.array(_NOTHING if is_empty else self._threshold(head))
            with atomic_file(path) as draft:
                np.savez(draft, allow_pickle=False, **head, threshold=threshold)
        with np.load(path) as arrays:
            tensors = {name: arrays[name] for name in arrays.files if name != "threshold"}
            return TrainedHead(tensors, float(arrays["threshold"]), key)

    def _train(self, labels: ItemsByKey, seed: int) -> Tensors:
        footage = self.footage
        frames = footage.frames(labels)
        digest = self.key(labels, seed)
        sizes = self.image_size, self.epochs, seed
        plan = TrainingPlan(
            footage.dataset.path, digest, footage.classes, frames, footage.val, *sizes,
            threads=self.threads,
        )  # fmt: skip
        train = self.store.copies(frames, self.trainer.copies, seed)
        with threadpool_limits(self.threads):
            state = TrainingState.new(plan, None, len(train))
            if any(item.objects for item in labels.values()):
                self.trainer.fit_head(plan, train, self._val, state)
        return state.best

    def _threshold(self, head: Tensors) -> float:
        """Find the score of the best F1 on val."""
        truth = {(f.item.video, f.item.frame): f.item.objects for f in self.footage.val}
        point = precision_recall_curve(
            truth, self._find(head, self.footage.val, self._val)
        ).best_point
        return _DEFAULT_THRESHOLD if point is None else point[2]

    def _find(
        self, head: Tensors, frames: Sequence[TrainingFrame], copies: FeatureFile
    ) -> dict[FrameKey, list[Object]]:
        items = [frame.item for frame in frames]
        return find_objects(head, copies, items, self.footage.classes, self.threads)

    def detect(self, head: TrainedHead, keys: Iterable[FrameKey]) -> dict[FrameKey, Item]:
        """Propose boxes on frames of the footage: those that score the threshold or more."""
        empty = {key: replace(self.footage.true_item(key), objects=()) for key in keys}
        frames = self.footage.frames(empty)
        found = self._find(head.tensors, frames, self.store.copies(frames, 1, 0))
        return {
            key: replace(
                item, objects=tuple(o for o in found[key] if (o.score or 0) >= head.threshold)
            )
            for key, item in empty.items()
        }

    def measure(self, labels: ItemsByKey, seed: int) -> Precision:
        """Train a detector on labels and measure it on gold, or take the result from before."""
        path = self.folder / "results" / f"{self.key(labels, seed)}.npz"
        if not path.exists():
            head = self.train(labels, seed)
            result = self._measure(head)
            digest = np.array(tensor_sha256(head.tensors))
            with atomic_file(path) as draft:
                np.savez_compressed(draft, allow_pickle=False, **result._asdict(), digest=digest)
        with np.load(path) as arrays:
            self.digests.add(str(arrays["digest"]))
            return Precision(arrays["ap50"], arrays["ap"])

    def _measure(self, head: TrainedHead) -> Precision:
        truth = {(f.item.video, f.item.frame): f.item.objects for f in self.gold}
        clips = sorted({clip for clip, _ in truth})
        weights = np.vstack([np.ones((1, len(clips))), resample_clips(len(clips))])
        labels = self.footage.classes
        found = (
            {} if head.threshold == _NOTHING else self._find(head.tensors, self.gold, self._gold)
        )
        counts = match_counts(truth, found, labels, clips)
        return Precision(
            mean_average_precision(counts, labels, weights, first_iou=True),
            mean_average_precision(counts, labels, weights),
        )
