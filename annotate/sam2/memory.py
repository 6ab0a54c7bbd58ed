"""Keep what a SAM 2 network remembers of each object, in constant memory.

Such a network reads every frame on which the object was prompted, the mask memories of the last few
frames and the object pointers of a few more (Ravi et al., "SAM 2: Segment Anything in Images and
Videos", 2024). Everything else is dropped as the pass goes on, so the memory of an object is as
large on frame 100,000 as on frame 20.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.items.records import State


@dataclass(frozen=True)
class MemoryLimits:
    """How far back a network reads, from its own configuration."""

    max_memories: int = 7  # mask memories, a prompted one included
    max_pointers: int = 16  # object pointers
    max_prompted: int | None = None  # prompted frames, the latest ones; None: all


@dataclass(frozen=True, eq=False)
class FrameMemory:
    """What is kept of one frame for one object."""

    tick: int  # the object's own time: frames since it started, without those it was lost on
    prompted: bool
    present: bool
    features: Any  # its mask memory; None once it can no longer be read
    pointer: Any  # its object pointer


@dataclass(frozen=True)
class MemoryContext:
    """What a network reads of one object on one frame.

    `memories` are (ticks back, mask memory), where 0 stands for a prompted frame, however old;
    `pointers` are (ticks back, pointer). Prompted frames come first; then memories follow from the
    oldest to the newest, and pointers from the newest to the oldest.
    """

    memories: list[tuple[int, Any]]
    pointers: list[tuple[int, Any]]

    @property
    def lengths(self) -> tuple[int, int]:
        """Count memories and pointers: contexts of equal lengths can be read as one batch."""
        return len(self.memories), len(self.pointers)


@dataclass
class MemoryBank:
    """The memories of one object in one pass.

    An object that is absent for `patience` frames is lost: the frames of its absence are dropped
    and its clock stands still, so that later it is searched for as it was last seen.
    """

    limits: MemoryLimits
    patience: int
    tick: int = 0
    absent_frames: int = 0
    memories: list[FrameMemory] = field(default_factory=list)

    @property
    def is_lost(self) -> bool:
        """True if the object has been absent for `patience` frames."""
        return self.absent_frames >= self.patience

    def build_context(self) -> MemoryContext:
        """Select what the network reads on the next frame."""
        chosen = self._prompted_in_reach()
        others = [memory for memory in self.memories if memory not in chosen]
        recent = [memory for memory in others if self._age(memory) < self.limits.max_memories]
        latest = [memory for memory in others if self._age(memory) < self.limits.max_pointers]
        memories = [(0, memory.features) for memory in chosen]
        memories += [(self._age(memory), memory.features) for memory in recent]
        pointers = [(self._age(memory), memory.pointer) for memory in chosen + latest[::-1]]
        return MemoryContext(memories, pointers)

    def remember(self, features: Any, pointer: Any, *, prompted: bool, present: bool) -> None:
        """Add the next frame, unless the object is lost, and drop what can no longer be read."""
        self.absent_frames = 0 if present or prompted else self.absent_frames + 1
        if not self.is_lost:
            self.memories.append(FrameMemory(self.tick, prompted, present, features, pointer))
            self.tick += 1
        else:
            self._forget_absence()
        chosen = self._prompted_in_reach()
        self.memories = [
            kept for memory in self.memories if (kept := self._trimmed(memory, memory in chosen))
        ]

    def _prompted_in_reach(self) -> list[FrameMemory]:
        """Select the prompted frames that are read."""
        prompted = [memory for memory in self.memories if memory.prompted]
        return prompted[-self.limits.max_prompted :] if self.limits.max_prompted else prompted

    def _age(self, memory: FrameMemory) -> int:
        return self.tick - memory.tick

    def _tick_after_last_seen(self) -> int:
        """Return the tick after the last frame on which the object was seen."""
        return 1 + max(memory.tick for memory in self.memories if memory.present or memory.prompted)

    def _forget_absence(self) -> None:
        self.tick = self._tick_after_last_seen()
        self.memories = [memory for memory in self.memories if memory.tick < self.tick]

    def _trimmed(self, memory: FrameMemory, prompted_in_reach: bool) -> FrameMemory | None:
        """Drop the parts of a memory that can be read neither now nor once the object is lost."""
        ages = [
            tick - memory.tick
            for tick in (self.tick, self._tick_after_last_seen())
            if tick > memory.tick
        ]
        if prompted_in_reach or min(ages) < self.limits.max_memories:
            return memory
        return replace(memory, features=None) if min(ages) < self.limits.max_pointers else None


def banks_to_arrays(
    banks: Mapping[int, MemoryBank], to_array: Callable[[Any], npt.NDArray[Any]]
) -> State:
    """Convert banks by object to arrays; `to_array` converts one memory or pointer."""
    clocks = [(object_id, bank.tick, bank.absent_frames) for object_id, bank in banks.items()]
    kept = [(object_id, memory) for object_id, bank in banks.items() for memory in bank.memories]
    rows = [
        (object_id, memory.tick, memory.prompted, memory.present, memory.features is not None)
        for object_id, memory in kept
    ]
    state: dict[str, npt.NDArray[Any]] = {
        "clocks": np.array(clocks, np.int64).reshape(-1, 3),
        "rows": np.array(rows, np.int64).reshape(-1, 5),
    }
    features = [memory.features for _, memory in kept if memory.features is not None]
    if kept:
        state["pointers"] = np.stack([to_array(memory.pointer) for _, memory in kept])
        state["features"] = np.stack([to_array(feature) for feature in features])
    return state


def banks_from_arrays(
    state: State, limits: MemoryLimits, patience: int, from_array: Callable[[npt.NDArray[Any]], Any]
) -> dict[int, MemoryBank]:
    """Convert the arrays of `banks_to_arrays` back to banks by object."""
    clocks = [map(int, row) for row in state["clocks"]]
    banks = {
        object_id: MemoryBank(limits, patience, tick, absent_frames)
        for object_id, tick, absent_frames in clocks
    }
    pointers = map(from_array, state.get("pointers", ()))
    features = map(from_array, state.get("features", ()))
    for object_id, tick, prompted, present, has_features in state["rows"].tolist():
        feature = next(features) if has_features else None
        memory = FrameMemory(tick, bool(prompted), bool(present), feature, next(pointers))
        banks[object_id].memories.append(memory)
    return banks
