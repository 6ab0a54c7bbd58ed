"""Read, write and evaluate a folder of search results and the decisions about them.

`found.jsonl` holds the items of the search, and `decisions.jsonl` a person's decisions on the hits
(it is only appended to). `items.jsonl` follows from both and is rewritten after each decision.
`shots.csv` has a row for each shot, and `frames/` the best frame of each hit.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from annotate import files
from annotate.errors import ItemsError, OutputError
from annotate.items import journal
from annotate.items.records import Frame, Header, Item, Object
from annotate.sampling.folder import save_frame
from annotate.search.ask import SearchResults
from annotate.search.clip_shots import ClipShots
from annotate.search.shot_query import Occurrence, QueriedShot
from annotate.video import reader

FOUND_FILE, ITEMS_FILE, DECISIONS_FILE = "found.jsonl", "items.jsonl", "decisions.jsonl"
TABLE_FILE, FRAMES_FOLDER = "shots.csv", "frames"
OTHER_FILES = (ITEMS_FILE, DECISIONS_FILE, TABLE_FILE, FRAMES_FOLDER)  # beside `FOUND_FILE`
_SHOT_COLUMNS = ("video", "start", "stop", "verdict")
_HIT_COLUMNS = ("from", "to", "surest", "seconds", "confidence")
_TABLE_COLUMNS = (*_SHOT_COLUMNS, *_HIT_COLUMNS, "asked", "yes")


@dataclass(frozen=True)
class Hit:
    """The frames `start` up to `stop` (exclusive) of a clip that show the target.

    `best_frame` is the frame with the highest confidence, at `seconds`.
    """

    video: str
    start: int
    stop: int
    best_frame: int
    seconds: Fraction
    confidence: float | None

    @property
    def name(self) -> str:
        """The name of the hit in decisions: `dock.mp4#84`."""
        return f"{self.video}#{self.start}"


def write_results(
    folder: Path,
    clip_shots: ClipShots,
    search_results: SearchResults,
    label: str,
    header: Header,
    source: str,
    *,
    keep_decisions: bool = False,
) -> None:
    """Write the folder; each frame of a hit has one object; its box is the whole frame.

    Frames with a negative answer are items without objects; those of an open shot are no items.
    The decisions on earlier hits are removed, unless `keep_decisions`.

    Raises:
        OutputError: nothing can be written there.
    """
    _prepare_folder(folder / FRAMES_FOLDER)
    best_frame_seconds: dict[tuple[str, int], Fraction] = {}

    def items() -> Iterator[Item]:
        for name, path in clip_shots.paths.items():
            occurrences = {
                frame: occurrence
                for n, shot in enumerate(search_results.shots)
                if shot.video == name
                for frame, occurrence in _settled_frames(n, shot, search_results)
            }
            for frame in reader.frames_at(path, occurrences):
                occurrence = occurrences[frame.index]
                if occurrence is not None and frame.index == occurrence.best_frame:
                    best_frame_seconds[name, frame.index] = frame.seconds
                    save_frame(frame, folder / FRAMES_FOLDER, "png")
                yield _item(frame, occurrence, label, source)

    journal.write(folder / FOUND_FILE, header, items())
    _write_table(folder, search_results, best_frame_seconds)
    if not keep_decisions:
        (folder / DECISIONS_FILE).unlink(missing_ok=True)
    write_items(folder)


def _settled_frames(
    shot_index: int, shot: QueriedShot, search_results: SearchResults
) -> Iterator[tuple[int, Occurrence | None]]:
    """List the frames of a settled shot that become items, and the occurrence of each."""
    if shot_index not in search_results.settled:
        return
    for frame, answer in shot.answers.items():
        if answer and not answer.shown:
            yield frame, None
    if occurrence := search_results.occurrences.get(shot_index):
        for frame in range(occurrence.start, occurrence.stop):
            yield frame, occurrence


def _item(frame: Frame, occurrence: Occurrence | None, label: str, source: str) -> Item:
    width, height = frame.size_wh
    box = (0.0, 0.0, float(width), float(height))
    objects = (
        [] if occurrence is None else [Object(label, box, occurrence.confidence, source=source)]
    )
    return Item(frame.video, frame.index, frame.seconds, width, height, tuple(objects))


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
    except OSError as error:
        raise OutputError(f"{folder}: cannot write there: {error.strerror}") from None


def _write_table(
    folder: Path,
    search_results: SearchResults,
    best_frame_seconds: Mapping[tuple[str, int], Fraction],
) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(_TABLE_COLUMNS)
    for index, shot in enumerate(search_results.shots):
        verdict = "not shown" if index in search_results.settled else "open"
        hit: tuple[Any, ...] = ("",) * len(_HIT_COLUMNS)
        if shown := search_results.occurrences.get(index):
            verdict = "shown"
            seconds = best_frame_seconds[shot.video, shown.best_frame]
            confidence = "" if shown.confidence is None else f"{shown.confidence:.4f}"
            hit = (shown.start, shown.stop, shown.best_frame, seconds, confidence)
        row = (shot.video, shot.start, shot.stop, verdict, *hit)
        table.writerow((*row, len(shot.answers), len(shot.positive_frames(shot.answers))))
    files.write_text(folder / TABLE_FILE, text.getvalue())


def list_hits(clip_shots: ClipShots, search_results: SearchResults) -> list[Hit]:
    """List the hits of a search that was not written, in the order of clips and time."""
    occurrences = [
        (search_results.shots[n].video, o) for n, o in search_results.occurrences.items()
    ]
    best_frames = clip_shots.frames([(video, each.best_frame) for video, each in occurrences])
    seconds = {(frame.video, frame.index): frame.seconds for frame in best_frames}
    hits = [
        Hit(video, o.start, o.stop, o.best_frame, seconds[video, o.best_frame], o.confidence)
        for video, o in occurrences
    ]
    clip_order = list(clip_shots.paths)
    return sorted(hits, key=lambda hit: (clip_order.index(hit.video), hit.start))


def read_hits(folder: Path) -> list[Hit]:
    """Read the hits of a folder, in the order of clips and time.

    Raises:
        ItemsError: the folder holds no search results, or a damaged table.
    """
    try:
        with (folder / TABLE_FILE).open(encoding="utf-8", newline="") as file:
            return [_hit(row) for row in csv.DictReader(file) if row["verdict"] == "shown"]
    except FileNotFoundError:
        message = f"{folder}: no search results in it; fill it with `annotate find`"
        raise ItemsError(message) from None
    except (OSError, KeyError, ValueError) as error:
        raise ItemsError(f"{folder / TABLE_FILE}: damaged: {error!r}") from None


def _hit(row: Mapping[str, str]) -> Hit:
    start, stop, best_frame = (int(row[column]) for column in ("from", "to", "surest"))
    confidence = float(row["confidence"]) if row["confidence"] else None
    return Hit(row["video"], start, stop, best_frame, Fraction(row["seconds"]), confidence)


def is_complete(folder: Path, header: Header) -> bool:
    """Return whether a folder holds an equal search in which every shot is settled.

    False where an equal search can continue, or begin.

    Raises:
        SettingsDiffer: the results were made with other settings.
    """
    if not (folder / TABLE_FILE).exists():
        return False
    existing = journal.read(folder / FOUND_FILE).header
    journal.check_same_settings(folder, existing.differences(header))
    with (folder / TABLE_FILE).open(encoding="utf-8", newline="") as file:
        return not any(row["verdict"] == "open" for row in csv.DictReader(file))


def read_decisions(folder: Path) -> dict[str, bool]:
    """Read the decisions: name of a hit -> whether it is kept. Open hits are left out."""
    try:
        lines = (folder / DECISIONS_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    decisions: dict[str, bool | None] = {}
    for line in lines:
        if line.endswith("\n"):  # a crash may leave half a line
            record = json.loads(line)
            decisions[record["hit"]] = record["keep"]
    return {name: keep for name, keep in decisions.items() if keep is not None}


def record_decision(folder: Path, hit: str, keep: bool | None) -> None:
    """Save the decision on a hit, True to keep, False to reject, None to reopen; update the items.

    Raises:
        ItemsError: no hit has that name.
        OutputError: nothing can be written there.
    """
    if hit not in {each.name for each in read_hits(folder)}:
        raise ItemsError(f"{folder}: there is no hit {hit!r}")
    path = folder / DECISIONS_FILE
    try:
        with path.open("ab+") as file:
            file.seek(0)
            before, newline, _ = file.read().rpartition(b"\n")
            file.truncate(len(before) + len(newline))
            file.write(json.dumps({"hit": hit, "keep": keep}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"{path}: cannot write there: {error.strerror}") from None
    write_items(folder)


def write_items(folder: Path) -> None:
    """Write `items.jsonl`: the items of the search, without the objects of rejected hits."""
    decisions = read_decisions(folder)
    rejected = [hit for hit in read_hits(folder) if decisions.get(hit.name) is False]
    rejected_frames = {(hit.video, n) for hit in rejected for n in range(hit.start, hit.stop)}
    items = journal.read(folder / FOUND_FILE)
    journal.write(folder / ITEMS_FILE, items.header, _without_objects(items, rejected_frames))


def _without_objects(
    items: Iterable[Item], rejected_frames: set[tuple[str, int]]
) -> Iterator[Item]:
    for item in items:
        yield replace(item, objects=()) if (item.video, item.frame) in rejected_frames else item


@dataclass(frozen=True)
class SearchMetrics:
    """Counts of a search against ground truth: shots with the target, and hits."""

    true_shots: int
    found_shots: int
    hits: int
    correct_hits: int

    @property
    def recall(self) -> float:
        """The share of the true shots that were found; 1 if there are none."""
        return self.found_shots / self.true_shots if self.true_shots else 1.0

    @property
    def precision(self) -> float:
        """The share of the hits that are correct; 1 if there are none."""
        return self.correct_hits / self.hits if self.hits else 1.0


def evaluate(hits: Sequence[Hit], truth_paths: Iterable[Path]) -> SearchMetrics:
    """Compare hits with ground truth: JSON files with `shots`.

    Each shot has `start`, `stop` or `end`, and `rare_frames`, the number of frames that show the
    target. A file belongs to the clip of its `info.clip`, or else to the clip whose name its own
    name begins with. A hit is correct if it overlaps a shot with `rare_frames`.

    Raises:
        ItemsError: a file does not have this form.
    """
    shots: set[tuple[str, int, int]] = set()
    for path in truth_paths:
        shots |= _read_true_shots(path)
    hits_by_shot = {shot: [hit for hit in hits if _overlaps(hit, *shot)] for shot in shots}
    correct = {hit.name for shot_hits in hits_by_shot.values() for hit in shot_hits}
    found_count = sum(map(bool, hits_by_shot.values()))
    return SearchMetrics(len(shots), found_count, len(hits), len(correct))


def _read_true_shots(path: Path) -> set[tuple[str, int, int]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        clip = record.get("info", {}).get("clip") or path.name.split(".")[0]
        return {
            (clip, int(shot["start"]), int(shot.get("stop", shot.get("end"))))
            for shot in record["shots"]
            if shot["rare_frames"]
        }
    except OSError as error:
        raise ItemsError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path}: no list of shots with start, end and rare_frames: {error!r}"
        raise ItemsError(message) from None


def _overlaps(hit: Hit, clip: str, start: int, stop: int) -> bool:
    return Path(hit.video).stem == Path(clip).stem and hit.start < stop and start < hit.stop
