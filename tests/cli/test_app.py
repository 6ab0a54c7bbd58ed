"""The help by stage, the old names of commands and options, and the flags in error messages."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from annotate.cli import app as cli_app
from annotate.cli.console import name_flags
from annotate.cli.options import RENAMED_COMMANDS, RENAMED_OPTIONS
from annotate.errors import AnnotateError
from annotate.plugins import FAMILIES, option_fields

GROUP = typer.main.get_command(cli_app.app)
MARK = ("-d", "colour", "-v", "designator.v1")


def flags_of(command):
    return {flag for parameter in GROUP.commands[command].params for flag in parameter.opts}


def test_help_lists_the_commands_by_stage(annotate):
    code, out, _ = annotate("--help")
    assert code == 0
    _, *sections = re.split(r"^(\S.*):$", out[out.index("Look at footage:") :], flags=re.M)
    listed = {
        stage: re.findall(r"^  (\S+)", text, flags=re.M)
        for stage, text in zip(sections[::2], sections[1::2], strict=True)
    }
    assert listed == {stage: names.split() for stage, names in cli_app.STAGES.items()}
    assert list(listed) == list(cli_app.STAGES)


def test_every_command_has_a_stage_and_knows_it():
    assert set(GROUP.commands) == set(cli_app.STAGE_OF)
    for name, command in GROUP.commands.items():
        assert command.rich_help_panel == cli_app.STAGE_OF[name]


def test_no_summary_is_cut_off(annotate):
    _, out, _ = annotate("--help")
    assert "..." not in out.partition("Look at footage:")[2]


PROBE = """
import sys
%s
print({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names, file=sys.stderr)
"""
HELP = """
from annotate.__main__ import main
sys.argv = ["annotate", "--help"]
try:
    main()
except SystemExit:
    pass
"""


def packages_after(code):
    """Run code in a process of its own; returns the names of the packages that it imports."""
    run = subprocess.run([sys.executable, "-c", PROBE % code], capture_output=True, text=True)
    return ast.literal_eval(run.stderr)


def test_help_waits_for_no_package_but_that_of_the_command_line():
    assert packages_after(HELP) <= packages_after("import typer") | {"annotate"}


@pytest.mark.parametrize("old", RENAMED_COMMANDS)
def test_the_old_name_of_a_command_names_the_new(old, annotate):
    code, out, err = annotate(old, "clip.mp4", "-o", "points.csv")
    assert (code, out) == (2, "")
    assert err == f"annotate: annotate {old} was renamed: use annotate {RENAMED_COMMANDS[old]}\n"
    assert RENAMED_COMMANDS[old] in GROUP.commands and old not in GROUP.commands


RENAMED = [
    (command, old, new) for command, names in RENAMED_OPTIONS.items() for old, new in names.items()
]


@pytest.mark.parametrize("command, old, new", RENAMED)
def test_the_old_name_of_an_option_names_the_new(command, old, new, annotate):
    for words in ((old, 1), (f"{old}=1",)):
        code, out, err = annotate(command, *words)
        assert (code, out, err) == (2, "", f"annotate: {old} was renamed: use {new}\n")
    assert old not in flags_of(command)
    assert set(re.findall(r"--[\w-]+", new)) <= flags_of(command)


def test_a_file_may_have_the_name_of_an_old_option(annotate):
    code, _, err = annotate("review", "--", "--max")
    assert code == 1 and "--max" in err and "renamed" not in err


def named(text, command, **params):
    """The text as the user of a command sees it."""
    context = typer.Context(GROUP.commands[command])
    context.params.update(params)
    return name_flags(text, context)


@pytest.mark.parametrize(
    "command, text, shown",
    [
        ("build", "give `force`", "give --force"),
        ("build", "set `min_score` to 0..1", "set --min-score to 0..1"),
        ("build", "give another `output`", "give another -o"),
        ("build", "name it in `videos`", "name it in --video"),
        ("build", "`items` is empty", "ITEMS is empty"),
        ("build", "such as `every=5`", "such as --every 5"),
        ("propagate", "leave out `both`", "leave out --both"),
        ("find", "`references` is empty", "--reference is empty"),
        ("pull", "give its `dataset`", "give its DATASET"),
        ("split", "give `cuts`", "give --cut"),
        ("export", "`annotate build` makes one", "`annotate build` makes one"),
    ],
)
def test_an_argument_in_an_error_becomes_a_flag(command, text, shown):
    assert named(text, command) == shown


@pytest.mark.parametrize(
    "command, params, option",
    [
        ("detect", {"detector": "colour"}, "min_area"),
        ("segment", {"engine": "slic"}, "n_segments"),
        ("propose-points", {}, "endpoint"),
        ("find", {"method": "vlm"}, "model"),
    ],
)
def test_an_option_of_the_plugin_becomes_set(command, params, option):
    assert named(f"give `{option}`", command, **params) == f"give --set {option}=..."


def test_an_option_of_the_plugin_keeps_its_value():
    shown = named("such as `first=colour`", "detect", detector="cascade")
    assert shown == "such as --set first=colour"


def test_an_option_of_another_or_of_no_plugin_stays():
    assert named("give `model`", "detect", detector="colour") == "give `model`"
    assert named("give `model`", "detect", detector="nothing") == "give `model`"
    assert named("give `model`", "find", method="local") == "give `model`"


def test_an_error_of_a_run_names_flags(annotate, demo):
    assert annotate("detect", demo, *MARK, "-o", "b.jsonl", "--stop", 2)[0] == 0
    assert annotate("build", "b.jsonl", "-o", "set")[0] == 0
    code, _, err = annotate("build", "b.jsonl", "-o", "set")
    assert code == 1 and "--force" in err and "`" not in err and err.count("\n") == 1


def test_an_error_of_a_subcommand_names_flags(annotate, tmp_path):
    (tmp_path / "other.db").write_text("no database at all, but a text of some length\n" * 40)
    code, _, err = annotate("scenes", "list", "--db", "other.db")
    assert code == 1 and "`" not in err and err.count("\n") == 1


def cli_names():
    """The names of all parameters of commands and of all options of plugins."""
    groups, names = [GROUP], set()
    while groups:
        for command in groups.pop().commands.values():
            groups += [command] if hasattr(command, "commands") else []
            names |= {parameter.name for parameter in command.params}
    for family in FAMILIES.values():
        for name in family.names():
            names |= set(option_fields(family.plugin_class(name)))
    return names


def test_what_library_texts_name_in_backticks_exists():
    """An option of a command or plugin, or for Python users a name of the same module."""
    wrong, known = [], cli_names()
    for path in sorted(Path(cli_app.__file__).parents[1].rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        local = {node.arg for node in nodes if isinstance(node, ast.arg)}
        local |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        local |= {node.id for node in nodes if isinstance(node, ast.Name)}
        raised = [node for statement in nodes if isinstance(statement, ast.Raise)
                  for node in ast.walk(statement)]  # fmt: skip
        for node in raised:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = re.findall(r"`(\w+)(?:=[^`]*)?`", node.value)
                unknown = {name for name in named if name not in known | local}
                wrong += [f"{path.name}:{node.lineno}: {name}" for name in unknown]
    assert not wrong, "\n".join(wrong)


def test_the_first_error_is_kept_as_the_cause(demo):
    with pytest.raises(AnnotateError) as caught:
        cli_app.app(["build", "nothing.jsonl", "-o", "set"])
    assert isinstance(caught.value.__cause__, AnnotateError)
