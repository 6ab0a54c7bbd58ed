"""Commands that train a detector, and that tell where its weights come from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate.cli.options import Engine, Force, Settings, complete_trainer, plugin_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    gold: Annotated[
        Path | None,
        typer.Option(help="Labels of other clips: compare the model with --from on them."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train N models; the first is kept, --gold compares all.")
    ] = 1,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Train a detector on a dataset.

    A training that was stopped goes on when the same command is given again.
    """
    from annotate.cli import console
    from annotate.progress import counted
    from annotate.training.run import Training
    from annotate.training.run import train as run_training
    from annotate.training.trainer import TRAINERS, EpochReport

    name, options = plugin_spec(TRAINERS, trainer, settings)
    training = Training(
        *(dataset, output, name, options, epochs, image_size, seed, parent, freeze, threads),
        gold=gold,
        seeds=seeds,
    )
    total = seeds * (epochs or TRAINERS.load(name, **options).default_epochs)
    with console.progress("training", total, "epochs") as advance:

        def report(each: EpochReport) -> None:
            text = f"loss {each.loss:.3f}"
            if each.ap50 is not None:
                text += f", AP50 on val {each.ap50:.3f}"
                console.print_status(f"epoch {each.epoch} of {each.epochs}: {text}")
            advance(detail=text)

        model = run_training(training, force=force, say=console.print_status, report=report)
    console.print_table(("measure on val", "value"), model_rows(model))
    if model.lineage.gold is not None:
        console.print_table(
            ("measure on gold", "before", "after", "difference", ""), gold_rows(model)
        )
        looks = counted(model.lineage.gold["looks"], "time")
        console.print_status(f"gold was looked at {looks}; {output / 'table.md'} says more")
    console.print_result(str(model.folder))


def gold_rows(model: "TrainedModel") -> list[tuple[str, str, str, str, str]]:
    """List the measures of a model and its parent on the gold set, with 95 % intervals."""
    results = model.lineage.results["gold"]
    before, difference = results["before"] or {}, results["difference"] or {}
    rows = []
    for name, after in results["after"].items():
        compared = difference.get(name, {})
        texts = (_estimate(before.get(name, {})), _estimate(after), _estimate(compared))
        rows.append((name, *texts, compared.get("verdict", "")))
    return rows


def _estimate(record: "Mapping[str, Any]") -> str:
    if record.get("value") is None:
        return "-"
    text = f"{record['value']:.3f}"
    if record["low"] is not None:
        text += f" ({record['low']:.3f} to {record['high']:.3f})"
    return text


def model_rows(model: "TrainedModel") -> list[tuple[str, str]]:
    """List the measures of a model on val, and its threshold."""
    results = model.lineage.results.get("val", {})
    return [*((k, f"{v:.3f}") for k, v in results.items()), ("threshold", f"{model.threshold:.3f}")]


@app.command()
def curve(
    truth: Annotated[
        list[Path], typer.Argument(help="Items with the true objects of clips to label.")
    ],
    val: Annotated[
        list[Path], typer.Option(help="True items of a clip that chooses the epoch; repeatable.")
    ],
    gold: Annotated[Path, typer.Option(help="A dataset apart, to measure the detectors on.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the curve.")],
    arms: Annotated[
        str, typer.Option(help="Ways to label, with commas between them; all by default.")
    ] = "",
    touches: Annotated[
        str, typer.Option(help="How many touches each arm may spend, with commas between them.")
    ] = "10,20,40,80",
    seeds: Annotated[int, typer.Option(min=1, help="Repeat everything with so many seeds.")] = 3,
    every: Annotated[int, typer.Option(min=1, help="Every N-th frame may be labelled.")] = 10,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the frames.")] = 16,
    image_size: Annotated[
        int, typer.Option("--size", min=64, help="Longer side of a picture, in pixels.")
    ] = 640,
    class_name: Annotated[
        list[str] | None, typer.Option("--class", help="Only objects of this class; repeatable.")
    ] = None,
    engine: Engine = "light:fast=true",
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Measure how good a detector gets by how much work.

    A simulated person labels the clips in several ways, each with the same number of touches: a
    click or a key is 1, a drag 2. Each detector is compared with that of perfect labels.
    """
    from annotate.cli import console
    from annotate.learning_curve.arms import ARMS
    from annotate.learning_curve.run import LearningCurve, measure_curve
    from annotate.propagators.job import PROPAGATORS
    from annotate.training.trainer import TRAINERS

    name, options = plugin_spec(PROPAGATORS, engine, None)
    _, trainer_options = plugin_spec(TRAINERS, "light", settings)
    measured = LearningCurve(
        *(truth, val, gold, output),
        arms=[each.strip() for each in arms.split(",")] if arms else tuple(ARMS),
        touches=whole_numbers(touches, "touches"),
        seeds=seeds,
        every=every,
        epochs=epochs,
        image_size=image_size,
        classes=class_name or (),
        engine=name,
        engine_options=options,
        trainer_options=trainer_options,
    )
    result = measure_curve(
        measured, force=force, say=console.print_status, progress=console.progress
    )
    console.print_table(*result.ratio_rows())
    if (compared := result.comparison_rows())[1]:
        console.print_table(*compared)
    console.print_result(str(output))


def whole_numbers(text: str, name: str) -> list[int]:
    """Parse whole numbers with commas between them; `name` is the option's.

    Examples:
        >>> whole_numbers("10,20", "touches")
        [10, 20]
    """
    from annotate.errors import AnnotateError

    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise AnnotateError(
            f"`{name}` must be whole numbers with commas between them, got {text!r}"
        ) from None


@app.command()
def lineage(
    path: Annotated[
        Path, typer.Argument(help="A file of items, a model's folder or weights, or a dataset.")
    ],
) -> None:
    """Show what items, weights or a dataset were made of.

    Walk from items to weights, to the dataset that they saw, to its items and clips, and say what
    is gone or was altered.
    """
    from annotate.cli import console
    from annotate.training.chain import walk

    rows = [(link.what, link.name, link.facts, link.state) for link in walk(path)]
    console.print_table(("what", "name", "facts", "state"), rows)
