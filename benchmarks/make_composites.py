"""Make clips of synthetic objects on photographs: training data of `train_apart.py`.

    python -m venv made && made/bin/pip install -e . scikit-image==0.25.2 scikit-learn
    made/bin/python benchmarks/make_composites.py clips --count 110

An object is a blob, sometimes with limbs, textured with parts of the photographs that scikit-image
and scikit-learn carry. One to three objects move, turn, grow and bend in front of another
photograph; in some clips a bar of a third photograph hides a part. The files have the format of
those of `make_gameplay.py`.
"""

import argparse
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import skimage
import sklearn

from annotate.items.records import Picture

PHOTOGRAPHS = (
    *("coffee.png", "astronaut.png", "gravel.png", "brick.png"),
    *("hubble_deep_field.jpg", "grass.png", "rocket.jpg", "chelsea.png", "coins.png"),
)
MORE = ("china.jpg", "flower.jpg")
WIDE, HIGH = 854, 480
SIDE = 320  # of the square in which an object is drawn
MIN_AREA, MIN_FRAMES = 60, 20  # pixels of an object; an object needs more such frames than this

Random = np.random.Generator
Path1D = npt.NDArray[np.float64]


def photographs() -> list[Picture]:
    """Read the photographs; each fills 960 x 540."""
    folders = Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets"
    paths = [folders[0] / name for name in PHOTOGRAPHS]
    paths += [folders[1] / "images" / name for name in MORE]
    found = []
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
        times = max(960 / picture.shape[1], 540 / picture.shape[0])
        size = tuple(int(np.ceil(side * times)) for side in picture.shape[1::-1])
        large = cv2.resize(np.ascontiguousarray(picture), size)
        top = (large.shape[0] - 540) // 2
        found.append(large[top : top + 540, :960])
    return found


def texture(random: Random, photos: list[Picture], size: tuple[int, int], share: float) -> Picture:
    """Crop a part of a photograph, `share` of its height, resized; often with changed colours."""
    picture = photos[int(random.integers(len(photos)))]
    high, wide = int(540 * share), int(min(960, 540 * share * size[0] / size[1]))
    y, x = int(random.integers(0, 541 - high)), int(random.integers(0, 961 - wide))
    part = cv2.resize(picture[y : y + high, x : x + wide], size, interpolation=cv2.INTER_LINEAR)
    if random.random() < 0.5:
        part = np.ascontiguousarray(part[:, ::-1])
    if random.random() < 0.7:
        tones = cv2.cvtColor(part, cv2.COLOR_RGB2HSV).astype(int)
        turn = random.integers(-30, 31) if random.random() < 0.7 else random.integers(180)
        tones[..., 0] = (tones[..., 0] + turn) % 180
        tones[..., 1] = np.clip(tones[..., 1] * random.uniform(0.5, 1.6), 0, 255)
        lit = tones[..., 2] * random.uniform(0.6, 1.3) + random.uniform(-20, 20)
        tones[..., 2] = np.clip(lit, 0, 255)
        part = cv2.cvtColor(tones.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return part


class SyntheticObject:
    """A blob with limbs, in one to three textures, that bends over time."""

    def __init__(self, random: Random, photos: list[Picture]) -> None:
        def cover() -> Picture:
            return texture(random, photos, (SIDE, SIDE), random.uniform(0.15, 0.6))

        self.radius, self.aspect = random.uniform(50, 90), np.exp(0.35 * random.standard_normal())
        self.waves = [
            (k, 0.22 * random.standard_normal() / k**0.7, random.uniform(0, 6.3))
            for k in range(2, 7)
        ]
        lows, highs = (0, 0.6, 0.12, 0.05, 0, 0.1), (6.3, 1.5, 0.3, 0.35, 6.3, 0.6)
        self.limbs = random.uniform(lows, highs, (int(random.choice([0, 0, 2, 3, 4])), 6))
        covers = [cover() for _ in range(int(random.integers(1, 4)))]
        y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
        angle = random.uniform(0, 2 * np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
        self.cover = covers[0].copy()
        for cut, each in zip(
            np.sort(40 * random.standard_normal(len(covers) - 1)), covers[1:], strict=True
        ):
            self.cover[along > cut] = each[along > cut]
        self.other = cover() if random.random() < 0.25 else self.cover
        self.pace, self.phase = random.uniform(0.02, 0.1), random.uniform(0, 6.3)

    def at(self, time: int) -> tuple[npt.NDArray[np.uint8], Picture]:
        """Draw its mask, (320, 320), 0 to 255, and its texture, (320, 320, 3), at a frame."""
        angles = np.linspace(0, 2 * np.pi, 90)
        sway = 1 + 0.3 * np.sin(self.pace * time + np.array([phase for *_, phase in self.waves]))
        waves = [
            depth * amount * np.cos(k * angles + phase)
            for (k, depth, phase), amount in zip(self.waves, sway, strict=True)
        ]
        radius = np.maximum(self.radius * (1 + sum(waves)), 8)
        stretch = np.array([self.aspect**0.5, self.aspect**-0.5])
        outline = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] * stretch
        shape = np.zeros((SIDE, SIDE), np.uint8)
        cv2.fillPoly(shape, [np.round(SIDE / 2 + outline).astype(int)], 255, cv2.LINE_AA)
        for angle, length, thick, pace, phase, swing in self.limbs:
            turned = angle + swing * np.sin(pace * time + phase)
            tip = SIDE / 2 + length * self.radius * np.array([np.cos(turned), np.sin(turned)])
            end = tuple(tip.astype(int).tolist())
            width = max(2, int(thick * self.radius))
            cv2.line(shape, (SIDE // 2, SIDE // 2), end, 255, width, cv2.LINE_AA)
        share = 0.6 * (0.5 + 0.5 * np.sin(self.pace * time + self.phase))
        return shape, cv2.addWeighted(self.cover, 1 - share, self.other, share, 0)


def random_path(random: Random, count: int, low: float, high: float, sway: float) -> Path1D:
    """Draw `count` numbers that drift between `low` and `high`, and sway round the drift."""
    at, step = random.uniform(low, high), 0.008 * (high - low) * random.standard_normal()
    pace, phase, amount = (
        random.uniform(0.05, 0.25),
        random.uniform(0, 6.3),
        random.uniform(0, sway),
    )
    found = []
    for n in range(count):
        at += step
        if not low <= at <= high:
            step = -step
        if random.random() < 0.03:
            step = 0.012 * (high - low) * random.standard_normal()
        found.append(at + amount * np.sin(pace * n + phase))
    return np.array(found)


def draw_frame(
    behind: Picture, objects: list[SyntheticObject], paths: list[tuple[Path1D, ...]], n: int
) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float32]]]:
    """Draw frame `n` with the objects, the last in front; also returns the visible part of each."""
    frame = behind.astype(np.float32)
    seen: list[npt.NDArray[np.float32]] = []
    for obj, (across, down, times, turn) in zip(objects, paths, strict=True):
        shape, cover = obj.at(n)
        matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), turn[n], times[n])
        matrix[:, 2] += across[n] - SIDE / 2, down[n] - SIDE / 2
        alpha = cv2.warpAffine(shape, matrix, (WIDE, HIGH)).astype(np.float32) / 255
        over = cv2.warpAffine(cover, matrix, (WIDE, HIGH), borderMode=cv2.BORDER_REFLECT)
        frame = frame * (1 - alpha[..., None]) + over * alpha[..., None]
        seen = [*(each * (1 - alpha) for each in seen), alpha]
    return frame, seen


def clip(random: Random, photos: list[Picture]) -> dict[str, Any]:
    """Make a clip: frames as JPEG, and masks of each object as PNG."""
    count = int(random.integers(50, 80))
    objects = [SyntheticObject(random, photos) for _ in range(int(random.integers(1, 4)))]
    if len(objects) > 1 and random.random() < 0.3:
        objects[1].cover = objects[0].cover
    paths = [
        (
            random_path(random, count, 80, WIDE - 80, 30),
            random_path(random, count, 80, HIGH - 80, 20),
            np.exp(random_path(random, count, np.log(0.35), np.log(1.5), 0.1)),
            random_path(random, count, -25, 25, 10),
        )
        for _ in objects
    ]
    size = WIDE * 3 // 2, HIGH * 3 // 2
    behind = texture(random, photos, size, random.uniform(0.5, 1))
    left, top = (random_path(random, count, 0, side / 2, 15) for side in (WIDE, HIGH))
    before = texture(random, photos, (WIDE, HIGH), random.uniform(0.15, 0.6))
    edge, thick = random_path(random, count, 0, WIDE, 50), int(random.integers(30, 110))
    hidden, light = random.random() < 0.3, 1 + random_path(random, count, -0.25, 0.25, 0.05)
    frames: list[Any] = []
    masks: dict[int, dict[int, Any]] = {k: {} for k in range(len(objects))}
    for n in range(count):
        x, y = int(np.clip(left[n], 0, WIDE / 2)), int(np.clip(top[n], 0, HIGH / 2))
        frame, seen = draw_frame(behind[y : y + HIGH, x : x + WIDE], objects, paths, n)
        if hidden:
            part = np.s_[:, max(0, int(edge[n]) - thick) : max(0, min(WIDE, int(edge[n])))]
            frame[part] = before[part]
            for each in seen:
                each[part] = 0
        noise = 2 * random.standard_normal(frame.shape[:2])[..., None]
        picture = np.clip(frame * light[n] + noise, 0, 255).astype(np.uint8)
        frames.append(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1])
        for k, each in enumerate(seen):
            if (each > 0.5).sum() >= MIN_AREA:
                masks[k][n] = cv2.imencode(".png", (each > 0.5).astype(np.uint8) * 255)[1]
    kept = {k: each for k, each in masks.items() if len(each) > MIN_FRAMES}
    return {"frames": frames, "masks": kept, "names": dict.fromkeys(kept, "composite")}


def main() -> None:
    """Make clips; a clip in which no object is visible long enough is left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=110)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    photos = photographs()
    for k in range(arguments.count):
        made = clip(np.random.default_rng((20, k)), photos)
        if made["masks"]:
            (arguments.folder / f"composite_{k:04d}.pkl").write_bytes(pickle.dumps(made))
            print(f"composite_{k:04d}: {len(made['frames'])} frames", flush=True)


if __name__ == "__main__":
    main()
