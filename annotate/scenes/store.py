"""Store the fingerprints of clips in one SQLite file.

A clip is stored whole or not at all. Its frames are packed chunk by chunk into a temporary table of
SQLite, on disk, and copied in one transaction after the last one. Several processes may write at
once; if they add the same clip, the first one wins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from annotate.errors import ScenesError
from annotate.items.sequences import chunks
from annotate.sampling import phash
from annotate.scenes import packing
from annotate.scenes.packing import CHUNK_FRAMES, Looks, PackedChunk, StoredFrame

FORMAT_VERSION = 2
SUFFIX = ".db"  # of a file that this program names
_APPLICATION_ID = 0x616E6E6F  # `anno`: SQLite's application id
_LOCK_TIMEOUT_SECONDS = 60.0  # to wait for another writer
_PAGE_BYTES = 1024  # of the file; the last page of each blob is partly empty
_CLIP_COLUMNS = "id, name, fingerprint, path, width, height, duration, frames"  # of StoredClip
_PACKED_SCHEMA = """
CREATE TEMP TABLE packed (
    id INTEGER PRIMARY KEY, frames BLOB, seconds BLOB, hashes BLOB, layouts BLOB,
    rows BLOB, fidelity BLOB, levels BLOB)
"""
_SCHEMA = """
CREATE TABLE clips (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, fingerprint TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    duration TEXT NOT NULL, frames INTEGER NOT NULL);
CREATE TABLE hashes (
    id INTEGER PRIMARY KEY, clip INTEGER NOT NULL REFERENCES clips ON DELETE CASCADE,
    frames BLOB NOT NULL, seconds BLOB NOT NULL, hashes BLOB NOT NULL);
CREATE TABLE looks (
    id INTEGER PRIMARY KEY REFERENCES hashes ON DELETE CASCADE,
    layouts BLOB NOT NULL, rows BLOB NOT NULL, fidelity BLOB NOT NULL, levels BLOB NOT NULL);
CREATE INDEX hashes_of_clips ON hashes (clip);
"""


@dataclass(frozen=True)
class StoredClip:
    """A clip of the database: `duration` in seconds, `frame_count` stored frames."""

    id: int
    name: str
    fingerprint: str
    path: str
    width: int
    height: int
    duration: Fraction
    frame_count: int


@dataclass(frozen=True)
class FrameChunk:
    """Consecutive stored frames of a clip: `frames` (n,), `seconds`, and `hashes` (n, 6)."""

    id: int
    clip_id: int
    frames: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    seconds: Sequence[str]
    hashes: phash.Hashes


class SceneStore:
    """An open database file of scenes; as a context manager, it closes the file.

    Raises:
        ScenesError: not a file of scenes, of a newer version, or locked by another program.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self._is_new = create and not path.exists()
        if not create and not path.is_file():
            raise ScenesError(f"{path}: no such file; make it with `annotate scenes add`")
        with self._sqlite_errors():
            self._file = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_SECONDS, isolation_level=None)
        try:
            with self._sqlite_errors():
                self._file.execute("PRAGMA foreign_keys = ON")
                if create:
                    self._create_tables()
                self._check_format()
        except ScenesError:
            self._discard_new_file()
            raise

    def __enter__(self) -> SceneStore:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, ScenesError):
            self._discard_new_file()
        self._file.close()

    def _discard_new_file(self) -> None:
        """Close and remove a file that was made here and could not be written, as on a full disk.

        Another process that has opened it gets an error of SQLite when it writes.
        """
        with contextlib.suppress(sqlite3.Error):
            if not self._is_new or self._scalar("SELECT count(*) FROM clips"):
                return
        self._file.close()
        self.path.unlink(missing_ok=True)

    def clips(self) -> list[StoredClip]:
        """List the clips, in the order in which they were added."""
        with self._sqlite_errors():
            rows = self._file.execute(f"SELECT {_CLIP_COLUMNS} FROM clips ORDER BY id").fetchall()
        names = [field.name for field in dataclasses.fields(StoredClip)]
        clips = [StoredClip(**dict(zip(names, row, strict=True))) for row in rows]
        return [dataclasses.replace(clip, duration=Fraction(clip.duration)) for clip in clips]

    def add(self, clip: StoredClip, stored_frames: Iterable[StoredFrame]) -> bool:
        """Write a clip and its frames; False if the database has the clip already.

        `id` and `frame_count` of the clip are ignored. The frames are taken one by one.
        """
        return self.add_packed(clip, map(packing.pack, chunks(stored_frames, CHUNK_FRAMES)))

    def add_packed(self, clip: StoredClip, packed_chunks: Iterable[PackedChunk]) -> bool:
        """Write a clip whose frames are packed, such as one of another database; see `add`."""
        with self._sqlite_errors():
            if self._has(clip):
                return False
            self._file.execute("DROP TABLE IF EXISTS temp.packed")
            self._file.execute(_PACKED_SCHEMA)
        frame_count = 0
        for chunk in packed_chunks:
            frame_count += chunk.frame_count
            row = dataclasses.astuple(chunk)
            with self._sqlite_errors():
                self._file.execute("INSERT INTO packed VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)
        with self._sqlite_errors(), self._transaction():
            if self._has(clip):
                return False
            self._copy_packed(dataclasses.replace(clip, frame_count=frame_count))
        return True

    def _has(self, clip: StoredClip) -> bool:
        query = "SELECT 1 FROM clips WHERE fingerprint = ?"
        return self._file.execute(query, (clip.fingerprint,)).fetchone() is not None

    def _copy_packed(self, clip: StoredClip) -> None:
        """Write a clip with the chunks that were packed."""
        values = (clip.name, clip.fingerprint, clip.path, clip.width, clip.height)
        cursor = self._file.execute(
            "INSERT INTO clips VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
            (*values, str(clip.duration), clip.frame_count),
        )
        first = "(SELECT coalesce(max(id), 0) FROM hashes)"
        [start] = self._file.execute(f"SELECT {first}").fetchone()
        self._file.execute(
            "INSERT INTO hashes SELECT id + ?, ?, frames, seconds, hashes FROM packed ORDER BY id",
            (start, cursor.lastrowid),
        )
        self._file.execute(
            "INSERT INTO looks SELECT id + ?, layouts, rows, fidelity, levels FROM packed",
            (start,),
        )

    def packed_chunks(self, clip: StoredClip) -> Iterator[PackedChunk]:
        """Read the frames of a clip as they are stored, chunk by chunk."""
        columns = ", ".join(field.name for field in dataclasses.fields(PackedChunk))
        query = f"SELECT {columns} FROM hashes JOIN looks USING (id) WHERE clip = ? ORDER BY id"
        with self._sqlite_errors():
            for row in self._file.execute(query, (clip.id,)):
                yield PackedChunk(*row)

    def remove(self, clip: StoredClip) -> None:
        """Remove a clip and its frames."""
        with self._sqlite_errors(), self._transaction():
            self._file.execute("DELETE FROM clips WHERE id = ?", (clip.id,))

    def chunks(self) -> Iterator[FrameChunk]:
        """Read the hashes of the frames of all clips, chunk by chunk."""
        with self._sqlite_errors():
            for id_, clip_id, *packed in self._file.execute(
                "SELECT id, clip, frames, seconds, hashes FROM hashes ORDER BY id"
            ):
                yield FrameChunk(id_, clip_id, *packing.unpack_frames(*packed))

    def looks(self, chunk_id: int) -> Looks:
        """Read what verifies a match with the frames of a chunk."""
        with self._sqlite_errors():
            query = "SELECT layouts, rows, fidelity, levels FROM looks WHERE id = ?"
            row = self._file.execute(query, (chunk_id,)).fetchone()
            if row is None:
                raise ScenesError(f"{self.path}: a clip was removed meanwhile; search again")
            return packing.unpack_looks(*row)

    def _create_tables(self) -> None:
        """Create the tables in an empty file."""
        self._file.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # of a file that is empty yet
        with self._transaction():
            if not self._scalar("SELECT count(*) FROM sqlite_master"):
                for statement in _SCHEMA.split(";"):
                    self._file.execute(statement)
                self._file.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._file.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def _check_format(self) -> None:
        if self._scalar("PRAGMA application_id") != _APPLICATION_ID:
            raise ScenesError(f"{self.path}: not a database of scenes; give another `db`")
        version = self._scalar("PRAGMA user_version")
        if version < FORMAT_VERSION:
            raise ScenesError(
                f"{self.path}: made by an older annotate, which stored scenes in another way; add "
                "the clips again to a new `db`"
            )
        if version > FORMAT_VERSION:
            raise ScenesError(
                f"{self.path}: made by a newer annotate: pip install -U annotate-local"
            )

    def _scalar(self, query: str) -> int:
        return int(self._file.execute(query).fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._file.execute("COMMIT")
        except BaseException:
            if self._file.in_transaction:  # else SQLite has rolled back, as on a full disk
                self._file.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        """Convert errors of SQLite, and of damaged data, to ScenesError."""
        try:
            yield
        except (sqlite3.Error, zlib.error, ValueError) as error:
            raise ScenesError(f"{self.path}: cannot be used as scenes: {error}") from None
