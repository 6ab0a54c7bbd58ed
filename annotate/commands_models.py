"""Commands about weights: which there are, fetching, checking and adding them."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.options import complete_model

app = typer.Typer(help="Weights: list, fetch, verify, find and add them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(autocompletion=complete_model, help="A model's name.")]


@app.command("list")
def list_() -> None:
    """List the models that the manifest names, and whether they are on this machine."""
    from annotate import console, weights

    rows = [
        (model.name, model.task, weights.size(model), model.licence, "here" if here else "")
        for model, here in weights.listing()
    ]
    console.table(("name", "task", "size", "licence", "on this machine"), rows)


@app.command()
def fetch(
    name: Name,
    mirror: Annotated[
        str | None, typer.Option(help="A folder, or an address, to fetch from instead.")
    ] = None,
) -> None:
    """Fetch a model's weights: pinned, checked, resumable; its licence is shown first."""
    from annotate import console, manifest, weights

    console.say(weights.terms(manifest.find(name)))
    with console.download() as progress:
        path = weights.fetch(name, mirror=mirror, progress=progress)
    console.put(str(path))


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(autocompletion=complete_model, help="Models; all that are here if none."),
    ] = None,
) -> None:
    """Hash the weights on this machine anew, and say which are damaged."""
    from annotate import console, weights

    checks = weights.verify(names or None)
    rows = [(check.model, check.path, check.problem or "sound") for check in checks]
    console.table(("name", "file", "state"), rows)
    if any(check.problem for check in checks):
        raise typer.Exit(1)


@app.command()
def where(name: Name) -> None:
    """Say where a model's weights lie; nothing is downloaded."""
    from annotate import console, weights

    console.put(str(weights.where(name)))


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="A file or folder of weights.")],
    name: Annotated[str | None, typer.Option(help="What to call them.")] = None,
) -> None:
    """Make weights of your own known by a name."""
    from annotate import adopt, console

    console.put(adopt.add(path, name).name)
