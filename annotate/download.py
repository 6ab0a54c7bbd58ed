"""Get one file, from an address or from this machine, and let nothing but that very file through.

It grows under the name `X.part`, which a later run goes on with, and gets its own name only when
its size and its sha256 are right. Two runs must not share a `.part`: the caller holds a lock.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate.errors import OutputError, WeightsError, needs
from annotate.manifest import File

Progress = Callable[[str, int, int | None], None]
_CHUNK = 1 << 16  # what a cut connection can lose, bytes
_TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
_GONE = (404, 410)
_DENIED = (401, 403)
_BEYOND_THE_END = 416


@dataclass(frozen=True)
class Remote:
    """An address; `denied` is what to tell a person whom the server refuses."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    denied: str = ""


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problem(path: Path, file: File) -> str:
    """What is wrong with the file at `path`, were it to be `file`; "" when nothing is."""
    if not path.is_file():
        return "not there"
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return f"{size:,} bytes, not {file.bytes:,}"
    if file.sha256 and not file.knows(found := sha256(path)):
        return f"its sha256 is {found}, not {file.sha256}"
    return ""


def read(remote: Remote) -> bytes:
    """What little the server says at an address.

    Raises:
        WeightsError: refused, not there, cut off.
    """
    requests = needs("requests")
    try:
        response = requests.get(remote.url, headers=dict(remote.headers), timeout=_TIMEOUT)
        _check_status(response, remote)
        return bytes(response.content)
    except requests.RequestException as error:
        raise WeightsError(f"{remote.url}: {_why(error)}") from None


def download(remote: Remote, file: File, target: Path, progress: Progress | None = None) -> None:
    """Bring `file` from an address to `target`, going on from what an earlier run has left.

    Raises:
        WeightsError: refused, not there, cut off, of another size or another sha256.
        OutputError: no room for it, or no right to write there.
    """
    part = _part(target)
    with writing(target):
        if file.bytes is not None and _size(part) > file.bytes:
            part.unlink()
        while file.bytes is None or _size(part) < file.bytes:
            had = _size(part)
            cut = _receive(remote, file, part, progress)
            if not cut:
                break
            if _size(part) <= had:
                rest = f" and it goes on at {had / 1e6:,.1f} MB" if had else ", or give a --mirror"
                raise WeightsError(f"{remote.url}: {cut}; run the same command again{rest}")
        _settle(part, file, target, remote.url)


def take(source: Path, file: File, target: Path) -> None:
    """Bring `file` from elsewhere on this machine to `target`: a hard link where that can be.

    Raises:
        WeightsError: it is of another size or another sha256.
        OutputError: no room for it, or no right to write there.
    """
    part = _part(target)
    with writing(target):
        part.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), part)
        except OSError:
            shutil.copyfile(source, part)
        _settle(part, file, target, str(source))


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Make the folder of `target`; what the disk then refuses becomes an OutputError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(target) from error
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _full(target: Path, need: int = 0) -> OutputError:
    room = f": {need / 1e6:,.0f} MB are needed" if need else ""
    return OutputError(
        f"{target.parent}: the disk is full{room}; make room and run the same command again, or "
        "name another folder in ANNOTATE_WEIGHTS"
    )


def _receive(remote: Remote, file: File, part: Path, progress: Progress | None) -> str:
    """Append what comes to `part`; returns why it broke off, "" when it came to its end."""
    requests = needs("requests")
    start = _size(part)
    # The hub packs small texts unless told not to, and then sizes and ranges mean something else.
    headers = {**remote.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with requests.get(remote.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == _BEYOND_THE_END and start:
                part.unlink()
                return _receive(remote, file, part, progress)
            _check_status(response, remote)
            _write(response, remote, file, part, progress)
    except requests.RequestException as error:
        return _why(error)
    return ""


def _write(
    response: Any, remote: Remote, file: File, part: Path, progress: Progress | None
) -> None:
    start = _size(part) if response.status_code == 206 else 0  # 200: it sends all of it again
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else file.bytes
    if file.bytes is not None and total != file.bytes:
        part.unlink(missing_ok=True)
        raise WeightsError(
            f"{remote.url}: {total:,} bytes are offered, the manifest says {file.bytes:,}; "
            "nothing was kept"
        )
    if total and shutil.disk_usage(part.parent).free < total - start:
        raise _full(part, total - start)
    with part.open("ab" if start else "wb") as out:
        done = start
        for chunk in response.iter_content(_CHUNK):
            out.write(chunk)
            done += len(chunk)
            if progress:
                progress(file.path, done, total)


def _settle(part: Path, file: File, target: Path, source: str) -> None:
    if wrong := problem(part, file):
        part.unlink(missing_ok=True)
        doubt = " (a hash of confidence B: it may be at fault)" * (file.hash_confidence == "B")
        raise WeightsError(f"{source}: not {file.path}: {wrong}{doubt}; nothing was kept")
    part.replace(target)
    part.unlink(missing_ok=True)  # where both were one file already, the renaming did nothing


def _check_status(response: Any, remote: Remote) -> None:
    status = response.status_code
    if status in _DENIED:
        raise WeightsError(remote.denied or f"{remote.url}: the server refuses it ({status})")
    if status in _GONE:
        raise WeightsError(f"{remote.url}: not there ({status}); is there a --mirror that has it?")
    if status >= 400:
        raise WeightsError(f"{remote.url}: the server answers {status}; try again later")


def _why(error: Exception) -> str:
    """The root of a pile of wrapped network errors, in one line."""
    while error.__context__ and isinstance(error.__context__, Exception):
        error = error.__context__
    return f"the connection failed ({type(error).__name__}: {error})"
