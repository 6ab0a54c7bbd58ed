"""Measure labels per touch: a detector from few touches against one from perfect labels.

    python benchmarks/curve.py CLIPS GOLD -o curve.csv [--clips 4] [--touches 30 90] [--seeds 0]

CLIPS is the folder of clips that `make_detection.py` wrote, GOLD a dataset of its gold clips. The
class is `monster`. A touch is one deliberate act: a click 1, a drag (draw, move or resize a box) 2,
a key or a look at a frame 1. The person is simulated from the ground truth: a proposed box with an
IoU of 0.7 or more is kept, from 0.3 on moved (2), else deleted (1); a missing one is drawn (2).

Four arms spend the same touches:

- `drawn`: boxes are drawn on frames that are spread evenly over the clips;
- `corrected`: the same for a third of the touches; the detector of these proposes on other spread
  frames, where its boxes are corrected;
- `clicked`: one click an object where it first appears, propagated by `light`, for at most three
  quarters of the touches; then the worst frames by `annotate review` are corrected;
- `next`: as `clicked`, but the frames to correct are those of `annotate next`, by the detector of
  the clicks.

Every arm trains `light` with the same settings on the same val part. `ratio` is AP50 on gold over
AP50 of the detector from the true labels of every `--every`-th frame; its interval is a paired
bootstrap over the clips of gold.
"""

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from annotate import prompts
from annotate.active_learning.run import NextSources, next_frames
from annotate.active_learning.selection import SelectionOptions
from annotate.dataset.build import build_dataset
from annotate.dataset.folder import SplitRange, load_dataset, with_split
from annotate.dataset.frame_sources import DatasetFrameSource, FrameKey
from annotate.detectors.run import DETECTORS, Detector, detect_frames, read_detector_vocabulary
from annotate.evaluation.gold.bootstrap import match_counts, percentile_interval, resample_clips
from annotate.items import journal
from annotate.items.boxes import iou_matrix
from annotate.items.records import Header, Item, Object
from annotate.propagators.job import PROPAGATORS, Job
from annotate.propagators.run import run_to_file
from annotate.training.run import Training, train
from annotate.video import reader
from annotate.viewing.review import find_frames

LABEL = "monster"
CLICK, DRAG, KEY = 1, 2, 1
KEPT_IOU, MOVED_IOU = 0.7, 0.3
CLICK_SHARE, FIRST_SHARE = 0.75, 1 / 3  # of the touches
MIN_SCORE = 0.02  # of the boxes that gold is measured with
ARMS = ("drawn", "corrected", "clicked", "next")
Labels = dict[FrameKey, Item]  # the labelled frames of an arm


def read_truth(path: Path) -> dict[int, Item]:
    """Read the monsters of every frame of a clip."""
    return {
        item.frame: replace(item, objects=tuple(o for o in item.objects if o.label == LABEL))
        for item in journal.read(path)
    }


def correct(proposed: Item, truth: Item) -> tuple[Item, int]:
    """Correct the boxes of a frame: the corrected frame, and the touches."""
    ious = iou_matrix([o.box for o in proposed.objects], [o.box for o in truth.objects])
    objects, touches, found = list(truth.objects), KEY, 0
    while ious.size and ious.max() >= MOVED_IOU:
        row, column = np.unravel_index(int(ious.argmax()), ious.shape)
        if ious[row, column] >= KEPT_IOU:
            objects[column] = replace(proposed.objects[row], mask=None)
        else:
            touches += DRAG
        ious[row], ious[:, column], found = 0, 0, found + 1
    touches += KEY * (len(proposed.objects) - found) + DRAG * (len(truth.objects) - found)
    return replace(truth, objects=tuple(objects)), touches


@dataclass
class Experiment:
    """The clips, the truth of every frame, and the settings of the trainings."""

    folder: Path
    clips: dict[str, Path]
    truth: dict[str, dict[int, Item]]
    val: dict[str, Path]
    every: int
    epochs: int
    size: int
    seed: int = 0
    trained: int = 0

    def spread(self, count: int) -> list[FrameKey]:
        """List frames that are spread evenly over all clips."""
        keys = [(clip, frame) for clip, frames in self.truth.items() for frame in frames]
        step = len(keys) / count
        return [keys[int((number + 0.5) * step)] for number in range(count)]

    def train(self, labels: Labels) -> Path:
        """Train a detector on labelled frames, and return the folder of the model."""
        self.trained += 1
        place = self.folder / f"{self.seed}-{self.trained}"
        place.mkdir()
        frames: dict[str, list[int]] = {}
        for clip, frame in sorted(labels):
            frames.setdefault(clip, []).append(frame)
        paths = [
            self.write(place, clip, [labels[clip, f] for f in frames[clip]]) for clip in frames
        ]
        for clip, path in self.val.items():
            truth = read_truth(path.with_suffix(".items.jsonl"))
            frames[clip] = list(truth)[:: 2 * self.every]
            paths.append(self.write(place, clip, [truth[f] for f in frames[clip]]))
        dataset = build_dataset(paths, place / "set", frames=frames, image_format="jpg")
        parts = {clip: "val" if clip in self.val else "train" for clip in frames}
        with_split(dataset, [SplitRange(c, 0, 1 << 30, part) for c, part in parts.items()])
        training = Training(
            dataset.path,
            place / "model",
            epochs=self.epochs,
            image_size=self.size,
            seed=self.seed,
            threads=1,
        )
        return train(training).folder

    def write(self, place: Path, clip: str, items: Iterable[Item]) -> Path:
        """Write items of a clip."""
        entry = reader.header_entry(reader.probe({**self.clips, **self.val}[clip]))
        path = place / f"{clip}.items.jsonl"
        header = Header("test", vocabulary={"labels": [LABEL]}, videos=entry)
        journal.write(path, header, (plain(item) for item in items))
        return path


def plain(item: Item) -> Item:
    """Keep the boxes of an item alone."""
    objects = tuple(Object(LABEL, obj.box, obj.score, obj.track) for obj in item.objects)
    return replace(item, objects=objects, lost=())


def load(model: Path, min_score: float | None = None) -> Detector:
    """Load the detector of a model."""
    option = {"model": str(model)}
    words = read_detector_vocabulary(None, option)
    return DETECTORS.load("trained", words, **option, min_score=min_score)


def drawn(world: Experiment, touches: int) -> tuple[Labels, int]:
    """Draw boxes on spread frames."""
    labels: Labels = {}
    for count in range(1, touches + 1):
        keys = world.spread(count)
        items = {key: world.truth[key[0]][key[1]] for key in keys}
        spent = sum(KEY + DRAG * len(item.objects) for item in items.values())
        if spent > touches:
            break
        labels, total = items, spent
    return labels, total


def corrected(world: Experiment, touches: int) -> tuple[Labels, int]:
    """Draw boxes on few frames, then correct what their detector proposes on spread frames."""
    labels, spent = drawn(world, max(int(touches * FIRST_SHARE), 8))
    detector = load(world.train(labels))
    for clip, frame in world.spread(touches):
        if (clip, frame) in labels:
            continue
        picture = reader.frames_at(world.clips[clip], [frame])
        [proposed] = detect_frames(detector, picture, "trained")
        item, cost = correct(proposed, world.truth[clip][frame])
        if spent + cost <= touches:
            labels[clip, frame], spent = item, spent + cost
    return labels, spent


def clicks(world: Experiment, touches: int) -> tuple[dict[str, Path], int]:
    """Click every object of one clip after the other, and propagate: items by clip, touches."""
    found: dict[str, Path] = {}
    spent = 0
    for clip, path in world.clips.items():
        first = first_boxes(world.truth[clip])
        if spent + CLICK * len(first) > CLICK_SHARE * touches:
            break
        spent += CLICK * len(first)
        found[clip] = world.folder / f"{clip}.clicked.jsonl"
        if not found[clip].exists():
            propagate(path, first, found[clip])
    return found, spent


def first_boxes(truth: dict[int, Item]) -> dict[int, tuple[int, Object]]:
    """Find where each object first appears: track -> (frame, object)."""
    first: dict[int, tuple[int, Object]] = {}
    for frame, item in truth.items():
        for obj in item.objects:
            first.setdefault(obj.track or 0, (frame, obj))
    return first


def propagate(clip: Path, first: dict[int, tuple[int, Object]], out: Path) -> None:
    """Propagate a click in the middle of each object."""
    rows = [
        (frame, track, (o.box[0] + o.box[2]) / 2, (o.box[1] + o.box[3]) / 2, 1, LABEL)
        for track, (frame, o) in first.items()
    ]
    columns = ["frame_id", "object_id", "x", "y", "label", "class"]
    scope = prompts.clip_scope(reader.probe(clip))
    points = prompts.read_points(pd.DataFrame(rows, columns=columns), scope)
    table = prompts.prompt_table(points, scope=scope)
    run_to_file(Job(PROPAGATORS.load("light", fast=True), "light", clip, table), out)


def propagated(world: Experiment, paths: dict[str, Path]) -> dict[FrameKey, Item]:
    """Read all propagated frames; those without a record, before the first click, are empty."""
    items = {(clip, i.frame): i for clip, path in paths.items() for i in journal.read(path)}
    for clip in paths:
        for frame, item in world.truth[clip].items():
            items.setdefault((clip, frame), replace(item, objects=()))
    return items


def clicked(world: Experiment, touches: int, *, by_next: bool = False) -> tuple[Labels, int]:
    """Click, propagate, and correct the worst frames, by the review or by `next`."""
    paths, spent = clicks(world, touches)
    items = propagated(world, paths)
    labels = {key: plain(item) for key, item in items.items() if key[1] % world.every == 0}
    order = next_order(world, labels, items) if by_next else review_order(paths)
    for key in order:
        item, cost = correct(plain(items[key]), world.truth[key[0]][key[1]])
        if spent + cost > touches:
            break
        labels[key], spent = item, spent + cost
    return labels, spent


def review_order(paths: dict[str, Path]) -> Iterator[FrameKey]:
    """Yield the frames of all clips to review, worst first."""
    found = [
        (each.priority, clip, each.item.frame)
        for clip, path in paths.items()
        for each in find_frames(journal.read(path), flagged=True)
    ]
    yield from ((clip, frame) for _, clip, frame in sorted(found, key=lambda e: (-e[0], *e[1:])))


def next_order(world: Experiment, labels: Labels, items: dict[FrameKey, Item]) -> list[FrameKey]:
    """List the frames of `next`: where the detector of the clicks contradicts them."""
    model = world.train(labels)
    place = model.parent
    clips = sorted({clip for clip, _ in items})
    files = [
        world.write(place, clip, [item for key, item in sorted(items.items()) if key[0] == clip])
        for clip in clips
    ]
    sources = NextSources(files, model=model)
    return [each.key for each in next_frames(sources, SelectionOptions(40, random_share=0))]


def boxes_on_gold(model: Path, gold: Path) -> dict[FrameKey, list[Object]]:
    """Find all boxes on the frames of gold."""
    frames = DatasetFrameSource(gold).frames()
    items = detect_frames(load(model, MIN_SCORE), frames, "trained")
    return {(item.video, item.frame): list(item.objects) for item in items}


def measure(world: Experiment, gold: Path, budgets: list[int]) -> Iterator[dict[str, object]]:
    """Yield the rows of the table."""
    truth = {
        (s.item.video, s.item.frame): [o for o in s.item.objects if o.label == LABEL]
        for s in load_dataset(gold)
    }
    clips = sorted({clip for clip, _ in truth})
    weights = np.vstack([np.ones((1, len(clips))), resample_clips(len(clips))])

    def ap50(labels: Labels) -> np.ndarray:
        found = boxes_on_gold(world.train(labels), gold)
        counts = match_counts(truth, found, [LABEL], clips)
        return counts[LABEL, "all"][0].average_precision(weights)

    perfect: Labels = {
        (clip, frame): item
        for clip, frames in world.truth.items()
        for frame, item in frames.items()
        if frame % world.every == 0
    }
    best = ap50(perfect)
    yield {
        "seed": world.seed,
        "arm": "perfect",
        "frames": len(perfect),
        "ap50": best[0],
        "ratio": 1,
    }
    arms = dict(zip(ARMS, (drawn, corrected, clicked, clicked), strict=True))
    for touches in budgets:
        for arm, run in arms.items():
            start = time.perf_counter()
            labels, spent = run(world, touches, **({"by_next": True} if arm == "next" else {}))
            values = ap50(labels)
            interval = percentile_interval(values[1:] / best[1:], len(clips))
            low, high = interval or (float("nan"), float("nan"))
            yield {
                "seed": world.seed, "arm": arm, "touches": touches, "spent": spent,
                "frames": len(labels), "ap50": values[0], "ratio": values[0] / best[0],
                "low": low, "high": high, "seconds": round(time.perf_counter() - start),
            }  # fmt: skip


def main() -> None:
    """Run the experiment, and write a row for each arm, budget and seed as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("gold", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--clips", dest="count", type=int, default=4)
    parser.add_argument("--touches", type=int, nargs="+", default=[30, 90])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=640)
    given = parser.parse_args()
    train_clips = {p.name: p for p in sorted(given.clips.glob("train*.mp4"))[: given.count]}
    val = {p.name: p for p in sorted(given.clips.glob("val*.mp4"))[:3]}
    truth = {n: read_truth(p.with_suffix(".items.jsonl")) for n, p in train_clips.items()}
    columns = [
        "seed",
        "arm",
        "touches",
        "spent",
        "frames",
        "ap50",
        "ratio",
        "low",
        "high",
        "seconds",
    ]
    with given.output.open("w", newline="") as file, tempfile.TemporaryDirectory() as folder:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        for seed in given.seeds:
            settings = given.every, given.epochs, given.size, seed
            world = Experiment(Path(folder), train_clips, truth, val, *settings)
            for row in measure(world, given.gold, given.touches):
                shown = {k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()}
                table.writerow(shown)
                file.flush()
                print(shown, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
