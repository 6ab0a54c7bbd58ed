"""Convert masks between boolean arrays, COCO run lengths and polygons without loss.

Run lengths are COCO's compressed, column-major RLE, by pycocotools. Polygons follow the edges of
the pixels, not their centres: a polygon has the area of its mask, and converting a mask to polygons
and back gives the same pixels. (`cv2.findContours` runs through pixel centres and is not exact.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pycocotools.mask

from annotate.errors import ItemsError
from annotate.items.records import Box, Mask, Rle

_coco: Any = pycocotools.mask  # its stubs demand a private type where the code takes any dict
Ring = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Polygon:
    """One part of a mask: its outline, and the outlines of its holes.

    Rings are (N, 2), xy in pixels, not closed: the first point is not repeated. Along a ring of
    `to_polygons`, the mask lies on the right-hand side.
    """

    outer: Ring
    holes: tuple[Ring, ...] = ()

    @property
    def rings(self) -> tuple[Ring, ...]:
        """The outline, then the holes."""
        return (self.outer, *self.holes)


def encode(mask: Mask) -> Rle:
    """Encode a mask, (H, W) bool, as `{"size": [height, width], "counts": str}`."""
    columns = cv2.transpose(np.ascontiguousarray(mask).view(np.uint8))
    return _json_rle(_coco.encode(columns.T))


def encode_columns(columns: Mask, start: int, width: int) -> Rle:
    """Encode a mask of which only the columns from `start`, (H, w) bool, may be set."""
    height = columns.shape[0]
    pixels = np.pad(cv2.transpose(columns.view(np.uint8)).ravel(), 1)
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + start * height
    runs = np.diff(edges, prepend=0, append=height * width).tolist()
    runs = runs if runs[-1] else runs[:-1]  # it ends with pixels that are set
    size = [height, width]
    return _json_rle(_coco.frPyObjects({"size": size, "counts": runs}, height, width))


def decode(rle: Rle) -> Mask:
    """Decode run lengths to a mask, (H, W) bool.

    Raises:
        ItemsError: the run lengths do not fill the size.
    """
    part, (x, y) = crop(rle)
    mask = np.zeros(rle["size"], np.bool_)
    mask[y : y + part.shape[0], x : x + part.shape[1]] = part
    return mask


def area(rle: Rle) -> int:
    """Count the pixels of a mask."""
    return int(_coco.area(dict(rle)))


def box(mask: Rle | Mask) -> Box | None:
    """Find the tightest xyxy of a mask, x2 and y2 exclusive; None if the mask is empty."""
    if not isinstance(mask, np.ndarray):
        x, y, width, height = _coco.toBbox(dict(mask)).tolist()
        return (x, y, x + width, y + height) if width else None
    if not mask.any():
        return None
    x1, y1, x2, y2 = pixel_box(mask)
    return float(x1), float(y1), float(x2), float(y2)


def iou(a: Rle, b: Rle) -> float:
    """Compute the intersection over union, 0..1; it is 1 for two empty masks.

    Raises:
        ItemsError: the masks have different sizes.
    """
    check(a, (b["size"][1], b["size"][0]))
    if not area(a) and not area(b):
        return 1.0
    return float(_coco.iou([dict(a)], [dict(b)], [False])[0, 0])


def check(rle: Rle, size_wh: tuple[int, int]) -> None:
    """Check that a record is the mask of a picture of `size_wh`.

    Raises:
        ItemsError: it has another size, or its run lengths do not fill that size.
    """
    _checked_runs(rle, size_wh)


def _checked_runs(rle: Rle, size_wh: tuple[int, int] | None = None) -> IntArray:
    """Return the run lengths of a mask, checked as `check` does; without a size, of its own."""
    try:
        rows, columns = rle["size"]
        width, height = size_wh or (columns, rows)
        runs = _decode_counts(rle["counts"])
        fills = runs.sum() == width * height and not (runs < 0).any()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise ItemsError(
            'a mask must be {"size": [height, width], "counts": "..."}, COCO\'s compressed RLE'
        ) from None
    if (columns, rows) != (width, height):
        raise ItemsError(f"the mask is {columns}x{rows}, but its picture is {width}x{height}")
    if not fills:
        raise ItemsError(f"the mask's run lengths do not fill its {width}x{height} pixels")
    return runs


def crop(rle: Rle) -> tuple[Mask, tuple[int, int]]:
    """Decode the mask inside its box only, (h, w) bool, with the xy of the box's top left corner.

    The corner is (0, 0) where the mask is empty.

    Raises:
        ItemsError: the run lengths do not fill the size.
    """
    runs = _checked_runs(rle)
    tight = box(rle)
    if tight is None:
        return np.zeros((0, 0), np.bool_), (0, 0)
    x1, y1, x2, y2 = map(int, tight)
    height = rle["size"][0]
    ends = np.clip(np.cumsum(runs), x1 * height, x2 * height)
    lengths = np.diff(ends, prepend=x1 * height)
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(-1, height)
    return np.ascontiguousarray(columns[:, y1:y2].T), (x1, y1)


def to_polygons(mask: Rle | Mask) -> list[Polygon]:
    """Trace every part of a mask, with its holes, along the edges of its pixels.

    Pixels that touch only at a corner are in two parts. `from_polygons` restores the mask exactly.
    """
    if not isinstance(mask, np.ndarray):
        part, start_xy = crop(mask)
    else:
        x1, y1, x2, y2 = map(int, box(mask) or (0, 0, 0, 0))
        part, start_xy = mask[y1:y2, x1:x2], (x1, y1)
    parts: dict[int, list[Ring]] = {}
    for part_id, ring in _trace_rings(part):
        parts.setdefault(part_id, []).append(ring + start_xy)
    return [Polygon(outer, tuple(holes)) for outer, *holes in parts.values()]


def from_polygons(polygons: Iterable[Polygon], size_wh: tuple[int, int]) -> Mask:
    """Fill polygons in a picture of `size_wh`, by COCO's rule: a mask, (H, W) bool."""
    return decode(polygons_to_rle(polygons, size_wh))


def polygons_to_rle(polygons: Iterable[Polygon], size_wh: tuple[int, int]) -> Rle:
    """Fill polygons in a picture of `size_wh`, by COCO's rule: run lengths."""
    width, height = size_wh
    rings = [bridge_rings([polygon]).ravel().tolist() for polygon in polygons]
    solid = [ring for ring in rings if len(ring) >= 6]  # fewer than three points enclose nothing
    if not solid:
        return encode(np.zeros((height, width), np.bool_))
    return _json_rle(_coco.merge(_coco.frPyObjects(solid, height, width)))


def through_pixel_centres(polygons: Iterable[Polygon]) -> list[Polygon]:
    """Move the polygons of `to_polygons` half a pixel inwards, onto the centres of pixels.

    Programs that fill the outline too, as `cv2.fillPoly` does, need polygons in this form.
    """
    return [
        Polygon(_shrink_half_pixel(polygon.outer), tuple(map(_shrink_half_pixel, polygon.holes)))
        for polygon in polygons
    ]


def bridge_rings(polygons: Sequence[Polygon]) -> Ring:
    """Join all parts and holes into one ring, (N, 2), by bridges of zero width to the nearest ring.

    The ring runs along each bridge twice, so by the even-odd rule its inside is that of the
    polygons.
    """
    rings = [ring for polygon in polygons for ring in polygon.rings]
    if not rings:
        return np.zeros((0, 2))
    points = np.concatenate(rings)
    if len(rings) == 1:
        return points
    starts = np.cumsum([0, *map(len, rings)])
    following = np.arange(1, len(points) + 1)
    following[starts[1:] - 1] = starts[:-1]
    before = np.empty_like(following)
    before[following] = np.arange(len(points))
    after, point_ids = following.tolist(), list(range(len(points)))
    for near, far in _minimum_spanning_tree(points, starts):
        # near -> far -> round the ring of far -> far again -> near again -> the old successor
        point_ids += [far, near]
        after += [len(after) + 1, after[near]]
        after[near], after[before[far]] = far, len(after) - 2
        if before[far] == far:  # a ring of one point
            after[far] = len(after) - 2
    path = [0]
    while after[path[-1]] != 0:
        path.append(after[path[-1]])
    ring: Ring = points[np.array(point_ids)[path]]
    return ring


def _minimum_spanning_tree(points: Ring, starts: IntArray) -> Iterable[tuple[int, int]]:
    """Yield the edges of the minimum spanning tree of the rings: (joined point, new point)."""
    from scipy.spatial import cKDTree  # slow to import, and few masks need it

    ring_count = len(starts) - 1
    best = np.full(len(points), np.inf)
    nearest = np.zeros(len(points), np.int64)
    outside = np.ones(ring_count, np.bool_)
    joined = 0
    for _ in range(ring_count - 1):
        outside[joined] = False
        first, last = starts[joined], starts[joined + 1]
        distances, point_ids = cKDTree(points[first:last]).query(points)
        closer = distances < best
        best[closer], nearest[closer] = distances[closer], point_ids[closer] + first
        per_ring = np.where(outside, np.minimum.reduceat(best, starts[:-1]), np.inf)
        joined = int(per_ring.argmin())
        first, last = starts[joined], starts[joined + 1]
        far = int(first + best[first:last].argmin())
        yield int(nearest[far]), far


def _trace_rings(mask: Mask) -> Iterable[tuple[int, Ring]]:
    """Trace the rings of a mask, each with the number of its part; a part's outline comes first.

    In a row of the lattice the corners pair up into horizontal edges, in a column into vertical
    edges; a ring takes them in turn. Where two pixels touch at a corner, the lattice point is two
    corners, one for each pixel.
    """
    if not mask.any():
        return
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.bool_)
    padded[1:-1, 1:-1] = mask
    nw, ne, sw, se = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    y1, x1 = np.nonzero(nw ^ ne ^ sw ^ se)
    y2, x2 = np.nonzero((nw == se) & (ne == sw) & (nw != ne))
    ys, xs = np.concatenate([y1, y2, y2]), np.concatenate([x1, x2, x2])
    nw_to_se = nw[y2, x2]  # the two pixels are north-west and south-east, not the other two
    rightward = np.repeat([False, False, True], [len(y1), len(y2), len(y2)])
    downward = np.concatenate([np.zeros(len(y1), np.bool_), ~nw_to_se, nw_to_se])
    rows, columns = np.lexsort((rightward, xs, ys)), np.lexsort((downward, ys, xs))
    across, along = _edge_partners(rows), _edge_partners(columns)
    lefts, rights = rows[0::2], rows[1::2]
    below = se[ys[lefts], xs[lefts]]  # the mask is below the edge, so the ring goes to the right
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    part_ids = parts[ys[lefts] - ~below, xs[lefts]].tolist()
    points = np.stack([xs, ys], axis=1).astype(np.float64)
    visited = bytearray(len(points))
    for part_id, start in zip(part_ids, np.where(below, lefts, rights).tolist(), strict=True):
        if visited[start]:
            continue
        ring = []
        corner = start
        while not visited[corner]:
            other = across[corner]
            visited[corner] = visited[other] = 1
            ring += [corner, other]
            corner = along[other]
        yield part_id, points[ring]


def _edge_partners(order: IntArray) -> list[int]:
    partners = np.empty_like(order)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return list(partners.tolist())


def _shrink_half_pixel(ring: Ring) -> Ring:
    moved = ring.copy()
    y_shift = np.sign(ring[1::2, 0] - ring[0::2, 0]) / 2  # along an edge to the right: down
    following_y = np.concatenate([ring[2::2, 1], ring[:1, 1]])
    x_shift = -np.sign(following_y - ring[1::2, 1]) / 2
    moved[0::2, 1] += y_shift
    moved[1::2, 1] += y_shift
    moved[1::2, 0] += x_shift
    moved[2::2, 0] += x_shift[:-1]
    moved[0, 0] += x_shift[-1]
    return moved


def _decode_counts(counts: str | bytes) -> IntArray:
    """Decode COCO's compressed counts to lengths of runs.

    A character holds five bits; from the third run on, a number is the difference to the run two
    before it.
    """
    raw = counts.encode("ascii") if isinstance(counts, str) else counts
    characters = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    lasts = np.flatnonzero(characters & 0x20 == 0)
    if not len(lasts) or lasts[-1] != len(characters) - 1:
        raise ValueError("the counts end in the middle of a number")
    starts = np.concatenate([[0], lasts[:-1] + 1])
    digits = np.arange(len(characters)) - np.repeat(starts, lasts - starts + 1)
    runs = np.add.reduceat((characters & 0x1F) << (5 * digits), starts)
    negative = characters[lasts] & 0x10 != 0
    runs[negative] -= np.int64(1) << (5 * (digits[lasts[negative]] + 1))
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _json_rle(rle: dict[str, Any]) -> Rle:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def pixel_box(mask: Mask) -> tuple[int, int, int, int]:
    """Find the tightest xyxy of a mask that is not empty; x2 and y2 are exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
