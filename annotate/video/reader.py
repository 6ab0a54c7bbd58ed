"""Read the frames of a clip: in order, at given indices, keyframes only, or backward.

A clip is a file that PyAV opens, a folder of images in natural order (2 before 10), an animated
image, or a still image. Frame n is the n-th picture of a full decode, however it is reached. Its
`seconds` are exact: its pts minus the pts of frame 0, in the time base of the stream. Images that
have no timestamps count one a second. An image of a folder that cannot be read keeps its index and
is passed over; a notice names it. All frames have the size of the first one.
Pictures are RGB, 8 bits a channel, without alpha, and upright as the display matrix or the EXIF tag
says.

A truncated file gives the frames whose index is certain, then raises `BrokenVideo`. Damage in the
middle of a file is skipped, as in a full decode. A frame lost by such damage is noticed only when
that part is decoded: until then, `seek` to a later frame counts the lost frame too.

Frames are decoded ahead in a thread. `FrameSelection` says which frames of a clip to take.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, TypeVar

from annotate.errors import VideoError
from annotate.items.records import Frame
from annotate.items.sequences import evenly_spaced, sum_or_none
from annotate.video.clip import Clip, absolute_path, fingerprint, open_clip
from annotate.video.images import DecodedFrame, UnreadableImage
from annotate.video.index import VideoFile
from annotate.video.notices import note
from annotate.video.prefetch import prefetch

_T = TypeVar("_T", "DecodedFrame", "_Instant")
_BACKWARD_FRAMES, _BACKWARD_BYTES = 48, 256 * 2**20  # limits of what `backward` holds in memory


@dataclass(frozen=True)
class Video:
    """The properties of a clip.

    `name` is the name of the file or folder, with its suffix, as items carry it. `width` and
    `height` are those of the upright frames. `rate` is the average number of frames per second.
    `frame_count` is the number of frames that can be read; images of a folder that cannot be read
    are counted too. `fingerprint` identifies the content: a SHA-256 of a file's size, first and
    last MiB, or of a folder's file names and sizes.
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
    """Read the properties of a clip: count its packets, and decode only its first frames.

    Raises:
        VideoError: not there, no video stream, no frames, images of different sizes.
    """
    path = absolute_path(path)
    clip = open_clip(path)
    if isinstance(clip, VideoFile):
        next(iter(clip.frames_from())).rgb()  # an error of the decoder is raised here
    rate, variable = clip.rate
    return Video(
        path,
        path.name,
        *clip.size_wh,
        rate,
        clip.count,
        clip.duration,
        variable,
        fingerprint(path, clip),
    )


def frames(
    path: str | os.PathLike[str],
    *,
    every: int = 1,
    rate: Fraction | float | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Generator[Frame, None, None]:
    """Read the frames `range(start, stop, every)`, or `rate` frames a second, decoded ahead.

    With a rate, the first frame at or after each tick is taken; ticks are counted from frame 0, so
    that every range gives the same frames. `start` may be the number of frames: then there are
    none.

    Raises:
        VideoError: as `probe`, or there is no frame `start`.
        BrokenVideo: after the last frame that can be read, if the file is cut off or damaged.
    """
    path = absolute_path(path)
    if every < 1 or start < 0 or (rate is not None and not 0 < rate < float("inf")):
        raise VideoError(
            f"{path.name}: `every` must be 1 or more, `rate` above 0, `start` 0 or more, "
            f"not every={every}, rate={rate}, start={start}"
        )
    if rate is not None and every != 1:
        raise VideoError(f"{path.name}: give `every` or `rate`, not both")
    clip = open_clip(path)
    if start:
        _check_index(path, clip, start, clip.count)
    if rate is None:
        decoded = _decode_range(clip, start, stop)
        selected = (each for each in decoded if (each.index - start) % every == 0)
    else:  # the frame before the range tells which ticks have passed
        decoded = _at_rate(_decode_range(clip, max(start - 1, 0), stop), Fraction(rate))
        selected = (each for each in decoded if each.index >= start)
    return prefetch(_to_readable_frames(path, selected))


def frames_at(path: str | os.PathLike[str], indices: Iterable[int]) -> Iterator[Frame]:
    """Read the frames of these indices, each once, in ascending order, by the shortest decode.

    Raises:
        VideoError: as `probe`, or there is no frame of an index.
    """
    path = absolute_path(path)
    clip = open_clip(path)
    ascending = sorted(set(indices))
    for index in ascending[:1] + ascending[-1:]:
        _check_index(path, clip, index, clip.count - 1)
    return prefetch(_to_frames(path, _decode_at(clip, ascending)))


def seek(path: str | os.PathLike[str], index: int) -> Frame:
    """Read the frame of an index, exactly.

    Raises:
        VideoError: as `probe`, or there is no frame of this index.
    """
    path = absolute_path(path)
    clip = open_clip(path)
    _check_index(path, clip, index, clip.count - 1)
    return next(_to_frames(path, clip.frames_from(index)))


def keyframes(path: str | os.PathLike[str]) -> Iterator[Frame]:
    """Read the keyframes; no other frame is decoded.

    Raises:
        VideoError: as `probe`.
    """
    path = absolute_path(path)
    return prefetch(_to_readable_frames(path, open_clip(path).keyframes()))


def backward(path: str | os.PathLike[str], start: int, stop: int = 0) -> Iterator[Frame]:
    """Read the frames start, start - 1, ..., stop; at most 48 of them or 256 MiB are in memory.

    Raises:
        VideoError: as `probe`, or there is no frame `start` or `stop`.
    """
    path = absolute_path(path)
    clip = open_clip(path)
    for index in (start, stop):
        _check_index(path, clip, index, clip.count - 1)
    return prefetch(_decode_backward(path, clip, start, stop))


def _decode_backward(path: Path, clip: Clip, start: int, stop: int) -> Generator[Frame]:
    window, held = 1, deque[Frame]()
    while start >= stop:
        first = max(start - window + 1, stop)
        keyframe = clip.keyframe_at_or_after(first)  # decoding from a keyframe wastes no frame
        first = keyframe if keyframe <= start else first
        with suppress(UnreadableImage):  # none of the window; the frames before it may be readable
            held.extend(_to_readable_frames(path, _decode_range(clip, first, start + 1)))
            window = min(max(_BACKWARD_BYTES // held[0].image.nbytes, 1), _BACKWARD_FRAMES)
        start = first - 1
        while held:
            yield held.pop()


def _decode_at(clip: Clip, indices: list[int]) -> Generator[DecodedFrame]:
    decoded: Iterator[DecodedFrame] = iter(())
    position = -1
    for index in indices:
        if position < 0 or clip.keyframe_at_or_before(index) > position:
            decoded = clip.frames_from(index)
        for frame in decoded:
            position = frame.index
            if position == index:
                yield frame
                break


def _decode_range(clip: Clip, start: int, stop: int | None) -> Iterator[DecodedFrame]:
    if stop is not None and stop <= start:
        return
    for frame in clip.frames_from(start):
        yield frame
        if frame.index + 1 == stop:
            break


@dataclass(frozen=True)
class _Instant:
    """The index and the time of a frame."""

    index: int
    seconds: Fraction


def _at_rate(frames_in_time: Iterator[_T], rate: Fraction) -> Iterator[_T]:
    next_tick = 0
    for frame in frames_in_time:
        ticks = frame.seconds * rate
        if ticks >= next_tick:
            yield frame
            next_tick = floor(ticks) + 1


def _to_frames(path: Path, decoded_frames: Iterable[DecodedFrame]) -> Generator[Frame]:
    for frame in decoded_frames:
        yield _to_frame(path, frame)


def _to_frame(path: Path, decoded: DecodedFrame) -> Frame:
    return Frame(path.name, decoded.index, decoded.seconds, decoded.rgb())


def _to_readable_frames(path: Path, decoded_frames: Iterable[DecodedFrame]) -> Generator[Frame]:
    """Convert frames; images that cannot be read are passed over, named and counted."""
    unreadable: list[str] = []
    count = 0
    try:
        for decoded in decoded_frames:
            count += 1
            try:
                frame = _to_frame(path, decoded)
            except UnreadableImage as error:
                unreadable.append(str(error))
                continue
            yield frame
            del frame
        if count and len(unreadable) == count:
            raise UnreadableImage(unreadable[0])
    finally:
        if unreadable:
            note(
                f"{path}: {len(unreadable)} of {count} images cannot be read and are passed over, "
                f"first {unreadable[0]}"
            )


def _check_index(path: Path, clip: Clip, index: int, last_index: int) -> None:
    if not 0 <= index <= last_index:
        raise VideoError(
            f"{path.name}: there is no frame {index}; it has {clip.count} frames, "
            f"0 to {clip.count - 1}"
        )


@dataclass(frozen=True)
class FrameSelection:
    """Which frames of a clip to take, from `start` up to but not including `stop`.

    Every `every`-th frame, or `rate` frames a second, or only the keyframes; of these at most
    `maximum`, evenly spaced.

    Raises:
        VideoError: more than one of `every`, `rate` and `keyframes` is given.
    """

    every: int = 1
    rate: float | None = None
    keyframes: bool = False
    start: int = 0
    stop: int | None = None
    maximum: int | None = None

    def __post_init__(self) -> None:
        if (self.every != 1) + (self.rate is not None) + self.keyframes > 1:
            raise VideoError("give only one of `every`, `rate` and `keyframes`")

    def frames(self, path: Path | str) -> Iterator[Frame]:
        """Read the selected frames in order.

        Raises:
            VideoError: the clip cannot be read, or no frame of it is selected.
        """
        matching = self._all_matching(path)
        if self.maximum is not None:
            indices = [frame.index for frame in matching]
            chosen = evenly_spaced(len(indices), self.maximum)
            matching = frames_at(path, [indices[n] for n in chosen])
        return self._refuse_none(matching, Path(path))

    def check(self, path: Path | str) -> None:
        """Check that a frame of a clip is selected, as far as that is known without decoding.

        Raises:
            VideoError: the clip cannot be read, or no frame of it is selected.
        """
        clip = open_clip(absolute_path(path))
        stop = clip.count if self.stop is None else min(self.stop, clip.count)
        indices: Iterable[int] | None = range(self.start, stop)
        if self.keyframes:
            shown = clip.keyframe_indices()
            indices = shown and [index for index in shown if self.start <= index < stop]
        elif self.rate is not None:
            instants = (_Instant(n, clip.seconds(n)) for n in range(max(self.start - 1, 0), stop))
            ticks = _at_rate(instants, Fraction(self.rate))
            indices = (each.index for each in ticks if each.index >= self.start)
        if indices is not None and next(iter(indices), None) is None:
            raise self._none_selected(clip.count, Path(path))

    def _refuse_none(self, matching: Iterator[Frame], path: Path) -> Iterator[Frame]:
        count = 0
        for frame in matching:
            count += 1
            yield frame
            del frame
        if not count:
            raise self._none_selected(open_clip(absolute_path(path)).count, path)

    def _none_selected(self, frame_count: int, path: Path) -> VideoError:
        end = "on" if self.stop is None else f"up to, but not including, {self.stop}"
        part = f" from frame {self.start} {end}" if self.start or self.stop is not None else ""
        text = f"no frame is selected{part}: it has {frame_count} frames; change `start` or `stop`"
        if self.keyframes:
            text = (
                f"no keyframe of it is shown{part}: was it cut without being encoded again? "
                "Select frames by `every` or `rate`"
            )
        elif self.rate is not None:
            text += ", or give a higher `rate`"
        return VideoError(f"{path}: {text}")

    def _all_matching(self, path: Path | str) -> Iterator[Frame]:
        if not self.keyframes:
            return frames(path, every=self.every, rate=self.rate, start=self.start, stop=self.stop)
        indices = range(self.start, 2**63 if self.stop is None else self.stop)
        return (frame for frame in keyframes(path) if frame.index in indices)

    def count(self, clip: Video) -> int | None:
        """Count the selected frames; an upper limit or None if counting them needs decoding."""
        if self.keyframes or clip.frame_count is None:
            return self.maximum
        stop = clip.frame_count if self.stop is None else min(self.stop, clip.frame_count)
        length = max(stop - self.start, 0)
        count = -(-length // self.every)
        if self.rate is not None:
            count = min(length, math.ceil(length / clip.rate * Fraction(self.rate)))
        return count if self.maximum is None else min(count, self.maximum)

    def count_all(self, paths: Iterable[Path | str]) -> int | None:
        """Count the selected frames of several clips; None if counting them needs decoding."""
        return sum_or_none(self.count(probe(path)) for path in paths)


def header_entry(clip: Video) -> dict[str, dict[str, Any]]:
    """Return the entry of a clip in the header of a file of items: name -> properties."""
    names = ("fingerprint", "frame_count", "width", "height")
    properties = {name: getattr(clip, name) for name in names}
    return {clip.name: {"path": clip.path.as_posix(), **properties}}
