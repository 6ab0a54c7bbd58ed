"""Define the progress bar that a caller may give to a long job."""

from __future__ import annotations

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
