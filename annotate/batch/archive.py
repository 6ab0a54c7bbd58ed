"""Pack a folder of results into one file, and unpack it: equal folders give equal bytes."""

from __future__ import annotations

import tarfile
from pathlib import Path

SUFFIX = ".tar"
_MODE = 0o644


def pack(folder: Path, out: Path) -> Path:
    """Write the files of a folder into an archive: in order of names, without times or owners.

    Examples:
        >>> pack(Path("frames"), Path("frames.tar"))  # doctest: +SKIP
        PosixPath('frames.tar')
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in files:
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size, entry.mode = path.stat().st_size, _MODE
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return out


def unpack(path: Path, folder: Path) -> None:
    """Write the files of an archive into a folder; a name that leads out of it is refused."""
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
