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

from annotate.errors import AnnotateError, needs
from annotate.files import refuse_foreign, refuse_foreign_folder, sha256
from annotate.items import journal, records
from annotate.items.records import Frame, Item, Picture
from annotate.locking.locks import locked_folder
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
    TABLE_FILE,
    clear_folder,
    image_name,
    rewrite_items,
    save_frame,
    write_table,
)
from annotate.sampling.thumbnail import Thumbnail
from annotate.video import reader
from annotate.video.images import save_image
from annotate.viewing import contact_sheet

_SIMILARITY_DIGITS = 4  # of a similarity in the items
_MAX_CELLS_PER_REASON = 12  # on the preview: kept frames, duplicates, frames without content
_THRESHOLD_STEPS = {"ssim": 0.1, "hash": 4 / 64, "embedding": 0.02}
_STEP_OFFSETS = (-2, -1, 0, 1, 2)  # other thresholds on the preview, in steps
_CELL_HEIGHT = 150  # pixels, of a picture on the preview


@dataclass(frozen=True)
class Job:
    """Clips, which of their frames to examine, what to drop, and how many to keep in all.

    Of more than `max_frames` kept frames, the most different ones stay: by perceptual hash, or by
    the embedding where duplicates are found by embedding.
    """

    clips: tuple[Path, ...]
    sampling_options: SamplingOptions = field(default_factory=SamplingOptions)
    filter_options: FilterOptions = field(default_factory=FilterOptions)
    max_frames: int | None = None
    image_format: str = "png"

    def header(self) -> records.Header:
        """Make the header of the file of items, with every setting that shapes it.

        Raises:
            AnnotateError: two clips have the same name, and so would their images.
            VideoError: no frame of a clip is selected.
            PromptError: an ignored region does not fit a clip.
        """
        videos: dict[str, Any] = {}
        for clip in self.clips:
            self.sampling_options.selection.check(clip)
            video = reader.probe(clip)
            ignore_mask(self.sampling_options.ignore, (video.width, video.height))
            entry = reader.header_entry(video)
            stem = Path(*entry).stem
            if stem.casefold() in {Path(name).stem.casefold() for name in videos}:
                raise AnnotateError(f"two clips are called {stem}: rename one of them")
            videos |= entry
        return records.Header("frames", self.settings(), videos=videos)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the header: what is examined, dropped and kept."""
        settings = asdict(self.sampling_options) | asdict(self.filter_options)
        settings |= settings.pop("selection")
        settings["threshold"] = self.threshold
        masks = [Path(each) for each in self.sampling_options.ignore if Path(each).is_file()]
        settings |= {f"content of {path}": sha256(path)[:12] for path in masks}
        return settings | {"maximum": self.max_frames, "pictures": self.image_format}

    def count(self) -> int | None:
        """Count the frames to examine before shots are detected; None if that needs decoding."""
        return self.sampling_options.selection.count_all(self.clips)

    @property
    def threshold(self) -> float:
        """The similarity from which on frames are duplicates."""
        options = self.filter_options
        return duplicates.resolve_threshold(options.duplicates, options.threshold)


def fill_folder(
    job: Job,
    folder: Path,
    *,
    force: bool = False,
    progress: Callable[[Frame], None] = lambda frame: None,
) -> bool:
    """Fill a folder with frames, or continue at the clip where an equal run stopped.

    Returns False if the folder was complete already.

    Raises:
        SettingsDiffer, OutputError, VideoError, MissingPackage: see `annotate.errors`.
    """
    if job.sampling_options.shots and (force or not (folder / ITEMS_FILE).exists()):
        needs("scenedetect")  # before anything is written or removed
    header = job.header()
    refuse_foreign(folder / ITEMS_FILE)
    refuse_foreign_folder(folder, ITEMS_FILE, [TABLE_FILE])
    with locked_folder(folder):
        return _fill_locked_folder(job, folder, header, force, progress)


def _fill_locked_folder(
    job: Job,
    folder: Path,
    header: records.Header,
    force: bool,
    progress: Callable[[Frame], None],
) -> bool:
    if force:
        clear_folder(folder)
    # not `journal.resume`: the end marker is written after the surplus frames were dropped
    with journal.append(folder / ITEMS_FILE, header, force=force) as appender:
        if appender.complete:
            write_table(folder)
            return False
        run = _SamplingRun(job, folder, appender)
        for clip in run.remaining_clips():
            sampled = sampled_frames(clip, job.sampling_options, progress)
            for decision in filter_frames(sampled, job.filter_options, run.kept_frames):
                run.write(decision)
        surplus = run.surplus_frames()
    for name, frame in surplus:
        (folder / image_name(name, frame, job.image_format)).unlink(missing_ok=True)

    def drop_surplus(item: Item) -> Item:
        is_surplus = (item.video, item.frame) in surplus
        return replace(item, dropped={"why": OVER_BUDGET}) if is_surplus else item

    rewrite_items(folder, drop_surplus)
    return True


def decision_item(decision: Decision) -> Item:
    """Make the item of an examined frame; `dropped` has the reason and the most similar frame."""
    frame = decision.frame
    dropped: dict[str, Any] | None = None
    if decision.drop_reason:
        dropped = {"why": decision.drop_reason}
        if decision.nearest is not None:
            similarity = round(decision.nearest.similarity, _SIMILARITY_DIGITS)
            dropped |= asdict(replace(decision.nearest, similarity=similarity))
    return Item(frame.video, frame.index, frame.seconds, *frame.size_wh, dropped=dropped)


class _SamplingRun:
    """The kept frames of all clips, in the folder and in memory."""

    def __init__(self, job: Job, folder: Path, appender: journal.Appender) -> None:
        self._job, self._folder, self._appender = job, folder, appender
        self.kept_frames = duplicates.kept_frames(job.filter_options.duplicates, job.threshold)
        self._features = duplicates.frame_features(job.filter_options.duplicates)
        self._kept: list[tuple[str, int]] = []
        self._vectors: list[duplicates.Vectors] = []

    def remaining_clips(self) -> Iterator[Path]:
        """Yield the clips that are not finished; read the kept frames of the others again."""
        finished = self._finished_clips()
        for clip in self._job.clips:
            name = reader.probe(clip).name
            if name not in finished:
                yield clip
            elif finished[name]:
                self._restore_kept_frames(clip, finished[name])

    def write(self, decision: Decision) -> None:
        """Write the item of an examined frame, and before it the image if the frame is kept."""
        if not decision.drop_reason:
            save_frame(decision.frame, self._folder, self._job.image_format)
            self._count_kept(decision.thumbnail)
        self._appender.write(decision_item(decision))

    def surplus_frames(self) -> set[tuple[str, int]]:
        """List the kept frames, (video, index), that are dropped to keep the maximum."""
        if self._job.max_frames is None or len(self._kept) <= self._job.max_frames:
            return set()
        picked = farthest_points(np.stack(self._vectors), self._job.max_frames)
        return set(self._kept) - {self._kept[index] for index in picked}

    def _count_kept(self, thumbnail: Thumbnail) -> None:
        if self._job.max_frames is not None:
            self._kept.append((thumbnail.frame.video, thumbnail.frame.index))
            self._vectors.append(self._features.vector(thumbnail))

    def _finished_clips(self) -> dict[str, list[int]]:
        """Read the kept frames of each finished clip; the items of the last clip are cut off."""
        kept_by_clip: dict[str, list[int]] = {}
        last_clip_offset = 0
        if self._appender.keeps_old_run:
            return kept_by_clip
        with (self._folder / ITEMS_FILE).open("rb") as lines:
            offset = len(lines.readline())
            for line in lines:
                record = json.loads(line)
                if record["video"] not in kept_by_clip:
                    last_clip_offset = offset
                kept = kept_by_clip.setdefault(record["video"], [])
                if "dropped" not in record:
                    kept.append(record["frame"])
                offset += len(line)
        if kept_by_clip:
            kept_by_clip.popitem()
            self._appender.rewind(last_clip_offset)
        return kept_by_clip

    def _restore_kept_frames(self, clip: Path, frame_indices: list[int]) -> None:
        video = reader.probe(clip)
        mask = ignore_mask(self._job.sampling_options.ignore, (video.width, video.height))
        for frame in reader.frames_at(clip, frame_indices):
            thumbnail = Thumbnail(frame, mask)
            self.kept_frames.nearest(thumbnail)
            self.kept_frames.add(thumbnail)
            self._count_kept(thumbnail)


@dataclass(frozen=True, order=True)
class _PreviewFrame:
    """A decision for the sheet; `closeness` is largest for the frames nearest to the threshold."""

    closeness: float
    video: str
    frame: int
    seconds: float
    drop_reason: str
    nearest: duplicates.NearestKept | None = field(compare=False)


class Preview:
    """Decides on the frames of a job at several thresholds in one pass; no frame is saved.

    `kept` counts the kept frames by threshold; `count` is the number of examined frames.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._preview_frames: dict[str, list[_PreviewFrame]] = {}
        method = job.filter_options.duplicates
        around = (job.threshold + step * _THRESHOLD_STEPS[method] for step in _STEP_OFFSETS)
        thresholds = sorted({round(each, 4) for each in around if each <= 1} | {job.threshold})
        self._filters = {
            threshold: FrameFilter(replace(job.filter_options, threshold=threshold))
            for threshold in thresholds
        }
        self.kept = dict.fromkeys(thresholds, 0)
        self.count = 0

    def run(self, progress: Callable[[Frame], None] = lambda frame: None) -> None:
        """Examine the frames of all clips."""
        for clip in self._job.clips:
            for sampled in sampled_frames(clip, self._job.sampling_options, progress):
                self.count += 1
                for threshold, frame_filter in self._filters.items():
                    decision = frame_filter.decide(sampled)
                    self.kept[threshold] += not decision.drop_reason
                    if threshold == self._job.threshold:
                        self._record(decision)

    def write(self, path: Path) -> None:
        """Write the sheet: duplicates, the most similar first, then kept frames, then the others.

        Raises:
            OutputError: nothing can be written there, or the suffix is of no image format.
        """
        paths = {reader.probe(clip).name: clip for clip in self._job.clips}
        frames = [frame for group in self._preview_frames.values() for frame in group]
        method = self._job.filter_options.duplicates
        cells = [_cell(frame, paths, method) for frame in sorted(frames, key=_sort_key)]
        save_image(contact_sheet.lay_out(cells), path)

    def _record(self, decision: Decision) -> None:
        frame, nearest, reason = decision.frame, decision.nearest, decision.drop_reason
        similarity = 0.0 if nearest is None else nearest.similarity
        closeness = -similarity if reason else similarity
        seconds = float(frame.seconds)
        group = self._preview_frames.setdefault(reason, [])
        heapq.heappush(
            group, _PreviewFrame(closeness, frame.video, frame.index, seconds, reason, nearest)
        )
        if len(group) > _MAX_CELLS_PER_REASON:
            heapq.heappop(group)


def _sort_key(frame: _PreviewFrame) -> tuple[bool, bool, float, str, int]:
    """Sort duplicates first, by descending similarity, then kept frames, then the others."""
    similarity = 0.0 if frame.nearest is None else frame.nearest.similarity
    without_content = frame.nearest is None and bool(frame.drop_reason)
    return without_content, not frame.drop_reason, -similarity, frame.video, frame.frame


def _cell(frame: _PreviewFrame, paths: dict[str, Path], method: str) -> contact_sheet.Cell:
    title = f"{frame.drop_reason or 'kept'}: {frame.video}#{frame.frame}, {frame.seconds:.1f} s"
    picture = _resized_frame(paths[frame.video], frame.frame)
    if (nearest := frame.nearest) is None:
        return contact_sheet.Cell(picture, title)
    other = _resized_frame(paths[nearest.video], nearest.frame)
    name = f"{'' if nearest.video == frame.video else nearest.video}#{nearest.frame}"
    remark = f"{method} {nearest.similarity:.2f} to {name}, on the left"
    return contact_sheet.Cell(np.hstack([other, picture]), title, remark)


def _resized_frame(clip: Path, frame_index: int) -> Picture:
    image = reader.seek(clip, frame_index).image
    size_wh = (max(round(image.shape[1] * _CELL_HEIGHT / image.shape[0]), 1), _CELL_HEIGHT)
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
