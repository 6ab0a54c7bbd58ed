"""Write a footage map as one self-contained HTML page with packed thumbnails.

The page loads nothing from elsewhere: coordinates and frame data are base64 arrays, and the
thumbnails are packed row by row into a few JPEG sprite sheets.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate import embeddings
from annotate.errors import VideoError
from annotate.files import atomic_file, refuse_existing, refuse_foreign_folder
from annotate.footage_map import poster, projection
from annotate.footage_map.atlas import (
    MAP_FILE,
    Atlas,
    count_frames,
    gather,
    lay_out,
    open_sources,
    to_ticks,
)
from annotate.items.records import Header, Picture
from annotate.progress import ProgressBar, no_progress
from annotate.video.images import encode_jpeg
from annotate.viewing.contact_sheet import BACKGROUND, letterbox

PAGE_NAME = "index.html"
MAX_SHEET_SIDE = 2048  # pixels of a sprite sheet
_MAX_PIXELS = 64e6  # of all thumbnails together
_MIN_THUMBNAIL_WIDTH, _MAX_THUMBNAIL_WIDTH = 32, 160  # pixels
_JPEG_QUALITY = 72
_MAX_COORDINATE = 65535  # coordinates are rounded to a grid of so many steps
_POSTER_TILE_WIDTH = 120  # pixels


def thumbnail_size_wh(count: int, picture_size_wh: tuple[int, int]) -> tuple[int, int]:
    """Choose the size of each of `count` thumbnails of images of that size."""
    aspect = picture_size_wh[0] / picture_size_wh[1]
    width = (_MAX_PIXELS / max(count, 1) * aspect) ** 0.5
    width = min(max(width, _MIN_THUMBNAIL_WIDTH), _MAX_THUMBNAIL_WIDTH)
    return round(width), max(round(width / aspect), 1)


class SpriteSheets:
    """Packs thumbnails of `cell_wh` pixels row by row into sheets; full sheets are kept as JPEG."""

    def __init__(self, cell_wh: tuple[int, int]) -> None:
        self.cell_wh = cell_wh
        self.columns, self.rows = (max(MAX_SHEET_SIDE // side, 1) for side in cell_wh)
        self._full_sheets: list[bytes] = []
        self._pending: list[Picture] = []

    def add(self, picture: Picture) -> None:
        """Add an image, scaled to fit into the next cell."""
        self._pending.append(letterbox(picture, self.cell_wh))
        if len(self._pending) == self.columns * self.rows:
            self._full_sheets.append(self._encode_sheet())
            self._pending = []

    def sheets(self) -> list[bytes]:
        """Return all sheets, as JPEG files."""
        return [*self._full_sheets, *([self._encode_sheet()] if self._pending else [])]

    def _encode_sheet(self) -> bytes:
        width, height = self.cell_wh
        rows = -(-len(self._pending) // self.columns)
        sheet = np.empty((rows * height, self.columns * width, 3), np.uint8)
        sheet[:] = BACKGROUND
        for index, picture in enumerate(self._pending):
            row, column = divmod(index, self.columns)
            sheet[row * height :, column * width :][:height, :width] = picture
        return encode_jpeg(sheet, _JPEG_QUALITY)


def write_page(atlas: Atlas, sprite_sheets: SpriteSheets, folder: Path, title: str) -> None:
    """Write the page `index.html`, which fetches nothing from anywhere.

    `sprite_sheets` hold the thumbnails of the rows of the atlas, in order.

    Raises:
        OutputError: nothing can be written there.
    """
    page = fill_template(title, _page_data(atlas, sprite_sheets, title))
    with atomic_file(folder / PAGE_NAME) as draft:
        draft.write_text(page, encoding="utf-8")


def fill_template(title: str, record: Mapping[str, Any]) -> str:
    """Fill the page's HTML; `record` becomes the JSON that its script reads."""
    template = Template(Path(__file__).with_name("map.html").read_text(encoding="utf-8"))
    # neither a title nor a value in the record can end the element that it is in
    data = json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return template.substitute(title=html.escape(title, quote=False), data=data)


def _page_data(atlas: Atlas, sprite_sheets: SpriteSheets, title: str) -> dict[str, Any]:
    xy = np.clip(np.rint(atlas.xy * _MAX_COORDINATE), 0, _MAX_COORDINATE).astype(np.uint16)
    ticks, ticks_per_second = _clip_ticks(atlas)
    clips = [
        {"name": name, "facts": facts, "ticks_a_second": rate}
        for (name, facts), rate in zip(atlas.clips.items(), ticks_per_second, strict=True)
    ]
    header = json.loads(Header("map", atlas.settings).to_json())
    return {
        "title": title,
        "clips": clips,
        "header": header,
        "cell": sprite_sheets.cell_wh,
        "columns": sprite_sheets.columns,
        "rows": sprite_sheets.rows,
        "x": _base64_array(xy[:, 0]),
        "y": _base64_array(xy[:, 1]),
        "clip": _base64_array(atlas.clip_index.astype(np.uint16)),
        "frame": _base64_array(atlas.frame_index.astype(np.uint32)),
        "ticks": _base64_array(np.array(ticks, np.float64)),
        "pages": [base64.b64encode(sheet).decode() for sheet in sprite_sheets.sheets()],
    }


def _clip_ticks(atlas: Atlas) -> tuple[list[int], list[int]]:
    """Convert the time of each row to ticks of its clip; also the ticks a second, by clip."""
    ticks = [0] * len(atlas.seconds)
    ticks_per_second = []
    for name in atlas.clip_names:
        rows = atlas.clip_rows(name)
        clip_ticks, rate = to_ticks([atlas.seconds[row] for row in rows])
        ticks_per_second.append(rate)
        for row, tick in zip(rows, clip_ticks, strict=True):
            ticks[row] = tick
    return ticks, ticks_per_second


def _base64_array(numbers: npt.NDArray[Any]) -> str:
    """Encode numbers as little-endian bytes in base64."""
    little = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode()


def build_map(
    clips: Sequence[str | Path],
    output: str | Path,
    *,
    every: int | None = None,
    rate: float | None = None,
    keyframes: bool = False,
    model: str = embeddings.DEFAULT_EMBEDDER,
    method: str | None = None,
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
    progress: ProgressBar = no_progress,
    report: Callable[[str], object] = lambda _: None,
) -> Atlas:
    """Lay out the frames of clips by similarity, and write the map into the folder `output`.

    The folder gets the page `index.html`, `map.json`, `poster.jpg` and the paths of the clips,
    `paths.png`. `clips` are clips, folders of images or datasets; by default, two frames a second
    are mapped. `method` is pacmap, umap, autoencoder or pca; by default pacmap if it is installed,
    else pca. `report` is called with messages: the count of frames, and each damaged clip.

    Examples:
        >>> atlas = build_map(["one.mp4", "two.mp4"], "map", rate=1)  # doctest: +SKIP

    Raises:
        OutputError: `output` holds a map and `force` is not given, or it cannot be written.
        VideoError: a clip cannot be read, two clips have the same name, or no frame is selected.
        UnknownName, MissingPackage: the method or model is unknown, or is not installed.
    """
    output = Path(output)
    method = projection.choose_method(method)
    refuse_existing(output / MAP_FILE, force)
    refuse_foreign_folder(output, MAP_FILE, (PAGE_NAME, "paths.png", "poster.jpg"))
    sources = open_sources(clips, every=every, rate=rate, keyframes=keyframes)
    embedder = embeddings.load(model, device)
    first = next(iter(sources[0].videos().values()), None)
    if first is None:
        raise VideoError(f"{sources[0].path}: there are no frames in it to map")
    size_wh = thumbnail_size_wh(count_frames(sources) or 10_000, (first["width"], first["height"]))
    sprite_sheets = SpriteSheets(size_wh)
    gathered = gather(sources, embedder, lambda frame: sprite_sheets.add(frame.image), progress)
    report(f"{len(gathered)} frames; laying them out by {method}")
    settings = {"model": embedder.name, "every": every, "rate": rate, "keyframes": keyframes}
    atlas = lay_out(gathered, sources, method, settings, seed)
    output.mkdir(parents=True, exist_ok=True)
    write_page(atlas, sprite_sheets, output, ", ".join(atlas.clip_names[:3]))
    poster.draw_paths(atlas, output / "paths.png")
    tiles = poster.choose_tiles(atlas, poster.MapRegion())
    poster.draw_poster(atlas, tiles, _POSTER_TILE_WIDTH, output / "poster.jpg")
    atlas.save(output)
    for message in gathered.decode_errors:
        report(message)
    return atlas
