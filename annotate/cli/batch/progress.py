"""Show the progress of a batch, and what failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from annotate.cli import console
from annotate.progress import counted

if TYPE_CHECKING:
    from annotate.batch.driver import Tally
    from annotate.batch.run import BatchRun
    from annotate.batch.worker import Outcome


@contextmanager
def show_progress(
    name: str, done: int, to_run: int | None
) -> Iterator[Callable[[Tally, Outcome | None], None]]:
    """Show a bar of clips with frames a second and failures; yield the driver's `watch`.

    `to_run` is None where it is not known yet.
    """
    start = time.monotonic()
    with console.progress(name, None if to_run is None else done + to_run, "clips") as advance:
        for _ in range(done):
            advance()

        def watch(tally: Tally, outcome: Outcome | None) -> None:
            rate = tally.frames / max(time.monotonic() - start, 1e-9)
            failed = f", {len(tally.failures)} failed" if tally.failures else ""
            advance(detail=f"{rate:.0f} frames/s{failed}", count=int(outcome is not None))

        yield watch


def print_failures(run: BatchRun, tally: Tally) -> None:
    """Print a line for each clip that failed, now or earlier, and the counts."""
    for outcome in tally.failures:
        console.print_status(f"failed: {outcome.error}")
    for unit in run.failed.values():
        reason = run.output.store.failure(unit.key).get("reason", "")
        console.print_status(f"failed: {reason}")
    failed = len(tally.failures) + len(run.failed)
    hint = "; --retry-failed runs the failed ones again" if failed else ""
    console.print_status(
        f"{counted(run.done + tally.done, 'clip')} done ({tally.done} now), {failed} failed{hint}"
    )
    console.print_result(run.output.store.place)
