"""Commands about Label Studio: run a server; push, pull and diff datasets."""

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate.cli.options import Force, VideoPaths, clip_paths

app = typer.Typer()
studio_app = typer.Typer(
    help="Label Studio: start one of your own, end it, look what is wrong.", no_args_is_help=True
)


class TaskKind(enum.StrEnum):
    """What a task is."""

    frames = "frames"
    video = "video"


TaskKindOption = Annotated[
    TaskKind, typer.Option("--as", help="A task is a frame, or a whole video of tracks.")
]
DatasetFolder = Annotated[Path, typer.Argument(help="A dataset's folder.")]
ProjectName = Annotated[
    str | None,
    typer.Option("--project", metavar="NAME|ID", help="The project; else named for the folder."),
]
ServerUrl = Annotated[
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
    from annotate.cli import console
    from annotate.labelstudio import server as labelstudio_server

    own = labelstudio_server.up(data, console.print_status)
    console.print_status(f"log in as {own.email} with the password {own.password}")
    console.print_result(own.url)


@studio_app.command()
def down() -> None:
    """End the Label Studio that `up` started; its data stays."""
    from annotate.cli import console
    from annotate.labelstudio import server as labelstudio_server

    console.print_result(str(labelstudio_server.down().data_dir))


@studio_app.command()
def doctor(
    dataset: Annotated[
        Path | None, typer.Argument(help="A dataset that was pushed: its project is looked at too.")
    ] = None,
    project: ProjectName = None,
    url: ServerUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Look at a Label Studio: a line for each thing that must be right, with its cure."""
    from annotate.cli import console
    from annotate.dataset.folder import load_dataset
    from annotate.labelstudio import server as labelstudio_server
    from annotate.labelstudio.doctor import run_checks

    found = None if dataset is None else load_dataset(dataset)
    with labelstudio_server.connect(url, token_file) as server:
        checks = run_checks(server, found, project)
    rows = [(check.subject, check.finding, check.cure or "sound") for check in checks]
    console.print_table(("what", "found", "state"), rows)
    if any(check.cure for check in checks):
        raise typer.Exit(1)


@app.command()
def push(
    dataset: DatasetFolder,
    project: ProjectName = None,
    task_kind: TaskKindOption = TaskKind.frames,
    polygons: Annotated[
        bool,
        typer.Option("--polygons", help="Send masks as outlines, where outlines can say them."),
    ] = False,
    transcode: Annotated[
        bool,
        typer.Option("--transcode", help="Of a clip that cannot be shown exactly, send a copy."),
    ] = False,
    videos: VideoPaths = None,
    url: ServerUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Send a dataset to Label Studio to be corrected; again, only what is new or changed."""
    from annotate.cli import console
    from annotate.dataset.folder import load_dataset
    from annotate.labelstudio import server as labelstudio_server
    from annotate.labelstudio import video
    from annotate.labelstudio.push import push_dataset as push_frames
    from annotate.labelstudio.push import record_push

    found = load_dataset(dataset)
    with (
        labelstudio_server.connect(url, token_file) as server,
        console.progress(
            "push", len(found) if task_kind is TaskKind.frames else None, task_kind
        ) as advance,
    ):
        if task_kind is TaskKind.frames:
            done = push_frames(found, server, project=project, polygons=polygons, progress=advance)
        else:
            at: dict[str, Any] = {"videos": clip_paths(videos), "transcode": transcode}
            done = video.push_clips(found, server, project=project, progress=advance, **at)
    if done.added_classes:
        console.print_status(f"the project got the classes {', '.join(done.added_classes)}")
    record_push(server.url, done.project.id, dataset)
    console.print_table((task_kind, "count"), sorted(done.frame_counts.items()))
    console.print_result(done.project_url)


@app.command()
def pull(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the corrected one; of video, a file.")
    ],
    dataset: Annotated[
        Path | None, typer.Argument(help="What was pushed; without, what --project was made of.")
    ] = None,
    project: ProjectName = None,
    task_kind: TaskKindOption = TaskKind.frames,
    since: Annotated[
        str | None,
        typer.Option(metavar="last", help="last: only what changed since -o was pulled."),
    ] = None,
    videos: VideoPaths = None,
    url: ServerUrl = None,
    token_file: TokenFile = None,
    force: Force = False,
) -> None:
    """Fetch what people have submitted; what they left alone is what it was, to the last bit."""
    from annotate.cli import console
    from annotate.dataset.folder import load_dataset
    from annotate.labelstudio import server as labelstudio_server
    from annotate.labelstudio import video
    from annotate.labelstudio.pull import pull_dataset as pull_frames
    from annotate.labelstudio.push import find_pushed_dataset

    if since not in (None, "last"):
        raise typer.BadParameter(f"only `last` is known, not {since!r}", param_hint="--since")
    if dataset is None and project is None:
        raise typer.BadParameter("give the dataset, or --project", param_hint="dataset")
    with (
        labelstudio_server.connect(url, token_file) as server,
        console.progress("pull", None) as advance,
    ):
        if dataset is None:
            dataset = find_pushed_dataset(server.url, server.require_project(project or "").id)
        found = load_dataset(dataset)
        told: dict[str, Any] = {"project": project, "force": force}
        if task_kind is TaskKind.frames:
            last = since is not None
            done = pull_frames(found, server, output, since_last=last, progress=advance, **told)
        else:
            done = video.pull_clips(found, server, output, videos=clip_paths(videos), **told)
    for name, why in done.notes:
        console.print_status(f"{name}: {why}")
    console.print_table(("frames", "count"), sorted(done.frame_counts.items()))
    console.print_result(str(output))


@app.command()
def diff(
    dataset: DatasetFolder,
    corrected: Annotated[Path, typer.Argument(help="The same, corrected: what `pull` wrote.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A picture of the biggest changes.")
    ] = None,
) -> None:
    """Count what people changed, by class and by what proposed it: the work left to a person."""
    from annotate.cli import console
    from annotate.dataset.diff import diff_datasets, summarize
    from annotate.dataset.folder import load_dataset
    from annotate.viewing import contact_sheet, review

    before, after = load_dataset(dataset), load_dataset(corrected)
    found = diff_datasets(before, after)
    console.print_dataframe(summarize(found))
    if output is not None:
        contact_sheet.save_image(review.draw_changes(before, after, found), output)
        console.print_result(str(output))
