"""Commands that ask a model, or learn how far one is to be believed."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.options import Clip, Force, PerhapsWords, Settings, pairs

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
    from annotate import calibrate, chat, console

    asked = chat.Chat(url, model, key, way, timeout_seconds=timeout)
    found = calibrate.calibrate(asked, side)
    fit = found.fit
    row = (model, fit.convention, found.way, f"{fit.iou:.3f}", fit.boxes)
    console.table(("model", "counts", "asked by", "mean IoU", "boxes"), [row])
    console.put(str(found.note))


@app.command()
def points(
    clip: Clip,
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV for the points.")],
    ask: Annotated[
        list[str] | None, typer.Option(help="What to point at, in words; repeatable.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="The class of all that is asked for.")
    ] = None,
    vocabulary: PerhapsWords = None,
    frame: Annotated[list[int] | None, typer.Option(help="Frame to ask of; repeatable.")] = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Let Moondream point at what words name: a table of points for propagate."""
    from annotate import console, detect, pointing, prompts

    if (vocabulary is None) == (not ask):
        raise typer.BadParameter("give words to --ask, or a vocabulary to -v", param_hint="--ask")
    told = prompts.read_vocabulary(vocabulary) if vocabulary else pointing.asked(ask or (), label)
    options = detect.parse_options("moondream", pairs(settings))
    table = pointing.point(clip, told, frame or [0], options)
    pointing.write(table, output, force=force)
    console.say(f"{len(table)} points")
    console.put(str(output))


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
    from annotate import calibrate_scores, console

    learnt = calibrate_scores.learn(items, truth, method=method)
    calibrate_scores.write(learnt, output, force=force)
    rows = [
        (
            each.source,
            each.label,
            each.boxes,
            each.right,
            each.curve.method if each.curve else "too few: left as it is",
            f"{each.before:.4f}",
            f"{each.after:.4f}",
        )
        for each in learnt
    ]
    columns = ("detector", "class", "boxes", "right", "fitted", "Brier before", "after")
    console.table(columns, rows)
    console.put(str(output))
