"""Write frames as an H.264 video that every player shows: 4:2:0, BT.709, constant rate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from annotate.errors import OutputError
from annotate.files import MADE_BY
from annotate.items.records import Picture

_ENCODER_THREADS = 4  # fixed, because the encoded bytes depend on it
_BT709, _LIMITED_RANGE = 1, 1


class VideoWriter:
    """A video of RGB pictures: H.264, 4:2:0, BT.709 with matching tags, constant `rate`.

    An odd width or height is made even by repeating the last column or row. The file is written
    under a temporary name and renamed when it is complete; after an error it is removed. (Not by
    `files.atomic_file`, which would report an OSError of the caller's block as a failed write.)

    Examples:
        >>> with VideoWriter("overlay.mp4", 30, (1280, 720)) as video:  # doctest: +SKIP
        ...     video.write(image)

    Raises:
        OutputError: it cannot be written, no picture was written, a picture has another size.
    """

    def __init__(
        self, path: str | os.PathLike[str], rate: Fraction | float, size_wh: tuple[int, int]
    ) -> None:
        self.path = Path(path)
        self.size_wh = size_wh
        self._part_path = self.path.with_name(f".{self.path.stem}.part{self.path.suffix}")
        self._rate = Fraction(rate).limit_denominator(100_000)
        self._count = 0
        if self._rate <= 0 or min(size_wh) < 1:
            raise OutputError(f"{path}: rate and size must be above 0, not {rate} and {size_wh}")

    def __enter__(self) -> Self:
        with self._as_output_error():
            self._container: Any = av.open(
                f"file:{self._part_path}", "w", container_options={"movflags": "+faststart"}
            )
            self._container.metadata["comment"] = MADE_BY
            self._stream = self._new_stream()
        return self

    def _new_stream(self) -> Any:
        options = {"crf": "18", "preset": "veryfast"}
        stream: Any = self._container.add_stream("libx264", rate=self._rate, options=options)
        stream.width, stream.height = (side + side % 2 for side in self.size_wh)
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.thread_count = _ENCODER_THREADS
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED_RANGE
        return stream

    def write(self, image: Picture) -> None:
        """Add one picture: (H, W, 3) uint8, RGB."""
        if image.shape != (self.size_wh[1], self.size_wh[0], 3) or image.dtype != np.uint8:
            raise OutputError(
                f"{self.path}: pictures must be {self.size_wh[0]}x{self.size_wh[1]} RGB uint8, "
                f"not {image.shape} {image.dtype}"
            )
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        with self._as_output_error():
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            picture = picture.reformat(
                format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE
            )
            picture.pts = self._count
            picture.time_base = 1 / self._rate
            self._container.mux(self._stream.encode(picture))
        self._count += 1

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with self._as_output_error():
                if error is None and self._count:
                    self._container.mux(self._stream.encode(None))
                self._container.close()
            if error is None and not self._count:
                raise OutputError(f"{self.path}: no picture was written, so there is no video")
            if error is None:
                with self._as_output_error():
                    self._part_path.replace(self.path)
        finally:
            self._part_path.unlink(missing_ok=True)

    @contextmanager
    def _as_output_error(self) -> Iterator[None]:
        """Turn the errors of the system and of PyAV into an OutputError."""
        try:
            yield
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"{self.path}: the video cannot be written ({reason})") from error
