"""Commands about models: their weights, their coordinates and their scores."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.cli.options import (
    ClipPath,
    Force,
    OptionalVocabulary,
    Settings,
    complete_model,
    key_value_pairs,
)

models_app = typer.Typer(
    help="Weights: list, fetch, verify, find and add them.", no_args_is_help=True
)

ModelName = Annotated[str, typer.Argument(autocompletion=complete_model, help="A model's name.")]


@models_app.command("list")
def list_() -> None:
    """List the models that the manifest names, and whether they are on this machine."""
    from annotate.cli import console
    from annotate.weights.store import list_models, size_text

    rows = [
        (model.name, model.task, size_text(model), model.licence, "here" if here else "")
        for model, here in list_models()
    ]
    console.print_table(("name", "task", "size", "licence", "on this machine"), rows)


@models_app.command()
def fetch(
    name: ModelName,
    mirror: Annotated[
        str | None, typer.Option(help="A folder, or an address, to fetch from instead.")
    ] = None,
) -> None:
    """Fetch a model's weights: pinned, checked, resumable; its licence is shown first."""
    from annotate.cli import console
    from annotate.weights import manifest
    from annotate.weights.store import describe_model, fetch_weights

    console.print_status(describe_model(manifest.find_model(name)))
    with console.download_progress() as progress:
        path = fetch_weights(name, mirror=mirror, progress=progress)
    console.print_result(str(path))


@models_app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(autocompletion=complete_model, help="Models; all that are here if none."),
    ] = None,
) -> None:
    """Hash the weights on this machine anew, and say which are damaged."""
    from annotate.cli import console
    from annotate.weights.store import verify_weights

    checks = verify_weights(names or None)
    rows = [(check.model, check.path, check.problem or "sound") for check in checks]
    console.print_table(("name", "file", "state"), rows)
    if any(check.problem for check in checks):
        raise typer.Exit(1)


@models_app.command()
def where(name: ModelName) -> None:
    """Say where a model's weights lie; nothing is downloaded."""
    from annotate.cli import console
    from annotate.weights.store import weights_path

    console.print_result(str(weights_path(name)))


@models_app.command()
def add(
    path: Annotated[Path, typer.Argument(help="A file or folder of weights.")],
    name: Annotated[str | None, typer.Option(help="What to call them.")] = None,
) -> None:
    """Make weights of your own known by a name."""
    from annotate.cli import console
    from annotate.weights.store import add_weights

    console.print_result(add_weights(path, name).name)


app = typer.Typer()


@app.command()
def calibrate(
    model: Annotated[str, typer.Option(help="The model's name, as its server knows it.")],
    url: Annotated[
        str, typer.Option(help="The server's OpenAI-compatible address, such as .../v1.")
    ] = "http://localhost:11434/v1",
    key: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Environment variable that holds the key.")
    ] = "",
    side: Annotated[
        int, typer.Option(min=128, help="Pixels of the pictures' longest side, as for vlm.")
    ] = 1024,
    way: Annotated[
        str, typer.Option(help="How to ask: tool, schema, json, or auto, which tries them.")
    ] = "auto",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 60.0,
) -> None:
    """Find out how a model counts coordinates, by pictures drawn for it; remembered for vlm."""
    from annotate.cli import console
    from annotate.vlm import coordinates
    from annotate.vlm.client import Chat

    asked = Chat(url, model, key, way, timeout_seconds=timeout)
    found = coordinates.calibrate(asked, side)
    fit = found.fit
    row = (model, fit.box_format, found.mode, f"{fit.iou:.3f}", fit.box_count)
    console.print_table(("model", "counts", "asked by", "mean IoU", "boxes"), [row])
    console.print_result(str(found.notes_path))


@app.command()
def points(
    clip: ClipPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV for the points.")],
    ask: Annotated[
        list[str] | None, typer.Option(help="What to point at, in words; repeatable.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="The class of all that is asked for.")
    ] = None,
    vocabulary: OptionalVocabulary = None,
    frame: Annotated[list[int] | None, typer.Option(help="Frame to ask of; repeatable.")] = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Let Moondream point at what words name: a table of points for propagate."""
    from annotate.cli import console
    from annotate.detectors import moondream
    from annotate.detectors.run import DETECTORS
    from annotate.vocabulary import read_vocabulary

    if (vocabulary is None) == (not ask):
        raise typer.BadParameter("give words to --ask, or a vocabulary to -v", param_hint="--ask")
    told = (
        read_vocabulary(vocabulary) if vocabulary else moondream.make_vocabulary(ask or (), label)
    )
    options = DETECTORS.parse_options("moondream", key_value_pairs(settings))
    table = moondream.points_table(clip, told, frame or [0], options)
    moondream.write_points(table, output, force=force)
    console.print_status(f"{len(table)} points")
    console.print_result(str(output))


@app.command("calibrate-scores")
def calibrate_scores(
    items: Annotated[list[Path], typer.Argument(help="Files of items, as detectors wrote them.")],
    truth: Annotated[
        Path, typer.Option(help="The same frames, corrected: a dataset, or a file of items.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON for the curves.")],
    method: Annotated[
        str, typer.Option(help="isotonic, platt, or auto: isotonic from 1000 boxes on.")
    ] = "auto",
    force: Force = False,
) -> None:
    """Learn how often a box of a score is right, for each detector and class, from corrections."""
    from annotate.cli import console
    from annotate.evaluation import calibration

    learnt = calibration.fit_curves(items, truth, method=method)
    calibration.write_curves(learnt, output, force=force)
    rows = [
        (
            each.source,
            each.label,
            each.box_count,
            each.correct_count,
            each.curve.method if each.curve else "too few: left as it is",
            f"{each.brier_before:.4f}",
            f"{each.brier_after:.4f}",
        )
        for each in learnt
    ]
    columns = ("detector", "class", "boxes", "right", "fitted", "Brier before", "after")
    console.print_table(columns, rows)
    console.print_result(str(output))
