"""Run a detector network on the whole image and on overlapping tiles, then merge by NMS.

Tiles help with small objects. A box that a tile's inner edge may have cut off ranks below every
uncut box, and is dropped if enough of its own area (intersection over smaller area) lies in
another box.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from annotate.errors import AnnotateError
from annotate.items.records import Frame, Picture
from annotate.vocabulary import Phrase

if TYPE_CHECKING:
    import supervision as sv


BoxTable = npt.NDArray[np.float64]  # (n, 6): xyxy in pixels, score, index of the phrase
Tile = tuple[int, int, int, int]  # xyxy, whole pixels
_EDGE_PX = 2.0  # a box within this distance of a tile's inner edge may be cut off by it


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut into tiles, and when two boxes are one object.

    `tile` is the side of the square tiles in pixels; 0 uses the whole picture only. Tiles overlap
    by `overlap`, a fraction of their side. Of two boxes with an IoU over `nms_iou`, the one with
    the lower score is dropped: among boxes of all classes if `agnostic`, else of one class.
    `batch_size` pictures go through the network together. With `network_does_nms`, boxes of one
    tile are not compared again (those of one phrase, or all if `agnostic`).
    """

    tile: int
    overlap: float
    nms_iou: float
    batch_size: int
    agnostic: bool = True
    network_does_nms: bool = True

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("tile", self.tile == 0 or self.tile >= 32, "0, or 32 pixels or more"),
            ("overlap", 0 <= self.overlap <= 0.9, "0 to 0.9"),
            ("nms_iou", 0 < self.nms_iou <= 1, "over 0, to 1"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
        ):
            if not valid:
                raise AnnotateError(f"{name} must be {expected}, got {getattr(self, name)}")


def tiles(size_wh: tuple[int, int], tile: int, overlap: float) -> list[Tile]:
    """List the whole picture and, if it is larger than a tile, the tiles that cover it.

    The last tile of a row or a column ends at the edge of the picture.

    Examples:
        >>> tiles((100, 60), 60, 0.25)
        [(0, 0, 100, 60), (0, 0, 60, 60), (40, 0, 100, 60)]
    """
    width, height = size_wh
    whole = (0, 0, width, height)
    if not tile or max(width, height) <= tile:
        return [whole]
    step = max(round(tile * (1 - overlap)), 1)
    lefts, tops = (_starts(length, tile, step) for length in size_wh)
    return [whole] + [
        (x, y, min(x + tile, width), min(y + tile, height)) for y in tops for x in lefts
    ]


def _starts(length: int, tile: int, step: int) -> list[int]:
    last = max(length - tile, 0)
    return [*range(0, last, step), last]


class PhraseDetector(ABC):
    """The common part of detectors that are prompted by phrases; each has its own network."""

    def ready(self) -> None:
        """Check for weights of the right kind, and for the encoder of the phrases.

        Raises:
            WeightsError, MissingPackage, AnnotateError: say what is missing.
        """
        _ = self._network

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes for each frame, best first; `data["phrase"]` is the phrase of each."""
        return detect_tiled(frames, self._phrases, self._tiling, self._predict) if frames else []

    @property
    @abstractmethod
    def _network(self) -> Any: ...

    @property
    @abstractmethod
    def _phrases(self) -> tuple[Phrase, ...]: ...

    @property
    @abstractmethod
    def _tiling(self) -> Tiling: ...

    @abstractmethod
    def _predict(self, images: list[Picture]) -> list[BoxTable]: ...


def detect_tiled(
    frames: Sequence[Frame],
    phrases: Sequence[Phrase],
    tiling: Tiling,
    network: Callable[[list[Picture]], list[BoxTable]],
) -> list[sv.Detections]:
    """Detect with `network` on whole frames and tiles, and merge the boxes; best first.

    `network` gets up to `batch_size` pictures of one size, and returns a table for each. Boxes are
    clipped to the picture. `data["phrase"]` is the phrase that found each box.
    """
    frame_tiles = [
        (row, tile)
        for row, frame in enumerate(frames)
        for tile in tiles(frame.size_wh, tiling.tile, tiling.overlap)
    ]
    tables: dict[int, list[tuple[Tile, BoxTable]]] = defaultdict(list)
    for batch in _batches(frame_tiles, tiling.batch_size):
        crops = [_crop(frames[row].image, tile) for row, tile in batch]
        for (row, tile), table in zip(batch, network(crops), strict=True):
            tables[row].append((tile, table))
    return [
        _to_detections(_merge_tiles(tables[row], frame.size_wh, phrases, tiling), phrases)
        for row, frame in enumerate(frames)
    ]


def _batches(
    frame_tiles: list[tuple[int, Tile]], batch_size: int
) -> Iterator[list[tuple[int, Tile]]]:
    """Batch tiles of one size: with others, the padding of a picture would depend on them."""
    by_size: dict[tuple[int, int], list[tuple[int, Tile]]] = defaultdict(list)
    for row, (x1, y1, x2, y2) in frame_tiles:
        by_size[x2 - x1, y2 - y1].append((row, (x1, y1, x2, y2)))
    for same_size in by_size.values():
        for start in range(0, len(same_size), batch_size):
            yield same_size[start : start + batch_size]


def _crop(image: Picture, tile: Tile) -> Picture:
    x1, y1, x2, y2 = tile
    return np.ascontiguousarray(image[y1:y2, x1:x2])


def _merge_tiles(
    parts: list[tuple[Tile, BoxTable]],
    size_wh: tuple[int, int],
    phrases: Sequence[Phrase],
    tiling: Tiling,
) -> BoxTable:
    """Merge the tables of the tiles of one picture, without duplicates."""
    placed = [_to_full_image(tile, part, size_wh) for tile, part in parts]
    table, cut = (np.concatenate(each) for each in zip(*placed, strict=True))
    tile_of_row = np.repeat(np.arange(len(parts)), [len(part) for _, part in parts])
    has_area = (table[:, 0] < table[:, 2]) & (table[:, 1] < table[:, 3])
    table, cut, tile_of_row = table[has_area], cut[has_area], tile_of_row[has_area]
    classes = np.array([phrases[int(number)].class_id for number in table[:, 5]], int)
    rivals = np.ones((len(table), len(table)), bool)
    if not tiling.agnostic:
        rivals &= classes[:, None] == classes
    if tiling.network_does_nms:
        compared = tile_of_row[:, None] == tile_of_row
        rivals &= ~(compared if tiling.agnostic else compared & (table[:, 5:] == table[:, 5]))
    merged: BoxTable = table[_nms(table, cut, rivals, tiling.nms_iou)]
    return merged


def _to_full_image(
    tile: Tile, tile_table: BoxTable, size_wh: tuple[int, int]
) -> tuple[BoxTable, npt.NDArray[np.bool_]]:
    """Move a tile's boxes to the whole picture; also returns which may be cut off by its edges."""
    x1, y1, x2, y2 = tile
    inner = np.array([x1 > 0, y1 > 0, x2 < size_wh[0], y2 < size_wh[1]])
    sides = np.array([x1, y1, x2, y2], float)
    table = tile_table.astype(np.float64)
    xyxy = table[:, :4] + sides[[0, 1, 0, 1]]
    table[:, :4] = xyxy.clip(sides[[0, 1, 0, 1]], sides[[2, 3, 2, 3]])
    return table, (inner & (np.abs(table[:, :4] - sides) < _EDGE_PX)).any(axis=1)


def _nms(
    table: BoxTable, cut: npt.NDArray[np.bool_], rivals: npt.NDArray[np.bool_], nms_iou: float
) -> npt.NDArray[np.intp]:
    """Return the rows to keep, best first; `rivals[i, j]` says which pairs are compared.

    A box that was cut off ranks below every whole box, whatever its score. It is dropped if more
    than `nms_iou` of the smaller area lies in the other box.
    """
    import supervision as sv

    kept: list[int] = []
    for row in np.lexsort((-table[:, 4], cut)):
        others = [k for k in kept if rivals[k, row]]
        if others and nms_iou < 1:
            measure = sv.OverlapMetric.IOS if cut[row] else sv.OverlapMetric.IOU
            if sv.box_iou_batch(table[others, :4], table[[row], :4], measure).max() > nms_iou:
                continue
        kept.append(int(row))
    rows = np.array(kept, np.intp)
    return rows[np.argsort(-table[rows, 4], kind="stable")]


def _to_detections(table: BoxTable, phrases: Sequence[Phrase]) -> sv.Detections:
    import supervision as sv

    row_phrases = [phrases[int(number)] for number in table[:, 5]]
    return sv.Detections(
        table[:, :4],
        confidence=table[:, 4],
        class_id=np.array([phrase.class_id for phrase in row_phrases], int),
        data={"phrase": np.array([phrase.text for phrase in row_phrases], str)},
    )
