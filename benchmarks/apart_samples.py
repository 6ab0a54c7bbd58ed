"""Make the training data of `train_apart.py`: views of the objects of generated clips.

    python benchmarks/apart_samples.py clips views [--part 0 --parts 2] [--rounds 1]

The clips are by `make_gameplay.py` and `make_composites.py`, augmented as for `follow_samples.py`.
A file per clip: windows around its objects, a quarter of them lit as by a muzzle flash, and a few
windows anywhere; for each the backbone's maps, and the masks of all objects.
"""

import pickle

import numpy as np
import numpy.typing as npt
from click_samples import Clip, Masks, Random, disturbed, each_clip, lit
from follow_samples import gains, zooms

from annotate.backbone import feature_maps
from annotate.items.records import Picture
from annotate.propagators.light.crops import CropWindow, window_around_mask

LEAST, SHORTEST = 250, 8  # pixels of a thing, and frames that show so many of it
THINGS, VIEWS, ASIDE = 4, 6, 3  # at most, of a clip; of a thing; windows about nothing
SIZE, GRID = 256, 64


def views(random: Random, clip: Clip) -> dict[str, npt.NDArray] | None:
    """All that is learnt from of one clip, if it shows enough."""
    count = len(clip["frames"])
    changed = disturbed(random, clip, range(count), zooms(random, count), gains(random, count))
    pictures, seen = map(list, zip(*changed, strict=True))
    frames = {
        of: [n for n, masks in enumerate(seen) if of in masks and masks[of].sum() >= LEAST]
        for of in clip["masks"]
    }
    things = [of for of, numbers in sorted(frames.items()) if len(numbers) >= SHORTEST][:THINGS]
    if not things:
        return None
    wanted = [
        (of, int(n))
        for of in things
        for n in sorted(random.choice(frames[of], min(VIEWS, len(frames[of])), replace=False))
    ]
    wanted += [(-1, int(random.integers(count))) for _ in range(ASIDE)]
    rows = [view(random, pictures[n], seen[n], of, things) for of, n in wanted]
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    names = "crop", "s4", "s8", "s16", "masks", "inside"
    which = np.array([things.index(of) if of in things else -1 for of, _ in wanted])
    return {**dict(zip(names, columns, strict=True)), "thing": which}


def view(
    random: Random, picture: Picture, masks: Masks, of: int, things: list[int]
) -> tuple[npt.NDArray, ...]:
    """A window about a thing, or anywhere: crop, maps, masks of all things, what is on it."""
    high, wide = picture.shape[:2]
    window = CropWindow(random.uniform(0, wide), random.uniform(0, high), random.uniform(80, 350))
    if of in masks:
        window = window_around_mask(masks[of])
        dx, dy = 0.07 * window.side * random.standard_normal(2)
        times = float(np.exp(0.2 * random.standard_normal()))
        window = CropWindow(window.x + dx, window.y + dy, window.side * times)
        picture = lit(random, picture, masks[of])
    crop = window.crop(picture, SIZE)
    maps = [each.astype(np.float16) for each in feature_maps(crop)]
    none = np.zeros((high, wide), bool)
    drawn = [
        window.crop(255 * masks.get(each, none).astype(np.float32), GRID, replicate_border=False)
        for each in things
    ]
    return crop, *maps, np.round(drawn).astype(np.uint8), window.in_picture((wide, high), GRID)


def main() -> None:
    """Write a file for each clip and round."""
    for (turn, k), paths, to in each_clip(__doc__):
        found = views(np.random.default_rng((turn, k, 77)), pickle.loads(paths[k].read_bytes()))
        if found is not None:
            np.savez(to.with_suffix(".npz"), **found)
            print(f"{to.name}: {len(found['thing'])}", flush=True)


if __name__ == "__main__":
    main()
