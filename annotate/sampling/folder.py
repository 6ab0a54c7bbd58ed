"""Read and write a folder of sampled frames: images, items and a table.

`items.jsonl` has a line for every frame that was examined; `dropped` says why a frame was left out.
`frames.csv` lists the images that were kept.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

from annotate import files
from annotate.dataset import frame_sources
from annotate.errors import ItemsError, UnknownName
from annotate.items import journal
from annotate.items.records import Frame, Item
from annotate.sampling.filter import DROP_REASONS
from annotate.video import reader

ITEMS_FILE, TABLE_FILE = "items.jsonl", "frames.csv"
_ENCODERS = {"png": "PNG", "jpg": "JPEG"}
_MAX_NAMES_IN_ERROR = 20  # names that an error lists


def image_name(video_name: str, frame: int, image_format: str) -> str:
    """What a frame's picture is called: `dock-000075.png`."""
    return f"{Path(video_name).stem}-{frame:06d}.{image_format}"


def save_image(frame: Frame, folder: Path, image_format: str) -> Path:
    """Write a frame's picture.

    Raises:
        OutputError: nothing can be written there.
    """
    from PIL import Image

    path = folder / image_name(frame.video, frame.index, image_format)
    with files.atomic_file(path) as draft:
        Image.fromarray(frame.image).save(draft, _ENCODERS[image_format], quality=95)
    return path


def read_items(folder: Path) -> journal.Journal:
    """The items of a folder that `annotate frames` filled.

    Raises:
        ItemsError: it is no such folder, or it was not filled to the end.
    """
    path = folder / ITEMS_FILE
    if not path.is_file():
        raise ItemsError(
            f"{folder}: no {ITEMS_FILE} in it; fill it with `annotate frames -o {folder}`"
        )
    book = journal.read(path)
    if book.header.stage != "frames":
        raise ItemsError(f"{path}: written by `annotate {book.header.stage}`, not by frames")
    if not (folder / TABLE_FILE).is_file():
        raise ItemsError(f"{folder}: not filled to its end; run the same `annotate frames` again")
    return book


def count_by_reason(folder: Path) -> Counter[str]:
    """How many frames were kept, "", and how many dropped for each reason."""
    return Counter(_drop_reason(item) for item in read_items(folder))


def summarize_folder(folder: Path) -> str:
    """The tally in words: `kept 9 of 13 frames; dropped 4: 3 duplicate, 1 blank`."""
    found = count_by_reason(folder)
    kept = found.pop("", 0)
    dropped = found.total()
    why = ", ".join(f"{found[reason]} {reason}" for reason in DROP_REASONS if found[reason])
    said = f"; dropped {dropped}: {why}" if dropped else ""
    return f"kept {kept} of {kept + dropped} frames{said}"


def rewrite_items(folder: Path, transform: Callable[[Item], Item]) -> None:
    """Write the items anew, each as `changed` gives it, and the table of those that are kept."""
    book = journal.read(folder / ITEMS_FILE)
    (folder / TABLE_FILE).unlink(missing_ok=True)
    journal.write(folder / ITEMS_FILE, book.header, map(transform, book))
    write_table(folder)


def write_table(folder: Path) -> None:
    """Write the table of the frames that are kept, unless it is there."""
    if (folder / TABLE_FILE).is_file():
        return
    book = journal.read(folder / ITEMS_FILE)
    with files.atomic_file(folder / TABLE_FILE) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "video", "frame", "seconds"])
        for item in book:
            if item.dropped is None:
                picture = image_name(item.video, item.frame, book.header.settings["pictures"])
                table.writerow([picture, item.video, item.frame, item.seconds])


def clear_folder(folder: Path) -> None:
    """Remove the pictures that an earlier run left, as its items name them, and its table."""
    if not (folder / ITEMS_FILE).is_file():
        return
    book = journal.read(folder / ITEMS_FILE)
    if book.header.stage == "frames":
        for item in book:
            picture = image_name(item.video, item.frame, book.header.settings["pictures"])
            (folder / picture).unlink(missing_ok=True)
    (folder / TABLE_FILE).unlink(missing_ok=True)


def restore_frames(
    folder: Path,
    reasons: Collection[str] = (),
    frames: Collection[str] = (),
    clip_paths: dict[str, Path] | None = None,
    progress: Callable[[Frame], None] = lambda frame: None,
) -> int:
    """Put back what was dropped for one of `reasons`, and `frames`, `CLIP#FRAME`; how many.

    Where clips have moved to, `places` tells by name.

    Raises:
        UnknownName: no such reason, or no such frame among those that were dropped.
        ItemsError: it is no such folder, or a clip is not found.
    """
    book = read_items(folder)
    for reason in reasons:
        if reason not in DROP_REASONS:
            raise UnknownName("reason", reason, DROP_REASONS)
    back = {
        _frame_key(i)
        for i in book
        if i.dropped and (_drop_reason(i) in reasons or _frame_key(i) in frames)
    }
    if missing := set(frames) - back:
        dropped = [_frame_key(i) for i in book if i.dropped]
        raise UnknownName("dropped frame", missing.pop(), dropped[:_MAX_NAMES_IN_ERROR])
    for frame in _frames_to_restore(book, back, clip_paths or {}):
        save_image(frame, folder, book.header.settings["pictures"])
        progress(frame)
    rewrite_items(
        folder, lambda item: replace(item, dropped=None) if _frame_key(item) in back else item
    )
    return len(back)


def _frames_to_restore(
    items: journal.Journal, frame_keys: Collection[str], clip_paths: dict[str, Path]
) -> Iterator[Frame]:
    for clip in frame_sources.locate_clips([items], clip_paths):
        own = clip.sources[0].clip
        indices = [
            item.frame for item in items if item.video == own and _frame_key(item) in frame_keys
        ]
        if indices:
            yield from (replace(frame, video=own) for frame in reader.frames_at(clip.path, indices))


def _frame_key(item: Item) -> str:
    return f"{item.video}#{item.frame}"


def _drop_reason(item: Item) -> str:
    return str(item.dropped["why"]) if item.dropped else ""
