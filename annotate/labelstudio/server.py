"""Install, start and stop a local Label Studio server.

The server has its own virtual environment, because it pins packages that the toolkit needs in
other versions. It binds to loopback only, is closed to other users, and keeps all its data in one
folder.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from annotate.errors import StudioError
from annotate.files import user_data_dir
from annotate.labelstudio.client import StudioClient, read_token

LABEL_STUDIO_VERSION = "1.23.2"
BINARY_VARIABLE = "LABEL_STUDIO_BIN"  # the environment's name for a label-studio of one's own
_MAX_ERROR_CHARS = 400  # letters of why an installation failed
_REQUIREMENT = f"label-studio=={LABEL_STUDIO_VERSION}"


def environment_dir() -> Path:
    """Where the environment is, or will be."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "annotate" / f"label-studio-{LABEL_STUDIO_VERSION}"


def ensure_program(notify: Callable[[str], None] = lambda line: None) -> Path:
    """The server's program; its environment is made on first use, by uv where there is one.

    Raises:
        StudioError: it cannot be installed: says why.
    """
    from filelock import FileLock

    if given := os.environ.get(BINARY_VARIABLE):
        if not Path(given).is_file():
            raise StudioError(f"{BINARY_VARIABLE}={given}: there is no such program")
        return Path(given)
    place = environment_dir()
    program, ready = place / "bin" / "label-studio", place / "ready"
    if ready.exists():
        return program
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(place.name + ".lock")):
        if not ready.exists():
            notify(f"installing {_REQUIREMENT} into {place}: about 1 GB and some minutes, once")
            _install(place)
            ready.touch()
    return program


def _install(target: Path) -> None:
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
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(target, ignore_errors=True)
            why = " ".join((done.stderr or done.stdout).split())[-_MAX_ERROR_CHARS:]
            raise StudioError(
                f"Label Studio cannot be installed: {' '.join(step)}: {why}; or install "
                f"it yourself (uv tool install {_REQUIREMENT}) and set {BINARY_VARIABLE} to its program"
            )


_PORT_RANGE = range(8080, 8180)
_START_TIMEOUT_SECONDS = 600.0  # a first start migrates its database: 45 s, more on a busy machine
_EMAIL = "me@localhost.localdomain"


@dataclass(frozen=True)
class LocalStudio:
    """A server of one's own: where it answers, how a person logs in, and its folder."""

    url: str
    email: str
    password: str
    token: str
    data_dir: Path
    pid: int

    @property
    def document_root(self) -> Path:
        """The folder of the files that it serves, and nothing above it."""
        return self.data_dir / "files"

    def client(self) -> StudioClient:
        """A client of it."""
        return StudioClient(self.url, self.token, self.document_root)


def default_data_dir() -> Path:
    """Where a server keeps its things unless it is told otherwise."""
    return user_data_dir() / "studio"


def _state_file() -> Path:
    """The file that says which server of ours runs."""
    return user_data_dir() / "studio.json"


def find_running() -> LocalStudio | None:
    """The server of one's own that runs, if one does."""
    try:
        told = json.loads(_state_file().read_text(encoding="utf-8"))
        data = Path(told["data"])
        login = json.loads((data / "login.json").read_text(encoding="utf-8"))
        found = LocalStudio(told["url"], **login, data_dir=data, pid=told["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if _is_label_studio(found.pid) else None


def _is_label_studio(pid: int) -> bool:
    """Whether the process is a Label Studio: numbers of processes are given again."""
    told = subprocess.run(
        ["ps", "-ww", "-p", str(pid), "-o", "args="], capture_output=True, text=True, check=False
    )
    return "label-studio" in told.stdout


def connect(url: str | None = None, token_file: Path | None = None) -> StudioClient:
    """The server at `url` with the token of the file or the environment; without, one's own.

    Raises:
        StudioError: none runs, or there is no token for it.
    """
    own = find_running()
    if own is not None and url in (None, own.url) and token_file is None:
        return own.client()
    if url is None:
        raise StudioError("no Label Studio of yours runs; `annotate studio up`, or give --url")
    return StudioClient(url, read_token(token_file))


def up(
    data_dir: Path | None = None, notify: Callable[[str], None] = lambda line: None
) -> LocalStudio:
    """Start a server, or find the one that runs, and wait until it answers.

    Raises:
        StudioError: another one runs, it cannot be installed, or it does not come up.
    """
    data_dir = (data_dir or default_data_dir()).absolute()
    there = find_running()
    if there is not None:
        if there.data_dir != data_dir:
            raise StudioError(
                f"one runs already, of {there.data_dir}, at {there.url}; `annotate studio down` first"
            )
        wait_until_ready(there, None)
        return there
    program = ensure_program(notify)
    if not (data_dir / "label_studio.sqlite3").exists():
        notify("starting Label Studio for the first time: about a minute")
    studio, process = launch(program, data_dir)
    _state_file().parent.mkdir(parents=True, exist_ok=True)
    _write_secret(
        _state_file(), {"url": studio.url, "data": str(studio.data_dir), "pid": studio.pid}
    )
    wait_until_ready(studio, process)
    process.returncode = 0  # it outlives us, and is not waited for
    return studio


def launch(
    program: Path, data_dir: Path, port: int | None = None
) -> tuple[LocalStudio, subprocess.Popen[bytes]]:
    """Start the program with its things in `data`, on a free port; it may not answer yet."""
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o700)  # its database keeps tokens in clear text
    (data_dir / "files").mkdir(exist_ok=True)
    (data_dir / "tmp").mkdir(exist_ok=True)
    login = _load_login(data_dir / "login.json")
    port = port or _free_port()
    command = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1"]
    with (data_dir / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env=_environment(program, data_dir, login),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return LocalStudio(
        f"http://127.0.0.1:{port}", **login, data_dir=data_dir, pid=process.pid
    ), process


def _environment(program: Path, data_dir: Path, login: dict[str, str]) -> dict[str, str]:
    """The server's environment: nothing of ours, safe settings, the token hidden from `ps`."""
    return {
        "PATH": f"{program.parent}:/usr/bin:/bin",
        "HOME": str(data_dir),
        "TMPDIR": str(data_dir / "tmp"),  # each export that it zips stays there
        "LANG": "C.UTF-8",
        "LABEL_STUDIO_BASE_DATA_DIR": str(data_dir),
        "LABEL_STUDIO_USERNAME": login["email"],
        "LABEL_STUDIO_PASSWORD": login["password"],
        "LABEL_STUDIO_USER_TOKEN": login["token"],
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(data_dir / "files"),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LOG_LEVEL": "WARNING",
    }


def _load_login(file: Path) -> dict[str, str]:
    if file.exists():
        kept: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        return kept
    login = {
        "email": _EMAIL,
        "password": secrets.token_urlsafe(12),
        "token": secrets.token_hex(20),
    }
    _write_secret(file, login)
    return login


def _write_secret(file: Path, record: object) -> None:
    draft = file.with_name(file.name + ".part")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(record, out)
    draft.replace(file)


def _free_port() -> int:
    """The first free port: a busy one would be replaced by the next without a word."""
    for port in _PORT_RANGE:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise StudioError(f"no port is free from {_PORT_RANGE.start} to {_PORT_RANGE.stop - 1}")


def wait_until_ready(studio: LocalStudio, process: subprocess.Popen[bytes] | None) -> None:
    """Wait until it answers to our own token: another server may have taken the port.

    Raises:
        StudioError: it ends, or does not answer; gives the last line of its log.
    """
    end = time.monotonic() + _START_TIMEOUT_SECONDS
    with studio.client() as server:
        while time.monotonic() < end and (process is None or process.poll() is None):
            try:
                server.send("GET", "/api/current-user/whoami")
                return
            except StudioError:
                time.sleep(0.3)
    log = (studio.data_dir / "server.log").read_text(errors="replace").splitlines()
    raise StudioError(
        f"Label Studio does not answer at {studio.url}: {' '.join(log[-1:])}; "
        f"see {studio.data_dir / 'server.log'}"
    )


def down() -> LocalStudio:
    """End the server of one's own.

    Raises:
        StudioError: none runs.
    """
    studio = find_running()
    if studio is None:
        raise StudioError("no Label Studio of yours runs")
    stop_process(studio.pid)
    _state_file().unlink(missing_ok=True)
    return studio


def stop_process(pid: int, timeout_seconds: float = 15.0) -> None:
    """Ask a server's processes to end, and wait until it has."""
    os.killpg(pid, signal.SIGTERM)
    end = time.monotonic() + timeout_seconds
    while time.monotonic() < end:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:  # started by another process of ours
            if not _is_label_studio(pid):
                return
        time.sleep(0.1)
    os.killpg(pid, signal.SIGKILL)
