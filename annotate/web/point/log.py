"""Keep every action of a session in a file, on disk before the page gets its answer.

The file is only appended to: undo is a line too. A line that was cut by a crash was not yet
acknowledged, and is removed when the file is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from annotate.errors import ItemsError, OutputError

_FORMAT = "annotate-point-session"
FORMAT_VERSION = 1


class SessionLog:
    """The log of one session; `records` are those of earlier runs, in order."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Open a log, or begin one with `header`, which names the clip.

        Raises:
            ItemsError: the file is no such log, or of another clip or a newer version.
            OutputError: it cannot be written.
        """
        self.path = path
        self.records: list[dict[str, Any]] = []
        header = {_FORMAT: FORMAT_VERSION, **header}
        try:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            whole = [line for line in lines if line.endswith(b"\n")]
            self._check(whole, header)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            self._file.truncate(sum(map(len, whole)))
        except OSError as error:
            raise OutputError(f"{path}: cannot write there: {error.strerror or error}") from None
        if not whole:
            self.append(header)

    def _check(self, lines: list[bytes], header: Mapping[str, Any]) -> None:
        for number, line in enumerate(lines):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise ItemsError(
                    f"{self.path}, line {number + 1}: damaged; move the file away to begin a new "
                    "session from the points"
                )
            self.records.append(record)
        if not self.records:
            return
        found = self.records.pop(0)
        if _FORMAT not in found or found[_FORMAT] > FORMAT_VERSION:
            raise ItemsError(f"{self.path}: not a log of a session that this version reads")
        if found.get("fingerprint") != header.get("fingerprint"):
            raise ItemsError(
                f"{self.path}: the session of another clip, {found.get('clip')}; give another file "
                "of points, or move the log away"
            )

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record; it is on disk when this returns.

        Raises:
            OutputError: it cannot be written; nothing of it stays in the file.
        """
        end = self._file.tell()
        try:
            line = json.dumps(record, ensure_ascii=True, separators=(",", ":")) + "\n"
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._reopen(end)
            raise OutputError(
                f"{self.path}: cannot write there: {error.strerror or error}; the action was not "
                "saved"
            ) from None

    def _reopen(self, end: int) -> None:
        """Open the file again without what a failed write has left, also in the buffer."""
        with suppress(OSError):
            self._file.close()
        self._file = self.path.open("ab")
        self._file.truncate(end)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
