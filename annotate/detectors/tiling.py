"""Run a detector network on the whole image and on overlapping tiles, then merge by NMS.

Tiles help with small objects. A box that a tile's inner edge may have cut off ranks below every
uncut box, and is dropped if enough of its own area (intersection over smaller area) lies in
another.
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


BoxTable = npt.NDArray[np.float64]  # (n, 6): xyxy in pixels, score, the phrase's number
Tile = tuple[int, int, int, int]  # xyxy, whole pixels
_EDGE_PX = 2.0  # pixels from a window's edge within which a box may be cut off by it


@dataclass(frozen=True)
class Tiling:
    """How to look, and what counts as the same thing.

    `tile` is the side of the squares, in pixels; 0 looks at whole pictures only. Squares overlap
    by the part `overlap` of their side. Of two boxes whose IoU is over `iou` the worse is dropped;
    whether of one class only or of all says `agnostic`. `batch` pictures are looked at together.
    With `done`, the network has seen to that itself within a picture: for each phrase, or for all.
    """

    tile: int
    overlap: float
    nms_iou: float
    batch_size: int
    agnostic: bool = True
    network_does_nms: bool = True

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("tile", self.tile == 0 or self.tile >= 32, "0, or 32 pixels or more"),
            ("overlap", 0 <= self.overlap <= 0.9, "0 to 0.9"),
            ("iou", 0 < self.nms_iou <= 1, "over 0, to 1"),
            ("batch", self.batch_size >= 1, "1 or more"),
        ):
            if not good:
                raise AnnotateError(f"{name} must be {expected}, got {getattr(self, name)}")


def tiles(size_wh: tuple[int, int], tile: int, overlap: float) -> list[Tile]:
    """The whole picture and, where it is larger than a tile, the squares which cover it.

    The last of a row or a column ends with the picture.

    >>> windows((100, 60), 60, 0.25)
    [(0, 0, 100, 60), (0, 0, 60, 60), (40, 0, 100, 60)]
    """
    width, height = size_wh
    whole = (0, 0, width, height)
    if not tile or max(width, height) <= tile:
        return [whole]
    step = max(round(tile * (1 - overlap)), 1)
    across, down = (_starts(length, tile, step) for length in size_wh)
    return [whole] + [
        (x, y, min(x + tile, width), min(y + tile, height)) for y in down for x in across
    ]


def _starts(length: int, tile: int, step: int) -> list[int]:
    last = max(length - tile, 0)
    return [*range(0, last, step), last]


class PhraseDetector(ABC):
    """What detectors that are told phrases do alike; each has its own network."""

    def ready(self) -> None:
        """Refuse to begin without weights of the right kind, or without what reads the phrases.

        Raises:
            WeightsError, MissingPackage, AnnotateError: say what is missing.
        """
        _ = self._network

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Boxes for each frame, best first; `data["phrase"]` says what found them."""
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
    """What `network` finds, a table for each of at most `batch` pictures of one size.

    Boxes are cut off at the picture's edge; best first. `data["phrase"]` says what found them.
    """
    views = [
        (number, window)
        for number, frame in enumerate(frames)
        for window in tiles(frame.size_wh, tiling.tile, tiling.overlap)
    ]
    seen: dict[int, list[tuple[Tile, BoxTable]]] = defaultdict(list)
    for some in _batches(views, tiling.batch_size):
        cut = [_crop(frames[number].image, window) for number, window in some]
        for (number, window), table in zip(some, network(cut), strict=True):
            seen[number].append((window, table))
    return [
        _to_detections(_merge_tiles(seen[number], frame.size_wh, phrases, tiling), phrases)
        for number, frame in enumerate(frames)
    ]


def _batches(views: list[tuple[int, Tile]], batch_size: int) -> Iterator[list[tuple[int, Tile]]]:
    """Pictures of one size together: else what is padded round one would depend on the others."""
    by_size: dict[tuple[int, int], list[tuple[int, Tile]]] = defaultdict(list)
    for number, (x1, y1, x2, y2) in views:
        by_size[x2 - x1, y2 - y1].append((number, (x1, y1, x2, y2)))
    for alike in by_size.values():
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]


def _crop(image: Picture, tile: Tile) -> Picture:
    x1, y1, x2, y2 = tile
    return np.ascontiguousarray(image[y1:y2, x1:x2])


def _merge_tiles(
    parts: list[tuple[Tile, BoxTable]],
    size_wh: tuple[int, int],
    phrases: Sequence[Phrase],
    tiling: Tiling,
) -> BoxTable:
    """The tables of a picture's windows as one, each thing once."""
    placed = [_to_full_image(window, part, size_wh) for window, part in parts]
    table, cut = (np.concatenate(each) for each in zip(*placed, strict=True))
    view = np.repeat(np.arange(len(parts)), [len(part) for _, part in parts])
    there = (table[:, 0] < table[:, 2]) & (table[:, 1] < table[:, 3])
    table, cut, view = table[there], cut[there], view[there]
    classes = np.array([phrases[int(number)].class_id for number in table[:, 5]], int)
    rivals = np.ones((len(table), len(table)), bool)
    if not tiling.agnostic:
        rivals &= classes[:, None] == classes
    if tiling.network_does_nms:
        settled = view[:, None] == view
        rivals &= ~(settled if tiling.agnostic else settled & (table[:, 5:] == table[:, 5]))
    kept: BoxTable = table[_nms(table, cut, rivals, tiling.nms_iou)]
    return kept


def _to_full_image(
    tile: Tile, tile_table: BoxTable, size_wh: tuple[int, int]
) -> tuple[BoxTable, npt.NDArray[np.bool_]]:
    """A window's boxes in the whole picture, and which of them its inner edges may have cut off."""
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
    """Rows to keep, best first: of two rivals that overlap too much the better.

    What an edge has cut off is worse than what is whole, whatever its score; and it goes when that
    much of it lies in another.
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

    told = [phrases[int(number)] for number in table[:, 5]]
    return sv.Detections(
        table[:, :4],
        confidence=table[:, 4],
        class_id=np.array([phrase.class_id for phrase in told], int),
        data={"phrase": np.array([phrase.text for phrase in told], str)},
    )
