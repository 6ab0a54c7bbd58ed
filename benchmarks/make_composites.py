"""Make clips of composite objects on photographs, as training data beside gameplay.

    python -m venv made && made/bin/pip install -e . scikit-image==0.25.2 scikit-learn
    made/bin/python benchmarks/make_composites.py clips --count 110

A composite object is a blob, sometimes with limbs, textured with parts of the photographs of
scikit-image and scikit-learn. One to three objects move, turn, grow and bend in front of another
photograph; some are partly hidden by a third. The files have the format of `make_gameplay.py`, and
a line is printed for each. `train_apart.py` and `train_refine.py` train on them.
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

SKIMAGE_PHOTOGRAPHS = (
    *("coffee.png", "astronaut.png", "gravel.png", "brick.png"),
    *("hubble_deep_field.jpg", "grass.png", "rocket.jpg", "chelsea.png", "coins.png"),
)
SKLEARN_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
WIDTH, HEIGHT = 854, 480
SHAPE_SIDE = 320  # of the square in which an object is drawn
MIN_AREA, MIN_FRAMES = 60, 20  # pixels of an object on a frame, and frames that show it

Random = np.random.Generator
Path1D = npt.NDArray[np.float64]


def photographs() -> list[Picture]:
    """Read all photographs, scaled and cropped to 960x540."""
    folders = Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets"
    paths = [folders[0] / name for name in SKIMAGE_PHOTOGRAPHS]
    paths += [folders[1] / "images" / name for name in SKLEARN_PHOTOGRAPHS]
    pictures = []
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
        scale = max(960 / picture.shape[1], 540 / picture.shape[0])
        size = tuple(int(np.ceil(side * scale)) for side in picture.shape[1::-1])
        large = cv2.resize(np.ascontiguousarray(picture), size)
        top = (large.shape[0] - 540) // 2
        pictures.append(large[top : top + 540, :960])
    return pictures


def random_texture(
    random: Random, pictures: list[Picture], size: tuple[int, int], share: float
) -> Picture:
    """Cut a part of a random photograph, `share` of its height, resized and often recoloured."""
    picture = pictures[int(random.integers(len(pictures)))]
    high, wide = int(540 * share), int(min(960, 540 * share * size[0] / size[1]))
    y, x = int(random.integers(0, 541 - high)), int(random.integers(0, 961 - wide))
    patch = cv2.resize(picture[y : y + high, x : x + wide], size, interpolation=cv2.INTER_LINEAR)
    if random.random() < 0.5:
        patch = np.ascontiguousarray(patch[:, ::-1])
    if random.random() < 0.7:
        tones = cv2.cvtColor(patch, cv2.COLOR_RGB2HSV).astype(int)
        hue_shift = random.integers(-30, 31) if random.random() < 0.7 else random.integers(180)
        tones[..., 0] = (tones[..., 0] + hue_shift) % 180
        tones[..., 1] = np.clip(tones[..., 1] * random.uniform(0.5, 1.6), 0, 255)
        lit = tones[..., 2] * random.uniform(0.6, 1.3) + random.uniform(-20, 20)
        tones[..., 2] = np.clip(lit, 0, 255)
        patch = cv2.cvtColor(tones.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return patch


class CompositeObject:
    """A blob with limbs, in one to three textures, that bends over time."""

    def __init__(self, random: Random, pictures: list[Picture]) -> None:
        def cover() -> Picture:
            return random_texture(
                random, pictures, (SHAPE_SIDE, SHAPE_SIDE), random.uniform(0.15, 0.6)
            )

        self.radius, self.aspect = random.uniform(50, 90), np.exp(0.35 * random.standard_normal())
        self.waves = [
            (k, 0.22 * random.standard_normal() / k**0.7, random.uniform(0, 6.3))
            for k in range(2, 7)
        ]
        lows, highs = (0, 0.6, 0.12, 0.05, 0, 0.1), (6.3, 1.5, 0.3, 0.35, 6.3, 0.6)
        self.limbs = random.uniform(lows, highs, (int(random.choice([0, 0, 2, 3, 4])), 6))
        covers = [cover() for _ in range(int(random.integers(1, 4)))]
        y, x = np.mgrid[:SHAPE_SIDE, :SHAPE_SIDE] - SHAPE_SIDE / 2
        angle = random.uniform(0, 2 * np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
        self.cover = covers[0].copy()
        for cut, each in zip(
            np.sort(40 * random.standard_normal(len(covers) - 1)), covers[1:], strict=True
        ):
            self.cover[along > cut] = each[along > cut]
        self.other = cover() if random.random() < 0.25 else self.cover
        self.pace, self.phase = random.uniform(0.02, 0.1), random.uniform(0, 6.3)

    def draw(self, time: int) -> tuple[npt.NDArray[np.uint8], Picture]:
        """Draw the shape, 0 to 255, and the texture of a frame, both (320, 320)."""
        angles = np.linspace(0, 2 * np.pi, 90)
        sway = 1 + 0.3 * np.sin(self.pace * time + np.array([phase for *_, phase in self.waves]))
        waves = [
            depth * sway_width * np.cos(k * angles + phase)
            for (k, depth, phase), sway_width in zip(self.waves, sway, strict=True)
        ]
        radius = np.maximum(self.radius * (1 + sum(waves)), 8)
        stretch = np.array([self.aspect**0.5, self.aspect**-0.5])
        outline = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] * stretch
        shape = np.zeros((SHAPE_SIDE, SHAPE_SIDE), np.uint8)
        cv2.fillPoly(shape, [np.round(SHAPE_SIDE / 2 + outline).astype(int)], 255, cv2.LINE_AA)
        for angle, length, thickness, pace, phase, swing in self.limbs:
            turned = angle + swing * np.sin(pace * time + phase)
            tip = SHAPE_SIDE / 2 + length * self.radius * np.array([np.cos(turned), np.sin(turned)])
            end = tuple(tip.astype(int).tolist())
            width = max(2, int(thickness * self.radius))
            cv2.line(shape, (SHAPE_SIDE // 2, SHAPE_SIDE // 2), end, 255, width, cv2.LINE_AA)
        share = 0.6 * (0.5 + 0.5 * np.sin(self.pace * time + self.phase))
        return shape, cv2.addWeighted(self.cover, 1 - share, self.other, share, 0)


def random_walk(random: Random, count: int, low: float, high: float, sway: float) -> Path1D:
    """Draw numbers that drift between two limits, with a sine of width up to `sway` added."""
    position, step = random.uniform(low, high), 0.008 * (high - low) * random.standard_normal()
    pace, phase = random.uniform(0.05, 0.25), random.uniform(0, 6.3)
    sway_width = random.uniform(0, sway)
    values = []
    for n in range(count):
        position += step
        if not low <= position <= high:
            step = -step
        if random.random() < 0.03:
            step = 0.012 * (high - low) * random.standard_normal()
        values.append(position + sway_width * np.sin(pace * n + phase))
    return np.array(values)


def draw_frame(
    background: Picture, objects: list[CompositeObject], paths: list[tuple[Path1D, ...]], n: int
) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float32]]]:
    """Draw frame `n` with the objects, the last in front; returns it and the visible alphas."""
    frame = background.astype(np.float32)
    visible_alphas: list[npt.NDArray[np.float32]] = []
    for obj, (across, down, scale, angle) in zip(objects, paths, strict=True):
        shape, cover = obj.draw(n)
        matrix = cv2.getRotationMatrix2D((SHAPE_SIDE / 2, SHAPE_SIDE / 2), angle[n], scale[n])
        matrix[:, 2] += across[n] - SHAPE_SIDE / 2, down[n] - SHAPE_SIDE / 2
        alpha = cv2.warpAffine(shape, matrix, (WIDTH, HEIGHT)).astype(np.float32) / 255
        cover = cv2.warpAffine(cover, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
        frame = frame * (1 - alpha[..., None]) + cover * alpha[..., None]
        visible_alphas = [*(each * (1 - alpha) for each in visible_alphas), alpha]
    return frame, visible_alphas


def make_clip(random: Random, pictures: list[Picture]) -> dict[str, Any]:
    """Make a clip: frames as JPEG, and the masks of each object as PNG."""
    count = int(random.integers(50, 80))
    objects = [CompositeObject(random, pictures) for _ in range(int(random.integers(1, 4)))]
    if len(objects) > 1 and random.random() < 0.3:
        objects[1].cover = objects[0].cover
    paths = [
        (
            random_walk(random, count, 80, WIDTH - 80, 30),
            random_walk(random, count, 80, HEIGHT - 80, 20),
            np.exp(random_walk(random, count, np.log(0.35), np.log(1.5), 0.1)),
            random_walk(random, count, -25, 25, 10),
        )
        for _ in objects
    ]
    size = WIDTH * 3 // 2, HEIGHT * 3 // 2
    background = random_texture(random, pictures, size, random.uniform(0.5, 1))
    left, top = (random_walk(random, count, 0, side / 2, 15) for side in (WIDTH, HEIGHT))
    foreground = random_texture(random, pictures, (WIDTH, HEIGHT), random.uniform(0.15, 0.6))
    right_edge, thickness = random_walk(random, count, 0, WIDTH, 50), int(random.integers(30, 110))
    hidden, light = random.random() < 0.3, 1 + random_walk(random, count, -0.25, 0.25, 0.05)
    frames: list[Any] = []
    masks: dict[int, dict[int, Any]] = {k: {} for k in range(len(objects))}
    for n in range(count):
        x, y = int(np.clip(left[n], 0, WIDTH / 2)), int(np.clip(top[n], 0, HEIGHT / 2))
        frame, visible_alphas = draw_frame(
            background[y : y + HEIGHT, x : x + WIDTH], objects, paths, n
        )
        if hidden:
            right = int(right_edge[n])
            strip = np.s_[:, max(0, right - thickness) : max(0, min(WIDTH, right))]
            frame[strip] = foreground[strip]
            for each in visible_alphas:
                each[strip] = 0
        noise = 2 * random.standard_normal(frame.shape[:2])[..., None]
        picture = np.clip(frame * light[n] + noise, 0, 255).astype(np.uint8)
        frames.append(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1])
        for k, each in enumerate(visible_alphas):
            if (each > 0.5).sum() >= MIN_AREA:
                masks[k][n] = cv2.imencode(".png", (each > 0.5).astype(np.uint8) * 255)[1]
    kept_masks = {k: each for k, each in masks.items() if len(each) > MIN_FRAMES}
    return {"frames": frames, "masks": kept_masks, "names": dict.fromkeys(kept_masks, "composite")}


def main() -> None:
    """Make `--count` clips; those without an object that is visible for long are left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=110)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    pictures = photographs()
    for k in range(arguments.count):
        clip = make_clip(np.random.default_rng((20, k)), pictures)
        if clip["masks"]:
            (arguments.folder / f"composite_{k:04d}.pkl").write_bytes(pickle.dumps(clip))
            print(f"composite_{k:04d}: {len(clip['frames'])} frames", flush=True)


if __name__ == "__main__":
    main()
