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
from annotate.files import atomic_file, cache_dir, user_data_dir
from annotate.labelstudio.client import StudioClient, read_token

LABEL_STUDIO_VERSION = "1.23.2"
BINARY_VARIABLE = "LABEL_STUDIO_BIN"  # environment variable: the path of your own label-studio
_MAX_ERROR_CHARS = 400
_REQUIREMENT = f"label-studio=={LABEL_STUDIO_VERSION}"
_PORT_RANGE = range(8080, 8180)
_START_TIMEOUT_SECONDS = 600.0  # a first start migrates its database: 45 s, more on a busy machine
_EMAIL = "me@localhost.localdomain"


def environment_dir() -> Path:
    """Return the folder of the virtual environment, which may not be there yet."""
    return cache_dir() / f"label-studio-{LABEL_STUDIO_VERSION}"


def ensure_program(notify: Callable[[str], None] = lambda line: None) -> Path:
    """Return the path of the server's program, which is installed on first use.

    Raises:
        StudioError: the program cannot be installed: names the reason.
    """
    from filelock import FileLock

    if given := os.environ.get(BINARY_VARIABLE):
        if not Path(given).is_file():
            raise StudioError(f"{BINARY_VARIABLE}={given}: no such program")
        return Path(given)
    folder = environment_dir()
    program, ready = folder / "bin" / "label-studio", folder / "ready"
    if ready.exists():
        return program
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not ready.exists():
            notify(f"installing {_REQUIREMENT} into {folder}: about 1 GB, some minutes, only once")
            _install(folder)
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
        completed = subprocess.run(step, capture_output=True, text=True, check=False)
        if completed.returncode:
            shutil.rmtree(target, ignore_errors=True)
            reason = " ".join((completed.stderr or completed.stdout).split())[-_MAX_ERROR_CHARS:]
            raise StudioError(
                f"Label Studio cannot be installed: {' '.join(step)}: {reason}; or install it "
                f"yourself (uv tool install {_REQUIREMENT}), and set {BINARY_VARIABLE} to its path"
            )


@dataclass(frozen=True)
class LocalStudio:
    """A local server of the user: its address, login, token, data folder and process id."""

    url: str
    email: str
    password: str
    token: str
    data_dir: Path
    pid: int

    @property
    def document_root(self) -> Path:
        """The folder of the files that it serves."""
        return self.data_dir / "files"

    def client(self) -> StudioClient:
        """Return a client of the server."""
        return StudioClient(self.url, self.token, self.document_root)


def default_data_dir() -> Path:
    """Return the default data folder of a local server."""
    return user_data_dir() / "studio"


def _state_file() -> Path:
    """Return the path of the file that describes the running server."""
    return user_data_dir() / "studio.json"


def find_running() -> LocalStudio | None:
    """Find the running local server of this user, if there is one."""
    try:
        record = json.loads(_state_file().read_text(encoding="utf-8"))
        data_dir = Path(record["data"])
        login = json.loads((data_dir / "login.json").read_text(encoding="utf-8"))
        studio = LocalStudio(record["url"], **login, data_dir=data_dir, pid=record["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return studio if _is_label_studio(studio.pid) else None


def _is_label_studio(pid: int) -> bool:
    """Return whether the process is a Label Studio: process ids are reused."""
    listing = subprocess.run(
        ["ps", "-ww", "-p", str(pid), "-o", "args="], capture_output=True, text=True, check=False
    )
    return "label-studio" in listing.stdout


def connect(url: str | None = None, token_file: Path | None = None) -> StudioClient:
    """Connect to the server at `url`; without `url`, to the running local server of the user.

    The token is that of `token_file`, of the local server, or of the environment.

    Raises:
        StudioError: no server runs, or there is no token for it.
    """
    local = find_running()
    if local is not None and url in (None, local.url) and token_file is None:
        return local.client()
    if url is None:
        raise StudioError(
            "no local Label Studio is running; run `annotate studio up`, or give `url`"
        )
    return StudioClient(url, read_token(token_file))


def up(
    data_dir: Path | None = None, notify: Callable[[str], None] = lambda line: None
) -> LocalStudio:
    """Start the local server, or find the running one, and wait until it answers.

    Raises:
        StudioError: a server of another folder runs, or it cannot be installed or started.
    """
    data_dir = (data_dir or default_data_dir()).absolute()
    running = find_running()
    if running is not None:
        if running.data_dir != data_dir:
            raise StudioError(
                f"a server of {running.data_dir} already runs at {running.url}; "
                "run `annotate studio down` first"
            )
        wait_until_ready(running, None)
        return running
    program = ensure_program(notify)
    if not (data_dir / "label_studio.sqlite3").exists():
        notify("starting Label Studio for the first time: about a minute")
    studio, process = launch(program, data_dir)
    record = {"url": studio.url, "data": str(studio.data_dir), "pid": studio.pid}
    _write_secret(_state_file(), record)
    wait_until_ready(studio, process)
    process.returncode = 0  # the server outlives this process; do not wait for it
    return studio


def launch(
    program: Path, data_dir: Path, port: int | None = None
) -> tuple[LocalStudio, subprocess.Popen[bytes]]:
    """Start the program with the data folder `data_dir`, on a free port, without waiting for it."""
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
    url = f"http://127.0.0.1:{port}"
    return LocalStudio(url, **login, data_dir=data_dir, pid=process.pid), process


def _environment(program: Path, data_dir: Path, login: dict[str, str]) -> dict[str, str]:
    """Make the environment variables of the server: safe settings, and a token hidden from `ps`."""
    return {
        "PATH": f"{program.parent}:/usr/bin:/bin",
        "HOME": str(data_dir),
        "TMPDIR": str(data_dir / "tmp"),  # the server leaves the zip of each export there
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
        saved: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        return saved
    login = {
        "email": _EMAIL,
        "password": secrets.token_urlsafe(12),
        "token": secrets.token_hex(20),
    }
    _write_secret(file, login)
    return login


def _write_secret(file: Path, record: object) -> None:
    with atomic_file(file, parents=True, mode=0o600) as draft:
        draft.write_text(json.dumps(record), encoding="utf-8")


def _free_port() -> int:
    """Find the first free port; of a busy one, Label Studio would silently take the next."""
    for port in _PORT_RANGE:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise StudioError(
        f"no port from {_PORT_RANGE.start} to {_PORT_RANGE.stop - 1} is free; stop a server"
    )


def wait_until_ready(studio: LocalStudio, process: subprocess.Popen[bytes] | None) -> None:
    """Wait until the server accepts its own token: another server may have taken the port.

    Raises:
        StudioError: the server ends, or does not answer: gives the last line of its log.
    """
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    with studio.client() as client:
        while time.monotonic() < deadline and (process is None or process.poll() is None):
            try:
                client.send("GET", "/api/current-user/whoami")
                return
            except StudioError:
                time.sleep(0.3)
    log = (studio.data_dir / "server.log").read_text(errors="replace").splitlines()
    raise StudioError(
        f"Label Studio does not answer at {studio.url}: {' '.join(log[-1:])}; "
        f"see {studio.data_dir / 'server.log'}"
    )


def down() -> LocalStudio:
    """Stop the running local server of the user.

    Raises:
        StudioError: no server runs.
    """
    studio = find_running()
    if studio is None:
        raise StudioError("no local Label Studio is running")
    stop_process(studio.pid)
    _state_file().unlink(missing_ok=True)
    return studio


def stop_process(pid: int, timeout_seconds: float = 15.0) -> None:
    """Ask the processes of a server to end, and wait; kill them after the timeout."""
    os.killpg(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:  # not a child of this process
            if not _is_label_studio(pid):
                return
        time.sleep(0.1)
    os.killpg(pid, signal.SIGKILL)
