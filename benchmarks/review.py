"""How well `annotate review` finds what is wrong, against looking at evenly spaced frames.

    python benchmarks/review.py ../shared/gameplay/dev/{easy,medium,hard}.mp4 [--engine light]

For each clip two lines. In the first the items are the ground truth's monsters, with an error put
in for every forty frames: a mask that leaps away, drifts off, covers the picture, is another one's,
or is missing, for 8 to 24 frames. In the second they are what the engine makes of one click an
object, and an error is a stretch of frames on which a clicked object's J is below 0.5, or which
claim it though it is hidden. So many looks are had as there are errors, 24 at most. `precision` is
the share of looks within three frames of an error, `recall` the share of errors that have such a
look; behind the stroke stands what evenly spaced looks get.
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

NEAR, MOST = 3, 24  # frames; looks
Truth = dict[int, list[dict[str, Any]]]  # frame -> annotations
Error = range  # of frames


def read(path: Path) -> tuple[Truth, list[str]]:
    """The monsters by frame, and the names of the kinds of error that are put in."""
    record = json.loads(path.read_text())
    monsters = {c["id"]: c["name"] for c in record["categories"] if c["supercategory"] == "Monster"}
    truth: Truth = {image["id"]: [] for image in record["images"]}
    for each in record["annotations"]:
        if each["category_id"] in monsters and each["area"] >= 64:
            truth[each["image_id"]].append({**each, "label": monsters[each["category_id"]]})
    return truth, ["leaps", "drifts", "covers", "another's", "missing"]


def spoilt(truth: Truth, kinds: list[str], clip: reader.Video) -> tuple[list[Item], list[Error]]:
    """The true items with errors put in, and where those are."""
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
                _spoil(found[n], track, kind, n - first, clip)
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


def _spoil(there: dict[int, Object], track: int, kind: str, age: int, clip: reader.Video) -> None:
    thing = there[track]
    if kind == "missing":
        del there[track]
        return
    others = [each for of, each in there.items() if of != track]
    if kind == "another's" and others:
        there[track] = replace(others[0], track=track, label=thing.label)
        return
    dense = masks.decode(thing.mask)
    width = int(thing.box[2] - thing.box[0])
    if kind == "covers":
        dense[: int(0.9 * clip.height)] = True
    else:
        shift = 3 * width if kind == "leaps" else round(0.08 * age * width)
        room = clip.width - int(thing.box[2])
        dense = np.roll(dense, shift if shift < room else -min(shift, int(thing.box[0])), axis=1)
    there[track] = replace(thing, mask=masks.encode(dense), box=masks.box(dense))


def mistakes(items: Iterable[Item], truth: Truth, asked: Sequence[int]) -> list[Error]:
    """Stretches of frames on which an asked object is badly followed."""
    real = {n: {a["track_id"]: a["segmentation"] for a in anns} for n, anns in truth.items()}
    wrong = defaultdict(list)
    for item in items:
        found = {thing.track: thing.mask for thing in item.objects}
        for of in asked:
            mine, true = found.get(of), real[item.frame].get(of)
            good = masks.iou(mine, true) >= 0.5 if mine and true else mine is None and true is None
            if not good and (mine or of in item.lost):
                wrong[of].append(item.frame)
    return [stretch for frames in wrong.values() for stretch in _stretches(frames)]


def _stretches(frames: list[int]) -> list[Error]:
    cuts = [n for n in range(1, len(frames)) if frames[n] - frames[n - 1] > 5]
    parts = np.split(np.array(frames), cuts)
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts]


def measured(looks: Sequence[int], errors: Sequence[Error]) -> tuple[float, float]:
    """Precision and recall of frames looked at."""
    hit = [any(e.start - NEAR <= n < e.stop + NEAR for e in errors) for n in looks]
    had = [any(e.start - NEAR <= n < e.stop + NEAR for n in looks) for e in errors]
    return float(np.mean(hit)), float(np.mean(had))


def tell(name: str, items: list[Item], errors: list[Error], flagged: bool) -> None:
    """One line."""
    count = min(len(errors), MOST)
    looks = [look.item.frame for look in review.find_frames(items, count, flagged=flagged)]
    first, last = items[0].frame, items[-1].frame
    evenly = np.linspace(first, last, count + 2).round().astype(int)[1:-1].tolist()
    (p, r), (p_evenly, r_evenly) = (measured(n, errors) for n in (looks or [-99], evenly))
    share = len({n for e in errors for n in e}) / len(items)
    print(
        f"{name:26} errors {len(errors):3} on {share:4.0%} of frames  looks {len(looks):3}  "
        f"precision {p:.2f} / {p_evenly:.2f}  recall {r:.2f} / {r_evenly:.2f}",
        flush=True,
    )


def main() -> None:
    """Two lines for each clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--engine", default="light")
    parser.add_argument("--keep", type=Path, help="Folder for the engine's items; used again.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = asked.keep or Path(folder)
        for path in asked.clips:
            clip, (truth, kinds) = reader.probe(path), read(path.with_suffix(".gt.json"))
            tell(f"{path.stem}, errors put in", *spoilt(truth, kinds, clip), False)
            scope = prompts.PromptScope((clip.width, clip.height), clip.frame_count)
            points = prompts.read_points(path.with_suffix(".points.csv"), scope)
            table, out = prompts.prompt_table(points, scope=scope), kept / f"{path.stem}.jsonl"
            job = Job(PROPAGATORS.load(asked.engine), asked.engine, path, table)
            run_to_file(job, out)
            items = list(journal.read(out))
            tell(
                f"{path.stem}, {asked.engine}",
                items,
                mistakes(items, truth, list(table.labels)),
                True,
            )


if __name__ == "__main__":
    main()
