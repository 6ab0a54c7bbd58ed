"""Make the training data of `train_apart.py`: views of the objects of generated clips.

One .npz file per clip and round is written; a line with its number of views is printed.

    python benchmarks/apart_samples.py clips views [--part 0 --parts 2] [--rounds 1]

The clips are by `make_gameplay.py` and `make_composites.py`, augmented as for `follow_samples.py`.
A view is a crop: around an object, in one of four lit as by a muzzle flash, or, for a few, at a
random position. With each crop are saved the backbone's feature maps and the masks of all objects.
"""

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
from click_samples import (
    Clip,
    Masks,
    Random,
    augmented_frames,
    clips_and_outputs,
    with_muzzle_flash,
)
from follow_samples import random_gains, random_zooms

from annotate.backbone import feature_maps
from annotate.items.records import Picture
from annotate.propagators.light.crops import CropWindow, window_around_mask

MIN_AREA, MIN_FRAMES = 250, 8  # an object is used if 8 frames show 250 pixels of it or more
MAX_OBJECTS, VIEWS_PER_OBJECT = 4, 6
BACKGROUND_VIEWS = 3  # of a clip, at random positions
CROP_SIDE, MASK_SIDE = 256, 64


def views_of_clip(random: Random, clip: Clip) -> dict[str, npt.NDArray[Any]] | None:
    """Make the arrays of one clip; None if no object is large enough for long enough."""
    count = len(clip["frames"])
    augmented = augmented_frames(
        random, clip, range(count), random_zooms(random, count), random_gains(random, count)
    )
    pictures, masks_by_frame = map(list, zip(*augmented, strict=True))
    frames = {
        object_id: [
            n
            for n, masks in enumerate(masks_by_frame)
            if object_id in masks and masks[object_id].sum() >= MIN_AREA
        ]
        for object_id in clip["masks"]
    }
    object_ids = [
        object_id for object_id, numbers in sorted(frames.items()) if len(numbers) >= MIN_FRAMES
    ][:MAX_OBJECTS]
    if not object_ids:
        return None
    chosen = [
        (object_id, int(n))
        for object_id in object_ids
        for n in sorted(
            random.choice(
                frames[object_id], min(VIEWS_PER_OBJECT, len(frames[object_id])), replace=False
            )
        )
    ]
    chosen += [(-1, int(random.integers(count))) for _ in range(BACKGROUND_VIEWS)]
    rows = [
        make_view(random, pictures[n], masks_by_frame[n], object_id, object_ids)
        for object_id, n in chosen
    ]
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    keys = "crop", "s4", "s8", "s16", "masks", "inside"
    object_index = np.array(
        [object_ids.index(object_id) if object_id in object_ids else -1 for object_id, _ in chosen]
    )
    return {**dict(zip(keys, columns, strict=True)), "thing": object_index}


def make_view(
    random: Random, picture: Picture, masks: Masks, object_id: int, object_ids: list[int]
) -> tuple[npt.NDArray[Any], ...]:
    """Crop around an object, or anywhere if `object_id` is -1.

    Returns the crop, its feature maps s4, s8 and s16, the masks of all objects, and which cells lie
    on the picture.
    """
    high, wide = picture.shape[:2]
    window = CropWindow(random.uniform(0, wide), random.uniform(0, high), random.uniform(80, 350))
    if object_id in masks:
        window = window_around_mask(masks[object_id])
        dx, dy = 0.07 * window.side * random.standard_normal(2)
        factor = float(np.exp(0.2 * random.standard_normal()))
        window = CropWindow(window.x + dx, window.y + dy, window.side * factor)
        picture = with_muzzle_flash(random, picture, masks[object_id])
    crop = window.crop(picture, CROP_SIDE)
    maps = [each.astype(np.float16) for each in feature_maps(crop)]
    no_mask = np.zeros((high, wide), bool)
    mask_crops = [
        window.crop(
            255 * masks.get(each, no_mask).astype(np.float32), MASK_SIDE, replicate_border=False
        )
        for each in object_ids
    ]
    return (
        crop,
        *maps,
        np.round(mask_crops).astype(np.uint8),
        window.in_picture((wide, high), MASK_SIDE),
    )


def main() -> None:
    """Write the views of each clip and round."""
    for (round_number, number), paths, out in clips_and_outputs(__doc__):
        arrays = views_of_clip(
            np.random.default_rng((round_number, number, 77)),
            pickle.loads(paths[number].read_bytes()),
        )
        if arrays is not None:
            np.savez(out.with_suffix(".npz"), **arrays)
            print(f"{out.name}: {len(arrays['thing'])}", flush=True)


if __name__ == "__main__":
    main()
