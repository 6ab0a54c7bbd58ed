"""Assemble the command line, and the commands about the installation."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_name

from annotate.cli import clip, compare, dataset, find, frames, models, studio, training
from annotate.cli import map as map_commands
from annotate.cli.batch import recipe as batch_recipe
from annotate.cli.batch import results as batch_results
from annotate.cli.options import (
    RENAMED_COMMANDS,
    Force,
    check_outputs,
    renamed_option,
    repeated_option,
)
from annotate.errors import AnnotateError

USAGE_EXIT_CODE = 2


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


@about_app.command()
def trainers() -> None:
    """List the trainers and their options."""
    _print_plugins("trainers")


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

    Show which command works here, what the others miss, and the command that installs it.
    """
    from annotate import installation
    from annotate.cli import console

    console.print_table(("part", "state", "what to do"), installation.check_installation())
    commands = [command for command in STAGE_OF if STAGE_OF[command] != "About"]
    rows = installation.check_commands(commands)
    console.print_table(("command", "state", "missing", "what to do"), rows)


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
    from annotate.api.demo import run_demo
    from annotate.cli import console

    console.print_table(
        ("measure", "value"), run_demo(output, force=force, say=console.print_status)
    )


STAGES: Mapping[str, str] = {
    "Look at footage": "frames restore find gallery map poster similar unlike scenes",
    "Propose": "detect segment colours calibrate calibrate-scores propose-points phrases study"
    " compare score",
    "Propagate": "point propagate review",
    "Dataset": "next build split export import draw",
    "Many clips": "batch run",
    "Label Studio": "studio push pull diff",
    "Train": "train lineage curve",
    "Models": "models",
    "About": "detectors propagators trainers vocabularies doctor demo",
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
        if line := renamed_option(self.name or "", args):
            _refuse(line)
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        if line := repeated_option(given):
            _refuse(line)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            AnnotateError: as the command, with flags in place of the arguments' names.
        """
        from annotate.cli import console

        try:
            check_outputs(ctx)
            with console.command_context(ctx):
                return super().invoke(ctx)
        except AnnotateError as error:
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
        training.app,
        batch_recipe.app,
        studio.app,
        about_app,
    ],
    {
        "batch": batch_results.batch_app,
        "models": models.models_app,
        "scenes": find.scenes_app,
        "studio": studio.studio_app,
    },
)
