"""Draw clips with tracked red squares, for learning curves."""

from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
from dataset_samples import items

from annotate.dataset.build import build_dataset
from annotate.items.detections import tracked_detections
from annotate.items.records import Item, Object

SIZE_WH = (128, 96)
LABEL = "square"


def background(seed):
    blocks = np.random.default_rng(seed).integers(30, 150, (5, 7, 3)).astype(np.uint8)
    return cv2.resize(blocks, SIZE_WH, interpolation=cv2.INTER_CUBIC)


def drawn_clip(folder, seed, frames=8):
    """Write a clip of two halves, as of two shots: one square in the first, two in the second."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    halves = []
    for number, count in enumerate((1, 2)):
        starts = [(int(random.integers(8, 40)) + 48 * n, int(random.integers(8, 50))) for n in
                  range(count)]  # fmt: skip
        halves.append((background(10 * seed + number), starts))
    lines = []
    for frame in range(frames):
        half, since = divmod(frame, frames // 2)
        image, objects = halves[half][0].copy(), []
        for number, (x, y) in enumerate(halves[half][1]):
            left, top = x + since, y + since
            cv2.rectangle(image, (left, top), (left + 27, top + 27), (230, 30, 30), -1)
            box = (float(left), float(top), left + 28.0, top + 28.0)
            objects.append(Object(LABEL, box, track=1 + half + number))
        cv2.imwrite(str(folder / f"{folder.name}-{frame:06d}.png"), image[..., ::-1])
        item = Item(folder.name, frame, Fraction(frame, 4), *SIZE_WH, tuple(objects))
        lines.append(item)
    return items(folder.parent / f"{folder.name}.items.jsonl", [folder], lines, [LABEL])


def curve_inputs(folder, train=2, gold=5):
    """Draw the clips of a curve: files of items to label, of val, and a gold set."""
    truth = [drawn_clip(folder / f"dock{n}", n) for n in range(1, train + 1)]
    val = [drawn_clip(folder / "quay", 21)]
    gold_items = [drawn_clip(folder / f"pier{n}", 40 + n) for n in range(gold)]
    build_dataset(gold_items, folder / "gold", every=2)
    return {"truth": truth, "val": val, "gold": folder / "gold"}


@dataclass(frozen=True)
class RedTracker:
    """A propagator for tests: an object is the red patch that is nearest to where it was last."""

    def begin(self, prompted_frames):
        return RedSession()


class RedSession:
    def __init__(self):
        self.middles = {}

    def step(self, frame, prompts):
        for prompt in prompts:
            self.middles[prompt.object_id] = prompt.points_xy[0]
        red = (frame.image[..., 0] > 200) & (frame.image[..., 1] < 80)
        count, patches, _, middles = cv2.connectedComponentsWithStats(red.astype(np.uint8))
        tracked = []
        for object_id, middle in self.middles.items():
            if count > 1:
                nearest = 1 + int(np.linalg.norm(middles[1:] - middle, axis=1).argmin())
                self.middles[object_id] = middles[nearest]
                tracked.append((object_id, patches == nearest, 0.9))
        return tracked_detections(tracked)

    def state(self):
        return {"ids": np.array(list(self.middles)), "xy": np.array(list(self.middles.values()))}

    def restore(self, state):
        self.middles = dict(zip(state["ids"].tolist(), state["xy"], strict=True))
