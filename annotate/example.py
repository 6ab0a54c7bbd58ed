"""An example of what to look for: a picture, and the box in it that shows the thing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from annotate import video
from annotate.errors import PromptError
from annotate.records import Box, Picture


@dataclass(frozen=True)
class Example:
    """A picture, and the box, xyxy in its pixels, of what it shows."""

    picture: Picture = field(repr=False, compare=False)
    box: Box

    @property
    def sha256(self) -> str:
        """The picture's, of its size and pixels: what it shows, wherever it lies."""
        content = hashlib.sha256(repr(self.picture.shape).encode())
        content.update(self.picture.tobytes())
        return content.hexdigest()

    @staticmethod
    def read(text: str) -> Example:
        """`PICTURE:X1,Y1,X2,Y2`, the picture being an image, or a clip by its first picture.

        Raises:
            PromptError: not so written, or the box is not inside the picture.
            VideoError: no such picture, or none that can be read.
        """
        path, _, corners = text.rpartition(":")
        try:
            x1, y1, x2, y2 = map(float, corners.split(","))
        except ValueError:
            expected = "expected PICTURE:X1,Y1,X2,Y2, such as mech.png:10,20,50,60"
            raise PromptError(f"reference {text!r}: {expected}") from None
        picture = next(iter(video.frames_at(Path(path), [0]))).image
        height, width = picture.shape[:2]
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise PromptError(
                f"reference {text!r}: expected a box inside the picture of {width}x{height}, "
                "the left top corner first"
            )
        return Example(picture, (x1, y1, x2, y2))
