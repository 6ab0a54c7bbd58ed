"""What a threshold keeps and drops: the frames nearest to it on a sheet, and counts for others."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from annotate import duplicates, sheet, sift, video
from annotate.choosing import Job
from annotate.drafts import new_file
from annotate.records import Frame, Picture

_EACH = 12  # pairs on either side of the threshold, and frames that show nothing
_STEPS = {"ssim": 0.1, "hash": 4 / 64, "embedding": 0.02}
_AWAY = (-2, -1, 0, 1, 2)  # steps from the threshold asked for
_HIGH = 150  # pixels, of a picture on the sheet


@dataclass(frozen=True, order=True)
class _Look:
    """A verdict worth showing; the largest `near` are the nearest to the threshold."""

    near: float
    video: str
    frame: int
    seconds: float
    dropped: str
    like: duplicates.Like | None = field(compare=False)


class Preview:
    """What was kept and dropped of clips, judged at several thresholds in one go."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._looks: dict[str, list[_Look]] = {}
        method = job.sieve.duplicates
        at = (job.least + step * _STEPS[method] for step in _AWAY)
        levels = sorted({round(level, 4) for level in at if level <= 1} | {job.least})
        self._judges = {n: sift.Judge(replace(job.sieve, threshold=n)) for n in levels}
        self.kept = dict.fromkeys(levels, 0)  # frames, by threshold
        self.count = 0  # frames looked at

    def run(self, progress: Callable[[Frame], None]) -> None:
        """Look at all clips."""
        for clip in self._job.clips:
            for taken in sift.taken(clip, self._job.taking, progress):
                self.count += 1
                for level, judge in self._judges.items():
                    verdict = judge.see(taken)
                    self.kept[level] += not verdict.dropped
                    if level == self._job.least:
                        self._note(verdict)

    def write(self, path: Path) -> None:
        """The sheet: what was dropped, from the most alike on, then what was kept.

        Raises:
            OutputError: nothing can be written there.
        """
        from PIL import Image

        paths = {video.probe(clip).name: clip for clip in self._job.clips}
        looks = sorted((look for some in self._looks.values() for look in some), key=_place)
        cells = [_cell(look, paths, self._job.sieve.duplicates) for look in looks]
        with new_file(path) as draft:
            Image.fromarray(sheet.lay_out(cells)).save(draft)

    def _note(self, verdict: sift.Verdict) -> None:
        frame, like = verdict.frame, verdict.like
        alike = 0.0 if like is None else like.similarity
        near = -alike if verdict.dropped else alike
        look = _Look(near, frame.video, frame.index, float(frame.seconds), verdict.dropped, like)
        some = self._looks.setdefault(verdict.dropped, [])
        heapq.heappush(some, look)
        if len(some) > _EACH:
            heapq.heappop(some)


def _place(look: _Look) -> tuple[bool, bool, float, str, int]:
    """Duplicates first, the most alike before; then what is kept; then what shows nothing."""
    alike = 0.0 if look.like is None else look.like.similarity
    return look.like is None and bool(look.dropped), not look.dropped, -alike, *_name(look)


def _name(look: _Look) -> tuple[str, int]:
    return look.video, look.frame


def _cell(look: _Look, paths: dict[str, Path], method: str) -> sheet.Cell:
    title = f"{look.dropped or 'kept'}: {look.video}#{look.frame}, {look.seconds:.1f} s"
    own = _picture(paths[look.video], look.frame)
    if look.like is None:
        return sheet.Cell(own, title)
    other = _picture(paths[look.like.video], look.like.frame)
    where = "" if look.like.video == look.video else look.like.video
    remark = f"{method} {look.like.similarity:.2f} to {where}#{look.like.frame}, on the left"
    return sheet.Cell(np.hstack([other, own]), title, remark)


def _picture(clip: Path, frame: int) -> Picture:
    image = video.seek(clip, frame).image
    width = max(round(image.shape[1] * _HIGH / image.shape[0]), 1)
    return np.asarray(cv2.resize(image, (width, _HIGH), interpolation=cv2.INTER_AREA), np.uint8)
