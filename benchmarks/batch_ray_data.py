"""Compare with Ray Data: the same detector over the same clips, and one worker killed in each.

    python -m venv raydata && raydata/bin/pip install 'ray[data]' psutil -e .
    raydata/bin/python benchmarks/batch_ray_data.py

Ray Data runs `map_batches` with two actors and a checkpoint, a clip a block, and writes Parquet.
Here it is a batch with `--on ray`. Both kill the worker of the third clip once, at its 150th frame.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # of the workers

import batch

from annotate.batch.ray_actors import _LOOPBACK, _VARIABLES
from annotate.batch.run import BatchOptions, prepare
from annotate.batch.worker import limit_threads

CLIPS = 4


class Detector:
    """Runs a stage over the clips of a batch of Ray Data."""

    def __init__(self, stage: batch.TimedStage) -> None:
        limit_threads(1)
        self.stage = stage

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Add the items of each clip."""
        items = []
        for path in rows["path"]:
            folder = Path(tempfile.mkdtemp())
            items.append(self.stage.run(Path(path), folder, lambda item: None).read_text())
        return {**rows, "items": items}


def ray_data(clips: list[Path], folder: Path) -> list[str]:
    """Run Ray Data; returns the clips of the rows that it wrote."""
    import pandas as pd
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    stage = batch.timed_stage(folder / "times", killed_clip=clips[2].name)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    checkpoint = CheckpointConfig("path", str(folder / "checkpoint"))
    context.checkpoint_config = checkpoint
    (folder / "list").mkdir()
    for number, clip in enumerate(clips):
        pd.DataFrame({"path": [str(clip)]}).to_parquet(folder / "list" / f"{number}.parquet")
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(
        "local", num_cpus=3, **quiet
    )  # with two, the actors leave none for the reading: it hangs
    listed = ray.data.read_parquet(str(folder / "list"), override_num_blocks=len(clips))
    made = listed.map_batches(
        Detector,
        fn_constructor_args=(stage,),
        batch_size=1,
        compute=ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    made.write_parquet(str(folder / "out"))
    ray.shutdown()
    return list(pd.read_parquet(folder / "out")["path"])


def ours(clips: list[Path], folder: Path) -> list[str]:
    """Run a batch; returns the clips that have a result."""
    stage = batch.timed_stage(folder / "times", killed_clip=clips[2].name)
    run = prepare(stage, clips, folder / "out", BatchOptions("ray"))
    run.run()
    done = run.output.store.done_keys()
    return [unit.path for unit in run.plan.units if unit.key in done]


def main() -> None:
    """Run both, one after the other."""
    os.environ.update({**_VARIABLES, **_LOOPBACK})
    folder = Path(tempfile.mkdtemp(prefix="peer-"))
    clips = batch.copies(folder / "clips", CLIPS)
    results = {}
    for name, run in (("Ray Data", ray_data), ("batch", ours)):
        (folder / name).mkdir()
        start = time.monotonic()
        written = run(clips, folder / name)
        seconds = time.monotonic() - start
        starts = Counter(each["clip"] for each in batch.read_times(folder / name / "times"))
        frames = sum(each["frames"] for each in batch.read_times(folder / name / "times"))
        results[name] = {
            "clips done": len(set(written)),
            "rows that are double": len(written) - len(set(written)),
            "clips that ran twice": sum(count > 1 for count in starts.values()),
            "frames that ran twice": frames - 280 * CLIPS,
            "wall seconds": seconds,
            "load": batch.load(),
        }
    print(json.dumps(results, indent=1))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
