"""Draw a map as a poster of frames near their positions, and the paths of clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from annotate.dataset import frame_sources
from annotate.errors import AnnotateError, OutputError
from annotate.footage_map.atlas import Atlas
from annotate.items.records import Frame, Picture
from annotate.video.images import save_image
from annotate.video.reader import FrameSelection
from annotate.viewing.contact_sheet import (
    BACKGROUND,
    Cell,
    cell_width,
    lay_out,
    letterbox,
)

_MAX_PIXELS = 1.2e9  # of a poster: 3.6 GB
_MAX_TILES_ACROSS = 24  # by default
_DOT_COLOUR = (62, 68, 80)
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_JPEG_QUALITY = 92
_PATH_START_COLOUR, _PATH_END_COLOUR = np.array([90, 160, 255]), np.array([255, 120, 80])
_PATH_MARGIN = 8  # pixels
_NEAREST_ROWS = 16  # frames near a tile that are tried at once


@dataclass(frozen=True)
class MapRegion:
    """A square part of the map, with its upper left corner at (x, y); the whole map is 0, 0, 1."""

    x: float = 0.0
    y: float = 0.0
    width: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.x < 1 and 0 <= self.y < 1 and 0 < self.width <= 1):
            given = f"x={self.x:g}, y={self.y:g}, width={self.width:g}"
            raise AnnotateError(f"a region of the map has x, y and width from 0 to 1, got {given}")

    def rows(self, atlas: Atlas) -> npt.NDArray[np.int64]:
        """Return the rows of the map in the region."""
        corner = np.array([self.x, self.y])
        return np.flatnonzero(((atlas.xy >= corner) & (atlas.xy <= corner + self.width)).all(1))


def choose_tiles(
    atlas: Atlas, region: MapRegion, tiles_across: int | None = None
) -> npt.NDArray[np.int64]:
    """Choose the row of the map for each tile, (n, n); -1 for an empty tile.

    The nearest pairs of tile and frame are chosen first, each frame once. `tiles_across` is by
    default as many as the frames fill, up to 24.

    Raises:
        AnnotateError: there is no frame in the region.
    """
    from scipy.spatial import cKDTree

    rows = region.rows(atlas)
    if not len(rows):
        raise AnnotateError(f"no frame lies in {region}; choose another region")
    n = tiles_across or min(int(len(rows) ** 0.5), _MAX_TILES_ACROSS)
    steps = (np.arange(n) + 0.5) / n * region.width
    centres = np.array([(region.x + x, region.y + y) for y in steps for x in steps])
    shown = np.full(n * n, -1, np.int64)
    while len(rows) and (free := np.flatnonzero(shown < 0)).size:
        count = min(_NEAREST_ROWS, len(rows))
        tree = cKDTree(atlas.xy[rows])
        distances, nearest = tree.query(centres[free], k=[*range(1, count + 1)])
        used: set[int] = set()
        for pair in np.argsort(distances, axis=None, kind="stable"):
            tile, row = free[pair // count], int(nearest.flat[pair])
            if shown[tile] < 0 and row not in used:
                shown[tile] = rows[row]
                used.add(row)
        rows = np.delete(rows, sorted(used))
    return shown.reshape(n, n)


def draw_poster(
    atlas: Atlas,
    tile_rows: npt.NDArray[np.int64],
    tile_width: int,
    out: Path,
    progress: Callable[[Frame], object] = lambda _: None,
) -> None:
    """Draw the tiles at full quality, from the frames of the clips.

    Raises:
        OutputError: too large, an unknown image format, or nothing can be written there.
        VideoError: a clip is not there any more.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"{out}: a poster is an image; end its name in {', '.join(_SUFFIXES)}")
    first = next(iter(atlas.clips.values()))
    tile_height = max(round(tile_width * first["height"] / first["width"]), 1)
    rows, columns = tile_rows.shape
    if rows * tile_height * columns * tile_width > _MAX_PIXELS:
        size = f"{columns * tile_width} x {rows * tile_height} pixels"
        raise OutputError(f"{out}: {size} are too many; give fewer or narrower tiles")
    poster = np.empty((rows * tile_height, columns * tile_width, 3), np.uint8)
    poster[:] = BACKGROUND
    cells = {int(row): divmod(n, columns) for n, row in enumerate(tile_rows.flat) if row >= 0}
    for row, frame in read_frames(atlas, sorted(cells)):
        top, left = cells[row][0] * tile_height, cells[row][1] * tile_width
        tile = letterbox(frame.image, (tile_width, tile_height))
        poster[top : top + tile_height, left : left + tile_width] = tile
        progress(frame)
    save_image(poster, out, quality=_JPEG_QUALITY)


def read_frames(atlas: Atlas, rows: Sequence[int]) -> Iterator[tuple[int, Frame]]:
    """Yield rows of the map, each with its frame at full size, clip by clip."""
    row_by_key = {
        (atlas.clip_names[atlas.clip_index[row]], int(atlas.frame_index[row])): row for row in rows
    }
    paths = [Path(source) for source in atlas.sources]
    for opened in frame_sources.open_sources(paths, FrameSelection()):
        videos = set(opened.videos())
        if keys := {key for key in row_by_key if key[0] in videos}:
            for frame in opened.frames_at(keys):
                yield row_by_key[frame.video, frame.index], frame


def draw_path(atlas: Atlas, name: str, width: int) -> Picture:
    """Draw the path of a clip over the map, from blue to red; the dots are all frames."""
    first = next(iter(atlas.clips.values()))
    size = np.array([width, max(round(width * first["height"] / first["width"]), 1)])
    picture = np.empty((size[1], size[0], 3), np.uint8)
    picture[:] = BACKGROUND
    positions = np.rint(_PATH_MARGIN + atlas.xy * (size - 1 - 2 * _PATH_MARGIN)).astype(int)
    for x, y in positions:
        cv2.circle(picture, (int(x), int(y)), 1, _DOT_COLOUR, -1)
    path = positions[atlas.clip_rows(name)].tolist()
    for step, point in enumerate(path):
        share = step / max(len(path) - 1, 1)
        mixed = _PATH_START_COLOUR + (_PATH_END_COLOUR - _PATH_START_COLOUR) * share
        colour = [int(channel) for channel in mixed]
        if step:
            cv2.line(picture, path[step - 1], point, colour, 1, cv2.LINE_AA)
        cv2.circle(picture, point, 2, colour, -1, cv2.LINE_AA)
    return picture


def draw_paths(atlas: Atlas, out: Path) -> None:
    """Draw the paths of all clips on one sheet."""
    width = cell_width(len(atlas.clip_names))
    cells = [
        Cell(draw_path(atlas, name, width), name, f"{len(atlas.clip_rows(name))} frames")
        for name in atlas.clip_names
    ]
    save_image(lay_out(cells), out, quality=_JPEG_QUALITY)
