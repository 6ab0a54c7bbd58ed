"""The command line: parse, call one function, show progress, print."""

import typer

from annotate import (
    commands_about,
    commands_ask,
    commands_clip,
    commands_compare,
    commands_dataset,
    commands_find,
    commands_frames,
    commands_map,
    commands_models,
    commands_scenes,
    commands_studio,
)

app = typer.Typer(
    name="annotate",
    help="A gameplay clip goes in, a labelled dataset comes out; local models do the work.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for family in (
    commands_frames,
    commands_clip,
    commands_ask,
    commands_dataset,
    commands_compare,
    commands_find,
    commands_map,
    commands_studio,
    commands_about,
):
    app.add_typer(family.app)
app.add_typer(commands_models.app, name="models")
app.add_typer(commands_scenes.app, name="scenes")
app.add_typer(commands_studio.studio_app, name="studio")
