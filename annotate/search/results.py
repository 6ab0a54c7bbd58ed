"""Read, write and evaluate a folder of search results and the decisions about them.

`found.jsonl` holds the items as found, `decisions.jsonl` a person's decision on each hit (only ever
appended), and `items.jsonl` what follows from both; it is rewritten whole after each decision.
`shots.csv` has a line for each shot, and `frames/` the best frame of each hit.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from annotate.errors import ItemsError, OutputError, SettingsDiffer
from annotate.files import atomic_file
from annotate.items import journal
from annotate.items.records import Frame, Header, Item, Object
from annotate.sampling.folder import save_image
from annotate.search.run import ClipShots, SearchResults
from annotate.search.shot_query import Occurrence, QueriedShot
from annotate.video import reader

FOUND_FILE, ITEMS_FILE, DECISIONS_FILE, TABLE_FILE = (
    "found.jsonl",
    "items.jsonl",
    "decisions.jsonl",
    "shots.csv",
)
FRAMES_FOLDER = "frames"
_TABLE_COLUMNS = ("video", "start", "stop", "verdict", "from", "to", "surest", "seconds", "confidence",
            "asked", "yes")  # fmt: skip


@dataclass(frozen=True)
class Hit:
    """A stretch that shows it: frames `start` up to `stop`; `surest` is at `seconds`."""

    video: str
    start: int
    stop: int
    best_frame: int
    seconds: Fraction
    confidence: float | None

    @property
    def name(self) -> str:
        """What a decision calls it: `dock.mp4#84`."""
        return f"{self.video}#{self.start}"


def write_results(
    folder: Path,
    clip_shots: ClipShots,
    search_results: SearchResults,
    label: str,
    header: Header,
    source: str,
    progress: Callable[[Frame], object] = lambda _: None,
) -> None:
    """Write the folder; frames of a hit have an object that is the whole picture.

    Frames that were asked, and did not show it, are items without objects.

    Raises:
        OutputError: nothing can be written there.
    """
    _prepare_folder(folder / FRAMES_FOLDER)
    times: dict[tuple[str, int], Fraction] = {}

    def items() -> Iterator[Item]:
        for name in clip_shots.paths:
            mine = {n: shot for n, shot in enumerate(search_results.shots) if shot.video == name}
            seen = {
                frame: hit
                for n, shot in mine.items()
                for frame, hit in _settled_frames(n, shot, search_results)
            }
            for frame in reader.frames_at(clip_shots.paths[name], seen):
                progress(frame)
                shown = seen[frame.index]
                if shown is not None and frame.index == shown.best_frame:
                    times[name, frame.index] = frame.seconds
                    save_image(frame, folder / FRAMES_FOLDER, "png")
                yield _item(frame, shown, label, source)

    journal.write(folder / FOUND_FILE, header, items())
    _write_table(folder, search_results, times)
    (folder / DECISIONS_FILE).unlink(missing_ok=True)
    write_items(folder)


def _settled_frames(
    shot_index: int, shot: QueriedShot, search_results: SearchResults
) -> Iterator[tuple[int, Occurrence | None]]:
    """The frames of a settled shot that items speak of, and the hit that each is of."""
    if shot_index not in search_results.settled:
        return
    shown = search_results.occurrences.get(shot_index)
    stretch = range(shown.start, shown.stop) if shown else range(0)
    yield from ((frame, None) for frame, said in shot.answers.items() if said and not said.shown)
    yield from ((frame, shown) for frame in stretch)


def _item(frame: Frame, occurrence: Occurrence | None, label: str, source: str) -> Item:
    width, height = frame.size_wh
    box = (0.0, 0.0, float(width), float(height))
    objects = (
        () if occurrence is None else (Object(label, box, occurrence.confidence, source=source),)
    )
    return Item(frame.video, frame.index, frame.seconds, width, height, objects)


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
    for number, shot in enumerate(search_results.shots):
        shown = search_results.occurrences.get(number)
        verdict = "shown" if shown else "not shown" if number in search_results.settled else "open"
        hit: tuple[Any, ...] = ("",) * 5
        if shown:
            when = best_frame_seconds[shot.video, shown.best_frame]
            sure = "" if shown.confidence is None else f"{shown.confidence:.4f}"
            hit = (shown.start, shown.stop, shown.best_frame, when, sure)
        row = (shot.video, shot.start, shot.stop, verdict, *hit)
        table.writerow((*row, len(shot.answers), len(shot.positive_frames(shot.answers))))
    with atomic_file(folder / TABLE_FILE) as draft:
        draft.write_text(text.getvalue(), encoding="utf-8", newline="")


def read_hits(folder: Path) -> list[Hit]:
    """The hits, in the order of clips and time.

    Raises:
        ItemsError: `annotate find` has not filled the folder.
    """
    try:
        with (folder / TABLE_FILE).open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["verdict"] == "shown"]
        return [
            Hit(
                row["video"],
                int(row["from"]),
                int(row["to"]),
                int(row["surest"]),
                Fraction(row["seconds"]),
                float(row["confidence"]) if row["confidence"] else None,
            )
            for row in rows
        ]
    except FileNotFoundError:
        raise ItemsError(f"{folder}: nothing found there: `annotate find -o {folder}`") from None
    except (OSError, KeyError, ValueError) as error:
        raise ItemsError(f"{folder / TABLE_FILE}: damaged: {error!r}") from None


def check_resumable(folder: Path, header: Header, *, force: bool = False) -> None:
    """Refuse a folder that holds what was found before, unless that is to be gone on with.

    Raises:
        SettingsDiffer: it was found by other settings.
        OutputError: it is complete.
    """
    if force or not (folder / TABLE_FILE).exists():
        return
    cure = "give another -o, or --force to write over it"
    if differ := journal.read(folder / FOUND_FILE).header.differences(header):
        raise SettingsDiffer(f"{folder}: made with {'; '.join(differ)}: {cure}")
    with (folder / TABLE_FILE).open(encoding="utf-8", newline="") as file:
        if not any(row["verdict"] == "open" for row in csv.DictReader(file)):
            raise OutputError(f"{folder}: every shot in it is settled; {cure}")


def read_decisions(folder: Path) -> dict[str, bool]:
    """Hit's name -> whether it is kept, for those that a person has decided."""
    try:
        lines = (folder / DECISIONS_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    said: dict[str, bool | None] = {}
    for line in lines:
        if line.endswith("\n"):  # what a crash cut off was not decided
            record = json.loads(line)
            said[record["hit"]] = record["keep"]
    return {name: keep for name, keep in said.items() if keep is not None}


def record_decision(folder: Path, hit: str, keep: bool | None) -> None:
    """Write down that a hit is kept, rejected, or neither any more; the items follow.

    Raises:
        ItemsError: there is no such hit.
        OutputError: nothing can be written there.
    """
    if hit not in {each.name for each in read_hits(folder)}:
        raise ItemsError(f"{folder}: there is no hit {hit!r}")
    path = folder / DECISIONS_FILE
    try:
        with path.open("ab+") as file:
            file.seek(0)
            whole = file.read().rpartition(b"\n")
            file.truncate(len(whole[0]) + len(whole[1]))
            file.write(json.dumps({"hit": hit, "keep": keep}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"{path}: cannot write there: {error.strerror}") from None
    write_items(folder)


def write_items(folder: Path) -> None:
    """Write `items.jsonl`: what was found, without the objects of hits that were rejected."""
    said = read_decisions(folder)
    rejected = [hit for hit in read_hits(folder) if said.get(hit.name) is False]
    book = journal.read(folder / FOUND_FILE)
    gone = {(hit.video, n) for hit in rejected for n in range(hit.start, hit.stop)}
    journal.write(folder / ITEMS_FILE, book.header, _without_objects(book, gone))


def _without_objects(
    items: Iterable[Item], rejected_frames: set[tuple[str, int]]
) -> Iterator[Item]:
    for item in items:
        yield replace(item, objects=()) if (item.video, item.frame) in rejected_frames else item


@dataclass(frozen=True)
class SearchMetrics:
    """Shots that show it and how many of them were found; hits, and how many are right."""

    true_shots: int
    found_shots: int
    hits: int
    correct_hits: int

    @property
    def recall(self) -> float:
        """Of the shots that show it, the share that was found; 1 where there are none."""
        return self.found_shots / self.true_shots if self.true_shots else 1.0

    @property
    def precision(self) -> float:
        """Of the hits, the share that is right; 1 where there are none."""
        return self.correct_hits / self.hits if self.hits else 1.0


def evaluate(hits: Sequence[Hit], truth_paths: Iterable[Path]) -> SearchMetrics:
    """Hold hits against files with `shots`: each has start, stop or end, and `rare_frames`.

    A file is of the clip that its `info.clip` names, else of the one that its own name begins with.
    A shot that shows the thing on any frame is to be found; a hit is right that meets such a shot.

    Raises:
        ItemsError: a file that cannot be read so.
    """
    shots: set[tuple[str, int, int]] = set()
    for path in truth_paths:
        shots |= _read_true_shots(path)
    met = {shot: [hit for hit in hits if _overlaps(hit, *shot)] for shot in shots}
    right = {hit.name for some in met.values() for hit in some}
    return SearchMetrics(len(shots), sum(map(bool, met.values())), len(hits), len(right))


def _read_true_shots(path: Path) -> set[tuple[str, int, int]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        clip = record.get("info", {}).get("clip") or path.name.split(".")[0]
        return {
            (clip, int(shot["start"]), int(shot.get("stop", shot.get("end"))))
            for shot in record["shots"]
            if shot["rare_frames"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ItemsError(f"{path}: not shots with start, end and rare_frames: {error!r}") from None


def _overlaps(hit: Hit, clip: str, start: int, stop: int) -> bool:
    return Path(hit.video).stem == Path(clip).stem and hit.start < stop and start < hit.stop
