"""The clips of a batch: expand sources, identify each by its content, find and rename its items."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from annotate.batch import archive
from annotate.batch.stores.bucket import is_url
from annotate.batch.stores.remote_clips import (
    SAMPLE_BYTES,
    SAMPLES,
    RemoteClip,
    find_clips,
)
from annotate.errors import ItemsError, VideoError
from annotate.files import sha256
from annotate.items import journal
from annotate.items.records import Header, Item, item_to_json
from annotate.sampling.folder import ITEMS_FILE
from annotate.video.clip import absolute_path, fingerprint, open_clip
from annotate.video.images import ImageSequence

LIST_SUFFIX = ".txt"


def expand_sources(sources: Iterable[Path | str]) -> list[Path | RemoteClip]:
    """List clips: of paths or addresses, patterns such as `clips/*.mp4`, and lists.

    A list is a file `.txt` with a clip or a pattern on each line, relative to the list's folder. A
    path that comes twice is one clip. Paths are absolute.

    Raises:
        VideoError: a clip is not there, or a pattern or list names none.
        OutputError: an object store cannot be read.
    """
    clips = {clip.as_posix(): clip for source in sources for clip in _expand(source)}
    if not clips:
        raise VideoError("no clip is given")
    return list(clips.values())


def _expand(source: Path | str) -> Iterator[Path | RemoteClip]:
    if isinstance(source, str):
        yield from find_clips(source) if is_url(source) else _expand(Path(source))
        return
    if os.path.lexists(source):
        if source.suffix.lower() == LIST_SUFFIX and source.is_file():
            yield from _listed(source)
        else:
            yield absolute_path(source)
        return
    matches = sorted(glob.glob(str(source), recursive=True))  # noqa: PTH207 - absolute ones, too
    if not matches:
        raise VideoError(f"{source}: no such clip")
    yield from (absolute_path(match) for match in matches)


def _listed(path: Path) -> Iterator[Path | RemoteClip]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(f"{path}: not a list of clips that can be read: {error}") from None
    for line in filter(None, map(str.strip, lines)):
        yield from _expand(line if is_url(line) else path.parent / line)


def clip_digest(path: Path | RemoteClip) -> str:
    """Hash the content of a clip.

    That of a file covers its fingerprint and 16 samples of 64 KiB across it: files of one size that
    begin and end alike are told apart. That of a folder covers the names and the contents of its
    pictures.

    Raises:
        VideoError: not there, or a folder without pictures.
        OSError: it cannot be read.
    """
    if isinstance(path, RemoteClip):
        return path.digest()
    clip = open_clip(absolute_path(path))
    digest = hashlib.sha256(fingerprint(path, clip).encode())
    if not isinstance(clip, ImageSequence):
        size = path.stat().st_size
        with path.open("rb") as file:
            for number in range(SAMPLES):
                file.seek(size * number // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
        return digest.hexdigest()
    for image in clip.paths:
        digest.update(f"{sha256(image)}  {image.name}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def clip_path(clip: Path | RemoteClip) -> Path:
    """Return the path of a clip; of one at an address, a path that ends as the address does."""
    return clip.as_path if isinstance(clip, RemoteClip) else clip


def clip_fingerprint(path: Path) -> str:
    """Return the fingerprint of a clip, as the headers of files of items have it."""
    return fingerprint(absolute_path(path), open_clip(absolute_path(path)))


def clip_state(path: Path | RemoteClip) -> str:
    """Describe the sizes and times of the files of a clip: while it is equal, so is the content."""
    if isinstance(path, RemoteClip):
        return path.state
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = ((file.name, file.stat()) for file in files)
    rows = [(name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in stats]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:32]


def files_by_clip(paths: Iterable[Path]) -> dict[str, Path]:
    """Find the file of items of each clip: the clip's fingerprint -> the last file that has it.

    Files of anything else are passed over.
    """
    files = {}
    for path in paths:
        with suppress(ItemsError):
            for entry in journal.read(path).header.videos.values():
                files[str(entry.get("fingerprint"))] = path
    return files


def rename_clip(path: Path, name: str, clip: str) -> tuple[Header, Iterator[Item]]:
    """Read the items of one clip as those of an equal clip, called `name`, at another path."""
    items = journal.read(path)
    [properties] = items.header.videos.values()
    header = replace(items.header, videos={name: {**properties, "path": clip}})
    return header, (replace(item, video=name) for item in items)


def name_clip(result: Path, clip: str) -> Path:
    """Write a result beside another, in which its one clip has this path or address.

    In an archive of frames that is in the items. Returns the path of the file.
    """
    out = result.with_name(f"named{result.suffix}")
    if result.suffix != archive.SUFFIX:
        _name_items(result, out, clip)
        return out
    folder = result.with_name("named")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    archive.unpack(result, folder)
    _name_items(folder / ITEMS_FILE, folder / ITEMS_FILE, clip)
    return archive.pack(folder, out)


def _name_items(path: Path, out: Path, clip: str) -> None:
    [name] = journal.read(path).header.videos
    header, items = rename_clip(path, name, clip)
    journal.write(out, header, list(items))


def anonymous_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file of items of one clip, without the clip's name and path."""
    header, items = rename_clip(path, "", "")
    yield header.to_json()
    yield from map(item_to_json, items)
