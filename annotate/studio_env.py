"""The environment of a Label Studio server, apart from our own: it pins what we do not want."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from annotate.errors import StudioError

VERSION = "1.23.2"
BINARY = "LABEL_STUDIO_BIN"  # the environment's name for a label-studio of one's own
_TOLD = 400  # letters of why an installation failed
_PACKAGE = f"label-studio=={VERSION}"


def home() -> Path:
    """Where the environment is, or will be."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "annotate" / f"label-studio-{VERSION}"


def binary(say: Callable[[str], None] = lambda line: None) -> Path:
    """The server's program; its environment is made on first use, by uv where there is one.

    Raises:
        StudioError: it cannot be installed: says why.
    """
    from filelock import FileLock

    if given := os.environ.get(BINARY):
        if not Path(given).is_file():
            raise StudioError(f"{BINARY}={given}: there is no such program")
        return Path(given)
    place = home()
    program, ready = place / "bin" / "label-studio", place / "ready"
    if ready.exists():
        return program
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(place.name + ".lock")):
        if not ready.exists():
            say(f"installing {_PACKAGE} into {place}: about 1 GB and some minutes, once")
            _install(place)
            ready.touch()
    return program


def _install(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    python = str(place / "bin" / "python")
    if uv := shutil.which("uv"):
        steps = [
            [uv, "venv", "--quiet", "--python", sys.executable, str(place)],
            [uv, "pip", "install", "--quiet", "--python", python, _PACKAGE],
        ]
    else:
        steps = [
            [sys.executable, "-m", "venv", str(place)],
            [python, "-m", "pip", "install", "--quiet", "--no-input", _PACKAGE],
        ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(place, ignore_errors=True)
            why = " ".join((done.stderr or done.stdout).split())[-_TOLD:]
            raise StudioError(
                f"Label Studio cannot be installed: {' '.join(step)}: {why}; or install "
                f"it yourself (uv tool install {_PACKAGE}) and set {BINARY} to its program"
            )
