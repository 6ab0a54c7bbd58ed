"""Make the training data of the click model for `train_refine.py`.

    python benchmarks/click_samples.py clips samples [--part 0 --parts 2] [--rounds 2]

The clips are by `make_gameplay.py` and `make_composites.py`. A few frames of each are augmented:
recoloured, zoomed, flashed, overdrawn with target designators, compressed by JPEG. Each object, a
quarter of them lit as by a muzzle flash, is clicked, mostly on the point furthest from its edge. It
is cropped in windows of many sizes around the click, and around a degraded mask, as the first round
of prediction would give.
"""

import argparse
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.backbone import FeatureMaps, Map, feature_maps
from annotate.items.masks import pixel_box
from annotate.items.records import Mask, Picture
from annotate.propagators.light.crops import CropWindow, window_around_mask
from annotate.propagators.light.refine import CLICK_CROP_SIDE, NETWORK_SIDE, click_network_input

FRAMES, LEAST = 8, 150  # frames of a clip; pixels of a thing
LIT = 0.25  # of the things, by a flash of their own
COLOURS = ((234, 25, 39), (40, 220, 230), (250, 200, 30))  # of designators
HEIGHTS = (360, 480, 600, 720)

Random = np.random.Generator
Clip = dict[str, Any]
Numbers = npt.NDArray[np.float64]
Masks = dict[int, Mask]
Points = list[tuple[float, float]]


def disturbed(
    random: Random, clip: Clip, numbers: Sequence[int], zooms: Numbers, gains: Numbers
) -> Iterator[tuple[Picture, Masks]]:
    """Those frames of a clip, so far zoomed in and so bright, each with the masks of its things."""
    high, wide = cv2.imdecode(clip["frames"][0], cv2.IMREAD_COLOR).shape[:2]
    height = min(int(random.choice(HEIGHTS)), high)
    size = round(wide * height / high / 2) * 2, height
    flipped, recoloured, marked = random.random(3) < (0.5, 0.7, 0.5)
    shuffled = random.permutation(3) if random.random() < 0.15 else np.arange(3)
    hue = int(random.integers(0, 180)) if random.random() < 0.35 else int(random.integers(-8, 9))
    tones = hue, random.uniform(0.4, 1.4), random.uniform(0.55, 1.5), random.uniform(0.8, 1.2)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(40, 90))]
    for n, zoom, gain in zip(numbers, zooms, gains, strict=True):
        picture = cv2.imdecode(clip["frames"][n], cv2.IMREAD_COLOR)[..., ::-1]
        drawn = {of: m[n] for of, m in clip["masks"].items() if n in m}
        grey = {of: cv2.imdecode(each, cv2.IMREAD_GRAYSCALE) for of, each in drawn.items()}
        picture, *rest = (_placed(each, size, zoom) for each in (picture, *grey.values()))
        masks = {of: each > 127 for of, each in zip(grey, rest, strict=True)}
        if recoloured:
            picture = _recoloured(picture, *tones)[..., shuffled]
        picture = cv2.convertScaleAbs(picture, alpha=gain)
        if marked:
            picture = _marked(random, np.ascontiguousarray(picture), list(masks.values())[:2])
        if flipped:
            picture, masks = picture[:, ::-1], {of: m[:, ::-1] for of, m in masks.items()}
        squeezed = cv2.imencode(".jpg", picture[..., ::-1], quality)[1]
        picture = cv2.imdecode(squeezed, cv2.IMREAD_COLOR)[..., ::-1]
        large = {of: np.ascontiguousarray(m) for of, m in masks.items() if m.sum() >= LEAST}
        yield np.ascontiguousarray(picture), large


def some(random: Random, clip: Clip) -> Iterator[tuple[Picture, Masks]]:
    """Some frames of a clip, disturbed, a few of them zoomed or flashed."""
    numbers = sorted(random.permutation(len(clip["frames"]))[:FRAMES].tolist())
    zoomed, flashed = random.random((2, len(numbers))) < [[0.2], [0.15]]
    zooms = np.where(zoomed, random.uniform(1.4, 3.2, len(numbers)), 1)
    gains = np.where(flashed, random.uniform(1.25, 2.2, len(numbers)), 1)
    return disturbed(random, clip, numbers, zooms, gains)


def lit(random: Random, picture: Picture, mask: Mask) -> Picture:
    """With the thing in a flash of its own, or as it is."""
    if random.random() >= LIT:
        return picture
    edge = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)[..., None]
    plain = picture.astype(np.float32)
    tint = np.array([1, random.uniform(0.5, 1), random.uniform(0.2, 1)])
    glow = np.clip(plain * random.uniform(1.3, 3) + random.uniform(0, 70) * tint, 0, 255)
    room = plain * random.uniform(1, 1.2)
    return np.clip(room * (1 - edge) + glow * edge, 0, 255).astype(np.uint8)


def _placed(picture: npt.NDArray[Any], size: tuple[int, int], zoom: float) -> npt.NDArray[Any]:
    """At another size, and zoomed in on its middle."""
    small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    shift = [(1 - zoom) * side / 2 for side in size]
    matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
    return small if zoom == 1 else cv2.warpAffine(small, matrix, size)


def _recoloured(
    picture: Picture, hue: int, colour: float, gamma: float, contrast: float
) -> Picture:
    tinted = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.int16)
    tinted[..., 0] = (tinted[..., 0] + hue) % 180
    tinted[..., 1] = np.clip(tinted[..., 1] * colour, 0, 255)
    picture = cv2.cvtColor(tinted.astype(np.uint8), cv2.COLOR_HSV2RGB)
    toned = ((np.arange(256) / 255) ** gamma - 0.5) * contrast + 0.5
    return cv2.LUT(picture, np.clip(255 * toned, 0, 255).astype(np.uint8))


def _marked(random: Random, picture: Picture, masks: list[Mask]) -> Picture:
    """With target designators round things: four brackets, half-transparent, and a distance."""
    over, colour = picture.copy(), COLOURS[int(random.integers(len(COLOURS)))]
    thick = int(random.integers(1, 5))
    for mask in masks:
        if mask.sum() < LEAST:
            continue
        x0, y0, x1, y1 = pixel_box(mask)
        jitter = 0.1 * random.standard_normal(4) * np.array([x1 - x0, y1 - y0] * 2)
        x0, y0, x1, y1 = np.round(np.array([x0, y0, x1, y1]) + jitter).astype(int).tolist()
        arm = max(4, int(0.22 * (x1 - x0)))
        for x, right in ((x0, arm), (x1, -arm)):
            for y, down in ((y0, arm), (y1, -arm)):
                cv2.line(over, (x, y), (x + right, y), colour, thick, cv2.LINE_AA)
                cv2.line(over, (x, y), (x, y + down), colour, thick, cv2.LINE_AA)
        text = f"{random.integers(3, 60)}m"
        cv2.putText(over, text, (x1 + 4, y0 + 10), 0, 0.4, colour, 1, cv2.LINE_AA)
    share = random.uniform(0.5, 1)
    return cv2.addWeighted(over, share, picture, 1 - share, 0)


def spoilt(random: Random, mask: Mask) -> Mask:
    """A mask as it might be found: as it is, thinner, thicker, cut, or with a bit too much."""
    case, grey = random.random(), mask.astype(np.uint8)
    reach = 2 * max(1, int(0.12 * np.sqrt(mask.sum()))) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    y, x = np.nonzero(mask)
    if case < 0.4:
        return mask
    if case < 0.55:
        changed = cv2.erode(grey, disk) > 0
    elif case < 0.7:
        changed = cv2.dilate(grey, disk) > 0
    elif case < 0.85:
        angle = random.uniform(0, 2 * np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
        gone = along > np.quantile(along, random.uniform(0.6, 0.9))
        changed = mask.copy()
        changed[y[gone], x[gone]] = False
    else:
        x0, y0, x1, y1 = pixel_box(mask)
        at = int(random.integers(x0, x1)), int(random.integers(y0, y1))
        axes = int(0.3 * (x1 - x0)) + 1, int(0.3 * (y1 - y0)) + 1
        changed = cv2.ellipse(grey.copy(), at, axes, 0, 0, 360, 1, -1) > 0
    return np.asarray(changed) if changed.sum() > 30 else mask


def clicks(random: Random, mask: Mask) -> tuple[Points, Points]:
    """Points inside, one or two, and now and then one close outside."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]

    def one_of(where: Mask) -> tuple[float, float]:
        k = int(random.integers(np.count_nonzero(where)))
        return float(np.nonzero(where)[1][k]), float(np.nonzero(where)[0][k])

    deepest = random.random() < 0.65
    inside = [one_of(depth == depth.max() if deepest else depth >= 0.35 * depth.max())]
    if random.random() < 0.2:
        inside.append(one_of(mask))
    near = (cv2.dilate(mask.astype(np.uint8), np.ones((25, 25))) > 0) & ~mask
    outside = [one_of(near)] if near.any() and random.random() < 0.25 else []
    return inside, outside


def samples(random: Random, picture: Picture, mask: Mask) -> Iterator[dict[str, Any]]:
    """What the network may see of a clicked thing, and what it should say."""
    x0, y0, x1, y1 = pixel_box(mask)
    size, most = max(x1 - x0, y1 - y0), 1.4 * min(picture.shape[:2])
    for _ in range(2):
        marks = clicks(random, mask)
        x, y = marks[0][0]
        for _ in range(2):
            side = size * np.exp(random.uniform(np.log(0.8), np.log(6)))
            window = CropWindow(x, y, float(np.clip(side, 40, most)))
            yield _sample(picture, window, mask, marks, None)
        before = spoilt(random, mask)
        if random.random() < 0.3:
            before = spoilt(random, before)
        window = window_around_mask(before).scaled(float(np.exp(0.15 * random.standard_normal())))
        yield _sample(picture, window, mask, marks, before)


def _sample(
    picture: Picture,
    window: CropWindow,
    mask: Mask,
    marks: tuple[Points, Points],
    before: Mask | None,
) -> dict[str, Any]:
    crop = window.crop(picture, CLICK_CROP_SIDE)
    inside, outside = (np.array(points).reshape(-1, 2) for points in marks)
    size_wh = (picture.shape[1], picture.shape[0])
    shown = click_network_input(size_wh, window, (inside, outside), before)
    return sample(crop, feature_maps(crop), shown, window, mask)


def sample(
    crop: Picture, seen: FeatureMaps, maps: Map, window: CropWindow, mask: Mask | None
) -> dict[str, Any]:
    """What a network is given, and the true mask: none when the thing is not to be seen."""
    true = np.zeros((NETWORK_SIDE, NETWORK_SIDE), np.float32)
    if mask is not None:
        true = window.crop(mask.astype(np.float32), NETWORK_SIDE, replicate_border=False)
    return {
        "crop": cv2.resize(crop, (NETWORK_SIDE, NETWORK_SIDE), interpolation=cv2.INTER_AREA),
        "s8": seen.s8.astype(np.float16),
        "s16": seen.s16.astype(np.float16),
        "maps": maps.astype(np.float16),
        "mask": np.packbits(true > 0.5),
        # also what the window cuts off
        "area": 0.0 if mask is None else float(mask.sum() * (NETWORK_SIDE / window.side) ** 2),
    }


def each_clip(doc: str) -> Iterator[tuple[tuple[int, int], list[Path], Path]]:
    """What the command line asks for: round and number, all clips, where to write (no suffix)."""
    arguments = argparse.ArgumentParser(description=doc.splitlines()[0])
    arguments.add_argument("clips", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--part", type=int, default=0)
    arguments.add_argument("--parts", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=1)
    asked = arguments.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    paths = sorted(asked.clips.glob("*.pkl"))
    for turn in range(asked.rounds):
        for k in range(asked.part, len(paths), asked.parts):
            yield (turn, k), paths, asked.folder / f"{turn}_{paths[k].stem}"


def write(make: Callable[[Random, Clip, Clip], Iterator[dict[str, Any]]], doc: str) -> None:
    """As the command line says, a file of samples for each clip, made of it and of another."""
    for (turn, k), paths, to in each_clip(doc):
        clip, other = (pickle.loads(paths[n].read_bytes()) for n in (k, k // 2))
        found = list(make(np.random.default_rng((turn, k)), clip, other))
        to.with_suffix(".pkl").write_bytes(pickle.dumps(found))
        print(f"{to.name}: {len(found)}", flush=True)


def clicked(random: Random, clip: Clip, _: Clip) -> Iterator[dict[str, Any]]:
    """Samples of clicks on some frames of a clip."""
    for picture, masks in some(random, clip):
        for mask in masks.values():
            yield from samples(random, lit(random, picture, mask), mask)


if __name__ == "__main__":
    write(clicked, __doc__)
