"""Draw pictures to train a detector on: red squares among decoys, a display with a red ring."""

from fractions import Fraction

import cv2
import numpy as np
from dataset_samples import items

from annotate.dataset.build import build_dataset
from annotate.dataset.folder import SplitRange, with_split
from annotate.items.records import Item, Object

SIZE_WH = (192, 160)
LABEL = "square"
RING = 22  # side of the display's ring, pixels


def picture(random, ring_xy, most=3):
    """Draw a picture, RGB, and the boxes of its red squares."""
    width, height = SIZE_WH
    blocks = random.integers(40, 140, (6, 9, 3)).astype(np.uint8)
    image = cv2.resize(blocks, SIZE_WH, interpolation=cv2.INTER_CUBIC)
    places = [(x, y) for y in range(2, height - 42, 42) for x in range(2, width - 44, 46)]
    places = [places[n] for n in random.permutation(len(places))]
    clear = [p for p in places if max(abs(p[0] - ring_xy[0]), abs(p[1] - ring_xy[1])) > 44]
    boxes = []
    for number in range(int(random.integers(0, most + 1)) + 3):
        x, y = clear.pop()
        side = int(random.integers(24, 42))
        if number < 3:  # decoys
            colour = [(40, 60, 220), (50, 190, 60), (230, 30, 30)][number]
            if number == 2:
                cv2.circle(image, (x + 16, y + 16), 8 + side // 5, colour, -1)
            else:
                cv2.rectangle(image, (x, y), (x + side - 1, y + side - 1), colour, -1)
        else:
            cv2.rectangle(image, (x, y), (x + side - 1, y + side - 1), (230, 30, 30), -1)
            boxes.append((float(x), float(y), float(x + side), float(y + side)))
    x, y = ring_xy
    cv2.rectangle(image, (x, y), (x + RING, y + RING), (230, 30, 30), 2)
    return image, boxes


def clip(folder, count, ring_xy, seed, most=3, scale=1):
    """Write a folder of pictures, enlarged by `scale`, and return its items."""
    width, height = (scale * side for side in SIZE_WH)
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = []
    for frame in range(count):
        image, boxes = picture(random, ring_xy, most)
        large = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"{folder.name}-{frame:06d}.png"), large[..., ::-1])
        scaled = [tuple(scale * side for side in box) for box in boxes]
        objects = tuple(Object(LABEL, box) for box in scaled)
        lines.append(Item(folder.name, frame, Fraction(frame), width, height, objects))
    return lines


def drawn_dataset(folder, train=40, val=12, labels=(LABEL,), most=3, scale=1):
    """Build a dataset of two clips, one for each split; the ring is at the top left of both."""
    lines = clip(folder / "dock", train, (4, 4), 1, most, scale)
    lines += clip(folder / "quay", val, (4, 4), 2, most, scale)
    clips = [folder / "dock", folder / "quay"]
    path = items(folder / "items.jsonl", clips, lines, labels)
    dataset = build_dataset([path], folder / "dataset")
    ranges = [SplitRange("dock", 0, train, "train"), SplitRange("quay", 0, val, "val")]
    return with_split(dataset, ranges)
