"""Measure trained detectors on a gold set, and what a trainer costs beside the bare package.

    python benchmarks/train.py gold DATASET GOLD --trainer ultralytics --parent yolo11n.pt -o model/
    python benchmarks/train.py gold DATASET GOLD --trainer light -o light/
    python benchmarks/train.py overhead DATASET --parent yolo11n.pt [--epochs 2] [--size 320]

`gold` trains on a dataset that is split, and prints the table of the model on the gold set, with
the seconds of wall time and of CPU time that the training took. A model's folder that is there
already is only measured. `overhead` trains by the trainer `ultralytics` and by `YOLO.train` of the
package with the same settings on the same pictures, one after the other, and prints the ratio of
the CPU time: wall time on a machine that does other work says little.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from annotate.dataset.folder import load_dataset
from annotate.evaluation.gold import before_after_report
from annotate.training import gold as gold_runs
from annotate.training import ultralytics
from annotate.training.content import read_content
from annotate.training.run import Training, train
from annotate.training.trainer import EpochReport, TrainingPlan
from annotate.weights import lineage

BARE = """
import json, sys
from annotate.training.ultralytics_child import place_fonts
place_fonts()
from annotate.detectors.ultralytics import import_ultralytics
package = import_ultralytics()
import torch
record = json.loads(sys.argv[1])
torch.set_num_threads(record["threads"])
package.YOLO(record["weights"]).train(**record["settings"])
"""


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    usages = (resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextmanager
def timed(record: dict[str, float]) -> Iterator[None]:
    """Write the wall time and the CPU time of the block into `record`."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield
    record |= {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}


def print_epoch(report: EpochReport) -> None:
    """Print an epoch to stderr."""
    print(report, file=sys.stderr, flush=True)


def measure_on_gold(arguments: argparse.Namespace) -> None:
    """Train a model where there is none yet, and print its table on the gold set."""
    output, spent = arguments.output, dict[str, float]()
    if not output.exists():
        training = Training(
            arguments.dataset,
            output,
            arguments.trainer,
            epochs=arguments.epochs,
            image_size=arguments.size,
            seed=arguments.seed,
            parent=arguments.parent,
            threads=arguments.threads,
        )
        with timed(spent):
            train(training, report=print_epoch)
        print(f"trained: wall {spent['wall_s']:.0f} s, CPU {spent['cpu_s']:.0f} s")
    dataset = load_dataset(arguments.dataset)
    content = read_content(dataset)
    gold = gold_runs.open_checked_gold(arguments.gold, dataset)
    parent = None if arguments.parent is None else Path(arguments.parent)
    compared = gold_runs.compare_on_gold(gold, [output], parent, content.frames["val"])
    before_after_report.write_before_after(compared, output)
    print(before_after_report.table_text(compared))
    print(json.dumps(lineage.read_model_folder(output).lineage.results, indent=1))


def measure_overhead(arguments: argparse.Namespace) -> None:
    """Train by our trainer and by the bare package, and print both times."""
    dataset = load_dataset(arguments.dataset)
    content = read_content(dataset)
    frames = content.frames
    plan = TrainingPlan(
        dataset.path,
        content.sha256,
        content.classes,
        frames["train"],
        frames["val"],
        arguments.size,
        arguments.epochs,
        arguments.seed,
        Path(arguments.parent).resolve(),
        "backbone",
        arguments.threads,
    )
    ours, bare = dict[str, float](), dict[str, float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ours").mkdir()
        trainer = ultralytics.UltralyticsTrainer(device="cpu")
        with timed(ours):
            weights = trainer.train(plan, folder / "ours", print_epoch)
        data = ultralytics.export_plan(plan, folder / "export")
        kept = {"versions", "refused_connections"}
        settings: dict[str, Any] = {k: v for k, v in weights.settings.items() if k not in kept}
        settings |= {"data": str(data), "project": str(folder), "name": "bare"}
        settings |= {"plots": False, "verbose": False, "device": "cpu"}
        record = {"weights": str(plan.parent), "settings": settings, "threads": plan.threads}
        environment = {**os.environ, "YOLO_CONFIG_DIR": str(folder / "config")}
        with timed(bare):
            command = [sys.executable, "-c", BARE, json.dumps(record)]
            subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    for title, spent in (("trainer ultralytics", ours), ("bare YOLO.train", bare)):
        print(f"{title}: wall {spent['wall_s']:.1f} s, CPU {spent['cpu_s']:.1f} s")
    print(f"overhead: {100 * (ours['cpu_s'] / bare['cpu_s'] - 1):+.1f} % of CPU time")


def main() -> None:
    """Parse the arguments and run a mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    modes = parser.add_subparsers(required=True)
    gold = modes.add_parser("gold")
    gold.add_argument("dataset", type=Path)
    gold.add_argument("gold", type=Path)
    gold.add_argument("-o", "--output", type=Path, required=True)
    gold.add_argument("--trainer", default="ultralytics")
    gold.add_argument("--parent")
    gold.set_defaults(run=measure_on_gold)
    overhead = modes.add_parser("overhead")
    overhead.add_argument("dataset", type=Path)
    overhead.add_argument("--parent", required=True)
    overhead.set_defaults(run=measure_overhead)
    for mode, epochs in ((gold, None), (overhead, 2)):
        mode.add_argument("--epochs", type=int, default=epochs)
        mode.add_argument("--size", type=int, default=320)
        mode.add_argument("--seed", type=int, default=0)
        mode.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
