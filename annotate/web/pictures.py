"""Decode the frames of a clip for the page, by index, and keep the latest ones as JPEG.

One thread at a time decodes. A decoder stays where it stopped, so that the next frame costs one
picture; all frames that are decoded on the way to a wanted one are kept too, so that going back
inside a group of pictures decodes nothing. After each request, frames are decoded ahead in the
direction of travel.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from annotate.errors import VideoError
from annotate.items.records import Frame
from annotate.items.sequences import BoundedCache
from annotate.video import reader
from annotate.video.clip import absolute_path, open_clip
from annotate.video.images import encode_jpeg

JPEG_QUALITY = 90
_MAX_JPEG_BYTES = 96 * 2**20
_MAX_IMAGE_BYTES = 96 * 2**20
_AHEAD, _BEHIND = 20, 3  # frames decoded ahead of the latest request, and against its direction
_MAX_SKIP = 12  # frames to decode and pass over, rather than to open the file at another place


@dataclass(frozen=True)
class EncodedFrame:
    """A frame as JPEG, and its exact time."""

    index: int
    seconds: str  # a fraction
    jpeg: bytes


class PictureStore:
    """The frames of one clip, by index; methods may be called from several threads."""

    def __init__(self, clip: Path, frame_count: int) -> None:
        self._clip, self._count = clip, frame_count
        self._lock = threading.Lock()
        self._video = open_clip(absolute_path(clip))
        self._decoder = reader.frames(clip, start=frame_count)  # of no frames
        self._next_index: int | None = None  # the frame that the decoder yields next
        self._frames = BoundedCache[int, Frame](_MAX_IMAGE_BYTES)
        self._jpegs = BoundedCache[int, EncodedFrame](_MAX_JPEG_BYTES)
        self._wanted, self._direction = 0, 1
        self._wake, self._closed = threading.Event(), False
        self._waiting = 0  # requests that wait for the lock; decoding ahead gives way to them
        self._thread = threading.Thread(target=self._decode_ahead, daemon=True)
        self._thread.start()

    def jpeg(self, index: int) -> EncodedFrame:
        """Return a frame as JPEG.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
        """
        self._direction = 1 if index >= self._wanted else -1
        self._wanted = index
        self._wake.set()
        return self._jpegs.get(index) or self._encode(self.frame(index))

    def frame(self, index: int) -> Frame:
        """Return a frame.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
        """
        if not 0 <= index < self._count:
            raise VideoError(f"there is no frame {index}; the clip has 0 to {self._count - 1}")
        self._waiting += 1
        with self._lock:
            self._waiting -= 1
            return self._frames.get(index) or self._decode(index)

    def times(self) -> list[float]:
        """Return the seconds of all frames, rounded to a tenth of a millisecond."""
        return [round(float(self._video.seconds(index)), 4) for index in range(self._count)]

    def close(self) -> None:
        """Stop decoding ahead."""
        self._closed = True
        self._wake.set()
        self._thread.join()
        self._decoder.close()

    def _decode(self, index: int) -> Frame:
        at = self._next_index
        keyframe = self._video.keyframe_at_or_before(index)
        if at is None or not (at <= index and (index - at <= _MAX_SKIP or keyframe <= at)):
            self._decoder.close()
            self._decoder = reader.frames(self._clip, start=index)
        for frame in self._decoder:
            self._next_index = frame.index + 1
            self._frames.put(frame.index, frame, frame.image.nbytes)
            if frame.index >= index:
                break
        if (found := self._frames.get(index)) is None:
            self._next_index = None
            raise VideoError(f"frame {index} cannot be decoded: the file is damaged there")
        return found

    def _encode(self, frame: Frame) -> EncodedFrame:
        encoded = EncodedFrame(
            frame.index, str(frame.seconds), encode_jpeg(frame.image, JPEG_QUALITY)
        )
        self._jpegs.put(frame.index, encoded, len(encoded.jpeg))
        return encoded

    def _decode_ahead(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            before, after = (_BEHIND, _AHEAD) if self._direction > 0 else (_AHEAD, _BEHIND)
            following = range(self._wanted + 1, self._wanted + after + 1)
            preceding = range(self._wanted - before, self._wanted)  # decoded forward as well
            parts = (following, preceding) if self._direction > 0 else (preceding, following)
            for index in chain(*parts):
                if self._closed or self._wake.is_set() or self._waiting:
                    break
                if 0 <= index < self._count and self._jpegs.get(index) is None:
                    with suppress(VideoError):  # asked for, the page gets the error
                        self._encode(self.frame(index))
