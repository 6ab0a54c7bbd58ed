"""Filter the frames of a clip: drop blank, blurred, static and duplicate ones.

    frames = filter.sampled_frames(clip, SamplingOptions())       # thumbnails: one of each shot
    for decision in filter.filter_frames(frames, FilterOptions()):
        ...                                                       # kept, or dropped and why

Frames are decoded once and decided on in order; memory use does not grow with the clip's length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

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
    """Which frames of a clip are looked at: one of each shot, or as `choice` says.

    A shot of more than ten seconds gives one for every ten. `ignore` is what is not looked at:
    boxes `X1,Y1,X2,Y2` in pixels, or pictures whose white is meant.
    """

    shots: bool = True
    choice: FrameSelection = field(default_factory=FrameSelection)
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampledFrame:
    """A frame that is looked at, and for how long the picture stood still about it."""

    thumbnail: Thumbnail
    still_run: StillRun


@dataclass(frozen=True)
class FilterOptions:
    """What is dropped: what shows nothing, and duplicates from `threshold` on, up to 1.

    `duplicates` tells how they are known: "ssim" by structure, against the frame kept last of the
    clip; "hash" and "embedding" against all kept of all clips. `everything` drops none.
    """

    duplicates: str = "ssim"
    threshold: float | None = None
    everything: bool = False


@dataclass(frozen=True)
class Decision:
    """A frame that was looked at: kept, or dropped and why; `like` is the kept one nearest to it.

    `like` is None where it was compared with none.
    """

    thumbnail: Thumbnail
    drop_reason: str = ""
    nearest: duplicates.NearestKept | None = None

    @property
    def frame(self) -> Frame:
        """The frame itself."""
        return self.thumbnail.frame


def sampled_frames(
    clip: Path | str,
    options: SamplingOptions,
    progress: Callable[[Frame], None] = lambda frame: None,
) -> Iterator[SampledFrame]:
    """The frames of a clip that are looked at, in order; `progress` is told of each one decoded.

    Raises:
        PromptError: what is to be ignored does not fit the clip.
        MissingPackage: shots are told by PySceneDetect, which is not installed.
    """
    seen = reader.probe(clip)
    mask = ignore_mask(options.ignore, (seen.width, seen.height))

    def glances() -> Iterator[Thumbnail]:
        for frame in options.choice.frames(clip):
            progress(frame)
            yield Thumbnail(frame, mask)

    if options.shots:
        return (SampledFrame(*found) for found in ShotSampler(_has_content).sample(glances()))
    return _with_still_runs(glances())


class FrameFilter:
    """Told frame after frame, it says of each whether it is kept; `memory` may know frames."""

    def __init__(
        self, options: FilterOptions, kept_frames: duplicates.KeptFrames | None = None
    ) -> None:
        self._options = options
        self._threshold = duplicates.resolve_threshold(options.duplicates, options.threshold)
        self._kept_frames = kept_frames or duplicates.kept_frames(
            options.duplicates, self._threshold
        )

    def decide(self, sampled: SampledFrame) -> Decision:
        """The verdict on the next frame."""
        if self._options.everything:
            return Decision(sampled.thumbnail)
        if why := _no_content_reason(sampled):
            return Decision(sampled.thumbnail, why)
        like = self._kept_frames.nearest(sampled.thumbnail)
        if like is not None and like.similarity >= self._threshold:
            return Decision(sampled.thumbnail, DUPLICATE, like)
        self._kept_frames.add(sampled.thumbnail)
        return Decision(sampled.thumbnail, "", like)


def filter_frames(
    frames: Iterable[SampledFrame],
    options: FilterOptions,
    kept_frames: duplicates.KeptFrames | None = None,
) -> Iterator[Decision]:
    """Every frame with its verdict, in order. A `memory` given carries on over several clips."""
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
    """Each as soon as it is known whether it is of a picture that stands for a second.

    Those that wait, for they may be pages of a menu, share one picture.
    """
    waiting: deque[SampledFrame] = deque()
    run: StillRun | None = None
    for glance in thumbnails:
        if run is None or not run.extend(glance):
            yield from waiting
            waiting.clear()
            run = StillRun(glance)
        waiting.append(SampledFrame(_share_image(glance, waiting), run))
        if run.seconds >= _MIN_STATIC_SECONDS or not quality.is_flat(glance):
            yield from waiting
            waiting.clear()
    yield from waiting


def _share_image(thumbnail: Thumbnail, pending: deque[SampledFrame]) -> Thumbnail:
    if not pending:
        return thumbnail
    return replace(
        thumbnail, frame=replace(thumbnail.frame, image=pending[0].thumbnail.frame.image)
    )
