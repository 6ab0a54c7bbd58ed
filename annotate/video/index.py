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

from av.video.reformatter import VideoReformatter

from annotate.errors import VideoError
from annotate.items.records import Picture
from annotate.video.decoder import (
    DecodingPass,
    make_clock,
    open_video,
    truncated_error,
    upright_rgb,
)

# Every packet of these that is shown is one picture; the pictures of other codecs are counted.
_ONE_FRAME_PER_PACKET = frozenset(
    {"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "libaom-av1", "mjpeg", "png", "gif"}
    | {"ffv1", "prores", "dnxhd", "huffyuv", "ffvhuff", "utvideo", "rawvideo"}
)
_CHECKED_FRAMES = 16  # pictures decoded to see that the packets tell the truth


@dataclass(frozen=True)
class FrameIndex:
    """Where the pictures are: `pts` by index, and `keys`, the sorted pts to start decoding at.

    `end` is the pts at which the last picture ends; `whole` says that the file is all there.
    """

    pts: list[int]
    keyframe_pts: list[int]
    end_pts: int
    complete: bool
    time_base: Fraction
    rate: Fraction | None

    def index_at(self, pts: int | None) -> int | None:
        """Which picture has this pts."""
        index = bisect_left(self.pts, pts) if pts is not None else 0
        return index if self.pts[index : index + 1] == [pts] else None

    def seek_points(self, index: int) -> list[int]:
        """The keyframes to decode the picture from, the nearest first; the next is for bad luck."""
        upto = bisect_right(self.keyframe_pts, self.pts[index])
        return self.keyframe_pts[max(upto - 2, 0) : upto][::-1]


@dataclass(frozen=True)
class _DecodedVideoFrame:
    """A `Shot`, see annotate.video.images."""

    index: int
    seconds: Fraction
    av_frame: Any = field(repr=False)
    reformatter: VideoReformatter = field(repr=False)

    def rgb(self) -> Picture:
        return upright_rgb(self.av_frame, self.reformatter)


def _indexed_frame(
    table: FrameIndex, index: int, av_frame: Any, reformatter: VideoReformatter
) -> _DecodedVideoFrame:
    seconds = (table.pts[index] - table.pts[0]) * table.time_base
    return _DecodedVideoFrame(index, seconds, av_frame, reformatter)


def _make_index(
    decoding_pass: DecodingPass, pts: list[int], keyframe_pts: list[int], end_pts: int
) -> FrameIndex:
    return FrameIndex(
        pts,
        keyframe_pts,
        end_pts,
        not decoding_pass.truncated,
        decoding_pass.time_base,
        decoding_pass.rate,
    )


_index_cache: dict[
    tuple[Path, int, int], FrameIndex
] = {}  # of files as they were: path, size, last change

_unreliable_packets: set[tuple[Path, int, int]] = set()  # files whose packets do not tell the truth


class VideoFile:
    """A video file. Picture n is the n-th that a full decode yields, whichever way it is reached.

    Which picture is where is told by the packets, without decoding them. Where they cannot be
    believed (the codec hides pictures, pts are missing or doubled, the first pictures or those met
    on the way are others than they say) the pictures are counted by decoding them all, once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        status = path.stat()
        self._file_key = (path, status.st_size, status.st_mtime_ns)

    @property
    def count(self) -> int:
        """How many pictures can be had."""
        return len(self.table.pts)

    @property
    def table(self) -> FrameIndex:
        """Made at the first use and kept as long as the file does not change."""
        if self._file_key not in _index_cache:
            told = None if self._file_key in _unreliable_packets else self._index_from_packets()
            _index_cache[self._file_key] = told or self._index_from_decoding()
        return _index_cache[self._file_key]

    def _distrust_packets(self) -> None:
        """Count the pictures, from now on."""
        if self._file_key not in _unreliable_packets:
            _unreliable_packets.add(self._file_key)
            _index_cache.pop(self._file_key, None)

    def frames_from(self, start: int = 0) -> Iterator[_DecodedVideoFrame]:
        """The pictures from `start` on; then BrokenVideo if the file goes on and cannot be read."""
        if start == 0:
            yield from self._decode_all()
            return
        table, index = self.table, start
        for key in table.seek_points(start) if start < len(table.pts) else []:
            for shot in self._decode_from_keyframe(table, key, index):
                yield shot
                index = shot.index + 1
            if index > start:
                break
        if index < len(table.pts):  # the packets lied, or it cannot be reached directly
            self._distrust_packets()
            yield from islice(self._decode_all(), index, None)
        elif not table.complete:
            raise truncated_error(self.path, index)

    def keyframes(self) -> Iterator[_DecodedVideoFrame]:
        """The keyframes; nothing else is decoded."""
        if not self.table.keyframe_pts:
            yield from (shot for shot in self._decode_all() if shot.av_frame.key_frame)
            return
        with open_video(self.path) as here:
            reformatter = VideoReformatter()
            here.stream.codec_context.skip_frame = "NONKEY"
            for picture in here.decode_each(p for p in here.packets() if p.is_keyframe):
                index = self.table.index_at(picture.pts)
                if index is None:
                    self._distrust_packets()
                    index = self.table.index_at(picture.pts)
                if index is not None:
                    yield _indexed_frame(self.table, index, picture, reformatter)
        if not self.table.complete:
            raise truncated_error(self.path, self.count)

    def keyframe_at_or_before(self, index: int) -> int:
        """The keyframe that decoding starts at to reach a picture; 0 where it cannot be told."""
        starts = self.table.seek_points(index)
        return (self.table.index_at(starts[0]) or 0) if starts else 0

    def keyframe_at_or_after(self, index: int) -> int:
        """The first keyframe from a picture on; the number of pictures where there is none."""
        table = self.table
        after = bisect_left(table.keyframe_pts, table.pts[index])
        return (
            bisect_left(table.pts, table.keyframe_pts[after])
            if after < len(table.keyframe_pts)
            else self.count
        )

    def _decode_all(self) -> Iterator[_DecodedVideoFrame]:
        """A full decode: the truth."""
        with open_video(self.path) as here:
            index, first, time, reformatter = 0, None, make_clock(here), VideoReformatter()
            for picture in here.decode(here.packets()):
                pts = time.next_pts(picture)
                first = pts if first is None else first
                seconds = (pts - first) * here.time_base
                yield _DecodedVideoFrame(index, seconds, picture, reformatter)
                index += 1
                if here.damaged:
                    self._distrust_packets()
        if here.truncated:
            raise truncated_error(self.path, index)
        if not index:
            raise self._no_frames_error()

    def _decode_from_keyframe(
        self, table: FrameIndex, keyframe_pts: int, start: int
    ) -> Iterator[_DecodedVideoFrame]:
        """Pictures from `start` on, decoded from a keyframe, as long as they are those expected."""
        first = bisect_left(table.pts, keyframe_pts)
        with open_video(self.path) as here:
            reformatter, wanted = VideoReformatter(), table.pts[first]
            pictures = dropwhile(
                lambda picture: picture.pts is None or picture.pts < wanted,
                here.decode(here.packets_from(keyframe_pts)),
            )
            for index, picture in zip(range(first, len(table.pts)), pictures, strict=False):
                if picture.pts != table.pts[index] or (index == start and picture.is_corrupt):
                    return
                if index >= start:
                    yield _indexed_frame(table, index, picture, reformatter)

    def _index_from_packets(self) -> FrameIndex | None:
        """The table that the packets tell, or None if they are not to be believed."""
        with open_video(self.path) as here:
            if here.codec not in _ONE_FRAME_PER_PACKET or not here.has_display_pts:
                return None
            packets = [
                (packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard)
                for packet in here.packets()
            ]
        if any(packet[0] is None for packet in packets) or not any(p[2] for p in packets):
            return None
        keys = sorted(pts for pts, _, is_key, _ in packets if is_key)
        shown = sorted(p[:2] for p in packets if not p[3] and here.is_certain(p[0]))
        pts = [pts for pts, _ in shown]
        if not pts or len(set(pts)) < len(pts):
            return None
        with open_video(self.path) as proof:
            first = [p.pts for p in islice(proof.decode(proof.packets()), _CHECKED_FRAMES)]
        if first != pts[:_CHECKED_FRAMES]:
            return None
        return _make_index(here, pts, keys, pts[-1] + shown[-1][1])

    def _index_from_decoding(self) -> FrameIndex:
        """The table that a full decode gives."""
        keys: list[int] = []

        def noted(packets: Iterator[Any]) -> Iterator[Any]:
            for packet in packets:
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
                yield packet

        with open_video(self.path) as here:
            time = make_clock(here)
            pts = [time.next_pts(picture) for picture in here.decode(noted(here.packets()))]
        if not pts:
            raise truncated_error(self.path, 0) if here.truncated else self._no_frames_error()
        return _make_index(here, pts, sorted(keys) if time.exact else [], pts[-1] + time.step_pts)

    def _no_frames_error(self) -> VideoError:
        return VideoError(f"{self.path}: no picture in it can be decoded; give a file that plays")
