"""Decode an open video file with PyAV: packets, frames, pts, and upright RGB pictures.

Of several video streams, the main one is read, as players choose it. Frames of a truncated file
whose position in the complete file is uncertain are left out. Colours are converted as the tags of
the frame say, frames are turned by their display matrix, and all have the size of the first one.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from annotate.errors import BrokenVideo, VideoError
from annotate.items.records import Picture
from annotate.video.notices import note, printable
from annotate.video.truncation import is_truncated

_MARKS_INCOMPLETE = frozenset(  # formats whose incomplete packets are marked, or not read
    {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv"}
)
_SEEK_BACK_SECONDS = (0, 1, 30)  # tried in turn: some containers seek past the keyframe
# AV_DISPOSITION_*: the default stream, cover art, a picture that is shown like a film
_DEFAULT, _ATTACHED_PICTURE, _STILL_IMAGE = 0x1, 0x400, 0x100000


@dataclass
class DecodingPass:
    """One pass through an open file, in decoding order.

    A truncated file has lost packets: its last packet may be incomplete, and a frame shown after
    the dts of the first lost packet may have lost the frame before it. Both are left out, so that
    every other frame has the index that it had in the complete file. A packet that cannot be
    decoded is skipped, as the `ffmpeg` command does, and sets `damaged`.
    """

    container: Any
    stream: Any
    truncated: bool
    time_base: Fraction
    rate: Fraction | None  # frames per second, as the container says
    damaged: bool = False
    _lost_from_dts: int | None = None  # packets from this dts on may be lost

    @property
    def has_display_pts(self) -> bool:
        """True if pts are in display order; those of H.264 in AVI are in decoding order."""
        return self.container.format.name != "avi" or self.codec != "h264"

    @property
    def codec(self) -> str:
        """The name of the decoder."""
        return str(self.stream.codec_context.name)

    def packets(self) -> Iterator[Any]:
        """Read the packets of the video stream from the current position."""
        previous = None
        try:
            for packet in self.container.demux(self.stream):
                if not packet.size:  # a dropped frame, or PyAV's end of the file
                    continue
                if previous is not None:
                    yield self._track_dts(previous)
                previous = packet
        except av.FFmpegError:
            self.truncated = True
        if previous is not None and previous.is_corrupt:
            self.truncated = True
        elif self.truncated and self.container.format.name not in _MARKS_INCOMPLETE:
            return  # the last packet may be incomplete
        elif previous is not None:
            yield self._track_dts(previous)

    def _track_dts(self, packet: Any) -> Any:
        if packet.dts is not None:
            self._lost_from_dts = packet.dts + max(packet.duration or 0, 1)
        return packet

    def packets_from(self, keyframe_pts: int) -> Iterator[Any]:
        """Seek to a keyframe and read the packets from there on; none if it is not found."""
        for seconds in _SEEK_BACK_SECONDS:
            try:
                offset = keyframe_pts - int(seconds / self.time_base)
                self.container.seek(offset, stream=self.stream)
            except av.FFmpegError:
                continue
            packets = self.packets()
            for packet in packets:
                if packet.is_keyframe and packet.pts is not None and packet.pts >= keyframe_pts:
                    if packet.pts == keyframe_pts:
                        yield from chain([packet], packets)
                        return
                    break

    def is_certain(self, pts: int | None) -> bool:
        """Return True if no lost frame can be shown before the frame with this pts."""
        return (
            not self.truncated
            or pts is None
            or self._lost_from_dts is None
            or pts < self._lost_from_dts
        )

    def decode(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Decode packets; yield the frames in display order."""
        for packet in packets:
            yield from self._decode_packet(packet)
        for av_frame in self._decode_packet(None):
            if self.is_certain(av_frame.pts):
                yield av_frame

    def decode_each(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Decode each packet on its own, as keyframes need it.

        The decoder reorders frames that do not follow each other, and may lose some of them.
        """
        for packet in packets:
            yield from self._decode_packet(packet) + self._decode_packet(None)
            self.stream.codec_context.flush_buffers()

    def _decode_packet(self, packet: Any) -> list[Any]:
        try:
            return list(self.stream.codec_context.decode(packet))
        except av.FFmpegError:
            self.damaged = True
            return []


@dataclass
class PtsClock:
    """Gives frames ascending pts: a frame's own pts, or one step after the last if it is not later.

    `exact` is True while every frame has kept its own pts.
    """

    step_pts: int
    has_display_pts: bool
    exact: bool = True
    last_pts: int | None = None

    def next_pts(self, av_frame: Any) -> int:
        """Return the pts of the next frame."""
        own = av_frame.pts if self.has_display_pts else None
        if own is not None and (self.last_pts is None or own > self.last_pts):
            self.last_pts = own
        else:
            self.exact = False
            self.last_pts = 0 if self.last_pts is None else self.last_pts + self.step_pts
        return int(self.last_pts)


def make_clock(decoding_pass: DecodingPass) -> PtsClock:
    """Make a clock for the frames of a pass."""
    return PtsClock(
        max(round(1 / ((decoding_pass.rate or 25) * decoding_pass.time_base)), 1),
        decoding_pass.has_display_pts,
    )


@contextmanager
def open_video(path: Path) -> Iterator[DecodingPass]:
    """Open a video file at its beginning; errors of PyAV are raised as VideoError."""
    truncated = False
    try:
        truncated = is_truncated(path)
        with _open_container(path) as container:
            stream = _video_stream(container, path, truncated)
            rate = stream.average_rate or stream.guessed_rate or None
            yield DecodingPass(container, stream, truncated, stream.time_base, rate)
    except (av.FFmpegError, OSError, UnicodeError) as error:
        if truncated:
            raise truncated_error(path, 0) from error
        reason = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{path}: not a video that can be read ({reason}); give a file that plays"
        ) from error


def _open_container(path: Path) -> Any:
    return av.open(f"file:{path}", metadata_errors="replace")


def _video_streams(container: Any) -> list[Any]:
    return [s for s in container.streams.video if not s.disposition.value & _ATTACHED_PICTURE]


def _video_stream(container: Any, path: Path, truncated: bool) -> Any:
    streams = _video_streams(container)
    if not streams and truncated:
        raise truncated_error(path, 0)
    if not streams or container.format.name == "tty":  # FFmpeg decodes any text file as "tty"
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        others = f", only {' and '.join(kinds)}" if kinds else ""
        raise VideoError(f"{path}: there is no video in it{others}; give a file with pictures")
    stream = streams[0]
    if len(streams) > 1:
        status = path.stat()
        stream = container.streams[_main_stream(path, status.st_size, status.st_mtime_ns)]
    if stream.codec_context is None:
        raise VideoError(f"{path}: this PyAV cannot decode its video; convert it to H.264")
    stream.thread_type = "AUTO"
    return stream


@lru_cache(maxsize=256)
def _main_stream(path: Path, _file_bytes: int, _mtime_ns: int) -> int:
    """Choose one of several video streams, and say which; returns its index in the container.

    A film is chosen before a single picture, then a default stream before others, then the largest.
    """
    with _open_container(path) as container:
        streams = _video_streams(container)
        packet_counts = dict.fromkeys((stream.index for stream in streams), 0)
        with suppress(av.FFmpegError):
            for packet in container.demux(streams):
                packet_counts[packet.stream.index] += bool(packet.size)
                if min(packet_counts.values()) > 1:
                    break

        def rank(stream: Any) -> tuple[bool, bool, bool, int]:
            codec, flags = stream.codec_context, stream.disposition.value
            is_film = packet_counts[stream.index] > 1 and not flags & _STILL_IMAGE
            area = codec.width * codec.height if codec else 0
            return codec is not None, is_film, bool(flags & _DEFAULT), area

        best = max(streams, key=rank)  # the first of equals
        names = [_describe_stream(stream) for stream in streams if stream is not best]
        note(
            f"{printable(path)}: it has {len(streams)} video streams; {_describe_stream(best)} is "
            f"read, and not {', '.join(names)}"
        )
        return int(best.index)


def _describe_stream(stream: Any) -> str:
    codec = stream.codec_context
    return f"stream {stream.index}" + (f" ({codec.width}x{codec.height})" if codec else "")


def truncated_error(path: Path, index: int) -> BrokenVideo:
    """Make the error for a file that ends before the frame `index`."""
    usable = f"the {index} frames before it can be used" if index else "no frame can be used"
    return BrokenVideo(
        f"{path}: the file is cut short at frame {index}: {usable}; copy or record it again",
        index,
    )


_SWS_DEFAULT = 5  # SWS_CS_DEFAULT, which is BT.601
_SWS_MATRIX = {1: 1, 4: 4, 7: 7, 9: 9, 10: 9}  # AVCOL_SPC_* -> SWS_CS_*, other than BT.601
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_BICUBIC = 4  # SWS_BICUBIC: for the chroma of pictures of more than 8 bits


@dataclass(frozen=True)
class FrameConverter:
    """Converts the frames of a file to upright RGB of one size, `size_wh`; others are scaled."""

    path: Path
    size_wh: tuple[int, int]
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter, repr=False)

    def to_rgb(self, av_frame: Any) -> Picture:
        """Convert an `av.VideoFrame` to upright RGB: (H, W, 3) uint8, in memory of its own.

        Colours are converted as the tags of the frame say, and without tags by the defaults of
        swscale (BT.601, limited range), as the `ffmpeg` command does. Alpha is dropped, 16 bits are
        scaled to 8, and a frame of another size is scaled by bicubic interpolation.
        """
        turn = _quarter_turn(av_frame)
        arguments = _colour_arguments(av_frame)
        stored_wh = self.size_wh[::-1] if turn.sideways else self.size_wh
        if stored_wh != (av_frame.width, av_frame.height):
            arguments |= {"width": stored_wh[0], "height": stored_wh[1]}
            width, height = self.size_wh
            note(f"{printable(self.path)}: the size changes; all frames become {width}x{height}")
        converted = self._reformatter.reformat(av_frame, format="rgb24", **arguments)
        pixels: Any = converted.to_ndarray()
        image: Picture = turn.apply(pixels)
        if converted is av_frame or not image.flags.c_contiguous:  # the decoder's memory, or a view
            return np.array(image, order="C")
        return image


def upright_size(av_frame: Any) -> tuple[int, int]:
    """Return the width and height of a frame after it is turned."""
    size_wh = (av_frame.width, av_frame.height)
    return size_wh[::-1] if _quarter_turn(av_frame).sideways else size_wh


def _colour_arguments(av_frame: Any) -> dict[str, int]:
    """Choose swscale's arguments: PyAV before 17 passes none unless source and target differ."""
    matrix = _SWS_MATRIX.get(int(av_frame.colorspace), _SWS_DEFAULT)
    full = int(av_frame.color_range) == _FULL_RANGE or av_frame.format.name.startswith("yuvj")
    return {
        "src_colorspace": matrix,
        "dst_colorspace": _SWS_DEFAULT,
        "src_color_range": _FULL_RANGE if full else 0,
        "interpolation": _BICUBIC,
    }


class _QuarterTurn(NamedTuple):
    """How an image is turned: rows and columns are exchanged, then the axes are reversed."""

    sideways: bool = False
    down: int = 1
    right: int = 1

    def apply(self, image: Picture) -> Picture:
        image = image.swapaxes(0, 1) if self.sideways else image
        return image[:: -1 if self.down < 0 else 1, :: -1 if self.right < 0 else 1]


def _quarter_turn(av_frame: Any) -> _QuarterTurn:
    """Read the nearest quarter turn of the display matrix: x' = a x + c y, y' = b x + d y."""
    # Not `av_frame.side_data`, which makes a reference cycle of frame and container: a hundred
    # decoded frames would stay in memory until the garbage collector runs.
    side_data = SideDataContainer(av_frame)  # type: ignore[call-arg]  # left out of PyAV's stubs
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _QuarterTurn()
    (a, b), (c, d) = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].tolist()
    return _QuarterTurn(True, b, c) if abs(b) > abs(a) else _QuarterTurn(False, d, a)
