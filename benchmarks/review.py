"""Measure how well `annotate review` finds errors, against evenly spaced frames.

    python benchmarks/review.py ../shared/gameplay/dev/{easy,medium,hard}.mp4 [--engine light]

The script prints two lines for each clip. In the first, the items are the monsters of the ground
truth, with one error inserted for every forty frames: for 8 to 24 frames a mask jumps away, drifts
off, covers the image, is that of another object, or is missing. In the second, the items are the
engine's result for one click an object, and an error is a run of frames on which the J of a clicked
object is below 0.5, or on which a hidden object has a mask. As many frames are reviewed as there
are errors, at most 24. `precision` is the share of reviewed frames within three frames of an error,
`recall` the share of errors with such a frame; after the slash are the values for evenly spaced
frames.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from annotate import prompts
from annotate.items import journal, masks
from annotate.items.records import Item, Object
from annotate.propagators.job import PROPAGATORS, Job
from annotate.propagators.run import run_to_file
from annotate.video import reader
from annotate.viewing import review

TOLERANCE_FRAMES, MAX_REVIEWED = 3, 24
Truth = dict[int, list[dict[str, Any]]]  # frame -> annotations
Error = range  # of frames


def read(path: Path) -> tuple[Truth, list[str]]:
    """Read the monsters by frame, and list the kinds of error to insert."""
    record = json.loads(path.read_text())
    monsters = {c["id"]: c["name"] for c in record["categories"] if c["supercategory"] == "Monster"}
    truth: Truth = {image["id"]: [] for image in record["images"]}
    for annotation in record["annotations"]:
        if annotation["category_id"] in monsters and annotation["area"] >= 64:
            truth[annotation["image_id"]].append(
                {**annotation, "label": monsters[annotation["category_id"]]}
            )
    return truth, ["jumps", "drifts", "covers", "another's", "missing"]


def insert_errors(
    truth: Truth, kinds: list[str], clip: reader.Video
) -> tuple[list[Item], list[Error]]:
    """Insert errors into the true items; returns the items and the frames of the errors."""
    random = np.random.default_rng(0)
    objects_by_frame = {n: {a["track_id"]: _object(a) for a in anns} for n, anns in truth.items()}
    frames, errors = sorted(objects_by_frame), list[Error]()
    for number in range(len(frames) // 40):
        first = int(random.integers(40 * number, 40 * number + 15))
        frame_range = range(first, min(first + int(random.integers(8, 25)), len(frames)))
        tracks = [
            t for t in objects_by_frame[first] if all(t in objects_by_frame[n] for n in frame_range)
        ]
        if tracks:
            track, kind = int(random.choice(tracks)), kinds[number % len(kinds)]
            for n in frame_range:
                _insert_error(objects_by_frame[n], track, kind, n - first, clip)
            errors.append(frame_range)
    started: set[int] = set()
    items = []
    for n in frames:
        started |= set(objects_by_frame[n])
        size = (clip.width, clip.height)
        lost = tuple(sorted(started - set(objects_by_frame[n])))
        items.append(
            Item(clip.name, n, Fraction(n, 35), *size, tuple(objects_by_frame[n].values()), lost)
        )
    return items, errors


def _object(annotation: dict[str, Any]) -> Object:
    x, y, width, height = annotation["bbox"]
    box = (x, y, x + width, y + height)
    return Object(annotation["label"], box, 0.9, annotation["track_id"], annotation["segmentation"])


def _insert_error(
    objects_by_track: dict[int, Object], track: int, kind: str, age: int, clip: reader.Video
) -> None:
    obj = objects_by_track[track]
    if kind == "missing":
        del objects_by_track[track]
        return
    others = [each for other, each in objects_by_track.items() if other != track]
    if kind == "another's" and others:
        objects_by_track[track] = replace(others[0], track=track, label=obj.label)
        return
    assert obj.mask is not None
    dense = masks.decode(obj.mask)
    width = int(obj.box[2] - obj.box[0])
    if kind == "covers":
        dense[: int(0.9 * clip.height)] = True
    else:
        shift = 3 * width if kind == "jumps" else round(0.08 * age * width)
        right_margin = clip.width - int(obj.box[2])
        dense = np.roll(
            dense, shift if shift < right_margin else -min(shift, int(obj.box[0])), axis=1
        )
    objects_by_track[track] = replace(
        obj, mask=masks.encode(dense), box=masks.box(dense) or obj.box
    )


def find_errors(items: Iterable[Item], truth: Truth, clicked: Sequence[int]) -> list[Error]:
    """Find runs of frames on which a clicked object is badly tracked."""
    true_masks = {n: {a["track_id"]: a["segmentation"] for a in anns} for n, anns in truth.items()}
    wrong = defaultdict(list)
    for item in items:
        proposed = {obj.track: obj.mask for obj in item.objects}
        for track in clicked:
            mask, true = proposed.get(track), true_masks[item.frame].get(track)
            correct = (
                masks.iou(mask, true) >= 0.5 if mask and true else mask is None and true is None
            )
            if not correct and (mask or track in item.lost):
                wrong[track].append(item.frame)
    return [frame_range for frames in wrong.values() for frame_range in _frame_ranges(frames)]


def _frame_ranges(frames: list[int]) -> list[Error]:
    cuts = [n for n in range(1, len(frames)) if frames[n] - frames[n - 1] > 5]
    parts = np.split(np.array(frames), cuts)
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts]


def precision_recall(reviewed: Sequence[int], errors: Sequence[Error]) -> tuple[float, float]:
    """Compute precision and recall of reviewed frames."""
    hits = [
        any(e.start - TOLERANCE_FRAMES <= n < e.stop + TOLERANCE_FRAMES for e in errors)
        for n in reviewed
    ]
    found_errors = [
        any(e.start - TOLERANCE_FRAMES <= n < e.stop + TOLERANCE_FRAMES for n in reviewed)
        for e in errors
    ]
    return float(np.mean(hits)), float(np.mean(found_errors))


def print_row(name: str, items: list[Item], errors: list[Error], flagged: bool) -> None:
    """Measure and print one line."""
    count = min(len(errors), MAX_REVIEWED)
    reviewed = [each.item.frame for each in review.find_frames(items, count, flagged=flagged)]
    first, last = items[0].frame, items[-1].frame
    evenly = np.linspace(first, last, count + 2).round().astype(int)[1:-1].tolist()
    (p, r), (p_evenly, r_evenly) = (
        precision_recall(n, errors) for n in (reviewed or [-99], evenly)
    )
    share = len({n for e in errors for n in e}) / len(items)
    print(
        f"{name:26} errors {len(errors):3} on {share:4.0%} of frames  reviewed {len(reviewed):3}  "
        f"precision {p:.2f} / {p_evenly:.2f}  recall {r:.2f} / {r_evenly:.2f}",
        flush=True,
    )


def main() -> None:
    """Print two lines for each clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--engine", default="light")
    parser.add_argument("--keep", type=Path, help="Folder for the engine's items; used again.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        items_dir = args.keep or Path(folder)
        for path in args.clips:
            clip, (truth, kinds) = reader.probe(path), read(path.with_suffix(".gt.json"))
            print_row(f"{path.stem}, errors inserted", *insert_errors(truth, kinds, clip), False)
            scope = prompts.clip_scope(clip)
            points = prompts.read_points(path.with_suffix(".points.csv"), scope)
            table, out = prompts.prompt_table(points, scope=scope), items_dir / f"{path.stem}.jsonl"
            job = Job(PROPAGATORS.load(args.engine), args.engine, path, table)
            run_to_file(job, out)
            items = list(journal.read(out))
            print_row(
                f"{path.stem}, {args.engine}",
                items,
                find_errors(items, truth, list(table.labels)),
                True,
            )


if __name__ == "__main__":
    main()
