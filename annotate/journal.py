"""Files of items: one JSON line a frame behind a header; append, resume, read.

The first line is the header. Every whole line after it is an item. A last line `{"end": N}` says
that the run which wrote the file reached its end. What a killed run leaves is a shorter file with,
at most, a half-written last line, which is cut off when the run goes on.
"""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

from annotate import __version__
from annotate.errors import ItemsError, OutputError, SettingsDiffer
from annotate.records import Item, Object

FORMAT = 1
STREAM = Path("-")  # standard input, standard output
_EDGE = 0.51  # pixels by which a box may overhang its picture: half a pixel of rounding


@dataclass(frozen=True)
class Header:
    """What a file of items was made from, and how.

    `settings` are all the options that shape the result. `vocabulary` is {"name", "sha256",
    "labels"}. `videos` is name -> {"path", "fingerprint", "frame_count", "width", "height"}.
    """

    stage: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    vocabulary: Mapping[str, Any] = field(default_factory=dict)
    videos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    version: str = __version__

    def to_json(self) -> str:
        """The header's line, without the line's end."""
        return _dumps({"annotate": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, line: str, where: str) -> "Header":
        """Read a header's line; `where` begins the error."""
        record = _parse(line, where)
        if "annotate" not in record:
            raise ItemsError(f"{where}: not a file of items: its first line is no header")
        if record["annotate"] > FORMAT:
            raise ItemsError(
                f"{where}: written by a newer annotate ({record.get('version')}, format "
                f"{record['annotate']}; this one reads {FORMAT}): pip install -U annotate-local"
            )
        try:
            return cls(**{key: value for key, value in record.items() if key != "annotate"})
        except TypeError as error:
            raise ItemsError(f"{where}: a damaged header: {error}") from None

    def differences(self, other: "Header") -> list[str]:
        """What differs between two runs, in words; where a video lies does not count."""
        mine, theirs = self._facts(), other._facts()
        return [
            f"{key}: {mine.get(key, 'not set')} in the file, {theirs.get(key, 'not set')} now"
            for key in {**mine, **theirs}
            if mine.get(key) != theirs.get(key)
        ]

    def _facts(self) -> dict[str, Any]:
        facts = {"annotate": self.version, "stage": self.stage, "model": self.model}
        facts |= {"vocabulary": self.vocabulary.get("name")}
        facts |= {"vocabulary's content": str(self.vocabulary.get("sha256"))[:12]}
        facts |= {f"clip {name}": video["fingerprint"][:12] for name, video in self.videos.items()}
        return facts | json.loads(_dumps(self.settings))


def _dumps(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str)


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        raise ItemsError(f"{where}: not JSON: {line[:60].strip()!r}") from None
    if not isinstance(record, dict):
        raise ItemsError(f"{where}: expected a JSON object, got {line[:60].strip()!r}")
    return record


def item_to_json(item: Item) -> str:
    """An item's line, without the line's end; keys that say nothing are left out."""
    objects = []
    for thing in item.objects:
        record: dict[str, Any] = {"label": thing.label, "box": list(thing.box), "score": thing.score}
        record |= {"track": thing.track} if thing.track is not None else {}
        record |= {"mask": dict(thing.mask)} if thing.mask is not None else {}
        objects.append(record | {"source": thing.source})
    head = {"video": item.video, "frame": item.frame, "seconds": str(item.seconds)}
    size = {"width": item.width, "height": item.height}
    lost = {"lost": list(item.lost)} if item.lost else {}
    return _dumps(head | size | {"objects": objects} | lost)


def item_from_json(line: str, where: str) -> Item:
    """Read and check an item's line; `where` begins the error.

    Raises:
        ItemsError: not an item, a box outside the picture, a mask of another size.
    """
    record = _parse(line, where)
    try:
        width, height = int(record["width"]), int(record["height"])
        objects = tuple(_object(each, width, height) for each in record["objects"])
        seconds = Fraction(record["seconds"])
        lost = tuple(record.get("lost", ()))
        return Item(record["video"], record["frame"], seconds, width, height, objects, lost)
    except KeyError as error:
        raise ItemsError(f"{where}: an item without {error}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ItemsError(f"{where}: {error}") from None


def _object(record: Mapping[str, Any], width: int, height: int) -> Object:
    x1, y1, x2, y2 = box = tuple(float(side) for side in record["box"])
    if not all(map(math.isfinite, box)) or x2 < x1 or y2 < y1:
        raise ValueError(f"box {list(box)} is not x1, y1, x2, y2")
    if min(x1, y1) < -_EDGE or x2 > width + _EDGE or y2 > height + _EDGE:
        raise ValueError(f"box {list(box)} is outside the picture of {width}x{height}")
    mask = record.get("mask")
    if mask is not None and list(mask["size"]) != [height, width]:
        raise ValueError(f"a mask of size {mask['size']}, but the picture is {[height, width]}")
    kept = {key: record.get(key) for key in ("score", "track", "mask")}
    return Object(record["label"], (x1, y1, x2, y2), **kept, source=record.get("source", ""))


class Journal:
    """A file of items, read: its header, and its items as often as it is iterated.

    A half-written last line is passed over; any other damage is an error that names its line.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._stream = iter(sys.stdin) if self.path == STREAM else None
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
            yield from self._stream
            return
        with self.path.open(encoding="utf-8", newline="\n") as file:
            yield from file

    def __iter__(self) -> Iterator[Item]:
        lines = self._lines()
        if self._stream is None:
            next(lines, None)
        for number, line in enumerate(lines, start=2):
            if not line.endswith("\n"):
                return
            if not line.startswith('{"end"'):
                yield item_from_json(line, f"{self.path}:{number}")


def read(path: Path | str) -> Journal:
    """Open a file of items; `-` is standard input.

    Raises:
        ItemsError: no such file, not a file of items, or a newer format.
    """
    return Journal(path)


class Appender:
    """A file of items, being written; every line is flushed before the next is begun."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self.name = file, name
        self.count = 0
        self.last: Item | None = None
        self.complete = False

    @property
    def offset(self) -> int:
        """Bytes up to the end of the last whole line."""
        return self._file.tell()

    def write(self, item: Item) -> None:
        """Append one item and flush it."""
        self._line(item_to_json(item))
        self.count, self.last = self.count + 1, item

    def finish(self) -> None:
        """Say that the run reached its end."""
        self._line(_dumps({"end": self.count}))
        self.complete = True

    def rewind(self, offset: int) -> None:
        """Forget what stands behind `offset`, the end of a line written earlier."""
        self._file.truncate(offset)
        self._recall()

    def rewind_all(self) -> None:
        """Forget every item."""
        if self.last is not None:
            self._file.seek(0)
            self.rewind(len(self._file.readline()))

    def _line(self, text: str) -> None:
        start = self._file.tell() if self._file.seekable() else None
        try:
            self._file.write(text.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            if start is not None:
                self._file.truncate(start)
            kept = f"; the {self.count} frames before it are kept" if start is not None else ""
            raise OutputError(f"{self.name}: cannot write: {error.strerror}{kept}") from None

    def _recall(self) -> None:
        """Count the whole lines, cut off a half-written one, and stand behind the last."""
        self._file.seek(0)
        end = len(self._file.readline())
        self.count, last, self.complete = 0, b"", False
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            if line.startswith(b'{"end"'):
                self.complete = True
            else:
                self.count, last = self.count + 1, line
        self._file.truncate(end)
        self._file.seek(end)
        where = f"{self.name}:{self.count + 1}"
        self.last = item_from_json(last.decode(), where) if last else None


def append(path: Path | str, header: Header, *, force: bool = False) -> "Appending":
    """Start a file of items, or go on with the one that an equal run left; `-` is standard output.

    >>> with append("boxes.jsonl", header) as out:  # doctest: +SKIP
    ...     for item in items:
    ...         out.write(item)

    Raises:
        SettingsDiffer: the file was written under other settings; says which.
        OutputError: there is another kind of file, or nothing can be written there.
    """
    return Appending(Path(path), header, force)


class Appending:
    """The open file of `append`, as a context."""

    def __init__(self, path: Path, header: Header, force: bool) -> None:
        self._path, self._header = path, header
        self._file = self._open(force)

    def __enter__(self) -> Appender:
        appender = Appender(self._file, str(self._path))
        if self._path != STREAM and self._file.seek(0, os.SEEK_END):
            appender._recall()
        else:
            appender._line(self._header.to_json())
        return appender

    def __exit__(self, *error: object) -> None:
        if self._path != STREAM:
            self._file.close()

    def _open(self, force: bool) -> IO[bytes]:
        if self._path == STREAM:
            return sys.stdout.buffer
        try:
            file = self._path.open("r+b" if self._path.exists() else "w+b")
        except OSError as error:
            raise OutputError(f"{self._path}: cannot write there: {error.strerror}") from None
        try:
            if force or self._is_our_beginning(file):
                file.truncate(0)
        except BaseException:
            file.close()
            raise
        return file

    def _is_our_beginning(self, file: IO[bytes]) -> bool:
        """Whether the file holds no more than a part of our header; refuse what is not ours."""
        first = file.readline()
        if not first.endswith(b"\n") and self._header.to_json().encode().startswith(first):
            return True
        cure = "give another -o, or --force to write over it"
        try:
            there = Header.from_json(first.decode(errors="replace"), f"{self._path}:1")
        except ItemsError as error:
            raise OutputError(f"{error}; {cure}") from None
        if differ := there.differences(self._header):
            raise SettingsDiffer(f"{self._path}: made with {'; '.join(differ)}: {cure}")
        return False


def write(path: Path | str, header: Header, items: Iterable[Item]) -> None:
    """Write a whole file of items at once, under a temporary name first."""
    path = Path(path)
    if path == STREAM:
        with append(path, header) as out:
            _write_all(out, items)
        return
    draft = path.with_name(path.name + ".part")
    try:
        with append(draft, header, force=True) as out:
            _write_all(out, items)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _write_all(out: Appender, items: Iterable[Item]) -> None:
    for item in items:
        out.write(item)
    out.finish()
