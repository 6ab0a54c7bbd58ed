"""Build a dataset from files of items and their clips.

Objects that several files of items give for one frame are joined; exact duplicates count once.
Frames that have an item without objects are kept: they are the negatives. The images are named by
clip and frame index, and those of a folder of images by their own file names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from annotate.dataset import frame_sources
from annotate.dataset.folder import Dataset, DatasetWriter, create_dataset, utf8_name
from annotate.errors import DatasetError, ItemsError
from annotate.items import journal
from annotate.items.records import Header, Item, Picture
from annotate.items.sequences import evenly_spaced
from annotate.video import reader
from annotate.video.images import open_images

IMAGE_FORMATS = ("png", "jpg")
FrameNumbers = Sequence[int] | Mapping[str, Sequence[int]]
_JPEG_QUALITY = 95
_FRAME_STEM = re.compile(r"(.+)-\d{6,}")  # dock-000075, the name of a frame of dock.mp4


def build_dataset(
    items_paths: Iterable[Path | str],
    out: Path | str,
    *,
    videos: Mapping[str, Path] | None = None,
    every: int = 1,
    rate: Fraction | float | None = None,
    max_frames: int | None = None,
    frames: FrameNumbers | None = None,
    classes: Sequence[str] | None = None,
    min_score: float = 0.0,
    image_format: str = "png",
    force: bool = False,
) -> Dataset:
    """Write the dataset `out` from files of items, the objects of one frame joined.

    Args:
        items_paths: the files of items; each is read twice.
        out: the folder to write.
        videos: the paths of clips that are not where their items say, by name.
        every: take every N-th annotated frame of a clip.
        rate: take the first annotated frame of each 1 / `rate` seconds instead.
        max_frames: take at most so many frames, spread evenly.
        frames: take these frame numbers instead, of all clips or by clip name.
        classes: the classes in the order of their ids; else the vocabularies of the items decide.
        min_score: leave out objects with a lower score; objects without a score stay.
        image_format: `png` or `jpg`.
        force: replace a dataset that is already there.

    Raises:
        ItemsError: the items are of another clip, out of order, or a mask does not fit.
        DatasetError: a class is unknown, or a frame in `frames` has no item.
        OutputError: `out` exists, or cannot be written.
    """
    if image_format not in IMAGE_FORMATS:
        raise DatasetError(
            f"`image_format` must be {' or '.join(IMAGE_FORMATS)}, got {image_format!r}"
        )
    for name, count in {"every": every, "rate": rate, "max_frames": max_frames}.items():
        if count is not None and count <= 0:
            raise DatasetError(f"`{name}` must be above 0, got {count}")
    if (every != 1) + (rate is not None) + (frames is not None) > 1:
        raise DatasetError("give only one of `every`, `rate` and `frames`")
    journals = [_open_journal(path) for path in items_paths]
    clips = frame_sources.locate_clips(journals, videos, min_score)
    labels = collect_classes(journals, classes)
    selected = _select_frames(clips, every, rate, frames, max_frames)
    sources = tuple(_source_record(each) for each in journals)
    dataset = Dataset(Path(out), labels, {clip.name: clip.metadata for clip in clips}, sources)
    settings = {"every": every, "rate": rate and str(rate), "maximum": max_frames, "frames": frames}
    settings |= {"least": min_score}
    stems = _name_pictures(clips)
    with create_dataset(dataset, _header(dataset, clips, settings), force=force) as writer:
        for clip in clips:
            _add_clip(writer, clip, selected[clip.name], stems, image_format)
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
    max_frames: int | None,
) -> dict[str, list[int]]:
    """Select frames of each clip: its name -> frame numbers, in order."""
    frame_times = {
        clip.name: {item.frame: item.seconds for item in clip.items()} for clip in located_clips
    }
    if listed is not None:
        selected = _select_listed(frame_times, listed)
    elif rate is not None:
        selected = {n: _select_at_rate(t, Fraction(rate)) for n, t in frame_times.items()}
    else:
        selected = {name: list(times)[::every] for name, times in frame_times.items()}
    pairs = [(name, frame) for name, frames in selected.items() for frame in frames]
    kept = {pairs[row] for row in evenly_spaced(len(pairs), max_frames)}
    return {name: [f for f in frames if (name, f) in kept] for name, frames in selected.items()}


def _select_at_rate(times: Mapping[int, Fraction], rate: Fraction) -> list[int]:
    first_frames: dict[int, int] = {}  # number of the interval of 1 / rate seconds -> frame
    for frame, seconds in times.items():
        first_frames.setdefault(int(seconds * rate // 1), frame)
    return list(first_frames.values())


def _select_listed(
    frame_times: Mapping[str, Mapping[int, Fraction]], listed: FrameNumbers
) -> dict[str, list[int]]:
    if isinstance(listed, Mapping):
        if unknown := [name for name in listed if name not in frame_times]:
            clips = ", ".join(frame_times)
            raise DatasetError(f"`frames` names the clip {unknown[0]!r}. There are: {clips}")
        by_clip = {name: set(listed.get(name, ())) for name in frame_times}
    else:
        by_clip = {name: set(listed) & times.keys() for name, times in frame_times.items()}
        if missing := set(listed) - set().union(*by_clip.values()):
            raise DatasetError(f"frame {min(missing)} was not looked at: it has no item")
    for name, frames in by_clip.items():
        if missing := frames - frame_times[name].keys():
            raise DatasetError(f"{name}#{min(missing)} was not looked at: it has no item")
    return {name: sorted(frames) for name, frames in by_clip.items()}


def _name_pictures(
    located_clips: Sequence[frame_sources.LocatedClip],
) -> dict[frame_sources.FrameKey, str]:
    """Name the pictures of all folders of images by their own stems: `cat` for `cat.jpg`.

    Pictures whose stems differ in nothing but case, and one that is called like a frame of a video
    of the dataset, are named by index, as frames are. The selection of frames changes no name.
    """
    stems: dict[frame_sources.FrameKey, str] = {}
    by_index: dict[frame_sources.FrameKey, str] = {}
    folders = [clip for clip in located_clips if clip.path.is_dir()]
    video_stems = {clip.stem.casefold() for clip in located_clips if not clip.path.is_dir()}
    for clip in folders:
        for frame, path in enumerate(open_images(clip.path).paths):
            key, stem = (clip.name, frame), utf8_name(path.stem)
            by_index[key] = clip.frame_stem(frame)
            match = _FRAME_STEM.fullmatch(stem.casefold())
            stems[key] = by_index[key] if match and match[1] in video_stems else stem
    while True:  # a name by index may be the stem of another picture
        counts = Counter(stem.casefold() for stem in stems.values())
        shared = [key for key, stem in stems.items() if counts[stem.casefold()] > 1]
        renamed = stems | {key: by_index[key] for key in shared}
        if renamed == stems:
            return stems
        stems = renamed


def _add_clip(
    writer: DatasetWriter,
    clip: frame_sources.LocatedClip,
    frame_numbers: list[int],
    stems: Mapping[frame_sources.FrameKey, str],
    image_format: str,
) -> None:
    chosen = set(frame_numbers)
    items = (item for item in clip.items() if item.frame in chosen)
    for item, frame in zip(items, reader.frames_at(clip.path, frame_numbers), strict=True):
        if frame.size_wh != (item.width, item.height):
            width, height = frame.size_wh
            raise ItemsError(
                f"{item.video}#{item.frame}: the items say {item.width}x{item.height}, but the "
                f"frame is {width}x{height}; make the items again from this clip"
            )
        stem = stems.get((clip.name, item.frame)) or clip.frame_stem(item.frame)
        name = f"{stem}.{image_format}"
        writer.add(name, item)
        save_image(frame.image, writer.images / name)


def save_image(image: Picture, path: Path) -> None:
    """Save an RGB image as PNG, or as JPEG with colour at full resolution."""
    import cv2

    flags = [cv2.IMWRITE_PNG_COMPRESSION, 3]
    if path.suffix == ".jpg":  # thin coloured lines need colour at full resolution
        full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    path.write_bytes(encoded.tobytes())


def collect_classes(
    journals: Sequence[journal.Journal], pinned: Sequence[str] | None
) -> tuple[str, ...]:
    """Collect the classes in the order of their ids: `pinned`, or those of the vocabularies.

    A file without a vocabulary adds its labels in alphabetical order.

    Raises:
        DatasetError: a label is neither in `pinned` nor in the vocabulary of its file.
    """
    classes = list(pinned or ())
    for each in journals:
        allowed = list(pinned or each.header.vocabulary.get("labels", ()))
        labels = dict.fromkeys(allowed) if allowed else _sorted_labels(each)
        classes += [label for label in labels if label not in classes]
        if allowed:
            _check_labels(each, allowed)
    return tuple(classes)


def _sorted_labels(items: Iterable[Item]) -> list[str]:
    return sorted({obj.label for item in items for obj in item.objects})


def _check_labels(items: journal.Journal, allowed_classes: Sequence[str]) -> None:
    for line, item in enumerate(items, start=2):
        for obj in item.objects:
            if obj.label not in allowed_classes:
                raise DatasetError(
                    f"{items.path}:{line}: unknown class {obj.label!r}. There are: "
                    f"{', '.join(allowed_classes)}; add it to the vocabulary or to `classes`"
                )


def _source_record(items: journal.Journal) -> dict[str, Any]:
    """Describe a file of items for `dataset.toml`."""
    header = items.header
    name, sha256 = header.vocabulary.get("name"), header.vocabulary.get("sha256")
    record = {"items": items.path.name, "stage": header.stage, "model": header.model}
    return record | {"vocabulary": name, "sha256": sha256}


def _header(
    dataset: Dataset,
    located_clips: Iterable[frame_sources.LocatedClip],
    settings: Mapping[str, Any],
) -> Header:
    videos = {clip.name: {"path": clip.path.as_posix(), **clip.metadata} for clip in located_clips}
    return Header("build", settings, vocabulary={"labels": list(dataset.classes)}, videos=videos)
