"""Commands about Label Studio: a server of one's own; push, pull and diff of datasets."""

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate.options import Force, Videos, paths

app = typer.Typer()
studio_app = typer.Typer(
    help="Label Studio: start one of your own, end it, look what is wrong.", no_args_is_help=True
)


class Way(enum.StrEnum):
    """What a task is."""

    frames = "frames"
    video = "video"


As = Annotated[Way, typer.Option("--as", help="A task is a frame, or a whole video of tracks.")]
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


@studio_app.command()
def doctor(
    dataset: Annotated[
        Path | None, typer.Argument(help="A dataset that was pushed: its project is looked at too.")
    ] = None,
    project: Name = None,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Look at a Label Studio: a line for each thing that must be right, with its cure."""
    from annotate import console, folder, studio, studio_doctor

    found = None if dataset is None else folder.load(dataset)
    with studio.connect(url, token_file) as server:
        checks = studio_doctor.examine(server, found, project)
    rows = [(check.what, check.found, check.cure or "sound") for check in checks]
    console.table(("what", "found", "state"), rows)
    if any(check.cure for check in checks):
        raise typer.Exit(1)


@app.command()
def push(
    dataset: Folder,
    project: Name = None,
    as_: As = Way.frames,
    polygons: Annotated[
        bool,
        typer.Option("--polygons", help="Send masks as outlines, where outlines can say them."),
    ] = False,
    transcode: Annotated[
        bool,
        typer.Option("--transcode", help="Of a clip that cannot be shown exactly, send a copy."),
    ] = False,
    videos: Videos = None,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Send a dataset to Label Studio to be corrected; again, only what is new or changed."""
    from annotate import console, folder, ledger, reels, studio
    from annotate.push import push as push_frames

    found = folder.load(dataset)
    with (
        studio.connect(url, token_file) as server,
        console.progress("push", len(found) if as_ is Way.frames else None, as_) as advance,
    ):
        if as_ is Way.frames:
            done = push_frames(found, server, project=project, polygons=polygons, progress=advance)
        else:
            at: dict[str, Any] = {"videos": paths(videos), "transcode": transcode}
            done = reels.push(found, server, project=project, progress=advance, **at)
    if done.added_classes:
        console.say(f"the project got the classes {', '.join(done.added_classes)}")
    ledger.remember(server.url, done.project.id, dataset)
    console.table((as_, "count"), sorted(done.frames.items()))
    console.put(done.address)


@app.command()
def pull(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the corrected one; of video, a file.")
    ],
    dataset: Annotated[
        Path | None, typer.Argument(help="What was pushed; without, what --project was made of.")
    ] = None,
    project: Name = None,
    as_: As = Way.frames,
    since: Annotated[
        str | None,
        typer.Option(metavar="last", help="last: only what changed since -o was pulled."),
    ] = None,
    videos: Videos = None,
    url: Url = None,
    token_file: TokenFile = None,
    force: Force = False,
) -> None:
    """Fetch what people have submitted; what they left alone is what it was, to the last bit."""
    from annotate import console, folder, ledger, reels, studio
    from annotate.pull import pull as pull_frames

    if since not in (None, "last"):
        raise typer.BadParameter(f"only `last` is known, not {since!r}", param_hint="--since")
    if dataset is None and project is None:
        raise typer.BadParameter("give the dataset, or --project", param_hint="dataset")
    with studio.connect(url, token_file) as server, console.progress("pull", None) as advance:
        if dataset is None:
            dataset = ledger.recall(server.url, server.named(project or "").id)
        found = folder.load(dataset)
        told: dict[str, Any] = {"project": project, "force": force}
        if as_ is Way.frames:
            last = since is not None
            done = pull_frames(found, server, output, since_last=last, progress=advance, **told)
        else:
            done = reels.pull(found, server, output, videos=paths(videos), **told)
    for name, why in done.notes:
        console.say(f"{name}: {why}")
    console.table(("frames", "count"), sorted(done.frames.items()))
    console.put(str(output))


@app.command()
def diff(
    dataset: Folder,
    corrected: Annotated[Path, typer.Argument(help="The same, corrected: what `pull` wrote.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A picture of the biggest changes.")
    ] = None,
) -> None:
    """Count what people changed, by class and by what proposed it: the work left to a person."""
    from annotate import changes, console, corrections, folder

    before, after = folder.load(dataset), folder.load(corrected)
    found = corrections.changes(before, after)
    console.frame(corrections.table(found))
    if output is not None:
        changes.save(changes.draw(before, after, found), output)
        console.put(str(output))
