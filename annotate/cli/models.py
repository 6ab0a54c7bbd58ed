"""Commands about models: weights (models), coordinates, scores, points of Moondream."""

import enum
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

models_app = typer.Typer(help="List, fetch, verify and add model weights.", no_args_is_help=True)

ModelName = Annotated[str, typer.Argument(autocompletion=complete_model, help="A model's name.")]


@models_app.command("list")
def list_() -> None:
    """List the models of the manifest.

    Show whether their weights are on this machine.
    """
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
    mirror: Annotated[str | None, typer.Option(help="Another folder or URL to fetch from.")] = None,
) -> None:
    """Fetch a model's weights.

    Print the licence first, and check the hash.
    """
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
        typer.Argument(
            autocompletion=complete_model, help="Models; default: all that are on this machine."
        ),
    ] = None,
) -> None:
    """Check the hashes of the weights here.

    List the damaged files.
    """
    from annotate.cli import console
    from annotate.weights.store import verify_weights

    checks = verify_weights(names or None)
    rows = [(check.model, check.path, check.problem or "ok") for check in checks]
    console.print_table(("name", "file", "state"), rows)
    if any(check.problem for check in checks):
        raise typer.Exit(1)


@models_app.command()
def where(name: ModelName) -> None:
    """Print the path of a model's weights.

    Download nothing.
    """
    from annotate.cli import console
    from annotate.weights.store import weights_path

    console.print_result(str(weights_path(name)))


@models_app.command()
def add(
    path: Annotated[Path, typer.Argument(help="A file or folder of weights.")],
    name: Annotated[str | None, typer.Option(help="The name to register them under.")] = None,
) -> None:
    """Register your own weights under a name."""
    from annotate.cli import console
    from annotate.weights.store import add_weights

    console.print_result(add_weights(path, name).name)


app = typer.Typer()


class ResponseMode(enum.StrEnum):
    """How a model is made to answer in a format that can be parsed."""

    tool = "tool"
    schema = "schema"
    json = "json"
    auto = "auto"


@app.command()
def calibrate(
    model: Annotated[str, typer.Option(help="The model's name on its server.")],
    url: Annotated[
        str, typer.Option(help="OpenAI-compatible URL of the server, such as .../v1.")
    ] = "http://localhost:11434/v1",
    key: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Environment variable that holds the key.")
    ] = "",
    side: Annotated[
        int, typer.Option(min=128, help="Longest side of the images, in pixels, as for vlm.")
    ] = 1024,
    mode: Annotated[
        ResponseMode, typer.Option(help="Response format; auto tries them in this order.")
    ] = ResponseMode.auto,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 60.0,
    temperature: Annotated[
        str, typer.Option(metavar="NUMBER|none", help="As for vlm; none: the server's own.")
    ] = "0",
) -> None:
    """Measure the coordinate format of a model.

    The model finds boxes on drawn images; the detector vlm then uses the result.
    """
    from annotate.cli import console
    from annotate.detectors.run import DETECTORS
    from annotate.vlm import coordinates
    from annotate.vlm.client import Chat

    options = DETECTORS.parse_options("vlm", {"temperature": temperature})
    chat = Chat(url, model, key, mode.value, **options, timeout_seconds=timeout)
    calibration = coordinates.calibrate(chat, side)
    fit = calibration.fit
    row = (model, fit.box_format, calibration.mode, f"{fit.iou:.3f}", fit.box_count)
    console.print_table(("model", "box format", "mode", "mean IoU", "boxes"), [row])
    console.print_note_lines(chat.notes.lines())
    console.print_result(str(calibration.notes_path))


@app.command("propose-points")
def propose_points(
    clip: ClipPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV file for the points.")],
    phrase: Annotated[
        list[str] | None, typer.Option(help="What to point at, such as 'a blue robot'; repeatable.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="The class of the points of --phrase.")
    ] = None,
    vocabulary: OptionalVocabulary = None,
    frames: Annotated[
        list[int] | None,
        typer.Option(
            "--frame", help="Frame to point in; repeatable; default: 0. Object ids are per frame."
        ),
    ] = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Propose points by phrases, with Moondream.

    Write a table of points for propagate. Each point is an object of its own: Moondream does not
    recognize an object on another frame.
    """
    from annotate.cli import console
    from annotate.detectors import moondream
    from annotate.detectors.run import DETECTORS
    from annotate.files import refuse_existing
    from annotate.progress import counted
    from annotate.vocabulary import read_vocabulary

    if (vocabulary is None) == (not phrase):
        raise typer.BadParameter("give --phrase, or a vocabulary by -v", param_hint="--phrase")
    classes = (
        read_vocabulary(vocabulary)
        if vocabulary
        else moondream.make_vocabulary(phrase or (), label)
    )
    refuse_existing(output, force)
    options = DETECTORS.parse_options("moondream", key_value_pairs(settings))
    table = moondream.points_table(clip, classes, frames or [0], options)
    moondream.write_points(table, output, force=force)
    console.print_status(counted(len(table), "point"))
    if table["frame_id"].nunique() > 1:
        console.print_status(
            "each point has an object_id of its own: an object that is on several of the frames "
            "has several ids; give its points one id, or it is propagated twice"
        )
    console.print_result(str(output))


@app.command("calibrate-scores")
def calibrate_scores(
    items: Annotated[
        list[Path], typer.Argument(help="Files of items that `annotate detect` wrote.")
    ],
    truth: Annotated[
        Path, typer.Option(help="Correct objects on the same frames: a dataset or a file of items.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file for the curves.")],
    method: Annotated[
        str, typer.Option(help="isotonic, platt, or auto: isotonic for 1000 boxes or more.")
    ] = "auto",
    force: Force = False,
) -> None:
    """Fit score curves from corrections.

    They give, by detector and class, how often a box of a score is correct.
    """
    from annotate.cli import console
    from annotate.evaluation import calibration
    from annotate.files import refuse_existing
    from annotate.items.import_report import ImportReport

    refuse_existing(output, force)
    report = ImportReport()
    curves = calibration.fit_curves(items, truth, method=method, report=report)
    calibration.write_curves(curves, output, force=force)
    rows = [
        (
            each.source,
            each.label,
            each.box_count,
            each.correct_count,
            each.curve.method if each.curve else "too few boxes: unchanged",
            f"{each.brier_before:.4f}",
            f"{each.brier_after:.4f}",
        )
        for each in curves
    ]
    columns = ("detector", "class", "boxes", "correct", "method", "Brier before", "Brier after")
    console.print_table(columns, rows)
    console.print_note_lines(report.warnings())
    console.print_result(str(output))
