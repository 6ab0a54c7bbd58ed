"""Store the fingerprints of clips in one SQLite file.

A clip is stored whole or not at all: it is written in one transaction after all its frames were
fingerprinted. Several processes may write at once; if they add the same clip, the first one wins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from annotate.errors import ScenesError
from annotate.items.sequences import chunks
from annotate.sampling import phash
from annotate.scenes import fingerprint
from annotate.scenes.fingerprint import HASH_COUNT, SHAPE_WH, Fingerprint, Shapes

FORMAT_VERSION = 1
_APPLICATION_ID = 0x616E6E6F  # `anno`: SQLite's application id
_CHUNK_FRAMES = 64  # frames to a row: a match is verified by reading its row
_LOCK_TIMEOUT_SECONDS = 60.0  # to wait for another writer
_CLIP_COLUMNS = "id, name, fingerprint, path, width, height, duration, frames"  # of StoredClip
_SCHEMA = """
CREATE TABLE clips (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, fingerprint TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    duration TEXT NOT NULL, frames INTEGER NOT NULL);
CREATE TABLE hashes (
    id INTEGER PRIMARY KEY, clip INTEGER NOT NULL REFERENCES clips ON DELETE CASCADE,
    frames BLOB NOT NULL, seconds TEXT NOT NULL, hashes BLOB NOT NULL);
CREATE TABLE looks (
    id INTEGER PRIMARY KEY REFERENCES hashes ON DELETE CASCADE,
    layouts BLOB NOT NULL, shapes BLOB NOT NULL);
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
class StoredFrame:
    """A frame of a clip, and its fingerprint."""

    frame: int
    seconds: Fraction
    fingerprint: Fingerprint


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
        if not create and not path.is_file():
            raise ScenesError(f"{path}: no such file; make it with `annotate scenes add`")
        with self._sqlite_errors():
            self._file = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_SECONDS, isolation_level=None)
            self._file.execute("PRAGMA foreign_keys = ON")
            if create:
                self._create_tables()
            self._check_format()

    def __enter__(self) -> SceneStore:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def clips(self) -> list[StoredClip]:
        """List the clips, in the order in which they were added."""
        with self._sqlite_errors():
            rows = self._file.execute(f"SELECT {_CLIP_COLUMNS} FROM clips ORDER BY id").fetchall()
        names = [field.name for field in dataclasses.fields(StoredClip)]
        clips = [StoredClip(**dict(zip(names, row, strict=True))) for row in rows]
        return [dataclasses.replace(clip, duration=Fraction(clip.duration)) for clip in clips]

    def add(self, clip: StoredClip, stored_frames: Sequence[StoredFrame]) -> bool:
        """Write a clip and its frames; False if the database has the clip already.

        `id` and `frame_count` of the clip are ignored.
        """
        with self._sqlite_errors(), self._transaction():
            existing = self._file.execute(
                "SELECT 1 FROM clips WHERE fingerprint = ?", (clip.fingerprint,)
            ).fetchone()
            if existing:
                return False
            values = (clip.name, clip.fingerprint, clip.path, clip.width, clip.height)
            cursor = self._file.execute(
                "INSERT INTO clips VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
                (*values, str(clip.duration), len(stored_frames)),
            )
            clip_id = int(cursor.lastrowid or 0)
            for chunk in chunks(stored_frames, _CHUNK_FRAMES):
                self._add_chunk(clip_id, chunk)
        return True

    def remove(self, clip: StoredClip) -> None:
        """Remove a clip and its frames."""
        with self._sqlite_errors(), self._transaction():
            self._file.execute("DELETE FROM clips WHERE id = ?", (clip.id,))

    def chunks(self) -> Iterator[FrameChunk]:
        """Read the hashes of the frames of all clips, chunk by chunk."""
        with self._sqlite_errors():
            for id_, clip_id, frames, seconds, hashes in self._file.execute(
                "SELECT id, clip, frames, seconds, hashes FROM hashes ORDER BY id"
            ):
                hash_rows = np.frombuffer(hashes, "<u8").reshape(-1, HASH_COUNT)
                indices = np.frombuffer(frames, "<i8")
                yield FrameChunk(id_, clip_id, indices, seconds.split(" "), hash_rows)

    def shapes_and_layouts(self, chunk_id: int) -> tuple[Shapes, fingerprint.ColourLayout]:
        """Read the shapes (n, 36, 64) and the layouts (n, 33) of the frames of a chunk."""
        with self._sqlite_errors():
            query = "SELECT shapes, layouts FROM looks WHERE id = ?"
            row = self._file.execute(query, (chunk_id,)).fetchone()
            shapes, layouts = row or (b"", b"")
        wide, high = SHAPE_WH
        return (
            np.frombuffer(shapes, np.uint8).reshape(-1, high, wide),
            np.frombuffer(layouts, np.uint8).reshape(-1, fingerprint.LAYOUT_SIZE),
        )

    def _add_chunk(self, clip_id: int, stored_frames: Sequence[StoredFrame]) -> None:
        frames = np.array([each.frame for each in stored_frames], "<i8").tobytes()
        seconds = " ".join(str(each.seconds) for each in stored_frames)
        hashes = np.array([each.fingerprint.hashes for each in stored_frames], "<u8").tobytes()
        cursor = self._file.execute(
            "INSERT INTO hashes VALUES (NULL, ?, ?, ?, ?)", (clip_id, frames, seconds, hashes)
        )
        shapes = np.array([each.fingerprint.shape for each in stored_frames], np.uint8).tobytes()
        layouts = np.array([each.fingerprint.layout for each in stored_frames], np.uint8).tobytes()
        values = (cursor.lastrowid, layouts, shapes)
        self._file.execute("INSERT INTO looks VALUES (?, ?, ?)", values)

    def _create_tables(self) -> None:
        """Create the tables in an empty file."""
        with self._transaction():
            if not self._scalar("SELECT count(*) FROM sqlite_master"):
                for statement in _SCHEMA.split(";"):
                    self._file.execute(statement)
                self._file.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._file.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def _check_format(self) -> None:
        if self._scalar("PRAGMA application_id") != _APPLICATION_ID:
            raise ScenesError(f"{self.path}: not a database of scenes; give another `db`")
        if self._scalar("PRAGMA user_version") > FORMAT_VERSION:
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
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    @contextlib.contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        """Convert errors of SQLite to ScenesError."""
        try:
            yield
        except sqlite3.Error as error:
            raise ScenesError(f"{self.path}: cannot be used as scenes: {error}") from None
