"""Number the cells of a picture's maps, and find out which cells must find which boxes.

The maps of all scales lie in one table of rows, each map continued by a margin beyond its edges. A
cell is at (x + 0.5, y + 0.5) * 8 pixels of its scale. A box belongs to the scales at which its
longer side is 28 to 80 pixels; there, the cells near its middle must find it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from annotate.training.light.graph import (
    CELL_PX,
    COARSE_MARGIN,
    COARSE_OFFSETS,
    FINE_MARGIN,
    FINE_OFFSETS,
    LEVELS,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
SMALLEST_PX, LARGEST_PX = 28, 80  # longer side of a box, in pixels of its scale
_MIDDLE, _MIDDLE_PX = 0.35, 6  # share of a box's sides from its middle; least pixels of the scale
_SPREAD = 0.18  # share of a box's sides: how fast the score falls off from its middle
_NEAR, _NEAR_PX = 0.6, 12  # the same for cells that are near a box
_NEAR_FACTOR = 3  # by which a box may be smaller or larger than the boxes of a scale, to be near
_MIN_DISTANCE_PX = 0.5  # of a cell to a side of its box


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of all scales of a picture, and where their features are in the tables of rows.

    `level`, `xy` (pixels of the scale), `fine` and `coarse` have an entry for each cell. `fine`
    and `coarse` are the rows of the cell itself; `fine_steps` (levels, 49) and `coarse_steps`
    (levels, 9) lead from there to the rows round it.
    """

    size_wh: tuple[int, int]
    level: Ints
    xy: Floats
    fine: Ints
    coarse: Ints
    fine_steps: Ints
    coarse_steps: Ints
    fine_shapes: tuple[tuple[int, int], ...]
    coarse_shapes: tuple[tuple[int, int], ...]

    @property
    def fine_rows(self) -> int:
        """The number of rows of the fine maps."""
        return sum(height * width for height, width in self.fine_shapes)

    @property
    def coarse_rows(self) -> int:
        """The number of rows of the coarse maps."""
        return sum(height * width for height, width in self.coarse_shapes)


@cache
def make_grid(size_wh: tuple[int, int]) -> Grid:
    """Number the cells of a picture of `size_wh`, multiples of 64 pixels."""
    parts: dict[str, list[Any]] = {name: [] for name in ("level", "xy", "fine", "coarse")}
    steps: dict[str, list[Any]] = {"fine": [], "coarse": []}
    shapes: dict[str, list[tuple[int, int]]] = {"fine": [], "coarse": []}
    first = {"fine": 0, "coarse": 0}
    for level in range(LEVELS):
        width, height = (side // (CELL_PX << level) for side in size_wh)
        y, x = (each.ravel() for each in np.mgrid[:height, :width])
        parts["level"].append(np.full(height * width, level))
        parts["xy"].append((np.stack([x, y], 1) + 0.5) * CELL_PX)
        for name, cells, margin, offsets in (
            ("fine", 1, FINE_MARGIN, FINE_OFFSETS),
            ("coarse", 2, COARSE_MARGIN, COARSE_OFFSETS),
        ):
            shape = (height // cells + 2 * margin, width // cells + 2 * margin)
            rows = first[name] + (y // cells + margin) * shape[1] + x // cells + margin
            parts[name].append(rows)
            steps[name].append([dy * shape[1] + dx for dy, dx in offsets])
            shapes[name].append(shape)
            first[name] += shape[0] * shape[1]
    joined = {name: np.concatenate(each) for name, each in parts.items()}
    return Grid(
        size_wh,
        joined["level"],
        joined["xy"].astype(np.float32),
        joined["fine"],
        joined["coarse"],
        np.array(steps["fine"]),
        np.array(steps["coarse"]),
        tuple(shapes["fine"]),
        tuple(shapes["coarse"]),
    )


class Targets(NamedTuple):
    """What the cells of a picture must find: pairs of a cell and a class, and the box of each.

    `distances` are from the cell to the left, top, right and lower side, in pixels of the scale.
    `centredness` is 1 in the middle of the box and falls off towards its sides.
    `near` are other cells near a box, at its scales: the hardest not to be taken in by.
    """

    cells: Ints  # (n,)
    classes: Ints  # (n,)
    distances: Floats  # (n, 4)
    centredness: Floats  # (n,)
    near: Ints  # (m,)


def assign(grid: Grid, boxes: Floats, class_ids: Ints) -> Targets:
    """Assign the cells of a picture to boxes (n, 4), xyxy in its pixels.

    Of several boxes of a class, a cell has the one whose middle is nearest, by the box's size.
    """
    pixels = np.float32(2.0) ** grid.level
    nearest: dict[tuple[int, int], tuple[float, int]] = {}
    near = np.zeros(len(grid.level), bool)
    for row, (box, class_id) in enumerate(zip(boxes, class_ids, strict=True)):
        middle, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        away = np.abs(grid.xy - middle / pixels[:, None])
        scaled = sides / pixels[:, None]
        inside = (away <= np.maximum(_MIDDLE * scaled, _MIDDLE_PX)).all(1)
        around = (away <= np.maximum(_NEAR * scaled, _NEAR_PX)).all(1)
        longest = scaled.max(1)
        found = inside & _fits(grid, longest, 1)
        near |= around & _fits(grid, longest, _NEAR_FACTOR)
        share = (away / np.maximum(scaled, 3 * CELL_PX)).max(1)
        for cell in np.flatnonzero(found).tolist():
            key = (cell, int(class_id))
            nearest[key] = min(nearest.get(key, (np.inf, -1)), (float(share[cell]), row))
    keys = sorted(nearest)
    cells, classes = np.array(keys, np.int64).reshape(-1, 2).T
    chosen = boxes[[nearest[key][1] for key in keys]].reshape(-1, 4) / pixels[cells][:, None]
    xy = grid.xy[cells]
    distances = np.concatenate([xy - chosen[:, :2], chosen[:, 2:] - xy], axis=1)
    distances = np.maximum(distances, _MIN_DISTANCE_PX).astype(np.float32)
    near[cells] = False
    shares = np.array([nearest[key][0] for key in keys], np.float32)
    centredness = np.exp(-0.5 * (shares / _SPREAD) ** 2)
    return Targets(cells, classes, distances, centredness, np.flatnonzero(near))


def _fits(grid: Grid, longest: Floats, factor: float) -> npt.NDArray[np.bool_]:
    """Return at which cells' scales a box, `longest` there, is small and large enough."""
    large_enough = (longest >= SMALLEST_PX / factor) | (grid.level == 0)
    small_enough = (longest < LARGEST_PX * factor) | (grid.level == LEVELS - 1)
    return np.asarray(large_enough & small_enough)
