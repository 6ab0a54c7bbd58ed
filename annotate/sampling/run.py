"""Fill a folder with the selected frames of clips, resumably, or preview a threshold."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from annotate.errors import AnnotateError, OutputError, needs
from annotate.files import atomic_file
from annotate.items import journal, records
from annotate.items.records import Frame, Item, Picture
from annotate.prompts import ignore_mask
from annotate.sampling import duplicates
from annotate.sampling.duplicates import farthest_points
from annotate.sampling.filter import (
    OVER_BUDGET,
    Decision,
    FilterOptions,
    FrameFilter,
    SamplingOptions,
    filter_frames,
    sampled_frames,
)
from annotate.sampling.folder import (
    ITEMS_FILE,
    clear_folder,
    image_name,
    rewrite_items,
    save_image,
    write_table,
)
from annotate.sampling.thumbnail import Thumbnail
from annotate.video import reader
from annotate.viewing import contact_sheet

_MAX_CELLS_PER_REASON = 12  # pairs on either side of the threshold, and frames that show nothing
_THRESHOLD_STEPS = {"ssim": 0.1, "hash": 4 / 64, "embedding": 0.02}
_STEP_OFFSETS = (-2, -1, 0, 1, 2)  # steps from the threshold asked for
_CELL_HEIGHT = 150  # pixels, of a picture on the sheet


@dataclass(frozen=True, order=True)
class _PreviewFrame:
    """A verdict worth showing; the largest `near` are the nearest to the threshold."""

    near: float
    video: str
    frame: int
    seconds: float
    dropped: str
    like: duplicates.NearestKept | None = field(compare=False)


class Preview:
    """What was kept and dropped of clips, judged at several thresholds in one go."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._looks: dict[str, list[_PreviewFrame]] = {}
        method = job.sieve.duplicates
        at = (job.least + step * _THRESHOLD_STEPS[method] for step in _STEP_OFFSETS)
        levels = sorted({round(level, 4) for level in at if level <= 1} | {job.least})
        self._judges = {n: FrameFilter(replace(job.sieve, threshold=n)) for n in levels}
        self.kept = dict.fromkeys(levels, 0)  # frames, by threshold
        self.count = 0  # frames looked at

    def run(self, progress: Callable[[Frame], None]) -> None:
        """Look at all clips."""
        for clip in self._job.clips:
            for taken in sampled_frames(clip, self._job.taking, progress):
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

        paths = {reader.probe(clip).name: clip for clip in self._job.clips}
        looks = sorted((look for some in self._looks.values() for look in some), key=_sort_key)
        cells = [_cell(look, paths, self._job.sieve.duplicates) for look in looks]
        with atomic_file(path) as draft:
            Image.fromarray(contact_sheet.lay_out(cells)).save(draft)

    def _note(self, verdict: Decision) -> None:
        frame, like = verdict.frame, verdict.like
        alike = 0.0 if like is None else like.similarity
        near = -alike if verdict.dropped else alike
        look = _PreviewFrame(
            near, frame.video, frame.index, float(frame.seconds), verdict.dropped, like
        )
        some = self._looks.setdefault(verdict.dropped, [])
        heapq.heappush(some, look)
        if len(some) > _MAX_CELLS_PER_REASON:
            heapq.heappop(some)


def _sort_key(look: _PreviewFrame) -> tuple[bool, bool, float, str, int]:
    """Duplicates first, the most alike before; then what is kept; then what shows nothing."""
    alike = 0.0 if look.like is None else look.like.similarity
    return look.like is None and bool(look.dropped), not look.dropped, -alike, *_frame_key(look)


def _frame_key(look: _PreviewFrame) -> tuple[str, int]:
    return look.video, look.frame


def _cell(look: _PreviewFrame, paths: dict[str, Path], method: str) -> contact_sheet.Cell:
    title = f"{look.dropped or 'kept'}: {look.video}#{look.frame}, {look.seconds:.1f} s"
    own = _resized_frame(paths[look.video], look.frame)
    if look.like is None:
        return contact_sheet.Cell(own, title)
    other = _resized_frame(paths[look.like.video], look.like.frame)
    where = "" if look.like.video == look.video else look.like.video
    remark = f"{method} {look.like.similarity:.2f} to {where}#{look.like.frame}, on the left"
    return contact_sheet.Cell(np.hstack([other, own]), title, remark)


def _resized_frame(clip: Path, frame: int) -> Picture:
    image = reader.seek(clip, frame).image
    width = max(round(image.shape[1] * _CELL_HEIGHT / image.shape[0]), 1)
    return np.asarray(
        cv2.resize(image, (width, _CELL_HEIGHT), interpolation=cv2.INTER_AREA), np.uint8
    )


_SIMILARITY_DIGITS = 4  # of a similarity


@dataclass(frozen=True)
class Job:
    """Clips, which of their frames to look at, what to drop, and how many to keep at most in all.

    Of more than `budget` those are kept that differ most, by their hashes or what a network sees.
    """

    clips: tuple[Path, ...]
    taking: SamplingOptions = field(default_factory=SamplingOptions)
    sieve: FilterOptions = field(default_factory=FilterOptions)
    budget: int | None = None
    pictures: str = "png"

    def header(self) -> records.Header:
        """What the file of items is stamped with: everything that shapes it.

        Raises:
            AnnotateError: two clips have the same name, so that their pictures would have as well.
        """
        about: dict[str, Any] = {}
        for clip in self.clips:
            told = reader.header_entry(reader.probe(clip))
            stem = Path(*told).stem
            if stem.casefold() in {Path(name).stem.casefold() for name in about}:
                raise AnnotateError(f"two clips are called {stem}: rename one of them")
            about |= told
        settings = asdict(self.taking) | asdict(self.sieve)
        settings |= settings.pop("choice")
        settings["threshold"] = self.least
        settings |= {"maximum": self.budget, "pictures": self.pictures}
        return records.Header("frames", settings, videos=about)

    def count(self) -> int | None:
        """How many frames that are to be decoded, where it can be told beforehand."""
        counts = [self.taking.choice.count(reader.probe(clip)) for clip in self.clips]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def least(self) -> float:
        """The similarity from which on frames are duplicates."""
        return duplicates.resolve_threshold(self.sieve.duplicates, self.sieve.threshold)


def fill_folder(
    job: Job,
    folder: Path,
    *,
    force: bool = False,
    progress: Callable[[Frame], None] = lambda frame: None,
) -> bool:
    """Fill the folder; goes on at the clip where an equal run was. False when it was complete.

    Raises:
        SettingsDiffer, OutputError, VideoError, MissingPackage: see `annotate.errors`.
    """
    if job.taking.shots and (force or not (folder / ITEMS_FILE).exists()):
        needs("scenedetect")  # before anything is written, or cleared away
    header = job.header()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot write there: {error.strerror}") from None
    if force:
        clear_folder(folder)
    with journal.append(folder / ITEMS_FILE, header, force=force) as file:
        if file.complete:
            write_table(folder)
            return False
        run = _SamplingRun(job, folder, file)
        for clip in run.left():
            looked_at = sampled_frames(clip, job.taking, progress)
            for verdict in filter_frames(looked_at, job.sieve, run.memory):
                run.write(verdict)
        over = run.over_budget()
    for name, frame in over:
        (folder / image_name(name, frame, job.pictures)).unlink(missing_ok=True)
    rewrite_items(
        folder, lambda item: _drop_over_budget(item) if (item.video, item.frame) in over else item
    )
    return True


def decision_item(verdict: Decision) -> Item:
    """What is known of a frame that was looked at."""
    frame, dropped = verdict.frame, None
    if verdict.dropped:
        like = {} if verdict.like is None else asdict(verdict.like)
        like |= {k: round(v, _SIMILARITY_DIGITS) for k, v in like.items() if k == "similarity"}
        dropped = {"why": verdict.dropped, **like}
    return Item(frame.video, frame.index, frame.seconds, *frame.size_wh, dropped=dropped)


def _drop_over_budget(item: Item) -> Item:
    return replace(item, dropped={"why": OVER_BUDGET})


class _SamplingRun:
    """What is kept of clip after clip: in the file, and in memory."""

    def __init__(self, job: Job, folder: Path, file: journal.Appender) -> None:
        self._job, self._folder, self._file = job, folder, file
        self.memory = duplicates.kept_frames(job.sieve.duplicates, job.least)
        self._features = duplicates.frame_features(job.sieve.duplicates)
        self._kept: list[tuple[str, int]] = []
        self._places: list[duplicates.Vectors] = []

    def left(self) -> Iterator[Path]:
        """The clips that are not done; those that are done are remembered."""
        done = self._done()
        for clip in self._job.clips:
            name = reader.probe(clip).name
            if name not in done:
                yield clip
            elif done[name]:
                self._remember(clip, done[name])

    def write(self, verdict: Decision) -> None:
        """Save a frame that is kept, then say so of any."""
        if not verdict.dropped:
            save_image(verdict.frame, self._folder, self._job.pictures)
            self._keep(verdict.glance)
        self._file.write(decision_item(verdict))

    def over_budget(self) -> set[tuple[str, int]]:
        """Video and frame of those that are kept and are too many."""
        if self._job.budget is None or len(self._kept) <= self._job.budget:
            return set()
        picked = farthest_points(np.stack(self._places), self._job.budget)
        return set(self._kept) - {self._kept[place] for place in picked}

    def _keep(self, glance: Thumbnail) -> None:
        if self._job.budget is not None:
            self._kept.append((glance.frame.video, glance.frame.index))
            self._places.append(self._features.space(glance))

    def _done(self) -> dict[str, list[int]]:
        """The kept frames of each clip in the file, but for the last, which is cut off."""
        done: dict[str, list[int]] = {}
        path, start = self._folder / ITEMS_FILE, 0
        with path.open("rb") as lines:
            at = len(lines.readline())
            for line in lines:
                record = json.loads(line)
                if record["video"] not in done:
                    start = at
                kept = done.setdefault(record["video"], [])
                kept += [] if "dropped" in record else [record["frame"]]
                at += len(line)
        if done:
            done.popitem()
            self._file.rewind(start)
        return done

    def _remember(self, clip: Path, kept: list[int]) -> None:
        seen = reader.probe(clip)
        mask = ignore_mask(self._job.taking.ignore, (seen.width, seen.height))
        for frame in reader.frames_at(clip, kept):
            glance = Thumbnail(frame, mask)
            self.memory.nearest(glance)
            self.memory.keep(glance)
            self._keep(glance)
