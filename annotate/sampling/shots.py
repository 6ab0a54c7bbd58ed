"""Detect the cuts of a video, and pick one frame of each shot while decoding.

Cuts are those of PySceneDetect's adaptive detector, with two corrections. A proposed cut is ignored
where only the tones change and not the picture, as in a muzzle flash. A cut is added where a frame
correlates little with the previous one while the frames around it correlate well; the detector
misses such a cut when there is a flash within two frames of it.

A shot is represented by a frame from about its middle, which is found while the clip is decoded.
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


LAG_FRAMES = 2  # a cut is reported this many frames late
_MIN_SHOT_SECONDS = Fraction(1, 2)  # PySceneDetect's default, its 15 frames
_COMPARED_WIDTH = 32  # pixels, of the pictures that are correlated
_MAX_CUT_CORRELATION = 0.8  # of two frames with a cut between them
_MAX_MISSED_CUT_CORRELATION = 0.5  # of two frames with a cut that the detector missed
_MIN_CHANGE_RATIO = 3.0  # of the change at a missed cut to the median change around it


@dataclass(frozen=True)
class Shot:
    """The frames `start` up to `stop` (exclusive) without a cut, and their times."""

    start: int
    stop: int
    start_seconds: Fraction
    stop_seconds: Fraction


class CutDetector:
    """Detects the first frame of each shot, frame by frame; reports it two frames late."""

    def __init__(self) -> None:
        self._detector = _adaptive_detector()
        self._recent: deque[_ComparedFrame] = deque(maxlen=2 * LAG_FRAMES + 1)
        self._last_cut: Fraction | None = None

    def process(self, thumbnail: Thumbnail) -> int | None:
        """Process the next frame; returns the index of a frame that begins a shot, or None."""
        frame = thumbnail.frame
        proposed = self._detector.process_frame(*_scenedetect_frame(thumbnail))
        if self._last_cut is None:
            self._last_cut = frame.seconds
        self._recent.append(self._compare(thumbnail))
        if len(self._recent) <= LAG_FRAMES:
            return None
        candidate = self._recent[-1 - LAG_FRAMES]
        if candidate.correlation >= _MAX_CUT_CORRELATION:
            return None
        if not proposed and not self._is_missed_cut():
            return None
        if candidate.seconds - self._last_cut < _MIN_SHOT_SECONDS:
            return None
        self._last_cut = candidate.seconds
        return candidate.index

    def _compare(self, thumbnail: Thumbnail) -> _ComparedFrame:
        frame, normalized = thumbnail.frame, _normalized_grey(thumbnail)
        correlation = 1.0
        if self._recent:
            correlation = float((normalized * self._recent[-1].normalized).sum())
        return _ComparedFrame(frame.index, frame.seconds, correlation, normalized)

    def _is_missed_cut(self) -> bool:
        *before, candidate, _, _ = self._recent
        around = (*before[-LAG_FRAMES:], *list(self._recent)[-LAG_FRAMES:])
        usual_change = float(np.median([1 - frame.correlation for frame in around]))
        return (
            candidate.correlation < _MAX_MISSED_CUT_CORRELATION
            and 1 - candidate.correlation > _MIN_CHANGE_RATIO * usual_change
        )


def detect(frames: Iterable[Frame]) -> Iterator[Shot]:
    """Cut consecutive frames into shots, in order; memory does not grow with the clip.

    Raises:
        MissingPackage: PySceneDetect is not installed.
    """
    detector = CutDetector()
    start: tuple[int, Fraction] | None = None
    recent_seconds: dict[int, Fraction] = {}
    frame = None
    for frame in frames:
        start = start or (frame.index, frame.seconds)
        recent_seconds[frame.index] = frame.seconds
        cut = detector.process(Thumbnail(frame))
        if cut is not None:
            yield Shot(start[0], cut, start[1], recent_seconds[cut])
            start = (cut, recent_seconds[cut])
        if len(recent_seconds) > LAG_FRAMES:  # a cut is at most so many frames ago
            del recent_seconds[next(iter(recent_seconds))]
    if frame is not None and start is not None:
        yield Shot(start[0], frame.index + 1, start[1], frame.seconds)


@dataclass(frozen=True)
class _ComparedFrame:
    index: int
    seconds: Fraction
    correlation: float  # with the previous frame
    normalized: npt.NDArray[np.float32] = field(repr=False)  # mean 0, length 1


def _normalized_grey(thumbnail: Thumbnail) -> npt.NDArray[np.float32]:
    grey = thumbnail.small_grey
    size_wh = (_COMPARED_WIDTH, max(round(_COMPARED_WIDTH * grey.shape[0] / grey.shape[1]), 1))
    levels = cv2.resize(grey, size_wh, interpolation=cv2.INTER_AREA).astype(np.float32)
    levels -= levels.mean()
    return np.asarray(levels / max(float(np.linalg.norm(levels)), 1e-6), np.float32)


def _adaptive_detector() -> AdaptiveDetector:
    needs("scenedetect")
    from scenedetect.detectors import AdaptiveDetector

    return AdaptiveDetector(min_scene_len=0)  # `CutDetector` limits the shot length itself


def _scenedetect_frame(thumbnail: Thumbnail) -> tuple[Any, npt.NDArray[np.uint8]]:
    """Convert to PySceneDetect's time and BGR picture; it counts frames and ignores their times."""
    from scenedetect.common import FrameTimecode

    picture = np.ascontiguousarray(thumbnail.small_rgb[..., ::-1])
    return FrameTimecode(thumbnail.frame.index, fps=25.0), picture


_MAX_SEGMENT_SECONDS = Fraction(10)  # a longer shot is split into segments, one frame for each
_MIN_REMAINDER_SECONDS = _MAX_SEGMENT_SECONDS / 2  # a shorter last segment gets no frame
_REPLACEMENT_RATIO = 1.5  # the next candidate is this many times as far into the segment


class StillRun:
    """A time range in which the picture does not change."""

    def __init__(self, thumbnail: Thumbnail) -> None:
        self._first_grey, self._valid = thumbnail.small_grey, thumbnail.valid
        self._start = self._stop = thumbnail.frame.seconds

    def extend(self, thumbnail: Thumbnail) -> bool:
        """Extend the run by the next frame; False if the frame shows another picture."""
        still = quality.is_still(thumbnail, self._first_grey, self._valid)
        if still:
            self._stop = thumbnail.frame.seconds
        return still

    @property
    def seconds(self) -> Fraction:
        """The length of the run."""
        return self._stop - self._start


class ShotSampler:
    """Selects one frame for each shot, or for every ten seconds of a longer shot.

    Two candidates are held: one in case the shot ends now, and a later one, half as far again into
    the shot, in case it continues. So the selected frame lies between 2/5 and 2/3 of the shot.
    """

    def __init__(self, is_good: Callable[[Thumbnail], bool]) -> None:
        self._is_good = is_good

    def sample(self, thumbnails: Iterable[Thumbnail]) -> Iterator[tuple[Thumbnail, StillRun]]:
        """Yield the selected frames, each with its still run; `is_good` frames are preferred."""
        detector, undecided = CutDetector(), deque[Thumbnail]()
        segment, is_first = _ShotSegment(self._is_good), True
        for thumbnail in thumbnails:
            undecided.append(thumbnail)
            cut = detector.process(thumbnail)
            if len(undecided) <= LAG_FRAMES:
                continue
            decided = undecided.popleft()
            if decided.frame.index == cut:
                yield from segment.finish(is_first)
                segment, is_first = _ShotSegment(self._is_good), True
            elif segment.seconds_until(decided.frame.seconds) >= _MAX_SEGMENT_SECONDS:
                yield from segment.finish(is_first)
                segment, is_first = _ShotSegment(self._is_good), False
            segment.add(decided)
        for thumbnail in undecided:
            segment.add(thumbnail)
        yield from segment.finish(is_first)


@dataclass
class _ShotSegment:
    is_good: Callable[[Thumbnail], bool]
    count: int = 0
    start: Fraction | None = None
    stop: Fraction = Fraction(0)
    still_run: StillRun | None = None
    candidate: tuple[Thumbnail, StillRun] | None = None  # selected if the segment ends now
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
