"""Show the state of a batch, and collect its results: batch status, collect."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.cli.batch.stages import batch_app as batch_app
from annotate.cli.options import Force, parse_place

BatchPlace = Annotated[
    Path,  # an address is a text
    typer.Argument(parser=parse_place, help="The folder of a batch, or its address."),
]


@batch_app.command()
def status(batch: BatchPlace) -> None:
    """Count the clips by state: done, failed, running, left."""
    from annotate.batch import results
    from annotate.cli import console

    state = results.status(batch)
    rate = "" if state.clips_per_minute is None else f"{state.clips_per_minute:.3g}"
    console.print_table(
        ("stage", "done", "failed", "running", "left", "clips a minute"),
        [(state.stage, state.done, len(state.failed), state.running, state.left, rate)],
    )
    for _, reason in state.failed:
        console.print_status(f"failed: {reason}")


@batch_app.command()
def collect(
    batch: BatchPlace,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the results; of scenes, a database.")
    ],
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out clips that have no result yet.")
    ] = False,
    force: Force = False,
) -> None:
    """Copy the results of a batch, named as the clips are.

    Scenes are added to one database.
    """
    from annotate.batch import results
    from annotate.cli import console

    written = results.collect(batch, output, partial=partial, force=force)
    console.print_status(f"{len(written)} results")
    console.print_result(str(output))
