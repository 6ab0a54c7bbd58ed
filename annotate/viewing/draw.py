"""Draw items over their clip as a video, a contact sheet, images or a prompt grid.

The items are read side by side with the frames, so memory does not grow with the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from PIL import Image

from annotate.errors import BrokenVideo, ItemsError, OutputError, PromptError
from annotate.items import journal
from annotate.items.journal import Journal
from annotate.items.records import Frame, Item, Picture
from annotate.prompts import PromptTable
from annotate.video import reader
from annotate.video.writer import VideoWriter
from annotate.viewing import prompt_grid
from annotate.viewing.contact_sheet import Cell, cell_width, full_view, lay_out, select_informative
from annotate.viewing.overlay import draw_item

Progress = Callable[[int], None]
FrameAndItem = tuple[Frame, Item | None]
_PNG_COMPRESSION = 3  # of 9: how hard PNGs are compressed


def overlay(
    items: Journal | Path | str,
    video_path: Path | str,
    out: Path | str,
    *,
    count: int = 24,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Draw a file of items over its clip.

    `out` says what is made: `.mp4` is the whole clip, frames without an item as they are, at the
    clip's average rate; `.png` is a sheet of the `count` most telling frames; a folder is a PNG for
    each frame that has an item. `progress` is told how many pictures are done, after each.

    Raises:
        OutputError: `out` is there already and `force` is not given, or is none of these kinds.
        ItemsError: the items are of another clip, or not in the order of its frames.
        BrokenVideo: the clip breaks off; a video or a folder then has what is before that.
    """
    out = Path(out)
    draw = _draw_function(out, count)
    _check_output(out, force)
    draw(_AnnotatedClip(video_path, items), out, progress or (lambda done: None))


DrawFunction = Callable[["_AnnotatedClip", Path, Progress], None]


class _AnnotatedClip:
    """A clip, its items, and all classes met so far."""

    def __init__(self, path: Path | str, source: Journal | Path | str) -> None:
        self.path, self.info = Path(path), reader.probe(path)
        self._journal = source if isinstance(source, Journal) else journal.read(source)
        self._many_videos = len(self._journal.header.videos) > 1
        self._check_same_clip()
        self.labels = list(self._journal.header.vocabulary.get("labels", ()))

    def _check_same_clip(self) -> None:
        """Refuse items that were made from another clip; a clip may have got another name."""
        known = self._journal.header.videos
        if self._many_videos and self.info.name not in known:
            there = ", ".join(known)
            raise ItemsError(f"{self._journal.path}: no items of {self.info.name}; it has {there}")
        name = self.info.name if self._many_videos else next(iter(known), "")
        made_from = known.get(name, {}).get("fingerprint", self.info.fingerprint)
        if made_from != self.info.fingerprint:
            raise ItemsError(
                f"{self._journal.path}: made from another {name} than {self.path}: give the clip "
                "from which it was made"
            )

    def items(self) -> Iterator[Item]:
        """The items of this clip; a file of items of one clip only is of this one."""
        for item in self._journal:
            if not self._many_videos or item.video == self.info.name:
                yield item

    def draw(self, image: Picture, item: Item) -> Picture:
        """The picture with the item on it; a class that is new gets the next colour."""
        fresh = (thing.label for thing in item.objects if thing.label not in self.labels)
        self.labels += dict.fromkeys(fresh)
        return draw_item(image, item, self.labels)

    def pairs(self) -> Iterator[FrameAndItem]:
        """Every frame, and its item; both are read once, side by side."""
        items = self._items_in_order()
        item = next(items, None)
        count = 0
        for frame in reader.frames(self.path):
            count = frame.index + 1
            mine = item is not None and item.frame == frame.index
            yield frame, item if mine else None
            if mine:
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
                    f"{item.video}#{item.frame}: stands behind frame {last} in {self._journal.path}; "
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


def _draw_folder(clip: _AnnotatedClip, out: Path, progress: Progress) -> None:
    done = 0
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot make this folder: {error.strerror}") from None
    for frame, item in clip.pairs():
        if item is not None:
            name = f"{Path(clip.info.name).stem}-{frame.index:06d}.png"
            _save_png(clip.draw(frame.image, item), out / name)
            progress(done := done + 1)


def _draw_sheet(clip: _AnnotatedClip, out: Path, progress: Progress, *, count: int) -> None:
    chosen = {item.frame: item for item in select_informative(clip.items(), count)}
    if not chosen:
        raise ItemsError(f"{clip.path}: no item to draw; is the file of items of another clip?")
    cells: list[Cell] = []
    for frame in reader.frames_at(clip.path, sorted(chosen)):
        view = full_view(frame.size_wh, cell_width(len(chosen)))
        item = view.crop_item(chosen[frame.index])
        title = f"frame {frame.index} · {float(frame.seconds):.2f} s"
        cells.append(Cell(clip.draw(view.crop_image(frame.image), item), title))
        progress(len(cells))
    _save_png(lay_out(cells), out)


def _draw_function(out: Path, count: int) -> DrawFunction:
    if out.is_dir() or not out.suffix:
        return _draw_folder
    drawers: dict[str, DrawFunction] = {
        ".mp4": _draw_video,
        ".png": partial(_draw_sheet, count=count),
    }
    if out.suffix.lower() not in drawers:
        raise OutputError(
            f"{out}: cannot draw as {out.suffix}: give a video NAME.mp4, a sheet NAME.png, "
            "or a folder NAME/"
        )
    return drawers[out.suffix.lower()]


def _check_output(out: Path, force: bool) -> None:
    there = any(out.iterdir()) if out.is_dir() else out.exists()
    if there and not force:
        raise OutputError(f"{out}: is there already: give another -o, or --force to write over it")


def draw_prompts(
    prompts: PromptTable,
    video_path: Path | str,
    items: Journal | Path | str | None,
    out: Path | str,
    *,
    force: bool = False,
) -> None:
    """Draw what a person said: a cell for each frame and object that was prompted, as a PNG.

    Positive points are filled, negative ones hollow, boxes and masks dashed; with `items`, the mask
    that they gave on that frame is painted. Beneath stand frame, seconds, object and class.

    Raises:
        OutputError: `out` is there already and `force` is not given, or is no PNG.
        PromptError: there are no prompts.
    """
    out, path = Path(out), Path(video_path)
    if out.suffix.lower() != ".png":
        raise OutputError(f"{out}: a grid of prompts is one picture: give it the name NAME.png")
    if not prompts.prompts:
        raise PromptError(f"{path}: no prompts to draw")
    _check_output(out, force)
    frames = sorted({prompt.frame for prompt in prompts.prompts})
    labels = list(dict.fromkeys(prompts.labels.values()))
    known = None
    if items is not None:
        clip = _AnnotatedClip(path, items)
        known = {item.frame: item for item in clip.items() if item.frame in frames}
        labels = list(dict.fromkeys([*clip.labels, *labels]))
    _save_png(
        lay_out(prompt_grid.prompt_cells(prompts, reader.frames_at(path, frames), known, labels)),
        out,
    )


def _until_broken(
    pairs: Iterable[FrameAndItem], errors: list[BrokenVideo]
) -> Iterator[FrameAndItem]:
    """The frames before a clip breaks; the error goes to `broken`, so that they can be kept."""
    try:
        yield from pairs
    except BrokenVideo as error:
        errors.append(error)


def _save_png(picture: Picture, path: Path) -> None:
    with _temporary_path(path) as draft:
        Image.fromarray(picture).save(draft, compress_level=_PNG_COMPRESSION)


@contextmanager
def _temporary_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which becomes `path` when all went well."""
    draft = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
