"""Commands about Label Studio: a server of one's own; push, pull and diff of datasets."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.options import Force

app = typer.Typer()
studio_app = typer.Typer(
    help="Label Studio: start one of your own, end it, look what is wrong.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(help="A dataset's folder.")]
Name = Annotated[
    str | None,
    typer.Option("--project", metavar="NAME|ID", help="The project; else named for the folder."),
]
Url = Annotated[
    str | None, typer.Option(help="Another server than your own: http://127.0.0.1:8080.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="A file with its token, mode 0600; else $LABEL_STUDIO_API_KEY."),
]


@studio_app.command()
def up(
    data: Annotated[
        Path | None, typer.Option(help="Its folder; else ~/.local/share/annotate/studio.")
    ] = None,
) -> None:
    """Start a Label Studio of your own on this machine; installed apart on first use."""
    from annotate import console, studio

    own = studio.up(data, console.say)
    console.say(f"log in as {own.email} with the password {own.password}")
    console.put(own.url)


@studio_app.command()
def down() -> None:
    """End the Label Studio that `up` started; its data stays."""
    from annotate import console, studio

    console.put(str(studio.down().data))


@app.command()
def push(
    dataset: Folder,
    project: Name = None,
    polygons: Annotated[
        bool,
        typer.Option("--polygons", help="Send masks as outlines, where outlines can say them."),
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Send a dataset to Label Studio to be corrected; again, only what is new or changed."""
    from annotate import console, folder, studio
    from annotate.push import push as send

    found = folder.load(dataset)
    with (
        studio.connect(url, token_file) as server,
        console.progress("push", len(found)) as advance,
    ):
        done = send(found, server, project=project, polygons=polygons, progress=advance)
    if done.added_classes:
        console.say(f"the project got the classes {', '.join(done.added_classes)}")
    console.table(("frames", "count"), sorted(done.frames.items()))
    console.put(done.address)


@app.command()
def pull(
    dataset: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the corrected one.")],
    project: Name = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="last", help="last: only what changed since -o was pulled."),
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    force: Force = False,
) -> None:
    """Fetch what people have submitted; what they left alone is what it was, to the last bit."""
    from annotate import console, folder, studio
    from annotate.pull import pull as fetch

    if since not in (None, "last"):
        raise typer.BadParameter(f"only `last` is known, not {since!r}", param_hint="--since")
    found = folder.load(dataset)
    with (
        studio.connect(url, token_file) as server,
        console.progress("pull", len(found)) as advance,
    ):
        done = fetch(
            found,
            server,
            output,
            project=project,
            since_last=since is not None,
            force=force,
            progress=advance,
        )
    for name, why in done.notes:
        console.say(f"{name}: {why}")
    console.table(("frames", "count"), sorted(done.frames.items()))
    console.put(str(output))
