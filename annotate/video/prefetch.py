"""Decode frames ahead of their use, in a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator

from annotate.items.records import Frame

_PREFETCH_BYTES = 64 * 2**20
_MIN_PREFETCH, _MAX_PREFETCH = 2, 16  # frames in the queue, whatever their size


class _FrameQueue:
    """A bounded queue of frames between two threads; closing either side ends it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue: deque[Frame] = deque()
        self._error: BaseException | None = None
        self._ended = self._closed = False

    def fill(self, frames: Generator[Frame]) -> None:
        """Put frames into the queue until they end, raise an error, or the queue is closed."""
        error: BaseException | None = None
        try:
            for frame in frames:
                if not self._put(frame):
                    break
            frames.close()
        except BaseException as raised:  # raised again in the thread that takes the frames
            error = raised
        with self._condition:
            self._error, self._ended = error, True
            self._condition.notify_all()

    def _put(self, frame: Frame) -> bool:
        room = min(max(_PREFETCH_BYTES // frame.image.nbytes, _MIN_PREFETCH), _MAX_PREFETCH)
        with self._condition:
            self._condition.wait_for(lambda: self._closed or len(self._queue) < room)
            self._queue.append(frame)
            self._condition.notify_all()
            return not self._closed

    def take(self) -> Iterator[Frame]:
        """Take the frames in order, then raise the error that ended them, if any."""
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue or self._ended)
                if not self._queue:
                    break
                frame = self._queue.popleft()
                self._condition.notify_all()
            yield frame
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop taking frames: the filling thread ends."""
        with self._condition:
            self._closed = True
            self._queue.clear()
            self._condition.notify_all()


def prefetch(frames: Generator[Frame]) -> Generator[Frame, None, None]:
    """Run a generator of frames in a thread, a few frames ahead.

    Its errors are raised here, after the frames before them. The thread ends with this generator:
    after the last frame, at an error, or when the generator is closed.
    """
    queue = _FrameQueue()
    thread = threading.Thread(
        target=queue.fill, args=(frames,), name="annotate-prefetch", daemon=True
    )
    thread.start()
    try:
        yield from queue.take()
    finally:
        queue.close()
        thread.join()
