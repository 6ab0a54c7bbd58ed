"""Search for a lost object: score boxes by appearance, nearby or in the whole picture.

The rest of each prompted picture is used as negatives. The picture is searched at a scale at which
the object is about `OBJECT_SIDE` pixels wide: coarse, but fast and with few false detections.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.backbone import GROUP_CHANNELS, Map, feature_grid
from annotate.items.masks import pixel_box
from annotate.items.records import Picture
from annotate.propagators.light.crops import CropWindow
from annotate.propagators.light.ridge_classifier import RidgeClassifier
from annotate.propagators.light.target import Candidate

OBJECT_SIDE = 32  # of an object, in pixels of what is searched
MAX_PIXELS = 640 * 360  # pixels of what is searched
MAX_ENLARGEMENT = 2.0  # how far a picture is enlarged for a small object
RANDOM_FEATURES = 64
SIZE_FACTORS = (0.6, 0.77, 1.0, 1.3, 1.7)  # sizes looked for, in sizes expected
NEARBY_REACH = 4  # how far nearby is, in sizes of the object
MIN_FILL = 0.6  # how much of what usually fills the object's box must be there


class Redetector:
    """What one object looks like from afar, and what the pictures that show it look like."""

    def __init__(self) -> None:
        self._ridge = RidgeClassifier(RANDOM_FEATURES)
        self._template: npt.NDArray[np.float64] = np.zeros(sum(GROUP_CHANNELS))
        # how much of their boxes the objects fill: sum, count
        self._fill_sums: npt.NDArray[np.float64] = np.zeros(2)

    def fit(self, picture: Picture, soft: Map) -> None:
        """Learn from where the object is, `soft`, (H, W) in 0..1, and from all the rest."""
        mask = soft > 0.5
        x0, y0, x1, y1 = pixel_box(mask)
        self._fill_sums += mask.sum() / ((x1 - x0) * (y1 - y0)), 1
        small, _ = _resize_for_search(picture, (x1 - x0, y1 - y0))
        grid = small.shape[1] // 4, small.shape[0] // 4
        inside = cv2.resize(soft, grid, interpolation=cv2.INTER_AREA)
        for crop, within in ((small, inside), (small[:, ::-1], inside[:, ::-1])):
            expanded = self._ridge.expand(feature_grid(np.ascontiguousarray(crop)))
            sure, weight = within.ravel() ** 2, np.abs(2 * within - 1).ravel()
            self._ridge.add_samples(expanded, within.ravel(), weight, prompted=True)
            total = sure @ expanded[:, : sum(GROUP_CHANNELS)]
            self._template += total / max(float(sure.sum()), 1e-6)
        self._ridge.solve()

    def search_picture(
        self, picture: Picture, size_wh: tuple[float, float], count: int
    ) -> Iterator[Candidate]:
        """The hottest spots, of about that size, all over `picture`."""
        small, (fx, fy) = _resize_for_search(picture, size_wh)
        cells = size_wh[0] * fx, size_wh[1] * fy
        for heat, u, v, times in _best_peaks(self._score_maps(small, cells), cells, count):
            x, y = (u + 0.5) / fx - 0.5, (v + 0.5) / fy - 0.5
            yield Candidate(heat, x, y, size_wh[0] * times, size_wh[1] * times)

    def search_nearby(
        self, picture: Picture, x: float, y: float, size_wh: tuple[float, float]
    ) -> Candidate:
        """The hottest spot, of about that size, round (x, y)."""
        window = CropWindow(x, y, NEARBY_REACH * float(np.sqrt(size_wh[0] * size_wh[1])))
        f = NEARBY_REACH * OBJECT_SIDE / 4 / window.side
        cells = size_wh[0] * f, size_wh[1] * f
        heats = self._score_maps(window.crop(picture, NEARBY_REACH * OBJECT_SIDE), cells)
        heat, u, v, times = next(_best_peaks(heats, cells, 1))
        middle = NEARBY_REACH * OBJECT_SIDE / 8 - 0.5
        width, height = size_wh[0] * times, size_wh[1] * times
        return Candidate(heat, x + (u - middle) / f, y + (v - middle) / f, width, height)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that was learnt."""
        ridge = self._ridge.state("search.")
        return {
            **ridge,
            "search.look": self._template.copy(),
            "search.filled": self._fill_sums.copy(),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what `state` gave."""
        self._ridge.restore(state, "search.")
        self._template, self._fill_sums = state["search.look"].copy(), state["search.filled"].copy()

    def _score_maps(self, small: Picture, size_cells: tuple[float, float]) -> Map:
        """How much a box about each cell, of each of TIMES that many cells, looks like it."""
        high, wide = small.shape[0] // 4, small.shape[1] // 4
        expanded = self._ridge.expand(feature_grid(small))
        score = np.clip(self._ridge.scores(expanded)[:, :1], -3, 3)
        soft = (1 / (1 + np.exp(-4 * score))).astype(np.float32)
        inside = np.concatenate([expanded[:, : sum(GROUP_CHANNELS)] * soft, soft], axis=1)
        sums = np.zeros((high + 1, wide + 1, inside.shape[1]), np.float32)
        inside = inside.reshape(high, wide, -1)
        np.cumsum(np.cumsum(inside, axis=0), axis=1, out=sums[1:, 1:])
        look = (self._template / max(float(np.linalg.norm(self._template)), 1e-9)).astype(
            np.float32
        )
        needed = MIN_FILL * self._fill_sums[0] / max(self._fill_sums[1], 1)
        heats = []
        for times in SIZE_FACTORS:
            half = max(0.5, times * size_cells[0] / 2), max(0.5, times * size_cells[1] / 2)
            total = _box_sums(sums, half)
            mean, filled = total[..., :-1], total[..., -1] / (4 * half[0] * half[1])
            alike = mean @ look / np.maximum(np.linalg.norm(mean, axis=2), 1e-9)
            heats.append(alike * np.minimum(1, filled / max(needed, 1e-6)))
        return np.stack(heats)


def _box_sums(sums: Map, half_wh: tuple[float, float]) -> Map:
    """Sums over a box of that half width and height about each cell, from the integral image."""
    high, wide = sums.shape[0] - 1, sums.shape[1] - 1
    x, y = np.arange(wide) + 0.5, np.arange(high) + 0.5
    x0, x1 = (np.clip(np.round(x + s * half_wh[0]), 0, wide).astype(int) for s in (-1, 1))
    y0, y1 = (np.clip(np.round(y + s * half_wh[1]), 0, high).astype(int) for s in (-1, 1))
    lower, upper = sums[y1], sums[y0]
    return np.asarray(lower[:, x1] - upper[:, x1] - lower[:, x0] + upper[:, x0])


def _resize_for_search(
    picture: Picture, size_wh: tuple[float, float]
) -> tuple[Picture, tuple[float, float]]:
    """The picture, so that what is of that size is about SIDE; and cells per pixel, x and y."""
    high, wide = picture.shape[:2]
    side = float(np.sqrt(size_wh[0] * size_wh[1]))
    zoom = min(OBJECT_SIDE / side, float(np.sqrt(MAX_PIXELS / (high * wide))), MAX_ENLARGEMENT)
    size = max(64, 16 * round(zoom * wide / 16)), max(64, 16 * round(zoom * high / 16))
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, size, interpolation=how)
    return small, (size[0] / 4 / wide, size[1] / 4 / high)


def _best_peaks(
    score_maps: Map, size_cells: tuple[float, float], count: int
) -> Iterator[tuple[float, int, int, float]]:
    """The hottest cells, none within the box of another: heat, column, row, times the size."""
    score_maps = score_maps.copy()
    a, b = int(size_cells[0] / 2) + 1, int(size_cells[1] / 2) + 1
    for _ in range(count):
        v, u = np.unravel_index(int(score_maps.max(axis=0).argmax()), score_maps.shape[1:])
        k = int(score_maps[:, v, u].argmax())
        yield float(score_maps[k, v, u]), int(u), int(v), SIZE_FACTORS[k]
        score_maps[:, max(v - b, 0) : v + b + 1, max(u - a, 0) : u + a + 1] = -1
