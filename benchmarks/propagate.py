"""Measure speed and memory of our SAM 2 loop and of the packages' own predictors.

All have the same random weights.

    python benchmarks/propagate.py speed CLIP [--size 1024] [--objects 1 8] [--frames 2]
    python benchmarks/propagate.py flat CLIP [--frames 3060] [--stock-frames 600] [--plot flat.png]

`speed` uses the true architectures. It prints the median milliseconds per frame over `--frames`
with full memories, as wall time and as CPU time, which a busy machine changes less; the share of
the wall time of encoder, memory attention, decoder and memory encoder; and the peak resident
memory. One object is tracked until its memory is full; then it is copied to get `--objects`. `flat`
uses small networks: resident memory along the clip, for our engines to its end, for the stock ones,
which keep every frame, to `--stock-frames`, and for reading the clip alone. Every row runs in a
process of its own. The stock predictor of `sam2` gets the clip as a folder of JPEG files, already
at the network's size.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import runners

ENGINES = {
    "read": "the clip read, nothing tracked",
    "sam2": "ours, on the sam2 package",
    "sam2-stock": "SAM2VideoPredictor",
    "ultralytics": "Ultralytics' SAM2VideoPredictor",
    "sam2-hf": "ours, on transformers' Sam2VideoModel",
    "sam2-hf-stock": "transformers' session, Sam2VideoModel",
    "edgetam": "ours, on transformers' EdgeTamVideoModel",
    "edgetam-stock": "transformers' session, EdgeTamVideoModel",
}
PARTS = {  # part: module name in sam2, in transformers
    "encode": ("image_encoder", "vision_encoder"),
    "attend": ("memory_attention", "memory_attention"),
    "decode": ("sam_mask_decoder", "mask_decoder"),
    "memorise": ("memory_encoder", "memory_encoder"),
}
WARM_UP = 8  # frames until the mask memories are full


def time_parts(runner: Any, seconds_by_part: dict[str, float]) -> None:
    """Add up the seconds of each part of the network."""

    def add(part: str, seconds: float) -> None:
        seconds_by_part[part] += seconds

    for part, names in PARTS.items():
        module = next(getattr(runner.model, name) for name in names if hasattr(runner.model, name))
        module.register_forward_pre_hook(lambda *_, part=part: add(part, -time.perf_counter()))
        module.register_forward_hook(lambda *_, part=part: add(part, time.perf_counter()))
    if isinstance(runner, runners.StreamingRunner):  # our lean attention does not call the module
        attend = runner.network._attend_memory

        def timed(*arguments: Any) -> Any:
            earlier, start = seconds_by_part["attend"], time.perf_counter()
            result = attend(*arguments)
            seconds_by_part["attend"] = earlier + time.perf_counter() - start
            return result

        runner.network._attend_memory = timed  # type: ignore[method-assign, assignment]


def run(row: dict[str, Any]) -> None:
    """Run one row in this process; prints a line of JSON for each frame."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(row["threads"])
    seconds_by_part: dict[str, float] = defaultdict(float)
    runner = runners.load_runner(row)
    if runner.model is not None:
        time_parts(runner, seconds_by_part)
    frame = 0
    with torch.inference_mode():
        runner.begin()
        for objects, frames in row["phases"]:
            if objects != row["objects"]:
                runner.multiply(objects)
            for _ in range(frames):
                before, cpu_before = time.perf_counter(), time.process_time()
                seconds_by_part.clear()
                try:
                    runner.step()
                except StopIteration:
                    return
                line = {"frame": frame, "objects": objects, "seconds": time.perf_counter() - before}
                line["cpu"] = time.process_time() - cpu_before
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(
                    json.dumps(line | seconds_by_part | {"rss": resident(), "peak": peak}),
                    flush=True,
                )
                frame += 1


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measure(row: dict[str, Any]) -> list[dict[str, float]]:
    """Call `run` in a process of its own; returns its lines."""
    row["frames"] = sum(frames for _, frames in row["phases"])
    command = [sys.executable, __file__, "run", json.dumps(row)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        rows = [json.loads(line) for line in process.stdout if line.startswith("{")]
    if process.returncode:
        raise SystemExit(f"{row['engine']} failed")
    return rows


def row_settings(
    args: argparse.Namespace, engine: str, small: bool, objects: int
) -> dict[str, Any]:
    """Collect the settings of one row for `run`."""
    settings = {key: vars(args)[key] for key in ("clip", "threads", "batch", "size")}
    return settings | {"engine": engine, "small": small, "objects": objects}


def speed(args: argparse.Namespace) -> None:
    """Print the table of milliseconds per frame."""
    print(f"| engine | size | objects | ms/frame | CPU ms | {' | '.join(PARTS)} | peak MiB |")
    print("|---" + "|---:" * (len(PARTS) + 5) + "|")
    for engine in args.engines:
        row = row_settings(args, engine, False, 1)
        row["phases"] = [(1, WARM_UP), *((objects, args.frames) for objects in args.objects)]
        rows = measure(row)[WARM_UP:]
        for objects in args.objects:
            mine = [line for line in rows if line["objects"] == objects]
            parts = [1000 * median(line.get(part, 0) for line in mine) for part in PARTS]
            total, cpu = (1000 * median(e[key] for e in mine) for key in ("seconds", "cpu"))
            cells = [f"{value:,.0f}" for value in (total, cpu, *parts, mine[-1]["peak"])]
            print(f"| {ENGINES[engine]} | {args.size} | {objects} | {' | '.join(cells)} |")
            sys.stdout.flush()


def flat(args: argparse.Namespace) -> None:
    """Print and plot the resident memory along the clip."""
    lines = {}
    for engine in args.engines:
        row = row_settings(args, engine, True, 3)
        row["phases"] = [(3, args.stock_frames if engine.endswith("stock") else args.frames)]
        lines[ENGINES[engine]] = memory = {int(line["frame"]): line["rss"] for line in measure(row)}
        first, last = min(300, max(memory) // 2), max(memory)
        growth = memory[last] - memory[first]
        print(
            f"{ENGINES[engine]}: {memory[first]:,.0f} MiB at frame {first}, {memory[last]:,.0f} at "
            f"{last}: {growth:+,.1f} MiB, {1024 * growth / (last - first):+,.1f} KiB a frame",
            flush=True,
        )
    if args.plot:
        plot(lines, args.plot)


def plot(lines: dict[str, dict[int, float]], path: Path) -> None:
    """Plot resident memory over frames."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, memory in lines.items():
        style = "--" if "Video" in name and not name.startswith("ours") else "-"
        axes.plot(list(memory), list(memory.values()), style, label=name)
    axes.set(xlabel="frame", ylabel="resident memory, MiB", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main(argv: Iterable[str]) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    commands.add_parser("run").add_argument("row", type=json.loads)
    for work, frames in ((speed, 2), (flat, 10**9)):
        command = commands.add_parser(work.__name__)
        command.set_defaults(work=work)
        command.add_argument("clip")
        other = "read" if work is speed else "ultralytics"  # which has no small network
        engines = [name for name in ENGINES if name != other]
        command.add_argument("--engines", nargs="+", choices=engines, default=engines)
        command.add_argument("--frames", type=int, default=frames)
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--batch", type=int, default=1, help="ours: objects at a time")
        command.add_argument("--size", type=int, default=1024)
    commands.choices["speed"].add_argument("--objects", type=int, nargs="+", default=[1, 8])
    commands.choices["flat"].add_argument("--stock-frames", type=int, default=600)
    commands.choices["flat"].add_argument("--plot", type=Path)
    args = parser.parse_args(list(argv))
    run(args.row) if "row" in args else args.work(args)


if __name__ == "__main__":
    main(sys.argv[1:])
