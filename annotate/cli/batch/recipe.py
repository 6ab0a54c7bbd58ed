"""Run a recipe: a chain of stages over many clips."""

from pathlib import Path
from typing import Annotated, Any

import typer

from annotate.cli.batch.stages import (
    FAILED_EXIT_CODE,
    Gpus,
    RetryFailed,
    Shard,
    Workers,
    batch_options,
)
from annotate.cli.options import place_option

app = typer.Typer()


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A TOML file: clips, stages, their settings.")],
    output: Annotated[Any, place_option("Folder for all results, or s3://BUCKET/PREFIX.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would run, and why; run nothing.")
    ] = False,
    on: Workers = "local",
    gpus: Gpus = 0,
    shard: Shard = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Run a recipe of stages over many clips.

    What is done and did not change is not run again.
    """
    from annotate.batch.recipe import DATASET, RecipeRun, read_recipe
    from annotate.cli import console
    from annotate.cli.batch.progress import show_progress

    planned = RecipeRun(
        read_recipe(recipe), output, batch_options(on, gpus, shard, None, retry_failed)
    )
    if dry_run:
        planned.tasks()
        rows = list(planned.reasons)
        if why := planned.why_build():
            rows.append(("build", DATASET, why))
        console.print_table(("stage", "clip", "reason"), rows)
        console.print_status(f"{len(rows)} to run, {planned.done} done")
        return
    with show_progress(recipe.stem, 0, None) as watch:
        tally = planned.run(watch)
    for reason in [*planned.failures, *(each.error for each in tally.failures)]:
        console.print_status(f"failed: {reason}")
    console.print_status(f"{planned.done + tally.done} results ({tally.done} now)")
    if planned.failures or tally.failures:
        raise typer.Exit(FAILED_EXIT_CODE)
    dataset = planned.build() if planned.options.shard == (1, 1) else None
    console.print_result(str(dataset or output))
