"""Filter the frames of a clip: drop blank, blurred, static and duplicate ones.

    frames = filter.sampled_frames(clip, SamplingOptions())         # one frame of each shot
    for decision in filter.filter_frames(frames, FilterOptions()):  # kept, or dropped and why
        ...

Frames are decoded once and decided on in order; memory use does not grow with the clip's length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from annotate.errors import BrokenVideo
from annotate.items.records import Frame
from annotate.prompts import ignore_mask
from annotate.sampling import duplicates, quality
from annotate.sampling.shots import ShotSampler, StillRun
from annotate.sampling.thumbnail import Thumbnail
from annotate.video import reader
from annotate.video.reader import FrameSelection

DUPLICATE, OVER_BUDGET = "duplicate", "over budget"
DROP_REASONS = (quality.BLANK, quality.BLURRED, quality.STATIC, DUPLICATE, OVER_BUDGET)
_MIN_STATIC_SECONDS = Fraction(1)


@dataclass(frozen=True)
class SamplingOptions:
    """Which frames of a clip are examined: one of each shot, or those of `selection`.

    A shot of more than ten seconds gives one frame for every ten seconds. `ignore` lists areas that
    are not compared: boxes `X1,Y1,X2,Y2` in pixels, or images that are white in these areas.
    """

    shots: bool = True
    selection: FrameSelection = field(default_factory=FrameSelection)
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampledFrame:
    """An examined frame, and the run of frames around it that show the same picture."""

    thumbnail: Thumbnail
    still_run: StillRun


@dataclass(frozen=True)
class FilterOptions:
    """Which frames are dropped: those without content, and duplicates.

    `duplicates` is the method: "ssim" compares the structure with the last kept frame of the clip;
    "hash" and "embedding" compare with all kept frames of all clips. A frame is a duplicate from
    the similarity `threshold` on, up to 1; None is the default of the method. `everything` keeps
    all frames.
    """

    duplicates: str = "ssim"
    threshold: float | None = None
    everything: bool = False


@dataclass(frozen=True)
class Decision:
    """The decision on an examined frame: kept if `drop_reason` is empty, otherwise dropped.

    `nearest` is the most similar kept frame; None if the frame was not compared.
    """

    thumbnail: Thumbnail
    drop_reason: str = ""
    nearest: duplicates.NearestKept | None = None

    @property
    def frame(self) -> Frame:
        """The frame that was decided on."""
        return self.thumbnail.frame


def sampled_frames(
    clip: Path | str,
    options: SamplingOptions,
    progress: Callable[[Frame], None] = lambda frame: None,
) -> Iterator[SampledFrame]:
    """Read the frames of a clip to examine, in order; `progress` gets each decoded frame.

    Raises:
        PromptError: an ignored area does not fit the clip.
        MissingPackage: PySceneDetect, which detects shots, is not installed.
    """
    video = reader.probe(clip)
    mask = ignore_mask(options.ignore, (video.width, video.height))

    def thumbnails() -> Iterator[Thumbnail]:
        for frame in options.selection.frames(clip):
            progress(frame)
            yield Thumbnail(frame, mask)

    if options.shots:
        samples = ShotSampler(_has_content).sample(thumbnails())
        return (SampledFrame(thumbnail, still_run) for thumbnail, still_run in samples)
    return _with_still_runs(thumbnails())


class FrameFilter:
    """Decides for one frame after another; `kept_frames` may hold frames of earlier clips."""

    def __init__(
        self, options: FilterOptions, kept_frames: duplicates.KeptFrames | None = None
    ) -> None:
        self._options = options
        self._threshold = duplicates.resolve_threshold(options.duplicates, options.threshold)
        self._kept_frames = kept_frames or duplicates.kept_frames(
            options.duplicates, self._threshold
        )

    def decide(self, sampled: SampledFrame) -> Decision:
        """Decide on the next frame."""
        if self._options.everything:
            return Decision(sampled.thumbnail)
        if reason := _no_content_reason(sampled):
            return Decision(sampled.thumbnail, reason)
        nearest = self._kept_frames.nearest(sampled.thumbnail)
        if nearest is not None and nearest.similarity >= self._threshold:
            return Decision(sampled.thumbnail, DUPLICATE, nearest)
        self._kept_frames.add(sampled.thumbnail)
        return Decision(sampled.thumbnail, "", nearest)


def filter_frames(
    frames: Iterable[SampledFrame],
    options: FilterOptions,
    kept_frames: duplicates.KeptFrames | None = None,
) -> Iterator[Decision]:
    """Decide on all frames, in order; give the same `kept_frames` for several clips."""
    return map(FrameFilter(options, kept_frames).decide, frames)


def _no_content_reason(sampled: SampledFrame) -> str:
    if quality.is_blank(sampled.thumbnail):
        return quality.BLANK
    if quality.is_blurred(sampled.thumbnail):
        return quality.BLURRED
    still = sampled.still_run.seconds >= _MIN_STATIC_SECONDS
    return quality.STATIC if still and quality.is_flat(sampled.thumbnail) else ""


def _has_content(thumbnail: Thumbnail) -> bool:
    return not quality.is_blank(thumbnail) and not quality.is_blurred(thumbnail)


def _with_still_runs(thumbnails: Iterator[Thumbnail]) -> Iterator[SampledFrame]:
    """Yield each frame as soon as it is certain whether its picture is still for a second.

    The frames that wait for this, which may be pages of a menu, share one image in memory.
    """
    pending: deque[SampledFrame] = deque()
    run: StillRun | None = None
    try:
        for thumbnail in thumbnails:
            if run is None or not run.extend(thumbnail):
                yield from pending
                pending.clear()
                run = StillRun(thumbnail)
            pending.append(SampledFrame(_share_image(thumbnail, pending), run))
            if run.seconds >= _MIN_STATIC_SECONDS or not quality.is_flat(thumbnail):
                yield from pending
                pending.clear()
    except BrokenVideo:  # the frames before the end of a cut file can be used
        yield from pending
        raise
    yield from pending


def _share_image(thumbnail: Thumbnail, pending: deque[SampledFrame]) -> Thumbnail:
    if not pending:
        return thumbnail
    shared = pending[0].thumbnail.frame.image
    return replace(thumbnail, frame=replace(thumbnail.frame, image=shared))
