"""Run an engine in one thread: requests of a person first, steps of a long job between them.

A request never waits for longer than one step of the job.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from annotate.errors import AnnotateError

_T = TypeVar("_T")
_CLOSE = 99  # after all requests


class EngineThread:
    """One thread that calls functions by priority, the lowest number first, and steps a job."""

    def __init__(self, on_failure: Callable[[Exception], None]) -> None:
        """Start the thread; `on_failure` gets what ended a job before its last step."""
        self._on_failure = on_failure
        self._requests: queue.PriorityQueue[tuple[int, int, Future[Any], Callable[[], Any]]] = (
            queue.PriorityQueue()
        )
        self._numbers = itertools.count()
        self._job: Generator[Any, None, None] | None = None
        self._thread = threading.Thread(target=self._work, name="annotate-engine", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], _T], priority: int) -> Future[_T]:
        """Call a function in the thread; a future that is cancelled before is not begun."""
        future: Future[_T] = Future()
        self._requests.put((priority, next(self._numbers), future, function))
        return future

    def start_job(self, job: Generator[Any, None, None]) -> None:
        """Begin a job, in place of the one that runs: each `next` is a step."""

        def begin() -> None:
            self._end_job()
            self._job = job

        self.call(begin, 0)

    def stop_job(self) -> None:
        """Stop the job after the step that runs; what it has done stays. Does not wait."""
        self.call(self._end_job, 0)

    def close(self) -> None:
        """Stop the job and the thread."""
        self.call(self._end_job, _CLOSE)
        self._thread.join()

    def _end_job(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.close()

    def _work(self) -> None:
        while True:
            try:
                priority, _, future, function = self._requests.get(block=self._job is None)
            except queue.Empty:
                self._step()
                continue
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # raised again where the result is awaited
                    future.set_exception(error)
            if priority == _CLOSE:
                return

    def _step(self) -> None:
        job = self._job
        assert job is not None  # an empty queue is only seen while there is a job
        try:
            next(job)
        except StopIteration:
            self._job = None
        except AnnotateError as error:
            self._job = None
            self._on_failure(error)
        except Exception as error:  # a plugin's own: the page shows it and goes on
            self._job = None
            self._on_failure(AnnotateError(f"the engine failed: {type(error).__name__}: {error}"))


def give_way() -> None:
    """Let the thread that calls this run after others, on systems that have this for a thread."""
    with suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
