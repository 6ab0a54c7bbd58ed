"""Measure `light`: how well it follows, how fast, and beside it two baselines that only use flow.

    python benchmarks/light.py davis FOLDER...     # each with frames/*.jpg and masks/*.png
    python benchmarks/light.py clicks CLIP.mp4...  # each with CLIP.gt.json and CLIP.points.csv

DAVIS sequences start from the true first mask; J is the mean IoU from the second frame to the last
but one, as the benchmark counts. Clips start from clicks; a frame without a mask counts 0. Speed is
frames a second of wall time, decoding included.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from annotate import journal, masks, prompts, propagate, score, video
from annotate.records import Mask, Picture

Step = Callable[[Picture, Picture, Mask], Mask]


def flow(before: Picture, now: Picture, mask: Mask) -> Mask:
    """The mask taken along by DIS optical flow (cv2's medium preset)."""
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (now, before)]
    moved = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    soft = mask.astype(np.float32)
    return cv2.remap(soft, x + moved[..., 0], y + moved[..., 1], cv2.INTER_LINEAR) > 0.5


def flow_and_grabcut(before: Picture, now: Picture, mask: Mask) -> Mask:
    """The same, and its edge settled by GrabCut in a band round it, at a width of 240 pixels."""
    warped = flow(before, now, mask)
    size = 240, round(240 * now.shape[0] / now.shape[1])
    small = cv2.resize(warped.astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    states = np.where(small > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    states[cv2.erode(small, disk) > 0] = cv2.GC_FGD
    states[cv2.dilate(small, disk) == 0] = cv2.GC_BGD
    if not (states & 1).any() or (states & 1).all():
        return warped
    picture = np.ascontiguousarray(cv2.resize(now, size)[..., ::-1])
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(picture, states, None, *models, 2, cv2.GC_INIT_WITH_MASK)
    inside = cv2.resize((states & 1).astype(np.float32), now.shape[1::-1])
    return inside > 0.5


def followed(step: Step, frames: Path, first: Mask) -> Iterator[Mask]:
    """A baseline over a folder of frames."""
    mask, before = first, None
    for frame in video.frames(frames):
        mask = first if before is None else step(before, frame.image, mask)
        before = frame.image
        yield mask


def by_light(frames: Path, first: Mask, fast: bool) -> Iterator[Mask]:
    """`light` over a folder of frames, from a mask."""
    seen = video.probe(frames)
    scope = prompts.Scope((seen.width, seen.height), seen.frame_count)
    told = prompts.table(masks=[(0, 1, first)], scope=scope)
    job = propagate.Job(propagate.load("light", fast=fast), "light", frames, told)
    with TemporaryDirectory() as folder:
        propagate.into(job, Path(folder) / "masks.jsonl")
        for item in journal.read(Path(folder) / "masks.jsonl"):
            rle = item.objects[0].mask if item.objects else None
            yield np.zeros_like(first) if rle is None else masks.decode(rle)


def overlap(a: Mask, b: Mask) -> float:
    """IoU; of two empty masks 1."""
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


def davis(folders: list[Path]) -> None:
    """J and speed for each way and sequence."""
    ways: dict[str, Callable[[Path, Mask], Iterator[Mask]]] = {
        "light": lambda frames, first: by_light(frames, first, fast=False),
        "light --fast": lambda frames, first: by_light(frames, first, fast=True),
        "flow": lambda frames, first: followed(flow, frames, first),
        "flow + GrabCut": lambda frames, first: followed(flow_and_grabcut, frames, first),
    }
    print(f"{'way':16}{'sequence':18}{'J':>7}{'frames/s':>10}")
    for way, follow in ways.items():
        rows = []
        for folder in folders:
            true = [cv2.imread(str(p), 0) > 127 for p in sorted((folder / "masks").glob("*.png"))]
            start = time.perf_counter()
            found = list(follow(folder / "frames", true[0]))
            speed = len(found) / (time.perf_counter() - start)
            j = float(
                np.mean([overlap(f, t) for f, t in zip(found[1:-1], true[1:-1], strict=True)])
            )
            rows.append((j, speed))
            print(f"{way:16}{folder.name:18}{j:7.3f}{speed:10.1f}", flush=True)
        j, speed = np.mean(rows, axis=0)
        print(f"{way:16}{'mean':18}{j:7.3f}{speed:10.1f}", flush=True)


def clicks(clips: list[Path], fast: bool) -> None:
    """J and false presence for each clip, from one click an object and from three."""
    print(f"{'clip':12}{'clicks':>7}{'objects':>9}{'J':>7}{'false presence':>16}{'frames/s':>10}")
    for clip in clips:
        for count, name in ((1, "points"), (3, "points3")):
            seen = video.probe(clip)
            scope = prompts.Scope((seen.width, seen.height), seen.frame_count)
            points = prompts.read_points(clip.with_suffix(f".{name}.csv"), scope)
            told = prompts.table(points, scope=scope)
            job = propagate.Job(propagate.load("light", fast=fast), "light", clip, told)
            with TemporaryDirectory() as folder:
                start = time.perf_counter()
                propagate.into(job, Path(folder) / "masks.jsonl")
                seconds = time.perf_counter() - start
                items = list(journal.read(Path(folder) / "masks.jsonl"))
            rows = score.tracks(clip.with_suffix(".gt.json"), items, told.labels)
            j, false = np.mean([(row.j, row.false_presence) for row in rows], axis=0)
            text = f"{clip.stem:12}{count:7}{len(rows):9}{j:7.3f}{false:16.3f}"
            print(f"{text}{len(items) / seconds:10.1f}", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["davis", "clicks"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--fast", action="store_true", help="clicks: with the option of that name")
    told = parser.parse_args()
    davis(told.paths) if told.what == "davis" else clicks(told.paths, told.fast)


if __name__ == "__main__":
    main()
