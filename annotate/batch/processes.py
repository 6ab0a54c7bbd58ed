"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from annotate.batch.driver import Event
from annotate.batch.worker import StageOutput, StopRequested, Task, UnitRunner, limit_threads
from annotate.device import core_count, usable_cores
from annotate.errors import AnnotateError

_BEAT_SECONDS = 1.0
_END_SECONDS = 10
_ENGINE_LOG = "workers.txt"  # what the libraries in workers print


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker process needs to begin; `cores` are those that it may use, () for all."""

    outputs: Sequence[StageOutput]
    threads: int
    cores: tuple[int, ...] = ()


class LocalWorker:
    """A worker process, seen from the driver."""

    node = "local"

    def __init__(self, setup: WorkerSetup) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, setup), daemon=True)
        with _interrupts_ignored():
            self.process.start()
        other.close()

    def give(self, task: Task) -> None:
        """Send a task."""
        with suppress(OSError):  # it has died, which the next wait notices
            self.connection.send(task)

    def stop(self) -> None:
        """Ask the worker to end after the current frame."""
        with suppress(OSError):
            self.connection.send(None)

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()

    def death(self) -> str:
        """Say how the process ended; one that has closed its pipe and does not end is killed."""
        self.process.join(_END_SECONDS)
        if self.process.is_alive():
            self.kill()
            self.process.join()
        code = self.process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class LocalEngine:
    """Starts worker processes and waits for their messages.

    The cores of the machine are shared out: each worker has its own, as far as the system allows.
    """

    def __init__(self, outputs: Sequence[StageOutput], slots: int) -> None:
        self._slots = slots
        self._outputs = tuple(outputs)
        self._workers: list[LocalWorker | None] = [None] * slots

    @property
    def slots(self) -> int:
        """The number of processes."""
        return self._slots

    def start(self) -> LocalWorker:
        """Start a worker in the first free slot."""
        slot = self._workers.index(None)
        cores = _own_cores(slot, self.slots)
        threads = len(cores) or max(core_count() // self.slots, 1)
        worker = LocalWorker(WorkerSetup(self._outputs, threads, cores))
        self._workers[slot] = worker
        return worker

    def wait(self, seconds: float) -> list[Event]:
        """Wait for messages of workers, at most so long."""
        workers = {each.connection: each for each in self._workers if each is not None}
        if not workers:
            time.sleep(seconds)
            return []
        events = []
        for connection in wait(list(workers), seconds):
            worker = workers[connection]  # type: ignore[index]  # of the connections given
            try:
                events.append(Event(worker, worker.connection.recv()))
            except (EOFError, OSError):
                events.append(Event(worker, None, worker.death()))
                self._workers[self._workers.index(worker)] = None
        return events

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            if worker is not None:
                worker.kill()
                worker.process.join()


def _own_cores(slot: int, slots: int) -> tuple[int, ...]:
    """Return the cores of a slot; () for all, where they cannot be shared out."""
    cores = usable_cores()
    return tuple(cores[slot::slots]) if 1 < slots <= len(cores) else ()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C, and let a process that is started here do so too: the driver ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def serve(connection: Connection[Any, Any], setup: WorkerSetup) -> None:
    """Run tasks from the driver until it sends None or is gone: the life of a worker process."""
    _redirect_output(setup.outputs[0].store.local)
    if setup.cores:
        with suppress(OSError):
            os.sched_setaffinity(0, setup.cores)
    limit_threads(setup.threads)
    runner = UnitRunner(setup.outputs)
    with suppress(EOFError, OSError, StopRequested):  # the driver is gone, or wants it
        try:
            runner.prepare()
        except AnnotateError as error:
            connection.send(error)
            return
        connection.send({})
        while (task := connection.recv()) is not None:
            connection.send(runner.run(task, _beat(connection)))


def _beat(connection: Connection[Any, Any]) -> Callable[[int], None]:
    last = time.monotonic()

    def beat(frames: int) -> None:
        nonlocal last
        if connection.poll():  # nothing else is sent while a task runs
            raise StopRequested
        if time.monotonic() - last >= _BEAT_SECONDS:
            last = time.monotonic()
            connection.send(frames)

    return beat


def _redirect_output(root: Path) -> None:
    """Append what libraries print to a file: the driver alone has the terminal."""
    sys.stdout.flush()
    descriptor = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError):
        (root / "log").mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(root / "log" / _ENGINE_LOG, flags, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
