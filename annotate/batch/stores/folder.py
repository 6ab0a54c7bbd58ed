"""The output of a batch: results that are there as a whole or not at all, each written once.

    OUT/plan.jsonl              the clips and their keys
    OUT/units/ab/KEY.jsonl      the results
    OUT/failed/KEY.json         why a clip failed
    OUT/differing/              results that differ from the first one of their key
    OUT/work/                   runs that are not finished
    OUT/log/HOST-PID.jsonl      what each worker did

A result is made in a folder under `work` and then linked to its final name, which fails if another
worker was first. So several workers, drivers and machines may share one output without knowing of
each other. Stopped work is continued on the machine where it was begun.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from annotate.batch.clips import anonymous_lines
from annotate.errors import ItemsError, OutputError, ResultsDiffer
from annotate.files import (
    atomic_file,
    check_writable,
    read_json,
    refuse_foreign_folder,
    write_json,
    write_text,
)
from annotate.locking.locks import locked_folder
from annotate.scenes import store as scenes_store
from annotate.scenes.library import anonymous_rows

PLAN_FILE = "plan.jsonl"
UNITS, FAILED, DIFFERING, WORK, LOG = "units", "failed", "differing", "work", "log"
_ATTEMPTS = 16  # of one clip at a time, by workers of one machine
_MIN_FREE_BYTES = 100 * 2**20  # of the disk, before the first clip
_LOCK_TRIES, _LOCK_SECONDS = 600, 0.1
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV}


class FolderStore:
    """The output of a batch in a folder, which several machines may share."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def place(self) -> str:
        """The path of the folder."""
        return str(self.root)

    @property
    def local(self) -> Path:
        """The folder."""
        return self.root

    def check_writable(self) -> None:
        """Check that results can be written.

        Raises:
            OutputError: nothing can be written there, or the disk is nearly full.
        """
        check_writable(self.root)
        self.check_free()

    def check_free(self) -> None:
        """Check that the disk is not nearly full.

        Raises:
            OutputError: it is.
        """
        folder = next(each for each in (self.root, *self.root.parents) if each.is_dir())
        free = shutil.disk_usage(folder).free
        if free < _MIN_FREE_BYTES:
            raise OutputError(
                f"{self.root}: {free / 2**20:.0f} MiB are free there on {socket.gethostname()}, "
                f"less than {_MIN_FREE_BYTES / 2**20:.0f}: free some, or give another output path"
            )

    def refuse_foreign(self) -> None:
        """Check that no files of something else would be mixed with the results.

        Raises:
            OutputError: there are such.
        """
        refuse_foreign_folder(self.root, PLAN_FILE, [UNITS, FAILED, WORK, LOG])

    def read_plan(self) -> str | None:
        """Read the text of the plan; None where there is none."""
        path = self.root / PLAN_FILE
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def write_plan(self, text: str) -> None:
        """Write the plan; several drivers may do so at once.

        Raises:
            OutputError: nothing can be written there.
        """
        with atomic_file(self.root / PLAN_FILE, parents=True, concurrent=True) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")

    @contextmanager
    def plan_lock(self) -> Iterator[None]:
        """Keep other drivers from the plan; wait for one that has it, but not for ever.

        Raises:
            OutputError: nothing can be written there.
        """
        with ExitStack() as lock:
            for _ in range(_LOCK_TRIES):
                try:
                    lock.enter_context(locked_folder(self.root))
                    break
                except OutputError:
                    if not self.root.is_dir():
                        raise
                    time.sleep(_LOCK_SECONDS)
            yield

    def result(self, key: str, suffix: str) -> Path:
        """Return the path of a result, which need not exist."""
        return self.root / UNITS / key[:2] / f"{key}{suffix}"

    def has_result(self, key: str, suffix: str) -> bool:
        """Return whether a result is there."""
        return self.result(key, suffix).exists()

    def fetch(self, key: str, suffix: str, folder: Path | None = None) -> Path:
        """Return the path of a result; nothing is copied to `folder`.

        Raises:
            ItemsError: there is no such result.
        """
        path = self.result(key, suffix)
        if not path.is_file():
            raise ItemsError(f"{path}: no such result")
        return path

    def done_keys(self) -> set[str]:
        """List the keys of the results."""
        return {path.stem for path in (self.root / UNITS).glob("??/*") if path.name[0] != "."}

    def failed_keys(self) -> set[str]:
        """List the keys of the clips that failed."""
        return {path.stem for path in (self.root / FAILED).glob("*.json") if path.name[0] != "."}

    def failure(self, key: str) -> Mapping[str, Any]:
        """Read why a clip failed; {} if it did not."""
        return read_json(self.root / FAILED / f"{key}.json") or {}

    def record_failure(self, key: str, record: Mapping[str, Any]) -> None:
        """Write why a clip failed."""
        write_json(self.root / FAILED / f"{key}.json", record)

    def forget_failure(self, key: str) -> None:
        """Remove the record of a failure."""
        (self.root / FAILED / f"{key}.json").unlink(missing_ok=True)

    def running_count(self) -> int:
        """Count the runs that are not finished and that a worker of this machine is at."""
        folders = [path for path in (self.root / WORK).glob("*") if path.is_dir()]
        return sum(_is_locked(folder) for folder in folders)

    def clips_per_minute(self) -> float | None:
        """Return the rate of the last runs of all workers, from their logs; None without any."""
        ends: list[tuple[float, float]] = []  # when a clip ended, and how long it took
        for record in self.log_records():
            if record.get("first"):
                ends.append((record["time"], record["seconds"]))
        if not ends:
            return None
        first = min(time - seconds for time, seconds in ends)
        return 60 * len(ends) / max(max(time for time, _ in ends) - first, 1e-3)

    def write_token(self, token: str) -> None:
        """Write a file by which other machines recognise this folder.

        Raises:
            OutputError: nothing can be written there.
        """
        write_text(self.root / WORK / f".{token}", "", parents=True)

    def remove_token(self, token: str) -> None:
        """Remove such a file."""
        (self.root / WORK / f".{token}").unlink(missing_ok=True)

    def check_shared(self, token: str) -> None:
        """Check that this machine sees the folder with the token, and can write into it.

        Raises:
            OutputError: it cannot.
        """
        if not (self.root / WORK / f".{token}").exists():
            raise OutputError(f"{self.root}: another folder than that of the driver: share it")
        check_writable(self.root / WORK)
        self.check_free()

    @contextmanager
    def attempt(self, key: str) -> Iterator[Path]:
        """Lock and yield a folder to make a result in; it may hold a part of an earlier run.

        Raises:
            OutputError: nothing can be written there.
        """
        for number in range(_ATTEMPTS):
            folder = self.root / WORK / f"{key}.{socket.gethostname()}.{number}"
            with ExitStack() as lock:
                try:
                    lock.enter_context(locked_folder(folder))
                except OutputError:
                    if not folder.is_dir() or number == _ATTEMPTS - 1:
                        raise
                    continue  # another worker is at it
                yield folder
                return

    def remove_attempts(self, keys: Collection[str]) -> None:
        """Remove what killed workers of this machine left of results that are there."""
        for folder in (self.root / WORK).glob(f"*.{socket.gethostname()}.*"):
            if folder.name.partition(".")[0] in keys:
                with suppress(OutputError), locked_folder(folder):  # unless a worker is at it
                    shutil.rmtree(folder, ignore_errors=True)

    def commit(self, key: str, draft: Path) -> bool:
        """Make a finished file the result of a key, and remove the folder it was made in.

        Returns False if another worker was first, with the same bytes.

        Raises:
            ResultsDiffer: another worker was first, with other bytes; both files are kept.
            OutputError: nothing can be written there.
        """
        final = self.result(key, draft.suffix)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            _sync(draft)
            is_first = _link(draft, final)
            if is_first:
                _sync(final.parent)
        except OSError as error:
            raise OutputError(f"{final}: cannot write there: {error.strerror or error}") from None
        if not is_first:
            self._compare(final, draft)
        shutil.rmtree(draft.parent, ignore_errors=True)
        return is_first

    def _compare(self, final: Path, draft: Path) -> None:
        line = first_difference(final, draft)
        if line:
            kept = self.root / DIFFERING / f"{draft.parent.name}{draft.suffix}"
            kept.parent.mkdir(exist_ok=True)
            draft.replace(kept)
            shutil.rmtree(draft.parent, ignore_errors=True)
            raise ResultsDiffer(
                f"not deterministic: two runs differ at line {line}: {final} and {kept}"
            )

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the log of this process, with the time."""
        path = self.root / LOG / f"{socket.gethostname()}-{os.getpid()}.jsonl"
        line = json.dumps({"time": round(time.time(), 3), **record}, ensure_ascii=False)
        with suppress(OSError):  # a log is no result
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def log_records(self) -> Iterator[Mapping[str, Any]]:
        """Read the lines of all logs."""
        for path in sorted((self.root / LOG).glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):  # the last line of a process that was killed
                    yield json.loads(line)

    def close(self) -> None:
        """Do nothing: each line of the log was written at once."""


def first_difference(one: Path, other: Path) -> int:
    """Return the number of the first line in which two results differ, from 1 on; 0 if in none.

    Of databases of scenes it is the number of the row. The name and the path of the clip do not
    count: its content is the same.
    """
    pairs: Iterator[tuple[object, object]]
    if one.suffix == ".jsonl":
        pairs = zip_longest(anonymous_lines(one), anonymous_lines(other))
    elif one.suffix == scenes_store.SUFFIX:
        pairs = zip_longest(anonymous_rows(one), anonymous_rows(other))
    else:
        pairs = zip_longest(one.open("rb"), other.open("rb"))
    return next((number for number, (mine, its) in enumerate(pairs, 1) if mine != its), 0)


def _link(draft: Path, final: Path) -> bool:
    """Give a file a second name, unless the name is taken; True if it was not."""
    try:
        os.link(draft, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # No links here. A copy under an exclusive name could be left half-written by a kill; a
        # rename cannot, and replaces at worst the equal result of a worker in the same instant.
        if final.exists():
            return False
        os.replace(draft, final)  # noqa: PTH105
    return True


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_locked(folder: Path) -> bool:
    try:
        with locked_folder(folder):
            return False
    except OutputError:
        return True
