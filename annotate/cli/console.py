"""Print to the terminal: progress on stderr, tables and results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import Progress, TaskID


INTERRUPTED_EXIT_CODE = 130  # what a shell says of a program that Ctrl-C ended


@contextmanager
def progress(
    description: str, total: int | None, unit: str = "frames"
) -> Iterator[Callable[..., None]]:
    """A bar with a rate and the time left, on stderr; call what it yields once for each thing done.

    `told=TEXT` given to it stands at the end of the bar.

    Ctrl-C ends the program with one line that says how to go on.
    """
    with _progress_bar(unit) as bar:
        task = bar.add_task(description, total=total, told="")
        try:
            yield lambda *done, told="": bar.update(task, advance=1, told=told)
        except KeyboardInterrupt:
            count = int(bar.tasks[0].completed)
            bar.stop()
            print_status(f"stopped after {count} {unit}; the same command goes on from here")
            raise SystemExit(INTERRUPTED_EXIT_CODE) from None


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar for each file, told (file, bytes there, bytes in all), on stderr."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(file: str, there: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file, total=total)
            bar.update(tasks[file], completed=there, total=total)

        yield progress


def _progress_bar(unit: str) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )

    class Rate(ProgressColumn):
        def render(self, task: Task) -> str:
            speed = task.finished_speed or task.speed
            return f"{speed:.1f} {unit}/s" if speed else ""

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
        console=console,
        disable=not console.is_terminal,
    )


def print_status(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr)  # noqa: T201


def print_result(text: str) -> None:
    """One line of data on stdout."""
    print(text)  # noqa: T201


def print_output_path(output: Path, is_new: bool) -> None:
    """Say where the result is, or that it was there already."""
    if str(output) != "-":
        print_result(str(output))
    if not is_new:
        print_status(f"{output} was complete already; --force makes it anew")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout: ruled for a person, tab-separated for a program."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            print_result("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table

    ruled = Table(*columns, header_style="bold")
    for row in rows:
        ruled.add_row(*(str(cell) for cell in row))
    Console().print(ruled)


def print_dataframe(data: pd.DataFrame) -> None:
    """A DataFrame, its index first, as a table on stdout."""
    flat = data.reset_index()
    rows = [[_format_cell(cell) for cell in row] for row in flat.itertuples(index=False)]
    print_table([str(column) for column in flat.columns], rows)


def _format_cell(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
