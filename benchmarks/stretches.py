"""Measure how well single monsters are tracked, over many short segments of gameplay.

    python benchmarks/stretches.py SHARED/gameplay/dev [--every 2] [--fast]

A segment starts where a monster first covers 400 pixels, and lasts for at most 90 frames. Each
monster is tracked alone, from its true first mask, and from one click on the point of that mask
that is furthest from its edge. Printed are the mean J over the frames that show it, the share of
these frames on which it was lost, and the share on which the mask was elsewhere (J below 0.1). With
three clips and seven objects a better engine cannot be told from a lucky one; with these segments
it can.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from annotate.evaluation import metrics
from annotate.items import masks
from annotate.items.records import Mask, Prompt, Rle
from annotate.propagators.job import PROPAGATORS, PromptedFrame
from annotate.video import reader

CLIPS = ("long", "multishot", "show_ep1", "show_ep2", "show_ep3")
LONGEST, SHORTEST, SEEN = 90, 36, 400  # frames, frames, pixels


@dataclass(frozen=True)
class Stretch:
    """A monster of a clip, and its true mask on each frame that shows it."""

    clip: Path
    start: int
    stop: int
    truth: dict[int, Rle]


def stretches(folder: Path, name: str) -> Iterator[Stretch]:
    """Yield the segments of one clip."""
    plain, packed = folder / f"{name}.gt.json", folder / f"{name}.gt.json.gz"
    text = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    truth_json = json.loads(text)
    monsters = {
        each["id"] for each in truth_json["categories"] if each["supercategory"] == "Monster"
    }
    tracks: dict[int, dict[int, dict]] = {}
    for each in truth_json["annotations"]:
        if each["category_id"] in monsters and "segmentation" in each and "track_id" in each:
            tracks.setdefault(each["track_id"], {})[each["image_id"]] = each
    for _, track in sorted(tracks.items()):
        large = [frame for frame in sorted(track) if track[frame]["area"] >= SEEN]
        if not large:
            continue
        stop = min(large[0] + LONGEST, max(track) + 1)
        if sum(frame < stop for frame in large) >= SHORTEST:
            truth = {frame: track[frame]["segmentation"] for frame in track}
            yield Stretch(folder / f"{name}.mp4", large[0], stop, truth)


def deepest(mask: Mask) -> tuple[float, float]:
    """Find the point of a mask that is furthest from its edge."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x), float(y)


def followed(stretch: Stretch, *, clicked: bool, fast: bool) -> tuple[float, float, float]:
    """Track one segment: mean J, share of lost frames, share of frames with the mask elsewhere."""
    frames = reader.frames(stretch.clip, start=stretch.start, stop=stretch.stop)
    first, mask = next(frames), masks.decode(stretch.truth[stretch.start])
    prompt = Prompt(first.index, 1, mask=mask)
    if clicked:
        prompt = Prompt(first.index, 1, np.array([deepest(mask)]), np.array([1]))
    session = PROPAGATORS.load("light", fast=fast).begin([PromptedFrame(first, (prompt,))])
    session.step(first, (prompt,))
    overlaps, lost = [], 0
    for frame in frames:
        found, real = session.step(frame, ()), stretch.truth.get(frame.index)
        if real is None or masks.area(real) < metrics.MIN_AREA:
            continue
        lost += len(found) == 0
        overlaps.append(masks.iou(masks.encode(found.mask[0]), real) if len(found) else 0.0)
    elsewhere = sum(overlap < 0.1 for overlap in overlaps) - lost
    return float(np.mean(overlaps)), lost / len(overlaps), elsewhere / len(overlaps)


def main() -> None:
    """Parse, track, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=2, help="take one stretch of so many")
    parser.add_argument("--fast", action="store_true")
    args = parser.parse_args()
    chosen = [each for clip in CLIPS for each in stretches(args.folder, clip)][:: args.every]
    for clicked in (False, True):
        with ProcessPoolExecutor() as pool:
            found = list(pool.map(partial(followed, clicked=clicked, fast=args.fast), chosen))
        overlap, lost, elsewhere = np.mean(found, axis=0)
        print(
            f"{'one click' if clicked else 'true first mask':16} {len(found)} stretches"
            f"   J {overlap:.3f}   lost {lost:.3f}   elsewhere {elsewhere:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
