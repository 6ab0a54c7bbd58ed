"""The Propagator contract: who starts where, which way, and what is lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from annotate.records import Frame, Prompt

if TYPE_CHECKING:
    import supervision as sv

State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Lesson:
    """A frame and the prompts that a person gave on it."""

    frame: Frame
    prompts: tuple[Prompt, ...]


class Session(Protocol):
    """One pass over a clip, in one direction; it holds what must be remembered and no more."""

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Follow every object that has started onto the next frame of the pass.

        `prompts` are those given on this very frame: the first ones of an object start it, later
        ones correct it. Returns the objects seen: `xyxy`, `mask` (n, H, W) bool, `confidence` in
        0..1, `tracker_id` = object_id; nothing for an object that is lost, or has not started.
        """

    def state(self) -> State:
        """All that the pass remembers, as arrays, such that `restore` goes on exactly from here."""

    def restore(self, state: State) -> None:
        """Take up the pass where `state` was taken."""


class Propagator(Protocol):
    """An engine: a frozen dataclass whose fields are its options."""

    def begin(self, lessons: Iterable[Lesson]) -> Session:
        """Open a pass. `lessons`, in order of frames, may be learnt from before the first step.

        Every object may learn from all its prompts, but starts at its own first prompt of the pass.
        `lessons` is read once, frame by frame, so that only what is learnt stays in memory.
        """
