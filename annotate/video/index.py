"""Index the frames of a video file, and decode from any of them.

The packets of a file give the pts of its frames without decoding. Where the packets cannot be
trusted (the codec hides frames, pts are missing or doubled, or a decoded frame has another pts than
its packet), the whole file is decoded once to count its frames.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any

from annotate.errors import VideoError
from annotate.items.records import Picture
from annotate.video.decoder import (
    DecodingPass,
    FrameConverter,
    make_clock,
    open_video,
    truncated_error,
    upright_size,
)

# Every shown packet of these codecs is one frame; for other codecs the frames are counted.
_ONE_FRAME_PER_PACKET = frozenset(
    {"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "libaom-av1", "mjpeg", "png", "gif"}
    | {"ffv1", "prores", "dnxhd", "huffyuv", "ffvhuff", "utvideo", "rawvideo"}
)
_CHECKED_FRAMES = 16  # frames decoded to verify the pts of the packets


@dataclass(frozen=True)
class FrameIndex:
    """The pts of each frame by index; `keyframe_pts` are the sorted pts where decoding can start.

    `end_pts` is the pts at which the last frame ends; `complete` is False for a truncated file;
    `size_wh` is the upright size of the first frame.
    """

    pts: list[int]
    keyframe_pts: list[int]
    end_pts: int
    complete: bool
    time_base: Fraction
    rate: Fraction | None
    size_wh: tuple[int, int]

    def seconds(self, index: int) -> Fraction:
        """Return the time of a frame since frame 0."""
        return (self.pts[index] - self.pts[0]) * self.time_base

    def index_at(self, pts: int | None) -> int | None:
        """Find the index of the frame with this pts; None if no frame has it."""
        index = bisect_left(self.pts, pts) if pts is not None else 0
        return index if self.pts[index : index + 1] == [pts] else None

    def seek_points(self, index: int) -> list[int]:
        """List the pts of the two keyframes to decode a frame from, the nearest first.

        The second one is used if decoding from the first does not reach the frame.
        """
        end = bisect_right(self.keyframe_pts, self.pts[index])
        return self.keyframe_pts[max(end - 2, 0) : end][::-1]


@dataclass(frozen=True)
class _DecodedVideoFrame:
    """A `DecodedFrame` of a video file, see `annotate.video.images`."""

    index: int
    seconds: Fraction
    av_frame: Any = field(repr=False)
    converter: FrameConverter = field(repr=False)

    def rgb(self) -> Picture:
        return self.converter.to_rgb(self.av_frame)


def _indexed_frame(
    table: FrameIndex, index: int, av_frame: Any, converter: FrameConverter
) -> _DecodedVideoFrame:
    return _DecodedVideoFrame(index, table.seconds(index), av_frame, converter)


def _make_index(
    decoding_pass: DecodingPass,
    pts: list[int],
    keyframe_pts: list[int],
    end_pts: int,
    size_wh: tuple[int, int],
) -> FrameIndex:
    return FrameIndex(
        pts,
        keyframe_pts,
        end_pts,
        not decoding_pass.truncated,
        decoding_pass.time_base,
        decoding_pass.rate,
        size_wh,
    )


_FileKey = tuple[Path, int, int]  # path, size in bytes, time of the last change
_index_cache: dict[_FileKey, FrameIndex] = {}
_unreliable_packets: set[_FileKey] = set()  # files whose packets do not match the decoded frames


class VideoFile:
    """A video file. Frame n is the n-th frame of a full decode, however it is reached.

    The positions of the frames are read from the packets, without decoding. Where the packets are
    not reliable (the codec hides frames, pts are missing or doubled, a decoded frame has another
    pts than its packet), the frames are counted by decoding the whole file once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        status = path.stat()
        self._file_key = (path, status.st_size, status.st_mtime_ns)

    @property
    def count(self) -> int:
        """The number of frames that can be read."""
        return len(self.table.pts)

    @property
    def duration(self) -> Fraction:
        """The duration in seconds."""
        return (self.table.end_pts - self.table.pts[0]) * self.table.time_base

    @property
    def size_wh(self) -> tuple[int, int]:
        """The width and height of the frames."""
        return self.table.size_wh

    @property
    def rate(self) -> tuple[Fraction, bool]:
        """The frame rate, and whether it varies by more than the rounding of pts."""
        table = self.table
        pts, steps = table.pts, len(table.pts) - 1
        span = pts[-1] - pts[0]
        if steps < 1 or span <= 0:
            return table.rate or Fraction(1), False
        for rate in filter(None, (table.rate, 1 / (Fraction(span, steps) * table.time_base))):
            step = 1 / (rate * table.time_base)
            if all(abs(each - pts[0] - n * step) <= 1 for n, each in enumerate(pts)):
                return rate, False
        return rate, True

    @property
    def table(self) -> FrameIndex:
        """The frame index, built at the first use and cached until the file changes."""
        if self._file_key not in _index_cache:
            reliable = self._file_key not in _unreliable_packets
            index = self._index_from_packets() if reliable else None
            _index_cache[self._file_key] = index or self._index_from_decoding()
        return _index_cache[self._file_key]

    def _distrust_packets(self) -> None:
        """Index this file by decoding from now on."""
        if self._file_key not in _unreliable_packets:
            _unreliable_packets.add(self._file_key)
            _index_cache.pop(self._file_key, None)

    def frames_from(self, start: int = 0) -> Iterator[_DecodedVideoFrame]:
        """Decode the frames from `start` on; raise BrokenVideo at the end of a truncated file."""
        if start == 0:
            yield from self._decode_all()
            return
        table, index = self.table, start
        for keyframe_pts in table.seek_points(start) if start < len(table.pts) else []:
            for frame in self._decode_from_keyframe(table, keyframe_pts, index):
                yield frame
                index = frame.index + 1
            if index > start:
                break
        if index < len(table.pts):  # the packets are not reliable, or seeking failed
            self._distrust_packets()
            yield from islice(self._decode_all(), index, None)
        elif not table.complete:
            raise truncated_error(self.path, index)

    def keyframes(self) -> Iterator[_DecodedVideoFrame]:
        """Decode the keyframes alone."""
        if not self.table.keyframe_pts:
            yield from (frame for frame in self._decode_all() if frame.av_frame.key_frame)
            return
        with open_video(self.path) as decoding:
            converter = FrameConverter(self.path, self.table.size_wh)
            decoding.stream.codec_context.skip_frame = "NONKEY"
            packets = (packet for packet in decoding.packets() if packet.is_keyframe)
            for av_frame in decoding.decode_each(packets):
                index = self.table.index_at(av_frame.pts)
                if index is None:
                    self._distrust_packets()
                    index = self.table.index_at(av_frame.pts)
                if index is not None:
                    yield _indexed_frame(self.table, index, av_frame, converter)
        if not self.table.complete:
            raise truncated_error(self.path, self.count)

    def seconds(self, index: int) -> Fraction:
        """Return the time of a frame since frame 0."""
        return self.table.seconds(index)

    def keyframe_indices(self) -> list[int] | None:
        """List the indices of the keyframes that are shown; None if that needs decoding."""
        indices = map(self.table.index_at, self.table.keyframe_pts)
        return (
            [index for index in indices if index is not None] if self.table.keyframe_pts else None
        )

    def keyframe_at_or_before(self, index: int) -> int:
        """Find the keyframe from which a frame is decoded; 0 if it is not known."""
        starts = self.table.seek_points(index)
        return (self.table.index_at(starts[0]) or 0) if starts else 0

    def keyframe_at_or_after(self, index: int) -> int:
        """Find the first keyframe at or after a frame; the frame count if there is none."""
        table = self.table
        position = bisect_left(table.keyframe_pts, table.pts[index])
        if position == len(table.keyframe_pts):
            return self.count
        return bisect_left(table.pts, table.keyframe_pts[position])

    def _decode_all(self) -> Iterator[_DecodedVideoFrame]:
        """Decode the whole file: this defines the indices of its frames."""
        with open_video(self.path) as decoding:
            clock, converter = make_clock(decoding), None
            index, first_pts = 0, None
            for av_frame in decoding.decode(decoding.packets()):
                pts = clock.next_pts(av_frame)
                first_pts = pts if first_pts is None else first_pts
                converter = converter or FrameConverter(self.path, upright_size(av_frame))
                seconds = (pts - first_pts) * decoding.time_base
                yield _DecodedVideoFrame(index, seconds, av_frame, converter)
                index += 1
                if decoding.damaged:
                    self._distrust_packets()
        if decoding.truncated:
            raise truncated_error(self.path, index)
        if not index:
            raise self._no_frames_error()

    def _decode_from_keyframe(
        self, table: FrameIndex, keyframe_pts: int, start: int
    ) -> Iterator[_DecodedVideoFrame]:
        """Decode from a keyframe; yield the frames from `start` on until one has another pts."""
        first = bisect_left(table.pts, keyframe_pts)
        with open_video(self.path) as decoding:
            converter, first_pts = FrameConverter(self.path, table.size_wh), table.pts[first]
            av_frames = dropwhile(
                lambda av_frame: av_frame.pts is None or av_frame.pts < first_pts,
                decoding.decode(decoding.packets_from(keyframe_pts)),
            )
            for index, av_frame in zip(range(first, len(table.pts)), av_frames, strict=False):
                if av_frame.pts != table.pts[index] or (index == start and av_frame.is_corrupt):
                    return
                if index >= start:
                    yield _indexed_frame(table, index, av_frame, converter)

    def _index_from_packets(self) -> FrameIndex | None:
        """Index the file by its packets; None if they are not reliable."""
        with open_video(self.path) as decoding:
            if decoding.codec not in _ONE_FRAME_PER_PACKET or not decoding.has_display_pts:
                return None
            packets = [
                (packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard)
                for packet in decoding.packets()
            ]
        if any(packet[0] is None for packet in packets) or not any(p[2] for p in packets):
            return None
        keyframe_pts = sorted(pts for pts, _, is_keyframe, _ in packets if is_keyframe)
        shown = sorted(p[:2] for p in packets if not p[3] and decoding.is_certain(p[0]))
        pts = [pts for pts, _ in shown]
        if not pts or len(set(pts)) < len(pts):
            return None
        with open_video(self.path) as check:
            av_frames = islice(check.decode(check.packets()), _CHECKED_FRAMES)
            decoded = [(each.pts, upright_size(each)) for each in av_frames]
        if [each[0] for each in decoded] != pts[:_CHECKED_FRAMES]:
            return None
        return _make_index(decoding, pts, keyframe_pts, pts[-1] + shown[-1][1], decoded[0][1])

    def _index_from_decoding(self) -> FrameIndex:
        """Index the file by a full decode."""
        keyframe_pts: list[int] = []

        def note_keyframes(packets: Iterator[Any]) -> Iterator[Any]:
            for packet in packets:
                if packet.is_keyframe and packet.pts is not None:
                    keyframe_pts.append(packet.pts)
                yield packet

        with open_video(self.path) as decoding:
            clock = make_clock(decoding)
            av_frames = decoding.decode(note_keyframes(decoding.packets()))
            timed = [(clock.next_pts(each), upright_size(each)) for each in av_frames]
        if not timed:
            raise truncated_error(self.path, 0) if decoding.truncated else self._no_frames_error()
        seek_pts = sorted(keyframe_pts) if clock.exact else []
        pts = [each[0] for each in timed]
        return _make_index(decoding, pts, seek_pts, pts[-1] + clock.step_pts, timed[0][1])

    def _no_frames_error(self) -> VideoError:
        return VideoError(f"{self.path}: none of its frames can be decoded; give a file that plays")
