"""Download one file of a model, or copy it from this machine, and verify its sha256.

The source is a mirror, the cache of the Hugging Face hub, the hub itself, or a plain URL. A file
is written under the name `X.part`, which a later run continues, and is renamed only when its size
and its sha256 are right. Two runs must not share a `.part` file: the caller holds a lock.

`huggingface_hub.hf_hub_download` does not serve here: it gives a file its name after checking the
size alone, and it reads neither mirrors nor plain URLs.
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
_CHUNK_BYTES = 1 << 16  # at most this much is lost when a connection breaks
_TIMEOUT_SECONDS = (10, 60)  # to connect, and between two chunks
_PARTIAL_CONTENT = 206
_MISSING_STATUSES = (404, 410)
_DENIED_STATUSES = (401, 403)
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class RemoteFile:
    """An address with its headers; `denied_message` is the error text if access is denied."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    denied_message: str = ""


def find_problem(path: Path, file: ModelFile) -> str:
    """Compare the file at `path` with the size and sha256 of `file`; "" if it is intact."""
    if not path.is_file():
        return "not there"
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return f"{size:,} bytes, not {file.bytes:,}"
    if file.sha256 and not file.matches(actual := sha256(path)):
        return f"its sha256 is {actual}, not {file.sha256}"
    return ""


def read_remote(remote: RemoteFile) -> bytes:
    """Read a small file from an address.

    Raises:
        WeightsError: access denied, not there, connection failed.
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
    """Download `file` to `target`, and resume the `.part` file of an earlier run.

    Raises:
        WeightsError: access denied, not there, connection failed, wrong size or sha256.
        OutputError: the disk is full, or the folder cannot be written.
    """
    part = _part_path(target)
    with guarded_write(target):
        if file.bytes is not None and _size_bytes(part) > file.bytes:
            part.unlink()
        while file.bytes is None or _size_bytes(part) < file.bytes:
            before = _size_bytes(part)
            failure = _receive(remote, file, part, progress)
            if not failure:
                break
            if _size_bytes(part) <= before:
                hint = ", or give a `mirror`"
                if before:
                    hint = f": it goes on at {before / 1e6:,.1f} MB"
                raise WeightsError(f"{remote.url}: {failure}; run the same command again{hint}")
        _verify_and_rename(part, file, target, remote.url)


def link_or_copy(source: Path, file: ModelFile, target: Path) -> None:
    """Place the file `source` of this machine at `target`: a hard link, else a copy.

    Raises:
        WeightsError: wrong size or sha256.
        OutputError: the disk is full, or the folder cannot be written.
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
    """Create the folder of `target`, and turn OSErrors of the block into an OutputError."""
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
    needed = f": {needed_bytes / 1e6:,.0f} MB are needed" if needed_bytes else ""
    return OutputError(
        f"{target.parent}: the disk is full{needed}; make room and run the same command again, or "
        "name another folder in ANNOTATE_WEIGHTS"
    )


def _receive(
    remote: RemoteFile, file: ModelFile, part: Path, progress: ProgressCallback | None
) -> str:
    """Append a download to `part`; return why the connection failed, or "" if it is complete."""
    requests = needs("requests")
    start = _size_bytes(part)
    # By default the hub compresses small texts; then sizes and ranges are those of the compressed
    # text.
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
    resumes = response.status_code == _PARTIAL_CONTENT  # otherwise the server ignores ranges
    start = _size_bytes(part) if resumes else 0
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else file.bytes
    if file.bytes is not None and total != file.bytes:
        part.unlink(missing_ok=True)
        raise WeightsError(
            f"{remote.url}: the server offers {total:,} bytes, but the manifest says "
            f"{file.bytes:,}; nothing was kept"
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
    if problem := find_problem(part, file):
        part.unlink(missing_ok=True)
        doubt = " (a hash of confidence B: the hash may be wrong)" * (file.hash_confidence == "B")
        raise WeightsError(f"{source}: not {file.path}: {problem}{doubt}; nothing was kept")
    part.replace(target)
    part.unlink(missing_ok=True)  # `replace` does nothing if both are hard links to one file


def _check_status(response: Any, remote: RemoteFile) -> None:
    status = response.status_code
    if status in _DENIED_STATUSES:
        raise WeightsError(remote.denied_message or f"{remote.url}: access denied ({status})")
    if status in _MISSING_STATUSES:
        raise WeightsError(f"{remote.url}: not there ({status}); give a `mirror` that has it")
    if status >= 400:
        raise WeightsError(f"{remote.url}: the server answers {status}; try again later")


def _root_cause(error: Exception) -> str:
    """Describe the innermost of nested network errors in one line."""
    while error.__context__ and isinstance(error.__context__, Exception):
        error = error.__context__
    return f"the connection failed ({type(error).__name__}: {error})"


def side_files(model: Model, mirror: str | None = None) -> list[ModelFile]:
    """List the small files that match `model.also`, in the mirror or the pinned revision.

    Raises:
        WeightsError: neither the mirror nor the hub can list them.
    """
    if not model.also:
        return []
    available = _mirror_receipt(model, mirror) if mirror else _list_repository(model)
    return [file for file in available if model.includes_side_file(file.path)]


def locate_file(model: Model, file: ModelFile, mirror: str | None = None) -> Path | RemoteFile:
    """Choose the source of a model's file: a path on this machine, or an address."""
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
    """Locate a file in a mirror, which is laid out as a folder of weights."""
    if _is_url(mirror):
        folder_url = f"{mirror.rstrip('/')}/{model.name}/{model.revision[:12]}"
        return RemoteFile(f"{folder_url}/{path}")
    file_path = model.folder_in(Path(mirror).expanduser()) / path
    if not file_path.is_file():
        raise WeightsError(
            f"{file_path}: not there; a mirror is a copy of the folder of weights of a machine "
            f"that has fetched {model.name}; register other files with `annotate models add PATH`"
        )
    return file_path


def _mirror_receipt(model: Model, mirror: str) -> list[ModelFile]:
    receipt = _in_mirror(model, RECEIPT_NAME, mirror)
    if isinstance(receipt, RemoteFile):
        return receipt_from_json(read_remote(receipt), receipt.url)
    return receipt_from_json(receipt.read_bytes(), str(receipt))


def _hub_endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _list_repository(model: Model) -> list[ModelFile]:
    """List the files at the top of a repository; the hub gives the sha256 of large files only."""
    url = f"{_hub_endpoint()}/api/models/{model.repo}/tree/{model.revision}"
    try:
        records = json.loads(read_remote(_hub_remote(model, url)))
        return [
            ModelFile(record["path"], record["size"], record.get("lfs", {}).get("oid", ""))
            for record in records
            if record["type"] == "file"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{url}: not a list of files as the hub gives it: {error}") from None


def _hub_remote(model: Model, url: str) -> RemoteFile:
    headers = needs("huggingface_hub.utils").build_hf_headers(library_name="annotate-local")
    page = f"https://huggingface.co/{model.repo}"
    login = "create a token there and give it to `hf auth login` (or set HF_TOKEN)"
    if model.gated:
        denied = (
            f"{model.name} is gated ({model.licence}): request access on {page}, {login}, wait "
            f"until access is given, then: annotate models fetch {model.name}"
        )
    else:
        denied = f"{page}: access denied; the model may have become gated; if so, {login}"
    return RemoteFile(url, headers, denied)
