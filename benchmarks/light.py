"""Measure the `light` engine: masks on DAVIS, clicks on gameplay, and frames per second.

    python benchmarks/light.py davis SHARED/davis [--fast] [--method light|flow|flow+grabcut]
    python benchmarks/light.py clicks FOLDER [--fast]
    python benchmarks/light.py speed CLIP [--fast] [--size 854x480]
    python benchmarks/light.py many CLIP [--fast] [--size 854x480] [--objects 8]

`davis` starts from the true first mask and prints the mean J over frames 1 to the last but one.
`flow` only warps that mask by DIS optical flow; `flow+grabcut` also runs GrabCut in a band around
its edge. `clicks` runs `annotate propagate` on every NAME.mp4 with a NAME.gt.json and
NAME.points.csv or NAME.points3.csv: SHARED/gameplay/dev has such, `make_unseen.py` makes more.
`speed` tracks one object through CLIP, resized to that size first; decoding is included. `many`
tracks one object, and several on a grid, through its first 40 frames in turn, and prints how many
times more the several cost: in wall time, and in CPU time.
"""

import argparse
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
        with VideoWriter(resized, 30, size_wh) as writer:
            for frame in reader.frames(clip):
                writer.write(cv2.resize(frame.image, size_wh, interpolation=cv2.INTER_AREA))
        mask = np.zeros(size_wh[::-1], bool)
        width, height = size_wh
        mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
        times = [time.perf_counter() for _ in light_tracker(fast)(reader.frames(resized), mask)]
    later = times[30:] if len(times) > 60 else times
    print(f"{(len(later) - 1) / (later[-1] - later[0]):.1f} frames/s at {width}x{height}")


def many(clip: Path, size_wh: tuple[int, int], fast: bool, objects: int) -> None:
    """Print what several objects cost, relative to one."""
    frames = [
        Frame(each.video, each.index, each.seconds, cv2.resize(each.image, size_wh))
        for each in reader.frames(clip, stop=40)
    ]
    seconds = {count: grid_seconds(frames, fast, count) for count in (1, objects)}
    for count, (wall, cpu) in seconds.items():
        print(f"{count} objects   {1000 * wall:.0f} ms a frame   {1000 * cpu:.0f} ms of CPU")
    wall, cpu = (seconds[objects][k] / seconds[1][k] for k in (0, 1))
    print(f"ratio {wall:.2f} in wall time, {cpu:.2f} in CPU time")


def grid_seconds(frames: list[Frame], fast: bool, count: int) -> tuple[float, float]:
    """Track boxes on a grid of four columns: wall and CPU seconds a frame, by medians."""
    width, height = frames[0].size_wh
    prompts = []
    for k in range(count):
        x, y = (k % 4 + 0.5) * width / 4, (k // 4 % 2 + 0.5) * height / 2
        mask = np.zeros((height, width), bool)
        mask[int(y - 40) : int(y + 40), int(x - 25) : int(x + 25)] = True
        prompts.append(Prompt(frames[0].index, k + 1, mask=mask))
    session = PROPAGATORS.load("light", fast=fast).begin([PromptedFrame(frames[0], tuple(prompts))])
    session.step(frames[0], prompts)
    times = []
    for frame in frames[1:]:
        start = time.perf_counter(), time.process_time()
        session.step(frame, ())
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = np.median(times, axis=0).tolist()
    return wall, cpu


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurement", choices=["davis", "clicks", "speed", "many"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--method", choices=["light", "flow", "flow+grabcut"], default="light")
    parser.add_argument("--size", default="854x480")
    parser.add_argument("--objects", type=int, default=8)
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
            many(args.paths[0], (width, height), args.fast, args.objects)


if __name__ == "__main__":
    main()
