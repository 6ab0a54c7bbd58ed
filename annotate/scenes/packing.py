"""Pack the fingerprints of consecutive frames into a few hundred bytes a frame.

What verifies a match is the local contrast of a shape (`fingerprint.normalize_contrast`). It is
stored as 8-bit levels, the frames of a chunk side by side in one lossy WebP picture, whose quality
is lowered until the chunk keeps to a limit. So a second of a clip takes at most some bytes,
whatever it shows. A picture that is repeated is packed once. Hashes are stored as they are;
layouts, indices and times are deflated.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt

from annotate.sampling import phash
from annotate.scenes import fingerprint
from annotate.scenes.fingerprint import HASH_COUNT, LAYOUT_SIZE, SHAPE_WH, Fingerprint, Levels

CHUNK_FRAMES = 64  # frames that are packed together: a match is verified by reading its chunk
_MAX_FRAME_BYTES = 430  # of the picture of a chunk, for each frame
# Quality of WebP, 0 to 100 -> bytes, relative to those at quality 50, which one row is tried at
_RELATIVE_BYTES = {85: 1.5, 70: 1.2, 50: 1.0, 40: 0.89, 30: 0.77, 20: 0.64, 10: 0.48, 0: 0.0}
_FIDELITY_STEPS = 255
_MIN_FIDELITY = 0.5  # of a frame without contrast, in which nothing agrees
_COLUMNS = 8  # frames beside each other in the picture
_CELL_ROWS = 40  # pixels: the height of a shape, padded to whole blocks of eight


@dataclass(frozen=True)
class StoredFrame:
    """A frame of a clip, and its fingerprint."""

    frame: int
    seconds: Fraction
    fingerprint: Fingerprint


@dataclass(frozen=True)
class PackedChunk:
    """Consecutive frames of a clip as bytes: what queries search, and what verifies a match."""

    frames: bytes
    seconds: bytes
    hashes: bytes
    layouts: bytes
    rows: bytes
    fidelity: bytes
    levels: bytes

    @property
    def frame_count(self) -> int:
        """The number of frames."""
        return len(self.hashes) // (HASH_COUNT * np.dtype("<u8").itemsize)


@dataclass(frozen=True)
class Looks:
    """What verifies a match: `levels` (n, 36, 64), `layouts` (n, 33), `fidelity` (n,).

    The fidelity is the block agreement of the levels with what they were before they were packed.
    """

    levels: Levels
    layouts: fingerprint.ColourLayout
    fidelity: npt.NDArray[np.float64]


def pack(stored_frames: Sequence[StoredFrame]) -> PackedChunk:
    """Pack up to `CHUNK_FRAMES` frames."""
    fingerprints = [each.fingerprint for each in stored_frames]
    indices = np.array([each.frame for each in stored_frames], "<i8")
    layouts = np.array([each.layout for each in fingerprints], np.uint8)
    shapes = {each.shape.tobytes(): each.shape for each in fingerprints}
    row_by_shape = {shape: row for row, shape in enumerate(shapes)}
    rows = bytes(row_by_shape[each.shape.tobytes()] for each in fingerprints)
    levels = np.array([fingerprint.contrast_levels(shape) for shape in shapes.values()])
    packed = _pack_levels(levels)
    fidelity = fingerprint.levels_fidelity(_unpack_levels(packed, len(levels)), levels)
    return PackedChunk(
        zlib.compress(np.diff(indices, prepend=0).astype("<i8").tobytes()),
        zlib.compress(" ".join(str(each.seconds) for each in stored_frames).encode()),
        np.array([each.hashes for each in fingerprints], "<u8").tobytes(),
        zlib.compress(layouts.T.tobytes()),  # by coefficient: neighbours in time are alike
        zlib.compress(rows),
        np.rint(np.clip(fidelity, 0, 1) * _FIDELITY_STEPS).astype(np.uint8).tobytes(),
        packed,
    )


def unpack_frames(
    frames: bytes, seconds: bytes, hashes: bytes
) -> tuple[npt.NDArray[np.int64], list[str], phash.Hashes]:
    """Unpack the indices (n,), the times and the hashes (n, 6) of a chunk."""
    indices = np.cumsum(np.frombuffer(zlib.decompress(frames), "<i8"))
    hash_rows = np.frombuffer(hashes, "<u8").reshape(-1, HASH_COUNT)
    return indices, zlib.decompress(seconds).decode().split(" "), hash_rows


def unpack_looks(layouts: bytes, rows: bytes, fidelity: bytes, levels: bytes) -> Looks:
    """Unpack what verifies a match with the frames of a chunk.

    Raises:
        ValueError: the data are damaged.
    """
    columns = np.frombuffer(zlib.decompress(layouts), np.uint8).reshape(LAYOUT_SIZE, -1)
    row_indices = np.frombuffer(zlib.decompress(rows), np.uint8)
    steps = np.frombuffer(fidelity, np.uint8).astype(np.float64)
    return Looks(
        _unpack_levels(levels, len(steps))[row_indices],
        np.ascontiguousarray(columns.T),
        np.maximum(steps / _FIDELITY_STEPS, _MIN_FIDELITY)[row_indices],
    )


def _pack_levels(levels: Levels) -> bytes:
    wide, high = SHAPE_WH
    rows = -(-len(levels) // _COLUMNS)
    cells = np.full((rows * _COLUMNS, _CELL_ROWS, wide), fingerprint.ZERO_LEVEL, np.uint8)
    cells[: len(levels), :high] = levels
    cells[: len(levels), high:] = cells[: len(levels), high - 1 : high]
    mosaic = cells.reshape(rows, _COLUMNS, _CELL_ROWS, wide).transpose(0, 2, 1, 3)
    picture = np.ascontiguousarray(mosaic.reshape(rows * _CELL_ROWS, _COLUMNS * wide))
    max_bytes, packed = _MAX_FRAME_BYTES * len(levels), b""
    estimated = len(_encode(picture[:_CELL_ROWS], 50)) * rows
    for quality, relative in _RELATIVE_BYTES.items():
        if estimated * relative <= max_bytes:
            packed = _encode(picture, quality)
            if len(packed) <= max_bytes:
                break
    return packed


def _encode(picture: Levels, quality: int) -> bytes:
    return cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def _unpack_levels(packed: bytes, count: int) -> Levels:
    wide, high = SHAPE_WH
    picture = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_GRAYSCALE)
    rows = -(-count // _COLUMNS)
    if picture is None or picture.shape != (rows * _CELL_ROWS, _COLUMNS * wide):
        raise ValueError("a packed picture is damaged")
    cells = picture.reshape(rows, _CELL_ROWS, _COLUMNS, wide).transpose(0, 2, 1, 3)
    flat = cells.reshape(-1, _CELL_ROWS, wide)[:count, :high]
    return np.asarray(np.ascontiguousarray(flat), np.uint8)
