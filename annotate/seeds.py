"""The first mask of an object, from the points or the box that a person gave.

A click says where an object is, not how large. So the object is cut out at many sizes of window,
by two methods each. What most of the others agree with is often a part of the object, so the best
are let grow as well. Then all vote, each as far as the others agree with it, and the larger the
more: parts agree with parts, and there are many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from annotate import masks
from annotate.clicked import about_points, clicked
from annotate.features import features
from annotate.guided import guided
from annotate.records import Mask, Picture, Prompt
from annotate.ridge import Ridge
from annotate.windows import Map, Window

SIZE = 192  # of a window, in pixels of the crop
STEP, LARGEST = 1.5, 1.3  # sides of the windows round a click: to the next, in pictures
FILLED, SPREAD = 0.13, 0.8  # how much of its window an object fills; how widely ln of it spreads
ROUNDS = 4
GROWN, GROWTHS = 4, 2  # how many are let grow, and how often
WIDER, REACH = 2.5, 0.35  # the window of growing; how far, in root areas, it may reach
HIDDEN = 96
TRUSTED = 2.0  # votes of each mask by the network that has seen things clicked


@dataclass(frozen=True)
class Marks:
    """What is known for sure in a window: points, as (n, 2) of its crop, and a box."""

    inside: npt.NDArray[np.float64]
    outside: npt.NDArray[np.float64]
    box: npt.NDArray[np.float64] | None  # xyxy

    @staticmethod
    def of(window: Window, prompt: Prompt, others: Sequence[Prompt]) -> "Marks":
        """A prompt's; where another object is, this one is not."""

        def seen(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            middle = np.array((window.x, window.y))
            return np.asarray((points - middle) * (SIZE / window.side) + (SIZE - 1) / 2)

        inside, outside = _clicks(prompt, others)
        box = None if prompt.box is None else seen(np.array(prompt.box).reshape(2, 2) - 0.5).ravel()
        return Marks(seen(inside), seen(outside), box)

    def near(self, points: npt.NDArray[np.float64], radius: float, grid: int) -> Mask:
        """Which of (grid, grid) lie within `radius` crop pixels of any of `points`."""
        y, x = np.mgrid[:grid, :grid] * (SIZE / grid) + (SIZE / grid - 1) / 2
        close = [np.hypot(x - px, y - py) < radius for px, py in points]
        return np.any(close, axis=0) if close else np.zeros((grid, grid), bool)

    def beyond(self, grid: int, margin: float) -> Mask:
        """Which of (grid, grid) are surely outside: beyond the box, or this near to the edge."""
        y, x = np.mgrid[:grid, :grid] * (SIZE / grid) + (SIZE / grid - 1) / 2
        if self.box is not None:
            x1, y1, x2, y2 = self.box
            return np.asarray((x < x1) | (x > x2) | (y < y1) | (y > y2))
        middle = (SIZE - 1) / 2
        return np.asarray(np.hypot(x - middle, y - middle) > margin * SIZE)


def seed(picture: Picture, prompt: Prompt, others: Sequence[Prompt] = ()) -> Map:
    """How sure it is, (H, W) in 0..1, that a pixel is what `prompt` means.

    Points inside `others` are outside it.
    """
    if prompt.mask is not None:
        return prompt.mask.astype(np.float32)
    found, fits = [], []
    for window in _windows(picture, prompt):
        for mask in _cut_out(window, picture, Marks.of(window, prompt, others)):
            filled = max(float(mask.mean()), 1e-4)
            found.append(_placed(window, mask, picture.shape[:2]))
            sane = 0.02 < filled < 0.45 or prompt.box is not None
            fits.append(sane * np.exp(-0.5 * (np.log(filled / FILLED) / SPREAD) ** 2))
    for k in np.argsort(-_agreement(found, np.array(fits)) * fits, kind="stable")[:GROWN]:
        mask = found[k]
        for _ in range(GROWTHS):
            mask = _grown(mask, picture, prompt, others)
            found.append(mask)
            fits.append(fits[k])
    if prompt.box is None:
        for mask, worth in clicked(picture, *_clicks(prompt, others)):
            found.append(mask)
            fits.append(TRUSTED * worth)
    areas = np.array([mask.sum() for mask in found], np.float64)
    votes = (_agreement(found, np.array(fits)) * fits) ** 3 * areas
    sure = np.tensordot(votes / max(votes.sum(), 1e-9), np.array(found, np.float32), 1)
    return sure.astype(np.float32)


def _clicks(
    prompt: Prompt, others: Sequence[Prompt]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The points that are inside, (n, 2), and those that are not: what is another's is not."""
    apart = [each.points_xy[each.point_labels == 1] for each in others]
    outside = np.concatenate([prompt.points_xy[prompt.point_labels == 0], *apart])
    return prompt.points_xy[prompt.point_labels == 1], outside


def _grown(mask: Mask, picture: Picture, prompt: Prompt, others: Sequence[Prompt]) -> Mask:
    """The mask again, from itself against what is well away from it."""
    x1, y1, x2, y2 = masks.box(mask) or (0.0, 0.0, 0.0, 0.0)
    if x2 - x1 < 2 or y2 - y1 < 2:
        return mask
    side = WIDER * max(x2 - x1, y2 - y1, 12)
    window = Window((x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2, side)
    marks, crop, grid = Marks.of(window, prompt, others), window.cut(picture, SIZE), SIZE // 4
    never = ~window.inside((picture.shape[1], picture.shape[0]), grid)
    never |= marks.near(marks.outside, 0.03 * SIZE, grid)
    if prompt.box is not None:
        never |= marks.beyond(grid, 0)
    was = (window.cut(mask.astype(np.float32), grid, outside=False) > 0.5) & ~never
    away = cv2.distanceTransform((~was).astype(np.uint8), cv2.DIST_L2, 5) / np.sqrt(was.sum() + 1)
    weight = np.where(was | never | (away > REACH), 1, 0.15).astype(np.float32)
    pull = 12 * np.maximum(away - REACH, 0)
    soft = _taught(features(crop), was, weight, pull, np.where(never, -20, 0))
    deep = _refined(crop, soft, marks)
    return _placed(window, _by_colour(crop, marks, deep), picture.shape[:2])


def _agreement(found: Sequence[Mask], fits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean IoU of each mask with those that are of a sane size."""
    flat = np.stack([mask.ravel() for mask in found])
    used = flat[:, flat.any(axis=0)].astype(np.float32)
    shared = used @ used.T
    areas = used.sum(axis=1)
    overlap = shared / np.maximum(areas[:, None] + areas[None] - shared, 1)
    return np.asarray((overlap * (fits > 0)[:, None]).sum(axis=0) / max((fits > 0).sum(), 1))


def _windows(picture: Picture, prompt: Prompt) -> Iterator[Window]:
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        for zoom in (1.3, 1.7):
            side = zoom * max(x2 - x1, y2 - y1, 8)
            yield Window((x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2, side)
        return
    points = prompt.points_xy[prompt.point_labels == 1]
    yield from about_points(picture, points, STEP, LARGEST)


def _cut_out(window: Window, picture: Picture, marks: Marks) -> Iterator[Mask]:
    """The object in the window: by deep features, and that again by colour."""
    crop = window.cut(picture, SIZE)
    deep = _by_features(crop, marks)
    yield deep
    yield _by_colour(crop, marks, deep)


def _by_features(crop: Picture, marks: Marks) -> Mask:
    """A classifier of points against the edge, taught a few times by what it finds."""
    grid = SIZE // 4
    within = marks.near(marks.inside, 0.03 * SIZE, grid)
    never = marks.beyond(grid, 0.47) | marks.near(marks.outside, 0.03 * SIZE, grid)
    start = marks.near(marks.inside, 0.1 * SIZE, grid) & ~never
    if marks.box is not None:
        start = ~never
    far = marks.near(np.full((1, 2), (SIZE - 1) / 2), 0.38 * SIZE, grid)
    weight = (start | ~far | never).astype(np.float32)
    y, x = (np.mgrid[:grid, :grid] - (grid - 1) / 2) / grid
    pull = 0 * x if marks.box is not None else 12 * np.maximum(np.hypot(x, y) - 0.3, 0)
    sure = np.where(never, -20, np.where(within, 20, 0))
    return _refined(crop, _taught(features(crop), start, weight, pull, sure), marks)


def _taught(maps: Map, inside: Mask, weight: Map, pull: Map, sure: Map) -> Map:
    """A soft mask by a classifier taught, a few times, by what it finds itself."""
    taught, shape = inside.astype(np.float32), inside.shape
    soft = taught
    for _ in range(ROUNDS):
        ridge = Ridge(HIDDEN)
        expanded = ridge.expand(maps)
        ridge.learn(expanded, taught.ravel(), weight.ravel(), shown=True)
        ridge.solve()
        logit = 4 * ridge.scores(expanded)[:, 0].reshape(shape) - pull + sure
        soft = (1 / (1 + np.exp(-np.clip(logit, -30, 30)))).astype(np.float32)
        taught, weight = (soft > 0.5).astype(np.float32), np.abs(2 * soft - 1) + np.float32(0.02)
    return soft


def _refined(crop: Picture, soft: Map, marks: Marks) -> Mask:
    sharp = guided(crop, cv2.resize(soft, (SIZE, SIZE)), SIZE // 32)
    return _prompted_part(sharp > 0.5, marks)


def _by_colour(crop: Picture, marks: Marks, deep: Mask) -> Mask:
    """GrabCut from that mask."""
    states = np.where(deep, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    states[marks.near(marks.inside, 0.02 * SIZE, SIZE)] = cv2.GC_FGD
    states[marks.beyond(SIZE, 0.5)] = cv2.GC_BGD
    states[marks.near(marks.outside, 0.02 * SIZE, SIZE)] = cv2.GC_BGD
    if not (states & 1).any() or (states & 1).all():
        return deep
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(crop[..., ::-1]), states, None, *models, 2, cv2.GC_INIT_WITH_MASK
    )
    return _prompted_part((states & 1).astype(bool), marks)


def _prompted_part(mask: Mask, marks: Marks) -> Mask:
    """The connected parts with a point in them; without one, all of it."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    asked = np.unique(parts[marks.near(marks.inside, 0.03 * SIZE, SIZE)])
    asked = asked[asked > 0]
    return np.isin(parts, asked) if len(asked) else mask


def _placed(window: Window, mask: Mask, shape: tuple[int, ...]) -> Mask:
    """A mask of the window as one of the picture."""
    return window.mask(mask.astype(np.float32), (shape[1], shape[0]), 0.5)
