"""Make the training data of the click model for `train_refine.py`.

One pickle file per clip and round is written; a line with its number of samples is printed.

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

FRAMES_PER_CLIP, MIN_AREA = 8, 150  # frames of a clip; pixels of an object
FLASH_SHARE = 0.25  # of the objects, lit as by a muzzle flash
MARKER_COLOURS = ((234, 25, 39), (40, 220, 230), (250, 200, 30))  # of target designators
HEIGHTS = (360, 480, 600, 720)

Random = np.random.Generator
Clip = dict[str, Any]
Numbers = npt.NDArray[np.float64]
Masks = dict[int, Mask]
Points = list[tuple[float, float]]


def augmented_frames(
    random: Random, clip: Clip, frame_numbers: Sequence[int], zooms: Numbers, gains: Numbers
) -> Iterator[tuple[Picture, Masks]]:
    """Yield frames of a clip, zoomed, brightened and otherwise augmented, with their masks."""
    high, wide = cv2.imdecode(clip["frames"][0], cv2.IMREAD_COLOR).shape[:2]
    height = min(int(random.choice(HEIGHTS)), high)
    size = round(wide * height / high / 2) * 2, height
    flips, recolours, draws_markers = random.random(3) < (0.5, 0.7, 0.5)
    channels = random.permutation(3) if random.random() < 0.15 else np.arange(3)
    hue = int(random.integers(0, 180)) if random.random() < 0.35 else int(random.integers(-8, 9))
    tones = hue, random.uniform(0.4, 1.4), random.uniform(0.55, 1.5), random.uniform(0.8, 1.2)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(40, 90))]
    for n, zoom, gain in zip(frame_numbers, zooms, gains, strict=True):
        picture = cv2.imdecode(clip["frames"][n], cv2.IMREAD_COLOR)[..., ::-1]
        encoded = {object_id: m[n] for object_id, m in clip["masks"].items() if n in m}
        grey = {
            object_id: cv2.imdecode(each, cv2.IMREAD_GRAYSCALE)
            for object_id, each in encoded.items()
        }
        picture, *rest = (_resized(each, size, zoom) for each in (picture, *grey.values()))
        masks = {object_id: each > 127 for object_id, each in zip(grey, rest, strict=True)}
        if recolours:
            picture = _recolour(picture, *tones)[..., channels]
        picture = cv2.convertScaleAbs(picture, alpha=gain)
        if draws_markers:
            picture = _draw_markers(random, np.ascontiguousarray(picture), list(masks.values())[:2])
        if flips:
            picture = picture[:, ::-1]
            masks = {object_id: mask[:, ::-1] for object_id, mask in masks.items()}
        jpeg = cv2.imencode(".jpg", picture[..., ::-1], quality)[1]
        picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]
        large_masks = {
            object_id: np.ascontiguousarray(m)
            for object_id, m in masks.items()
            if m.sum() >= MIN_AREA
        }
        yield np.ascontiguousarray(picture), large_masks


def random_frames(random: Random, clip: Clip) -> Iterator[tuple[Picture, Masks]]:
    """Yield a few frames of a clip, augmented, some of them zoomed or brightened."""
    frame_numbers = sorted(random.permutation(len(clip["frames"]))[:FRAMES_PER_CLIP].tolist())
    zoomed, flashed = random.random((2, len(frame_numbers))) < [[0.2], [0.15]]
    zooms = np.where(zoomed, random.uniform(1.4, 3.2, len(frame_numbers)), 1)
    gains = np.where(flashed, random.uniform(1.25, 2.2, len(frame_numbers)), 1)
    return augmented_frames(random, clip, frame_numbers, zooms, gains)


def with_muzzle_flash(random: Random, picture: Picture, mask: Mask) -> Picture:
    """Brighten the object as by a muzzle flash, in one of four cases."""
    if random.random() >= FLASH_SHARE:
        return picture
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)[..., None]
    plain = picture.astype(np.float32)
    tint = np.array([1, random.uniform(0.5, 1), random.uniform(0.2, 1)])
    glow = np.clip(plain * random.uniform(1.3, 3) + random.uniform(0, 70) * tint, 0, 255)
    background = plain * random.uniform(1, 1.2)
    return np.clip(background * (1 - alpha) + glow * alpha, 0, 255).astype(np.uint8)


def _resized(picture: npt.NDArray[Any], size: tuple[int, int], zoom: float) -> npt.NDArray[Any]:
    """Resize a picture, and zoom in on its centre."""
    small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    shift = [(1 - zoom) * side / 2 for side in size]
    matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
    return small if zoom == 1 else cv2.warpAffine(small, matrix, size)


def _recolour(picture: Picture, hue: int, colour: float, gamma: float, contrast: float) -> Picture:
    tinted = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.int16)
    tinted[..., 0] = (tinted[..., 0] + hue) % 180
    tinted[..., 1] = np.clip(tinted[..., 1] * colour, 0, 255)
    picture = cv2.cvtColor(tinted.astype(np.uint8), cv2.COLOR_HSV2RGB)
    toned = ((np.arange(256) / 255) ** gamma - 0.5) * contrast + 0.5
    return cv2.LUT(picture, np.clip(255 * toned, 0, 255).astype(np.uint8))


def _draw_markers(random: Random, picture: Picture, masks: list[Mask]) -> Picture:
    """Draw target designators around objects: four translucent brackets, and a distance."""
    overlay, colour = picture.copy(), MARKER_COLOURS[int(random.integers(len(MARKER_COLOURS)))]
    thickness = int(random.integers(1, 5))
    for mask in masks:
        if mask.sum() < MIN_AREA:
            continue
        x0, y0, x1, y1 = pixel_box(mask)
        jitter = 0.1 * random.standard_normal(4) * np.array([x1 - x0, y1 - y0] * 2)
        x0, y0, x1, y1 = np.round(np.array([x0, y0, x1, y1]) + jitter).astype(int).tolist()
        arm = max(4, int(0.22 * (x1 - x0)))
        for x, right in ((x0, arm), (x1, -arm)):
            for y, down in ((y0, arm), (y1, -arm)):
                cv2.line(overlay, (x, y), (x + right, y), colour, thickness, cv2.LINE_AA)
                cv2.line(overlay, (x, y), (x, y + down), colour, thickness, cv2.LINE_AA)
        text = f"{random.integers(3, 60)}m"
        cv2.putText(overlay, text, (x1 + 4, y0 + 10), 0, 0.4, colour, 1, cv2.LINE_AA)
    share = random.uniform(0.5, 1)
    return cv2.addWeighted(overlay, share, picture, 1 - share, 0)


def degraded_mask(random: Random, mask: Mask) -> Mask:
    """Degrade a mask as a tracker might: unchanged, eroded, dilated, cut, or with an extra part."""
    kind, grey = random.random(), mask.astype(np.uint8)
    reach = 2 * max(1, int(0.12 * np.sqrt(mask.sum()))) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    y, x = np.nonzero(mask)
    if kind < 0.4:
        return mask
    if kind < 0.55:
        changed = cv2.erode(grey, disk) > 0
    elif kind < 0.7:
        changed = cv2.dilate(grey, disk) > 0
    elif kind < 0.85:
        angle = random.uniform(0, 2 * np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
        removed = along > np.quantile(along, random.uniform(0.6, 0.9))
        changed = mask.copy()
        changed[y[removed], x[removed]] = False
    else:
        x0, y0, x1, y1 = pixel_box(mask)
        centre = int(random.integers(x0, x1)), int(random.integers(y0, y1))
        axes = int(0.3 * (x1 - x0)) + 1, int(0.3 * (y1 - y0)) + 1
        changed = cv2.ellipse(grey.copy(), centre, axes, 0, 0, 360, 1, -1) > 0
    return np.asarray(changed) if changed.sum() > 30 else mask


def random_clicks(random: Random, mask: Mask) -> tuple[Points, Points]:
    """Draw one or two points inside the mask, and sometimes one outside, near its edge."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]

    def random_pixel(allowed: Mask) -> tuple[float, float]:
        k = int(random.integers(np.count_nonzero(allowed)))
        return float(np.nonzero(allowed)[1][k]), float(np.nonzero(allowed)[0][k])

    deepest = random.random() < 0.65
    inside = [random_pixel(depth == depth.max() if deepest else depth >= 0.35 * depth.max())]
    if random.random() < 0.2:
        inside.append(random_pixel(mask))
    near = (cv2.dilate(mask.astype(np.uint8), np.ones((25, 25))) > 0) & ~mask
    outside = [random_pixel(near)] if near.any() and random.random() < 0.25 else []
    return inside, outside


def samples_of_object(random: Random, picture: Picture, mask: Mask) -> Iterator[dict[str, Any]]:
    """Yield samples of an object: network inputs for several clicks and windows, and the mask."""
    x0, y0, x1, y1 = pixel_box(mask)
    size, max_side = max(x1 - x0, y1 - y0), 1.4 * min(picture.shape[:2])
    for _ in range(2):
        points = random_clicks(random, mask)
        x, y = points[0][0]
        for _ in range(2):
            side = size * np.exp(random.uniform(np.log(0.8), np.log(6)))
            window = CropWindow(x, y, float(np.clip(side, 40, max_side)))
            yield _click_sample(picture, window, mask, points, None)
        previous = degraded_mask(random, mask)
        if random.random() < 0.3:
            previous = degraded_mask(random, previous)
        window = window_around_mask(previous).scaled(float(np.exp(0.15 * random.standard_normal())))
        yield _click_sample(picture, window, mask, points, previous)


def _click_sample(
    picture: Picture,
    window: CropWindow,
    mask: Mask,
    points: tuple[Points, Points],
    previous: Mask | None,
) -> dict[str, Any]:
    crop = window.crop(picture, CLICK_CROP_SIDE)
    inside, outside = (np.array(each).reshape(-1, 2) for each in points)
    size_wh = (picture.shape[1], picture.shape[0])
    network_input = click_network_input(size_wh, window, (inside, outside), previous)
    return make_sample(crop, feature_maps(crop), network_input, window, mask)


def make_sample(
    crop: Picture, features: FeatureMaps, maps: Map, window: CropWindow, mask: Mask | None
) -> dict[str, Any]:
    """Pack the network inputs and the true mask, which is None if the object is not visible."""
    true_mask = np.zeros((NETWORK_SIDE, NETWORK_SIDE), np.float32)
    if mask is not None:
        true_mask = window.crop(mask.astype(np.float32), NETWORK_SIDE, replicate_border=False)
    return {
        "crop": cv2.resize(crop, (NETWORK_SIDE, NETWORK_SIDE), interpolation=cv2.INTER_AREA),
        "s8": features.s8.astype(np.float16),
        "s16": features.s16.astype(np.float16),
        "maps": maps.astype(np.float16),
        "mask": np.packbits(true_mask > 0.5),
        # of the whole mask, the part outside the window included
        "area": 0.0 if mask is None else float(mask.sum() * (NETWORK_SIDE / window.side) ** 2),
    }


def clips_and_outputs(doc: str) -> Iterator[tuple[tuple[int, int], list[Path], Path]]:
    """Parse the command line; yield (round, clip number), all clips, output path without suffix."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    paths = sorted(arguments.clips.glob("*.pkl"))
    for round_number in range(arguments.rounds):
        for number in range(arguments.part, len(paths), arguments.parts):
            out = arguments.folder / f"{round_number}_{paths[number].stem}"
            yield (round_number, number), paths, out


def write_samples(make: Callable[[Random, Clip, Clip], Iterator[dict[str, Any]]], doc: str) -> None:
    """Write a file of samples for each clip; `make` gets the clip and one other clip."""
    for (round_number, number), paths, out in clips_and_outputs(doc):
        clip, other = (pickle.loads(paths[n].read_bytes()) for n in (number, number // 2))
        samples = list(make(np.random.default_rng((round_number, number)), clip, other))
        out.with_suffix(".pkl").write_bytes(pickle.dumps(samples))
        print(f"{out.name}: {len(samples)}", flush=True)


def samples_of_clip(random: Random, clip: Clip, _: Clip) -> Iterator[dict[str, Any]]:
    """Yield the click samples of a few frames of a clip."""
    for picture, masks in random_frames(random, clip):
        for mask in masks.values():
            yield from samples_of_object(random, with_muzzle_flash(random, picture, mask), mask)


if __name__ == "__main__":
    write_samples(samples_of_clip, __doc__)
