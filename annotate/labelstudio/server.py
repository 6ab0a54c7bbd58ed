"""Start and stop a local Label Studio server.

It binds to loopback only, is closed to other users, and keeps all its data in one
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
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from annotate.errors import OutputError, StudioError
from annotate.files import atomic_file, check_writable, user_data_dir
from annotate.labelstudio.client import LOOPBACK_HOSTS, StudioClient, read_token
from annotate.labelstudio.install import ensure_program, lock_file

_PORT_RANGE = range(8080, 8180)
_START_TIMEOUT_SECONDS = 600.0  # a first start migrates its database: 45 s, more on a busy machine
_MAX_LOG_BYTES = 5 * 2**20
_MIN_FREE_BYTES = 20 * 2**20  # a disk with less is named as the cause of a failed start
_PORT_FILE = "port"  # in the data folder: the port of the last start
_EMAIL = "me@localhost.localdomain"


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
    """Return whether a Label Studio runs: ids are reused, and a dead process may be listed."""
    listing = subprocess.run(
        ["ps", "-ww", "-p", str(pid), "-o", "stat=,args="],
        capture_output=True,
        text=True,
        check=False,
    )
    state, _, command = listing.stdout.strip().partition(" ")
    return "label-studio" in command and not state.startswith("Z")


def connect(url: str | None = None, token_file: Path | None = None) -> StudioClient:
    """Connect to the server at `url`; without `url`, to the running local server of the user.

    The token is that of `token_file`, of the local server, or of the environment.

    Raises:
        StudioError: no server runs, or there is no token for it.
    """
    local = find_running()
    if local is not None and (url is None or _same_address(url, local.url)):
        limit_log(local.data_dir)
        if token_file is None:
            return local.client()
        return StudioClient(local.url, read_token(token_file), local.document_root)
    if url is None:
        raise StudioError(
            "no local Label Studio is running; run `annotate studio up`, or give `url`"
        )
    try:
        return StudioClient(url, read_token(token_file))
    except StudioError as error:
        if local is None or token_file is not None:
            raise
        raise StudioError(f"{error}; the local Label Studio is at {local.url}") from None


def _same_address(one: str, other: str) -> bool:
    """Return whether two URLs are of the same server; all names of this machine are one."""
    try:
        return _address(one) == _address(other)
    except ValueError:  # not a port
        return False


def _address(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, "localhost" if host in LOOPBACK_HOSTS else host, parts.port or default


def up(
    data_dir: Path | None = None, notify: Callable[[str], None] = lambda line: None
) -> LocalStudio:
    """Start the local server, or find the running one, and wait until it answers.

    A second start at the same time waits for the first.

    Raises:
        StudioError: a server of another folder runs, or it cannot be installed or started.
        OutputError: the disk is full, or the folder read-only.
    """
    data_dir = (data_dir or default_data_dir()).absolute()
    with lock_file(user_data_dir() / "studio.lock", notify):
        running = find_running()
        if running is not None:
            if running.data_dir != data_dir:
                raise StudioError(
                    f"a server of {running.data_dir} already runs at {running.url}; "
                    "run `annotate studio down` first"
                )
            wait_until_ready(running, None)
        else:
            running = _start(data_dir, notify)
    with running.client() as client:
        remove_leftovers(client, running)
    return running


def _start(data_dir: Path, notify: Callable[[str], None]) -> LocalStudio:
    check_writable(data_dir)
    program = ensure_program(notify)
    if not (data_dir / "label_studio.sqlite3").exists():
        notify("starting Label Studio for the first time: about a minute")
    try:
        limit_log(data_dir)
        studio, process = launch(program, data_dir)
    except OSError as error:
        where = error.filename or data_dir
        raise OutputError(f"{where}: cannot write there: {error.strerror or error}") from None
    try:
        record = {"url": studio.url, "data": str(studio.data_dir), "pid": studio.pid}
        _write_secret(_state_file(), record)
        wait_until_ready(studio, process)
    except BaseException:
        stop_process(process.pid)
        raise
    process.returncode = 0  # the server outlives this process; do not wait for it
    return studio


def limit_log(data_dir: Path) -> None:
    """Keep the log of a server small: a long one becomes `server.log.1`."""
    log = data_dir / "server.log"
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        shutil.copyfile(log, log.with_name("server.log.1"))
        os.truncate(log, 0)  # a running server appends to it


def remove_leftovers(client: StudioClient, studio: LocalStudio) -> None:
    """Remove what the server leaves: exports, and the files of projects that were deleted."""
    for folder in ("export", "tmp"):
        for file in (studio.data_dir / folder).glob("project-*"):
            file.unlink(missing_ok=True)
    folders = list(studio.document_root.glob("project-*"))  # listed before the projects
    kept = {f"project-{project}" for project, _ in client.list_titles("")}
    for folder_path in folders:
        if folder_path.name not in kept:
            shutil.rmtree(folder_path, ignore_errors=True)


def launch(
    program: Path, data_dir: Path, port: int | None = None
) -> tuple[LocalStudio, subprocess.Popen[bytes]]:
    """Start the program with the data folder `data_dir`, on a free port, without waiting for it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o700)  # its database keeps tokens in clear text
    (data_dir / "files").mkdir(exist_ok=True)
    (data_dir / "tmp").mkdir(exist_ok=True)
    login = _load_login(data_dir / "login.json")
    port = port or _free_port(_last_port(data_dir))
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
    (data_dir / _PORT_FILE).write_text(str(port), encoding="utf-8")
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


def _last_port(data_dir: Path) -> list[int]:
    """Read the port of the last start, by which links and tabs know the server: one or none."""
    try:
        port = int((data_dir / _PORT_FILE).read_text(encoding="utf-8"))
        return [port] if 0 < port < 1 << 16 else []
    except (OSError, ValueError):
        return []


def _free_port(preferred: list[int]) -> int:
    """Find the first free port; of a busy one, Label Studio would silently take the next."""
    ports: list[int] = [*preferred, *_PORT_RANGE]
    for port in ports:
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
        while time.monotonic() < deadline and _is_running(studio, process):
            try:
                client.send("GET", "/api/current-user/whoami")
                return
            except StudioError:
                time.sleep(0.3)
    log = studio.data_dir / "server.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    full = shutil.disk_usage(studio.data_dir).free < _MIN_FREE_BYTES
    reason = f"the disk of {studio.data_dir} is full" if full else " ".join(lines[-1:])
    raise StudioError(f"Label Studio does not answer at {studio.url}: {reason}; see {log}")


def _is_running(studio: LocalStudio, process: subprocess.Popen[bytes] | None) -> bool:
    return _is_label_studio(studio.pid) if process is None else process.poll() is None


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
    try:
        os.killpg(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
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
