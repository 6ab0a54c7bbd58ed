"""Commands about Label Studio: run a server; push, pull and diff datasets."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate.cli.options import Force, FrameList, VideoPaths, clip_paths

if TYPE_CHECKING:
    from annotate.labelstudio.sync import PushReport

app = typer.Typer()
studio_app = typer.Typer(help="Start, stop and check a local Label Studio.", no_args_is_help=True)


class TaskKind(enum.StrEnum):
    """What a task shows."""

    frames = "frames"
    video = "video"


TaskKindOption = Annotated[
    TaskKind, typer.Option("--as", help="What a task shows: a frame, or a video with its tracks.")
]
DatasetFolder = Annotated[Path, typer.Argument(help="A dataset's folder.")]
ProjectName = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="NAME|ID",
        help="Title or number of the project; default: the one of this dataset.",
    ),
]
ServerUrl = Annotated[
    str | None, typer.Option(help="URL of another server, such as http://127.0.0.1:8080.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="File with its token, mode 0600; default: $LABEL_STUDIO_API_KEY."),
]


@studio_app.command()
def up(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder for its data; default: ~/.local/share/annotate/studio."),
    ] = None,
) -> None:
    """Start a local Label Studio.

    The first start installs it in an environment of its own.
    """
    from annotate.cli import console
    from annotate.labelstudio import server as labelstudio_server

    server = labelstudio_server.up(data, console.print_status)
    console.print_status(f"log in as {server.email} with the password {server.password}")
    console.print_result(server.url)


@studio_app.command()
def down() -> None:
    """Stop the local Label Studio; its data stays."""
    from annotate.cli import console
    from annotate.labelstudio import server as labelstudio_server

    console.print_result(str(labelstudio_server.down().data_dir))


@studio_app.command()
def doctor(
    dataset: Annotated[
        Path | None, typer.Argument(help="A dataset that was pushed: its project is checked, too.")
    ] = None,
    project: ProjectName = None,
    url: ServerUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Check a Label Studio.

    Print a line for each check, with what to do if it fails.
    """
    from annotate.cli import console
    from annotate.dataset.folder import load_dataset
    from annotate.labelstudio import server as labelstudio_server
    from annotate.labelstudio.doctor import run_checks

    loaded = None if dataset is None else load_dataset(dataset)
    with labelstudio_server.connect(url, token_file) as server:
        checks = run_checks(server, loaded, project)
    rows = [(check.subject, check.finding, check.cure or "ok") for check in checks]
    console.print_table(("check", "result", "what to do"), rows)
    if any(check.cure for check in checks):
        raise typer.Exit(1)


@app.command()
def push(
    dataset: DatasetFolder,
    project: ProjectName = None,
    task_kind: TaskKindOption = TaskKind.frames,
    polygons: Annotated[
        bool,
        typer.Option("--polygons", help="Send masks as polygons, where polygons are exact."),
    ] = False,
    transcode: Annotated[
        bool,
        typer.Option(
            "--transcode",
            help="Send a re-encoded copy of a clip that browsers cannot show exactly.",
        ),
    ] = False,
    frame_list: FrameList = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--class", help="Take only frames with an object of it; repeatable."),
    ] = None,
    model_version: Annotated[
        str | None,
        typer.Option(
            help="Name of the model in Label Studio, which shows the boxes of one name only."
        ),
    ] = None,
    videos: VideoPaths = None,
    url: ServerUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Push a dataset to Label Studio.

    Later pushes send only what changed. With --frames, a tab lists the frames by their rank.
    """
    from annotate.active_learning.frame_list import read_ranks
    from annotate.cli import console
    from annotate.dataset.folder import load_dataset
    from annotate.labelstudio import server as labelstudio_server
    from annotate.labelstudio import video
    from annotate.labelstudio.push import push_dataset as push_frames
    from annotate.labelstudio.tasks import PushPart

    if task_kind is TaskKind.video and (frame_list or labels or model_version):
        raise typer.BadParameter("--frames, --class and --model-version need --as frames")
    part = PushPart(None if frame_list is None else read_ranks(frame_list), labels or None)
    loaded = load_dataset(dataset)
    with (
        labelstudio_server.connect(url, token_file) as server,
        console.progress(
            "push", len(loaded) if task_kind is TaskKind.frames else None, task_kind
        ) as advance,
    ):
        if task_kind is TaskKind.frames:
            named = {} if model_version is None else {"model_version": model_version}
            report = push_frames(
                loaded,
                server,
                project=project,
                polygons=polygons,
                part=part,
                progress=advance,
                **named,
            )
        else:
            report = video.push_clips(
                loaded,
                server,
                project=project,
                videos=clip_paths(videos),
                transcode=transcode,
                progress=advance,
            )
    _print_push(report, dataset, task_kind)


def _print_push(report: "PushReport", dataset: Path, task_kind: TaskKind) -> None:
    from annotate.cli import console
    from annotate.labelstudio.push import record_push

    if report.added_classes:
        console.print_status(f"classes added to the project: {', '.join(report.added_classes)}")
    console.print_note_lines(report.notes)
    if (before := record_push(report.project, dataset)) is not None:
        console.print_status(f"the project also has frames of {before}, pushed before")
    console.print_table((task_kind, "count"), sorted(report.frame_counts.items()))
    console.print_result(report.project_url)


@app.command()
def pull(
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Folder for the corrected dataset; with --as video, a file."
        ),
    ],
    dataset: Annotated[
        Path | None, typer.Argument(help="The dataset that was pushed; default: that of --project.")
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
    """Pull corrections from Label Studio.

    What people did not change stays as it was, bit by bit.
    """
    from annotate.cli import console
    from annotate.dataset.folder import load_dataset
    from annotate.labelstudio import server as labelstudio_server
    from annotate.labelstudio import video
    from annotate.labelstudio.pull import pull_dataset as pull_frames
    from annotate.labelstudio.push import find_pushed_dataset

    if since not in (None, "last"):
        raise typer.BadParameter(f"must be last, got {since!r}", param_hint="--since")
    if since is not None and task_kind is TaskKind.video:
        raise typer.BadParameter("only frames can be pulled since the last", param_hint="--since")
    if dataset is None and project is None:
        raise typer.BadParameter("give the dataset, or --project", param_hint="dataset")
    with (
        labelstudio_server.connect(url, token_file) as server,
        console.progress("pull", None) as advance,
    ):
        if dataset is None:
            dataset = find_pushed_dataset(server.require_project(project or ""))
        loaded = load_dataset(dataset)
        options: dict[str, Any] = {"project": project, "force": force}
        if task_kind is TaskKind.frames:
            last = since is not None
            report = pull_frames(
                loaded, server, output, since_last=last, progress=advance, **options
            )
        else:
            report = video.pull_clips(loaded, server, output, videos=clip_paths(videos), **options)
    console.print_note_lines(report.lines())
    if report.added_classes:
        console.print_status(f"classes added to the dataset: {', '.join(report.added_classes)}")
    if report.clip_counts:
        console.print_table(("clips", "count"), sorted(report.clip_counts.items()))
    console.print_table(("frames", "count"), sorted(report.frame_counts.items()))
    console.print_result(str(output))


@app.command()
def diff(
    dataset: DatasetFolder,
    corrected: Annotated[
        Path, typer.Argument(help="The corrected dataset that `annotate pull` wrote.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="PNG file for a sheet of the largest changes."),
    ] = None,
    force: Force = False,
) -> None:
    """Count the corrections of a dataset.

    Count by class and by detector what people had to change.
    """
    from annotate.cli import console
    from annotate.dataset.diff import (
        count_common_frames,
        count_touches,
        diff_datasets,
        summarize,
    )
    from annotate.dataset.folder import load_dataset
    from annotate.files import refuse_existing
    from annotate.progress import counted
    from annotate.video.images import save_image
    from annotate.viewing import review

    if output is not None:
        refuse_existing(output, force)
    before, after = load_dataset(dataset), load_dataset(corrected)
    changes = diff_datasets(before, after)
    console.print_dataframe(summarize(changes))
    frames = count_common_frames(before, after)
    touches = count_touches(changes, frames, len(after.classes))
    console.print_status(f"{touches} touches on {counted(frames, 'frame')}")
    if output is not None:
        save_image(review.draw_changes(before, after, changes), output)
        console.print_result(str(output))
