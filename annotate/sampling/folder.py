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
from annotate.video.images import save_image

ITEMS_FILE, TABLE_FILE = "items.jsonl", "frames.csv"
_JPEG_QUALITY = 95
_MAX_NAMES_IN_ERROR = 20  # names that an error lists


def image_name(video_name: str, frame: int, image_format: str) -> str:
    """Name the image file of a frame: `dock-000075.png`."""
    return f"{Path(video_name).stem}-{frame:06d}.{image_format}"


def save_frame(frame: Frame, folder: Path, image_format: str) -> None:
    """Write the image of a frame into a folder.

    Raises:
        OutputError: nothing can be written there.
    """
    name = image_name(frame.video, frame.index, image_format)
    save_image(frame.image, folder / name, quality=_JPEG_QUALITY)


def read_items(folder: Path) -> journal.Journal:
    """Read the items of a folder that `annotate frames` filled.

    Raises:
        ItemsError: the folder has no such items, or its run did not end.
    """
    path = folder / ITEMS_FILE
    if not path.is_file():
        raise ItemsError(f"{folder}: no {ITEMS_FILE} in it; fill it with `annotate frames`")
    items = journal.read(path)
    if items.header.stage != "frames":
        stage = items.header.stage
        raise ItemsError(f"{path}: written by `annotate {stage}`, not by `annotate frames`")
    if not (folder / TABLE_FILE).is_file():
        raise ItemsError(f"{folder}: not filled to its end; run the same `annotate frames` again")
    return items


def count_by_reason(folder: Path) -> Counter[str]:
    """Count the frames by drop reason; the reason of kept frames is empty."""
    return Counter(_drop_reason(item) for item in read_items(folder))


def summarize_folder(folder: Path) -> str:
    """Summarize the counts in words: `kept 9 of 13 frames; dropped 4: 3 duplicate, 1 blank`."""
    counts = count_by_reason(folder)
    kept = counts.pop("", 0)
    dropped = counts.total()
    reasons = ", ".join(f"{counts[reason]} {reason}" for reason in DROP_REASONS if counts[reason])
    summary = f"kept {kept} of {kept + dropped} frames"
    return f"{summary}; dropped {dropped}: {reasons}" if dropped else summary


def rewrite_items(folder: Path, transform: Callable[[Item], Item]) -> None:
    """Apply `transform` to every item, and rewrite the items and the table of kept frames."""
    items = journal.read(folder / ITEMS_FILE)
    (folder / TABLE_FILE).unlink(missing_ok=True)
    journal.write(folder / ITEMS_FILE, items.header, map(transform, items))
    write_table(folder)


def write_table(folder: Path) -> None:
    """Write the table of the kept frames, unless it exists."""
    if (folder / TABLE_FILE).is_file():
        return
    items = journal.read(folder / ITEMS_FILE)
    with files.atomic_file(folder / TABLE_FILE) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "video", "frame", "seconds"])
        for item in items:
            if item.dropped is None:
                name = image_name(item.video, item.frame, items.header.settings["pictures"])
                table.writerow([name, item.video, item.frame, item.seconds])


def clear_folder(folder: Path) -> None:
    """Remove the images of an earlier run, as named by its items, and its table."""
    if not (folder / ITEMS_FILE).is_file():
        return
    items = journal.read(folder / ITEMS_FILE)
    if items.header.stage == "frames":
        for item in items:
            name = image_name(item.video, item.frame, items.header.settings["pictures"])
            (folder / name).unlink(missing_ok=True)
    (folder / TABLE_FILE).unlink(missing_ok=True)


def restore_frames(
    folder: Path,
    reasons: Collection[str] = (),
    frames: Collection[str] = (),
    videos: dict[str, Path] | None = None,
    progress: Callable[[Frame], None] = lambda frame: None,
) -> int:
    """Restore dropped frames: those with one of `reasons`, and `frames`, named `CLIP#FRAME`.

    Returns the number of restored frames. `videos` maps names of moved clips to their paths.

    Raises:
        UnknownName: an unknown reason, or a frame that was not dropped.
        ItemsError: the folder was not filled by `annotate frames`, or a clip is not found.
    """
    items = read_items(folder)
    for reason in reasons:
        if reason not in DROP_REASONS:
            raise UnknownName("reason", reason, DROP_REASONS)
    dropped = {_frame_key(item): _drop_reason(item) for item in items if item.dropped}
    restored = {key for key, reason in dropped.items() if reason in reasons or key in frames}
    if missing := set(frames) - restored:
        raise UnknownName("dropped frame", missing.pop(), list(dropped)[:_MAX_NAMES_IN_ERROR])
    for frame in _frames_to_restore(items, restored, videos or {}):
        save_frame(frame, folder, items.header.settings["pictures"])
        progress(frame)

    def restore(item: Item) -> Item:
        return replace(item, dropped=None) if _frame_key(item) in restored else item

    rewrite_items(folder, restore)
    return len(restored)


def _frames_to_restore(
    items: journal.Journal, frame_keys: Collection[str], clip_paths: dict[str, Path]
) -> Iterator[Frame]:
    for clip in frame_sources.locate_clips([items], clip_paths):
        name = clip.sources[0].clip  # its name in the items; the file may have been renamed
        indices = [
            item.frame for item in items if item.video == name and _frame_key(item) in frame_keys
        ]
        if indices:
            for frame in reader.frames_at(clip.path, indices):
                yield replace(frame, video=name)


def _frame_key(item: Item) -> str:
    return f"{item.video}#{item.frame}"


def _drop_reason(item: Item) -> str:
    return str(item.dropped["why"]) if item.dropped else ""
