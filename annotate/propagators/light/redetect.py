"""Search for a lost object: score boxes by appearance, nearby or in the whole picture.

A ridge classifier is fitted to each prompted picture, with the rest of that picture as negatives.
A box scores high if the mean features of its likely pixels resemble the object's mean features, and
if those pixels fill the box as the object usually does; integral images make that fast. The picture
is searched at a scale at which the object is about `OBJECT_SIDE` pixels wide: coarse, but fast and
with few false detections.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from annotate.backbone import GROUP_CHANNELS, Map, feature_grid
from annotate.items.masks import pixel_box
from annotate.items.records import Mask, Picture, State
from annotate.propagators.light.crops import CropWindow
from annotate.propagators.light.ridge_classifier import RidgeClassifier
from annotate.propagators.light.target import Candidate

OBJECT_SIDE = 32  # side of the object in the resized picture, in pixels
MAX_PIXELS = 640 * 360  # of the resized picture
MAX_ENLARGEMENT = 2.0  # of the picture, for a small object
RANDOM_FEATURES = 64
SIZE_FACTORS = (0.6, 0.77, 1.0, 1.3, 1.7)  # sizes of the boxes, relative to the expected size
NEARBY_REACH = 4  # side of the window that is searched nearby, in sizes of the object
REJECTED_WEIGHT = 2.0  # of what is not the object, relative to one prompted picture
MIN_FILL = 0.6  # a box filled less than this share of the usual fill scores lower


class Redetector:
    """The appearance of one object at low resolution, against the rest of its prompted frames."""

    def __init__(self) -> None:
        self._ridge = RidgeClassifier(RANDOM_FEATURES)
        self._template: npt.NDArray[np.float64] = np.zeros(sum(GROUP_CHANNELS))
        # share of its box that the object fills: sum over the prompts, and their number
        self._fill_sums: npt.NDArray[np.float64] = np.zeros(2)

    def fit(self, picture: Picture, soft: Map) -> None:
        """Add a prompted picture: `soft`, (H, W) in 0..1, is the object, the rest is not."""
        mask = soft > 0.5
        x0, y0, x1, y1 = pixel_box(mask)
        self._fill_sums += mask.sum() / ((x1 - x0) * (y1 - y0)), 1
        small, _ = _resize_for_search(picture, (x1 - x0, y1 - y0))
        grid = small.shape[1] // 4, small.shape[0] // 4
        inside = cv2.resize(soft, grid, interpolation=cv2.INTER_AREA)
        for view, soft_grid in ((small, inside), (small[:, ::-1], inside[:, ::-1])):
            expanded = self._ridge.expand(feature_grid(np.ascontiguousarray(view)))
            share, weight = soft_grid.ravel() ** 2, np.abs(2 * soft_grid - 1).ravel()
            self._ridge.add_samples(expanded, soft_grid.ravel(), weight, prompted=True)
            total = share @ expanded[:, : sum(GROUP_CHANNELS)]
            self._template += total / max(float(share.sum()), 1e-6)
        self._ridge.solve()

    def reject(self, picture: Picture, mask: Mask, size_wh: tuple[float, float]) -> None:
        """Add that `mask`, (H, W), is not the object, which is usually of `size_wh` pixels."""
        small, _ = _resize_for_search(picture, (max(size_wh[0], 4), max(size_wh[1], 4)))
        grid = small.shape[1] // 4, small.shape[0] // 4
        outside = cv2.resize(mask.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
        expanded = self._ridge.expand(feature_grid(small))
        self._ridge.add_negatives(expanded, outside.ravel(), REJECTED_WEIGHT)
        self._ridge.solve()

    def search_picture(
        self, picture: Picture, size_wh: tuple[float, float], count: int
    ) -> Iterator[Candidate]:
        """Yield the `count` best candidates of about that size in the whole picture, best first."""
        small, (fx, fy) = _resize_for_search(picture, size_wh)
        cells = size_wh[0] * fx, size_wh[1] * fy
        for score, u, v, factor in _best_peaks(self._score_maps(small, cells), cells, count):
            x, y = (u + 0.5) / fx - 0.5, (v + 0.5) / fy - 0.5
            yield Candidate(score, x, y, size_wh[0] * factor, size_wh[1] * factor)

    def search_nearby(
        self, picture: Picture, x: float, y: float, size_wh: tuple[float, float]
    ) -> Candidate:
        """Find the best candidate of about that size around (x, y)."""
        window = CropWindow(x, y, NEARBY_REACH * float(np.sqrt(size_wh[0] * size_wh[1])))
        f = NEARBY_REACH * OBJECT_SIDE / 4 / window.side
        cells = size_wh[0] * f, size_wh[1] * f
        score_maps = self._score_maps(window.crop(picture, NEARBY_REACH * OBJECT_SIDE), cells)
        score, u, v, factor = next(_best_peaks(score_maps, cells, 1))
        middle = NEARBY_REACH * OBJECT_SIDE / 8 - 0.5
        width, height = size_wh[0] * factor, size_wh[1] * factor
        return Candidate(score, x + (u - middle) / f, y + (v - middle) / f, width, height)

    def state(self) -> State:
        """Return the classifier, the template and the fill."""
        ridge = self._ridge.state("search.")
        return {
            **ridge,
            "search.look": self._template.copy(),
            "search.filled": self._fill_sums.copy(),
        }

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        self._ridge.restore(state, "search.")
        self._template, self._fill_sums = state["search.look"].copy(), state["search.filled"].copy()

    def _score_maps(self, small: Picture, size_cells: tuple[float, float]) -> Map:
        """Score a box around each cell, (sizes, H / 4, W / 4), for each of `SIZE_FACTORS`."""
        high, wide = small.shape[0] // 4, small.shape[1] // 4
        expanded = self._ridge.expand(feature_grid(small))
        score = np.clip(self._ridge.scores(expanded)[:, :1], -3, 3)
        soft = (1 / (1 + np.exp(-4 * score))).astype(np.float32)
        weighted = np.concatenate([expanded[:, : sum(GROUP_CHANNELS)] * soft, soft], axis=1)
        integral = np.zeros((high + 1, wide + 1, weighted.shape[1]), np.float32)
        weighted = weighted.reshape(high, wide, -1)
        np.cumsum(np.cumsum(weighted, axis=0), axis=1, out=integral[1:, 1:])
        length = max(float(np.linalg.norm(self._template)), 1e-9)
        template = (self._template / length).astype(np.float32)
        min_fill = MIN_FILL * self._fill_sums[0] / max(self._fill_sums[1], 1)
        maps = []
        for factor in SIZE_FACTORS:
            half = max(0.5, factor * size_cells[0] / 2), max(0.5, factor * size_cells[1] / 2)
            total = _box_sums(integral, half)
            mean, fill = total[..., :-1], total[..., -1] / (4 * half[0] * half[1])
            similarity = mean @ template / np.maximum(np.linalg.norm(mean, axis=2), 1e-9)
            maps.append(similarity * np.minimum(1, fill / max(min_fill, 1e-6)))
        return np.stack(maps)


def _box_sums(integral: Map, half_wh: tuple[float, float]) -> Map:
    """Sum over a box around each cell, of that half width and height, by the integral image."""
    high, wide = integral.shape[0] - 1, integral.shape[1] - 1
    x, y = np.arange(wide) + 0.5, np.arange(high) + 0.5
    x0, x1 = (np.clip(np.round(x + s * half_wh[0]), 0, wide).astype(int) for s in (-1, 1))
    y0, y1 = (np.clip(np.round(y + s * half_wh[1]), 0, high).astype(int) for s in (-1, 1))
    lower, upper = integral[y1], integral[y0]
    return np.asarray(lower[:, x1] - upper[:, x1] - lower[:, x0] + upper[:, x0])


def _resize_for_search(
    picture: Picture, size_wh: tuple[float, float]
) -> tuple[Picture, tuple[float, float]]:
    """Resize a picture so that `size_wh` becomes about `OBJECT_SIDE`.

    Returns the picture and its cells per pixel, along x and y.
    """
    height, width = picture.shape[:2]
    side = float(np.sqrt(size_wh[0] * size_wh[1]))
    zoom = min(OBJECT_SIDE / side, float(np.sqrt(MAX_PIXELS / (height * width))), MAX_ENLARGEMENT)
    size = max(64, 16 * round(zoom * width / 16)), max(64, 16 * round(zoom * height / 16))
    interpolation = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, size, interpolation=interpolation)
    return small, (size[0] / 4 / width, size[1] / 4 / height)


def _best_peaks(
    score_maps: Map, size_cells: tuple[float, float], count: int
) -> Iterator[tuple[float, int, int, float]]:
    """Yield the best cells, none inside the box of another: score, column, row, size factor."""
    score_maps = score_maps.copy()
    a, b = int(size_cells[0] / 2) + 1, int(size_cells[1] / 2) + 1
    for _ in range(count):
        v, u = np.unravel_index(int(score_maps.max(axis=0).argmax()), score_maps.shape[1:])
        k = int(score_maps[:, v, u].argmax())
        yield float(score_maps[k, v, u]), int(u), int(v), SIZE_FACTORS[k]
        score_maps[:, max(v - b, 0) : v + b + 1, max(u - a, 0) : u + a + 1] = -1
