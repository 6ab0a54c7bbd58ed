"""A real Label Studio for the tests, a proxy that drops requests, and datasets to push."""

import http.client
import shutil
import socket
import threading
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from annotate.dataset.folder import Dataset, create_dataset, load_dataset
from annotate.errors import StudioError
from annotate.items.records import Header, Item, Object
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.install import ensure_program, environment_dir
from annotate.labelstudio.server import launch, stop_process, wait_until_ready

CACHE = environment_dir()  # read now, because tests have another HOME
INSTALL = "uv tool install label-studio==1.23.2, and LABEL_STUDIO_BIN=$(which label-studio)"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(program, data, port=None):
    running, process = launch(program, data, port or free_port())
    try:
        wait_until_ready(running, process)
    except BaseException:
        stop_process(process.pid)
        raise
    return running, process


def migrated(program):
    """Make a data folder with an empty database of this version, once; tests copy it."""
    ready = CACHE.with_name(CACHE.name + "-migrated")
    with FileLock(ready.with_name(ready.name + ".lock")):
        if not ready.exists():
            draft = ready.with_name(ready.name + ".part")
            shutil.rmtree(draft, ignore_errors=True)
            _, process = start(program, draft)
            stop_process(process.pid)
            process.wait()
            draft.rename(ready)
    return ready


@pytest.fixture(scope="session")
def program():
    """Return the server's program, installed on first use; skip the test if that fails."""
    try:
        return ensure_program()
    except StudioError as error:
        pytest.skip(f"{error} ({INSTALL})")


@pytest.fixture(scope="session")
def label_studio(program, tmp_path_factory):
    """A running Label Studio 1.23.2, one per test worker."""
    data = tmp_path_factory.mktemp("studio") / "data"
    shutil.copytree(migrated(program), data)
    running, process = start(program, data)
    yield running
    stop_process(process.pid)
    process.wait()


@pytest.fixture
def server(label_studio):
    with label_studio.client() as client:
        yield client


CLASSES = ("mech", "Gelände wagen", "target")
FINGERPRINT = "5e1f" * 16


def make_dataset(path, objects, size_wh=(64, 48), classes=CLASSES, video="dock.mp4"):
    """Make a dataset with a frame for each list of objects; all images differ."""
    clips = {video: {"fingerprint": FINGERPRINT, "frame_count": 900, "width": 64, "height": 48}}
    dataset = Dataset(path, tuple(classes), clips)
    noise = np.random.default_rng(7)
    with create_dataset(dataset, Header("build", videos=clips), force=True) as writer:
        for number, frame_objects in enumerate(objects):
            frame = 5 * number
            name = f"dock-{frame:06d}.png"
            writer.add(
                name, Item(video, frame, Fraction(frame, 30), *size_wh, tuple(frame_objects))
            )
            colour = tuple(noise.integers(0, 255, 3).tolist())
            Image.new("RGB", size_wh, colour).save(writer.images / name)
    return load_dataset(path)


def boxed(label="mech", box=(10.0, 8.5, 30.25, 40.0), **fields):
    return Object(label, box, **{"score": 0.75, "source": "colour", **fields})


class Proxy(ThreadingHTTPServer):
    """Forwards requests to a server, and calls `fault` before and after each `method` to `where`.

    `fault` gets "before" or "after" and the number of the request among such ones. If it returns
    "drop", the request or the response is dropped.
    """

    daemon_threads = True

    def __init__(self, target, where, fault, method="POST"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.where, self.fault = urlsplit(target), where, fault
        self.method = method
        self.count = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def _forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = self.server.target
        link = http.client.HTTPConnection(target.hostname, target.port, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        path = self.path.partition("?")[0]
        watched = self.command == self.server.method and path.endswith(self.server.where)
        if watched:
            self.server.count = number = self.server.count + 1
            if self.server.fault("before", number) == "drop":
                self.close_connection = True
                return
        try:
            link.request(self.command, self.path, body, headers)
            response = link.getresponse()
            content = response.read()
        finally:
            link.close()
        if watched and self.server.fault("after", number) == "drop":
            self.close_connection = True
            return
        try:
            self.send_response(response.status)
            self.send_header("Content-Type", response.getheader("Content-Type") or "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # the client has given up

    do_GET = do_POST = do_PATCH = do_DELETE = _forward  # noqa: N815


@contextmanager
def through(running, fault, timeout_seconds=120.0):
    """Yield a client of a server behind a proxy with a fault in imports, and the proxy."""
    with (
        Proxy(running.url, "/import", fault) as proxy,
        StudioClient(proxy.url, running.token, running.document_root, timeout_seconds) as server,
    ):
        yield server, proxy


def submit(server, task, result=None, **fields):
    """Submit an annotation, as the editor does: by default, the prediction unchanged."""
    if result is None:
        [prediction] = server.get("/api/predictions", {"task": task})
        result = prediction["result"]
    return server.send("POST", f"/api/tasks/{task}/annotations/", {"result": result, **fields})


def tasks_of(server, project):
    """List the tasks of a project by external id."""
    tasks = {}
    include = "id,data,total_annotations,cancelled_annotations,draft_exists,updated_at"
    for task in server.tasks(project, include):
        tasks.setdefault(task["data"]["ext_id"], []).append(task)
    return tasks


def submit_all(server, project):
    """Submit the prediction of each task of a project unchanged."""
    chosen = {"selectedItems": {"all": True, "excluded": []}}
    params = {"id": "predictions_to_annotations", "project": project}
    server.send("POST", "/api/dm/actions", chosen, params=params)
