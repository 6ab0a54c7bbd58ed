"""Compute the features of training pictures once, and keep them in files.

Each picture is there as it is, and in changed copies: mirrored, larger or smaller, brighter or
darker. The features are float16 in two memory-mapped files in the folder of the training; another
run of the same training reads them, and its end removes them. They need the disk, not the memory:
1 MB for a picture of 640 x 384 pixels. What a copy looks like depends on the seed and its number.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.detectors.trained import fit_size, run_session, start_session
from annotate.errors import OutputError
from annotate.files import atomic_file
from annotate.items.records import Picture
from annotate.progress import counted
from annotate.training.light.graph import (
    COARSE_CHANNELS,
    COARSE_MARGIN,
    COLOURS,
    FINE_CHANNELS,
    FINE_MARGIN,
    LEVELS,
    feature_graph,
)
from annotate.training.light.grid import Floats, Grid, Ints, Targets, assign, make_grid
from annotate.training.trainer import TrainingFrame, TrainingPlan
from annotate.video.images import read_image

FINE_KEPT, COARSE_KEPT = 48, 64  # channels of the maps after they are reduced
_SAMPLE_FRAMES = 64  # from which the reduction is computed
_SMALLEST_SCALE, _LARGEST_SCALE = 0.65, 1.5  # of a changed copy
_MIN_VISIBLE = 0.3  # of a box's area, that the cut of a copy must leave
_RIDGE = 1e-3  # of the mean variance

Tensors = dict[str, Floats]


@dataclass(frozen=True)
class Copy:
    """A picture to train on: `picture` of `size_wh`, with boxes (n, 4) in its pixels."""

    picture: Picture
    boxes: Floats
    class_ids: Ints

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height, multiples of 64."""
        height, width = self.picture.shape[:2]
        return width, height


def make_copy(
    frame: TrainingFrame,
    classes: Sequence[str],
    image_size: int,
    random: np.random.Generator | None,
) -> Copy:
    """Read a frame's picture in the size of the training; with `random`, a changed copy."""
    picture: Picture = read_image(frame.image)
    boxes: Floats = np.array([obj.box for obj in frame.item.objects], np.float32).reshape(-1, 4)
    class_ids = np.array([classes.index(obj.label) for obj in frame.item.objects], np.int64)
    scale = 1.0
    if random is not None:
        scale = float(np.exp(random.uniform(np.log(_SMALLEST_SCALE), np.log(_LARGEST_SCALE))))
        if scale > 1:
            picture, boxes, class_ids = _cut(picture, boxes, class_ids, scale, random)
    height, width = picture.shape[:2]
    size_wh = fit_size((width, height), max(round(image_size * min(scale, 1)), 64))
    factor = np.array([size_wh[0] / picture.shape[1], size_wh[1] / picture.shape[0]], np.float32)
    small = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA if factor.max() < 1 else 1)
    boxes = boxes * np.tile(factor, 2)
    if random is not None:
        small = _recolour(small, random)
        if random.random() < 0.5:
            small = small[:, ::-1]
            boxes = np.stack([size_wh[0] - boxes[:, 2], boxes[:, 1], size_wh[0] - boxes[:, 0],
                              boxes[:, 3]], axis=1)  # fmt: skip
    return Copy(np.ascontiguousarray(small), boxes.astype(np.float32), class_ids)


def _cut(
    picture: Picture, boxes: Floats, class_ids: Ints, scale: float, random: np.random.Generator
) -> tuple[Picture, Floats, Ints]:
    """Cut a window of 1 / scale of the sides out of a picture, where it pleases."""
    height, width = picture.shape[:2]
    wide, high = max(int(width / scale), 1), max(int(height / scale), 1)
    left, top = (int(random.integers(0, each + 1)) for each in (width - wide, height - high))
    moved = boxes - np.array([left, top] * 2, np.float32)
    clipped = np.clip(moved, 0, np.array([wide, high] * 2, np.float32))
    before, after = (np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (moved, clipped))
    kept = after > _MIN_VISIBLE * np.maximum(before, 1)
    return picture[top : top + high, left : left + wide], clipped[kept], class_ids[kept]


def _recolour(picture: Picture, random: np.random.Generator) -> Picture:
    gain, saturation = random.uniform(0.65, 1.4), random.uniform(0.75, 1.25)
    tint = random.uniform(0.92, 1.08, 3)
    pixels = picture.astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    changed = (grey + (pixels - grey) * saturation) * (gain * tint).astype(np.float32)
    limited: Picture = np.clip(changed, 0, 255).astype(np.uint8)
    return limited


def fit_reduction(frames: Sequence[TrainingFrame], image_size: int, threads: int) -> Tensors:
    """Compute the linear maps that reduce the features: principal components of some frames.

    The colours are kept as they are. All are scaled to unit variance.
    """
    session = start_session(feature_graph(), threads)
    chosen = np.unique(np.linspace(0, len(frames) - 1, _SAMPLE_FRAMES).round().astype(int))
    sums = {
        "fine": np.zeros((FINE_CHANNELS + 1,) * 2),
        "coarse": np.zeros((COARSE_CHANNELS + 1,) * 2),
    }
    for index in chosen:
        copy = make_copy(frames[index], _labels(frames[index]), image_size, None)
        maps = run_session(session, {"image": copy.picture[None]})
        for name, total in sums.items():
            for level in range(LEVELS):
                rows = maps[f"{name}{level}"][0].reshape(len(total) - 1, -1).astype(np.float64)
                rows = np.concatenate([rows, np.ones((1, rows.shape[1]))])
                total += rows @ rows.T
    tensors: Tensors = {}
    for name, first, kept in (("fine", COLOURS, FINE_KEPT), ("coarse", 0, COARSE_KEPT)):
        tensors |= _principal_components(name, sums[name], first, kept)
    return tensors


def _labels(frame: TrainingFrame) -> list[str]:
    return [obj.label for obj in frame.item.objects]


def _principal_components(name: str, sums: Any, first: int, kept: int) -> Tensors:
    """Keep `first` channels and the strongest components of the others, `kept` in all."""
    mean = sums[:-1, -1] / sums[-1, -1]
    covariance = sums[:-1, :-1] / sums[-1, -1] - np.outer(mean, mean)
    covariance += np.eye(len(mean)) * _RIDGE * np.trace(covariance[first:, first:]) / len(mean)
    matrix = np.zeros((len(mean), kept))
    matrix[:first, :first] = np.diag(np.diag(covariance)[:first] ** -0.5)
    values, vectors = np.linalg.eigh(covariance[first:, first:])
    strongest = np.argsort(-values)[: kept - first]
    signs = np.sign(vectors[np.abs(vectors).argmax(0), range(len(values))])[strongest]
    matrix[first:, first:] = vectors[:, strongest] * signs * values[strongest] ** -0.5
    return {
        f"{name}_reduce": matrix.astype(np.float32),
        f"{name}_shift": (-mean @ matrix).astype(np.float32),
    }


@dataclass(frozen=True)
class FeatureRows:
    """The features of one copy: rows of the fine and the coarse maps, float16."""

    grid: Grid
    fine: npt.NDArray[np.float16]  # (fine rows, FINE_KEPT)
    coarse: npt.NDArray[np.float16]  # (coarse rows, COARSE_KEPT)
    targets: Targets

    def at(self, cells: Ints) -> tuple[Floats, Floats]:
        """Read what the head sees at cells: (n, 49 * FINE_KEPT) and (n, 9 * COARSE_KEPT)."""
        grid, level = self.grid, self.grid.level[cells]
        fine = self.fine[grid.fine[cells][:, None] + grid.fine_steps[level]]
        coarse = self.coarse[grid.coarse[cells][:, None] + grid.coarse_steps[level]]
        count = len(cells)
        return (
            fine.reshape(count, -1).astype(np.float32),
            coarse.reshape(count, -1).astype(np.float32),
        )

    def maps(self) -> dict[str, Floats]:
        """Return the maps of all scales without their margins, as the head's graph takes them."""
        maps: dict[str, Floats] = {}
        for name, rows, shapes, margin in (
            ("fine", self.fine, self.grid.fine_shapes, FINE_MARGIN),
            ("coarse", self.coarse, self.grid.coarse_shapes, COARSE_MARGIN),
        ):
            start = 0
            for level, (height, width) in enumerate(shapes):
                block = rows[start : start + height * width].reshape(height, width, -1)
                inner = block[margin : height - margin, margin : width - margin]
                maps[f"{name}{level}"] = inner.transpose(2, 0, 1)[None].astype(np.float32)
                start += height * width
        return maps


class FeatureFile:
    """The features of copies of frames, with the targets of each, in files of fine and coarse rows.

    `rows` are the numbers of rows in the two files. An entry is a copy: its grid, its targets, and
    its first row in each file.
    """

    def __init__(
        self,
        paths: tuple[Path, Path],
        rows: tuple[int, int],
        entries: Sequence[tuple[Grid, Targets, tuple[int, int]]],
    ) -> None:
        self._entries = entries
        shapes = (rows[0], FINE_KEPT), (rows[1], COARSE_KEPT)
        # views as plain arrays: the indexing of a memmap is slow
        self._fine, self._coarse = (
            np.asarray(np.memmap(path, np.float16, "r", 0, shape) if shape[0] else np.zeros(shape))
            for path, shape in zip(paths, shapes, strict=True)
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> FeatureRows:
        grid, targets, (fine, coarse) = self._entries[index]
        return FeatureRows(
            grid,
            self._fine[fine : fine + grid.fine_rows],
            self._coarse[coarse : coarse + grid.coarse_rows],
            targets,
        )


def cached_features(
    folder: Path,
    name: str,
    frames: Sequence[TrainingFrame],
    copies: int,
    reduction: Tensors,
    plan: TrainingPlan,
) -> FeatureFile:
    """Compute the features of all frames, or read those of an earlier run from the folder.

    The first copy of each frame is as it is, the others are changed. The table of boxes is written
    last: without it the features are not complete.
    """
    table_path = folder / f"{name}.boxes.npz"
    if not table_path.exists():
        _write_features(folder, name, frames, copies, reduction, plan)
    with np.load(table_path) as table:
        sizes, counts = table["sizes"], table["counts"]
        boxes, class_ids = table["boxes"], table["classes"]
    ends = np.cumsum(counts)
    entries, fine, coarse = [], 0, 0
    for size, start, end in zip(sizes.tolist(), ends - counts, ends, strict=True):
        grid = make_grid(tuple(size))
        targets = assign(grid, boxes[start:end], class_ids[start:end])
        entries.append((grid, targets, (fine, coarse)))
        fine, coarse = fine + grid.fine_rows, coarse + grid.coarse_rows
    return FeatureFile(_feature_paths(folder, name), (fine, coarse), entries)


def _feature_paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.fine", folder / f"{name}.coarse"


def check_disk(folder: Path, plan: TrainingPlan, copies: int) -> None:
    """Check that the features that are still to be computed fit on the disk of the folder.

    Raises:
        OutputError: they do not; says how much they need.
    """
    needed, free, count = 0, shutil.disk_usage(folder).free, 0
    for name, frames, each in (("train", plan.train, copies), ("val", plan.val, 1)):
        if not (folder / f"{name}.boxes.npz").exists():
            count += each * len(frames)
            sizes = Counter((frame.item.width, frame.item.height) for frame in frames)
            needed += each * sum(n * _copy_bytes(s, plan.image_size) for s, n in sizes.items())
            free += sum(path.stat().st_size for path in folder.glob(f"{name}.*"))  # written again
    if needed > free:
        raise OutputError(
            f"{folder}: the features of {counted(count, 'picture')} need up to {needed / 1e9:.1f} "
            f"GB there, and {free / 1e9:.1f} GB are free; take fewer `copies`, a smaller "
            "`image_size`, fewer frames, or another disk"
        )


def _copy_bytes(size_wh: tuple[int, int], image_size: int) -> int:
    """Compute the size of the features of a picture; a changed copy has as many or fewer."""
    grid = make_grid(fit_size(size_wh, image_size))
    return 2 * (FINE_KEPT * grid.fine_rows + COARSE_KEPT * grid.coarse_rows)


def remove_features(folder: Path) -> None:
    """Remove the features from the folder of a training that is done."""
    for name in ("train", "val"):
        for suffix in ("boxes.npz", "fine", "coarse"):  # without its table a file is not read
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)


@contextmanager
def _removed_on_failure(paths: Sequence[Path]) -> Iterator[None]:
    """Remove files that are begun while the context lasts, and are of no use without an end."""
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def _write_features(
    folder: Path,
    name: str,
    frames: Sequence[TrainingFrame],
    copies: int,
    reduction: Tensors,
    plan: TrainingPlan,
) -> None:
    session = start_session(feature_graph(reduction), plan.threads)
    paths = _feature_paths(folder, name)
    sizes, boxes, class_ids = [], [], []
    with _removed_on_failure(paths):
        with paths[0].open("wb") as fine, paths[1].open("wb") as coarse:
            for number in range(len(frames) * copies):
                index, changed = divmod(number, copies)
                random = np.random.default_rng((plan.seed, index, changed)) if changed else None
                copy = make_copy(frames[index], plan.classes, plan.image_size, random)
                write_maps(session, copy.picture, fine, coarse)
                sizes.append(copy.size_wh)
                boxes.append(copy.boxes)
                class_ids.append(copy.class_ids)
        with atomic_file(folder / f"{name}.boxes.npz") as draft:
            np.savez(
                draft,
                sizes=np.array(sizes),
                counts=np.array([len(each) for each in boxes]),
                boxes=np.concatenate(boxes),
                classes=np.concatenate(class_ids),
            )


def write_maps(session: Any, picture: Picture, fine: IO[bytes], coarse: IO[bytes]) -> None:
    """Compute the maps of a picture, and append their rows of float16 to two files."""
    maps = run_session(session, {"image": picture[None]})
    for level in range(LEVELS):
        fine.write(_continued(maps[f"fine{level}"], FINE_MARGIN))
        coarse.write(_continued(maps[f"coarse{level}"], COARSE_MARGIN))


def _continued(feature_map: Floats, margin: int) -> bytes:
    """Continue a map (1, C, H, W) beyond its edges; returns rows of float16."""
    rows = feature_map[0].transpose(1, 2, 0)
    padded = np.pad(rows, [(margin, margin), (margin, margin), (0, 0)], mode="edge")
    return padded.astype(np.float16).tobytes()
