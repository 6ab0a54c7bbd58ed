"""Measure the `light` engine: masks on DAVIS, clicks on gameplay, and frames per second.

    python benchmarks/light.py davis SHARED/davis [--fast] [--method light|flow|flow+grabcut]
    python benchmarks/light.py clicks FOLDER [--fast]
    python benchmarks/light.py speed CLIP [--fast] [--size 854x480]
    python benchmarks/light.py objects CLIP [--fast] [--size 854x480] [--frames 120]

`davis` starts from the true first mask and prints the mean J over frames 1 to the last but one.
`flow` only warps that mask by DIS optical flow; `flow+grabcut` also runs GrabCut in a band around
its edge. `clicks` runs `annotate propagate` on every NAME.mp4 with a NAME.gt.json and
NAME.points.csv or NAME.points3.csv: SHARED/gameplay/dev has such, `make_unseen.py` makes more.
`speed` tracks one object through CLIP, resized to that size first; decoding is included. `objects`
runs `annotate propagate` for 1, 2, 4 and 8 boxes on a grid through its first frames, and prints the
processor seconds of the whole command, and how many times more than for one object they are.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd

from annotate.evaluation import metrics
from annotate.items import journal
from annotate.items.records import Frame, Mask, Picture, Prompt
from annotate.propagators.job import PROPAGATORS, PromptedFrame
from annotate.video import reader
from annotate.video.writer import VideoWriter

ENDINGS = ".mp4", ".gt.json"  # suffixes of a clip and its ground truth
Track = Callable[[Iterator[Frame], Mask], Iterator[Mask]]


def light_tracker(fast: bool) -> Track:
    """Track by the engine, from a mask on the first frame."""

    def track(frames: Iterator[Frame], mask: Mask) -> Iterator[Mask]:
        first = next(frames)
        prompts = (Prompt(first.index, 1, mask=mask),)
        session = PROPAGATORS.load("light", fast=fast).begin([PromptedFrame(first, prompts)])
        session.step(first, prompts)
        for frame in frames:
            detections = session.step(frame, ())
            has_mask = detections.mask is not None and len(detections)
            yield detections.mask[0] if has_mask else np.zeros_like(mask)

    return track


def flow_tracker(grabcut: bool) -> Track:
    """Track by optical flow alone, or by flow and GrabCut: the baselines."""

    def track(frames: Iterator[Frame], mask: Mask) -> Iterator[Mask]:
        previous = cv2.cvtColor(next(frames).image, cv2.COLOR_RGB2GRAY)
        soft = mask.astype(np.float32)
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
        dis_flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        for frame in frames:
            grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
            flow = dis_flow.calc(grey, previous, None)
            soft = cv2.remap(soft, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
            if grabcut:
                soft = refine_by_grabcut(frame.image, soft > 0.5).astype(np.float32)
            previous = grey
            yield soft > 0.5

    return track


def refine_by_grabcut(picture: Picture, mask: Mask) -> Mask:
    """Refine a mask by GrabCut at half size, within 12 pixels of its edge."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (25, 25))
    eroded, band = cv2.erode(mask.astype(np.uint8), disk), cv2.dilate(mask.astype(np.uint8), disk)
    labels = np.where(eroded, cv2.GC_FGD, np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD))
    labels = np.where(band, labels, cv2.GC_BGD).astype(np.uint8)[::2, ::2].copy()
    if not (labels & 1).any():
        return mask
    small = cv2.resize(picture, labels.shape[::-1], interpolation=cv2.INTER_AREA)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(small[..., ::-1].copy(), labels, None, *models, 2, cv2.GC_INIT_WITH_MASK)
    size = mask.shape[::-1]
    return cv2.resize(labels & 1, size, interpolation=cv2.INTER_LINEAR).astype(bool)


def davis(folder: Path, track: Track) -> None:
    """Print J of each sequence, and the mean."""
    means = []
    for sequence in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted((sequence / "masks").glob("*.png"))
        truth = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 127 for path in paths]
        start, scores = time.perf_counter(), []
        frames = reader.frames(sequence / "frames", stop=len(truth) - 1)
        for predicted, true_mask in zip(track(frames, truth[0]), truth[1:-1], strict=True):
            if true_mask.sum() >= 64:
                scores.append((predicted & true_mask).sum() / (predicted | true_mask).sum())
        rate = (len(truth) - 1) / (time.perf_counter() - start)
        means.append(float(np.mean(scores)))
        print(f"{sequence.name:16} J {means[-1]:.3f}   {rate:.1f} frames/s", flush=True)
    print(f"{'mean':16} J {np.mean(means):.4f}")


def clicks(folder: Path, fast: bool) -> None:
    """Print J and false presence of each clip, and the means, for one and three clicks."""
    for ending in ("points", "points3"):
        results = []
        for points in sorted(folder.glob(f"*.{ending}.csv")):
            clip, truth = (points.with_name(points.name.split(".")[0] + end) for end in ENDINGS)
            if truth.exists():
                results.append(run_clicks(clip, truth, points, fast))
                print_row(points.name, *results[-1])
        if not results:
            raise SystemExit(f"{folder}: no NAME.gt.json beside a NAME.mp4 and NAME.{ending}.csv")
        print_row(f"{len(results)} clips, {ending}", *np.mean(results, axis=0))


def print_row(name: str, mean_j: float, false_presence: float) -> None:
    """Print a row."""
    print(f"{name:20} J {mean_j:.3f}   false presence {false_presence:.3f}", flush=True)


def run_clicks(clip: Path, truth: Path, points: Path, fast: bool) -> tuple[float, float]:
    """Run `annotate propagate` from clicks; returns mean J and false presence over the objects."""
    object_ids = set(pd.read_csv(points)["object_id"])
    with TemporaryDirectory() as scratch:
        items = Path(scratch) / "items.jsonl"
        call = [sys.executable, "-m", "annotate", "propagate", str(clip), "-p", str(points)]
        call += ["-o", str(items)] + ["--fast"] * fast
        subprocess.run(call, check=True, capture_output=True)
        tracks = metrics.track_metrics(truth, journal.read(items), object_ids)
    mean_j, false_presence = np.mean([(each.j, each.false_presence) for each in tracks], axis=0)
    return float(mean_j), float(false_presence)


def speed(clip: Path, size_wh: tuple[int, int], fast: bool) -> None:
    """Print frames per second, decoding included, after the first second."""
    with TemporaryDirectory() as scratch:
        resized = Path(scratch) / "resized.mp4"
        write_resized(clip, resized, size_wh)
        mask = np.zeros(size_wh[::-1], bool)
        width, height = size_wh
        mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
        times = [time.perf_counter() for _ in light_tracker(fast)(reader.frames(resized), mask)]
    later = times[30:] if len(times) > 60 else times
    print(f"{(len(later) - 1) / (later[-1] - later[0]):.1f} frames/s at {width}x{height}")


def write_resized(clip: Path, out: Path, size_wh: tuple[int, int], stop: int | None = None) -> None:
    """Write a clip, or its frames before `stop`, in another size."""
    with VideoWriter(out, 30, size_wh) as writer:
        for frame in reader.frames(clip, stop=stop):
            writer.write(cv2.resize(frame.image, size_wh, interpolation=cv2.INTER_AREA))


def objects(clip: Path, size_wh: tuple[int, int], fast: bool, frames: int) -> None:
    """Print the processor seconds of a run for 1, 2, 4 and 8 objects, and of none."""
    with TemporaryDirectory() as scratch:
        resized = Path(scratch) / "resized.mp4"
        write_resized(clip, resized, size_wh, frames)
        start = time.process_time()
        decoded = sum(1 for _ in reader.frames(resized))
        print(f"decoding alone   {time.process_time() - start:6.1f} s for {decoded} frames")
        alone = 0.0
        for count in (1, 2, 4, 8):
            seconds, seen = grid_seconds(resized, size_wh, fast, count)
            alone = alone or seconds
            row = f"{count} objects   {seconds:6.1f} s   {seconds / alone:.2f} times one"
            print(f"{row}   {seen / decoded:.1f} visible a frame", flush=True)


def grid_seconds(clip: Path, size_wh: tuple[int, int], fast: bool, count: int) -> tuple[float, int]:
    """Track boxes on a grid of four columns; returns processor seconds, and masks in all."""
    width, height = size_wh
    points = clip.with_suffix(".csv")
    rows = []
    for k in range(count):
        x, y = (k % 4 + 0.5) * width / 4, (k // 4 % 2 + 0.5) * height / 2
        rows += [(0, k + 1, x - 25, y - 40, 2, "box"), (0, k + 1, x + 25, y + 40, 3, "box")]
    columns = ["frame_id", "object_id", "x", "y", "label", "class"]
    pd.DataFrame(rows, columns=columns).to_csv(points, index=False)
    items = clip.with_name(f"items{count}.jsonl")
    call = [sys.executable, "-m", "annotate", "propagate", str(clip), "-p", str(points)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*call, "-o", str(items)] + ["--fast"] * fast, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, sum(len(item.objects) for item in journal.read(items))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurement", choices=["davis", "clicks", "speed", "objects"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--method", choices=["light", "flow", "flow+grabcut"], default="light")
    parser.add_argument("--size", default="854x480")
    parser.add_argument("--frames", type=int, default=120)
    args = parser.parse_args()
    if args.measurement == "davis":
        light = args.method == "light"
        track = light_tracker(args.fast) if light else flow_tracker("grabcut" in args.method)
        davis(args.paths[0], track)
    elif args.measurement == "clicks":
        clicks(args.paths[0], args.fast)
    else:
        width, height = (int(side) for side in args.size.split("x"))
        if args.measurement == "speed":
            speed(args.paths[0], (width, height), args.fast)
        else:
            objects(args.paths[0], (width, height), args.fast, args.frames)


if __name__ == "__main__":
    main()
