"""Keep the latest events of a session and hand them to every page that follows it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

_KEPT = 2000  # events for a page whose stream broke for a moment
Batch = list[tuple[int, Mapping[str, Any]]]  # (number, event)


class EventStream:
    """Events by number, from 1; methods may be called from several threads."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, Mapping[str, Any]]] = deque(maxlen=_KEPT)
        self._waiting: list[tuple[int, Future[Batch]]] = []
        self._lock = threading.Lock()
        self.last = 0
        self.closed = False

    def append(self, event: Mapping[str, Any]) -> None:
        """Add an event, and hand it to those who wait."""
        with self._lock:
            self.last += 1
            self._events.append((self.last, event))
            waiting, self._waiting = self._waiting, []
        for after, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(self._after(after))

    def next_after(self, after: int) -> Future[Batch]:
        """Return a future of the events after a number; it is done when there is one at least.

        It gives no events when the stream is closed.
        """
        future: Future[Batch] = Future()
        with self._lock:
            if self.last > after or self.closed:
                future.set_result(self._after(after))
            else:
                self._waiting.append((after, future))
        return future

    def close(self) -> None:
        """End the stream for all who wait."""
        with self._lock:
            self.closed = True
            waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result([])

    def _after(self, after: int) -> Batch:
        return [each for each in tuple(self._events) if each[0] > after]
