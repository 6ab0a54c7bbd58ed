"""The folder of what was found: items, a table of shots, pictures, and what a person decided.

`found.jsonl` are the items as they were found, `decisions.jsonl` what a person said of each hit,
appended and never changed, and `items.jsonl` what follows from both: it is written anew, whole, at
each decision. `shots.csv` has a line for each shot, and `frames/` the surest frame of each hit.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from annotate import chosen, journal, video
from annotate.drafts import new_file
from annotate.errors import ItemsError, OutputError, SettingsDiffer
from annotate.find import Clips, Findings
from annotate.lines import Header
from annotate.records import Frame, Item, Object
from annotate.settling import Shot, Shown

FOUND, ITEMS, DECISIONS, TABLE = "found.jsonl", "items.jsonl", "decisions.jsonl", "shots.csv"
FRAMES = "frames"
_COLUMNS = ("video", "start", "stop", "verdict", "from", "to", "surest", "seconds", "confidence",
            "asked", "yes")  # fmt: skip


@dataclass(frozen=True)
class Hit:
    """A stretch that shows it: frames `start` up to `stop`; `surest` is at `seconds`."""

    video: str
    start: int
    stop: int
    surest: int
    seconds: Fraction
    confidence: float | None

    @property
    def name(self) -> str:
        """What a decision calls it: `dock.mp4#84`."""
        return f"{self.video}#{self.start}"


def write(
    folder: Path,
    clips: Clips,
    found: Findings,
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
    _make(folder / FRAMES)
    times: dict[tuple[str, int], Fraction] = {}

    def items() -> Iterator[Item]:
        for name in clips.paths:
            mine = {n: shot for n, shot in enumerate(found.shots) if shot.video == name}
            seen = {
                frame: hit for n, shot in mine.items() for frame, hit in _frames(n, shot, found)
            }
            for frame in video.frames_at(clips.paths[name], seen):
                progress(frame)
                shown = seen[frame.index]
                if shown is not None and frame.index == shown.surest:
                    times[name, frame.index] = frame.seconds
                    chosen.save(frame, folder / FRAMES, "png")
                yield _item(frame, shown, label, source)

    journal.write(folder / FOUND, header, items())
    _write_table(folder, found, times)
    (folder / DECISIONS).unlink(missing_ok=True)
    derive(folder)


def _frames(number: int, shot: Shot, found: Findings) -> Iterator[tuple[int, Shown | None]]:
    """The frames of a settled shot that items speak of, and the hit that each is of."""
    if number not in found.settled:
        return
    shown = found.shown.get(number)
    stretch = range(shown.start, shown.stop) if shown else range(0)
    yield from ((frame, None) for frame, said in shot.said.items() if said and not said.shown)
    yield from ((frame, shown) for frame in stretch)


def _item(frame: Frame, shown: Shown | None, label: str, source: str) -> Item:
    width, height = frame.size_wh
    box = (0.0, 0.0, float(width), float(height))
    objects = () if shown is None else (Object(label, box, shown.confidence, source=source),)
    return Item(frame.video, frame.index, frame.seconds, width, height, objects)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
    except OSError as error:
        raise OutputError(f"{folder}: cannot write there: {error.strerror}") from None


def _write_table(folder: Path, found: Findings, times: Mapping[tuple[str, int], Fraction]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(_COLUMNS)
    for number, shot in enumerate(found.shots):
        shown = found.shown.get(number)
        verdict = "shown" if shown else "not shown" if number in found.settled else "open"
        hit: tuple[Any, ...] = ("",) * 5
        if shown:
            when = times[shot.video, shown.surest]
            sure = "" if shown.confidence is None else f"{shown.confidence:.4f}"
            hit = (shown.start, shown.stop, shown.surest, when, sure)
        row = (shot.video, shot.start, shot.stop, verdict, *hit)
        table.writerow((*row, len(shot.said), len(shot.yes(shot.said))))
    with new_file(folder / TABLE) as draft:
        draft.write_text(text.getvalue(), encoding="utf-8", newline="")


def read(folder: Path) -> list[Hit]:
    """The hits, in the order of clips and time.

    Raises:
        ItemsError: `annotate find` has not filled the folder.
    """
    try:
        with (folder / TABLE).open(encoding="utf-8", newline="") as file:
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
        raise ItemsError(f"{folder / TABLE}: damaged: {error!r}") from None


def begun(folder: Path, header: Header, *, force: bool = False) -> None:
    """Refuse a folder that holds what was found before, unless that is to be gone on with.

    Raises:
        SettingsDiffer: it was found by other settings.
        OutputError: it is complete.
    """
    if force or not (folder / TABLE).exists():
        return
    cure = "give another -o, or --force to write over it"
    if differ := journal.read(folder / FOUND).header.differences(header):
        raise SettingsDiffer(f"{folder}: made with {'; '.join(differ)}: {cure}")
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        if not any(row["verdict"] == "open" for row in csv.DictReader(file)):
            raise OutputError(f"{folder}: every shot in it is settled; {cure}")


def decisions(folder: Path) -> dict[str, bool]:
    """Hit's name -> whether it is kept, for those that a person has decided."""
    try:
        lines = (folder / DECISIONS).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    said: dict[str, bool | None] = {}
    for line in lines:
        if line.endswith("\n"):  # what a crash cut off was not decided
            record = json.loads(line)
            said[record["hit"]] = record["keep"]
    return {name: keep for name, keep in said.items() if keep is not None}


def decide(folder: Path, hit: str, keep: bool | None) -> None:
    """Write down that a hit is kept, rejected, or neither any more; the items follow.

    Raises:
        ItemsError: there is no such hit.
        OutputError: nothing can be written there.
    """
    if hit not in {each.name for each in read(folder)}:
        raise ItemsError(f"{folder}: there is no hit {hit!r}")
    path = folder / DECISIONS
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
    derive(folder)


def derive(folder: Path) -> None:
    """Write `items.jsonl`: what was found, without the objects of hits that were rejected."""
    said = decisions(folder)
    rejected = [hit for hit in read(folder) if said.get(hit.name) is False]
    book = journal.read(folder / FOUND)
    gone = {(hit.video, n) for hit in rejected for n in range(hit.start, hit.stop)}
    journal.write(folder / ITEMS, book.header, _without(book, gone))


def _without(items: Iterable[Item], gone: set[tuple[str, int]]) -> Iterator[Item]:
    for item in items:
        yield replace(item, objects=()) if (item.video, item.frame) in gone else item
