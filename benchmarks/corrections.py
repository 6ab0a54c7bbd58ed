"""Measure what corrections are worth: a simulated person clicks once a round on the worst frame.

    python benchmarks/make_unseen.py unseen/calm calm --count 8 --seed 801
    python benchmarks/make_unseen.py unseen/fight fight --count 8 --seed 802
    python benchmarks/corrections.py unseen/calm [--clicks 6] [--frames 260] [--fast]

A clip is NAME.mp4 with NAME.gt.json; the objects are those of NAME.points.csv, whose click is the
first one. In each round every object gets one more click, on the frame on which its mask is worst:
on the point of the largest wrong part that is furthest from its edge, inside the object if that
part is missing, and outside if it is too much. A frame is clicked on once for each object. Printed
for each clip, and in the mean, are J over the frames that show the object after 1, 2, ... clicks,
and the share of rounds in which the J of an object falls by more than 0.01.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from review import read
from stretches import deepest_point

from annotate import prompts
from annotate.evaluation import metrics
from annotate.items import masks
from annotate.items.records import Mask, Rle
from annotate.propagators.job import PROPAGATORS, Job, Propagator
from annotate.propagators.run import propagate_frames
from annotate.video import reader

MAX_FALL = 0.01
COLUMNS = ["frame_id", "object_id", "x", "y", "label", "class"]


@dataclass
class Target:
    """A clicked object: its true masks by frame, its clicks, and J after each round."""

    truth: dict[int, Rle]
    clicks: list[tuple[int, float, float, int]]  # frame, x, y, label
    scores: list[float] = field(default_factory=list)


def read_targets(clip: Path, frames: int) -> dict[int, Target]:
    """Read the objects that are clicked within the first `frames` frames."""
    truth, _ = read(clip.with_suffix(".gt.json"))
    points = pd.read_csv(clip.with_suffix(".points.csv"))
    targets = {}
    for row in points[points["frame_id"] < frames - 20].itertuples():
        own = {
            frame: annotation["segmentation"]
            for frame, annotations in truth.items()
            for annotation in annotations
            if annotation["track_id"] == row.object_id
            and annotation["area"] >= metrics.MIN_AREA
            and row.frame_id <= frame < frames
        }
        click = int(row.frame_id), float(row.x), float(row.y), 1
        targets[int(row.object_id)] = Target(own, [click])
    return targets


def track(
    clip: Path, engine: Propagator, targets: Mapping[int, Target], frames: int
) -> dict[int, dict[int, Rle]]:
    """Run the engine with all clicks: object -> frame -> mask."""
    rows = [
        (frame, object_id, x, y, label, f"monster {object_id}")
        for object_id, target in targets.items()
        for frame, x, y, label in target.clicks
    ]
    scope = prompts.clip_scope(reader.probe(clip))
    table = prompts.read_points(pd.DataFrame(rows, columns=COLUMNS), scope)
    job = Job(engine, "light", clip, prompts.prompt_table(table, scope=scope), stop=frames)
    found: dict[int, dict[int, Rle]] = {object_id: {} for object_id in targets}
    for _, item in propagate_frames(job):
        for obj in item.objects:
            if obj.track is not None and obj.mask is not None:
                found[obj.track][item.frame] = obj.mask
    return found


def correct(target: Target, found: Mapping[int, Rle]) -> None:
    """Score the masks of an object, and click on the worst frame that has no click yet."""
    ious = {
        frame: masks.iou(found[frame], true) if frame in found else 0.0
        for frame, true in target.truth.items()
    }
    target.scores.append(float(np.mean(list(ious.values()))))
    clicked = {frame for frame, *_ in target.clicks}
    left = [frame for frame in ious if frame not in clicked]
    worst = min(left, key=lambda frame: (ious[frame], frame))
    true = masks.decode(target.truth[worst])
    mask = masks.decode(found[worst]) if worst in found else np.zeros_like(true)
    part = largest_part(true ^ mask)
    x, y = deepest_point(part)
    target.clicks.append((worst, x, y, int(true[int(y), int(x)])))


def largest_part(wrong: Mask) -> Mask:
    """Return the largest connected part of a mask."""
    count, parts = cv2.connectedComponents(wrong.astype(np.uint8))
    if count < 2:
        return wrong
    sizes = np.bincount(parts.ravel(), minlength=count)
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def measure(clip: Path, engine: Propagator, clicks: int, frames: int) -> list[list[float]]:
    """Let the person click, and return J of each object after each round."""
    targets = read_targets(clip, frames)
    for _ in range(clicks):
        found = track(clip, engine, targets, frames)
        for object_id, target in targets.items():
            correct(target, found[object_id])
    return [target.scores for target in targets.values()]


def print_row(name: str, scores: list[list[float]]) -> None:
    """Print the mean J after each round, and the share of rounds that fall."""
    falls = np.diff(np.array(scores), axis=1) < -MAX_FALL
    by_round = " ".join(f"{score:.3f}" for score in np.mean(scores, axis=0))
    share = falls.mean() if falls.size else 0.0
    print(f"{name:18} {len(scores):3} objects   J {by_round}   falls {share:.2f}", flush=True)


def main() -> None:
    """Parse, click, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="clips, or folders of them")
    parser.add_argument("--clicks", type=int, default=6)
    parser.add_argument("--frames", type=int, default=260, help="use so many frames of each clip")
    parser.add_argument("--fast", action="store_true")
    args = parser.parse_args()
    clips = [each for path in args.paths for each in (sorted(path.glob("*.mp4")) or [path])]
    engine, results = PROPAGATORS.load("light", fast=args.fast, threads=1), []
    for clip in clips:
        scores = measure(clip, engine, args.clicks, args.frames)
        if scores:
            print_row(clip.stem, scores)
            results += scores
    if not results:
        sys.exit("no object is clicked on these frames")
    print_row(f"{len(clips)} clips", results)


if __name__ == "__main__":
    main()
