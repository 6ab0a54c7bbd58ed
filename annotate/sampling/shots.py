"""Detect the cuts of a video, and pick one frame of each shot while decoding.

Cuts are those of PySceneDetect's adaptive detector, with two corrections. A proposed cut is ignored
where only the tones change and not the picture, as in a muzzle flash. A cut is added where a frame
correlates little with the one before while the frames around it correlate well; the detector misses
such a cut when something else flares up within two frames of it.

A shot is represented by a frame from about its middle, which is known before the shot has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.errors import needs
from annotate.items.records import Frame
from annotate.sampling import quality
from annotate.sampling.thumbnail import Thumbnail

if TYPE_CHECKING:
    from scenedetect.detectors import AdaptiveDetector


LAG_FRAMES = 2  # frames by which a cut is told late
_MIN_SHOT_SECONDS = Fraction(1, 2)  # PySceneDetect's: its 15 frames
_COMPARED_WIDTH = 32  # pixels, width of what is compared
_MAX_CUT_CORRELATION = 0.8  # correlation of two pictures from which on there is no cut between them
_MAX_MISSED_CUT_CORRELATION = (
    0.5  # up to which there is one, if frames about it are three times as much alike
)
_MIN_CHANGE_RATIO = 3.0


@dataclass(frozen=True)
class Shot:
    """Frames `start` up to, not including, `stop`, and when they begin and end."""

    start: int
    stop: int
    start_seconds: Fraction
    stop_seconds: Fraction


class CutDetector:
    """Told frame after frame, it tells which of them begin a shot, two frames late."""

    def __init__(self) -> None:
        self._detector = _adaptive_detector()
        self._recent: deque[_ComparedFrame] = deque(maxlen=2 * LAG_FRAMES + 1)
        self._last_cut: Fraction | None = None

    def see(self, glance: Thumbnail) -> int | None:
        """The index of a frame that begins a shot, told by now; None where none does."""
        frame = glance.frame
        proposed = self._detector.process_frame(*_scenedetect_frame(glance))
        if self._last_cut is None:
            self._last_cut = frame.seconds
        self._recent.append(self._seen(glance))
        if len(self._recent) <= LAG_FRAMES:
            return None
        at = self._recent[-1 - LAG_FRAMES]
        if not (at.alike < _MAX_CUT_CORRELATION and (proposed or self._stands_out())):
            return None
        if at.seconds - self._last_cut < _MIN_SHOT_SECONDS:
            return None
        self._last_cut = at.seconds
        return at.index

    def _seen(self, glance: Thumbnail) -> _ComparedFrame:
        tones = _normalized_grey(glance)
        alike = float((tones * self._recent[-1].tones).sum()) if self._recent else 1.0
        return _ComparedFrame(glance.frame.index, glance.frame.seconds, alike, tones)

    def _stands_out(self) -> bool:
        *before, at, _, _ = self._recent
        about = [
            1 - each.alike for each in (*before[-LAG_FRAMES:], *list(self._recent)[-LAG_FRAMES:])
        ]
        return at.alike < _MAX_MISSED_CUT_CORRELATION and 1 - at.alike > _MIN_CHANGE_RATIO * float(
            np.median(about)
        )


def detect(frames: Iterable[Frame]) -> Iterator[Shot]:
    """The shots of consecutive frames, in order; nothing is held but the times of a few.

    Raises:
        MissingPackage: PySceneDetect is not installed.
    """
    cutter = CutDetector()
    start: tuple[int, Fraction] | None = None
    recent: dict[int, Fraction] = {}
    frame = None
    for frame in frames:
        start = start or (frame.index, frame.seconds)
        recent[frame.index] = frame.seconds
        cut = cutter.see(Thumbnail(frame))
        if cut is not None:
            yield Shot(start[0], cut, start[1], recent[cut])
            start = (cut, recent[cut])
        recent.pop(frame.index - LAG_FRAMES, None)
    if frame is not None and start is not None:
        yield Shot(start[0], frame.index + 1, start[1], frame.seconds)


@dataclass(frozen=True)
class _ComparedFrame:
    index: int
    seconds: Fraction
    alike: float  # to the frame before: correlation
    tones: npt.NDArray[np.float32] = field(repr=False)  # mean 0, length 1


def _normalized_grey(glance: Thumbnail) -> npt.NDArray[np.float32]:
    grey = glance.small_grey
    size_wh = (_COMPARED_WIDTH, max(round(_COMPARED_WIDTH * grey.shape[0] / grey.shape[1]), 1))
    tones = cv2.resize(grey, size_wh, interpolation=cv2.INTER_AREA).astype(np.float32)
    tones -= tones.mean()
    return np.asarray(tones / max(float(np.linalg.norm(tones)), 1e-6), np.float32)


def _adaptive_detector() -> AdaptiveDetector:
    needs("scenedetect")
    from scenedetect.detectors import AdaptiveDetector

    return AdaptiveDetector(min_scene_len=0)  # which cuts count, and how dense, is told here


def _scenedetect_frame(glance: Thumbnail) -> tuple[Any, npt.NDArray[np.uint8]]:
    """A time and a picture as PySceneDetect has them; it counts frames, whatever their times."""
    from scenedetect.common import FrameTimecode

    picture = np.ascontiguousarray(glance.small[..., ::-1])
    return FrameTimecode(glance.frame.index, fps=25.0), picture


_MAX_SECONDS_PER_FRAME = Fraction(10)  # seconds for which one frame stands
_MIN_REMAINDER_SECONDS = (
    _MAX_SECONDS_PER_FRAME / 2
)  # of a longer shot: a rest shorter than this needs no frame of its own
_REPLACEMENT_RATIO = 1.5  # times as far into the shot as the frame that it relieves


class StillRun:
    """A picture that stands still, from when to when."""

    def __init__(self, glance: Thumbnail) -> None:
        self._first = glance.small_grey, glance.seen
        self._start = self._stop = glance.frame.seconds

    def goes_on(self, glance: Thumbnail) -> bool:
        """Whether the next frame shows the same; if so the run is that much longer."""
        still = quality.is_still(glance, *self._first)
        if still:
            self._stop = glance.frame.seconds
        return still

    @property
    def seconds(self) -> Fraction:
        """How long it stood."""
        return self._stop - self._start


class ShotSampler:
    """Told frame after frame, it gives one for each shot, and one for each ten seconds of it.

    Two frames are held: one for the case that the shot ends now, and one half as far again into
    it for the case that it goes on. So the first is always between 2/5 and 2/3 of the way.
    """

    def __init__(self, good: Callable[[Thumbnail], bool]) -> None:
        self._good = good

    def of(self, glances: Iterable[Thumbnail]) -> Iterator[tuple[Thumbnail, StillRun]]:
        """A frame of each shot, and how long its picture stood; a good one, where there is one."""
        cutter, waiting = CutDetector(), deque[Thumbnail]()
        stretch, is_first = _ShotSegment(self._good), True
        for glance in glances:
            waiting.append(glance)
            cut = cutter.see(glance)
            if len(waiting) <= LAG_FRAMES:
                continue
            settled = waiting.popleft()
            if settled.frame.index == cut:
                yield from stretch.ended(is_first)
                stretch, is_first = _ShotSegment(self._good), True
            elif stretch.lasts(settled.frame.seconds) >= _MAX_SECONDS_PER_FRAME:
                yield from stretch.ended(is_first)
                stretch, is_first = _ShotSegment(self._good), False
            stretch.add(settled)
        for settled in waiting:
            stretch.add(settled)
        yield from stretch.ended(is_first)


@dataclass
class _ShotSegment:
    good: Callable[[Thumbnail], bool]
    count: int = 0
    start: Fraction | None = None
    stop: Fraction = Fraction(0)
    run: StillRun | None = None
    now: tuple[Thumbnail, StillRun] | None = None  # to be given if it ends now
    later: tuple[Thumbnail, StillRun] | None = None
    later_at: int = 0
    now_is_good: bool = False
    later_is_good: bool = False

    def lasts(self, until: Fraction) -> Fraction:
        return until - self.start if self.start is not None else Fraction(0)

    def add(self, glance: Thumbnail) -> None:
        self.count += 1
        self.start = glance.frame.seconds if self.start is None else self.start
        self.stop = glance.frame.seconds
        if self.run is None or not self.run.goes_on(glance):
            self.run = StillRun(glance)
        if self.now is None:
            self._take_as_later(glance, self.run)
            self.now, self.now_is_good = self.later, self.later_is_good
        elif self.count >= _REPLACEMENT_RATIO * self.later_at:
            if self.later_is_good or not self.now_is_good:
                self.now, self.now_is_good = self.later, self.later_is_good
            self._take_as_later(glance, self.run)
        elif not self.later_is_good:
            self._take_as_later(glance, self.run, self.later_at)

    def _take_as_later(self, glance: Thumbnail, run: StillRun, at: int | None = None) -> None:
        self.later, self.later_at = (glance, run), at or self.count
        self.later_is_good = self.good(glance)

    def ended(self, is_first: bool) -> Iterator[tuple[Thumbnail, StillRun]]:
        if self.now is None or self.later is None:
            return
        if is_first or self.stop - (self.start or 0) >= _MIN_REMAINDER_SECONDS:
            yield self.now if self.now_is_good else self.later
