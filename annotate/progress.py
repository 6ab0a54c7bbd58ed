"""Define the progress bar that a caller may give to a long job, and the notes of such a job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class ProgressBar(Protocol):
    """Makes progress bars: each is a context that yields a callable, called once for each unit."""

    def __call__(
        self, description: str, total: int | None, unit: str = "frames"
    ) -> AbstractContextManager[Callable[..., object]]:
        """Show a bar while the context is open; `total` is None where the count is unknown.

        The yielded callable ignores positional arguments; its keyword `detail` is a text to show.
        """


@contextmanager
def no_progress(
    description: str, total: int | None, unit: str = "frames"
) -> Iterator[Callable[..., object]]:
    """Show no progress."""
    yield lambda *_, **__: None


def counted(count: int, noun: str) -> str:
    """Format a count and a noun, in the plural but for one.

    Examples:
        >>> counted(1, "picture"), counted(1200, "picture")
        ('1 picture', '1,200 pictures')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Notes:
    """What a run left out: how many records by reason, and an example of each; for threads too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}
        self.failures = 0  # records that the run could not make
        self.open_frames: set[tuple[str, int]] = set()  # (video, frame) that nobody has answered

    def add(self, reason: str, example: str, *, is_failure: bool = False, count: int = 1) -> None:
        """Count records that were left out; the first example of each reason is kept."""
        with self._lock:
            self._counts[reason] = self._counts.get(reason, 0) + count
            self._examples.setdefault(reason, example)
            self.failures += count if is_failure else 0

    def add_open_frame(self, frame: tuple[str, int], reason: str, example: str) -> None:
        """Count a frame (video, index) without a usable answer: no record is made of it.

        A frame that was not answered twice, on several crops of it, is one failure.
        """
        with self._lock:
            is_new = frame not in self.open_frames
            self.open_frames.add(frame)
        if is_new:
            self.add(reason, example, is_failure=True)

    def lines(self) -> list[str]:
        """Return a sentence for each reason: the count, the reason, an example.

        Examples:
            >>> notes = Notes()
            >>> notes.add("boxes lie outside the picture", "clip.mp4#3")
            >>> notes.lines()
            ['1 boxes lie outside the picture; the first: clip.mp4#3']
        """
        return [
            f"{count} {reason}; the first: {self._examples[reason]}"
            for reason, count in self._counts.items()
        ]
