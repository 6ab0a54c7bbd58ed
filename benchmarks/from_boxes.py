"""Compare boxes of a detector with one click per object, as prompts.

    python benchmarks/from_boxes.py ../shared/gameplay/dev/medium.mp4 [--engine light] [--seed 0]

The detector is simulated from the ground truth beside the clip (`medium.gt.json`): every living
monster with at least 400 visible pixels; each side of its box is moved by a normal deviate of a
tenth of the box; three boxes in ten are missing. Three runs: the clicks of `medium.points.csv`;
boxes with track ids; boxes without. In the last, each track counts for the true object with which
it shares most pixels, and `ids` is the number of tracks for each true object.
"""

import argparse
import csv
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from annotate import prompts
from annotate.evaluation import metrics
from annotate.items import journal, masks, records
from annotate.items.records import Item, Object
from annotate.propagators import boxes
from annotate.propagators.job import PROPAGATORS, Job, Propagator
from annotate.propagators.run import run_to_file
from annotate.video import reader

SMALLEST = 400  # pixels; as of the clicks
JITTER, MISSING = 0.1, 0.3


def detected(truth: Path, clip: reader.Video, seed: int) -> Iterator[Item]:
    """Yield the simulated boxes, frame by frame."""
    record, random = json.loads(truth.read_text()), np.random.default_rng(seed)
    monsters = {c["id"]: c["name"] for c in record["categories"] if c["supercategory"] == "Monster"}
    by_frame = defaultdict(list)
    for each in record["annotations"]:
        if each["category_id"] in monsters and each["area"] >= SMALLEST and not each.get("dead"):
            by_frame[each["image_id"]].append(each)
    most = np.array([clip.width, clip.height] * 2)
    for frame in range(len(record["images"])):
        found = []
        for each in by_frame[frame]:
            x, y, width, height = each["bbox"]
            off = random.normal(0, JITTER, 4) * (width, height, width, height)
            box = np.clip(np.array([x, y, x + width, y + height]) + off, 0, most).tolist()
            if random.random() >= MISSING and box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
                label = monsters[each["category_id"]]
                found.append(Object(label, tuple(box), 0.9, each["track_id"]))
        seconds = Fraction(frame, 1)
        yield Item(clip.name, frame, seconds, clip.width, clip.height, tuple(found))


def nameless(items: list[Item]) -> list[Item]:
    """Remove the track ids."""
    return [replace(i, objects=tuple(replace(o, track=None) for o in i.objects)) for i in items]


def renamed(items: list[Item], truth: Path) -> tuple[list[Item], dict[int, int]]:
    """Give each track the id of the true object with which it shares most pixels."""
    real = defaultdict(list)
    for each in json.loads(truth.read_text())["annotations"]:
        if "segmentation" in each:
            real[each["image_id"]].append(each)
    shared: dict[int, Counter[int]] = defaultdict(Counter)
    for item in items:
        for thing in item.objects:
            for each in real[item.frame]:
                overlap = masks.iou(thing.mask, each["segmentation"])
                both = masks.area(thing.mask) + masks.area(each["segmentation"])
                shared[thing.track][each["track_id"]] += both * overlap / (1 + overlap)
    whose = {of: counts.most_common(1)[0][0] for of, counts in shared.items()}
    weight = {of: counts.most_common(1)[0][1] for of, counts in shared.items()}
    done = []
    for item in items:
        best: dict[int, Object] = {}
        for thing in sorted(item.objects, key=lambda each: weight.get(each.track, 0)):
            if thing.track in whose:
                best[whose[thing.track]] = replace(thing, track=whose[thing.track])
        done.append(replace(item, objects=tuple(best.values())))
    return done, dict(Counter(whose.values()))


def main() -> None:
    """Simulate the boxes, run three times, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--engine", default="light")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    options = {"fast": True} if args.fast else {}
    engine = PROPAGATORS.load(args.engine, **options)
    for path in args.clips:
        compare(path, engine, args.engine, args.seed)


def compare(path: Path, engine: Propagator, name: str, seed: int) -> None:
    """Print the three rows of one clip."""
    clip, truth = reader.probe(path), path.with_suffix(".gt.json")
    clicks, items = path.with_suffix(".points.csv"), list(detected(truth, clip, seed))
    scope = prompts.PromptScope((clip.width, clip.height), clip.frame_count)
    with clicks.open() as file:
        asked = sorted({int(row["object_id"]) for row in csv.DictReader(file)})
    clicked = prompts.prompt_table(prompts.read_points(clicks, scope), scope=scope)
    nothing = prompts.prompt_table(scope=scope)
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("clicks", "boxes that name", "boxes"):
            there = None
            if kind != "clicks":
                given = Path(folder) / f"{kind}.boxes.jsonl"
                found = items if kind == "boxes that name" else nameless(items)
                journal.write(
                    given, records.Header("detect", videos=reader.header_entry(clip)), found
                )
                there = boxes.read(given, clip)
            table = clicked if there is None else nothing
            out = Path(folder) / f"{kind}.jsonl"
            run_to_file(Job(engine, name, path, table, boxes=there), out)
            made, ids = list(journal.read(out)), {}
            if kind == "boxes":
                made, ids = renamed(made, truth)
            tracks = [each for each in metrics.track_metrics(truth, made) if each.track in asked]
            j = sum(each.j for each in tracks) / len(asked)
            false = np.mean([each.false_presence for each in tracks])
            per_track = " ".join(f"{each.track}:{each.j:.3f}" for each in tracks)
            split = f"  ids {[ids.get(of, 0) for of in asked]}" if ids else ""
            print(
                f"{path.stem:10} {kind:16} J {j:.4f}  false {false:.3f}  {per_track}{split}",
                flush=True,
            )


if __name__ == "__main__":
    main()
