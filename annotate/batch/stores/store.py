"""The output of a batch, whatever it is: a folder, or a prefix in a bucket of an object store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from annotate.batch.stores.bucket import is_url
from annotate.batch.stores.folder import FolderStore
from annotate.batch.stores.object_store import ObjectStore


class BatchStore(Protocol):
    """The output of a batch: results that are there as a whole or not at all, each written once.

    It is sent to the workers, which may be on other machines. Every method that reads or writes
    raises an OutputError where that is not possible.
    """

    @property
    def place(self) -> str:
        """The path or the address of the output."""

    @property
    def local(self) -> Path:
        """A folder of this machine, for what is not finished and for what workers print."""

    def check_writable(self) -> None:
        """Check that results can be written, each once."""

    def refuse_foreign(self) -> None:
        """Check that nothing of something else would be mixed with the results."""

    def read_plan(self) -> str | None:
        """Read the text of the plan; None where there is none."""

    def write_plan(self, text: str) -> None:
        """Write the plan; several drivers may do so at once."""

    def plan_lock(self) -> AbstractContextManager[None]:
        """Keep other drivers from the plan, where that is possible; wait for one that has it."""

    def done_keys(self) -> set[str]:
        """List the keys of the results."""

    def has_result(self, key: str, suffix: str) -> bool:
        """Return whether a result is there."""

    def fetch(self, key: str, suffix: str, folder: Path | None = None) -> Path:
        """Return a file of this machine with a result, which must not be changed.

        Where results are not on this machine it is a copy in `folder`, by default in a cache.

        Raises:
            ItemsError: there is no such result.
        """

    def failed_keys(self) -> set[str]:
        """List the keys of the clips that failed."""

    def failure(self, key: str) -> Mapping[str, Any]:
        """Read why a clip failed; {} if it did not."""

    def record_failure(self, key: str, record: Mapping[str, Any]) -> None:
        """Write why a clip failed."""

    def forget_failure(self, key: str) -> None:
        """Remove the record of a failure."""

    def running_count(self) -> int:
        """Count the runs that are not finished and that a worker of this machine is at."""

    def clips_per_minute(self) -> float | None:
        """Return the rate at which results came; None where that is not known."""

    def write_token(self, token: str) -> None:
        """Write a token by which other machines recognise this output."""

    def remove_token(self, token: str) -> None:
        """Remove such a token."""

    def check_shared(self, token: str) -> None:
        """Check that this machine sees the token, and can write."""

    def attempt(self, key: str) -> AbstractContextManager[Path]:
        """Lock a folder to make a result in; it may hold a part of an earlier run."""

    def remove_attempts(self, keys: Collection[str]) -> None:
        """Remove what killed workers of this machine left of results that are there."""

    def commit(self, key: str, draft: Path) -> bool:
        """Make a finished file the result of a key, and remove the folder it was made in.

        Returns False if another worker was first, with the same bytes.

        Raises:
            ResultsDiffer: another worker was first, with other bytes; both files are kept.
        """

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the log of this process, with the time."""

    def close(self) -> None:
        """Write what this machine has still to write of the log, at the end of a run."""


def open_store(place: Path | str) -> BatchStore:
    """Return the store at a path, or at an address such as `s3://bucket/prefix`.

    Raises:
        OutputError: an address of another kind.
        MissingPackage: a package for object stores is not installed.
    """
    return ObjectStore(str(place)) if is_url(place) else FolderStore(Path(place))


def join_place(place: Path | str, name: str) -> Path | str:
    """Return the place of this name inside another.

    Examples:
        >>> join_place("s3://bucket/show", "detect")
        's3://bucket/show/detect'
    """
    return f"{str(place).rstrip('/')}/{name}" if is_url(place) else Path(place) / name
