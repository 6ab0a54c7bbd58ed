"""The documentation: its Python examples run, its commands exist, and the site builds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import typer
from sample_data import CLIPS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(language, pages=PAGES):
    """(page, text) of each fenced block of a language."""
    for page in pages:
        for name, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if name == language:
                yield page, text


def my_detector(image):
    """The detector of one's own that the examples call."""
    return sv.Detections(np.array([[1.0, 2, 30, 40]]), class_id=np.array([0]))


PYTHON_PAGES = sorted({page for page, text in blocks("python") if "import annotate" in text})


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory):
    """The first 6 frames of the bundled clip: the examples read up to frame 5."""
    from annotate.video.reader import frames
    from annotate.video.writer import VideoWriter

    path = tmp_path_factory.mktemp("clip") / "dock.mp4"
    with VideoWriter(path, 35, (800, 600)) as writer:
        for frame in frames(CLIPS / "demo.mp4", stop=6):
            writer.write(frame.image)
    return path


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.stem)
def test_the_python_examples_of_a_page_run_from_top_to_bottom(page, short_clip):
    header, first_point, *_ = (CLIPS / "demo.points.csv").read_text().splitlines()
    Path("points.csv").write_text(f"{header}\n{first_point}\n")  # one object takes a third of three
    for _, text in blocks("python", [page]):
        shutil.copy(short_clip, "dock.mp4")
        exec(compile(text, str(page), "exec"), {"my_detector": my_detector})


def command_lines():
    """(page, words) of each `annotate ...` in the console blocks, continuation lines joined."""
    pages = [page for page in PAGES if page.name != "commands.md"]  # that one is generated
    for language in ("console", "bash"):
        for page, text in blocks(language, pages):
            for line in text.replace("\\\n", " ").splitlines():
                for part in line.removeprefix("$ ").split("&&"):
                    words = shlex.split(part, comments=True)
                    if words and words[0] == "annotate":
                        yield page, words[1:]


COMMAND_LINES = list(command_lines())


@pytest.mark.parametrize(
    "page, words", COMMAND_LINES, ids=lambda value: getattr(value, "stem", None)
)
def test_commands_in_the_documentation_exist(page, words):
    from annotate.cli.app import app

    if words and words[0] in ("COMMAND", "[OPTIONS]"):
        return
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"{page.name}: no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    for word in words:
        if word.startswith("-") and word != "-" and word not in ("--help", "-h"):
            flag = word.partition("=")[0]
            assert flag in known, f"{page.name}: annotate {command.name} has no option {flag}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """A broken link, and a public name that mkdocstrings cannot document, fail the build."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "reference" / "python.html").read_text(encoding="utf-8")
    assert "annotate.api.stages.propagate" in page
