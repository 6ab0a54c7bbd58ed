"""Make the training data of the follow model for `train_refine.py`.

    python benchmarks/follow_samples.py clips followed [--part 0 --parts 2] [--rounds 1]

The clips are by `make_gameplay.py`. `light` is prompted with a mask, often degraded, or sometimes
with a click, and tracks the object, so the data contain its own errors (Ross, Gordon and Bagnell,
"A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning", AISTATS
2011). After it was wrong for several frames it is prompted again. Clips are zoomed, flashed and
interrupted by another clip; some windows lie elsewhere, as a search would propose them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from click_samples import Clip, Numbers, Random, clicks, disturbed, sample, spoilt, write

from annotate.items.records import Mask, Picture, Prompt
from annotate.propagators.light.crops import THOROUGH, CropWindow, window_around_mask
from annotate.propagators.light.initial_mask import soft_mask_from_prompt
from annotate.propagators.light.refine import observation_network_input
from annotate.propagators.light.target import Observation
from annotate.propagators.light.tracker import Tracker

EVERY, ASIDE = 2, 5  # frames from one sample to the next, and to the next look elsewhere
PATIENCE = (3, 8, 20)  # frames that it may be wrong before it is put back
LEAST, SHOWN = 250, 12  # pixels of a thing, and frames that show so many of it
INTERRUPTED = 0.25  # of the clips


def zooms(random: Random, count: int) -> Numbers:
    """How far to zoom in on each frame: once, at once or slowly, or not at all."""
    start, ramp = int(random.integers(0, count)), int(random.choice([1, 1, 8, 15]))
    stop, most = start + int(random.integers(10, 40)), random.uniform(1.4, 3.2)
    if random.random() > 0.3:
        return np.ones(count)
    frames = np.arange(count)
    return 1 + (most - 1) * np.clip(np.minimum(frames - start, stop - frames) / ramp, 0, 1)


def gains(random: Random, count: int) -> Numbers:
    """How bright each frame is: two in a row are lit, again and again, or none."""
    period, most = int(random.integers(4, 14)), random.uniform(1.25, 2.2)
    lit = (np.arange(count) + int(random.integers(0, period))) % period < 2
    return np.where(lit & (random.random() < 0.35), most, 1.0)


def played(
    random: Random, clip: Clip, other: Clip
) -> tuple[list[Picture], dict[int, dict[int, Mask]]]:
    """All frames of a clip, disturbed, and the masks of each thing by frame."""
    count = len(clip["frames"])
    changed = disturbed(random, clip, range(count), zooms(random, count), gains(random, count))
    pictures, seen = map(list, zip(*changed, strict=True))
    start = int(random.integers(8, count))
    stop = min(start + int(random.integers(5, 20)), count)
    if random.random() < INTERRUPTED:
        most = range(min(stop - start, len(other["frames"])))
        size = pictures[0].shape[1::-1]
        for k, (picture, _) in enumerate(disturbed(random, other, most, *np.ones((2, len(most))))):
            pictures[start + k], seen[start + k] = cv2.resize(picture, size), {}
    things = {of for masks in seen for of in masks}
    return pictures, {of: {n: m[of] for n, m in enumerate(seen) if of in m} for of in things}


def shown(random: Random, picture: Picture, mask: Mask) -> Mask:
    """What the engine is taught: a mask as it might be found, now and then from a click."""
    if random.random() > 0.25:
        return spoilt(random, mask)
    inside, _ = clicks(random, mask)
    found = (
        soft_mask_from_prompt(picture, Prompt(0, 1, np.array(inside), np.ones(len(inside), int)))
        > 0.5
    )
    return found if (found & mask).sum() > 0.3 * (found | mask).sum() else mask


def elsewhere(random: Random, mask: Mask | None, picture: Picture, usual: float) -> CropWindow:
    """A window about the thing, more or less, or about any place."""
    if mask is not None and random.random() < 0.6:
        window = window_around_mask(mask)
        dx, dy = 0.1 * window.side * random.standard_normal(2)
        times = 1.2 * np.exp(0.3 * random.standard_normal())
        return CropWindow(window.x + dx, window.y + dy, window.side * float(times))
    high, wide = picture.shape[:2]
    return CropWindow(random.uniform(0, wide), random.uniform(0, high), usual)


def followed(
    random: Random, pictures: Sequence[Picture], masks: dict[int, Mask]
) -> Iterator[dict[str, Any]]:
    """Samples of one thing, followed from one of its first frames on."""
    large = [n for n, mask in sorted(masks.items()) if mask.sum() >= LEAST]
    if len(large) < SHOWN:
        return
    first = large[0] if random.random() < 0.5 else int(random.choice(large[: len(large) // 2]))
    given = shown(random, pictures[first], masks[first])
    engine, size_wh = Tracker(THOROUGH), pictures[0].shape[1::-1]
    engine.fit(pictures[first], given.astype(np.float32))
    engine.start(pictures[first], given)
    before, wrong = cv2.cvtColor(pictures[first], cv2.COLOR_RGB2GRAY), 0
    patience, usual = int(random.choice(PATIENCE)), 1.3 * window_around_mask(given).side

    def seen(guess: Observation, mask: Mask | None) -> dict[str, Any]:
        reach = float(np.sqrt(given.sum())) * 64 / guess.window.side
        return sample(
            guess.features.crop,
            guess.features.maps,
            observation_network_input(guess, reach),
            guess.window,
            mask,
        )

    for n in range(first + 1, len(pictures)):
        grey, mask = cv2.cvtColor(pictures[n], cv2.COLOR_RGB2GRAY), masks.get(n)
        guess = engine.observe(pictures[n], grey, before)
        if n % EVERY == 0:
            yield seen(guess, mask)
        if n % ASIDE == 0:
            window = elsewhere(random, mask, pictures[n], usual)
            yield seen(engine.observe_window(pictures[n], window), mask)
        found, _ = engine.update(guess, None, size_wh)
        before = grey
        if mask is None or mask.sum() < LEAST:
            continue
        right = found is not None and (found & mask).sum() > 0.25 * (found | mask).sum()
        wrong = 0 if right else wrong + 1
        if wrong > patience:
            engine.start(pictures[n], spoilt(random, mask))
            wrong = 0


def all_followed(random: Random, clip: Clip, other: Clip) -> Iterator[dict[str, Any]]:
    """Samples of the things of a clip, two at most."""
    pictures, things = played(random, clip, other)
    for _, masks in sorted(things.items())[:2]:
        yield from followed(random, pictures, masks)


if __name__ == "__main__":
    write(all_followed, __doc__)
