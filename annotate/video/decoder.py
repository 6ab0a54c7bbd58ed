"""Decode an open video file with PyAV: packets, frames, pts, and upright RGB pictures.

A truncated file is recognised by the lengths that its MP4, Matroska or AVI container declares.
Frames whose position in the complete file is uncertain are left out. Colours are converted as the
tags of the frame say, and frames are turned by their display matrix.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from annotate.errors import BrokenVideo, VideoError
from annotate.items.records import Picture

_SEEK_BACK_SECONDS = (0, 1, 30)  # tried in turn: some containers seek past the keyframe
_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC: cover art


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
                if not packet.size:  # an empty packet is PyAV's end of the file
                    break
                if previous is not None:
                    yield self._track_dts(previous)
                previous = packet
        except av.FFmpegError:
            self.truncated = True
        if previous is not None and previous.is_corrupt:
            self.truncated = True
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
        with av.open(f"file:{path}", metadata_errors="replace") as container:
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


def _video_stream(container: Any, path: Path, truncated: bool) -> Any:
    streams = [s for s in container.streams.video if not s.disposition.value & _ATTACHED_PICTURE]
    if not streams and truncated:
        raise truncated_error(path, 0)
    if not streams or container.format.name == "tty":  # FFmpeg decodes any text file as "tty"
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        others = f", only {' and '.join(kinds)}" if kinds else ""
        raise VideoError(f"{path}: there is no video in it{others}; give a file with pictures")
    if streams[0].codec_context is None:
        raise VideoError(f"{path}: this PyAV cannot decode its video; convert it to H.264")
    streams[0].thread_type = "AUTO"
    return streams[0]


def truncated_error(path: Path, index: int) -> BrokenVideo:
    """Make the error for a file that ends before the frame `index`."""
    usable = f"the {index} frames before it can be used" if index else "no frame can be used"
    return BrokenVideo(
        f"{path}: the file is cut short at frame {index}: {usable}; copy or record it again",
        index,
    )


_MP4_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp"))
_EBML_ID, _SEGMENT_ID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def is_truncated(path: Path) -> bool:
    """Return True if an MP4 box, a Matroska segment or an AVI chunk ends beyond the file.

    Other containers do not declare their length: False.
    """
    actual = path.stat().st_size
    with path.open("rb") as file:
        return any(end > actual for end in _declared_ends(file, actual))


def _declared_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    head = file.read(8)
    if head[4:] in _MP4_BOXES:
        yield from _box_ends(file, file_bytes)
    elif head[:4] == b"RIFF":
        yield from _riff_ends(file, file_bytes)
    elif head[:4] == _EBML_ID:
        file.seek(4)
        file.seek(_read_vint(file) or 0, 1)
        if file.read(4) == _SEGMENT_ID and (size := _read_vint(file)) is not None:
            yield file.tell() + size


def _box_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    start = 0
    while start < file_bytes:
        yield start + 8
        file.seek(start)
        size, _ = struct.unpack(">I4s", file.read(8))
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if size < 8:  # 0: up to the end of the file
            return
        start += size
        yield start


def _riff_ends(file: BinaryIO, file_bytes: int) -> Iterator[int]:
    start = 0
    while start + 8 <= file_bytes:
        file.seek(start)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or size in (0, 2**32 - 1):
            return
        start += 8 + size
        yield start


def _read_vint(file: BinaryIO) -> int | None:
    """Read an EBML variable-length integer; None for an unknown size."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra_bytes = 8 - first[0].bit_length()
    largest = (1 << 7 * (extra_bytes + 1)) - 1
    value = int.from_bytes(first + file.read(extra_bytes), "big") & largest
    return None if value == largest else value


_SWS_DEFAULT = 5  # SWS_CS_DEFAULT, which is BT.601
_SWS_MATRIX = {1: 1, 4: 4, 7: 7, 9: 9, 10: 9}  # AVCOL_SPC_* -> SWS_CS_*, other than BT.601
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_BICUBIC = 4  # SWS_BICUBIC: for the chroma of pictures of more than 8 bits


def upright_rgb(av_frame: Any, reformatter: VideoReformatter) -> Picture:
    """Convert an `av.VideoFrame` to upright RGB: (H, W, 3) uint8, in memory of its own.

    Colours are converted as the tags of the frame say, and without tags by the defaults of swscale
    (BT.601, limited range), as the `ffmpeg` command does. Alpha is dropped, 16 bits scaled to 8.
    """
    converted = reformatter.reformat(av_frame, format="rgb24", **_colour_arguments(av_frame))
    pixels: Any = converted.to_ndarray()
    image: Picture = _apply_display_matrix(pixels, av_frame)
    if converted is av_frame or not image.flags.c_contiguous:  # the decoder's memory, or a view
        return np.array(image, order="C")
    return image


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


def _apply_display_matrix(image: Picture, av_frame: Any) -> Picture:
    """Turn an image by the nearest quarter turn of [a b; c d]: x' = a x + c y, y' = b x + d y."""
    # Not `av_frame.side_data`, which makes a reference cycle of frame and container: a hundred
    # decoded frames would stay in memory until the garbage collector runs.
    side_data = SideDataContainer(av_frame)  # type: ignore[call-arg]  # left out of PyAV's stubs
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    (a, b), (c, d) = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].tolist()
    sideways = abs(b) > abs(a)
    down, right = (b, c) if sideways else (d, a)
    image = image.swapaxes(0, 1) if sideways else image
    return image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
