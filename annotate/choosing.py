"""Fill a folder with the frames of clips that are worth having; go on where a run was killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from annotate import chosen, duplicates, journal, sift, video
from annotate.diverse import farthest
from annotate.errors import AnnotateError, OutputError, needs
from annotate.glance import Glance
from annotate.ignore import ignored
from annotate.records import Frame, Item

_DIGITS = 4  # of a similarity


@dataclass(frozen=True)
class Job:
    """Clips, which of their frames to look at, what to drop, and how many to keep at most in all.

    Of more than `budget` those are kept that differ most, by their hashes or what a network sees.
    """

    clips: tuple[Path, ...]
    taking: sift.Taking = field(default_factory=sift.Taking)
    sieve: sift.Sieve = field(default_factory=sift.Sieve)
    budget: int | None = None
    pictures: str = "png"

    def header(self) -> journal.Header:
        """What the file of items is stamped with: everything that shapes it.

        Raises:
            AnnotateError: two clips have the same name, so that their pictures would have as well.
        """
        about: dict[str, Any] = {}
        for clip in self.clips:
            told = journal.about(video.probe(clip))
            stem = Path(*told).stem
            if stem.casefold() in {Path(name).stem.casefold() for name in about}:
                raise AnnotateError(f"two clips are called {stem}: rename one of them")
            about |= told
        settings = asdict(self.taking) | asdict(self.sieve)
        settings |= settings.pop("choice")
        settings["threshold"] = self.least
        settings |= {"maximum": self.budget, "pictures": self.pictures}
        return journal.Header("frames", settings, videos=about)

    def count(self) -> int | None:
        """How many frames that are to be decoded, where it can be told beforehand."""
        counts = [self.taking.choice.count(video.probe(clip)) for clip in self.clips]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def least(self) -> float:
        """The similarity from which on frames are duplicates."""
        return duplicates.threshold(self.sieve.duplicates, self.sieve.threshold)


def into(
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
    if job.taking.shots and (force or not (folder / chosen.ITEMS).exists()):
        needs("scenedetect")  # before anything is written, or cleared away
    header = job.header()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot write there: {error.strerror}") from None
    if force:
        chosen.clear(folder)
    with journal.append(folder / chosen.ITEMS, header, force=force) as file:
        if file.complete:
            chosen.tabulate(folder)
            return False
        run = _Run(job, folder, file)
        for clip in run.left():
            looked_at = sift.taken(clip, job.taking, progress)
            for verdict in sift.sift(looked_at, job.sieve, run.memory):
                run.write(verdict)
        over = run.over_budget()
    for name, frame in over:
        (folder / chosen.name(name, frame, job.pictures)).unlink(missing_ok=True)
    chosen.rewrite(folder, lambda item: _over(item) if (item.video, item.frame) in over else item)
    return True


def item(verdict: sift.Verdict) -> Item:
    """What is known of a frame that was looked at."""
    frame, dropped = verdict.frame, None
    if verdict.dropped:
        like = {} if verdict.like is None else asdict(verdict.like)
        like |= {k: round(v, _DIGITS) for k, v in like.items() if k == "similarity"}
        dropped = {"why": verdict.dropped, **like}
    return Item(frame.video, frame.index, frame.seconds, *frame.size_wh, dropped=dropped)


def _over(item: Item) -> Item:
    return replace(item, dropped={"why": sift.OVER_BUDGET})


class _Run:
    """What is kept of clip after clip: in the file, and in memory."""

    def __init__(self, job: Job, folder: Path, file: journal.Appender) -> None:
        self._job, self._folder, self._file = job, folder, file
        self.memory = duplicates.memory(job.sieve.duplicates, job.least)
        self._features = duplicates.features(job.sieve.duplicates)
        self._kept: list[tuple[str, int]] = []
        self._places: list[duplicates.Vectors] = []

    def left(self) -> Iterator[Path]:
        """The clips that are not done; those that are done are remembered."""
        done = self._done()
        for clip in self._job.clips:
            name = video.probe(clip).name
            if name not in done:
                yield clip
            elif done[name]:
                self._remember(clip, done[name])

    def write(self, verdict: sift.Verdict) -> None:
        """Save a frame that is kept, then say so of any."""
        if not verdict.dropped:
            chosen.save(verdict.frame, self._folder, self._job.pictures)
            self._keep(verdict.glance)
        self._file.write(item(verdict))

    def over_budget(self) -> set[tuple[str, int]]:
        """Video and frame of those that are kept and are too many."""
        if self._job.budget is None or len(self._kept) <= self._job.budget:
            return set()
        picked = farthest(np.stack(self._places), self._job.budget)
        return set(self._kept) - {self._kept[place] for place in picked}

    def _keep(self, glance: Glance) -> None:
        if self._job.budget is not None:
            self._kept.append((glance.frame.video, glance.frame.index))
            self._places.append(self._features.space(glance))

    def _done(self) -> dict[str, list[int]]:
        """The kept frames of each clip in the file, but for the last, which is cut off."""
        done: dict[str, list[int]] = {}
        path, start = self._folder / chosen.ITEMS, 0
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
        seen = video.probe(clip)
        mask = ignored(self._job.taking.ignore, (seen.width, seen.height))
        for frame in video.frames_at(clip, kept):
            glance = Glance(frame, mask)
            self.memory.nearest(glance)
            self.memory.keep(glance)
            self._keep(glance)
