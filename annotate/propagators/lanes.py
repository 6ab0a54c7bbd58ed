"""Keep what an interactive session has computed: lanes of items, and states to go on from.

A lane is a pass over the clip for one object, or for all of them where the engine's objects depend
on each other. Its items are exact up to some frame: a run over the whole clip would give the same.
Items beyond are stale: they were made with earlier prompts, and stay until they are made again.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any
from weakref import finalize

import numpy as np

from annotate.items.records import Frame, Item, Prompt, State, item_from_json, item_to_json
from annotate.items.sequences import BoundedCache
from annotate.plugins import optional_member
from annotate.prompts import PromptTable
from annotate.propagators.absence import AbsenceSession
from annotate.propagators.job import Job
from annotate.propagators.run import PropagationPass


@dataclass(frozen=True)
class LaneKey:
    """The object of a lane, None for all objects, and its direction."""

    object_id: int | None
    backward: bool


class StateCache:
    """States by lane and frame, at most `max_bytes` of them; the least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self._states = BoundedCache[tuple[LaneKey, int], State](max_bytes)

    @property
    def nbytes(self) -> int:
        """The size of all states that are kept."""
        return self._states.nbytes

    def put(self, key: LaneKey, frame: int, state: State) -> None:
        """Keep a state of a pass that is about to step onto `frame`; it is copied."""
        copy = {name: np.array(array) for name, array in state.items()}
        self._states.put((key, frame), copy, sum(array.nbytes for array in copy.values()))

    def get(self, key: LaneKey, frame: int) -> State:
        """Return a state that is kept, and count it as used."""
        state = self._states.get((key, frame))
        assert state is not None
        return state

    def drop(self, key: LaneKey, frame: int) -> None:
        """Remove a state, if it is kept."""
        self._states.drop((key, frame))

    def frames(self, key: LaneKey) -> list[int]:
        """List the frames of a lane onto which a kept state can step."""
        return [frame for lane, frame in self._states if lane == key]


class ItemSpool(MutableMapping[int, Item]):
    """Items by frame, in a temporary file; only their offsets are in memory."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115 - closed by `close`, or with the spool
        self.close = finalize(self, self._file.close)  # removes the file
        # frame -> offset, length, the objects that are seen
        self._spans: dict[int, tuple[int, int, tuple[int | None, ...]]] = {}

    def __setitem__(self, frame: int, item: Item) -> None:
        line = item_to_json(item).encode()
        offset = self._file.seek(0, 2)
        self._file.write(line)
        self._spans[frame] = offset, len(line), tuple(obj.track for obj in item.objects)

    def __getitem__(self, frame: int) -> Item:
        offset, length, _ = self._spans[frame]
        self._file.seek(offset)
        return item_from_json(self._file.read(length).decode(), f"frame {frame}")

    def __delitem__(self, frame: int) -> None:
        del self._spans[frame]

    def __contains__(self, frame: object) -> bool:
        return frame in self._spans

    def __iter__(self) -> Iterator[int]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def sees(self, frame: int, object_id: int) -> bool:
        """Return whether the item of a frame has the object; it is not read."""
        return object_id in self._spans[frame][2]


@dataclass
class SideSession:
    """A session beside that of a lane: what it gives is provisional."""

    propagation: PropagationPass
    session: AbsenceSession
    next_frame: int

    @staticmethod
    def begin(job: Job, frame: int, *, backward: bool = False) -> SideSession:
        """Open a session that has seen nothing, and steps onto `frame` next."""
        propagation = PropagationPass(job, backward=backward)
        return SideSession(propagation, propagation.begin(fitted=False), frame)

    def step(self, frame: Frame) -> Item:
        """Step onto the next frame; returns its item."""
        item = self.propagation.make_item(self.session, frame)
        self.next_frame += -1 if self.propagation.backward else 1
        return item


class Lane:
    """A pass over the clip that can be stopped, continued and corrected.

    Steps are counted from 0, on the lane's first frame; a backward lane goes down from there.
    """

    def __init__(self, key: LaneKey, states: StateCache, interval: int) -> None:
        self.key, self._states, self._interval = key, states, interval
        self.items, self.provisional = ItemSpool(), ItemSpool()
        self.exact_steps = 0  # so many items from the first frame on are exact
        self.first: int | None = None  # None: the lane has no frames
        self.job: Job | None = None
        self._pass: PropagationPass | None = None
        self._session: AbsenceSession | None = None
        self._position = 0  # the next step of the session

    def frame_at(self, step: int) -> int:
        """Return the frame of a step."""
        assert self.first is not None
        return self.first - step if self.key.backward else self.first + step

    def step_of(self, frame: int) -> int:
        """Return the step of a frame; negative before the first one."""
        assert self.first is not None
        return self.first - frame if self.key.backward else frame - self.first

    def is_exact(self, frame: int) -> bool:
        """Return whether a run over the whole clip would give the lane's item of that frame."""
        return self.first is not None and 0 <= self.step_of(frame) < self.exact_steps

    def best_items(self, frame: int) -> tuple[ItemSpool | None, bool]:
        """Return the items of which that of the frame is the best, and whether it is exact."""
        if self.is_exact(frame):
            return self.items, True
        if frame in self.provisional:
            return self.provisional, False
        return (self.items if frame in self.items else None), False

    def set_job(self, job: Job) -> int | None:
        """Take other prompts; returns the first frame, in order of steps, with a changed prompt.

        What the change can affect is stale from now on.
        """
        first, changed = _first_frame(job, self.key), None
        if self.job is not None and self.first is not None:
            before, after = (_digests(each, self.key) for each in (self.job, job))
            frames = [n for n in {**before, **after} if before.get(n) != after.get(n)]
            changed = min(frames, key=self.step_of, default=None)
            if first == self.first and changed is None:  # only classes, at most
                self.job = job
                return None
            if first != self.first or not optional_member(job.engine, "causal"):
                self.exact_steps = 0
            elif changed is not None:
                self.exact_steps = min(self.exact_steps, max(self.step_of(changed), 0))
        self._keep_position()
        self.job, self.first = job, first
        self.provisional.clear()
        for frame in [frame for frame in self.items if first is None or self.step_of(frame) < 0]:
            del self.items[frame]
        return changed

    def _keep_position(self) -> None:
        """Keep the session's state, if it is exact, and drop the session."""
        if self._session is not None and self._pass is not None and self.first is not None:
            if self._position <= self.exact_steps:
                frame = self.frame_at(self._position)
                self._states.put(self.key, frame, self._pass.state(self._session))
            self._session = None

    @property
    def next_frame(self) -> int:
        """The frame onto which the lane steps next; some before the exact end may be repeated."""
        return self.frame_at(self._position if self._session is not None else self._resumed_step())

    def _resumed_step(self) -> int:
        """Find the step of the latest kept state among the exact ones; 0 without one."""
        kept = [self.step_of(frame) for frame in self._states.frames(self.key)]
        return max((step for step in kept if 0 < step <= self.exact_steps), default=0)

    def _open(self) -> tuple[PropagationPass, AbsenceSession]:
        """Return the pass and its session, opened from the latest exact state if need be."""
        if self._session is None or self._pass is None:
            assert self.job is not None
            self._position = self._resumed_step()
            self._pass = PropagationPass(self.job, backward=self.key.backward)
            self._session = self._pass.begin()
            if self._position:
                state = self._states.get(self.key, self.frame_at(self._position))
                self._pass.resume(self._session, state)
        return self._pass, self._session

    def step(self, frame: Frame) -> Item | None:
        """Step onto a frame; returns its item, None if it was exact before."""
        propagation, session = self._open()
        try:
            item = propagation.make_item(session, frame)
        except BaseException:
            self._session = None  # it may be half a step further
            raise
        self._position += 1
        if self._position <= self.exact_steps:
            return None
        self.exact_steps = self._position
        self.items[frame.index] = item
        self.provisional.pop(frame.index, None)
        following = self.frame_at(self._position)
        if self._position % self._interval == 0:
            self._states.put(self.key, following, propagation.state(session))
        else:
            self._states.drop(self.key, following)  # one of earlier prompts
        return item

    def step_preview(self, preview: SideSession, frame: Frame) -> Item:
        """Step a session of `open_near` beyond the exact items; its item is provisional."""
        item = preview.step(frame)
        self.provisional[frame.index] = item
        step = self.step_of(preview.next_frame)
        if step % self._interval == 0 and step > self.exact_steps:
            state = preview.propagation.state(preview.session)
            self._states.put(self.key, preview.next_frame, state)
        return item

    def open_near(self, frame: int, max_steps: int) -> SideSession:
        """Open another session, not fitted to the prompts, from the nearest state that is kept.

        Without a state the session has seen nothing. From one that is more than `max_steps` away
        it takes what the engine knows, and steps onto `frame` next.
        """
        assert self.job is not None
        preview = SideSession.begin(self.job, frame, backward=self.key.backward)
        kept = [self.step_of(each) for each in self._states.frames(self.key)]
        usable = [step for step in kept if step <= self.step_of(frame)]
        if usable:
            nearest = self.frame_at(max(usable))
            preview.propagation.resume(preview.session, self._states.get(self.key, nearest))
            preview.next_frame = nearest if abs(frame - nearest) <= max_steps else frame
        return preview

    def close(self) -> None:
        """Drop everything."""
        for frame in self._states.frames(self.key):
            self._states.drop(self.key, frame)
        self.items.close()
        self.provisional.close()


def _first_frame(job: Job, key: LaneKey) -> int | None:
    """Find the first frame of a pass of a job; None if no object starts in it."""
    if key.backward:
        starts = job.backward_starts().values()
        return max(starts) if starts else None
    return job.first_frame() if job.first_frames() else None


def _digests(job: Job, key: LaneKey) -> dict[int, str]:
    """Hash the prompts that a pass of a job uses, by frame."""
    prompts: Sequence[Prompt] = job.prompts.prompts
    if key.backward and optional_member(job.engine, "causal"):
        prompts = [each for group in job.starting_prompts().values() for each in group]
    by_frame: dict[int, list[Any]] = {}
    for prompt in prompts:
        by_frame.setdefault(prompt.frame, []).append(prompt)
    return {frame: PromptTable(tuple(group), {}).digest() for frame, group in by_frame.items()}
