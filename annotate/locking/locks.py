"""Lock an output while a run writes it: a second run on the same output is refused.

The lock is that of the operating system on an open file or folder (`flock`). It leaves no file
behind, and it ends with the process, in whatever way that ends. On a system or file system without
such locks nothing is locked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from annotate.errors import OutputError

if sys.platform != "win32":
    import fcntl


def open_locked(path: Path) -> IO[bytes]:
    """Open a file to read and write, made if it is missing, and lock it until it is closed.

    Raises:
        OutputError: another run holds the lock.
        OSError: the file cannot be opened.
    """
    while True:
        file = open(path, "r+b", opener=_open_or_create)  # noqa: SIM115
        try:
            _lock(file.fileno(), path)
            if _is_still_at(path, file.fileno()):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the run that held the lock has removed or replaced the file


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is missing; it may be renamed meanwhile.

    Raises:
        OutputError: another run holds the lock, or the folder cannot be made.
    """
    existed = folder.is_dir()
    descriptor = _open_locked_folder(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if not existed:
            with suppress(OSError):
                folder.rmdir()  # where the run has left it empty


def _open_locked_folder(folder: Path) -> int | None:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if sys.platform == "win32":  # a folder cannot be opened there
                return None
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise OutputError(f"{folder}: cannot write there: {error.strerror}") from None
        try:
            _lock(descriptor, folder)
            if _is_still_at(folder, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open_or_create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _lock(descriptor: int, path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"{path}: another run is writing it: wait for its end, or give another output path"
        ) from None
    except OSError:
        return  # a file system without locks


def _is_still_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
