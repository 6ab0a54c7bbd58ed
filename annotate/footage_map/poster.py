"""Draw a map as a poster of frames near their positions, and the paths of clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from annotate.dataset import frame_sources
from annotate.errors import AnnotateError, OutputError
from annotate.files import atomic_file
from annotate.footage_map.atlas import Atlas
from annotate.items.records import Frame, Picture
from annotate.video.reader import FrameSelection
from annotate.viewing.contact_sheet import Cell, cell_width, lay_out, letterbox

_MAX_PIXELS = 1.2e9  # of a poster: 3.6 GB
_MAX_TILES_ACROSS = 24  # across, at most, where nobody says how many
_BACKGROUND, _DOT_COLOUR = (17, 19, 24), (62, 68, 80)
_ENCODERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
_PATH_START_COLOUR, _PATH_END_COLOUR = (
    np.array([90, 160, 255]),
    np.array([255, 120, 80]),
)  # colours of a path's ends


@dataclass(frozen=True)
class MapRegion:
    """A square part of the map, from its corner (x, y) on; the whole map is 0, 0, 1."""

    x: float = 0.0
    y: float = 0.0
    width: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.x < 1 and 0 <= self.y < 1 and 0 < self.width <= 1):
            given = f"x={self.x:g}, y={self.y:g}, width={self.width:g}"
            raise AnnotateError(f"a window lies in x, y and width of 0 to 1, not {given}")

    def rows(self, atlas: Atlas) -> npt.NDArray[np.int64]:
        """The rows of the map inside it."""
        corner = np.array([self.x, self.y])
        return np.flatnonzero(((atlas.xy >= corner) & (atlas.xy <= corner + self.width)).all(1))


def choose_tiles(
    atlas: Atlas, region: MapRegion, tiles_across: int | None = None
) -> npt.NDArray[np.int64]:
    """(n, n): the row of the map that each tile shows, each once; -1 where none is left.

    The nearest pairs of tile and frame first. Without `tiles` as many as frames fill, up to 24.

    Raises:
        AnnotateError: there is no frame in the window.
    """
    from scipy.spatial import cKDTree

    rows = region.rows(atlas)
    if not len(rows):
        raise AnnotateError(f"no frame lies in the window {region}: give another")
    n = tiles_across or min(int(len(rows) ** 0.5), _MAX_TILES_ACROSS)
    steps = (np.arange(n) + 0.5) / n * region.width
    centres = np.array([(region.x + x, region.y + y) for y in steps for x in steps])
    shown = np.full(n * n, -1, np.int64)
    while len(rows) and (free := np.flatnonzero(shown < 0)).size:
        near = min(16, len(rows))
        apart, which = cKDTree(atlas.xy[rows]).query(centres[free], k=[*range(1, near + 1)])
        used: set[int] = set()
        for place in np.argsort(apart, axis=None, kind="stable"):
            tile, row = free[place // near], int(which.flat[place])
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
    """Draw the tiles from the frames themselves, each sought in its clip.

    Raises:
        OutputError: too large, no such kind of picture, or nothing can be written there.
        VideoError: a clip is not where it was.
    """
    if out.suffix.lower() not in _ENCODERS:
        raise OutputError(f"{out}: a poster is {', '.join(_ENCODERS)}")
    first = next(iter(atlas.clips.values()))
    tile_height = max(round(tile_width * first["height"] / first["width"]), 1)
    rows, columns = tile_rows.shape
    if rows * tile_height * columns * tile_width > _MAX_PIXELS:
        size = f"{columns * tile_width} x {rows * tile_height} pixels"
        raise OutputError(f"{out}: {size} are too many; fewer or narrower tiles")
    paper = np.empty((rows * tile_height, columns * tile_width, 3), np.uint8)
    paper[:] = _BACKGROUND
    places = {
        int(row): divmod(place, columns) for place, row in enumerate(tile_rows.flat) if row >= 0
    }
    for row, frame in read_frames(atlas, sorted(places)):
        down, across = places[row][0] * tile_height, places[row][1] * tile_width
        tile = letterbox(frame.image, (tile_width, tile_height))
        paper[down : down + tile_height, across : across + tile_width] = tile
        progress(frame)
    save_picture(paper, out)


def read_frames(atlas: Atlas, rows: Sequence[int]) -> Iterator[tuple[int, Frame]]:
    """Rows of the map, each with its frame at full size; clip by clip."""
    wanted = {
        (atlas.clip_names[atlas.clip_index[row]], int(atlas.frame_index[row])): row for row in rows
    }
    for source in atlas.sources:
        seen = frame_sources.open_source(Path(source), FrameSelection())
        here = set(seen.videos())
        if mine := {key for key in wanted if key[0] in here}:
            for frame in seen.frames_at(mine):
                yield wanted[frame.video, frame.index], frame


def save_picture(picture: Picture, out: Path) -> None:
    """Write a picture, of the kind that its name says."""
    Image.MAX_IMAGE_PIXELS = None
    with atomic_file(out) as draft:
        Image.fromarray(picture).save(draft, _ENCODERS[out.suffix.lower()], quality=92)


def draw_path(atlas: Atlas, name: str, width: int) -> Picture:
    """The way of a clip over the map, from blue to red; the dots are all other frames."""
    first = next(iter(atlas.clips.values()))
    size = np.array([width, max(round(width * first["height"] / first["width"]), 1)])
    picture = np.empty((size[1], size[0], 3), np.uint8)
    picture[:] = _BACKGROUND
    margin = 8
    places = np.rint(margin + atlas.xy * (size - 1 - 2 * margin)).astype(int)
    for x, y in places:
        cv2.circle(picture, (int(x), int(y)), 1, _DOT_COLOUR, -1)
    way = places[atlas.clip_rows(name)]
    for step in range(len(way)):
        late = step / max(len(way) - 1, 1)
        colour = [
            int(c) for c in _PATH_START_COLOUR + (_PATH_END_COLOUR - _PATH_START_COLOUR) * late
        ]
        here = way[step].tolist()
        if step:
            cv2.line(picture, way[step - 1].tolist(), here, colour, 1, cv2.LINE_AA)
        cv2.circle(picture, here, 2, colour, -1, cv2.LINE_AA)
    return picture


def draw_paths(atlas: Atlas, out: Path) -> None:
    """All clips' paths on one sheet."""
    width = cell_width(len(atlas.clip_names))
    cells = [
        Cell(draw_path(atlas, name, width), name, f"{len(atlas.clip_rows(name))} frames")
        for name in atlas.clip_names
    ]
    save_picture(lay_out(cells), out)
