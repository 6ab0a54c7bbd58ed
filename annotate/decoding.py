"""One way through a file that PyAV opens: its packets, and what the decoder makes of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av

from annotate.cut_short import is_cut_short
from annotate.errors import BrokenVideo, VideoError

_BACK_SECONDS = (0, 1, 30)  # how far before a keyframe to look for it, where seeking is inexact
_COVER = 0x400  # AV_DISPOSITION_ATTACHED_PIC: the cover of an album


@dataclass
class Pass:
    """One way through an open file, in the order of decoding; it ends where the file does.

    A file that was cut short has lost packets: its last packet may be half, and a picture shown
    after the next packet's dts may have lost the one before it. Neither is let through, so that
    what is let through stands where it stood in the whole file. A packet that cannot be decoded is
    passed over, as the `ffmpeg` command does: then the pass is `damaged`.
    """

    container: Any
    stream: Any
    cut: bool
    time_base: Fraction
    rate: Fraction | None  # frames per second, as the container says
    damaged: bool = False
    _lost: int | None = None  # no packet from this dts on has been seen

    @property
    def timed(self) -> bool:
        """Whether pts tell when pictures are shown; AVI gives H.264 those of its decoding."""
        return self.container.format.name != "avi" or self.codec != "h264"

    @property
    def codec(self) -> str:
        """The decoder's name."""
        return str(self.stream.codec_context.name)

    def packets(self) -> Iterator[Any]:
        """Those of the video, from where the file stands."""
        held = None
        try:
            for packet in self.container.demux(self.stream):
                if not packet.size:  # PyAV's sign that there are no more
                    break
                if held is not None:
                    yield self._noted(held)
                held = packet
        except av.FFmpegError:
            self.cut = True
        if held is not None and held.is_corrupt:
            self.cut = True
        elif held is not None:
            yield self._noted(held)

    def _noted(self, packet: Any) -> Any:
        if packet.dts is not None:
            self._lost = packet.dts + max(packet.duration or 0, 1)
        return packet

    def packets_from(self, key: int) -> Iterator[Any]:
        """Those from the keyframe with the pts `key` on; none where it is not found."""
        for seconds in _BACK_SECONDS:
            try:
                offset = key - int(seconds / self.time_base)
                self.container.seek(offset, stream=self.stream)
            except av.FFmpegError:
                continue
            packets = self.packets()
            for packet in packets:
                if packet.is_keyframe and packet.pts is not None and packet.pts >= key:
                    if packet.pts == key:
                        yield from chain([packet], packets)
                        return
                    break

    def shows(self, pts: int | None) -> bool:
        """Whether it is sure that no lost picture belongs before this one."""
        return not self.cut or pts is None or self._lost is None or pts < self._lost

    def pictures(self, packets: Iterator[Any]) -> Iterator[Any]:
        """What the decoder makes of the packets, in the order of presentation."""
        for packet in packets:
            yield from self._decode(packet)
        for picture in self._decode(None):
            if self.shows(picture.pts):
                yield picture

    def lone_pictures(self, packets: Iterator[Any]) -> Iterator[Any]:
        """What the decoder makes of each packet on its own.

        Between pictures that do not follow each other it would guess their order, and some lost.
        """
        for packet in packets:
            yield from self._decode(packet) + self._decode(None)
            self.stream.codec_context.flush_buffers()

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return list(self.stream.codec_context.decode(packet))
        except av.FFmpegError:
            self.damaged = True
            return []


@dataclass
class Clock:
    """The pts of picture after picture: its own, or a step after the last if it is not later.

    `true` tells whether all of them were their own.
    """

    step: int
    timed: bool
    true: bool = True
    last: int | None = None

    def pts(self, picture: Any) -> int:
        """Of the next picture."""
        own = picture.pts if self.timed else None
        if own is not None and (self.last is None or own > self.last):
            self.last = own
        else:
            self.true = False
            self.last = 0 if self.last is None else self.last + self.step
        return int(self.last)


def clock(here: Pass) -> Clock:
    """For the pictures of a pass, from its first on."""
    return Clock(max(round(1 / ((here.rate or 25) * here.time_base)), 1), here.timed)


@contextmanager
def opened(path: Path) -> Iterator[Pass]:
    """The file at its beginning; whatever PyAV says of it becomes a VideoError."""
    cut = False
    try:
        cut = is_cut_short(path)
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            stream = _stream(container, path, cut)
            rate = stream.average_rate or stream.guessed_rate or None
            yield Pass(container, stream, cut, stream.time_base, rate)
    except (av.FFmpegError, OSError, UnicodeError) as error:
        if cut:
            raise broken(path, 0) from error
        why = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{path}: not a video that can be read ({why}); give a file that plays"
        ) from error


def _stream(container: Any, path: Path, cut: bool) -> Any:
    streams = [s for s in container.streams.video if not s.disposition.value & _COVER]
    if not streams and cut:
        raise broken(path, 0)
    if not streams or container.format.name == "tty":  # which shows any text as a film
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        only = f", only {' and '.join(kinds)}" if kinds else ""
        raise VideoError(f"{path}: there is no video in it{only}; give a file with pictures")
    if streams[0].codec_context is None:
        raise VideoError(f"{path}: this PyAV cannot decode its video; convert it to H.264")
    streams[0].thread_type = "AUTO"
    return streams[0]


def broken(path: Path, frame: int) -> BrokenVideo:
    """The error for a file that was cut short before `frame`."""
    usable = f"the {frame} frames before it can be used" if frame else "nothing of it can be used"
    return BrokenVideo(
        f"{path}: the file is cut short at frame {frame}: {usable}; copy or record it again",
        frame,
    )
