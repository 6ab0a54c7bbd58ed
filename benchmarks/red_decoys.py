"""Draw what is red and not a designator: fur, bricks, blood, lights, pipes; dye monsters red."""

import cv2
import numpy as np
import numpy.typing as npt

from annotate.items.records import Picture

Random = np.random.Generator


def dye_red(image: Picture, mask: npt.NDArray[np.bool_]) -> Picture:
    """Give the masked pixels a red hue, and more saturation; their brightness stays."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[mask, 0] = 178
    hsv[mask, 1] = np.maximum(hsv[mask, 1], 170)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _random_region(image: Picture, random: Random) -> tuple[int, int, int, int]:
    """Choose a part of the picture, xyxy; some touch an edge."""
    height, width = image.shape[:2]
    w, h = (int(random.uniform(0.1, 0.5) * height) for _ in range(2))
    x, y = int(random.uniform(-w / 2, width - w / 2)), int(random.uniform(-h / 2, height - h / 2))
    return max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)


def _random_red(random: Random) -> tuple[int, int, int]:
    red = int(random.integers(110, 250))
    return red, int(red * random.uniform(0.05, 0.3)), int(red * random.uniform(0.05, 0.3))


def draw_fur(image: Picture, random: Random) -> None:
    """Draw hair in shades of red, most of it upright or level, as in a red coat close by."""
    x1, y1, x2, y2 = _random_region(image, random)
    cv2.rectangle(image, (x1, y1), (x2, y2), _random_red(random), -1)
    for _ in range(int(random.integers(60, 300))):
        x, y = int(random.integers(x1, x2)), int(random.integers(y1, y2))
        length = int(random.uniform(0.02, 0.08) * image.shape[0])
        tilt = random.normal() * 0.15 + random.choice([0, np.pi / 2])
        end = (x + int(length * np.cos(tilt)), y + int(length * np.sin(tilt)))
        colour = _random_red(random) if random.random() < 0.7 else (35, 5, 5)
        cv2.line(image, (x, y), end, colour, int(random.integers(1, 4)), cv2.LINE_AA)


def draw_bricks(image: Picture, random: Random) -> None:
    """Draw a red wall with dark joints, or red joints on what is there."""
    x1, y1, x2, y2 = _random_region(image, random)
    wide, high = int(random.integers(14, 70)), int(random.integers(10, 40))
    joint = _random_red(random)
    if random.random() < 0.5:
        cv2.rectangle(image, (x1, y1), (x2, y2), _random_red(random), -1)
        joint = (30, 10, 10)
    for row, y in enumerate(range(y1, y2, high)):
        cv2.line(image, (x1, y), (x2, y), joint, 2)
        for x in range(x1 + (row % 2) * wide // 2, x2, wide):
            cv2.line(image, (x, y), (x, min(y + high, y2)), joint, 2)


def draw_blood(image: Picture, random: Random) -> None:
    """Draw splashes of blood."""
    x1, y1, x2, y2 = _random_region(image, random)
    for _ in range(int(random.integers(15, 60))):
        at = (int(random.integers(x1, x2)), int(random.integers(y1, y2)))
        axes = (int(random.integers(1, 14)), int(random.integers(1, 6)))
        colour = tuple(int(each * 0.8) for each in _random_red(random))
        cv2.ellipse(image, at, axes, random.choice([0, 0, 90, 30]), 0, 360, colour, -1)


def draw_lights(image: Picture, random: Random) -> None:
    """Draw red lights with a glow, round and square."""
    height, width = image.shape[:2]
    for _ in range(int(random.integers(1, 5))):
        x, y = int(random.integers(0, width)), int(random.integers(0, height))
        radius = int(random.uniform(0.004, 0.04) * height) + 2
        glow = np.zeros_like(image)
        if random.random() < 0.6:
            cv2.circle(glow, (x, y), radius, (240, 40, 40), -1)
        else:
            cv2.rectangle(glow, (x, y), (x + 4 * radius, y + radius), (240, 30, 30), -1)
        blurred = cv2.GaussianBlur(glow, (0, 0), radius)
        np.copyto(image, np.maximum(cv2.add(image, blurred), glow))


def draw_poles(image: Picture, random: Random) -> None:
    """Draw red pipes and beams: thin straight strokes, upright and level, from edge to edge."""
    height, width = image.shape[:2]
    for _ in range(int(random.integers(1, 4))):
        thick, colour = int(random.integers(1, 6)), _random_red(random)
        if random.random() < 0.5:
            x = int(random.integers(0, width))
            cv2.line(image, (x, int(random.integers(0, height))), (x, height), colour, thick)
        else:
            y = int(random.integers(0, height))
            cv2.line(image, (0, y), (int(random.integers(0, width)), y), colour, thick)


DECOYS = {
    "fur": draw_fur,
    "bricks": draw_bricks,
    "blood": draw_blood,
    "lights": draw_lights,
    "poles": draw_poles,
}
