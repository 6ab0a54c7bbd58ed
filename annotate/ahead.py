"""Make frames in a thread while the frames before them are being used."""

import threading
from collections import deque
from collections.abc import Generator, Iterator

from annotate.records import Frame

_ROOM_BYTES = 64 * 2**20
_LEAST, _MOST = 2, 16  # frames waiting, however large or small they are


class _Line:
    """Frames waiting to be taken; whoever is too early waits, until the other side has left."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._waiting: deque[Frame] = deque()
        self._error: BaseException | None = None
        self._ended = self._left = False

    def fill(self, frames: Generator[Frame]) -> None:
        """Put frames in until they end, break, or nobody takes them any more."""
        error: BaseException | None = None
        try:
            for frame in frames:
                if not self._put(frame):
                    break
            frames.close()
        except BaseException as raised:  # whatever it is, it is the taker's to see
            error = raised
        with self._turn:
            self._error, self._ended = error, True
            self._turn.notify_all()

    def _put(self, frame: Frame) -> bool:
        room = min(max(_ROOM_BYTES // frame.image.nbytes, _LEAST), _MOST)
        with self._turn:
            self._turn.wait_for(lambda: self._left or len(self._waiting) < room)
            self._waiting.append(frame)
            self._turn.notify_all()
            return not self._left

    def take(self) -> Iterator[Frame]:
        """Every frame in order, then the error that ended them, if one did."""
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                frame = self._waiting.popleft()
                self._turn.notify_all()
            yield frame
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        """Take no more."""
        with self._turn:
            self._left = True
            self._waiting.clear()
            self._turn.notify_all()


def ahead(frames: Generator[Frame]) -> Generator[Frame, None, None]:
    """The same frames, made by a thread that runs a few frames ahead.

    Its errors are raised here, after the frames before them. It ends when this generator does: at
    the last frame, at an error, or when it is closed.
    """
    line = _Line()
    thread = threading.Thread(target=line.fill, args=(frames,), name="annotate-ahead", daemon=True)
    thread.start()
    try:
        yield from line.take()
    finally:
        line.leave()
        thread.join()
