"""The loop that hands out the clips of a batch, whatever the workers are.

A worker gets one task at a time. One that dies is replaced, and its task goes to a worker of
another node first; a task that has killed three workers fails. One from which nothing is heard for
ten minutes is killed. The loop only spares double work: that each result is written once is the
care of the store.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from annotate.batch.worker import Outcome, StageOutput, Task
from annotate.errors import AnnotateError, BatchError

_MAX_DEATHS = 3  # of workers at one task, or in a row before one was ready
_SILENCE_SECONDS = 600
_WAIT_SECONDS = 1.0


class Worker(Protocol):
    """A worker, seen from the driver; `node` is the machine it is on."""

    node: str

    def give(self, task: Task) -> None:
        """Send a task."""

    def stop(self) -> None:
        """Ask the worker to end after the current frame."""

    def kill(self) -> None:
        """End the worker at once."""


@dataclass(frozen=True)
class Event:
    """A message of a worker.

    The message is a mapping when the worker is ready, an AnnotateError if it cannot run, a number
    of frames or an Outcome during a task, and None if it has died; then `death` says how.
    """

    worker: Worker
    message: Mapping[str, Any] | AnnotateError | int | Outcome | None
    death: str = ""


class Engine(Protocol):
    """Starts workers, at most `slots` at a time, and waits for their messages."""

    @property
    def slots(self) -> int:
        """The number of workers that there may be now."""

    def start(self) -> Worker:
        """Start a worker; its first message says that it is ready."""

    def wait(self, seconds: float) -> list[Event]:
        """Wait for messages, at most so long."""

    def close(self) -> None:
        """End all workers."""


@dataclass
class Tally:
    """What a run has come to: `done` and `failed` tasks, and the frames that were processed."""

    done: int = 0
    frames: int = 0
    failures: list[Outcome] = field(default_factory=list)


@dataclass
class _Slot:
    """The state of a worker: its task, when it was last heard of, and the frames it reported."""

    heard: float
    is_ready: bool = False
    task: Task | None = None
    frames: int = 0


def _nothing_follows(outcome: Outcome) -> Iterable[Task]:
    return ()


class Driver:
    """Hands out tasks; `follow` names the tasks that a finished one makes possible.

    `watch` is called with the tally and the outcome after each outcome, and with None after each
    sign of life.
    """

    def __init__(
        self,
        engine: Engine,
        outputs: Sequence[StageOutput],
        *,
        follow: Callable[[Outcome], Iterable[Task]] = _nothing_follows,
        watch: Callable[[Tally, Outcome | None], None] = lambda tally, outcome: None,
        silence_seconds: float = _SILENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._outputs = engine, outputs
        self._follow, self._watch = follow, watch
        self._silence_seconds, self._clock = silence_seconds, clock
        self._queue: deque[Task] = deque()
        self._slots: dict[Worker, _Slot] = {}
        self._deaths: Counter[str] = Counter()
        self._avoided_nodes: dict[str, str] = {}
        self._failed_starts = 0
        self.tally = Tally()

    def run(self, tasks: Iterable[Task]) -> Tally:
        """Run all tasks; Ctrl-C lets each worker finish its frame, a second one kills them.

        Raises:
            BatchError: no worker starts, or the output cannot be written.
            AnnotateError: the stage cannot run: what is missing.
        """
        self._queue.extend(tasks)
        try:
            while self._queue or self._busy():
                self._step()
        except (KeyboardInterrupt, AnnotateError):
            self._drain()
            raise
        finally:
            self._engine.close()
        return self.tally

    def _busy(self) -> int:
        return sum(slot.task is not None for slot in self._slots.values())

    def _step(self) -> None:
        wanted = min(self._engine.slots, self._busy() + len(self._queue))
        for _ in range(wanted - len(self._slots)):
            self._slots[self._engine.start()] = _Slot(self._clock())
        for worker, slot in self._slots.items():
            if slot.is_ready and slot.task is None and self._queue:
                slot.task, slot.frames, slot.heard = self._take(worker), 0, self._clock()
                worker.give(slot.task)
        for event in self._engine.wait(_WAIT_SECONDS):
            self._handle(event)
        for worker, slot in self._slots.items():
            is_waited_for = slot.task is not None or not slot.is_ready
            if is_waited_for and self._clock() - slot.heard > self._silence_seconds:
                worker.kill()  # its end comes as an event

    def _take(self, worker: Worker) -> Task:
        """Take the first task that has not just killed a worker on this node, if there are others.

        A node on which a task died may be ill, such as by a full memory.
        """
        if len({each.node for each in self._slots}) > 1:
            for task in self._queue:
                if self._avoided_nodes.get(task.key) != worker.node:
                    self._queue.remove(task)
                    return task
        return self._queue.popleft()

    def _handle(self, event: Event) -> None:
        slot, message = self._slots[event.worker], event.message
        slot.heard = self._clock()
        if message is None:
            del self._slots[event.worker]
            self._bury(event, slot)
        elif isinstance(message, AnnotateError):
            raise message
        elif isinstance(message, Outcome):
            slot.task = None
            self.tally.frames += max(message.frames - slot.frames, 0)
            self._finish(message)
        elif isinstance(message, int):
            self.tally.frames += message - slot.frames
            slot.frames = message
            self._watch(self.tally, None)
        else:
            slot.is_ready, self._failed_starts = True, 0

    def _bury(self, event: Event, slot: _Slot) -> None:
        """Put the task of a dead worker back, or let it fail."""
        if not slot.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_DEATHS:
                log = self._outputs[0].store.local / "log"
                raise BatchError(f"no worker starts: {event.death}; {log} has what they printed")
        if slot.task is None:
            return
        key = slot.task.key
        self._deaths[key] += 1
        self._avoided_nodes[key] = event.worker.node
        if self._deaths[key] < _MAX_DEATHS:
            self._queue.appendleft(slot.task)
            return
        error = f"it ended its worker {_MAX_DEATHS} times; the last was {event.death}"
        self._finish(Outcome(slot.task, error=error))

    def _finish(self, outcome: Outcome) -> None:
        task, error = outcome.task, outcome.error
        if outcome.is_fatal:
            raise BatchError(error)
        if error:
            tries = max(self._deaths[task.key], 1)
            record = {"clip": task.clip, "reason": error, "tries": tries}
            self._outputs[task.stage].store.record_failure(task.key, record)
            self.tally.failures.append(outcome)
        else:
            self.tally.done += 1
            self._queue.extend(self._follow(outcome))
        self._watch(self.tally, outcome)

    def _drain(self) -> None:
        """Let each worker finish its frame, and wait until all have ended."""
        for worker in self._slots:
            worker.stop()
        while self._slots:
            for event in self._engine.wait(_WAIT_SECONDS):
                if event.message is None:
                    del self._slots[event.worker]
                elif isinstance(event.message, Outcome) and not event.message.error:
                    self.tally.done += 1
