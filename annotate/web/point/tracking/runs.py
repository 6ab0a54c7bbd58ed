"""Jobs of the engine thread that a page follows and can stop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.errors import PromptError
from annotate.web.point.tracking.engine import PointEngine


@dataclass
class RunProgress:
    """A propagation or a save that is under way."""

    direction: str  # or "save"
    digests: Mapping[int, str]  # of the objects that are tracked
    first: int
    done: int = 0
    total: int = 0  # frames; 0: not known

    @property
    def text(self) -> str:
        """What the page shows of it."""
        what = "saving" if self.direction == "save" else f"propagating {self.direction}"
        count = f"{self.done} of {self.total}" if self.total else f"{self.done}"
        return f"{what}: {count} frames"

    def is_of(self, ids: Collection[int]) -> bool:
        """Return whether a change of these objects' prompts ends it."""
        return bool(ids) and (self.direction == "save" or not self.digests.keys().isdisjoint(ids))

    def describe(self) -> dict[str, Any]:
        """Return what the state has of it."""
        return {
            "direction": self.direction,
            "objects": sorted(self.digests),
            "text": self.text,
        }


class SaveJob(Generator[None, None, None]):
    """Complete the results of an engine and write them, a frame at a step.

    `done` is set when they are written, or when the job fails or is stopped, also before its first
    step.
    """

    def __init__(
        self, engine: PointEngine, output: Path, both_directions: bool, on_step: Callable[[], None]
    ) -> None:
        self.done: Future[None] = Future()
        self._engine, self._output, self._on_step = engine, output, on_step
        self._frames: Iterator[int] = engine.complete(both_directions)

    def send(self, value: None) -> None:
        """Track one more frame; after the last one, write the items."""
        try:
            next(self._frames)
        except StopIteration:
            self._finish()
            raise
        except Exception as error:  # raised again where the result is awaited
            self.done.set_exception(error)
            raise StopIteration from None
        self._on_step()

    def _finish(self) -> None:
        try:
            self._engine.write(self._output)
        except Exception as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)

    def throw(self, *error: Any) -> None:
        """Stop."""
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Stop; what was written before stays."""
        if not self.done.done():
            self.done.set_exception(PromptError("saving was stopped: save again"))
