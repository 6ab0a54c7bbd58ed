"""Open a clip by its path, and identify its content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from annotate.video.animation import Animation, open_animation
from annotate.video.images import IMAGE_SUFFIXES, ImageSequence, check_exists, open_images
from annotate.video.index import VideoFile

Clip = VideoFile | ImageSequence | Animation
EDGE_BYTES = 2**20


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Make a path absolute."""
    path = Path(path).absolute()  # not resolved: a link keeps its own name
    return path.resolve() if ".." in path.parts else path


def open_clip(path: Path) -> Clip:
    """Open a file or a folder, given by its absolute path.

    Raises:
        VideoError: not there, a folder without images, images of different sizes.
    """
    check_exists(path)
    if path.is_dir():
        return open_images(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return open_animation(path) or open_images(path)
    return VideoFile(path)


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link that leads nowhere, which is passed over
        return 0


def fingerprint(path: Path, clip: Clip) -> str:
    """Compute what `Video.fingerprint` holds."""
    digest = hashlib.sha256()
    if isinstance(clip, ImageSequence):
        for image in clip.paths:
            digest.update(f"{image.name}\0{_file_bytes(image)}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()
    size = path.stat().st_size
    digest.update(f"{size}\0".encode())
    with path.open("rb") as file:
        digest.update(file.read(EDGE_BYTES))
        file.seek(max(size - EDGE_BYTES, 0))
        digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()
