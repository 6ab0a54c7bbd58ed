"""A folder of frames worth having: pictures, where each one stood, and what was left out and why.

`items.jsonl` has a line for every frame that was looked at; those left out say why in `dropped`.
`frames.csv` lists the pictures.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

from annotate import clips, drafts, journal, video
from annotate.errors import ItemsError, UnknownName
from annotate.records import Frame, Item
from annotate.sift import REASONS

ITEMS, TABLE = "items.jsonl", "frames.csv"
_ENCODERS = {"png": "PNG", "jpg": "JPEG"}
_FEW = 20  # names that an error lists


def name(video_name: str, frame: int, image_format: str) -> str:
    """What a frame's picture is called: `dock-000075.png`."""
    return f"{Path(video_name).stem}-{frame:06d}.{image_format}"


def save(frame: Frame, folder: Path, image_format: str) -> Path:
    """Write a frame's picture.

    Raises:
        OutputError: nothing can be written there.
    """
    from PIL import Image

    path = folder / name(frame.video, frame.index, image_format)
    with drafts.new_file(path) as draft:
        Image.fromarray(frame.image).save(draft, _ENCODERS[image_format], quality=95)
    return path


def read(folder: Path) -> journal.Journal:
    """The items of a folder that `annotate frames` filled.

    Raises:
        ItemsError: it is no such folder, or it was not filled to the end.
    """
    path = folder / ITEMS
    if not path.is_file():
        raise ItemsError(f"{folder}: no {ITEMS} in it; fill it with `annotate frames -o {folder}`")
    book = journal.read(path)
    if book.header.stage != "frames":
        raise ItemsError(f"{path}: written by `annotate {book.header.stage}`, not by frames")
    if not (folder / TABLE).is_file():
        raise ItemsError(f"{folder}: not filled to its end; run the same `annotate frames` again")
    return book


def tally(folder: Path) -> Counter[str]:
    """How many frames were kept, "", and how many dropped for each reason."""
    return Counter(_why(item) for item in read(folder))


def summary(folder: Path) -> str:
    """The tally in words: `kept 9 of 13 frames; dropped 4: 3 duplicate, 1 blank`."""
    found = tally(folder)
    kept = found.pop("", 0)
    dropped = found.total()
    why = ", ".join(f"{found[reason]} {reason}" for reason in REASONS if found[reason])
    said = f"; dropped {dropped}: {why}" if dropped else ""
    return f"kept {kept} of {kept + dropped} frames{said}"


def rewrite(folder: Path, changed: Callable[[Item], Item]) -> None:
    """Write the items anew, each as `changed` gives it, and the table of those that are kept."""
    book = journal.read(folder / ITEMS)
    (folder / TABLE).unlink(missing_ok=True)
    journal.write(folder / ITEMS, book.header, map(changed, book))
    tabulate(folder)


def tabulate(folder: Path) -> None:
    """Write the table of the frames that are kept, unless it is there."""
    if (folder / TABLE).is_file():
        return
    book = journal.read(folder / ITEMS)
    with drafts.new_file(folder / TABLE) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "video", "frame", "seconds"])
        for item in book:
            if item.dropped is None:
                picture = name(item.video, item.frame, book.header.settings["pictures"])
                table.writerow([picture, item.video, item.frame, item.seconds])


def clear(folder: Path) -> None:
    """Remove the pictures that an earlier run left, as its items name them, and its table."""
    if not (folder / ITEMS).is_file():
        return
    book = journal.read(folder / ITEMS)
    if book.header.stage == "frames":
        for item in book:
            picture = name(item.video, item.frame, book.header.settings["pictures"])
            (folder / picture).unlink(missing_ok=True)
    (folder / TABLE).unlink(missing_ok=True)


def restore(
    folder: Path,
    reasons: Collection[str] = (),
    frames: Collection[str] = (),
    places: dict[str, Path] | None = None,
    progress: Callable[[Frame], None] = lambda frame: None,
) -> int:
    """Put back what was dropped for one of `reasons`, and `frames`, `CLIP#FRAME`; how many.

    Where clips have moved to, `places` tells by name.

    Raises:
        UnknownName: no such reason, or no such frame among those that were dropped.
        ItemsError: it is no such folder, or a clip is not found.
    """
    book = read(folder)
    for reason in reasons:
        if reason not in REASONS:
            raise UnknownName("reason", reason, REASONS)
    back = {_key(i) for i in book if i.dropped and (_why(i) in reasons or _key(i) in frames)}
    if missing := set(frames) - back:
        dropped = [_key(i) for i in book if i.dropped]
        raise UnknownName("dropped frame", missing.pop(), dropped[:_FEW])
    for frame in _frames(book, back, places or {}):
        save(frame, folder, book.header.settings["pictures"])
        progress(frame)
    rewrite(folder, lambda item: replace(item, dropped=None) if _key(item) in back else item)
    return len(back)


def _frames(
    book: journal.Journal, wanted: Collection[str], places: dict[str, Path]
) -> Iterator[Frame]:
    for clip in clips.find([book], places):
        own = clip.told[0].clip
        indices = [item.frame for item in book if item.video == own and _key(item) in wanted]
        if indices:
            yield from (replace(frame, video=own) for frame in video.frames_at(clip.path, indices))


def _key(item: Item) -> str:
    return f"{item.video}#{item.frame}"


def _why(item: Item) -> str:
    return str(item.dropped["why"]) if item.dropped else ""
