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

    def process(self, thumbnail: Thumbnail) -> int | None:
        """The index of a frame that begins a shot, told by now; None where none does."""
        frame = thumbnail.frame
        proposed = self._detector.process_frame(*_scenedetect_frame(thumbnail))
        if self._last_cut is None:
            self._last_cut = frame.seconds
        self._recent.append(self._compare(thumbnail))
        if len(self._recent) <= LAG_FRAMES:
            return None
        at = self._recent[-1 - LAG_FRAMES]
        if not (at.correlation < _MAX_CUT_CORRELATION and (proposed or self._is_missed_cut())):
            return None
        if at.seconds - self._last_cut < _MIN_SHOT_SECONDS:
            return None
        self._last_cut = at.seconds
        return at.index

    def _compare(self, thumbnail: Thumbnail) -> _ComparedFrame:
        tones = _normalized_grey(thumbnail)
        alike = float((tones * self._recent[-1].normalized).sum()) if self._recent else 1.0
        return _ComparedFrame(thumbnail.frame.index, thumbnail.frame.seconds, alike, tones)

    def _is_missed_cut(self) -> bool:
        *before, at, _, _ = self._recent
        about = [
            1 - each.correlation
            for each in (*before[-LAG_FRAMES:], *list(self._recent)[-LAG_FRAMES:])
        ]
        return (
            at.correlation < _MAX_MISSED_CUT_CORRELATION
            and 1 - at.correlation > _MIN_CHANGE_RATIO * float(np.median(about))
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
        cut = cutter.process(Thumbnail(frame))
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
    correlation: float  # to the frame before: correlation
    normalized: npt.NDArray[np.float32] = field(repr=False)  # mean 0, length 1


def _normalized_grey(thumbnail: Thumbnail) -> npt.NDArray[np.float32]:
    grey = thumbnail.small_grey
    size_wh = (_COMPARED_WIDTH, max(round(_COMPARED_WIDTH * grey.shape[0] / grey.shape[1]), 1))
    tones = cv2.resize(grey, size_wh, interpolation=cv2.INTER_AREA).astype(np.float32)
    tones -= tones.mean()
    return np.asarray(tones / max(float(np.linalg.norm(tones)), 1e-6), np.float32)


def _adaptive_detector() -> AdaptiveDetector:
    needs("scenedetect")
    from scenedetect.detectors import AdaptiveDetector

    return AdaptiveDetector(min_scene_len=0)  # which cuts count, and how dense, is told here


def _scenedetect_frame(thumbnail: Thumbnail) -> tuple[Any, npt.NDArray[np.uint8]]:
    """A time and a picture as PySceneDetect has them; it counts frames, whatever their times."""
    from scenedetect.common import FrameTimecode

    picture = np.ascontiguousarray(thumbnail.small_rgb[..., ::-1])
    return FrameTimecode(thumbnail.frame.index, fps=25.0), picture


_MAX_SECONDS_PER_FRAME = Fraction(10)  # seconds for which one frame stands
_MIN_REMAINDER_SECONDS = (
    _MAX_SECONDS_PER_FRAME / 2
)  # of a longer shot: a rest shorter than this needs no frame of its own
_REPLACEMENT_RATIO = 1.5  # times as far into the shot as the frame that it relieves


class StillRun:
    """A picture that stands still, from when to when."""

    def __init__(self, thumbnail: Thumbnail) -> None:
        self._first = thumbnail.small_grey, thumbnail.valid
        self._start = self._stop = thumbnail.frame.seconds

    def extend(self, thumbnail: Thumbnail) -> bool:
        """Whether the next frame shows the same; if so the run is that much longer."""
        still = quality.is_still(thumbnail, *self._first)
        if still:
            self._stop = thumbnail.frame.seconds
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

    def __init__(self, is_good: Callable[[Thumbnail], bool]) -> None:
        self._is_good = is_good

    def sample(self, thumbnails: Iterable[Thumbnail]) -> Iterator[tuple[Thumbnail, StillRun]]:
        """A frame of each shot, and how long its picture stood; a good one, where there is one."""
        cutter, waiting = CutDetector(), deque[Thumbnail]()
        stretch, is_first = _ShotSegment(self._is_good), True
        for glance in thumbnails:
            waiting.append(glance)
            cut = cutter.process(glance)
            if len(waiting) <= LAG_FRAMES:
                continue
            settled = waiting.popleft()
            if settled.frame.index == cut:
                yield from stretch.finish(is_first)
                stretch, is_first = _ShotSegment(self._is_good), True
            elif stretch.seconds_until(settled.frame.seconds) >= _MAX_SECONDS_PER_FRAME:
                yield from stretch.finish(is_first)
                stretch, is_first = _ShotSegment(self._is_good), False
            stretch.add(settled)
        for settled in waiting:
            stretch.add(settled)
        yield from stretch.finish(is_first)


@dataclass
class _ShotSegment:
    is_good: Callable[[Thumbnail], bool]
    count: int = 0
    start: Fraction | None = None
    stop: Fraction = Fraction(0)
    still_run: StillRun | None = None
    candidate: tuple[Thumbnail, StillRun] | None = None  # to be given if it ends now
    next_candidate: tuple[Thumbnail, StillRun] | None = None
    next_count: int = 0
    candidate_is_good: bool = False
    next_is_good: bool = False

    def seconds_until(self, seconds: Fraction) -> Fraction:
        return seconds - self.start if self.start is not None else Fraction(0)

    def add(self, thumbnail: Thumbnail) -> None:
        self.count += 1
        self.start = thumbnail.frame.seconds if self.start is None else self.start
        self.stop = thumbnail.frame.seconds
        if self.still_run is None or not self.still_run.extend(thumbnail):
            self.still_run = StillRun(thumbnail)
        if self.candidate is None:
            self._set_next(thumbnail, self.still_run)
            self.candidate, self.candidate_is_good = self.next_candidate, self.next_is_good
        elif self.count >= _REPLACEMENT_RATIO * self.next_count:
            if self.next_is_good or not self.candidate_is_good:
                self.candidate, self.candidate_is_good = self.next_candidate, self.next_is_good
            self._set_next(thumbnail, self.still_run)
        elif not self.next_is_good:
            self._set_next(thumbnail, self.still_run, self.next_count)

    def _set_next(
        self, thumbnail: Thumbnail, still_run: StillRun, count: int | None = None
    ) -> None:
        self.next_candidate, self.next_count = (thumbnail, still_run), count or self.count
        self.next_is_good = self.is_good(thumbnail)

    def finish(self, is_first: bool) -> Iterator[tuple[Thumbnail, StillRun]]:
        if self.candidate is None or self.next_candidate is None:
            return
        if is_first or self.stop - (self.start or 0) >= _MIN_REMAINDER_SECONDS:
            yield self.candidate if self.candidate_is_good else self.next_candidate
