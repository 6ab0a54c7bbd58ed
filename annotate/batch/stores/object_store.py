"""The output of a batch in an object store: the layout of a folder, as objects under a prefix.

A result is made on this machine and sent by a PUT that fails if the object is there
(`If-None-Match: *`), as the link in a folder does. An object is there as a whole or not at all, and
cannot be appended to: the log goes there in pieces. What is not finished stays on this machine, in
the user's cache folder.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from annotate.batch.stores.bucket import BucketFolder, ObjectInfo
from annotate.batch.stores.folder import (
    DIFFERING,
    FAILED,
    LOG,
    PLAN_FILE,
    UNITS,
    WORK,
    FolderStore,
    first_difference,
)
from annotate.errors import ItemsError, OutputError, ResultsDiffer
from annotate.files import atomic_file, cache_dir, json_digest, parse_json

_FETCHED = "fetched"  # copies of results on this machine
_LOG_SECONDS = 60  # between pieces of the log of a process


class ObjectStore:
    """The output of a batch under an address such as `s3://bucket/prefix`.

    Raises:
        OutputError: the address is not one of S3.
        MissingPackage: s3fs is not installed.
    """

    def __init__(self, url: str) -> None:
        self._bucket = BucketFolder(url)
        server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        digest = json_digest({"url": self._bucket.url, "server": server})
        self._local = FolderStore(cache_dir("batch", digest[:16]))
        self._written: dict[str, ObjectInfo] = {}  # of the last listing of results
        self._log_time: float | None = None  # of the last piece

    @property
    def place(self) -> str:
        """The address."""
        return self._bucket.url

    @property
    def local(self) -> Path:
        """A folder of this machine: what is not finished, and what workers print."""
        return self._local.root

    def check_writable(self) -> None:
        """Check that a result can be written, and only once.

        Raises:
            OutputError: the bucket is not there or refuses it, the store ignores `If-None-Match`,
                or the disk of this machine is nearly full.
        """
        self._local.check_free()
        name = f"{WORK}/.{uuid.uuid4().hex}"
        self._bucket.create(name, b"")
        can_replace = self._bucket.create(name, b"")
        self._bucket.remove(name)
        if can_replace:
            raise OutputError(
                f"{self.place}: this object store ignores If-None-Match, without which a result "
                "could be written twice: give another one, or a folder"
            )

    def refuse_foreign(self) -> None:
        """Check that no objects of something else would be mixed with the results.

        Raises:
            OutputError: there are such.
        """
        if self._bucket.exists(PLAN_FILE):
            return
        for name in (UNITS, FAILED):
            if self._bucket.has_names(f"{name}/"):
                raise OutputError(
                    f"{self.place}/{name}: not of such a run (no {PLAN_FILE} beside it): "
                    "give another output"
                )

    def read_plan(self) -> str | None:
        """Read the text of the plan; None where there is none."""
        data = self._bucket.read(PLAN_FILE)
        return None if data is None else data.decode("utf-8", errors="replace")

    def write_plan(self, text: str) -> None:
        """Write the plan; of several drivers that do so at once the last one's stays."""
        self._bucket.write(PLAN_FILE, text.encode())

    def plan_lock(self) -> AbstractContextManager[None]:
        """Do nothing: there are no locks."""
        return nullcontext()

    def done_keys(self) -> set[str]:
        """List the keys of the results: a request for each thousand."""
        self._written = self._bucket.names(f"{UNITS}/")
        return _stems(self._written)

    def has_result(self, key: str, suffix: str) -> bool:
        """Return whether a result is there."""
        return self._bucket.exists(_unit_name(key, suffix))

    def fetch(self, key: str, suffix: str, folder: Path | None = None) -> Path:
        """Download a result, unless it was downloaded before: results never change.

        Raises:
            ItemsError: there is no such result.
        """
        name, path = _unit_name(key, suffix), (folder or self.local / _FETCHED) / f"{key}{suffix}"
        if not path.exists():
            with atomic_file(path, parents=True, concurrent=True) as draft:
                if not self._bucket.download(name, draft):
                    raise ItemsError(f"{self.place}/{name}: no such result")
        return path

    def failed_keys(self) -> set[str]:
        """List the keys of the clips that failed."""
        return _stems(self._bucket.names(f"{FAILED}/"))

    def failure(self, key: str) -> Mapping[str, Any]:
        """Read why a clip failed; {} if it did not."""
        data = self._bucket.read(_failure_name(key))
        with suppress(ValueError):
            record = parse_json(data or b"{}")
            return record if isinstance(record, dict) else {}
        return {}

    def record_failure(self, key: str, record: Mapping[str, Any]) -> None:
        """Write why a clip failed."""
        self._bucket.write(_failure_name(key), json.dumps(record).encode())

    def forget_failure(self, key: str) -> None:
        """Remove the record of a failure."""
        self._bucket.remove(_failure_name(key))

    def running_count(self) -> int:
        """Count the runs that are not finished and that a worker of this machine is at."""
        return self._local.running_count()

    def clips_per_minute(self) -> float | None:
        """Return the rate at which results were written; None before the second one."""
        results = self._written or self._bucket.names(f"{UNITS}/")
        times = [info.written for info in results.values()]
        if len(times) <= 1:
            return None
        return 60 * (len(times) - 1) / max((max(times) - min(times)).total_seconds(), 1)

    def write_token(self, token: str) -> None:
        """Write an object by which other machines recognise this output."""
        self._bucket.write(f"{WORK}/.{token}", b"")

    def remove_token(self, token: str) -> None:
        """Remove such an object."""
        self._bucket.remove(f"{WORK}/.{token}")

    def check_shared(self, token: str) -> None:
        """Check that this machine sees the token, and can write.

        Raises:
            OutputError: it cannot.
        """
        if not self._bucket.exists(f"{WORK}/.{token}"):
            raise OutputError(f"{self.place}: another object store than that of the driver")
        self.check_writable()

    def attempt(self, key: str) -> AbstractContextManager[Path]:
        """Lock and yield a folder of this machine to make a result in."""
        return self._local.attempt(key)

    def remove_attempts(self, keys: Collection[str]) -> None:
        """Remove what killed workers of this machine left of results that are there."""
        self._local.remove_attempts(keys)

    def commit(self, key: str, draft: Path) -> bool:
        """Send a finished file as the result of a key, and remove the folder it was made in.

        Returns False if another worker was first, with the same bytes.

        Raises:
            ResultsDiffer: another worker was first, with other bytes; both are kept.
            OutputError: it cannot be written.
        """
        name = _unit_name(key, draft.suffix)
        is_first = self._bucket.upload_new(name, draft)
        if not is_first:
            self._compare(name, draft)
        shutil.rmtree(draft.parent, ignore_errors=True)
        return is_first

    def _compare(self, name: str, draft: Path) -> None:
        first = draft.with_name(f"first{draft.suffix}")
        self._bucket.download(name, first)
        if line := first_difference(first, draft):
            kept = f"{DIFFERING}/{draft.parent.name}{draft.suffix}"
            self._bucket.upload(kept, draft)
            shutil.rmtree(draft.parent, ignore_errors=True)
            raise ResultsDiffer(
                f"not deterministic: two runs differ at line {line}: "
                f"{self.place}/{name} and {self.place}/{kept}"
            )

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the log of this process, and send a piece of it now and then."""
        self._local.log(record)
        now = time.monotonic()
        if self._log_time is None:
            self._log_time = now
        if now - self._log_time >= _LOG_SECONDS:
            self._log_time = now
            self._send_logs(f"*-{os.getpid()}")

    def close(self) -> None:
        """Send what is left of the logs of this machine."""
        self._send_logs("*")

    def _send_logs(self, stem: str) -> None:
        """Send files of the log; each is taken out of the way of its writer first."""
        folder = self.local / LOG
        with suppress(OSError, OutputError):  # a log is no result
            for path in folder.glob(f"{stem}.jsonl"):
                if path.name[0] != ".":
                    path.rename(path.with_name(f".{path.stem}-{time.time_ns()}{path.suffix}"))
            for path in folder.glob(f".{stem}-*.jsonl"):
                self._bucket.upload(f"{LOG}/{path.name[1:]}", path)
                path.unlink()


def _unit_name(key: str, suffix: str) -> str:
    return f"{UNITS}/{key[:2]}/{key}{suffix}"


def _failure_name(key: str) -> str:
    return f"{FAILED}/{key}.json"


def _stems(names: Mapping[str, Any]) -> set[str]:
    return {PurePosixPath(name).stem for name in names}
