"""Measure how well single monsters are tracked, over many short segments of gameplay.

    python benchmarks/stretches.py SHARED/gameplay/dev [--every 2] [--fast]

A segment starts where a monster first covers 400 pixels, and lasts for at most 90 frames. Each
monster is tracked alone, from its true first mask, and from one click on the point of that mask
that is furthest from its edge. Printed are the mean J over the frames that show the monster, the
share of these frames on which it was lost, and the share on which the mask was elsewhere (J below
0.1). The three clips of `light.py clicks` have seven objects, too few to compare two engines.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from annotate.evaluation import metrics
from annotate.items import masks
from annotate.items.records import Mask, Prompt, Rle
from annotate.propagators.job import PROPAGATORS, PromptedFrame
from annotate.video import reader

CLIPS = ("long", "multishot", "show_ep1", "show_ep2", "show_ep3")
MAX_FRAMES, MIN_FRAMES = 90, 36
MIN_AREA = 400  # pixels of a monster on a frame that counts as visible


@dataclass(frozen=True)
class Segment:
    """A monster of a clip, and its true mask on each frame on which it is visible."""

    clip: Path
    start: int
    stop: int
    truth: dict[int, Rle]


def segments(folder: Path, name: str) -> Iterator[Segment]:
    """Yield the segments of one clip."""
    plain, packed = folder / f"{name}.gt.json", folder / f"{name}.gt.json.gz"
    text = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    truth_json = json.loads(text)
    monsters = {
        each["id"] for each in truth_json["categories"] if each["supercategory"] == "Monster"
    }
    tracks: dict[int, dict[int, dict[str, Any]]] = {}
    for each in truth_json["annotations"]:
        if each["category_id"] in monsters and "segmentation" in each and "track_id" in each:
            tracks.setdefault(each["track_id"], {})[each["image_id"]] = each
    for _, track in sorted(tracks.items()):
        large = [frame for frame in sorted(track) if track[frame]["area"] >= MIN_AREA]
        if not large:
            continue
        stop = min(large[0] + MAX_FRAMES, max(track) + 1)
        if sum(frame < stop for frame in large) >= MIN_FRAMES:
            truth = {frame: track[frame]["segmentation"] for frame in track}
            yield Segment(folder / f"{name}.mp4", large[0], stop, truth)


def deepest_point(mask: Mask) -> tuple[float, float]:
    """Find the point of a mask that is furthest from its edge."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x), float(y)


def track_segment(segment: Segment, *, clicked: bool, fast: bool) -> tuple[float, float, float]:
    """Track one segment: mean J, share of lost frames, share of frames with the mask elsewhere."""
    frames = reader.frames(segment.clip, start=segment.start, stop=segment.stop)
    first, mask = next(frames), masks.decode(segment.truth[segment.start])
    prompt = Prompt(first.index, 1, mask=mask)
    if clicked:
        prompt = Prompt(first.index, 1, np.array([deepest_point(mask)]), np.array([1]))
    session = PROPAGATORS.load("light", fast=fast).begin([PromptedFrame(first, (prompt,))])
    session.step(first, (prompt,))
    overlaps, lost = [], 0
    for frame in frames:
        detections, true_mask = session.step(frame, ()), segment.truth.get(frame.index)
        if true_mask is None or masks.area(true_mask) < metrics.MIN_AREA:
            continue
        lost += len(detections) == 0
        mask = detections.mask[0] if len(detections) else np.zeros_like(mask)
        overlaps.append(masks.iou(masks.encode(mask), true_mask))
    elsewhere = sum(iou < 0.1 for iou in overlaps) - lost
    return float(np.mean(overlaps)), lost / len(overlaps), elsewhere / len(overlaps)


def main() -> None:
    """Parse, track, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=2, help="use every nth segment")
    parser.add_argument("--fast", action="store_true")
    args = parser.parse_args()
    all_segments = [each for clip in CLIPS for each in segments(args.folder, clip)]
    chosen_segments = all_segments[:: args.every]
    for clicked in (False, True):
        with ProcessPoolExecutor() as pool:
            track = partial(track_segment, clicked=clicked, fast=args.fast)
            results = list(pool.map(track, chosen_segments))
        mean_j, lost, elsewhere = np.mean(results, axis=0)
        print(
            f"{'one click' if clicked else 'true first mask':16} {len(results)} segments"
            f"   J {mean_j:.3f}   lost {lost:.3f}   elsewhere {elsewhere:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
