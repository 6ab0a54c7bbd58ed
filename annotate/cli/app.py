"""Assemble the command line, and check what is installed."""

import shutil
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Annotated

import typer

from annotate import files, plugins
from annotate.cli import clip, compare, dataset, find, frames, models, studio
from annotate.cli import map as map_commands
from annotate.cli.options import Force
from annotate.errors import EXTRAS, AnnotateError

OK, MISSING = "ok", "missing"
CheckRow = tuple[str, str, str]


def check_installation() -> list[CheckRow]:
    """For each part: its name, its state, and what to do about it."""
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
    """Two OpenCVs write over each other's files in one folder."""
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
                    (f"{family.noun} {name}", f"broken: {error}", "reinstall what it came with")
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
    """List the installed detectors, with their options and defaults."""
    _print_plugins("detectors")


@about_app.command()
def propagators() -> None:
    """List the installed propagation engines, with their options and defaults."""
    _print_plugins("propagators")


def _print_plugins(family: str) -> None:
    from annotate import plugins
    from annotate.cli import console

    console.print_table(("name", "what it is", "options"), plugins.FAMILIES[family].rows())


@about_app.command()
def vocabularies() -> None:
    """List the vocabularies that ship, with their classes and the detectors they speak to."""
    from annotate import vocabulary
    from annotate.cli import console

    words = [vocabulary.read_vocabulary(name) for name in vocabulary.packaged_vocabularies()]
    rows = [(each.name, ", ".join(each.labels), ", ".join(each.detectors)) for each in words]
    console.print_table(("name", "classes", "speaks to"), rows)


@about_app.command()
def doctor() -> None:
    """Say what is installed, what is missing, and the command that gets it."""
    from annotate.cli import console

    console.print_table(("part", "state", "what to do"), check_installation())


@about_app.command()
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for what it makes.")
    ] = Path("demo"),
    force: Force = False,
) -> None:
    """Run the whole way on the clip that ships, and hold the result against its ground truth."""
    from annotate.cli import console
    from annotate.cli.demo import run_demo

    console.print_table(
        ("measure", "value"), run_demo(output, force=force, say=console.print_status)
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
    frames.app,
    clip.app,
    models.app,
    dataset.app,
    compare.app,
    find.app,
    map_commands.app,
    studio.app,
    about_app,
):
    app.add_typer(family)
app.add_typer(models.models_app, name="models")
app.add_typer(find.scenes_app, name="scenes")
app.add_typer(studio.studio_app, name="studio")
