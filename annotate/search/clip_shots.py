"""Cut clips into shots, and cache where the cuts of each clip are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from annotate import files
from annotate.errors import BrokenVideo, VideoError
from annotate.items.records import Frame
from annotate.sampling import shots
from annotate.search.judge import FrameRef
from annotate.search.shot_query import QueriedShot
from annotate.video import reader

_NEIGHBOUR_SECONDS = Fraction(1, 10)  # between frames that can be asked in place of each other
_MAX_SPACING_SECONDS = 8  # between the first frames of a long shot
_CACHE_VERSION = 2  # of the format of the cached shots


@dataclass
class ClipShots:
    """Clips by name, and their shots; `decode_errors` has a message for each truncated clip."""

    paths: dict[str, Path] = field(default_factory=dict)
    videos: dict[str, reader.Video] = field(default_factory=dict)
    shots: list[QueriedShot] = field(default_factory=list)
    decode_errors: list[str] = field(default_factory=list)

    @property
    def frame_count(self) -> int:
        """The number of frames of all shots."""
        return sum(shot.stop - shot.start for shot in self.shots)

    @property
    def size_wh(self) -> tuple[int, int]:
        """The width and height of the first clip, in pixels."""
        video = next(iter(self.videos.values()))
        return video.width, video.height

    def frames(self, frame_refs: Sequence[FrameRef]) -> Iterator[Frame]:
        """Read frames, clip by clip and in order."""
        for name in self.paths:
            if indices := [frame for clip, frame in frame_refs if clip == name]:
                yield from reader.frames_at(self.paths[name], indices)


def cut_into_shots(
    clips: Sequence[Path], progress: Callable[[], object] = lambda: None
) -> ClipShots:
    """Cut clips into shots; the shots of each clip are cached on this machine.

    Raises:
        VideoError: two clips have the same name, or a clip cannot be read.
        MissingPackage: PySceneDetect is not installed.
    """
    clip_shots = ClipShots()
    for path in clips:
        video = reader.probe(path)
        if video.name in clip_shots.paths:
            raise VideoError(f"two clips are called {video.name}: rename one, or search one by one")
        clip_shots.paths[video.name], clip_shots.videos[video.name] = path, video
        step = max(round(video.rate * _NEIGHBOUR_SECONDS), 1)
        for start, stop in _shot_ranges(video, clip_shots, progress):
            clip_shots.shots.append(QueriedShot(video.name, start, stop, step))
    return clip_shots


def first_frames(shot: QueriedShot, video: reader.Video, frames_per_shot: int) -> list[int]:
    """List the frames that are asked first: `frames_per_shot`, or one for every eight seconds."""
    seconds = float((shot.stop - shot.start) / video.rate)
    return shot.spread_frames(max(frames_per_shot, math.ceil(seconds / _MAX_SPACING_SECONDS)))


def _shot_ranges(
    video: reader.Video, clip_shots: ClipShots, progress: Callable[[], object]
) -> list[tuple[int, int]]:
    cache_path = files.cache_dir("shots") / f"{video.fingerprint[:32]}-{_CACHE_VERSION}.json"
    cached = files.read_json(cache_path)
    if cached is not None:
        for _ in range(video.frame_count or 0):
            progress()
        return [(start, stop) for start, stop in cached["shots"]]
    complete = True

    def frames() -> Iterator[Frame]:
        nonlocal complete
        try:
            for frame in reader.frames(video.path):
                progress()
                yield frame
        except BrokenVideo as error:
            complete = False
            clip_shots.decode_errors.append(str(error))

    ranges = [(shot.start, shot.stop) for shot in shots.detect(frames())]
    if complete:
        files.write_json(cache_path, {"shots": ranges})
    return ranges
