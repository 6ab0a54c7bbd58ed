"""Measure tracking from boxes of a simulated detector, compared with one click per object.

    python benchmarks/from_boxes.py ../shared/gameplay/dev/medium.mp4 [--engine light] [--seed 0]

The detector is simulated from the ground truth beside the clip (`medium.gt.json`): every living
monster with at least 400 visible pixels; each side of its box is moved by a normal deviate of a
tenth of the box; three boxes in ten are missing. Three runs: the clicks of `medium.points.csv`;
boxes with track ids; boxes without. In the last, each track counts for the true object with which
it shares most pixels. Printed for each run: mean J, false presence, J of each clicked object, and
in the last `ids`, the number of tracks for each true object.
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

MIN_AREA = 400  # pixels, the limit of the clicks too
JITTER, MISSING_SHARE = 0.1, 0.3


def simulated_boxes(truth: Path, clip: reader.Video, seed: int) -> Iterator[Item]:
    """Yield the simulated boxes, frame by frame."""
    record, random = json.loads(truth.read_text()), np.random.default_rng(seed)
    monsters = {c["id"]: c["name"] for c in record["categories"] if c["supercategory"] == "Monster"}
    by_frame = defaultdict(list)
    for each in record["annotations"]:
        if each["category_id"] in monsters and each["area"] >= MIN_AREA and not each.get("dead"):
            by_frame[each["image_id"]].append(each)
    limits = np.array([clip.width, clip.height] * 2)
    for frame in range(len(record["images"])):
        objects = []
        for each in by_frame[frame]:
            x, y, width, height = each["bbox"]
            offsets = random.normal(0, JITTER, 4) * (width, height, width, height)
            box = np.clip(np.array([x, y, x + width, y + height]) + offsets, 0, limits).tolist()
            if random.random() >= MISSING_SHARE and box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
                label = monsters[each["category_id"]]
                objects.append(Object(label, tuple(box), 0.9, each["track_id"]))
        seconds = Fraction(frame, 1)
        yield Item(clip.name, frame, seconds, clip.width, clip.height, tuple(objects))


def without_track_ids(items: list[Item]) -> list[Item]:
    """Remove the track ids."""
    return [replace(i, objects=tuple(replace(o, track=None) for o in i.objects)) for i in items]


def with_true_ids(items: list[Item], truth: Path) -> tuple[list[Item], dict[int, int]]:
    """Give each track the id of the true object with which it shares most pixels."""
    true_objects = defaultdict(list)
    for each in json.loads(truth.read_text())["annotations"]:
        if "segmentation" in each:
            true_objects[each["image_id"]].append(each)
    shared: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for item in items:
        for obj in item.objects:
            if obj.track is None or obj.mask is None:
                continue
            for each in true_objects[item.frame]:
                overlap = masks.iou(obj.mask, each["segmentation"])
                area_sum = masks.area(obj.mask) + masks.area(each["segmentation"])
                shared[obj.track][each["track_id"]] += area_sum * overlap / (1 + overlap)
    true_ids = {track: max(pixels, key=pixels.__getitem__) for track, pixels in shared.items()}
    shared_pixels = {track: max(pixels.values()) for track, pixels in shared.items()}
    items_with_ids = []
    for item in items:
        best: dict[int, Object] = {}
        for obj in sorted(item.objects, key=lambda each: shared_pixels.get(each.track or 0, 0)):
            if obj.track in true_ids:
                best[true_ids[obj.track]] = replace(obj, track=true_ids[obj.track])
        items_with_ids.append(replace(item, objects=tuple(best.values())))
    return items_with_ids, dict(Counter(true_ids.values()))


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
    clicks, items = path.with_suffix(".points.csv"), list(simulated_boxes(truth, clip, seed))
    scope = prompts.clip_scope(clip)
    with clicks.open() as file:
        clicked_ids = sorted({int(row["object_id"]) for row in csv.DictReader(file)})
    click_table = prompts.prompt_table(prompts.read_points(clicks, scope), scope=scope)
    empty_table = prompts.prompt_table(scope=scope)
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("clicks", "boxes, track ids", "boxes"):
            box_prompts = None
            if kind != "clicks":
                boxes_path = Path(folder) / f"{kind}.boxes.jsonl"
                boxed = without_track_ids(items) if kind == "boxes" else items
                header = records.Header("detect", videos=reader.header_entry(clip))
                journal.write(boxes_path, header, boxed)
                box_prompts = boxes.read(boxes_path, clip)
            table = click_table if box_prompts is None else empty_table
            out = Path(folder) / f"{kind}.jsonl"
            run_to_file(Job(engine, name, path, table, boxes=box_prompts), out)
            result, tracks_per_object = list(journal.read(out)), dict[int, int]()
            if kind == "boxes":
                result, tracks_per_object = with_true_ids(result, truth)
            tracks = [
                each for each in metrics.track_metrics(truth, result) if each.track in clicked_ids
            ]
            mean_j = sum(each.j for each in tracks) / len(clicked_ids)
            false = np.mean([each.false_presence for each in tracks])
            per_track = " ".join(f"{each.track}:{each.j:.3f}" for each in tracks)
            split = (
                f"  ids {[tracks_per_object.get(each, 0) for each in clicked_ids]}"
                if tracks_per_object
                else ""
            )
            print(
                f"{path.stem:10} {kind:16} J {mean_j:.4f}  false {false:.3f}  {per_track}{split}",
                flush=True,
            )


if __name__ == "__main__":
    main()
