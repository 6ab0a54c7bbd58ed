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

    closeness: float
    video: str
    frame: int
    seconds: float
    drop_reason: str
    nearest: duplicates.NearestKept | None = field(compare=False)


class Preview:
    """What was kept and dropped of clips, judged at several thresholds in one go."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._preview_frames: dict[str, list[_PreviewFrame]] = {}
        method = job.filter_options.duplicates
        at = (job.threshold + step * _THRESHOLD_STEPS[method] for step in _STEP_OFFSETS)
        levels = sorted({round(level, 4) for level in at if level <= 1} | {job.threshold})
        self._filters = {n: FrameFilter(replace(job.filter_options, threshold=n)) for n in levels}
        self.kept = dict.fromkeys(levels, 0)  # frames, by threshold
        self.count = 0  # frames looked at

    def run(self, progress: Callable[[Frame], None]) -> None:
        """Look at all clips."""
        for clip in self._job.clips:
            for taken in sampled_frames(clip, self._job.sampling_options, progress):
                self.count += 1
                for level, judge in self._filters.items():
                    verdict = judge.decide(taken)
                    self.kept[level] += not verdict.drop_reason
                    if level == self._job.threshold:
                        self._record(verdict)

    def write(self, path: Path) -> None:
        """The sheet: what was dropped, from the most alike on, then what was kept.

        Raises:
            OutputError: nothing can be written there.
        """
        from PIL import Image

        paths = {reader.probe(clip).name: clip for clip in self._job.clips}
        looks = sorted(
            (look for some in self._preview_frames.values() for look in some), key=_sort_key
        )
        cells = [_cell(look, paths, self._job.filter_options.duplicates) for look in looks]
        with atomic_file(path) as draft:
            Image.fromarray(contact_sheet.lay_out(cells)).save(draft)

    def _record(self, decision: Decision) -> None:
        frame, like = decision.frame, decision.nearest
        alike = 0.0 if like is None else like.similarity
        near = -alike if decision.drop_reason else alike
        look = _PreviewFrame(
            near, frame.video, frame.index, float(frame.seconds), decision.drop_reason, like
        )
        some = self._preview_frames.setdefault(decision.drop_reason, [])
        heapq.heappush(some, look)
        if len(some) > _MAX_CELLS_PER_REASON:
            heapq.heappop(some)


def _sort_key(preview_frame: _PreviewFrame) -> tuple[bool, bool, float, str, int]:
    """Duplicates first, the most alike before; then what is kept; then what shows nothing."""
    alike = 0.0 if preview_frame.nearest is None else preview_frame.nearest.similarity
    return (
        preview_frame.nearest is None and bool(preview_frame.drop_reason),
        not preview_frame.drop_reason,
        -alike,
        *_frame_key(preview_frame),
    )


def _frame_key(preview_frame: _PreviewFrame) -> tuple[str, int]:
    return preview_frame.video, preview_frame.frame


def _cell(preview_frame: _PreviewFrame, paths: dict[str, Path], method: str) -> contact_sheet.Cell:
    title = f"{preview_frame.drop_reason or 'kept'}: {preview_frame.video}#{preview_frame.frame}, {preview_frame.seconds:.1f} s"
    own = _resized_frame(paths[preview_frame.video], preview_frame.frame)
    if preview_frame.nearest is None:
        return contact_sheet.Cell(own, title)
    other = _resized_frame(paths[preview_frame.nearest.video], preview_frame.nearest.frame)
    where = (
        "" if preview_frame.nearest.video == preview_frame.video else preview_frame.nearest.video
    )
    remark = f"{method} {preview_frame.nearest.similarity:.2f} to {where}#{preview_frame.nearest.frame}, on the left"
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
    sampling_options: SamplingOptions = field(default_factory=SamplingOptions)
    filter_options: FilterOptions = field(default_factory=FilterOptions)
    budget: int | None = None
    image_format: str = "png"

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
        settings = asdict(self.sampling_options) | asdict(self.filter_options)
        settings |= settings.pop("choice")
        settings["threshold"] = self.threshold
        settings |= {"maximum": self.budget, "pictures": self.image_format}
        return records.Header("frames", settings, videos=about)

    def count(self) -> int | None:
        """How many frames that are to be decoded, where it can be told beforehand."""
        counts = [self.sampling_options.choice.count(reader.probe(clip)) for clip in self.clips]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def threshold(self) -> float:
        """The similarity from which on frames are duplicates."""
        return duplicates.resolve_threshold(
            self.filter_options.duplicates, self.filter_options.threshold
        )


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
    if job.sampling_options.shots and (force or not (folder / ITEMS_FILE).exists()):
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
        for clip in run.remaining_clips():
            looked_at = sampled_frames(clip, job.sampling_options, progress)
            for verdict in filter_frames(looked_at, job.filter_options, run.kept_frames):
                run.write(verdict)
        over = run.over_budget()
    for name, frame in over:
        (folder / image_name(name, frame, job.image_format)).unlink(missing_ok=True)
    rewrite_items(
        folder, lambda item: _drop_over_budget(item) if (item.video, item.frame) in over else item
    )
    return True


def decision_item(decision: Decision) -> Item:
    """What is known of a frame that was looked at."""
    frame, dropped = decision.frame, None
    if decision.drop_reason:
        like = {} if decision.nearest is None else asdict(decision.nearest)
        like |= {k: round(v, _SIMILARITY_DIGITS) for k, v in like.items() if k == "similarity"}
        dropped = {"why": decision.drop_reason, **like}
    return Item(frame.video, frame.index, frame.seconds, *frame.size_wh, dropped=dropped)


def _drop_over_budget(item: Item) -> Item:
    return replace(item, dropped={"why": OVER_BUDGET})


class _SamplingRun:
    """What is kept of clip after clip: in the file, and in memory."""

    def __init__(self, job: Job, folder: Path, file: journal.Appender) -> None:
        self._job, self._folder, self._file = job, folder, file
        self.kept_frames = duplicates.kept_frames(job.filter_options.duplicates, job.threshold)
        self._features = duplicates.frame_features(job.filter_options.duplicates)
        self._kept: list[tuple[str, int]] = []
        self._vectors: list[duplicates.Vectors] = []

    def remaining_clips(self) -> Iterator[Path]:
        """The clips that are not done; those that are done are remembered."""
        done = self._finished_clips()
        for clip in self._job.clips:
            name = reader.probe(clip).name
            if name not in done:
                yield clip
            elif done[name]:
                self._restore_kept_frames(clip, done[name])

    def write(self, decision: Decision) -> None:
        """Save a frame that is kept, then say so of any."""
        if not decision.drop_reason:
            save_image(decision.frame, self._folder, self._job.image_format)
            self._add_to_budget(decision.thumbnail)
        self._file.write(decision_item(decision))

    def over_budget(self) -> set[tuple[str, int]]:
        """Video and frame of those that are kept and are too many."""
        if self._job.budget is None or len(self._kept) <= self._job.budget:
            return set()
        picked = farthest_points(np.stack(self._vectors), self._job.budget)
        return set(self._kept) - {self._kept[place] for place in picked}

    def _add_to_budget(self, thumbnail: Thumbnail) -> None:
        if self._job.budget is not None:
            self._kept.append((thumbnail.frame.video, thumbnail.frame.index))
            self._vectors.append(self._features.vector(thumbnail))

    def _finished_clips(self) -> dict[str, list[int]]:
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

    def _restore_kept_frames(self, clip: Path, frame_indices: list[int]) -> None:
        seen = reader.probe(clip)
        mask = ignore_mask(self._job.sampling_options.ignore, (seen.width, seen.height))
        for frame in reader.frames_at(clip, frame_indices):
            glance = Thumbnail(frame, mask)
            self.kept_frames.nearest(glance)
            self.kept_frames.add(glance)
            self._add_to_budget(glance)
