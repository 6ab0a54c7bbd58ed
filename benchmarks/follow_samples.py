"""Make the training data of the follow model for `train_refine.py`.

One pickle file per clip and round is written; a line with its number of samples is printed.

    python benchmarks/follow_samples.py clips followed [--part 0 --parts 2] [--rounds 1]

The clips are by `make_gameplay.py`. `light` is prompted with a mask, often degraded, or sometimes
with a click, and tracks the object, so the data contain its own errors (Ross, Gordon and Bagnell,
"A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning", AISTATS
2011). After several wrong frames it is prompted again. Clips are zoomed, flashed and interrupted by
another clip; some windows lie elsewhere, as re-detection would propose them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from click_samples import (
    Clip,
    Numbers,
    Random,
    augmented_frames,
    degraded_mask,
    make_sample,
    random_clicks,
    write_samples,
)

from annotate.items.records import Mask, Picture, Prompt
from annotate.propagators.light.crops import THOROUGH, CropWindow, window_around_mask
from annotate.propagators.light.initial_mask import soft_mask_from_prompt
from annotate.propagators.light.refine import observation_network_input
from annotate.propagators.light.target import Observation
from annotate.propagators.light.tracker import Tracker

FRAMES_PER_SAMPLE = 2
FRAMES_PER_OTHER_WINDOW = 5  # frames between samples of a window elsewhere
MAX_WRONG_FRAMES = (3, 8, 20)  # wrong frames before the tracker is prompted again
MIN_AREA, MIN_FRAMES = 250, 12  # an object is used if 12 frames show 250 pixels of it or more
INTERRUPTED_SHARE = 0.25  # of the clips


def random_zooms(random: Random, count: int) -> Numbers:
    """Draw the zoom of each frame: one zoom, sudden or gradual, or none."""
    start, ramp = int(random.integers(0, count)), int(random.choice([1, 1, 8, 15]))
    stop, maximum = start + int(random.integers(10, 40)), random.uniform(1.4, 3.2)
    if random.random() > 0.3:
        return np.ones(count)
    frames = np.arange(count)
    return 1 + (maximum - 1) * np.clip(np.minimum(frames - start, stop - frames) / ramp, 0, 1)


def random_gains(random: Random, count: int) -> Numbers:
    """Draw the brightness of each frame: periodic flashes of two frames, some left out."""
    period, maximum = int(random.integers(4, 14)), random.uniform(1.25, 2.2)
    bright = (np.arange(count) + int(random.integers(0, period))) % period < 2
    return np.where(bright & (random.random() < 0.35), maximum, 1.0)


def play_clip(
    random: Random, clip: Clip, other: Clip
) -> tuple[list[Picture], dict[int, dict[int, Mask]]]:
    """Augment all frames of a clip; returns them and the masks by object and frame."""
    count = len(clip["frames"])
    augmented = augmented_frames(
        random, clip, range(count), random_zooms(random, count), random_gains(random, count)
    )
    pictures, masks_by_frame = map(list, zip(*augmented, strict=True))
    start = int(random.integers(8, count))
    stop = min(start + int(random.integers(5, 20)), count)
    if random.random() < INTERRUPTED_SHARE:
        inserted = range(min(stop - start, len(other["frames"])))
        size = pictures[0].shape[1::-1]
        unchanged = np.ones(len(inserted))
        for k, (picture, _) in enumerate(
            augmented_frames(random, other, inserted, unchanged, unchanged)
        ):
            pictures[start + k], masks_by_frame[start + k] = cv2.resize(picture, size), {}
    ids = {object_id for masks in masks_by_frame for object_id in masks}
    return pictures, {
        object_id: {n: m[object_id] for n, m in enumerate(masks_by_frame) if object_id in m}
        for object_id in ids
    }


def initial_mask(random: Random, picture: Picture, mask: Mask) -> Mask:
    """Make the mask that the tracker starts from: a degraded one, or one predicted from a click."""
    if random.random() > 0.25:
        return degraded_mask(random, mask)
    inside, _ = random_clicks(random, mask)
    predicted = (
        soft_mask_from_prompt(picture, Prompt(0, 1, np.array(inside), np.ones(len(inside), int)))
        > 0.5
    )
    return predicted if (predicted & mask).sum() > 0.3 * (predicted | mask).sum() else mask


def other_window(
    random: Random, mask: Mask | None, picture: Picture, default_side: float
) -> CropWindow:
    """Draw a window roughly around the object, or at a random position."""
    if mask is not None and random.random() < 0.6:
        window = window_around_mask(mask)
        dx, dy = 0.1 * window.side * random.standard_normal(2)
        factor = 1.2 * np.exp(0.3 * random.standard_normal())
        return CropWindow(window.x + dx, window.y + dy, window.side * float(factor))
    high, wide = picture.shape[:2]
    return CropWindow(random.uniform(0, wide), random.uniform(0, high), default_side)


def track_samples(
    random: Random, pictures: Sequence[Picture], masks: dict[int, Mask]
) -> Iterator[dict[str, Any]]:
    """Yield samples of one object, tracked from one of its early frames on."""
    large = [n for n, mask in sorted(masks.items()) if mask.sum() >= MIN_AREA]
    if len(large) < MIN_FRAMES:
        return
    first = large[0] if random.random() < 0.5 else int(random.choice(large[: len(large) // 2]))
    first_mask = initial_mask(random, pictures[first], masks[first])
    high, wide = pictures[0].shape[:2]
    tracker, size_wh = Tracker(THOROUGH), (wide, high)
    tracker.fit(pictures[first], first_mask.astype(np.float32))
    tracker.start(pictures[first], first_mask)
    previous, wrong_frames = cv2.cvtColor(pictures[first], cv2.COLOR_RGB2GRAY), 0
    max_wrong = int(random.choice(MAX_WRONG_FRAMES))
    default_side = 1.3 * window_around_mask(first_mask).side

    def sample_of(observation: Observation, mask: Mask | None) -> dict[str, Any]:
        object_size = float(np.sqrt(first_mask.sum())) * 64 / observation.window.side
        return make_sample(
            observation.features.crop,
            observation.features.maps,
            observation_network_input(observation, object_size),
            observation.window,
            mask,
        )

    for n in range(first + 1, len(pictures)):
        grey, mask = cv2.cvtColor(pictures[n], cv2.COLOR_RGB2GRAY), masks.get(n)
        observation = tracker.observe(pictures[n], grey, previous)
        if n % FRAMES_PER_SAMPLE == 0:
            yield sample_of(observation, mask)
        if n % FRAMES_PER_OTHER_WINDOW == 0:
            window = other_window(random, mask, pictures[n], default_side)
            yield sample_of(tracker.observe_window(pictures[n], window), mask)
        predicted, _ = tracker.update(observation, None, size_wh)
        previous = grey
        if mask is None or mask.sum() < MIN_AREA:
            continue
        correct = (
            predicted is not None and (predicted & mask).sum() > 0.25 * (predicted | mask).sum()
        )
        wrong_frames = 0 if correct else wrong_frames + 1
        if wrong_frames > max_wrong:
            tracker.start(pictures[n], degraded_mask(random, mask))
            wrong_frames = 0


def samples_of_clip(random: Random, clip: Clip, other: Clip) -> Iterator[dict[str, Any]]:
    """Yield samples of the objects of a clip, two at most."""
    pictures, masks_by_object = play_clip(random, clip, other)
    for _, masks in sorted(masks_by_object.items())[:2]:
        yield from track_samples(random, pictures, masks)


if __name__ == "__main__":
    write_samples(samples_of_clip, __doc__)
