"""Weights: the manifest, downloads from a test server, verification and adding."""

import errno
import hashlib
import json
import multiprocessing
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from annotate.errors import MissingWeights, OutputError, UnknownName, WeightsError
from annotate.files import packaged_file
from annotate.weights import download, manifest
from annotate.weights.store import (
    add_weights,
    describe_model,
    fetch_weights,
    list_models,
    verify_weights,
    weights_path,
)

REVISION = "0123456789abcdef0123456789abcdef01234567"
BODY = bytes(range(256)) * 2000  # 512,000 bytes: several chunks
CONFIG = b'{"hidden_size": 8}'


def sha256(body):
    return hashlib.sha256(body).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `bodies` with ranges; `requests` are the requests, as (path, Range)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.bodies, self.requests, self.authorised = {}, [], []
        self.status = {}  # path -> the status to answer with
        self.cuts = {}  # path -> the number of bytes after which each answer ends
        self.ranges = True

    def handle_error(self, request, client_address):
        """Ignore clients that close the connection."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, byte_range = self.server, self.headers.get("Range")
        server.requests.append((self.path, byte_range))
        server.authorised.append(self.headers.get("Authorization"))
        status = server.status.get(self.path, 200 if self.path in server.bodies else 404)
        body = server.bodies.get(self.path, b"") if status == 200 else b"no"
        total, start = len(body), 0
        if byte_range and server.ranges and status == 200:
            start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
            status, body = (206, body[start:]) if start < total else (416, b"")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        cuts = server.cuts.get(self.path, [])
        self.wfile.write(body[: cuts.pop(0)] if cuts else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def home(tmp_path, monkeypatch, server):
    """A folder of weights and a hub of the test's own, without the settings of the user."""
    home = tmp_path / "shared" / "weights"
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANNOTATE_WEIGHTS", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return home


def register(home, name, files, **fields):
    """Add a model to the user's own manifest."""
    record = {"family": "test", "task": "test", "licence": "MIT", "revision": REVISION}
    path = home / manifest.USER_MANIFEST
    models = json.loads(path.read_text()) if path.exists() else {}
    models[name] = record | {"files": files} | fields
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(models))


@pytest.fixture
def small(home, server):
    """A model of one file at an address; returns the path of its request."""
    server.bodies["/release/small.pt"] = BODY
    file = {"path": "small.pt", "bytes": len(BODY), "sha256": sha256(BODY)}
    register(home, "small", [file], url=f"{server.url}/release")
    return "/release/small.pt"


@pytest.fixture
def folder(home, server):
    """A model on the hub: weights with a hash, and side files without one."""
    tree = f"/api/models/us/folder/tree/{REVISION}"
    files = {"model.safetensors": BODY, "config.json": CONFIG, "README.md": b"# hello"}
    for path, body in files.items():
        server.bodies[f"/us/folder/resolve/{REVISION}/{path}"] = body
    rows = [{"type": "file", "path": p, "size": len(body)} for p, body in files.items()]
    rows.append({"type": "directory", "path": "onnx.json", "size": 0})
    server.bodies[tree] = json.dumps(rows).encode()
    file = {"path": "model.safetensors", "bytes": len(BODY), "sha256": sha256(BODY)}
    register(home, "folder", [file], repo="us/folder", also=["*.json"])
    return f"/us/folder/resolve/{REVISION}/model.safetensors"


def remaining_files(home):
    """List every file in a folder of weights except the manifest and the locks."""
    paths = (path.relative_to(home) for path in home.rglob("*") if path.is_file())
    return sorted(
        p.name for p in paths if p.name != manifest.USER_MANIFEST and p.parts[0] != ".locks"
    )


# The manifest that ships


def test_the_shipped_manifest_is_complete(home):
    for model in manifest.all_models().values():
        assert model.licence and model.task and model.files, model.name
        assert packaged_file("models", model.card).suffix == ".md"
        assert bool(model.repo) != model.url.startswith("https://"), model.name
        assert not model.repo or re.fullmatch(r"[0-9a-f]{40}", model.revision), model.name
        for file in model.files:
            in_name = file.path.endswith(f"-{file.sha256}.pth")  # as torch.hub publishes it
            complete = re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert complete or (in_name and len(file.sha256) >= 8), (model.name, file.path)
            assert file.hash_confidence in ("A", "B"), (model.name, file.path)
        assert not any("pt" in pattern or pattern == "*" for pattern in model.also), model.name


def test_every_card_names_its_models(home):
    for model in manifest.all_models().values():
        card = packaged_file("models", model.card).read_text("utf-8")
        assert f"`{model.name}`" in card and model.licence.split()[0] in card, model.name


def test_side_files_are_in_the_top_folder_and_have_no_hash():
    files = (manifest.ModelFile("config.json"),)
    model = manifest.Model("x", "x", "x", "MIT", files, "1", repo="us/x", also=("*.json", "*.txt"))
    paths = ["config.json", "vocab.json", "merges.txt", "onnx/vocab.json", "model.bin"]
    assert [path for path in paths if model.includes_side_file(path)] == [
        "vocab.json",
        "merges.txt",
    ]


def test_no_two_models_share_a_folder(home):
    models = manifest.all_models().values()
    assert len({model.folder_in(home) for model in models}) == len(models)
    assert (
        manifest.find_model("sam2.1-tiny").folder_in(home) == home / "sam2.1-tiny" / "de431c404385"
    )


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a\\..\\x"])
def test_a_file_of_a_model_stays_in_its_folder(path):
    with pytest.raises(WeightsError, match="not a path inside"):
        manifest.ModelFile(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "damaged"),
        ('{"x": {"files": []}}', "family"),
        ('{"x": {"files": [{"path": "a", "sha256": "12"}]}}', "not a sha256"),
        ("[]", "list"),
    ],
)
def test_the_error_names_a_damaged_manifest(home, text, message):
    home.mkdir(parents=True)
    (home / manifest.USER_MANIFEST).write_text(text)
    with pytest.raises(WeightsError, match=f"manifest.json: .*{message}"):
        manifest.all_models()


def test_a_users_manifest_cannot_redefine_a_shipped_name(home):
    register(home, "sam2.1-tiny", [{"path": "a.pt"}], url="https://example.org")
    assert manifest.find_model("sam2.1-tiny").repo == "facebook/sam2.1-hiera-tiny"


# Locating weights


def test_missing_weights_name_the_command_without_a_request(small, server):
    with pytest.raises(MissingWeights, match="annotate models fetch small") as error:
        weights_path("small")
    assert "MIT" in str(error.value) and "\n" not in str(error.value)
    assert server.requests == []


def test_an_unknown_name_suggests_the_nearest(home):
    with pytest.raises(UnknownName, match=r"did you mean 'sam2\.1-tiny'"):
        weights_path("sam2.1-tinny")


def test_a_path_is_returned_as_it_is(home, tmp_path):
    (tmp_path / "mine.pt").write_bytes(b"x")
    assert weights_path(str(tmp_path / "mine.pt")) == tmp_path / "mine.pt"


def test_the_path_of_one_file_is_a_file_and_of_several_a_folder(small, folder):
    assert fetch_weights("small").read_bytes() == BODY
    assert (fetch_weights("folder") / "config.json").read_bytes() == CONFIG


def test_the_users_own_folder_is_searched_beside_a_shared_one(small, home, monkeypatch):
    shared = home / manifest.USER_MANIFEST
    monkeypatch.delenv("ANNOTATE_WEIGHTS")
    manifest.install_folder().mkdir(parents=True)
    shutil.copy(shared, manifest.install_folder() / manifest.USER_MANIFEST)
    mine = fetch_weights("small")
    monkeypatch.setenv("ANNOTATE_WEIGHTS", str(home))
    assert weights_path("small") == mine and not mine.is_relative_to(home)


def test_a_file_of_another_size_counts_as_missing(small):
    fetch_weights("small").write_bytes(b"short")
    with pytest.raises(MissingWeights, match="not complete .*models fetch small"):
        weights_path("small")


def test_a_file_with_an_outdated_hash_counts_as_missing(small, home):
    fetch_weights("small")
    other = {"path": "small.pt", "bytes": len(BODY), "sha256": sha256(b"other")}
    register(home, "small", [other], url="https://example.org")
    with pytest.raises(MissingWeights):
        weights_path("small")


def test_models_are_listed_and_described_with_their_terms(small, folder):
    fetch_weights("small")
    here = {model.name: there for model, there in list_models()}
    assert here["small"] and not here["folder"] and "sam3" in here
    assert "gated" in describe_model(manifest.find_model("sam3"))
    terms = describe_model(manifest.find_model("sam2.1-tiny"))
    assert "Apache-2.0" in terms and "156 MB" in terms and "facebook/sam2.1-hiera-tiny" in terms


# Fetching


def test_the_file_is_downloaded_and_nothing_else(small, home, server):
    reports = []
    path = fetch_weights("small", progress=lambda *report: reports.append(report))
    assert path.read_bytes() == BODY
    assert remaining_files(home) == ["fetched.json", "small.pt"]
    assert reports[-1] == ("small.pt", len(BODY), len(BODY))
    assert weights_path("small") == path and server.requests == [(small, None)]


def test_only_the_needed_files_of_a_repository_are_downloaded(folder, home, server):
    fetch_weights("folder")
    assert remaining_files(home) == ["config.json", "fetched.json", "model.safetensors"]


def test_a_second_fetch_sends_no_request(folder, server):
    fetch_weights("folder")
    request_count = len(server.requests)
    fetch_weights("folder")
    assert len(server.requests) == request_count


def test_a_wrong_hash_leaves_nothing(small, home, server):
    server.bodies[small] = BODY[:-1] + b"!"
    with pytest.raises(WeightsError, match=r"not small\.pt: its sha256 is [0-9a-f]{64}, not"):
        fetch_weights("small")
    assert remaining_files(home) == []


def test_a_hash_of_which_only_the_first_digits_are_published_is_checked(home, server, tmp_path):
    server.bodies["/release/net.pth"] = BODY
    file = {"path": "net.pth", "sha256": sha256(BODY)[:9]}
    register(home, "net", [file], url=f"{server.url}/release")
    path = fetch_weights("net")
    request_count = len(server.requests)
    assert fetch_weights("net") == path and len(server.requests) == request_count
    assert path.read_bytes() == BODY and not any(c.problem for c in verify_weights(["net"]))
    wrong = {"path": "net.pth", "sha256": sha256(b"other")[:9]}
    register(home, "wrong", [wrong], url=f"{server.url}/release")
    with pytest.raises(WeightsError, match="its sha256 is"):
        fetch_weights("wrong")


def test_the_error_says_if_the_hash_is_of_confidence_b(home, server):
    server.bodies["/release/b.pt"] = BODY
    file = {"path": "b.pt", "sha256": sha256(b"b"), "hash_confidence": "B"}
    register(home, "b", [file], url=f"{server.url}/release")
    with pytest.raises(WeightsError, match="confidence B"):
        fetch_weights("b")


def test_a_wrong_size_is_refused_before_the_download(small, home, server):
    server.bodies[small] = BODY + b"more"
    reports = []
    with pytest.raises(WeightsError, match="offers 512,004 bytes, but the manifest says 512,000"):
        fetch_weights("small", progress=lambda *report: reports.append(report))
    assert remaining_files(home) == [] and reports == []


def test_a_broken_connection_is_resumed(small, server):
    server.cuts[small] = [300_000, 100_000]
    assert fetch_weights("small").read_bytes() == BODY
    starts = [int(byte_range[6:-1]) for _, byte_range in server.requests[1:]]
    assert server.requests[0] == (small, None) and len(starts) == 2
    assert 200_000 < starts[0] <= 300_000 < starts[1] <= 400_000


def test_a_broken_connection_is_noticed_for_unknown_sizes_too(home, server):
    server.bodies["/release/free.pt"] = BODY
    server.cuts["/release/free.pt"] = [300_000]
    file = {"path": "free.pt", "sha256": sha256(BODY)}
    register(home, "free", [file], url=f"{server.url}/release")
    assert fetch_weights("free").read_bytes() == BODY
    assert server.requests[1][1].startswith("bytes=")


def test_a_failed_fetch_is_resumed_by_the_next(small, home, server):
    server.cuts[small] = [300_000, 0]
    with pytest.raises(WeightsError, match="connection failed .*goes on at 0.3 MB"):
        fetch_weights("small")
    assert remaining_files(home) == ["small.pt.part"]
    server.requests.clear()
    assert fetch_weights("small").read_bytes() == BODY
    assert server.requests[0][1].startswith("bytes=2") and remaining_files(home) == [
        "fetched.json",
        "small.pt",
    ]


def test_a_server_without_ranges_sends_the_file_again(small, server):
    server.ranges, server.cuts[small] = False, [300_000]
    assert fetch_weights("small").read_bytes() == BODY


def test_a_part_file_of_another_download_is_not_accepted(small, home, server):
    model_folder = manifest.find_model("small").folder_in(home)
    model_folder.mkdir(parents=True)
    (model_folder / "small.pt.part").write_bytes(b"x" * 1000)
    with pytest.raises(WeightsError, match="not small.pt"):
        fetch_weights("small")
    assert remaining_files(home) == []
    assert fetch_weights("small").read_bytes() == BODY


def test_a_part_file_that_is_too_long_is_downloaded_again(small, home):
    model_folder = manifest.find_model("small").folder_in(home)
    model_folder.mkdir(parents=True)
    (model_folder / "small.pt.part").write_bytes(BODY + b"x")
    assert fetch_weights("small").read_bytes() == BODY


def test_a_range_beyond_the_end_starts_again(home, server):
    server.bodies["/release/free.pt"] = BODY
    register(
        home, "free", [{"path": "free.pt", "sha256": sha256(BODY)}], url=f"{server.url}/release"
    )
    model_folder = manifest.find_model("free").folder_in(home)
    model_folder.mkdir(parents=True)
    (model_folder / "free.pt.part").write_bytes(BODY)
    assert fetch_weights("free").read_bytes() == BODY
    assert [byte_range for _, byte_range in server.requests] == ["bytes=512000-", None]


def test_a_file_that_the_server_does_not_have_is_an_error(small, home, server):
    del server.bodies[small]
    with pytest.raises(WeightsError, match=r"small\.pt: not there \(404\).*`mirror`"):
        fetch_weights("small")
    assert remaining_files(home) == []


def test_a_server_error_is_reported(small, server):
    server.status[small] = 503
    with pytest.raises(WeightsError, match="answers 503; try again later"):
        fetch_weights("small")


def test_a_refused_connection_is_reported(small, server, home):
    register(home, "small", [{"path": "small.pt"}], url="http://127.0.0.1:1/release")
    with pytest.raises(WeightsError, match="failed .*[Rr]efused.*or give a `mirror`") as error:
        fetch_weights("small")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_is_explained(folder, home, server, status):
    file = {"path": "model.safetensors", "sha256": sha256(BODY)}
    register(home, "locked", [file], repo="us/folder", gated=True, licence="Own Licence")
    server.status[folder] = status
    with pytest.raises(WeightsError) as error:
        fetch_weights("locked")
    for word in ("gated", "Own Licence", "https://huggingface.co/us/folder", "hf auth login"):
        assert word in str(error.value)
    assert remaining_files(home) == []


def test_the_users_token_goes_to_the_hub_and_not_elsewhere(folder, small, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_weights("folder")
    assert set(server.authorised) == {"Bearer hf_secret"}
    server.authorised.clear()
    fetch_weights("small")
    assert server.authorised == [None]


def test_a_file_in_the_hub_cache_is_not_downloaded(folder, tmp_path, server):
    snapshot = tmp_path / "hub" / "models--us--folder" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(BODY)
    assert (fetch_weights("folder") / "model.safetensors").read_bytes() == BODY
    assert folder not in [path for path, _ in server.requests]


def test_a_damaged_file_in_the_hub_cache_is_ignored(folder, tmp_path):
    snapshot = tmp_path / "hub" / "models--us--folder" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(BODY[:-1] + b"!")
    assert (fetch_weights("folder") / "model.safetensors").read_bytes() == BODY


def test_a_full_disk_leaves_only_a_part_file(small, home, monkeypatch):
    real = Path.open

    class Full:
        """A file on a disk with room for 200 kB."""

        def __init__(self, file):
            self.file, self.room = file, 200_000

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, body):
            self.room -= len(body)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(body)

    def open_on_a_full_disk(path, mode="r", *args, **kwargs):
        file = real(path, mode, *args, **kwargs)
        return Full(file) if mode in ("wb", "ab") else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_on_a_full_disk)
        with pytest.raises(OutputError, match="disk is full"):
            fetch_weights("small")
    assert remaining_files(home) == ["small.pt.part"]
    assert fetch_weights("small").read_bytes() == BODY


def test_too_little_disk_space_is_an_error_before_the_download(small, home, monkeypatch):
    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0)
    )
    with pytest.raises(OutputError, match=r"disk is full: 1 MB are needed.*ANNOTATE_WEIGHTS"):
        fetch_weights("small")
    assert remaining_files(home) == []


def test_a_folder_that_cannot_be_written_is_an_error(small, tmp_path, home, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ANNOTATE_WEIGHTS", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot be written"):
        fetch_weights("sam2.1-tiny")


def _fetch(name):
    fetch_weights(name)


def test_two_processes_download_a_model_once(small, home, server):
    spawn = multiprocessing.get_context("spawn")
    runs = [spawn.Process(target=_fetch, args=("small",)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    assert weights_path("small").read_bytes() == BODY
    assert server.requests == [(small, None)] and remaining_files(home) == [
        "fetched.json",
        "small.pt",
    ]


def test_many_threads_download_a_model_once(folder, server):
    threads = [threading.Thread(target=_fetch, args=("folder",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (weights_path("folder") / "model.safetensors").read_bytes() == BODY
    assert [path for path, _ in server.requests].count(folder) == 1


# Mirrors


@pytest.fixture
def mirror(folder, small, home, tmp_path):
    """A copy of fetched weights, which are then removed from this machine."""
    fetch_weights("folder")
    fetch_weights("small")
    copy = shutil.copytree(home, tmp_path / "stick")
    for name in ("folder", "small"):
        shutil.rmtree(home / name)
    return copy


def test_a_mirror_folder_needs_no_network(mirror, server):
    server.requests.clear()
    assert fetch_weights("small", mirror=str(mirror)).read_bytes() == BODY
    assert (fetch_weights("folder", mirror=str(mirror)) / "config.json").read_bytes() == CONFIG
    assert server.requests == []


def test_a_mirror_folder_is_verified_too(mirror, home):
    damaged = manifest.find_model("small").folder_in(mirror) / "small.pt"
    damaged.write_bytes(BODY[:-1] + b"!")
    with pytest.raises(WeightsError, match="not small.pt: its sha256"):
        fetch_weights("small", mirror=str(mirror))
    assert remaining_files(home) == []


def test_a_mirror_without_the_model_is_an_error(small, tmp_path):
    with pytest.raises(WeightsError, match="a mirror is a copy of .*has fetched small"):
        fetch_weights("small", mirror=str(tmp_path))


def test_a_mirror_can_be_an_address(mirror, server):
    for path in mirror.rglob("*"):
        if path.is_file():
            server.bodies[f"/copy/{path.relative_to(mirror).as_posix()}"] = path.read_bytes()
    server.requests.clear()
    assert fetch_weights("small", mirror=f"{server.url}/copy/").read_bytes() == BODY
    model_folder = fetch_weights("folder", mirror=f"{server.url}/copy")
    assert (model_folder / "config.json").read_bytes() == CONFIG
    assert all(path.startswith("/copy/") for path, _ in server.requests)


# Verifying


def test_verify_finds_damaged_files_and_fetch_repairs_them(folder, small):
    model_folder, path = fetch_weights("folder"), fetch_weights("small")
    assert [check.problem for check in verify_weights()] == ["", "", ""]
    path.write_bytes(BODY[:-1] + b"!")
    (model_folder / "config.json").write_bytes(CONFIG.replace(b"8", b"9"))
    bad = {check.path: check.problem for check in verify_weights() if check.problem}
    assert set(bad) == {path, model_folder / "config.json"} and "sha256" in bad[path]
    fetch_weights("small")
    fetch_weights("folder")
    assert not any(check.problem for check in verify_weights())
    assert (model_folder / "config.json").read_bytes() == CONFIG


def test_verify_reports_missing_weights(small):
    assert verify_weights() == []
    [check] = verify_weights(["small"])
    assert check.problem == "not on this machine"
    with pytest.raises(UnknownName):
        verify_weights(["smal"])


# Adding


def test_a_users_file_gets_a_name_and_stays_where_it_is(home, tmp_path):
    path = tmp_path / "best.pt"
    path.write_bytes(b"trained")
    model = add_weights(path, "designators")
    assert weights_path("designators") == path and model.licence == "your own"
    assert fetch_weights("designators") == path
    path.write_bytes(b"Trained")
    [check] = verify_weights(["designators"])
    assert "sha256" in check.problem
    path.unlink()
    with pytest.raises(MissingWeights, match="under the same `name`: annotate models add PATH"):
        weights_path("designators")


def test_the_default_name_is_that_of_the_file(home, tmp_path):
    (tmp_path / "best.pt").write_bytes(b"trained")
    assert add_weights(tmp_path / "best.pt").name == "best"
    assert [model.name for model, there in list_models() if there] == ["best"]


def test_a_users_folder_is_added_without_hidden_files(home, tmp_path):
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    for name in ("model.safetensors", "sub/config.json", ".hidden"):
        (mine / name).write_bytes(name.encode())
    add_weights(mine)
    add_weights(mine, "second")
    assert weights_path("mine") == weights_path("second") == mine
    assert len(verify_weights(["mine"])) == 2


def test_known_weights_are_recognised_by_hash_under_any_file_name(small, home, tmp_path):
    (tmp_path / "renamed.bin").write_bytes(BODY)
    for _ in range(2):  # the second time changes nothing
        assert add_weights(tmp_path / "renamed.bin").name == "small"
    assert weights_path("small") == manifest.find_model("small").folder_in(home) / "small.pt"
    assert remaining_files(home) == ["fetched.json", "small.pt"]
    assert (tmp_path / "renamed.bin").read_bytes() == BODY


def test_a_folder_of_known_weights_needs_its_side_files(folder, tmp_path, server):
    mine = tmp_path / "download"
    mine.mkdir()
    (mine / "model.safetensors").write_bytes(BODY)
    with pytest.raises(WeightsError, match=r"not folder: it has no config\.json"):
        add_weights(mine, "folder")
    (mine / "config.json").write_bytes(CONFIG)
    (mine / "README.md").write_bytes(b"# hello")
    assert add_weights(mine).name == "folder"
    files = sorted(path.name for path in weights_path("folder").iterdir())
    assert files == ["config.json", "fetched.json", "model.safetensors"] and server.requests == []


def test_a_shipped_name_is_only_for_the_shipped_bytes(home, tmp_path):
    (tmp_path / "sam2.1_t.pt").write_bytes(b"re-saved")
    with pytest.raises(WeightsError, match=r"not sam2\.1-tiny: no file in it has the sha256"):
        add_weights(tmp_path / "sam2.1_t.pt", "sam2.1-tiny")


@pytest.mark.parametrize("name", ["a b", "../x", "a/b", ".x"])
def test_an_invalid_name_is_refused(home, tmp_path, name):
    (tmp_path / "best.pt").write_bytes(b"trained")
    with pytest.raises(WeightsError, match="cannot name a model"):
        add_weights(tmp_path / "best.pt", name)


def test_a_missing_file_cannot_be_added(home, tmp_path):
    with pytest.raises(WeightsError, match="no weights there"):
        add_weights(tmp_path / "nothing.pt")


@pytest.mark.parametrize("name", ["nowhere.pt", "runs/best", "~/weights/best.onnx"])
def test_a_path_that_does_not_exist_is_no_unknown_model(name):
    with pytest.raises(WeightsError, match=f"^{name}: no such file or folder"):
        weights_path(name)
