"""Open an image file of several pictures as a clip: WebP, APNG, GIF, and the pages of a TIFF.

The times are those that the file declares; pages of a TIFF have none and count one a second. All
pictures have the size of the first. A reduced copy among the pages of a TIFF is not a frame. Of a
file that was cut, the whole pictures are the clip; then its frames end with an error.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate.errors import BrokenVideo
from annotate.items.records import Picture
from annotate.video.images import (
    ANIMATED_FORMATS,
    PILLOW_ERRORS,
    DecodedFrame,
    as_video_error,
    to_rgb,
    turned_upright,
)
from annotate.video.notices import note, printable

if TYPE_CHECKING:
    from PIL import Image

_NEW_SUBFILE_TYPE, _REDUCED_COPY = 254, 1  # TIFF tag, and the flag of a thumbnail
_DEFAULT_MILLISECONDS = {"TIFF": 1000}  # of a picture that declares no time
_OTHER_MILLISECONDS = 100  # as browsers show them


@dataclass(frozen=True)
class Animation:
    """A clip of the pictures `positions` of one image file, shown from `starts` on.

    `error` is what ended the file before its last picture; empty for a complete file.
    """

    path: Path
    size_wh: tuple[int, int]
    positions: tuple[int, ...]
    starts: tuple[Fraction, ...] = field(repr=False)
    duration: Fraction
    error: str = ""

    @property
    def count(self) -> int:
        """The number of frames."""
        return len(self.positions)

    @property
    def rate(self) -> tuple[Fraction, bool]:
        """The average number of frames per second, and whether the rate varies."""
        ends = (*self.starts[1:], self.duration)
        steps = {end - start for start, end in zip(self.starts, ends, strict=True)}
        return self.count / self.duration, len(steps) > 1

    def seconds(self, index: int) -> Fraction:
        """Return the time of a frame since frame 0."""
        return self.starts[index]

    def frames_from(self, start: int = 0) -> Iterator[DecodedFrame]:
        """Decode the frames from index `start` on; raise BrokenVideo at the end of a cut file."""
        from PIL import Image

        source = _without_cut_chunk(self.path) or self.path
        with as_video_error(self.path), Image.open(source) as image:
            for index, position in enumerate(self.positions):
                try:
                    image.seek(position)
                    image.load()  # a picture is drawn over the one before it
                except PILLOW_ERRORS as error:
                    raise self._broken(index, error) from error
                if index >= start:
                    yield _Picture(index, self.starts[index], self._to_rgb(image))
        if self.error:
            raise self._broken(self.count, self.error)

    def keyframes(self) -> Iterator[DecodedFrame]:
        """Iterate over all frames: each is a whole picture."""
        return self.frames_from()

    def keyframe_indices(self) -> list[int]:
        """List all indices: each frame is a whole picture."""
        return list(range(self.count))

    def keyframe_at_or_before(self, index: int) -> int:
        """Return 0, from which every frame is decoded."""
        return 0

    def keyframe_at_or_after(self, index: int) -> int:
        """Return the frame count: no frame but the first one can be decoded alone."""
        return self.count if index else 0

    def _to_rgb(self, image: Image.Image) -> Picture:
        upright = turned_upright(image)
        if upright.size != self.size_wh:
            width, height = self.size_wh
            note(f"{printable(self.path)}: the size changes; all frames become {width}x{height}")
            upright = upright.convert("RGB").resize(self.size_wh)
        return to_rgb(upright)

    def _broken(self, index: int, reason: object) -> BrokenVideo:
        return BrokenVideo(
            f"{self.path}: the file is cut short or damaged at picture {index} ({reason}): the "
            f"{index} pictures before it can be used; copy or write it again",
            index,
        )


@dataclass(frozen=True)
class _Picture:
    """A `DecodedFrame` of an animation."""

    index: int
    seconds: Fraction
    pixels: Picture = field(repr=False)

    def rgb(self) -> Picture:
        return np.array(self.pixels)


def open_animation(path: Path) -> Animation | None:
    """Open an image file as a clip; None if it holds one picture.

    Raises:
        VideoError: not an image that can be read.
    """
    status = path.stat()
    return _open_animation(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _open_animation(path: Path, _file_bytes: int, _mtime_ns: int) -> Animation | None:
    from PIL import Image

    whole_chunks = _without_cut_chunk(path)
    with as_video_error(path), Image.open(whole_chunks or path) as opened, _no_warnings():
        image: Any = opened  # its pictures are no part of the type
        error = "its data ends" if whole_chunks else ""
        is_animated = bool(error) or getattr(image, "is_animated", False)
        if image.format not in ANIMATED_FORMATS or not is_animated:
            return None
        # A PNG may have a picture for programs that know no animation: it is not a frame.
        first = int(bool(image.info.get("default_image")))
        size_wh = turned_upright(image).size
        positions: list[int] = []
        milliseconds: list[Fraction] = []
        is_tiff = image.format == "TIFF"  # a chain of pages; to count them reads it to its end
        for position in count() if is_tiff else range(first, image.n_frames):
            try:
                image.seek(position)
                if image.format == "WEBP":  # the time of a picture is known when it is decoded
                    image.load()
            except PILLOW_ERRORS as damage:
                if is_tiff and isinstance(damage, EOFError):  # after its last page
                    break
                error = str(damage) or "its data ends"
                break
            if not _is_reduced_copy(image):
                positions.append(position)
                milliseconds.append(_milliseconds(image))
    if not positions or (len(positions) == 1 and not error):
        return None  # a still image
    ends = [each / 1000 for each in accumulate(milliseconds)]
    starts = (Fraction(0), *ends[:-1])
    return Animation(path, size_wh, tuple(positions), starts, ends[-1], error)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence what Pillow says of a damaged page: the clip ends there, which is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _without_cut_chunk(path: Path) -> io.BytesIO | None:
    """Return the whole chunks of a WebP file that was cut; None for any other file.

    Its decoder refuses a file that is shorter than its header says.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or (head[:4], head[8:]) != (b"RIFF", b"WEBP"):
            return None
        if int.from_bytes(head[4:8], "little") + 8 <= file_bytes:
            return None
        end, has_picture = 12, False
        while end + 8 <= file_bytes:
            file.seek(end)
            kind, size = struct.unpack("<4sI", file.read(8))
            if end + 8 + size > file_bytes:
                break
            has_picture |= kind == b"ANMF"
            end += 8 + size + size % 2
        if not has_picture:
            return None
        file.seek(12)
        chunks = file.read(end - 12)
    return io.BytesIO(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks)


def _is_reduced_copy(image: Any) -> bool:
    tags = getattr(image, "tag_v2", {})
    return bool(int(tags.get(_NEW_SUBFILE_TYPE, 0)) & _REDUCED_COPY)


def _milliseconds(image: Any) -> Fraction:
    declared = image.info.get("duration") or 0
    default = _DEFAULT_MILLISECONDS.get(image.format, _OTHER_MILLISECONDS)
    return Fraction(declared).limit_denominator(10**6) if declared > 0 else Fraction(default)
