"""Commands that train a detector, and that tell where its weights come from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotate.cli.options import Force, Settings, complete_trainer, plugin_spec

if TYPE_CHECKING:
    from annotate.weights.lineage import TrainedModel

app = typer.Typer()


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="A dataset's folder, split.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the model.")],
    trainer: Annotated[
        str,
        typer.Option(
            autocompletion=complete_trainer,
            help="The trainer, such as light; `annotate trainers` lists all.",
        ),
    ] = "light",
    parent: Annotated[
        str | None,
        typer.Option("--from", help="Weights to begin with: a model's folder, a path or a name."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the frames.")] = None,
    image_size: Annotated[
        int | None, typer.Option("--size", min=64, help="Longer side of a picture, in pixels.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other weights.")] = 0,
    freeze: Annotated[
        str, typer.Option(help="What is not trained: backbone, or nothing ('').")
    ] = "backbone",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to use; all cores by default.")
    ] = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Train a detector on a dataset.

    A training that was stopped goes on when the same command is given again.
    """
    from annotate.cli import console
    from annotate.training.run import Training
    from annotate.training.run import train as run_training
    from annotate.training.trainer import TRAINERS, EpochReport

    name, options = plugin_spec(TRAINERS, trainer, settings)
    training = Training(
        dataset, output, name, options, epochs, image_size, seed, parent, freeze, threads
    )
    total = epochs or TRAINERS.load(name, **options).default_epochs
    with console.progress("training", total, "epochs") as advance:

        def report(each: EpochReport) -> None:
            text = f"loss {each.loss:.3f}"
            if each.ap50 is not None:
                text += f", AP50 on val {each.ap50:.3f}"
                console.print_status(f"epoch {each.epoch} of {each.epochs}: {text}")
            advance(detail=text)

        model = run_training(training, force=force, say=console.print_status, report=report)
    console.print_table(("measure on val", "value"), model_rows(model))
    console.print_result(str(model.folder))


def model_rows(model: "TrainedModel") -> list[tuple[str, str]]:
    """List the measures of a model on val, and its threshold."""
    results = model.lineage.results.get("val", {})
    return [*((k, f"{v:.3f}") for k, v in results.items()), ("threshold", f"{model.threshold:.3f}")]


@app.command()
def lineage(
    path: Annotated[
        Path, typer.Argument(help="A file of items, a model's folder or weights, or a dataset.")
    ],
) -> None:
    """Tell what items, weights or a dataset were made of.

    Walk from items to weights, to the dataset that they saw, to its items and clips, and say what
    is gone or was altered.
    """
    from annotate.cli import console
    from annotate.training.chain import walk

    rows = [(link.what, link.name, link.facts, link.state) for link in walk(path)]
    console.print_table(("what", "name", "facts", "state"), rows)
