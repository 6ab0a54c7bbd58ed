"""Commands about the toolkit itself: what there is, what is missing, a demonstration."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.options import (
    Force,
)

app = typer.Typer()


@app.command()
def detectors() -> None:
    """List the installed detectors, with their options and defaults."""
    _plugins("annotate.detectors")


@app.command()
def propagators() -> None:
    """List the installed propagation engines, with their options and defaults."""
    _plugins("annotate.propagators")


def _plugins(group: str) -> None:
    from annotate import console, plugins

    console.table(("name", "what it is", "options"), plugins.listing(group))


@app.command()
def vocabularies() -> None:
    """List the vocabularies that ship, with their classes and the detectors they speak to."""
    from annotate import console, prompts

    words = [prompts.read_vocabulary(name) for name in prompts.vocabularies()]
    rows = [(each.name, ", ".join(each.labels), ", ".join(each.detectors)) for each in words]
    console.table(("name", "classes", "speaks to"), rows)


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing, and the command that gets it."""
    from annotate import console, doctor

    console.table(("part", "state", "what to do"), doctor.examine())


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for what it makes.")
    ] = Path("demo"),
    force: Force = False,
) -> None:
    """Run the whole way on the clip that ships, and hold the result against its ground truth."""
    from annotate import console, demo

    console.table(("measure", "value"), demo.run(output, force=force, say=console.say))
