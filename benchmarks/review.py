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
    for each in record["annotations"]:
        if each["category_id"] in monsters and each["area"] >= 64:
            truth[each["image_id"]].append({**each, "label": monsters[each["category_id"]]})
    return truth, ["jumps", "drifts", "covers", "another's", "missing"]


def insert_errors(
    truth: Truth, kinds: list[str], clip: reader.Video
) -> tuple[list[Item], list[Error]]:
    """Insert errors into the true items; returns the items and the frames of the errors."""
    random = np.random.default_rng(0)
    found = {n: {a["track_id"]: _object(a) for a in anns} for n, anns in truth.items()}
    frames, errors = sorted(found), list[Error]()
    for turn in range(len(frames) // 40):
        first = int(random.integers(40 * turn, 40 * turn + 15))
        stretch = range(first, min(first + int(random.integers(8, 25)), len(frames)))
        tracks = [t for t in found[first] if all(t in found[n] for n in stretch)]
        if tracks:
            track, kind = int(random.choice(tracks)), kinds[turn % len(kinds)]
            for n in stretch:
                _insert_error(found[n], track, kind, n - first, clip)
            errors.append(stretch)
    started: set[int] = set()
    items = []
    for n in frames:
        started |= set(found[n])
        size = (clip.width, clip.height)
        lost = tuple(sorted(started - set(found[n])))
        items.append(Item(clip.name, n, Fraction(n, 35), *size, tuple(found[n].values()), lost))
    return items, errors


def _object(each: dict[str, Any]) -> Object:
    x, y, width, height = each["bbox"]
    box = (x, y, x + width, y + height)
    return Object(each["label"], box, 0.9, each["track_id"], each["segmentation"])


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
    dense = masks.decode(obj.mask)
    width = int(obj.box[2] - obj.box[0])
    if kind == "covers":
        dense[: int(0.9 * clip.height)] = True
    else:
        shift = 3 * width if kind == "jumps" else round(0.08 * age * width)
        room = clip.width - int(obj.box[2])
        dense = np.roll(dense, shift if shift < room else -min(shift, int(obj.box[0])), axis=1)
    objects_by_track[track] = replace(obj, mask=masks.encode(dense), box=masks.box(dense))


def find_errors(items: Iterable[Item], truth: Truth, clicked: Sequence[int]) -> list[Error]:
    """Find runs of frames on which a clicked object is badly tracked."""
    real = {n: {a["track_id"]: a["segmentation"] for a in anns} for n, anns in truth.items()}
    wrong = defaultdict(list)
    for item in items:
        proposed = {obj.track: obj.mask for obj in item.objects}
        for track in clicked:
            mask, true = proposed.get(track), real[item.frame].get(track)
            good = masks.iou(mask, true) >= 0.5 if mask and true else mask is None and true is None
            if not good and (mask or track in item.lost):
                wrong[track].append(item.frame)
    return [stretch for frames in wrong.values() for stretch in _stretches(frames)]


def _stretches(frames: list[int]) -> list[Error]:
    cuts = [n for n in range(1, len(frames)) if frames[n] - frames[n - 1] > 5]
    parts = np.split(np.array(frames), cuts)
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts]


def precision_recall(reviewed: Sequence[int], errors: Sequence[Error]) -> tuple[float, float]:
    """Compute precision and recall of reviewed frames."""
    hit = [
        any(e.start - TOLERANCE_FRAMES <= n < e.stop + TOLERANCE_FRAMES for e in errors)
        for n in reviewed
    ]
    had = [
        any(e.start - TOLERANCE_FRAMES <= n < e.stop + TOLERANCE_FRAMES for n in reviewed)
        for e in errors
    ]
    return float(np.mean(hit)), float(np.mean(had))


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
        kept = args.keep or Path(folder)
        for path in args.clips:
            clip, (truth, kinds) = reader.probe(path), read(path.with_suffix(".gt.json"))
            print_row(f"{path.stem}, errors inserted", *insert_errors(truth, kinds, clip), False)
            scope = prompts.PromptScope((clip.width, clip.height), clip.frame_count)
            points = prompts.read_points(path.with_suffix(".points.csv"), scope)
            table, out = prompts.prompt_table(points, scope=scope), kept / f"{path.stem}.jsonl"
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
