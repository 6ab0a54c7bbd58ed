"""Open folders of images and still images as clips of one frame a second.

The images of a folder are taken in name order and must have one size. They are RGB, upright as
their EXIF tag says, without alpha, and 16-bit values are scaled to 8 bits.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from annotate.errors import BrokenVideo, VideoError
from annotate.items.records import Picture

if TYPE_CHECKING:
    from PIL import Image


IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"}
    | {".tif", ".tiff", ".webp"}
)


class DecodedFrame(Protocol):
    """A picture that has been reached; it becomes RGB only when it is asked for."""

    @property
    def index(self) -> int:
        """Its place among the pictures of a full decode."""

    @property
    def seconds(self) -> Fraction:
        """After the first picture."""

    def rgb(self) -> Picture:
        """(H, W, 3) uint8, upright, its own memory."""


@dataclass(frozen=True)
class _ImageFrame:
    path: Path
    index: int

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.index)

    def rgb(self) -> Picture:
        from PIL import Image, ImageOps

        try:
            with Image.open(self.path) as image:
                return _to_rgb(ImageOps.exif_transpose(image))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BrokenVideo(
                f"{self.path}: not an image that can be read ({error}); "
                "mend it or take it out of the clip",
                self.index,
            ) from error


@dataclass(frozen=True)
class ImageSequence:
    """The images `paths`, all of one size, as a clip: index is their order, one a second."""

    paths: tuple[Path, ...]
    size_wh: tuple[int, int]

    @property
    def count(self) -> int:
        """How many pictures."""
        return len(self.paths)

    def frames_from(self, start: int = 0) -> Iterator[DecodedFrame]:
        """The pictures from `start` on."""
        return map(_ImageFrame, self.paths[start:], range(start, self.count))

    def keyframes(self) -> Iterator[DecodedFrame]:
        """All of them: each is a picture on its own."""
        return self.frames_from()

    def keyframe_at_or_before(self, index: int) -> int:
        """The picture itself."""
        return index

    def keyframe_at_or_after(self, index: int) -> int:
        """The picture itself."""
        return index


def open_images(path: Path) -> ImageSequence:
    """A folder of images or a still image.

    Raises:
        VideoError: a folder without images, images of different sizes, no image.
    """
    if not path.is_dir():
        return ImageSequence((path,), _read_size_wh(path))
    listed = [(entry.name, entry.stat()) for entry in _list_images(path)]
    if not listed:
        raise VideoError(
            f"{path}: a folder without images; give a video file, or a folder of images "
            f"({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return _open_image_folder(
        path, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in listed)
    )


def _list_images(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            images = [
                entry
                for entry in entries
                if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES
                and not entry.name.startswith(".")
                and entry.is_file()
            ]
    except OSError as error:
        raise VideoError(f"{folder}: this folder cannot be read ({error.strerror})") from error
    return sorted(images, key=lambda entry: entry.name)


@lru_cache(maxsize=16)
def _open_image_folder(folder: Path, listing: tuple[tuple[str, int, int], ...]) -> ImageSequence:
    paths = tuple(folder / name for name, _, _ in listing)
    size_wh = _read_size_wh(paths[0])
    for path in paths[1:]:
        if (other := _read_size_wh(path)) != size_wh:
            raise VideoError(
                f"{folder}: all images must have one size, but {paths[0].name} is "
                f"{size_wh[0]}x{size_wh[1]} and {path.name} is {other[0]}x{other[1]}"
            )
    return ImageSequence(paths, size_wh)


def _read_size_wh(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            exif = Image.Image.getexif(image)  # that of a PNG would decode it
            turned = exif.get(0x0112, 1) >= 5  # Orientation: 5 to 8 lie on their side
            return image.size[::-1] if turned else image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path}: not an image that can be read ({error})") from error


def _to_rgb(image: Image.Image) -> Picture:
    """Alpha is dropped, 16 bits are scaled to 8, and greys and palettes become colours."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = np.asarray(image).astype(np.float64) / 257
        return np.repeat(np.clip(grey + 0.5, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, which have no agreed white")
    return np.array(image.convert("RGB"))


def check_exists(path: Path) -> None:
    """Refuse what is neither a folder nor a file with something in it that may be read.

    Raises:
        VideoError: says which, and for a missing file the nearest name beside it.
    """
    try:
        if path.is_dir():
            return
        if not path.exists():
            raise VideoError(f"{path}: no such file or folder{_did_you_mean(path)}")
        if not path.is_file():
            raise VideoError(f"{path}: not a file or a folder; give a video file")
        with path.open("rb") as file:
            if not file.read(1):
                raise VideoError(f"{path}: the file is empty; copy or record it again")
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from error


def _did_you_mean(path: Path) -> str:
    beside = partial(difflib.get_close_matches, path.name, n=1)
    near = beside([other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else []
    return f"; did you mean {near[0]!r}?" if near else ""
