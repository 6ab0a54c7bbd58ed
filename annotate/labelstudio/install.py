"""Install the Label Studio server into a virtual environment of its own.

It pins packages that the toolkit needs in other versions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from annotate.errors import OutputError, StudioError
from annotate.files import cache_dir, check_writable

LABEL_STUDIO_VERSION = "1.23.2"
BINARY_VARIABLE = "LABEL_STUDIO_BIN"  # environment variable: the path of your own label-studio
_MAX_ERROR_CHARS = 400
_REQUIREMENT = f"label-studio=={LABEL_STUDIO_VERSION}"


def environment_dir() -> Path:
    """Return the folder of the virtual environment, which may not be there yet."""
    return cache_dir() / f"label-studio-{LABEL_STUDIO_VERSION}"


@contextmanager
def lock_file(path: Path, notify: Callable[[str], None]) -> Iterator[int]:
    """Hold a lock file while the block runs, and yield its descriptor; wait where it is held.

    A process that inherits the descriptor holds the lock, too, and holds it after this one died.

    Raises:
        OutputError: the lock file cannot be written.
    """
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OutputError(f"{path}: cannot write there: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notify("another `annotate studio up` is under way: waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def ensure_program(notify: Callable[[str], None] = lambda line: None) -> Path:
    """Return the path of the server's program, which is installed on first use.

    Raises:
        StudioError: the program cannot be installed: names the reason.
        OutputError: the disk is full, or the cache folder read-only.
    """
    if given := os.environ.get(BINARY_VARIABLE):
        if not Path(given).is_file():
            raise StudioError(f"{BINARY_VARIABLE}={given}: no such program")
        return Path(given)
    folder = environment_dir()
    program, ready = folder / "bin" / "label-studio", folder / "ready"
    if ready.exists():
        return program
    with lock_file(folder.with_name(folder.name + ".lock"), notify) as lock:
        if not ready.exists():
            check_writable(folder)
            notify(f"installing {_REQUIREMENT} into {folder}: about 1 GB, some minutes, only once")
            _install(folder, lock)
            ready.touch()
    return program


def _install(target: Path, lock: int) -> None:
    """Install the server into a new environment; a killed installation begins again."""
    shutil.rmtree(target, ignore_errors=True)
    python = str(target / "bin" / "python")
    if uv := shutil.which("uv"):
        steps = [
            [uv, "venv", "--quiet", "--python", sys.executable, str(target)],
            [uv, "pip", "install", "--quiet", "--python", python, _REQUIREMENT],
        ]
    else:
        steps = [
            [sys.executable, "-m", "venv", str(target)],
            [python, "-m", "pip", "install", "--quiet", "--no-input", _REQUIREMENT],
        ]
    for step in steps:
        code, printed = _run_step(step, lock)
        if code:
            shutil.rmtree(target, ignore_errors=True)
            raise StudioError(
                f"Label Studio cannot be installed: {' '.join(step)}: {_error_line(printed)}; or "
                f"install it yourself (uv tool install {_REQUIREMENT}), and set {BINARY_VARIABLE} "
                "to its path"
            )


# Runs a command, and ends it when standard input ends, that is, when the caller has died.
_CHILD_OF_CALLER = """
import os, subprocess, sys, threading
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
threading.Thread(target=lambda: (sys.stdin.buffer.read(), process.kill()), daemon=True).start()
code = process.wait()
sys.stdout.flush()
os._exit(code if code >= 0 else 1)
"""


def _run_step(command: list[str], lock: int) -> tuple[int, str]:
    """Run a command that ends with this process; return its exit code and what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD_OF_CALLER, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=[lock],
    )
    assert process.stdout is not None and process.stdin is not None
    with process:
        printed = process.stdout.read()
        code = process.wait()
    return code, printed


def _error_line(printed: str) -> str:
    """Return the last line about an error, or the last line, of what a program printed."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return ([*lines, *errors] or ["no reason is given"])[-1][:_MAX_ERROR_CHARS]
