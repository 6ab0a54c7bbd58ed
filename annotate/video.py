"""Videos as frames: what a clip is, its frames in order, its keyframes, and any frame by index.

A clip is a file that PyAV opens, a folder of images in name order, or a still image. Frame n is the
n-th picture that a full decode yields, whichever way it is reached; its `seconds` are its pts, in
the stream's own time base, after that of frame 0. Pictures come out RGB, upright as the file's
display matrix or EXIF says, without alpha, 8 bits a channel. Images have no clock: one a second.

Of a file that was cut short come the frames that are surely there, then `BrokenVideo`. Stretches
that are damaged in the middle are passed over, as a full decode does. That a damage costs a frame
shows only where it is decoded: `seek` beyond it counts from the packets until then.
"""

import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path

from annotate.ahead import ahead
from annotate.errors import VideoError
from annotate.film import Film, Table
from annotate.pictures import SUFFIXES, Pictures, Shot, check_exists, open_pictures
from annotate.records import Frame
from annotate.video_writer import Writer

__all__ = ["Video", "Writer", "backward", "frames", "frames_at", "keyframes", "probe", "seek"]

_MIB = 2**20
_WINDOW, _WINDOW_BYTES = 48, 256 * _MIB  # what `backward` holds: pictures, and bytes of them


@dataclass(frozen=True)
class Video:
    """What a clip is. `name` is that of the file or folder, with its suffix, as items carry it.

    `width` and `height` are as shown, turned upright. `rate` is the average of frames per second.
    `frame_count` is how many can be had. `fingerprint` is the same for the same clip: a SHA-256 of
    a file's size, first and last MiB, or of a folder's names and sizes.
    """

    path: Path
    name: str
    width: int
    height: int
    rate: Fraction
    frame_count: int | None
    duration_seconds: Fraction
    variable_rate: bool
    fingerprint: str


def probe(path: str | os.PathLike[str]) -> Video:
    """What a clip is; counts its packets, and decodes no more than its first pictures.

    Raises:
        VideoError: nothing there, no video in it, no pictures, images of different sizes.
    """
    path = _path(path)
    clip = _clip(path)
    if isinstance(clip, Pictures):
        size_wh, rate, variable = clip.size_wh, Fraction(1), False
        seconds = Fraction(clip.count)
    else:
        first = next(iter(clip.walk())).rgb()
        size_wh = (first.shape[1], first.shape[0])
        rate, variable = _rate(clip.table)
        seconds = (clip.table.end - clip.table.pts[0]) * clip.table.time_base
    return Video(
        path, path.name, *size_wh, rate, clip.count, seconds, variable, _fingerprint(path, clip)
    )


def frames(
    path: str | os.PathLike[str],
    *,
    every: int = 1,
    rate: Fraction | float | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Frame]:
    """The frames of `range(start, stop, every)`, or `rate` of them a second, decoded ahead.

    With a rate, the first frame at or after each tick; ticks are counted from frame 0, so that any
    range gives the same frames. `start` may be the number of frames: then there are none.

    Raises:
        VideoError: as `probe`, or there is no frame `start`.
        BrokenVideo: after the frames that can be had.
    """
    path = _path(path)
    if every < 1 or start < 0 or (rate is not None and not 0 < rate < float("inf")):
        raise VideoError(
            f"{path.name}: every must be 1 or more, a rate above 0, start 0 or more, "
            f"not every={every}, rate={rate}, start={start}"
        )
    if rate is not None and every != 1:
        raise VideoError(f"{path.name}: give every or rate, not both")
    clip = _clip(path)
    if start:
        _check_index(path, clip, start, clip.count)
    if rate is None:
        shots = _range(clip, start, stop)
        chosen = (shot for shot in shots if (shot.index - start) % every == 0)
    else:  # the frame before the range tells which tick it has passed
        shots = _ticking(_range(clip, max(start - 1, 0), stop), Fraction(rate))
        chosen = (shot for shot in shots if shot.index >= start)
    return ahead(_frames(path.name, chosen))


def frames_at(path: str | os.PathLike[str], indices: Iterable[int]) -> Iterator[Frame]:
    """The frames of these indices, each once, in order; far ones are sought, near ones decoded to.

    Raises:
        VideoError: as `probe`, or an index that no frame has.
    """
    path = _path(path)
    clip = _clip(path)
    wanted = sorted(set(indices))
    for index in wanted[:1] + wanted[-1:]:
        _check_index(path, clip, index, clip.count - 1)
    return ahead(_frames(path.name, _chosen(clip, wanted)))


def seek(path: str | os.PathLike[str], index: int) -> Frame:
    """The frame of this index, exactly.

    Raises:
        VideoError: as `probe`, or no frame has this index.
    """
    path = _path(path)
    clip = _clip(path)
    _check_index(path, clip, index, clip.count - 1)
    return next(_frames(path.name, clip.walk(index)))


def keyframes(path: str | os.PathLike[str]) -> Iterator[Frame]:
    """The keyframes, by their indices; nothing else is decoded."""
    path = _path(path)
    return ahead(_frames(path.name, _clip(path).keys()))


def backward(path: str | os.PathLike[str], start: int, stop: int = 0) -> Iterator[Frame]:
    """The frames start, start - 1, ..., stop; at most 48 of them, or 256 MiB, are held.

    Raises:
        VideoError: as `probe`, or there is no frame `start` or `stop`.
    """
    path = _path(path)
    clip = _clip(path)
    for index in (start, stop):
        _check_index(path, clip, index, clip.count - 1)
    return ahead(_backward(path.name, clip, start, stop))


def _backward(name: str, clip: Film | Pictures, start: int, stop: int) -> Generator[Frame]:
    window = 1
    while start >= stop:
        least = max(start - window + 1, stop)
        key = clip.key_at_or_after(least)  # from a keyframe on, nothing is decoded for nothing
        least = key if key <= start else least
        held = deque(_frames(name, _range(clip, least, start + 1)))
        window = min(max(_WINDOW_BYTES // held[0].image.nbytes, 1), _WINDOW)
        start = least - 1
        while held:
            yield held.pop()


def _chosen(clip: Film | Pictures, wanted: list[int]) -> Generator[Shot]:
    shots: Iterator[Shot] = iter(())
    at = -1
    for index in wanted:
        if at < 0 or clip.key_at_or_before(index) > at:
            shots = clip.walk(index)
        for shot in shots:
            at = shot.index
            if at == index:
                yield shot
                break


def _range(clip: Film | Pictures, start: int, stop: int | None) -> Iterator[Shot]:
    if stop is not None and stop <= start:
        return
    for shot in clip.walk(start):
        yield shot
        if shot.index + 1 == stop:
            break


def _ticking(shots: Iterator[Shot], rate: Fraction) -> Iterator[Shot]:
    tick = 0  # which any frame has passed: the first of all is a tick's, or only tells the next
    for shot in shots:
        passed = shot.seconds * rate
        if passed >= tick:
            yield shot
            tick = floor(passed) + 1


def _frames(name: str, shots: Iterable[Shot]) -> Generator[Frame]:
    for shot in shots:
        yield Frame(name, shot.index, shot.seconds, shot.rgb())


def _path(path: str | os.PathLike[str]) -> Path:
    path = Path(path).absolute()  # a link keeps its own name
    return path.resolve() if ".." in path.parts else path


def _clip(path: Path) -> Film | Pictures:
    check_exists(path)
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        return open_pictures(path)
    return Film(path)


def _check_index(path: Path, clip: Film | Pictures, index: int, last: int) -> None:
    if not 0 <= index <= last:
        raise VideoError(
            f"{path.name}: there is no frame {index}; it has {clip.count} frames, "
            f"0 to {clip.count - 1}"
        )


def _rate(table: Table) -> tuple[Fraction, bool]:
    """Frames per second, and whether they vary by more than the rounding of pts to ticks."""
    pts, steps = table.pts, len(table.pts) - 1
    span = pts[-1] - pts[0]
    if steps < 1 or span <= 0:
        return table.rate or Fraction(1), False
    for rate in filter(None, (table.rate, 1 / (Fraction(span, steps) * table.time_base))):
        step = 1 / (rate * table.time_base)
        if all(abs(at - pts[0] - n * step) <= 1 for n, at in enumerate(pts)):
            return rate, False
    return rate, True


def _fingerprint(path: Path, clip: Film | Pictures) -> str:
    digest = hashlib.sha256()
    if isinstance(clip, Pictures):
        for image in clip.paths:
            digest.update(f"{image.name}\0{image.stat().st_size}\0".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    digest.update(f"{size}\0".encode())
    with path.open("rb") as file:
        digest.update(file.read(_MIB))
        file.seek(max(size - _MIB, 0))
        digest.update(file.read(_MIB))
    return digest.hexdigest()
