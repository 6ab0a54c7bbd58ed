"""Print to the terminal: progress on stderr, tables and results on stdout; flags in errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import Progress, TaskID

    from annotate.progress import Notes


_command_context: ContextVar[Any] = ContextVar("command_context", default=None)  # of click
INTERRUPTED_EXIT_CODE = 130  # the shells' code for a program that Ctrl-C ended


@contextmanager
def progress(
    description: str, total: int | None, unit: str = "frames"
) -> Iterator[Callable[..., None]]:
    """Show a bar with the rate and the time left, on stderr; yield a callable that advances it.

    The callable is called once for each unit; `detail=TEXT` is shown at the end of the bar, and
    `count=0` shows it without advancing. Ctrl-C ends the program with one line that says how to
    continue.
    """
    with _progress_bar(unit) as bar:
        task = bar.add_task(description, total=total, detail="")
        try:
            yield lambda *done, detail="", count=1: bar.update(task, advance=count, detail=detail)
        except KeyboardInterrupt:
            count = int(bar.tasks[0].completed)
            bar.stop()
            print_status(f"stopped after {count} {unit}; the same command continues from here")
            raise SystemExit(INTERRUPTED_EXIT_CODE) from None


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar for each file, on stderr; yield a callable that takes (file, bytes, all bytes)."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(file: str, received: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file, total=total)
            bar.update(tasks[file], completed=received, total=total)

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
        TextColumn("{task.fields[detail]}"),
        console=console,
        disable=not console.is_terminal,
    )


def print_status(text: str) -> None:
    """Print one line on stderr."""
    print(text, file=sys.stderr)  # noqa: T201


def print_result(text: str) -> None:
    """Print one line of data on stdout."""
    print(text)  # noqa: T201


def print_output_path(output: Path, is_new: bool) -> None:
    """Print the path of the result, and a note if it was complete before."""
    if str(output) != "-":
        print_result(str(output))
    if not is_new:
        print_status(f"{output} was complete already; --force makes it again")


@contextmanager
def command_context(context: Any) -> Iterator[None]:
    """Set the click context of the command that runs, whose flags notes are to name."""
    token = _command_context.set(context)
    try:
        yield
    finally:
        _command_context.reset(token)


def print_note_lines(lines: Iterable[str]) -> None:
    """Print what a run left out, on stderr; arguments that are named become flags."""
    context = _command_context.get()
    for line in lines:
        print_status(line if context is None else name_flags(line, context))


def print_notes(all_notes: Iterable[Notes]) -> None:
    """Print what a run left out, on stderr; a run with records that it could not make fails."""
    failures = 0
    for notes in all_notes:
        failures += notes.failures
        print_note_lines(notes.lines())
    refuse_unanswered(failures, "", "; see above. ")


def refuse_unanswered(count: int, still: str = "", hint: str = ". ") -> None:
    """Fail if a number of frames is not in the output, because no usable answer came.

    Raises:
        AnnotateError: the count is not 0; says how they are asked about again.
    """
    from annotate.errors import AnnotateError
    from annotate.progress import counted

    if count:
        raise AnnotateError(
            f"{counted(count, 'frame')} {still}without a usable answer: not in the output{hint}"
            "The same command with --force asks about them again; the answers that came are cached"
        )


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, to_stderr: bool = False
) -> None:
    """Print a table: ruled on a terminal, tab-separated for a program; on stdout or stderr."""
    stream = sys.stderr if to_stderr else sys.stdout
    if not stream.isatty():
        for row in [columns, *rows]:
            print("\t".join(str(cell) for cell in row), file=stream)
        return
    from rich.console import Console
    from rich.table import Table

    ruled = Table(*columns, header_style="bold")
    for row in rows:
        ruled.add_row(*(str(cell) for cell in row))
    Console(stderr=to_stderr).print(ruled)


def print_dataframe(data: pd.DataFrame) -> None:
    """Print a DataFrame as a table on stdout, its index first."""
    flat = data.reset_index()
    rows = [[_format_cell(cell) for cell in row] for row in flat.itertuples(index=False)]
    print_table([str(column) for column in flat.columns], rows)


def _format_cell(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


# Command -> the family of the plugin that takes its `--set`, and the parameter with its name.
_PLUGIN_PARAMETERS: Mapping[str, tuple[str, str]] = {
    "detect": ("detectors", "detector"),
    "export": ("formats", "to"),
    "find": ("detectors", "method"),
    "propagate": ("propagators", "engine"),
    "propose-points": ("detectors", "moondream"),  # always this one
    "segment": ("segmenters", "engine"),
    "study": ("detectors", "describe"),
}


def name_flags(text: str, context: Any) -> str:
    """Replace the arguments that a library error names in backticks by the command's flags.

    `context` is the click context of the command that ran. Of "give `force`" this makes "give
    --force", and of "`every=5`" --every 5; an option of the plugin becomes `--set NAME=...`. Other
    names stay as they are.
    """
    parameters = {each.name: each for each in context.command.params}
    plugin_options = _plugin_option_names(context)

    def flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if name in parameters:
            return _flag(parameters[name]) + (f" {value}" if value else "")
        return f"--set {name}={value or '...'}" if name in plugin_options else match[0]

    return re.sub(r"`(\w+)(?:=([^`]*))?`", flag, text)


def _flag(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return str(parameter.opts[0])


def _plugin_option_names(context: Any) -> list[str]:
    from annotate.errors import AnnotateError
    from annotate.plugins import FAMILIES, option_fields

    if context.command.name not in _PLUGIN_PARAMETERS:
        return []
    family, parameter = _PLUGIN_PARAMETERS[context.command.name]
    try:
        plugin = FAMILIES[family].plugin_class(context.params.get(parameter, parameter))
    except (AnnotateError, ImportError):
        return []
    return list(option_fields(plugin))
