"""Hold the points of one clip while a person edits them: undo, the log and the points file.

After each action, the log is on disk first, then the points file is replaced. What is in memory can
be built again from the log alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from annotate.errors import ItemsError, OutputError, PromptError
from annotate.items.points import PromptScope
from annotate.web.point.document import Action, Document, apply_action
from annotate.web.point.log import SessionLog
from annotate.web.point.table import PointRow, PointTable, read_point_table

LOG_SUFFIX = ".session.jsonl"


def log_path(points: Path) -> Path:
    """Return the path of the log beside a file of points: `a.csv` has `a.session.jsonl`."""
    return points.with_name(points.stem + LOG_SUFFIX)


@dataclass(frozen=True)
class OutsideEdit:
    """What another program changed in the points file: rows that are new, and rows that are not
    there any more."""

    added: tuple[PointRow, ...]
    removed: tuple[PointRow, ...]
    error: str = ""  # why the file cannot be read


class PointSession:
    """The documents of a session, from the first to the present one and those undone."""

    def __init__(self, points: Path, scope: PromptScope, clip: Mapping[str, Any]) -> None:
        """Open the session of a points file: its log, or where there is none, the file itself.

        `clip` is {"clip": name, "fingerprint": ...}.

        Raises:
            PromptError: the points cannot be used.
            ItemsError, OutputError: the log is of another clip, is damaged, or cannot be written.
        """
        self.points, self.scope = points, scope
        first = None if log_path(points).exists() else read_point_table(points, scope)
        self._log = SessionLog(log_path(points), clip)
        self._documents, self._position = [Document()], 0
        self.revision = 0
        self.seen: set[int] = set()  # frames that a person has looked at
        self.save_error = ""  # why the points file is behind the log
        try:
            self._recover(first)
        except BaseException:
            self.close()
            raise

    def _recover(self, first: PointTable | None) -> None:
        """Build the documents from the log; `first` is the table with which a new log begins."""
        for record in self._log.records:
            self._replay(record)
        if first is not None and first.rows:
            begin = {"begin": first.to_csv().decode()}
            self._log.append(begin)
            self._replay(begin)
        self._saved = self._file_digest()
        self._is_own_file = self._saved is None or self._was_written_here(self._saved)
        is_new = self._saved is None and not self.document.rows
        if (
            self._is_own_file
            and not is_new
            and self._saved != _digest(self.document.table.to_csv())
        ):
            self._write()  # a crash came between the log and the file

    @property
    def document(self) -> Document:
        """The present document."""
        return self._documents[self._position]

    @property
    def can_undo(self) -> bool:
        """Whether there is an action to undo."""
        return self._position > 0

    @property
    def can_redo(self) -> bool:
        """Whether an undone action can be done again."""
        return self._position + 1 < len(self._documents)

    def act(self, action: Action) -> Document:
        """Do an action, and save it.

        Where the log has the action but the points file cannot be written, `save_error` says why.

        Raises:
            PromptError: the action cannot be done; nothing has changed.
            OutputError: it cannot be logged; nothing has changed.
        """
        self._refuse_outside_edit()
        after = apply_action(self.document, action, self.scope)
        self._append({"act": dict(action)}, after)
        self._write()
        return after

    def preview(self, action: Action) -> Document:
        """Return the document that an action would give; nothing is changed.

        Raises:
            PromptError: the action cannot be done.
        """
        return apply_action(self.document, action, self.scope)

    def note_seen(self, frames: Iterable[int]) -> None:
        """Note that a person has looked at frames.

        Raises:
            OutputError: it cannot be logged.
        """
        if new := sorted(set(frames) - self.seen):
            self._log.append({"seen": new})
            self.seen.update(new)

    def undo(self) -> Document:
        """Go back to the document before the last action."""
        return self._step("undo", -1, self.can_undo)

    def redo(self) -> Document:
        """Do the last undone action again."""
        return self._step("redo", 1, self.can_redo)

    def _step(self, name: str, by: int, possible: bool) -> Document:
        self._refuse_outside_edit()
        if not possible:
            raise PromptError(f"there is nothing to {name}")
        self._log.append({name: 1})
        self._position += by
        self.revision += 1
        self._write()
        return self.document

    def outside_edit(self) -> OutsideEdit | None:
        """Return what another program changed in the points file since it was written here."""
        digest = self._file_digest()
        if digest == self._saved and self._is_own_file:
            return None
        if digest is None:  # removed by another program: it is written again
            if self._saved is not None:
                self._write()
            return None
        try:
            theirs = read_point_table(self.points, self.scope).rows
        except PromptError as error:
            return OutsideEdit((), (), str(error))
        old, new = ({row.key: row for row in rows} for rows in (self.document.rows, theirs))
        return OutsideEdit(
            tuple(row for key, row in new.items() if key not in old),
            tuple(row for key, row in old.items() if key not in new),
        )

    def take_outside_edit(self) -> Document:
        """Go on with the points file as another program left it; undo brings the own rows back.

        Raises:
            PromptError: the file cannot be read.
        """
        table = read_point_table(self.points, self.scope)
        self._append({"load": table.to_csv().decode()}, replace(self.document, table=table))
        self._saved, self._is_own_file = self._file_digest(), True
        return self.document

    def keep_own_rows(self) -> Document:
        """Write the points file again, over what another program left."""
        self._is_own_file = True
        self._write()
        return self.document

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _refuse_outside_edit(self) -> None:
        if self.outside_edit() is not None:
            raise OutputError(
                f"{self.points} was changed by another program: take its rows, or keep yours"
            )

    def _append(self, record: Mapping[str, Any], after: Document) -> None:
        self._log.append(record)
        self._push(after)

    def _push(self, document: Document) -> None:
        del self._documents[self._position + 1 :]
        self._documents.append(document)
        self._position += 1
        self.revision += 1

    def _replay(self, record: Mapping[str, Any]) -> None:
        if "begin" in record:  # the table as it was before the first action
            self._documents[0] = Document(self._table_of(record["begin"]))
            return
        if "seen" in record:
            self.seen.update(record["seen"])
            return
        if "act" in record:
            self._push(apply_action(self.document, record["act"], self.scope))
            return
        if "load" in record:
            self._push(replace(self.document, table=self._table_of(record["load"])))
            return
        step = 1 if "redo" in record else -1
        if not (
            {"undo", "redo"} & set(record) and 0 <= self._position + step < len(self._documents)
        ):
            raise ItemsError(f"{log_path(self.points)}: damaged: {record}")
        self._position += step
        self.revision += 1

    def _table_of(self, text: str) -> PointTable:
        """Read a table from the text of its file, which the log holds."""
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            path = Path(folder) / self.points.name
            path.write_bytes(text.encode())
            return read_point_table(path, self.scope)

    def _was_written_here(self, digest: str) -> bool:
        """Tell whether a file is the table of one of the documents, the latest ones first."""
        latest = self._documents[max(self._position - 1, 0) : self._position + 2]
        return any(
            _digest(document.table.to_csv()) == digest
            for document in (*reversed(latest), *self._documents)
        )

    def _write(self) -> None:
        """Write the points file; if that fails, the log has the action, and the page says why."""
        try:
            self.document.table.write(self.points)
        except OutputError as error:
            self.save_error = f"{error}. Your actions are in {log_path(self.points)}"
            return
        self.save_error = ""
        self._saved = _digest(self.document.table.to_csv())

    def _file_digest(self) -> str | None:
        return _digest(self.points.read_bytes()) if self.points.exists() else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
