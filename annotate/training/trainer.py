"""The Trainer contract: what a plugin that trains a detector gets, and what it returns.

Trainers are plugins of the family `annotate.trainers`. A trainer is a frozen dataclass; its fields
are its options. It writes nothing but into the folder that it is given. What it leaves there is
there again when the same training is started after it was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from annotate.items.records import Item
from annotate.plugins import FAMILIES, Family


@dataclass(frozen=True)
class TrainingFrame:
    """A frame to train on: its image file, and its item with the true objects."""

    image: Path
    item: Item


@dataclass(frozen=True)
class TrainingPlan:
    """What a trainer trains on, and for how long.

    `classes` are in alphabetical order: the position of a class is its id. `train` and `val` are
    in the order of the dataset; frames without objects are negatives. `image_size` is the longer
    side of a picture, pixels. `parent` is a file of weights to begin with. `freeze` names the part
    of the network that is not trained: "backbone" or "". `dataset_sha256` names the content of the
    dataset: see `training.dataset_hash`.
    """

    dataset: Path
    dataset_sha256: str
    classes: tuple[str, ...]
    train: Sequence[TrainingFrame]
    val: Sequence[TrainingFrame]
    image_size: int
    epochs: int
    seed: int = 0
    parent: Path | None = None
    freeze: str = "backbone"
    threads: int = 1


@dataclass(frozen=True)
class EpochReport:
    """The end of an epoch, from 1 on: the mean loss, and AP50 on val where it was measured."""

    epoch: int
    epochs: int
    loss: float
    ap50: float | None = None


@dataclass(frozen=True)
class TrainedWeights:
    """What a trainer made: a file in its folder, the detector that runs it, and its licence.

    `tensor_sha256` is that of `weights.lineage.tensor_sha256`. `deterministic` is True if the same
    plan gives the same tensors on this machine. `settings` are those that shape the weights,
    beside the options of the trainer. `epochs` are the first and the last epoch of this run; the
    first is above 1 where a run that was killed went on.
    """

    path: Path
    detector: str
    licence: str
    tensor_sha256: str
    deterministic: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: tuple[int, int] = (1, 1)


@runtime_checkable
class Trainer(Protocol):
    """A frozen dataclass whose fields are options."""

    @property
    def default_epochs(self) -> int:
        """The number of epochs, where none is asked for."""

    @property
    def default_image_size(self) -> int:
        """The longer side of a picture in pixels, where none is asked for."""

    def ready(self) -> None:
        """Check for packages and weights before anything is read.

        Raises:
            AnnotateError: says what is missing.
        """

    def train(
        self, plan: TrainingPlan, folder: Path, report: Callable[[EpochReport], None]
    ) -> TrainedWeights:
        """Train, and write the weights into `folder`; `report` is called after each epoch.

        A KeyboardInterrupt between epochs ends the training: the weights are those of the last
        whole epoch.
        """


TRAINERS: Family[Trainer] = FAMILIES["trainers"]
