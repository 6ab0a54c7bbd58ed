"""Whether a file is shorter than its own container says: a copy or a recording that was stopped."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp"))
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def is_cut_short(path: Path) -> bool:
    """True where an mp4 box, a Matroska segment or an AVI chunk would end beyond the file.

    Other containers do not say how long they are: False.
    """
    actual = path.stat().st_size
    with path.open("rb") as file:
        return any(end > actual for end in _declared_ends(file, actual))


def _declared_ends(file: BinaryIO, actual: int) -> Iterator[int]:
    head = file.read(8)
    if head[4:] in _BOXES:
        yield from _box_ends(file, actual)
    elif head[:4] == b"RIFF":
        yield from _riff_ends(file, actual)
    elif head[:4] == _EBML:
        file.seek(4)
        file.seek(_vint(file) or 0, 1)
        if file.read(4) == _SEGMENT and (size := _vint(file)) is not None:
            yield file.tell() + size


def _box_ends(file: BinaryIO, actual: int) -> Iterator[int]:
    start = 0
    while start < actual:
        yield start + 8
        file.seek(start)
        size, _ = struct.unpack(">I4s", file.read(8))
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if size < 8:  # 0: up to the end of the file
            return
        start += size
        yield start


def _riff_ends(file: BinaryIO, actual: int) -> Iterator[int]:
    start = 0
    while start + 8 <= actual:
        file.seek(start)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or size in (0, 2**32 - 1):
            return
        start += 8 + size
        yield start


def _vint(file: BinaryIO) -> int | None:
    """An EBML number, None for "unknown"."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    bits = int.from_bytes(first + file.read(more), "big") & (1 << 7 * (more + 1)) - 1
    return None if bits == (1 << 7 * (more + 1)) - 1 else bits
