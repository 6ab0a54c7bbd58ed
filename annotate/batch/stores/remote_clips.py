"""Clips in an object store: listed, identified by parts of their bytes, copied to run a stage.

The driver lists clips and reads 3 MiB of each new one. A worker downloads the clip that it runs
into the folder of its attempt, and removes it afterwards. In the result the clip has its address.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from annotate.batch.stores.bucket import SCHEME, BucketFolder, ObjectInfo, is_url
from annotate.errors import VideoError, needs
from annotate.files import atomic_file
from annotate.video.clip import EDGE_BYTES

SAMPLES, SAMPLE_BYTES = 16, 64 * 2**10  # read across a file, beside its first and last MiB
_COPY = "clip"  # folder of a clip, in that of the attempt
_MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True)
class RemoteClip:
    """A clip at an address such as `s3://bucket/clips/a.mp4`, as it was when it was listed."""

    url: str
    info: ObjectInfo

    @property
    def name(self) -> str:
        """The last part of the address."""
        return PurePosixPath(self.url).name

    @property
    def state(self) -> str:
        """A text that changes when the bytes do."""
        return f"{self.info.size} {self.info.version}"

    @property
    def as_path(self) -> Path:
        """A path that ends as the address does; nothing is there."""
        return Path("/", *PurePosixPath(self.url[len(SCHEME) :]).parts)

    def as_posix(self) -> str:
        """Return the address, as `Path.as_posix` returns a path."""
        return self.url

    def digest(self) -> str:
        """Hash the content: what `clips.clip_digest` returns for a copy of the clip."""
        size, starts = self.info.size, [self.info.size * n // SAMPLES for n in range(SAMPLES)]
        ranges = [(0, EDGE_BYTES), (max(size - EDGE_BYTES, 0), EDGE_BYTES)]
        ranges += [(start, SAMPLE_BYTES) for start in starts]
        folder, name = _split(self.url)
        ends = [(start, min(start + length, size)) for start, length in ranges]
        first, last, *samples = folder.read_ranges(name, ends)
        fingerprint = hashlib.sha256(f"{size}\0".encode() + first + last).hexdigest()
        return hashlib.sha256(fingerprint.encode() + b"".join(samples)).hexdigest()


def find_clip(url: str) -> RemoteClip:
    """Return the clip at an address.

    Raises:
        VideoError: nothing is there, or an empty object.
        OutputError: the object store cannot be read.
    """
    folder, name = _split(url)
    info = folder.info(name)
    if info is None:
        raise VideoError(f"{url}: no such clip")
    return RemoteClip(url, info)


def find_clips(url: str) -> list[RemoteClip]:
    """List the clips of an address, which may be a pattern such as `s3://bucket/clips/*.mp4`.

    Raises:
        VideoError: there are none.
        OutputError: the object store cannot be read.
    """
    if not _MAGIC.search(url):
        return [find_clip(url)]
    folder = BucketFolder(url[: _MAGIC.search(url).start()].rpartition("/")[0])  # type: ignore[union-attr]
    pattern = re.compile(needs("fsspec.utils", "s3").glob_translate(url))
    clips = [RemoteClip(f"{folder.url}/{n}", info) for n, info in folder.names("").items()]
    if matching := [clip for clip in clips if pattern.match(clip.url)]:
        return matching
    raise VideoError(f"{url}: no such clip")


@contextmanager
def local_copy(clip: str, folder: Path) -> Iterator[Path]:
    """Yield the path of a clip; one at an address is copied into `folder`, and removed at the end.

    Raises:
        VideoError: nothing is at the address.
        OutputError: it cannot be read, or not be written here.
    """
    if not is_url(clip):
        yield Path(clip)
        return
    source, name = _split(clip)
    path = folder / _COPY / clip[len(SCHEME) :]
    try:
        if not path.exists():  # else a killed run has left it
            with atomic_file(path, parents=True) as draft:
                if not source.download(name, draft):
                    raise VideoError(f"{clip}: no such clip")
        yield path
    finally:
        shutil.rmtree(folder / _COPY, ignore_errors=True)


def with_address(text: str, clip: str) -> str:
    """Name a clip at an address by that in a text about its copy."""
    return re.sub(rf"\S*/{re.escape(clip[len(SCHEME) :])}", clip, text) if is_url(clip) else text


def _split(url: str) -> tuple[BucketFolder, str]:
    """Return the folder and the name of an object."""
    above, _, name = url.rpartition("/")
    if ".." in PurePosixPath(url).parts or not name or above.count("/") < 2:
        raise VideoError(f"{url}: expected the address of a clip, s3://BUCKET/PATH")
    return BucketFolder(above), name
