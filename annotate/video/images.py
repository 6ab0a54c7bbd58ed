"""Read images upright, write images, and open folders of images and still images as clips.

Every image file of a user is read here, because a camera stores a picture in the sensor's
orientation and the EXIF tag says how to turn it. Pictures are RGB, without alpha, and 16-bit values
are scaled to 8 bits. A folder of images is a clip of one frame a second: the images are taken in
natural order (2 before 10) and must have one size. An image that cannot be read keeps its index,
and is passed over.
"""

from __future__ import annotations

import difflib
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from annotate.errors import OutputError, VideoError
from annotate.files import atomic_file
from annotate.items.records import Picture
from annotate.video.notices import note, printable

if TYPE_CHECKING:
    from PIL import Image


IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"}
    | {".tif", ".tiff", ".webp"}
)
ANIMATED_FORMATS = frozenset({"GIF", "PNG", "TIFF", "WEBP"})  # others hold copies of one picture
_EXIF_ORIENTATION = 0x0112
PILLOW_ERRORS = (  # what Pillow raises for damaged data, in one format or another
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError),
    *(struct.error, ArithmeticError, AssertionError, MemoryError),  # a chunk that says 4 GB
)


@contextmanager
def open_upright(path: Path) -> Iterator[Image.Image]:
    """Open an image file, decoded and turned upright; its `format` is that of the file.

    Raises:
        VideoError: no such file, or not an image that can be read.
    """
    from PIL import Image

    with as_video_error(path), Image.open(path) as image:
        upright = turned_upright(image)
        upright.load()
        upright.format = image.format
    yield upright


def turned_upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def read_image(path: Path) -> Picture:
    """Read an image file: (H, W, 3) uint8, RGB, upright.

    Raises:
        VideoError: no such file, or not an image that can be read.
    """
    with open_upright(path) as image, as_video_error(path):
        return to_rgb(image)


def save_image(picture: Picture, path: Path, **encoder_options: Any) -> None:
    """Write an image atomically, in the format that the suffix of `path` names.

    `encoder_options` are those of Pillow for the format, such as `compress_level` for PNG and
    `quality` for JPEG.

    Raises:
        OutputError: nothing can be written there, or the suffix is of no image format.
    """
    from PIL import Image

    with atomic_file(path) as draft:
        try:
            Image.fromarray(picture).save(draft, **encoder_options)
        except ValueError as error:
            raise OutputError(
                f"{path}: cannot write this format: {error}; try {path.with_suffix('.png').name}"
            ) from None


class ImageHeader(NamedTuple):
    """The size of the upright image, and the EXIF orientation of the file, 1 to 8.

    The pixels of orientation 1 are stored upright; with 5 to 8 they are stored sideways.
    """

    size_wh: tuple[int, int]
    orientation: int = 1

    @property
    def turned(self) -> bool:
        """True where the stored pixels must be turned or mirrored to be upright."""
        return self.orientation != 1


def read_header(path: Path) -> ImageHeader:
    """Read the header of an image file; the pixels are not decoded.

    Raises:
        VideoError: no such file, or not an image that can be read.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[ImageHeader, bool]:
    """Read the header, and whether the file holds several pictures that are frames."""
    from PIL import Image

    with as_video_error(path), Image.open(path) as image:
        exif = Image.Image.getexif(image)  # `image.getexif()` decodes a PNG
        orientation = exif.get(_EXIF_ORIENTATION, 1)
        size_wh = image.size[::-1] if 5 <= orientation <= 8 else image.size
        is_animated = image.format in ANIMATED_FORMATS and getattr(image, "is_animated", False)
        return ImageHeader(size_wh, orientation if 1 <= orientation <= 8 else 1), is_animated


@contextmanager
def as_video_error(path: Path) -> Iterator[None]:
    """Turn the errors that Pillow raises for a damaged image into a VideoError.

    Raises:
        VideoError: an error was raised in the context.
    """
    from PIL import Image

    try:
        yield
    except (*PILLOW_ERRORS, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(f"{printable(path)}: not an image that can be read ({reason})") from error


def to_rgb(image: Image.Image) -> Picture:
    """Convert an image of any mode to RGB: alpha is dropped, 16 bits are scaled to 8."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = np.asarray(image).astype(np.float64) / 257
        return np.repeat(np.clip(grey + 0.5, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, which have no agreed range")
    return np.array(image.convert("RGB"))


class DecodedFrame(Protocol):
    """A decoded frame; it is converted to RGB only when `rgb` is called."""

    @property
    def index(self) -> int:
        """The frame index in a full decode."""

    @property
    def seconds(self) -> Fraction:
        """The time since frame 0."""

    def rgb(self) -> Picture:
        """Convert the frame: (H, W, 3) uint8, upright, in memory of its own."""


class UnreadableImage(VideoError):
    """An image of a folder that cannot be read; the other images of the clip can be."""


@dataclass(frozen=True)
class _ImageFrame:
    path: Path
    index: int
    size_wh: tuple[int, int]

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.index)

    def rgb(self) -> Picture:
        try:
            image = read_image(self.path)
        except VideoError as error:
            text = f"{error}; replace the image, or remove it from the clip"
            raise UnreadableImage(text) from error
        if image.shape[1::-1] != self.size_wh:  # it was changed after the clip was opened
            raise UnreadableImage(f"{printable(self.path)}: its size has changed; start again")
        return image


@dataclass(frozen=True)
class ImageSequence:
    """A clip of the images `paths`, all of one size: one frame a second, in this order."""

    paths: tuple[Path, ...]
    size_wh: tuple[int, int]

    @property
    def count(self) -> int:
        """The number of frames."""
        return len(self.paths)

    @property
    def rate(self) -> tuple[Fraction, bool]:
        """The number of frames per second, which does not vary."""
        return Fraction(1), False

    @property
    def duration(self) -> Fraction:
        """The duration in seconds."""
        return Fraction(self.count)

    def seconds(self, index: int) -> Fraction:
        """Return the time of a frame since frame 0."""
        return Fraction(index)

    def frames_from(self, start: int = 0) -> Iterator[DecodedFrame]:
        """Iterate over the frames from index `start` on."""
        for index in range(start, self.count):
            yield _ImageFrame(self.paths[index], index, self.size_wh)

    def keyframes(self) -> Iterator[DecodedFrame]:
        """Iterate over all frames: every image is a keyframe."""
        return self.frames_from()

    def keyframe_indices(self) -> list[int]:
        """List all indices: every image is a keyframe."""
        return list(range(self.count))

    def keyframe_at_or_before(self, index: int) -> int:
        """Return `index`: every image is a keyframe."""
        return index

    def keyframe_at_or_after(self, index: int) -> int:
        """Return `index`: every image is a keyframe."""
        return index


def open_images(path: Path) -> ImageSequence:
    """Open a folder of images or a still image as a clip.

    Raises:
        VideoError: a folder without images, images of different sizes, not an image.
    """
    if not path.is_dir():
        return ImageSequence((path,), read_header(path).size_wh)
    listing = _list_images(path)
    if not listing:
        raise VideoError(
            f"{path}: a folder without images; give a video file, or a folder of images "
            f"({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return _open_image_folder(path, tuple(listing))


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Make the key that sorts names by the numbers in them: `a2` before `a10`.

    Examples:
        >>> sorted(["a10.png", "a9.png", "b.png", "a.png"], key=natural_key)
        ['a.png', 'a9.png', 'a10.png', 'b.png']
    """
    stem, dot, suffix = name.rpartition(".")
    parts = re.split(r"([0-9]+)", stem if dot else suffix)
    numbered = [(1, 0, each) if n % 2 == 0 else (0, int(each), "") for n, each in enumerate(parts)]
    return [part for part in numbered if part != (1, 0, "")], name


def _list_images(folder: Path) -> list[tuple[str, int, int]]:
    """List the images in natural order: name, size in bytes, time of the last change.

    A link that leads nowhere is listed too, with a size of -1, so that it is named.
    """
    try:
        with os.scandir(folder) as entries:
            listed = [_list_entry(each) for each in entries if has_image_name(each.name)]
    except OSError as error:
        raise VideoError(f"{folder}: this folder cannot be read ({error.strerror})") from error
    return sorted((each for each in listed if each), key=lambda each: natural_key(each[0]))


def has_image_name(name: str) -> bool:
    """Return whether a file has the name of an image, and is not hidden."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _list_entry(entry: os.DirEntry[str]) -> tuple[str, int, int] | None:
    try:
        status = entry.stat()
    except OSError:
        return entry.name, -1, 0
    return (entry.name, status.st_size, status.st_mtime_ns) if S_ISREG(status.st_mode) else None


@lru_cache(maxsize=16)
def _open_image_folder(folder: Path, listing: tuple[tuple[str, int, int], ...]) -> ImageSequence:
    paths = tuple(folder / name for name, _, _ in listing)
    first: Path | None = None
    size_wh = (0, 0)
    for path in paths:
        try:
            header, is_animated = _read_header(path)
        except VideoError:  # it is passed over, and named when its turn comes
            continue
        if first is None:
            first, size_wh = path, header.size_wh
        elif header.size_wh != size_wh:
            raise VideoError(
                f"{folder}: all images must have one size, but {printable(first.name)} is "
                f"{size_wh[0]}x{size_wh[1]} and {printable(path.name)} is "
                f"{header.size_wh[0]}x{header.size_wh[1]}"
            )
        if is_animated:
            note(f"{printable(path)}: it holds several pictures, of which the first is read")
    if first is None:
        read_header(paths[0])  # raises what is wrong with it
    return ImageSequence(paths, size_wh)


def check_exists(path: Path) -> None:
    """Check that a path is a folder, or a file that can be read and is not empty.

    Raises:
        VideoError: it is not; for a missing file the error names the nearest file name.
    """
    if printable(path) != str(path):
        raise VideoError(
            f"{printable(path)}: this name is not UTF-8, so that no file can hold it; rename it"
        )
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
    folder = path.parent
    names = [other.name for other in folder.iterdir()] if folder.is_dir() else []
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def encode_jpeg(picture: Picture, quality: int) -> bytes:
    """Encode an image, (H, W, 3) RGB, as a JPEG file; the same pixels give the same bytes."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()
