"""Draw items over their clip as a video, a contact sheet, images or a prompt grid.

The items are read side by side with the frames, so memory does not grow with the clip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from annotate.dataset.folder import Dataset, Sample
from annotate.dataset.frame_sources import MergedItems
from annotate.errors import BrokenVideo, ItemsError, OutputError, PromptError, UnknownName
from annotate.files import refuse_existing
from annotate.items import journal
from annotate.items.journal import Journal
from annotate.items.records import Frame, Item, Picture
from annotate.prompts import PromptTable
from annotate.video import reader
from annotate.video.images import read_image, save_image
from annotate.video.writer import VideoWriter
from annotate.viewing import prompt_grid
from annotate.viewing.contact_sheet import (
    Cell,
    cell_width,
    lay_out,
    select_informative,
)
from annotate.viewing.crop_view import full_view
from annotate.viewing.overlay import draw_item

Progress = Callable[[int], None]
FrameAndItem = tuple[Frame, Item | None]
DrawFunction = Callable[["_AnnotatedClip", Path, Progress], None]
_PNG_COMPRESSION = 3  # of 9; quick
_FRAME_NAME = re.compile(r".+\.png")  # of a picture in a folder that was drawn


def overlay(
    items: Journal | MergedItems | Path | str,
    video_path: Path | str,
    out: Path | str,
    *,
    count: int = 24,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Draw a file of items over its clip.

    The suffix of `out` selects the kind of output: `.mp4` is the whole clip at its average rate,
    with frames without an item left as they are; `.png` is a sheet of the `count` most informative
    frames; a folder gets a PNG for each frame that has an item. `progress` is called after each
    image with the number of images so far.

    Raises:
        OutputError: `out` exists already without `force`, or is of another kind.
        ItemsError: the items are of another clip, or not in order of frames.
        BrokenVideo: the clip breaks off; a video or a folder then has the frames before.
    """
    out = Path(out)
    draw = _draw_function(out, count)
    _check_output(out, force)
    draw(_AnnotatedClip(video_path, items), out, progress or (lambda done: None))


class _AnnotatedClip:
    """A clip, its items, and all classes so far, which give the colours."""

    def __init__(self, path: Path | str, source: Journal | MergedItems | Path | str) -> None:
        self.path, self.info = Path(path), reader.probe(path)
        self._journal = journal.read(source) if isinstance(source, Path | str) else source
        self._many_videos = len(self._journal.header.videos) > 1
        self._check_same_clip()
        self.labels = list(self._journal.header.vocabulary.get("labels", ()))

    def _check_same_clip(self) -> None:
        """Refuse items that were made from another clip; the clip may have been renamed."""
        videos = self._journal.header.videos
        if self._many_videos and self.info.name not in videos:
            names = ", ".join(videos)
            raise ItemsError(f"{self._journal.path}: no items of {self.info.name}; it has {names}")
        name = self.info.name if self._many_videos else next(iter(videos), "")
        made_from = videos.get(name, {}).get("fingerprint", self.info.fingerprint)
        if made_from != self.info.fingerprint:
            raise ItemsError(
                f"{self._journal.path}: made from another {name} than {self.path}: give the clip "
                "from which it was made"
            )

    def items(self) -> Iterator[Item]:
        """Iterate over the items of this clip; all items if the file has only one clip."""
        for item in self._journal:
            if not self._many_videos or item.video == self.info.name:
                yield item

    def draw(self, image: Picture, item: Item) -> Picture:
        """Draw an item on an image; a new class gets the next colour."""
        new = (obj.label for obj in item.objects if obj.label not in self.labels)
        self.labels += dict.fromkeys(new)
        return draw_item(image, item, self.labels)

    def pairs(self) -> Iterator[FrameAndItem]:
        """Iterate over all frames, each with its item or None; both are read once, in parallel."""
        items = self._items_in_order()
        item = next(items, None)
        count = 0
        for frame in reader.frames(self.path):
            count = frame.index + 1
            matches = item is not None and item.frame == frame.index
            yield frame, item if matches else None
            if matches:
                item = next(items, None)
        if item is not None:
            raise ItemsError(
                f"{item.video}#{item.frame}: {self.path} has frames 0 to {count - 1} only: "
                "are the items of another clip?"
            )

    def _items_in_order(self) -> Iterator[Item]:
        last = -1
        for item in self.items():
            if item.frame <= last:
                raise ItemsError(
                    f"{item.video}#{item.frame}: comes after frame {last} in {self._journal.path}; "
                    "sort the items by frame, one item a frame"
                )
            last = item.frame
            yield item


def _draw_video(clip: _AnnotatedClip, out: Path, progress: Progress) -> None:
    broken: list[BrokenVideo] = []
    size_wh = (clip.info.width, clip.info.height)
    with VideoWriter(out, clip.info.rate, size_wh) as writer:
        for done, (frame, item) in enumerate(_until_broken(clip.pairs(), broken), start=1):
            writer.write(frame.image if item is None else clip.draw(frame.image, item))
            progress(done)
    for error in broken:
        raise error


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot make this folder: {error.strerror}") from None


def _draw_folder(clip: _AnnotatedClip, out: Path, progress: Progress) -> None:
    done = 0
    _make_folder(out)
    for frame, item in clip.pairs():
        if item is not None:
            name = f"{Path(clip.info.name).stem}-{frame.index:06d}.png"
            picture = clip.draw(frame.image, item)
            save_image(picture, out / name, compress_level=_PNG_COMPRESSION)
            progress(done := done + 1)


def _draw_sheet(clip: _AnnotatedClip, out: Path, progress: Progress, *, count: int) -> None:
    selected = {item.frame: item for item in select_informative(clip.items(), count)}
    if not selected:
        raise ItemsError(f"{clip.path}: no item to draw; is the file of items of another clip?")
    cells: list[Cell] = []
    for frame in reader.frames_at(clip.path, sorted(selected)):
        view = full_view(frame.size_wh, cell_width(len(selected)))
        item = view.crop_item(selected[frame.index])
        title = f"frame {frame.index} · {float(frame.seconds):.2f} s"
        cells.append(Cell(clip.draw(view.crop_image(frame.image), item), title))
        progress(len(cells))
    save_image(lay_out(cells), out, compress_level=_PNG_COMPRESSION)


def _draw_function(out: Path, count: int) -> DrawFunction:
    if out.is_dir() or not out.suffix:
        return _draw_folder
    drawers: dict[str, DrawFunction] = {
        ".mp4": _draw_video,
        ".png": partial(_draw_sheet, count=count),
    }
    if out.suffix.lower() not in drawers:
        raise OutputError(
            f"{out}: cannot draw as {out.suffix}; give a video NAME.mp4, a sheet NAME.png, "
            "or a folder NAME/"
        )
    return drawers[out.suffix.lower()]


def _check_output(out: Path, force: bool) -> None:
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    foreign = [name for name in names if not _FRAME_NAME.fullmatch(name)]
    if foreign:
        raise OutputError(
            f"{out}: the folder holds more than drawn frames, such as {min(foreign)}: "
            "give another output path"
        )
    if names or not out.is_dir():
        refuse_existing(out, force)


def draw_prompts(
    prompts: PromptTable,
    video_path: Path | str,
    items: Journal | MergedItems | Path | str | None,
    out: Path | str,
    *,
    force: bool = False,
) -> None:
    """Draw prompts as a PNG: a cell for each frame and object with a prompt.

    Positive points are discs, negative points rings, boxes and masks dashed lines. With `items`,
    the resulting masks on these frames are drawn too. Below each cell are the frame, the seconds,
    the object and its class.

    Raises:
        OutputError: `out` exists already without `force`, or is no PNG.
        PromptError: there are no prompts.
    """
    out, path = Path(out), Path(video_path)
    if out.suffix.lower() != ".png":
        raise OutputError(f"{out}: a grid of prompts is one image: give it the name NAME.png")
    if not prompts.prompts:
        raise PromptError(f"{path}: no prompts to draw")
    _check_output(out, force)
    frames = sorted({prompt.frame for prompt in prompts.prompts})
    labels = list(dict.fromkeys(prompts.labels.values()))
    by_frame = None
    if items is not None:
        clip = _AnnotatedClip(path, items)
        by_frame = {item.frame: item for item in clip.items() if item.frame in frames}
        labels = list(dict.fromkeys([*clip.labels, *labels]))
    cells = prompt_grid.prompt_cells(prompts, reader.frames_at(path, frames), by_frame, labels)
    save_image(lay_out(cells), out, compress_level=_PNG_COMPRESSION)


def overlay_dataset(
    dataset: Dataset,
    out: Path | str,
    *,
    clip: str | None = None,
    min_score: float = 0.0,
    count: int = 24,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Draw the objects of a dataset over its images, of all clips or of `clip`.

    The suffix of `out` selects the kind of output: `.png` is a sheet of the `count` most
    informative images; a folder gets a PNG for each image. Objects with a score below `min_score`
    are left out.

    Raises:
        OutputError: `out` exists already without `force`, or is of another kind.
        UnknownName: the dataset has no such clip.
        ItemsError: it has no image.
    """
    out, report_done = Path(out), progress or (lambda done: None)
    is_folder = out.is_dir() or not out.suffix
    if not is_folder and out.suffix.lower() != ".png":
        raise OutputError(
            f"{out}: a dataset is drawn as a sheet NAME.png or into a folder NAME/; for a video, "
            "draw the items of its clip"
        )
    _check_output(out, force)
    samples = [sample for sample in dataset if clip in (None, sample.item.video)]
    if not samples and clip is not None:
        raise UnknownName("clip", clip, {sample.item.video for sample in dataset})
    if not samples:
        raise ItemsError(f"{dataset.path}: no image to draw")
    samples = [replace(s, item=_with_min_score(s.item, min_score)) for s in samples]
    if is_folder:
        _draw_dataset_folder(dataset, samples, out, report_done)
    else:
        _draw_dataset_sheet(dataset, samples, out, report_done, count)


def _draw_dataset_folder(
    dataset: Dataset, samples: Sequence[Sample], out: Path, progress: Progress
) -> None:
    _make_folder(out)
    for done, sample in enumerate(samples, start=1):
        image = read_image(dataset.images / sample.image)
        picture = draw_item(image, sample.item, dataset.classes)
        target = out / f"{Path(sample.image).stem}.png"
        save_image(picture, target, compress_level=_PNG_COMPRESSION)
        progress(done)


def _draw_dataset_sheet(
    dataset: Dataset, samples: Sequence[Sample], out: Path, progress: Progress, count: int
) -> None:
    images = {(sample.item.video, sample.item.frame): sample.image for sample in samples}
    selected = select_informative((sample.item for sample in samples), count)
    cells: list[Cell] = []
    for item in sorted(selected, key=lambda each: (each.video, each.frame)):
        image = images[item.video, item.frame]
        view = full_view((item.width, item.height), cell_width(len(selected)))
        cropped = view.crop_image(read_image(dataset.images / image))
        cells.append(Cell(draw_item(cropped, view.crop_item(item), dataset.classes), image))
        progress(len(cells))
    save_image(lay_out(cells), out, compress_level=_PNG_COMPRESSION)


def _with_min_score(item: Item, min_score: float) -> Item:
    kept = (o for o in item.objects if o.score is None or o.score >= min_score)
    return replace(item, objects=tuple(kept))


def _until_broken(
    pairs: Iterable[FrameAndItem], errors: list[BrokenVideo]
) -> Iterator[FrameAndItem]:
    """Iterate until the clip breaks; the error goes to `errors`, so that the output is kept."""
    try:
        yield from pairs
    except BrokenVideo as error:
        errors.append(error)
