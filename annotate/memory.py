"""What a network of the SAM 2 family can still read of one object, and nothing else.

Such a network reads every frame on which the object was prompted, the mask memories of the last few
frames and the pointers of a few more. Everything else is dropped as the pass goes on, so the memory
of an object is as large on frame 100,000 as on frame 20.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Limits:
    """How far back a network reads, from its own configuration.

    `memories` counts the mask memories, the prompted one included; `pointers` the object pointers;
    `prompted` the prompted frames, the latest ones, or all where it is None.
    """

    memories: int = 7
    pointers: int = 16
    prompted: int | None = None


@dataclass(frozen=True, eq=False)
class Memory:
    """One frame as an object remembers it: its mask memory, while that can be read, its pointer.

    `tick` is the object's own time: frames since it started, without those it was lost on.
    """

    tick: int
    prompted: bool
    present: bool
    features: Any
    pointer: Any


@dataclass(frozen=True)
class Recall:
    """What is read on one frame.

    `memories` are (ticks back, mask memory), where 0 stands for a prompted frame, however old;
    `pointers` are (ticks back, pointer). Prompted frames come first, then the oldest memory and the
    newest pointer.
    """

    memories: list[tuple[int, Any]]
    pointers: list[tuple[int, Any]]

    @property
    def length(self) -> tuple[int, int]:
        """Recalls of one length can be read together."""
        return len(self.memories), len(self.pointers)


@dataclass
class Bank:
    """The memories of one object in one pass.

    An object absent for `patience` frames is lost: what it remembers of its absence is forgotten
    and its clock stands still, so that whenever it comes back, it is looked for as it was last
    seen.
    """

    limits: Limits
    patience: int
    tick: int = 0
    absent: int = 0
    kept: list[Memory] = field(default_factory=list)

    @property
    def lost(self) -> bool:
        """Whether it was absent for as long as patience lasts."""
        return self.absent >= self.patience

    def recall(self) -> Recall:
        """What the network reads on the coming frame."""
        chosen = self._chosen()
        others = [memory for memory in self.kept if memory not in chosen]
        recent = [memory for memory in others if self._back(memory) < self.limits.memories]
        latest = [memory for memory in others if self._back(memory) < self.limits.pointers]
        memories = [(0, memory.features) for memory in chosen]
        memories += [(self._back(memory), memory.features) for memory in recent]
        pointers = [(self._back(memory), memory.pointer) for memory in chosen + latest[::-1]]
        return Recall(memories, pointers)

    def remember(self, features: Any, pointer: Any, *, prompted: bool, present: bool) -> None:
        """Take in the coming frame, which becomes the last; one on which it is lost is not."""
        self.absent = 0 if present or prompted else self.absent + 1
        if not self.lost:
            self.kept.append(Memory(self.tick, prompted, present, features, pointer))
            self.tick += 1
        else:
            self._rewind()
        chosen = self._chosen()
        self.kept = [
            kept for memory in self.kept if (kept := self._readable(memory, memory in chosen))
        ]

    def _chosen(self) -> list[Memory]:
        """The prompted frames that are read."""
        prompted = [memory for memory in self.kept if memory.prompted]
        return prompted[-self.limits.prompted :] if self.limits.prompted else prompted

    def _back(self, memory: Memory) -> int:
        return self.tick - memory.tick

    def _seen(self) -> int:
        """The tick after that on which it was last seen."""
        return 1 + max(memory.tick for memory in self.kept if memory.present or memory.prompted)

    def _rewind(self) -> None:
        self.tick = self._seen()
        self.kept = [memory for memory in self.kept if memory.tick < self.tick]

    def _readable(self, memory: Memory, chosen: bool) -> Memory | None:
        """What of it can be read from now on, or if the object turns out to be lost."""
        back = [now - memory.tick for now in (self.tick, self._seen()) if now > memory.tick]
        if chosen or min(back) < self.limits.memories:
            return memory
        return replace(memory, features=None) if min(back) < self.limits.pointers else None


def to_arrays(banks: Mapping[int, Bank], to_array: Callable[[Any], npt.NDArray[Any]]) -> State:
    """Banks by object as plain arrays; `to_array` makes one of what a network remembers."""
    clocks = [(of, bank.tick, bank.absent) for of, bank in banks.items()]
    kept = [(of, memory) for of, bank in banks.items() for memory in bank.kept]
    rows = [
        (of, memory.tick, memory.prompted, memory.present, memory.features is not None)
        for of, memory in kept
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


def from_arrays(
    state: State, limits: Limits, patience: int, from_array: Callable[[npt.NDArray[Any]], Any]
) -> dict[int, Bank]:
    """The banks that `to_arrays` was given."""
    clocks = [map(int, row) for row in state["clocks"]]
    banks = {of: Bank(limits, patience, tick, absent) for of, tick, absent in clocks}
    pointers = map(from_array, state.get("pointers", ()))
    features = map(from_array, state.get("features", ()))
    for of, tick, prompted, present, whole in state["rows"].tolist():
        feature = next(features) if whole else None
        memory = Memory(tick, bool(prompted), bool(present), feature, next(pointers))
        banks[of].kept.append(memory)
    return banks
