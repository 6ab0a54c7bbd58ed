"""Assemble the command line, and check what is installed."""

import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_name

from annotate import files, plugins
from annotate.cli import clip, compare, dataset, find, frames, models, studio
from annotate.cli import map as map_commands
from annotate.cli.options import (
    RENAMED_COMMANDS,
    Force,
    check_outputs,
    renamed_option,
    repeated_option,
)
from annotate.errors import EXTRAS, AnnotateError

OK, MISSING = "ok", "missing"
USAGE_EXIT_CODE = 2
CheckRow = tuple[str, str, str]


def check_installation() -> list[CheckRow]:
    """List each part of the installation: its name, its state, and what to do about it."""
    return [
        _python_row(),
        *_required_rows(),
        _opencv_row(),
        *(_extra_row(package, extra) for package, extra in EXTRAS.items()),
        *_plugin_rows(),
        _light_weights_row(),
        _ffmpeg_row(),
    ]


def _python_row() -> CheckRow:
    return f"Python {sys.version.split()[0]}", OK, ""


def _required_rows() -> list[CheckRow]:
    names = ["av", "numpy", "supervision", "pycocotools", "pandas", "onnxruntime", "matplotlib"]
    return [_package_row(name, "pip install --force-reinstall annotate-local") for name in names]


def _package_row(name: str, cure: str) -> CheckRow:
    if util.find_spec(name) is None:
        return name, MISSING, cure
    return f"{name} {_package_version(name)}", OK, ""


def _package_version(name: str) -> str:
    dists = metadata.packages_distributions().get(name, [name])
    try:
        return metadata.version(dists[0])
    except metadata.PackageNotFoundError:
        return ""


def _opencv_row() -> CheckRow:
    """Check that one OpenCV is installed: two write their files into the same folder."""
    dists = sorted(set(metadata.packages_distributions().get("cv2", [])))
    if not dists:
        return "cv2", MISSING, "pip install opencv-python-headless"
    if len(dists) > 1:
        cure = f"pip uninstall -y {' '.join(dists)} && pip install opencv-python-headless"
        return f"cv2 from {' and '.join(dists)}", "clash", cure
    return f"{dists[0]} {metadata.version(dists[0])}", OK, ""


def _extra_row(package: str, extra: str) -> CheckRow:
    return _package_row(package, f"pip install 'annotate-local[{extra}]'")


def _plugin_rows() -> list[CheckRow]:
    rows = []
    for family in plugins.FAMILIES.values():
        for name in family.names():
            try:
                family.plugin_class(name)
                rows.append((f"{family.noun} {name}", OK, ""))
            except (ImportError, AttributeError, AnnotateError) as error:
                rows.append(
                    (
                        f"{family.noun} {name}",
                        f"broken: {error}",
                        "reinstall the package that it came with",
                    )
                )
    return rows


def _light_weights_row() -> CheckRow:
    try:
        files.packaged_file("models", "efficientnet-lite0-s16.onnx")
    except AnnotateError as error:
        return "weights of light", MISSING, str(error)
    return "weights of light", OK, "ships with annotate"


def _ffmpeg_row() -> CheckRow:
    if shutil.which("ffmpeg"):
        return "ffmpeg (for benchmarks only)", OK, ""
    return "ffmpeg (for benchmarks only)", MISSING, "install it with your system's packages"


about_app = typer.Typer()


@about_app.command()
def detectors() -> None:
    """List the detectors and their options."""
    _print_plugins("detectors")


@about_app.command()
def propagators() -> None:
    """List the propagation engines.

    Show their options and defaults.
    """
    _print_plugins("propagators")


def _print_plugins(family: str) -> None:
    from annotate import plugins
    from annotate.cli import console

    console.print_table(("name", "what it is", "options"), plugins.FAMILIES[family].rows())


@about_app.command()
def vocabularies() -> None:
    """List the packaged vocabularies.

    Show their classes, and the detectors that they have phrases for.
    """
    from annotate import vocabulary
    from annotate.cli import console

    packaged = [vocabulary.read_vocabulary(name) for name in vocabulary.packaged_vocabularies()]
    rows = [(each.name, ", ".join(each.labels), ", ".join(each.detectors)) for each in packaged]
    console.print_table(("name", "classes", "detectors"), rows)


@about_app.command()
def doctor() -> None:
    """Check the installation.

    Show what is missing, and the command that installs it.
    """
    from annotate.cli import console

    console.print_table(("part", "state", "what to do"), check_installation())


@about_app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path(
        "demo"
    ),
    force: Force = False,
) -> None:
    """Run all stages on the packaged clip.

    Compare the result with its ground truth.
    """
    from annotate.cli import console
    from annotate.cli.demo import run_demo

    console.print_table(
        ("measure", "value"), run_demo(output, force=force, say=console.print_status)
    )


STAGES: Mapping[str, str] = {
    "Look at footage": "frames restore find gallery map poster similar unlike scenes",
    "Propose": "detect segment colours calibrate calibrate-scores propose-points phrases study"
    " compare",
    "Propagate": "propagate review",
    "Dataset": "build split export import draw",
    "Label Studio": "studio push pull diff",
    "Models": "models",
    "About": "detectors propagators vocabularies doctor demo",
}
STAGE_OF = {command: stage for stage, names in STAGES.items() for command in names.split()}


class StageGroup(TyperGroup):
    """The group of all commands: its help lists them by stage, without importing rich."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the commands in the order of `STAGES`; those of no stage come last."""
        order = list(STAGE_OF)
        return sorted(self.commands, key=lambda name: [*order, name].index(name))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section of the help for each stage."""
        width = max(map(len, self.commands)) + 2
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            summary = self.commands[name].get_short_help_str(formatter.width - width - 6)
            panels.setdefault(STAGE_OF.get(name, "Other"), []).append((name.ljust(width), summary))
        for stage, rows in panels.items():
            with formatter.section(stage):
                formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Refuse the old name of a command with a line that names the new one."""
        if args and args[0] in RENAMED_COMMANDS:
            _refuse(f"annotate {args[0]} was renamed: use annotate {RENAMED_COMMANDS[args[0]]}")
        return super().resolve_command(ctx, args)


class StageCommand(TyperCommand):
    """A command: refuses the old names of options, and names its flags in the errors of a run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        if line := renamed_option(self.name or "", args) or repeated_option(self.params, args):
            _refuse(line)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            AnnotateError: as the command, with flags in place of the arguments' names.
        """
        try:
            check_outputs(ctx)
            return super().invoke(ctx)
        except AnnotateError as error:
            from annotate.cli import console

            raise AnnotateError(console.name_flags(str(error), ctx)) from error


def _refuse(line: str) -> NoReturn:
    from annotate.cli import console

    console.print_status(f"annotate: {line}")
    raise typer.Exit(USAGE_EXIT_CODE)


def _assemble(
    top_level: Iterable[typer.Typer], subcommands: Mapping[str, typer.Typer]
) -> typer.Typer:
    main = typer.Typer(
        name="annotate",
        cls=StageGroup,
        help="Make labelled datasets from gameplay clips with local models.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for each in top_level:
        for command in each.registered_commands:
            name = command.name or get_command_name(getattr(command.callback, "__name__", ""))
            command.cls, command.rich_help_panel = StageCommand, STAGE_OF[name]
        main.add_typer(each)
    for name, each in subcommands.items():
        for command in each.registered_commands:
            command.cls = StageCommand
        main.add_typer(each, name=name, rich_help_panel=STAGE_OF[name])
    return main


app = _assemble(
    [
        frames.app,
        clip.app,
        models.app,
        dataset.app,
        compare.app,
        find.app,
        map_commands.app,
        studio.app,
        about_app,
    ],
    {"models": models.models_app, "scenes": find.scenes_app, "studio": studio.studio_app},
)
