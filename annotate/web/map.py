"""Write a footage map as one self-contained HTML page with packed thumbnails.

The page loads nothing from elsewhere: coordinates and frame data are base64 arrays, and the
thumbnails are packed row by row into a few JPEG sprite sheets.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate import embeddings
from annotate.files import atomic_file, refuse_existing
from annotate.footage_map import poster, projection
from annotate.footage_map.atlas import (
    MAP_FILE,
    Atlas,
    ProgressFactory,
    count_frames,
    gather,
    lay_out,
    open_sources,
    to_ticks,
)
from annotate.items.records import Header, Picture
from annotate.viewing.contact_sheet import BACKGROUND, letterbox

MAX_PAGE_SIDE = 2048  # pixels of a page, at most
_MAX_PIXELS = 64e6  # of all thumbnails together
_MIN_THUMBNAIL_WIDTH, _MAX_THUMBNAIL_WIDTH = 32, 160  # a thumbnail, in pixels
_JPEG_QUALITY = 72  # of the JPEG
_POSTER_TILE_WIDTH = 120  # pixels


def thumbnail_size_wh(count: int, picture_size_wh: tuple[int, int]) -> tuple[int, int]:
    """The size of each of `count` thumbnails of pictures of that size."""
    shape = picture_size_wh[0] / picture_size_wh[1]
    width = min(
        max((_MAX_PIXELS / max(count, 1) * shape) ** 0.5, _MIN_THUMBNAIL_WIDTH),
        _MAX_THUMBNAIL_WIDTH,
    )
    return round(width), max(round(width / shape), 1)


class SpriteSheets:
    """Thumbnails of `cell_wh` pixels in rows, page after page; only the last page is held open."""

    def __init__(self, cell_wh: tuple[int, int]) -> None:
        self.cell_wh = cell_wh
        self.columns, self.rows = (max(MAX_PAGE_SIDE // side, 1) for side in cell_wh)
        self._full_pages: list[bytes] = []
        self._pending: list[Picture] = []

    def add(self, picture: Picture) -> None:
        """One more, in the middle of its cell and as large as fits."""
        self._pending.append(letterbox(picture, self.cell_wh))
        if len(self._pending) == self.columns * self.rows:
            self._full_pages.append(self._encode_page())
            self._pending = []

    def pages(self) -> list[bytes]:
        """All pages, as JPEG."""
        return [*self._full_pages, *([self._encode_page()] if self._pending else [])]

    def _encode_page(self) -> bytes:
        width, height = self.cell_wh
        rows = -(-len(self._pending) // self.columns)
        page = np.empty((rows * height, self.columns * width, 3), np.uint8)
        page[:] = BACKGROUND
        for place, picture in enumerate(self._pending):
            row, column = divmod(place, self.columns)
            page[row * height :, column * width :][:height, :width] = picture
        return encode_jpeg(page, _JPEG_QUALITY)


def encode_jpeg(picture: Picture, quality: int) -> bytes:
    """The picture as a JPEG file; the same pixels give the same bytes."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()


PAGE_NAME = "index.html"
_MAX_COORDINATE = 65535  # a place on the plane is kept to so fine a grid


def write_page(atlas: Atlas, sprite_sheets: SpriteSheets, folder: Path, title: str) -> None:
    """Write `index.html`; nothing on it is fetched from anywhere.

    `sprites` are the thumbnails of the atlas's rows, in their order.

    Raises:
        OutputError: nothing can be written there.
    """
    page = Template(Path(__file__).with_name("map.html").read_text(encoding="utf-8"))
    told = json_for_script(_page_data(atlas, sprite_sheets, title))
    with atomic_file(folder / PAGE_NAME) as draft:
        draft.write_text(page.substitute(title=escape_html(title), data=told), encoding="utf-8")


def json_for_script(record: Any) -> str:
    """A record as JSON that cannot end the element it stands in."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def escape_html(text: str) -> str:
    """Text as HTML shows it."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _page_data(atlas: Atlas, sprite_sheets: SpriteSheets, title: str) -> dict[str, Any]:
    rows = np.clip(np.rint(atlas.xy * _MAX_COORDINATE), 0, _MAX_COORDINATE).astype(np.uint16)
    counted, per_second = _clip_ticks(atlas)
    clips = [
        {"name": name, "facts": facts, "ticks_a_second": rate}
        for (name, facts), rate in zip(atlas.clips.items(), per_second, strict=True)
    ]
    header = json.loads(Header("map", atlas.settings).to_json())
    return {
        "title": title,
        "clips": clips,
        "header": header,
        "cell": sprite_sheets.cell_wh,
        "columns": sprite_sheets.columns,
        "rows": sprite_sheets.rows,
        "x": _base64_array(rows[:, 0]),
        "y": _base64_array(rows[:, 1]),
        "clip": _base64_array(atlas.clip_index.astype(np.uint16)),
        "frame": _base64_array(atlas.frame_index.astype(np.uint32)),
        "ticks": _base64_array(np.array(counted, np.float64)),
        "pages": [base64.b64encode(page).decode() for page in sprite_sheets.pages()],
    }


def _clip_ticks(atlas: Atlas) -> tuple[list[int], list[int]]:
    """When each row is, in its clip's ticks, and how many of them a second has, clip by clip."""
    counted = [0] * len(atlas.seconds)
    per_second = []
    for name in atlas.clip_names:
        rows = atlas.clip_rows(name)
        times: Sequence[Fraction] = [atlas.seconds[row] for row in rows]
        mine, rate = to_ticks(times)
        per_second.append(rate)
        for row, tick in zip(rows, mine, strict=True):
            counted[row] = tick
    return counted, per_second


def _base64_array(numbers: npt.NDArray[Any]) -> str:
    """Numbers as little-endian bytes in base64."""
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
    progress: ProgressFactory = lambda *_: nullcontext(lambda: None),
    report: Callable[[str], object] = lambda _: None,
) -> Atlas:
    """Lay out the frames of clips by similarity, and write the map into the folder `output`.

    The folder gets the page `index.html`, `map.json`, `poster.jpg` and the paths of the clips,
    `paths.png`. `clips` are clips, folders of images or datasets; by default, two frames a second
    are mapped. `method` is pacmap, umap, autoencoder or pca; by default pacmap if it is installed,
    else pca. `report` is called with messages: the count of frames, and each damaged clip.

    >>> atlas = build_map(["one.mp4", "two.mp4"], "map", rate=1)  # doctest: +SKIP

    Raises:
        OutputError: `output` holds a map and `force` is not given, or it cannot be written.
        VideoError: a clip cannot be read, two clips have one name, or there are no frames.
        UnknownName, MissingPackage: there is no such method or model, or it is not installed.
    """
    output = Path(output)
    method = projection.choose_method(method)
    refuse_existing(output / MAP_FILE, force)
    sources = open_sources(clips, every=every, rate=rate, keyframes=keyframes)
    embedder = embeddings.load(model, device)
    first = next(iter(sources[0].videos().values()))
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
