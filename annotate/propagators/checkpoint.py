"""Keep the files of an unfinished run: checkpoints of its passes, and items not yet merged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile

import numpy as np

from annotate.files import atomic_file
from annotate.items.journal import END_START, STDIO, Appender
from annotate.items.records import Item, State, item_from_json

_OFFSET_KEY = "journal.offset"


@dataclass(frozen=True)
class RunFiles:
    """The files beside a file of items that only an unfinished run needs."""

    folder: Path
    name: str

    @property
    def forward_state(self) -> Path:
        """The checkpoint of the forward pass."""
        return self.folder / f"{self.name}.state.npz"

    @property
    def backward_state(self) -> Path:
        """The checkpoint of the backward pass."""
        return self.folder / f"{self.name}.backward.state.npz"

    @property
    def backward_items(self) -> Path:
        """The items of the backward pass, until the forward pass has merged them."""
        return self.folder / f"{self.name}.backward.jsonl"

    @property
    def update_items(self) -> Path:
        """The items of the objects that an update tracks again."""
        return self.folder / f"{self.name}.update.jsonl"

    def clear(self) -> None:
        """Remove the files, except `update_items`, which belong to a run of their own."""
        for path in (self.forward_state, self.backward_state, self.backward_items):
            path.unlink(missing_ok=True)


@contextmanager
def open_run_files(out: Path) -> Iterator[RunFiles]:
    """Yield the files beside `out`; those of standard output are removed after the run."""
    if out != STDIO:
        yield RunFiles(out.parent, out.name)
        return
    with TemporaryDirectory() as folder:
        yield RunFiles(Path(folder), "items")


def write_checkpoint(path: Path, state: State, out: Appender) -> None:
    """Save `state` together with the present end of `out`, atomically."""
    if not out.resumable:
        return
    with atomic_file(path) as draft, draft.open("wb") as file:
        np.savez(file, **{_OFFSET_KEY: np.array(out.offset)}, **state)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path, out: Appender) -> State | None:
    """Read a checkpoint and cut `out` back to where it was taken; None without a usable one."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as saved:
            state = {key: saved[key] for key in saved.files}
    except (OSError, ValueError, BadZipFile):
        return None
    offset = int(state.pop(_OFFSET_KEY))
    if offset > out.offset:
        return None
    out.rewind(offset)
    return state


class ItemsByFrame(Mapping[int, Item]):
    """The items of a file, by frame; only the offset of each line is held in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[int, int] = {}
        with path.open("rb") as file:
            offset = len(file.readline())
            for line in file:
                if not line.startswith(END_START.encode()):
                    self._offsets[item_from_json(line.decode(), str(path)).frame] = offset
                offset += len(line)

    def __getitem__(self, frame: int) -> Item:
        with self._path.open("rb") as file:
            file.seek(self._offsets[frame])
            return item_from_json(file.readline().decode(), str(self._path))

    def __iter__(self) -> Iterator[int]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)
