"""What a propagation needs to go on exactly, on disk beside the file of items that it writes."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from annotate.journal import STREAM, Appender
from annotate.lines import item_from_json
from annotate.records import Item

State = Mapping[str, npt.NDArray[Any]]
_OFFSET = "journal.offset"


@dataclass(frozen=True)
class Aside:
    """The files beside a file of items that only a run in progress needs."""

    folder: Path
    name: str

    @property
    def state(self) -> Path:
        """The state of the forward pass."""
        return self.folder / f"{self.name}.state.npz"

    @property
    def backward_state(self) -> Path:
        """The state of the backward pass."""
        return self.folder / f"{self.name}.backward.state.npz"

    @property
    def backward_items(self) -> Path:
        """The items of the backward pass, waiting for the forward pass."""
        return self.folder / f"{self.name}.backward.jsonl"

    @property
    def update(self) -> Path:
        """The items of the objects that are followed anew."""
        return self.folder / f"{self.name}.update.jsonl"

    def clear(self) -> None:
        """Remove them, but for an update's, which has files of its own aside."""
        for path in (self.state, self.backward_state, self.backward_items):
            path.unlink(missing_ok=True)


@contextmanager
def kept(out: Path) -> Iterator[Aside]:
    """The files aside of `out`; those of standard output do not outlive the run."""
    if out != STREAM:
        yield Aside(out.parent, out.name)
        return
    with TemporaryDirectory() as folder:
        yield Aside(Path(folder), "items")


def write(path: Path, state: State, out: Appender) -> None:
    """Keep `state`, taken when `out` stood at its present end; replaces the one before at once."""
    if not out.lasting:
        return
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        np.savez(file, **{_OFFSET: np.array(out.offset)}, **state)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read(path: Path, out: Appender) -> State | None:
    """The state kept at `path`, `out` being cut back to where it was taken; None without one."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as saved:
            state = {key: saved[key] for key in saved.files}
    except (OSError, ValueError, BadZipFile):
        return None
    offset = int(state.pop(_OFFSET))
    if offset > out.offset:
        return None
    out.rewind(offset)
    return state


class ByFrame(Mapping[int, Item]):
    """The items of a file, by frame; only where each line begins is held in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at: dict[int, int] = {}
        with path.open("rb") as file:
            at = len(file.readline())
            for line in file:
                if not line.startswith(b'{"end"'):
                    self._at[item_from_json(line.decode(), str(path)).frame] = at
                at += len(line)

    def __getitem__(self, frame: int) -> Item:
        with self._path.open("rb") as file:
            file.seek(self._at[frame])
            return item_from_json(file.readline().decode(), str(self._path))

    def __iter__(self) -> Iterator[int]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)
