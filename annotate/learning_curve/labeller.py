"""Do the steps that the arms of a curve have in common: draw, correct, ask `annotate next`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from annotate.active_learning.run import NextSources, next_frames
from annotate.active_learning.selection import SelectionOptions
from annotate.dataset.frame_sources import FrameKey
from annotate.errors import ItemsError
from annotate.items.records import Item
from annotate.learning_curve.detector import Laboratory, TrainedHead
from annotate.learning_curve.footage import Footage, only_boxes, spread
from annotate.learning_curve.person import Person
from annotate.learning_curve.propagation import Propagation


@dataclass
class Labels:
    """The labels so far, and the touches that are left.

    `looked_at` are the frames that the person labelled; `proposed` the propagated ones to train on
    at which the person has not looked.
    """

    left: int
    looked_at: dict[FrameKey, Item] = field(default_factory=dict)
    proposed: dict[FrameKey, Item] = field(default_factory=dict)

    @property
    def frames(self) -> dict[FrameKey, Item]:
        """All frames to train on."""
        return self.proposed | self.looked_at

    def take(self, key: FrameKey, item: Item, touches: int) -> bool:
        """Add a frame that the person labels, if its touches are left."""
        if touches > self.left:
            return False
        self.looked_at[key] = item
        self.left -= touches
        return True


@dataclass
class Labeller:
    """The simulated person at work. `seed` shifts the choice of frames, and is of all trainings."""

    laboratory: Laboratory
    propagation: Propagation
    seed: int

    @property
    def footage(self) -> Footage:
        """The clips, with the truth."""
        return self.laboratory.footage

    @property
    def person(self) -> Person:
        """The person, who knows the number of classes."""
        return Person(len(self.footage.classes))

    def perfect(self) -> dict[FrameKey, Item]:
        """Return the true objects of the whole pool."""
        return {key: self.footage.true_item(key) for key in self.footage.pool}

    def draw(self, labels: Labels) -> None:
        """Draw boxes on as many spread frames of the pool as the touches allow."""
        truth = self.perfect()
        self.spend_on_spread(labels, {k: (i, self.person.draw(i)) for k, i in truth.items()})

    def spend_on_spread(self, labels: Labels, costs: Mapping[FrameKey, tuple[Item, int]]) -> None:
        """Label the largest number of spread frames that the touches allow.

        `costs` are the label and the touches of each frame that may be chosen.
        """
        free = [key for key in costs if key not in labels.looked_at]
        chosen: list[FrameKey] = []
        for count in range(1, len(free) + 1):
            keys = [free[n] for n in spread(len(free), count, self.seed)]
            if sum(costs[key][1] for key in keys) <= labels.left:
                chosen = keys
        for key in chosen:
            labels.take(key, *costs[key])

    def correct(self, labels: Labels, proposed: Mapping[FrameKey, Item]) -> None:
        """Correct frames in their order, up to the first that the touches do not allow."""
        for key, item in proposed.items():
            if key not in labels.looked_at and not labels.take(key, *self.corrected(key, item)):
                break

    def corrected(self, key: FrameKey, proposed: Item) -> tuple[Item, int]:
        """Return the corrected frame, and the touches."""
        return self.person.correct(only_boxes(proposed), self.footage.true_item(key))

    def correct_on_spread(self, labels: Labels, proposed: Mapping[FrameKey, Item]) -> None:
        """Correct as many spread frames as the touches allow."""
        costs = {key: self.corrected(key, item) for key, item in proposed.items()}
        self.spend_on_spread(labels, costs)

    def correct_by_next(
        self,
        labels: Labels,
        proposed: Mapping[FrameKey, Item],
        files: Sequence[Path],
        head: TrainedHead,
        others: Sequence[Path] = (),
    ) -> None:
        """Correct frames in the order of `annotate next`, by the items in files."""
        left = -1
        while left != labels.left:
            left = labels.left
            listed = self._ask_next(labels, files, others, head.threshold)
            self.correct(labels, {key: proposed[key] for key in listed if key in proposed})

    def _ask_next(
        self, labels: Labels, files: Sequence[Path], others: Sequence[Path], threshold: float
    ) -> list[FrameKey]:
        """List as many frames as the touches may allow; none where all are near labelled ones."""
        known = None
        if labels.looked_at:
            known = self.footage.write_dataset(self.footage.folder / "known", labels.looked_at)
        options = SelectionOptions(self._affordable(labels.left), seed=self.seed)
        try:
            listed = next_frames(
                NextSources(files, others, known=known), options, threshold=threshold
            )
        except ItemsError:
            return []
        return [each.key for each in listed]

    def _affordable(self, touches: int) -> int:
        """Estimate how many frames can be labelled."""
        costs = [self.person.draw(self.footage.true_item(key)) for key in self.footage.pool]
        return max(touches * len(costs) // sum(costs), 1)

    def dense_keys(self, keys: Iterable[FrameKey]) -> list[FrameKey]:
        """Choose frames twice as dense as the pool, on which a detector is asked for `next`."""
        step, pool = max(self.footage.every // 2, 1), set(self.footage.pool)
        return [key for key in keys if key[1] % step == 0 or key in pool]
