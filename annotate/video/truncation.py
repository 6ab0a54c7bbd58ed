"""Recognise a file that was cut off, by the lengths that its container declares.

A file is cut off if one of its parts ends beyond the file, or if a part that ends every complete
file is missing. MP4, Matroska, AVI, FLV, Ogg, ASF, GIF, MPEG-TS and MPEG-PS are read. A recorder
that was killed leaves a Matroska segment, a cluster or an AVI list without a length: then the parts
inside it are read. A file that was cut exactly between two parts looks complete.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

_MP4_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp"))
_EBML_ID, _SEGMENT_ID, _CLUSTER_ID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_ASF_HEADER_ID = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_OGG_LAST_PAGE = 0x04  # flag of the last page of a stream
_PACK_ID = b"\x00\x00\x01\xba"  # of MPEG-PS
_PS_TAIL_BYTES = 2**20  # at the end of an MPEG-PS file, where its last packs are looked for


def is_truncated(path: Path) -> bool:
    """Return True if a part of the file ends beyond the file, or its last part is missing.

    Containers that do not declare lengths are never found to be cut off.
    """
    status = path.stat()
    return _is_truncated(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _is_truncated(path: Path, file_bytes: int, _mtime_ns: int) -> bool:
    with path.open("rb") as file:
        return any(end > file_bytes for end in _declared_ends(file, file_bytes))


def _declared_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    """Yield where the parts of the file end; beyond the file for a part that is missing."""
    head = file.read(400)
    if head[4:8] in _MP4_BOXES:
        yield from _box_ends(file, file_bytes)
    elif head[:4] == b"RIFF":
        yield from _riff_ends(file, file_bytes)
    elif head[:4] == _EBML_ID:
        yield from _ebml_ends(file, file_bytes)
    elif head[:3] == b"FLV":
        yield from _flv_ends(file, file_bytes)
    elif head[:4] == b"OggS":
        yield from _ogg_ends(file, file_bytes)
    elif head[:16] == _ASF_HEADER_ID:
        yield from _asf_ends(file, file_bytes)
    elif head[:3] == b"GIF":
        yield from _gif_ends(file, file_bytes)
    elif head[:4] == _PACK_ID:
        yield from _pack_ends(file, file_bytes)
    else:
        yield from _transport_stream_ends(head, file_bytes)


def _box_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    start, kinds = 0, [b""]
    while start < file_bytes:
        yield start + 8
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        kinds.append(kind)
        if size == 1:
            yield start + 16
            size = int.from_bytes(file.read(8), "big")
        if size < 8:  # 0: up to the end of the file
            break
        start += size
        yield start
    if kinds[-1] == b"moof" or (b"mdat" in kinds and not {b"moov", b"moof"} & set(kinds)):
        yield file_bytes + 1  # the recorder did not come to write the table, or the fragment


def _riff_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    start = 0
    while start + 8 <= file_bytes:
        file.seek(start)
        kind, size = struct.unpack("<4sI", file.read(8))
        if not kind.strip(b"\0"):
            return
        if kind in (b"RIFF", b"LIST") and size in (0, 2**32 - 1):
            start += 12  # of unknown length: its chunks follow
            continue
        start += 8 + size + size % 2
        yield start - size % 2
    if 0 < file_bytes - start < 8:
        yield start + 8


def _ebml_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    start = 0
    while start < file_bytes:
        file.seek(start)
        head = file.read(12)
        id_bytes = 9 - head[0].bit_length()
        if id_bytes > 4:  # not an element: the file is damaged here, which decoding tells
            return
        size, size_bytes = _parse_vint(head[id_bytes:])
        start += id_bytes + size_bytes
        yield start
        if size is not None:
            start += size
            yield start
        elif head[:id_bytes] not in (_SEGMENT_ID, _CLUSTER_ID):
            return


def _parse_vint(data: bytes) -> tuple[int | None, int]:
    """Parse an EBML variable-length integer, None if unknown, and count its bytes."""
    if not data or not data[0]:
        return None, 1 if not data else 8
    length = 9 - data[0].bit_length()
    largest = (1 << 7 * length) - 1
    value = int.from_bytes(data[:length], "big") & largest
    return None if value == largest else value, length


def _flv_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    file.seek(5)
    start = int.from_bytes(file.read(4), "big") + 4
    while start < file_bytes:
        yield start + 11
        file.seek(start + 1)
        start += 11 + int.from_bytes(file.read(3), "big")
        yield start
        start += 4  # the size of the tag again


def _ogg_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    start, has_last_page = 0, False
    while start < file_bytes:
        yield start + 27
        file.seek(start)
        head = file.read(27)
        if head[:4] != b"OggS":
            return
        has_last_page |= bool(head[5] & _OGG_LAST_PAGE)
        yield start + 27 + head[26]
        start += 27 + head[26] + sum(file.read(head[26]))
        yield start
    if not has_last_page:
        yield file_bytes + 1


def _asf_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    start = 0
    while start < file_bytes:
        yield start + 24
        file.seek(start + 16)
        size = int.from_bytes(file.read(8), "little")
        if size < 24 or size == 2**64 - 1:  # unknown
            return
        start += size
        yield start


def _gif_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    def table_bytes(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    file.seek(10)
    start = 13 + table_bytes(int.from_bytes(file.read(1), "big"))
    while start < file_bytes:
        file.seek(start)
        head = file.read(10)
        if head[:1] == b"\x3b":  # the trailer
            return
        if head[:1] == b"\x21":
            start += 2
        elif head[:1] == b"\x2c" and len(head) == 10:
            start += 11 + table_bytes(head[9])
        elif head[:1] != b"\x2c":
            return
        size = 1
        while size and start < file_bytes:
            file.seek(start)
            size = file.read(1)[0]
            start += 1 + size
    yield file_bytes + 1


def _pack_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    offset = max(file_bytes - _PS_TAIL_BYTES, 0)
    file.seek(offset)
    tail = file.read()
    start = tail.rfind(_PACK_ID)
    while 0 <= start < len(tail) and tail[start : start + 3] == b"\x00\x00\x01":
        head = tail[start : start + 14]
        if head[3:4] == b"\xb9":  # the end code
            return
        if head[3:4] == b"\xba":
            start += 14 + (head[13] & 7) if len(head) == 14 and head[4] >> 6 == 1 else 12
        else:
            start += 6 + int.from_bytes(head[4:6], "big")
        yield offset + start


def _transport_stream_ends(head: bytes, file_bytes: int) -> Iterator[int]:
    for packet_bytes, first in ((188, 0), (192, 4)):  # 192: with a time stamp, as M2TS has
        if len(head) > first + packet_bytes and {head[first], head[first + packet_bytes]} == {0x47}:
            yield file_bytes + bool(file_bytes % packet_bytes)
            return
