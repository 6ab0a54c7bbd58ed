"""Make clips of made-up things on photographs: beside gameplay, `train_apart.py` learns from them.

    python -m venv made && made/bin/pip install -e . scikit-image==0.25.2 scikit-learn
    made/bin/python benchmarks/make_composites.py clips --count 110

A thing is a blob, now and then with limbs, covered with parts of the photographs that scikit-image
and scikit-learn carry. One to three of them move, turn, grow and bend before another photograph;
some are half hidden by a third. The files are like those of `make_gameplay.py`.
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
SIDE = 320  # of the square that a thing is drawn in
SMALLEST, SHORTEST = 60, 20  # pixels of a thing, and frames that show so many of it

Random = np.random.Generator
Path1D = npt.NDArray[np.float64]


def photographs() -> list[Picture]:
    """All, filling 960 by 540."""
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


def texture(
    random: Random, all_of_them: list[Picture], size: tuple[int, int], share: float
) -> Picture:
    """A part of a photograph, `share` of its height, at `size`; often in other colours."""
    picture = all_of_them[int(random.integers(len(all_of_them)))]
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


class Thing:
    """A blob with limbs, in one to three textures, that bends as time goes by."""

    def __init__(self, random: Random, all_of_them: list[Picture]) -> None:
        def cover() -> Picture:
            return texture(random, all_of_them, (SIDE, SIDE), random.uniform(0.15, 0.6))

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
        """Its shape, 0 to 255, and its cover, (320, 320)."""
        angles = np.linspace(0, 2 * np.pi, 90)
        sway = 1 + 0.3 * np.sin(self.pace * time + np.array([phase for *_, phase in self.waves]))
        waves = [
            depth * much * np.cos(k * angles + phase)
            for (k, depth, phase), much in zip(self.waves, sway, strict=True)
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


def wandering(random: Random, count: int, low: float, high: float, sway: float) -> Path1D:
    """Numbers that drift between two ends, and sway about that."""
    at, step = random.uniform(low, high), 0.008 * (high - low) * random.standard_normal()
    pace, phase, much = random.uniform(0.05, 0.25), random.uniform(0, 6.3), random.uniform(0, sway)
    found = []
    for n in range(count):
        at += step
        if not low <= at <= high:
            step = -step
        if random.random() < 0.03:
            step = 0.012 * (high - low) * random.standard_normal()
        found.append(at + much * np.sin(pace * n + phase))
    return np.array(found)


def drawn(
    behind: Picture, things: list[Thing], paths: list[tuple[Path1D, ...]], n: int
) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float32]]]:
    """Frame `n` with the things on it, the last in front, and how much of each is seen where."""
    frame = behind.astype(np.float32)
    seen: list[npt.NDArray[np.float32]] = []
    for thing, (across, down, times, turn) in zip(things, paths, strict=True):
        shape, cover = thing.at(n)
        matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), turn[n], times[n])
        matrix[:, 2] += across[n] - SIDE / 2, down[n] - SIDE / 2
        alpha = cv2.warpAffine(shape, matrix, (WIDE, HIGH)).astype(np.float32) / 255
        over = cv2.warpAffine(cover, matrix, (WIDE, HIGH), borderMode=cv2.BORDER_REFLECT)
        frame = frame * (1 - alpha[..., None]) + over * alpha[..., None]
        seen = [*(each * (1 - alpha) for each in seen), alpha]
    return frame, seen


def clip(random: Random, all_of_them: list[Picture]) -> dict[str, Any]:
    """Frames as JPEG, and of each thing the masks as PNG."""
    count = int(random.integers(50, 80))
    things = [Thing(random, all_of_them) for _ in range(int(random.integers(1, 4)))]
    if len(things) > 1 and random.random() < 0.3:
        things[1].cover = things[0].cover
    paths = [
        (
            wandering(random, count, 80, WIDE - 80, 30),
            wandering(random, count, 80, HIGH - 80, 20),
            np.exp(wandering(random, count, np.log(0.35), np.log(1.5), 0.1)),
            wandering(random, count, -25, 25, 10),
        )
        for _ in things
    ]
    size = WIDE * 3 // 2, HIGH * 3 // 2
    behind = texture(random, all_of_them, size, random.uniform(0.5, 1))
    left, top = (wandering(random, count, 0, side / 2, 15) for side in (WIDE, HIGH))
    before = texture(random, all_of_them, (WIDE, HIGH), random.uniform(0.15, 0.6))
    edge, thick = wandering(random, count, 0, WIDE, 50), int(random.integers(30, 110))
    hidden, light = random.random() < 0.3, 1 + wandering(random, count, -0.25, 0.25, 0.05)
    frames: list[Any] = []
    masks: dict[int, dict[int, Any]] = {k: {} for k in range(len(things))}
    for n in range(count):
        x, y = int(np.clip(left[n], 0, WIDE / 2)), int(np.clip(top[n], 0, HIGH / 2))
        frame, seen = drawn(behind[y : y + HIGH, x : x + WIDE], things, paths, n)
        if hidden:
            part = np.s_[:, max(0, int(edge[n]) - thick) : max(0, min(WIDE, int(edge[n])))]
            frame[part] = before[part]
            for each in seen:
                each[part] = 0
        noise = 2 * random.standard_normal(frame.shape[:2])[..., None]
        picture = np.clip(frame * light[n] + noise, 0, 255).astype(np.uint8)
        frames.append(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1])
        for k, each in enumerate(seen):
            if (each > 0.5).sum() >= SMALLEST:
                masks[k][n] = cv2.imencode(".png", (each > 0.5).astype(np.uint8) * 255)[1]
    kept = {k: each for k, each in masks.items() if len(each) > SHORTEST}
    return {"frames": frames, "masks": kept, "names": dict.fromkeys(kept, "composite")}


def main() -> None:
    """Make as many as asked for; those that show nothing for long are left out."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--count", type=int, default=110)
    asked = arguments.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    all_of_them = photographs()
    for k in range(asked.count):
        made = clip(np.random.default_rng((20, k)), all_of_them)
        if made["masks"]:
            (asked.folder / f"composite_{k:04d}.pkl").write_bytes(pickle.dumps(made))
            print(f"composite_{k:04d}: {len(made['frames'])} frames", flush=True)


if __name__ == "__main__":
    main()
