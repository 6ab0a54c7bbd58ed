"""Where a film cuts: PySceneDetect's adaptive detector, fed with frames that are decoded anyway.

Of the cuts it proposes, those are passed over at which only the tones change and not the picture,
as in a muzzle's flash; added are those where a picture has little in common with the one before,
though those about it have much, which the detector misses when something else flares up within two
frames of a cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.errors import needs
from annotate.glance import Glance
from annotate.records import Frame

if TYPE_CHECKING:
    from scenedetect.detectors import AdaptiveDetector

LAG = 2  # frames by which a cut is told late
_LEAST_SECONDS = Fraction(1, 2)  # PySceneDetect's: its 15 frames
_SIDE = 32  # pixels, width of what is compared
_ALIKE = 0.8  # correlation of two pictures from which on there is no cut between them
_UNLIKE = 0.5  # up to which there is one, if frames about it are three times as much alike
_TIMES = 3.0


@dataclass(frozen=True)
class Shot:
    """Frames `start` up to, not including, `stop`, and when they begin and end."""

    start: int
    stop: int
    start_seconds: Fraction
    stop_seconds: Fraction


class Cutter:
    """Told frame after frame, it tells which of them begin a shot, two frames late."""

    def __init__(self) -> None:
        self._detector = _detector()
        self._recent: deque[_Seen] = deque(maxlen=2 * LAG + 1)
        self._last_cut: Fraction | None = None

    def see(self, glance: Glance) -> int | None:
        """The index of a frame that begins a shot, told by now; None where none does."""
        frame = glance.frame
        proposed = self._detector.process_frame(*_asked(glance))
        if self._last_cut is None:
            self._last_cut = frame.seconds
        self._recent.append(self._seen(glance))
        if len(self._recent) <= LAG:
            return None
        at = self._recent[-1 - LAG]
        if not (at.alike < _ALIKE and (proposed or self._stands_out())):
            return None
        if at.seconds - self._last_cut < _LEAST_SECONDS:
            return None
        self._last_cut = at.seconds
        return at.index

    def _seen(self, glance: Glance) -> _Seen:
        tones = _tones(glance)
        alike = float((tones * self._recent[-1].tones).sum()) if self._recent else 1.0
        return _Seen(glance.frame.index, glance.frame.seconds, alike, tones)

    def _stands_out(self) -> bool:
        *before, at, _, _ = self._recent
        about = [1 - each.alike for each in (*before[-LAG:], *list(self._recent)[-LAG:])]
        return at.alike < _UNLIKE and 1 - at.alike > _TIMES * float(np.median(about))


def shots(frames: Iterable[Frame]) -> Iterator[Shot]:
    """The shots of consecutive frames, in order; nothing is held but the times of a few.

    Raises:
        MissingPackage: PySceneDetect is not installed.
    """
    cutter = Cutter()
    start: tuple[int, Fraction] | None = None
    recent: dict[int, Fraction] = {}
    frame = None
    for frame in frames:
        start = start or (frame.index, frame.seconds)
        recent[frame.index] = frame.seconds
        cut = cutter.see(Glance(frame))
        if cut is not None:
            yield Shot(start[0], cut, start[1], recent[cut])
            start = (cut, recent[cut])
        recent.pop(frame.index - LAG, None)
    if frame is not None and start is not None:
        yield Shot(start[0], frame.index + 1, start[1], frame.seconds)


@dataclass(frozen=True)
class _Seen:
    index: int
    seconds: Fraction
    alike: float  # to the frame before: correlation
    tones: npt.NDArray[np.float32] = field(repr=False)  # mean 0, length 1


def _tones(glance: Glance) -> npt.NDArray[np.float32]:
    grey = glance.small_grey
    size_wh = (_SIDE, max(round(_SIDE * grey.shape[0] / grey.shape[1]), 1))
    tones = cv2.resize(grey, size_wh, interpolation=cv2.INTER_AREA).astype(np.float32)
    tones -= tones.mean()
    return np.asarray(tones / max(float(np.linalg.norm(tones)), 1e-6), np.float32)


def _detector() -> AdaptiveDetector:
    needs("scenedetect")
    from scenedetect.detectors import AdaptiveDetector

    return AdaptiveDetector(min_scene_len=0)  # which cuts count, and how dense, is told here


def _asked(glance: Glance) -> tuple[Any, npt.NDArray[np.uint8]]:
    """A time and a picture as PySceneDetect has them; it counts frames, whatever their times."""
    from scenedetect.common import FrameTimecode

    picture = np.ascontiguousarray(glance.small[..., ::-1])
    return FrameTimecode(glance.frame.index, fps=25.0), picture
