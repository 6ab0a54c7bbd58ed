"""Download one file of a model, or copy it from this machine, and verify its sha256.

The source is a mirror, the cache of the Hugging Face hub, the hub itself, or a plain URL. A file
grows under the name `X.part`, which a later run continues, and is renamed only when its size and
its sha256 are right. Two runs must not share a `.part` file: the caller holds a lock.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate.errors import OutputError, WeightsError, needs
from annotate.files import sha256
from annotate.weights.manifest import RECEIPT_NAME, Model, ModelFile, receipt_from_json

ProgressCallback = Callable[[str, int, int | None], None]
_CHUNK_BYTES = 1 << 16  # what a cut connection can lose, bytes
_TIMEOUT_SECONDS = (10, 60)  # seconds to connect, seconds without a byte
_MISSING_STATUSES = (404, 410)
_DENIED_STATUSES = (401, 403)
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class RemoteFile:
    """An address; `denied` is what to tell a person whom the server refuses."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    denied_message: str = ""


def find_problem(path: Path, file: ModelFile) -> str:
    """What is wrong with the file at `path`, were it to be `file`; "" when nothing is."""
    if not path.is_file():
        return "not there"
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return f"{size:,} bytes, not {file.bytes:,}"
    if file.sha256 and not file.matches(found := sha256(path)):
        return f"its sha256 is {found}, not {file.sha256}"
    return ""


def read_remote(remote: RemoteFile) -> bytes:
    """What little the server says at an address.

    Raises:
        WeightsError: refused, not there, cut off.
    """
    requests = needs("requests")
    try:
        response = requests.get(remote.url, headers=dict(remote.headers), timeout=_TIMEOUT_SECONDS)
        _check_status(response, remote)
        return bytes(response.content)
    except requests.RequestException as error:
        raise WeightsError(f"{remote.url}: {_root_cause(error)}") from None


def download_file(
    remote: RemoteFile, file: ModelFile, target: Path, progress: ProgressCallback | None = None
) -> None:
    """Bring `file` from an address to `target`, going on from what an earlier run has left.

    Raises:
        WeightsError: refused, not there, cut off, of another size or another sha256.
        OutputError: no room for it, or no right to write there.
    """
    part = _part_path(target)
    with guarded_write(target):
        if file.bytes is not None and _size_bytes(part) > file.bytes:
            part.unlink()
        while file.bytes is None or _size_bytes(part) < file.bytes:
            had = _size_bytes(part)
            cut = _receive(remote, file, part, progress)
            if not cut:
                break
            if _size_bytes(part) <= had:
                rest = f" and it goes on at {had / 1e6:,.1f} MB" if had else ", or give a --mirror"
                raise WeightsError(f"{remote.url}: {cut}; run the same command again{rest}")
        _verify_and_rename(part, file, target, remote.url)


def link_or_copy(source: Path, file: ModelFile, target: Path) -> None:
    """Bring `file` from elsewhere on this machine to `target`: a hard link where that can be.

    Raises:
        WeightsError: it is of another size or another sha256.
        OutputError: no room for it, or no right to write there.
    """
    part = _part_path(target)
    with guarded_write(target):
        part.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), part)
        except OSError:
            shutil.copyfile(source, part)
        _verify_and_rename(part, file, target, str(source))


@contextmanager
def guarded_write(target: Path) -> Iterator[None]:
    """Make the folder of `target`; what the disk then refuses becomes an OutputError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full_error(target) from error
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error


def _part_path(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _disk_full_error(target: Path, needed_bytes: int = 0) -> OutputError:
    room = f": {needed_bytes / 1e6:,.0f} MB are needed" if needed_bytes else ""
    return OutputError(
        f"{target.parent}: the disk is full{room}; make room and run the same command again, or "
        "name another folder in ANNOTATE_WEIGHTS"
    )


def _receive(
    remote: RemoteFile, file: ModelFile, part: Path, progress: ProgressCallback | None
) -> str:
    """Append what comes to `part`; returns why it broke off, "" when it came to its end."""
    requests = needs("requests")
    start = _size_bytes(part)
    # The hub packs small texts unless told not to, and then sizes and ranges mean something else.
    headers = {**remote.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with requests.get(
            remote.url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS
        ) as response:
            if response.status_code == _RANGE_NOT_SATISFIABLE and start:
                part.unlink()
                return _receive(remote, file, part, progress)
            _check_status(response, remote)
            _write_response(response, remote, file, part, progress)
    except requests.RequestException as error:
        return _root_cause(error)
    return ""


def _write_response(
    response: Any,
    remote: RemoteFile,
    file: ModelFile,
    part: Path,
    progress: ProgressCallback | None,
) -> None:
    start = _size_bytes(part) if response.status_code == 206 else 0  # 200: it sends all of it again
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else file.bytes
    if file.bytes is not None and total != file.bytes:
        part.unlink(missing_ok=True)
        raise WeightsError(
            f"{remote.url}: {total:,} bytes are offered, the manifest says {file.bytes:,}; "
            "nothing was kept"
        )
    if total and shutil.disk_usage(part.parent).free < total - start:
        raise _disk_full_error(part, total - start)
    with part.open("ab" if start else "wb") as out:
        done = start
        for chunk in response.iter_content(_CHUNK_BYTES):
            out.write(chunk)
            done += len(chunk)
            if progress:
                progress(file.path, done, total)


def _verify_and_rename(part: Path, file: ModelFile, target: Path, source: str) -> None:
    if wrong := find_problem(part, file):
        part.unlink(missing_ok=True)
        doubt = " (a hash of confidence B: it may be at fault)" * (file.hash_confidence == "B")
        raise WeightsError(f"{source}: not {file.path}: {wrong}{doubt}; nothing was kept")
    part.replace(target)
    part.unlink(missing_ok=True)  # where both were one file already, the renaming did nothing


def _check_status(response: Any, remote: RemoteFile) -> None:
    status = response.status_code
    if status in _DENIED_STATUSES:
        raise WeightsError(
            remote.denied_message or f"{remote.url}: the server refuses it ({status})"
        )
    if status in _MISSING_STATUSES:
        raise WeightsError(f"{remote.url}: not there ({status}); is there a --mirror that has it?")
    if status >= 400:
        raise WeightsError(f"{remote.url}: the server answers {status}; try again later")


def _root_cause(error: Exception) -> str:
    """The root of a pile of wrapped network errors, in one line."""
    while error.__context__ and isinstance(error.__context__, Exception):
        error = error.__context__
    return f"the connection failed ({type(error).__name__}: {error})"


def side_files(model: Model, mirror: str | None = None) -> list[ModelFile]:
    """The small files that `model.also` means, of the pinned revision.

    Raises:
        WeightsError: when neither the mirror nor the hub can say.
    """
    if not model.also:
        return []
    offered = _mirror_receipt(model, mirror) if mirror else _list_repository(model)
    return [file for file in offered if model.includes_side_file(file.path)]


def locate_file(model: Model, file: ModelFile, mirror: str | None = None) -> Path | RemoteFile:
    """Where to take a file of a model from: a path on this machine, or an address."""
    if mirror:
        return _in_mirror(model, file.path, mirror)
    if model.url:
        return RemoteFile(f"{model.url.rstrip('/')}/{file.path}")
    hub = needs("huggingface_hub")
    cache = os.environ.get("HF_HUB_CACHE")
    cached = hub.try_to_load_from_cache(
        model.repo, file.path, revision=model.revision, cache_dir=cache
    )
    if isinstance(cached, str) and not find_problem(Path(cached), file):
        return Path(cached)
    url = hub.hf_hub_url(model.repo, file.path, revision=model.revision, endpoint=_hub_endpoint())
    return _hub_remote(model, url)


def _is_url(mirror: str) -> bool:
    return mirror.startswith(("https://", "http://"))


def _in_mirror(model: Model, path: str, mirror: str) -> Path | RemoteFile:
    """A mirror is laid out as the folder of weights of a machine that has fetched them."""
    if _is_url(mirror):
        place = f"{mirror.rstrip('/')}/{model.name}/{model.revision[:12]}"
        return RemoteFile(f"{place}/{path}")
    found = model.folder_in(Path(mirror).expanduser()) / path
    if not found.is_file():
        raise WeightsError(
            f"{found}: not there; a mirror is a copy of the folder of weights of a machine which "
            f"has fetched {model.name}; files from elsewhere: annotate models add PATH"
        )
    return found


def _mirror_receipt(model: Model, mirror: str) -> list[ModelFile]:
    receipt = _in_mirror(model, RECEIPT_NAME, mirror)
    if isinstance(receipt, RemoteFile):
        return receipt_from_json(read_remote(receipt), receipt.url)
    return receipt_from_json(receipt.read_bytes(), str(receipt))


def _hub_endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _list_repository(model: Model) -> list[ModelFile]:
    """The files at the top of the repository; the hub gives the sha256 of large ones alone."""
    url = f"{_hub_endpoint()}/api/models/{model.repo}/tree/{model.revision}"
    try:
        records = json.loads(read_remote(_hub_remote(model, url)))
        return [
            ModelFile(record["path"], record["size"], record.get("lfs", {}).get("oid", ""))
            for record in records
            if record["type"] == "file"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{url}: not the hub's list of a repository's files: {error}") from None


def _hub_remote(model: Model, url: str) -> RemoteFile:
    headers = needs("huggingface_hub.utils").build_hf_headers(library_name="annotate-local")
    page = f"https://huggingface.co/{model.repo}"
    login = "make a token there and say it to `hf auth login` (or set HF_TOKEN)"
    if model.gated:
        denied = (
            f"{model.name} is gated ({model.licence}): ask for access on {page}, {login}, wait "
            f"until access is given, then: annotate models fetch {model.name}"
        )
    else:
        denied = f"{page}: the hub refuses it: it may have become gated; if so, {login}"
    return RemoteFile(url, headers, denied)
