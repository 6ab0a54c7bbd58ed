"""A local server that is killed, started twice, moved to another port, or on a full disk."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from labelstudio_fixtures import boxed, make_dataset, migrated, submit_all

from annotate.errors import OutputError, StudioError
from annotate.labelstudio import install, sync
from annotate.labelstudio import server as local
from annotate.labelstudio.client import TOKEN_VARIABLE
from annotate.labelstudio.pull import pull_dataset
from annotate.labelstudio.push import push_dataset

pytestmark = [pytest.mark.timeout(900), pytest.mark.studio]


@pytest.fixture
def own(program, tmp_path, monkeypatch):
    """A migrated data folder of this test's user, whose servers are stopped at the end."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("LABEL_STUDIO_BIN", str(program))
    shutil.copytree(migrated(program), local.default_data_dir())
    yield local.default_data_dir()
    if local.find_running() is not None:
        local.down()


def bind(listener, port):
    """Bind a socket to a port that a dying process may still hold."""
    while True:
        try:
            return listener.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


def up_twice():
    """Start the server in two threads at once; return it and the notices."""
    found, notices = [], []
    starts = [
        threading.Thread(target=lambda: found.append(local.up(notify=notices.append)))
        for _ in range(2)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert found[0] == found[1] == local.find_running()
    return found[0], notices


def test_up_twice_after_a_kill_and_at_a_busy_port(own, tmp_path, monkeypatch):
    """The server keeps its port; when the port is taken, tokens and projects are still found."""
    first, notices = up_twice()
    assert notices.count("another `annotate studio up` is under way: waiting for it") == 1
    with first.client() as client:
        dataset = make_dataset(tmp_path / "kept", [[boxed()]])
        project = push_dataset(dataset, client).project.id
        submit_all(client, project)
        pull_dataset(dataset, client, tmp_path / "out")
        assert not [*(own / "export").glob("project-*")]
        doomed = push_dataset(dataset, client, project="to be deleted").project.id
        client.send("DELETE", f"/api/projects/{doomed}/")
    os.killpg(first.pid, signal.SIGKILL)  # stays in the list of processes: nobody waits for it
    while local.find_running() is not None:
        pass

    (own / "server.log").write_bytes(b"line\n" * 2_000_000)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bind(taken, int(first.url.rpartition(":")[2]))
        taken.listen()
        second = local.up()
        assert second.url != first.url
    assert (own / "server.log").stat().st_size < 1_000_000
    assert (own / "files" / f"project-{project}").exists()
    assert not (own / "files" / f"project-{doomed}").exists()
    port = second.url.rpartition(":")[2]
    for url in (None, f"http://localhost:{port}", f"http://127.0.0.1:{port}/"):
        with local.connect(url) as client:
            last = pull_dataset(dataset, client, tmp_path / "out", since_last=True)
            assert last.frame_counts in ({"submitted": 1}, {"as before": 1})
    token = tmp_path / "token"
    token.write_text(second.token)
    token.chmod(0o600)
    with local.connect(token_file=token) as client:
        assert (client.url, client.document_root) == (second.url, second.document_root)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(StudioError, match=f"no token: .*the local Label Studio is at {second.url}"):
        local.connect(first.url)
    local.down()
    assert (own / "port").read_text() == port


def test_a_server_that_ends_during_a_start_is_an_error_at_once(own, tmp_path, monkeypatch):
    program = tmp_path / "label-studio"
    program.write_text("#!/bin/sh\necho the database is damaged\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("LABEL_STUDIO_BIN", str(program))
    with pytest.raises(StudioError, match="does not answer at .*: the database is damaged; see"):
        local.up()
    assert local.find_running() is None


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line(own, tmp_path, monkeypatch, server):
    dataset = make_dataset(tmp_path / "full", [[boxed()]])
    with monkeypatch.context() as patch:
        patch.setattr(sync, "link_or_copy", full_disk)
        with pytest.raises(OutputError, match="cannot write there: No space left on device"):
            push_dataset(dataset, server)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.mkdir", full_disk)
        with pytest.raises(OutputError, match="cannot write there: No space left on device"):
            local.up()
    assert push_dataset(dataset, server).frame_counts == {"new": 1}


INSTALLER = """
import sys, time
print("installing", flush=True)
open(sys.argv[1], "w").write(str(__import__("os").getpid()))
time.sleep(600)
"""

CALLER = """
import os, sys
from annotate.labelstudio import install
with install.lock_file(install.Path(sys.argv[1]), print) as lock:
    install._run_step([sys.executable, "-c", sys.argv[2], sys.argv[3]], lock)
"""


def test_an_installation_ends_with_the_command_that_began_it(tmp_path):
    """The next start waits until the installer of the killed one has ended."""
    lock, started = tmp_path / "a.lock", tmp_path / "started"
    words = [sys.executable, "-c", CALLER, str(lock), INSTALLER, str(started)]
    caller = subprocess.Popen(words)
    while not (started.exists() and started.read_text()):
        assert caller.poll() is None
    installer = int(started.read_text())
    caller.kill()
    caller.wait()
    with install.lock_file(lock, lambda line: None):
        state = subprocess.run(["ps", "-p", str(installer), "-o", "stat="], capture_output=True)
        assert state.stdout.strip()[:1] in (b"", b"Z")


def test_the_reason_of_a_failed_installation_is_its_last_error(monkeypatch, tmp_path):
    printed = "Traceback:\n  File x\nERROR: No matching distribution\n[notice] a new pip\n"
    assert install._error_line(printed) == "ERROR: No matching distribution"
    assert install._error_line("") == "no reason is given"
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LABEL_STUDIO_BIN", raising=False)
    with pytest.raises(StudioError, match="cannot be installed: /bin/false venv .*: no reason"):
        install.ensure_program()
    assert not install.environment_dir().exists()
