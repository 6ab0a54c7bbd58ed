"""Choose frames of a clip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from annotate import video
from annotate.records import Frame


@dataclass(frozen=True)
class Choice:
    """Which frames of a clip to take: from `start` up to, not including, `stop`.

    Every `every`-th, or `rate` a second, or only the keyframes (which alone are decoded); of these
    at most `maximum`, spread evenly.
    """

    every: int = 1
    rate: float | None = None
    keyframes: bool = False
    start: int = 0
    stop: int | None = None
    maximum: int | None = None

    def frames(self, clip: Path | str) -> Iterator[Frame]:
        """The frames chosen, in order."""
        chosen = self._all(clip)
        if self.maximum is None:
            return chosen
        indices = [frame.index for frame in chosen]
        places = np.linspace(0, len(indices) - 1, min(self.maximum, len(indices)))
        return video.frames_at(clip, [indices[place] for place in places.round().astype(int)])

    def _all(self, clip: Path | str) -> Iterator[Frame]:
        if not self.keyframes:
            return video.frames(
                clip, every=self.every, rate=self.rate, start=self.start, stop=self.stop
            )
        inside = range(self.start, 2**63 if self.stop is None else self.stop)
        return (frame for frame in video.keyframes(clip) if frame.index in inside)

    def count(self, clip: video.Video) -> int | None:
        """How many frames that will be, where it can be told without decoding."""
        if self.keyframes or clip.frame_count is None:
            return self.maximum
        stop = clip.frame_count if self.stop is None else min(self.stop, clip.frame_count)
        length = max(stop - self.start, 0)
        count = -(-length // self.every)
        if self.rate is not None:
            count = min(length, math.ceil(length / clip.rate * Fraction(self.rate)))
        return count if self.maximum is None else min(count, self.maximum)
