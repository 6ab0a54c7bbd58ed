"""The commands of the command line, with their full names."""

import typer


def all_commands():
    """Yield (name, command) of each command; of those in a group with the group's name before."""
    from annotate.cli.app import app

    yield from _walk(typer.main.get_command(app), "")


def _walk(group, before):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _walk(command, f"{before}{name} ")
        else:
            yield before + name, command
