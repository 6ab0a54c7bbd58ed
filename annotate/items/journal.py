"""Read, write, append to and resume files of items: JSON lines behind a header.

The first line is the header: stage, settings, model, vocabulary and clips. Each complete line after
the header is the item of one frame. A last line `{"end": N}` marks a complete run. A run that was
killed leaves a shorter file, at most with a half-written last line; the next run cuts that line off
and continues. A run with other settings is refused.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from annotate.errors import ItemsError, OutputError, SettingsDiffer
from annotate.files import OVERWRITE_HINT, atomic_file, refuse_foreign, refuse_input
from annotate.items.records import Header, Item, item_from_json, item_to_json, record_to_json
from annotate.locking.locks import open_locked

STDIO = Path("-")  # standard input, standard output
_MAX_HEADER_BYTES = 1 << 24  # bytes
END_START = '{"end"'


class Journal:
    """A file of items to read: its header, and its items; it can be iterated several times.

    A half-written last line is skipped; any other damage is an error that names the line.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._stream = iter(sys.stdin) if self.path == STDIO else None
        if self._stream is None and self.path.is_dir():
            raise ItemsError(f"{path}: a folder, not a file of items")
        lines = self._lines()
        try:
            first = next(lines, "")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise ItemsError(f"{path}: not a file of items that can be read: {reason}") from None
        if not first:
            raise ItemsError(f"{path}: empty, not a file of items")
        self.header = Header.from_json(first, f"{path}:1")

    def _lines(self) -> Iterator[str]:
        if self._stream is not None:
            for line in self._stream:  # noqa: UP028 - `yield from` would close the stream
                yield line
            return
        # a last line that was cut inside a character is no error
        with self.path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            yield from file

    def __iter__(self) -> Iterator[Item]:
        lines = self._lines()
        if self._stream is None:
            next(lines, None)
        count = 0
        for number, line in enumerate(lines, start=2):
            if not line.endswith("\n"):
                return
            if line.startswith(END_START):
                _check_count(line, count, f"{self.path}:{number}")
            else:
                yield item_from_json(line, f"{self.path}:{number}")
                count += 1


def _check_count(end_line: str, count: int, where: str) -> None:
    """Compare the number of items before the last line, `{"end": N}`, with its number.

    Raises:
        ItemsError: they differ: lines were removed or added.
    """
    try:
        expected = json.loads(end_line)["end"]
    except (ValueError, TypeError):
        expected = None
    if expected != count:
        raise ItemsError(
            f"{where}: damaged: {count} frames come before the last line, which says {expected}; "
            "take the whole file from a copy, or make it again with `force`"
        )


def clip_paths(path: Path) -> list[Path]:
    """List the paths of the clips that a file of items, or a dataset's, was made from.

    Returns [] for any other file or folder.
    """
    path = path / "items.jsonl" if path.is_dir() else path
    if path == STDIO or not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            line = file.readline(_MAX_HEADER_BYTES).decode()
        return _header_paths(Header.from_json(line, str(path)))
    except (ItemsError, OSError, UnicodeDecodeError):
        return []


def _header_paths(header: Header) -> list[Path]:
    entries = header.videos.values() if isinstance(header.videos, Mapping) else ()
    paths = [entry.get("path") for entry in entries if isinstance(entry, Mapping)]
    return [Path(each) for each in paths if isinstance(each, str)]


def read(path: Path | str) -> Journal:
    """Open a file of items to read; `-` is standard input.

    Raises:
        ItemsError: no such file, not a file of items, or a newer format.
    """
    return Journal(path)


def _can_resume(path: Path) -> bool:
    """Return True if a run can be resumed in this file: not in a stream or a device."""
    return path != STDIO and (path.is_file() or not path.exists())


class Appender:
    """A file of items that is being written; each line is flushed before the next begins."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self.name = file, name
        self.count = 0
        self.last: Item | None = None
        self.complete = False
        self._header_to_write = ""  # of a new run, in place of what the file still holds

    def restart(self, header_line: str) -> None:
        """Begin a new run; what the file holds is removed when the first line is written."""
        self._file.seek(0)
        self._header_to_write = header_line

    @property
    def keeps_old_run(self) -> bool:
        """True while the file still holds the earlier run that `restart` replaces."""
        return bool(self._header_to_write)

    @property
    def resumable(self) -> bool:
        """True if a run can be resumed in this file: not on standard output or a device."""
        return _can_resume(Path(self.name))

    @property
    def offset(self) -> int:
        """The size in bytes up to the end of the last complete line."""
        return self._file.tell()

    def write(self, item: Item) -> None:
        """Append one item and flush it."""
        self._write_line(item_to_json(item))
        self.count, self.last = self.count + 1, item

    def finish(self) -> None:
        """Mark the run as complete."""
        self._write_line(record_to_json({"end": self.count}))
        self.complete = True

    def rewind(self, offset: int) -> None:
        """Remove everything after `offset`, the end of a line written earlier."""
        self._file.truncate(offset)
        self._recover()

    def rewind_all(self) -> None:
        """Remove all items."""
        if self.last is not None:
            self._file.seek(0)
            self.rewind(len(self._file.readline()))

    def _write_line(self, text: str) -> None:
        if self._header_to_write:
            header_line, self._header_to_write = self._header_to_write, ""
            self._file.truncate(0)
            self._write_line(header_line)
        start = self._file.tell() if self._file.seekable() else None
        try:
            self._file.write(text.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            if start is not None:
                with suppress(OSError):  # a device cannot be cut back
                    self._file.truncate(start)
            kept = f"; the {self.count} frames before it are kept" if self.count else ""
            raise OutputError(f"{self.name}: cannot write: {error.strerror}{kept}") from None

    def _recover(self) -> None:
        """Count the complete lines, cut off a half-written one, and seek to the end."""
        self._file.seek(0)
        end = len(self._file.readline())
        self.count, last, self.complete = 0, b"", False
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            if line.startswith(END_START.encode()):
                _check_count(line.decode(errors="replace"), self.count, self.name)
                self.complete = True
            else:
                self.count, last = self.count + 1, line
        self._file.truncate(end)
        self._file.seek(end)
        where = f"{self.name}:{self.count + 1}"
        self.last = item_from_json(last.decode(errors="surrogateescape"), where) if last else None


def append(path: Path | str, header: Header, *, force: bool = False) -> AppendContext:
    """Start a file of items, or continue that of an equal run; `-` is standard output.

    Examples:
        >>> with append("boxes.jsonl", header) as out:  # doctest: +SKIP
        ...     for item in items:
        ...         out.write(item)

    If the run fails before its first item, the file is removed; with `force`, the earlier file
    stays until then.

    Raises:
        SettingsDiffer: the file was written with other settings; lists them.
        ItemsError: lines of the file were removed or added.
        OutputError: another kind of file is there, `path` is a clip of the header, another run is
            writing the file, or nothing can be written there.
    """
    return AppendContext(Path(path), header, force)


class AppendContext:
    """The context manager of `append`; it yields an Appender.

    The file is locked until the end. A run that fails before its first item leaves no file, or the
    earlier file that `force` would have replaced.
    """

    def __init__(self, path: Path, header: Header, force: bool) -> None:
        self._path, self._header, self._force = path, header, force
        self._appender: Appender | None = None
        self._file = self._open()

    def __enter__(self) -> Appender:
        self._appender = appender = Appender(self._file, str(self._path))
        try:
            if not _can_resume(self._path) or not self._file.seek(0, os.SEEK_END):
                appender._write_line(self._header.to_json())
            elif self._force:
                appender.restart(self._header.to_json())
            else:
                appender._recover()
        except BaseException:
            self._close()
            raise
        return appender

    def __exit__(self, error_type: type[BaseException] | None, *error: object) -> None:
        appender = self._appender
        if (
            error_type is not None
            and appender is not None
            and appender.resumable
            and not (appender.count or appender.complete or appender.keeps_old_run)
        ):
            self._path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._path != STDIO:
            with suppress(OSError):  # every line was flushed, or its failure has been raised
                self._file.close()

    def _open(self) -> IO[bytes]:
        if self._path == STDIO:
            return sys.stdout.buffer
        refuse_input(self._path, _header_paths(self._header))
        try:
            if not _can_resume(self._path):
                return self._path.open("wb")
            file = open_locked(self._path)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot write there: {error.strerror}") from None
        try:
            if self._force:
                refuse_foreign(self._path)
            elif self._holds_partial_header(file):
                file.truncate(0)
        except BaseException:
            file.close()
            raise
        return file

    def _holds_partial_header(self, file: IO[bytes]) -> bool:
        """Return True if the file has at most a part of this header; refuse any other content."""
        first = file.readline(_MAX_HEADER_BYTES)
        if not first.endswith(b"\n") and self._header.to_json().encode().startswith(first):
            return True
        try:
            existing = Header.from_json(first.decode(errors="replace"), f"{self._path}:1")
        except ItemsError as error:
            raise OutputError(f"{error}; {OVERWRITE_HINT}") from None
        check_same_settings(self._path, existing.differences(self._header))
        return False


def check_same_settings(path: Path, differences: Sequence[str]) -> None:
    """Refuse to continue the results of an earlier run at `path` if its settings differ.

    Raises:
        SettingsDiffer: `differences` is not empty; lists them.
    """
    if differences:
        raise SettingsDiffer(f"{path}: made with {'; '.join(differences)}: {OVERWRITE_HINT}")


def resume(
    path: Path | str,
    header: Header,
    write_rest: Callable[[Appender], None],
    *,
    force: bool = False,
    end_marker: bool = True,
) -> bool:
    """Start a file of items, or continue that of an equal run; False if it is complete already.

    `write_rest` writes the items that are missing; `appender.last` is the last item in the file.
    With `end_marker`, the file is then marked as complete.

    Raises:
        SettingsDiffer: the file was written with other settings; lists them.
        OutputError: another kind of file is there, or nothing can be written there.
    """
    with append(path, header, force=force) as appender:
        if appender.complete:
            return False
        write_rest(appender)
        if end_marker:
            appender.finish()
    return True


def resume_items(
    path: Path | str,
    header: Header,
    items_after: Callable[[int], Iterable[Item]],
    *,
    force: bool = False,
    progress: Callable[[Item], None] = lambda item: None,
) -> bool:
    """Write the items of one clip that are not yet in the file; see `resume`.

    `items_after` gets the index of the last frame in the file, -1 if there is none, and yields the
    items of the later frames. `progress` is called with each item when it is on disk.

    Examples:
        >>> resume_items("boxes.jsonl", header, lambda last: detect(last + 1))  # doctest: +SKIP
        True
    """

    def write_rest(appender: Appender) -> None:
        for item in items_after(-1 if appender.last is None else appender.last.frame):
            appender.write(item)
            progress(item)

    return resume(path, header, write_rest, force=force)


def write(path: Path | str, header: Header, items: Iterable[Item]) -> None:
    """Write a whole file of items atomically; `-` is standard output.

    Raises:
        OutputError: nothing can be written there.
    """
    path = Path(path)
    if path == STDIO:
        with append(path, header) as out:
            _write_all(out, items)
        return
    with atomic_file(path) as draft, append(draft, header, force=True) as out:
        _write_all(out, items)


def _write_all(out: Appender, items: Iterable[Item]) -> None:
    for item in items:
        out.write(item)
    out.finish()
