"""Build a dataset from files of items and their clips; merge datasets.

Objects that several files of items give for one frame are joined, exact duplicates once. Frames
that were looked at and have no objects are kept: they are the negatives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from annotate.dataset import frame_sources
from annotate.dataset.folder import (
    Dataset,
    DatasetWriter,
    Sample,
    create_dataset,
    link_or_copy,
    load_dataset,
)
from annotate.errors import DatasetError, ItemsError
from annotate.items import journal
from annotate.items.records import Header, Picture
from annotate.video import reader

IMAGE_FORMATS = ("png", "jpg")
FrameNumbers = Sequence[int] | Mapping[str, Sequence[int]]
_JPEG_QUALITY = 95


def build_dataset(
    items_paths: Iterable[Path | str],
    out: Path | str,
    *,
    videos: Mapping[str, Path] | None = None,
    every: int = 1,
    rate: Fraction | float | None = None,
    maximum: int | None = None,
    frames: FrameNumbers | None = None,
    classes: Sequence[str] | None = None,
    min_score: float = 0.0,
    image_format: str = "png",
    force: bool = False,
) -> Dataset:
    """Write the dataset `out` from files of items; what several say of one frame is joined.

    Of the frames looked at, every `every`-th of a clip, or the first of each 1 / `rate` seconds, or
    those listed in `frames` (for all clips, or by clip); of these at most `maximum`, spread evenly.
    Objects that score below `least` are left out.
    Frames looked at and empty are kept: they are the negatives. `videos` says where clips are that
    are not where their items say. `classes` pins the order of the ids; else the vocabularies do.

    Raises:
        ItemsError: items of another clip, out of order, or with a mask that does not fit.
        DatasetError: an unknown class, or a listed frame that nobody looked at.
        OutputError: `out` is already there, or nothing can be written there.
    """
    if image_format not in IMAGE_FORMATS:
        raise DatasetError(f"pictures can be {' or '.join(IMAGE_FORMATS)}, not {image_format!r}")
    for name, count in {"every": every, "rate": rate, "maximum": maximum}.items():
        if count is not None and count <= 0:
            raise DatasetError(f"{name} must be above 0, got {count}")
    journals = [_open_journal(path) for path in items_paths]
    found = frame_sources.locate_clips(journals, videos, min_score)
    pinned = frame_sources.collect_classes(journals, classes)
    wanted = _select_frames(found, every, rate, frames, maximum)
    sources = tuple(_source_record(each) for each in journals)
    dataset = Dataset(Path(out), pinned, {clip.name: clip.metadata for clip in found}, sources)
    settings = {"every": every, "rate": rate and str(rate), "maximum": maximum, "frames": frames}
    settings |= {"least": min_score}
    with create_dataset(dataset, _header(dataset, found, settings), force=force) as draft:
        for clip in found:
            _add_clip(draft, clip, wanted[clip.name], image_format)
    return dataset


def _open_journal(path: Path | str) -> journal.Journal:
    if Path(path) == journal.STDIO:
        raise ItemsError("-: a dataset reads its items twice; save them to a file first")
    return journal.read(path)


def _select_frames(
    located_clips: Sequence[frame_sources.LocatedClip],
    every: int,
    rate: Fraction | float | None,
    listed: FrameNumbers | None,
    maximum: int | None,
) -> dict[str, list[int]]:
    """Clip -> the frames to take, in order."""
    seen = {
        clip.name: {item.frame: item.seconds for item in clip.items()} for clip in located_clips
    }
    taken = {}
    for name, times in seen.items():
        taken[name] = (
            list(times)[::every] if rate is None else _select_at_rate(times, Fraction(rate))
        )
    if listed is not None:
        taken = _select_listed(seen, listed)
    if maximum is None:
        return taken
    pairs = [(name, frame) for name, frames in taken.items() for frame in frames]
    spread = np.linspace(0, len(pairs) - 1, min(maximum, len(pairs))).round().astype(int)
    kept = {pairs[place] for place in spread}
    return {name: [f for f in frames if (name, f) in kept] for name, frames in taken.items()}


def _select_at_rate(times: Mapping[int, Fraction], rate: Fraction) -> list[int]:
    first_of: dict[int, int] = {}
    for frame, seconds in times.items():
        first_of.setdefault(int(seconds * rate // 1), frame)
    return list(first_of.values())


def _select_listed(
    frame_times: Mapping[str, Mapping[int, Fraction]], listed: FrameNumbers
) -> dict[str, list[int]]:
    if isinstance(listed, Mapping):
        if strange := [name for name in listed if name not in frame_times]:
            raise DatasetError(f"no clip {strange[0]!r}. There are: {', '.join(frame_times)}")
        by_clip = {name: set(listed.get(name, ())) for name in frame_times}
    else:
        by_clip = {name: set(listed) & times.keys() for name, times in frame_times.items()}
        if missing := set(listed) - set().union(*by_clip.values()):
            raise DatasetError(f"frame {min(missing)} was not looked at: no item speaks of it")
    for name, frames in by_clip.items():
        if missing := frames - frame_times[name].keys():
            raise DatasetError(f"{name}#{min(missing)} was not looked at: no item speaks of it")
    return {name: sorted(frames) for name, frames in by_clip.items()}


def _add_clip(
    draft: DatasetWriter,
    clip: frame_sources.LocatedClip,
    frame_numbers: list[int],
    image_format: str,
) -> None:
    chosen = set(frame_numbers)
    items = (item for item in clip.items() if item.frame in chosen)
    for item, frame in zip(items, reader.frames_at(clip.path, frame_numbers), strict=True):
        if frame.size_wh != (item.width, item.height):
            width, height = frame.size_wh
            raise ItemsError(
                f"{item.video}#{item.frame}: the items say {item.width}x{item.height}, but the "
                f"frame is {width}x{height}; make the items anew"
            )
        name = clip.image_name(item.frame, image_format)
        draft.add(name, item)
        _save_image(frame.image, draft.images / name)


def _save_image(image: Picture, path: Path) -> None:
    import cv2

    flags = [cv2.IMWRITE_PNG_COMPRESSION, 3]
    if path.suffix == ".jpg":  # thin coloured lines do not outlive colour at half the resolution
        full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    path.write_bytes(encoded.tobytes())


def _source_record(items: journal.Journal) -> dict[str, Any]:
    """What the dataset remembers of a file of items."""
    header = items.header
    words = {"vocabulary": header.vocabulary.get("name"), "sha256": header.vocabulary.get("sha256")}
    return {"items": items.path.name, "stage": header.stage, "model": header.model, **words}


def _header(
    dataset: Dataset,
    located_clips: Iterable[frame_sources.LocatedClip],
    settings: Mapping[str, Any],
) -> Header:
    places = {clip.name: {"path": clip.path.as_posix(), **clip.metadata} for clip in located_clips}
    return Header("build", settings, vocabulary={"labels": list(dataset.classes)}, videos=places)


def merge_datasets(paths: Iterable[Path | str], out: Path | str, *, force: bool = False) -> Dataset:
    """Write the datasets at `paths` as one; what two say of one frame of one clip is joined.

    Classes keep the order in which the datasets, one after the other, have them. The split is not
    kept: split the result.

    Raises:
        DatasetError: two clips, or two pictures of different frames, have one name.
    """
    datasets = [load_dataset(path) for path in paths]
    known: dict[str, Mapping[str, Any]] = {}
    for each in datasets:
        for name, facts in each.clips.items():
            if known.setdefault(name, facts) != facts:
                raise DatasetError(f"{each.path}: its clip {name} is another one of that name")
    pinned = dict.fromkeys(label for each in datasets for label in each.classes)
    sources = tuple(source for each in datasets for source in each.sources)
    merged = Dataset(Path(out), tuple(pinned), known, sources)
    videos = {n: v for each in datasets for n, v in journal.read(each.items).header.videos.items()}
    header = Header("merge", vocabulary={"labels": list(pinned)}, videos=videos)
    with create_dataset(merged, header, force=force) as draft:
        for sample, image in _merged_samples(datasets):
            draft.add(sample.image, sample.item)
            link_or_copy(image, draft.images / sample.image)
    return merged


def _merged_samples(datasets: Sequence[Dataset]) -> Iterator[tuple[Sample, Path]]:
    """Each frame once, joined, with a picture of it: clip by clip, in order."""
    said: dict[str, dict[int, list[tuple[Sample, Path]]]] = {}
    for each in datasets:
        for sample in each:
            frames = said.setdefault(sample.item.video, {})
            frames.setdefault(sample.item.frame, []).append((sample, each.images / sample.image))
    for frames in said.values():
        for _, same in sorted(frames.items()):
            first, image = same[0]
            yield replace(first, item=frame_sources.merge_items(one.item for one, _ in same)), image
