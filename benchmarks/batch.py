"""Measure batches: what they add to a plain loop, kills, resuming, the driver's memory.

    python benchmarks/batch.py overhead --on local:1   # CPU seconds that a batch adds to a clip
    python benchmarks/batch.py overhead --on ray       # the same with Ray, and the time to start
    python benchmarks/batch.py processes               # one process beside two, alternately
    python benchmarks/batch.py kill --on local:2       # what is lost by the death of a worker
    python benchmarks/batch.py kill --on ray           # what is lost by the death of a node of two
    python benchmarks/batch.py resume                  # seconds to find 1,000 clips done
    python benchmarks/batch.py memory                  # growth of the driver over 10,000 units

The clips are the bundled one, twice in a row, in files that differ; no setting was chosen by it.
`resume` and `memory` use tiny files. On a busy machine, CPU seconds mean something, wall seconds do
not: all results have the load.
"""

import argparse
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any, Self

import av
import psutil

from annotate.batch.driver import Driver, Event, Tally
from annotate.batch.plan import make_units
from annotate.batch.ray_actors import _LOOPBACK, _VARIABLES
from annotate.batch.run import BatchOptions, prepare
from annotate.batch.stages import DetectStage
from annotate.batch.stores.folder import FolderStore
from annotate.batch.worker import Outcome, StageOutput, Task
from annotate.files import packaged_file
from annotate.vocabulary import read_vocabulary

Result = dict[str, Any]
_KILL_FRAME = 150


def load() -> str:
    """Return the load of the machine over the last minute, and its cores."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def stage() -> DetectStage:
    """Make the stage that is measured."""
    return DetectStage("colour", read_vocabulary("designator.v1"))


@dataclass(frozen=True)
class TimedStage(DetectStage):
    """Proposes boxes, and appends to `times` when it ran: in seconds of the clock and of the CPU.

    Its process, or the one above it, is killed once: at the 150th frame of `killed_clip`.
    """

    times: Path = Path("times")
    killed_clip: str = ""
    kills_node: bool = False

    def run(self, clip: Path, folder: Path, progress: Callable[[Any], None]) -> Path:
        """Write the items of a clip."""
        record: Result = {"pid": os.getpid(), "clip": clip.name}
        record |= {"cpu": [time.process_time()], "wall": [time.monotonic()], "frames": 0}

        def counted(item: Any) -> None:
            progress(item)
            if not record["frames"]:
                record["first frame"] = time.monotonic()
            record["frames"] += 1
            if clip.name == self.killed_clip and record["frames"] == _KILL_FRAME:
                self._kill(record)

        out = super().run(clip, folder, counted)
        record["cpu"].append(time.process_time())
        record["wall"].append(time.monotonic())
        self._append(record)
        return out

    def _append(self, record: Result) -> None:
        with self.times.open("a") as file:
            file.write(f"{json.dumps(record)}\n")

    def _kill(self, record: Result) -> None:
        if self.times.with_suffix(".killed").exists():
            return
        self.times.with_suffix(".killed").touch()
        self._append({**record, "killed": time.monotonic()})
        os.kill(os.getppid() if self.kills_node else os.getpid(), signal.SIGKILL)
        time.sleep(600)


def timed_stage(folder: Path, **options: Any) -> TimedStage:
    """Make a stage whose times go into a folder."""
    return TimedStage("colour", read_vocabulary("designator.v1"), times=folder, **options)


def copies(folder: Path, count: int) -> list[Path]:
    """Write clips whose contents differ by a comment: the bundled clip, twice in a row."""
    folder.mkdir()
    paths = [folder / f"clip{number:02d}.mp4" for number in range(count)]
    for path in paths:
        with av.open(str(path), "w") as made:
            made.metadata["comment"] = path.stem
            _append_clip(made, _append_clip(made, None))
    return paths


def _append_clip(made: Any, stream: Any) -> Any:
    """Append the packets of the bundled clip after those that a stream has."""
    with av.open(str(packaged_file("clips", "demo.mp4"))) as given:
        source = given.streams.video[0]
        is_second = stream is not None
        target = stream or made.add_stream_from_template(source)
        shift = source.duration if is_second else 0
        for packet in given.demux(source):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = target
                made.mux(packet)
    return target


def tiny(folder: Path, count: int) -> list[Path]:
    """Make files that are clips by name alone: nothing decodes them here."""
    folder.mkdir()
    paths = [folder / f"clip{number:05d}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(number.to_bytes(4) * 500)
    return paths


def read_times(path: Path) -> list[Result]:
    """Read what a timed stage wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]


class Watch:
    """Samples the CPU seconds of the driver, and of each process below it, after each clip."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, dict[int, float]]] = []

    def __call__(self, tally: Tally, outcome: Outcome | None) -> None:
        """Take a sample after a clip."""
        if outcome is not None:
            below = {each.pid: _cpu_of(each) for each in psutil.Process().children(recursive=True)}
            self.samples.append((time.process_time(), below))

    def spent(self, workers: set[int]) -> tuple[float, float]:
        """Return the CPU seconds from the first sample to the last: driver, other processes."""
        (driver, below), (driver_end, below_end) = self.samples[0], self.samples[-1]
        others = (below.keys() & below_end.keys()) - workers
        return driver_end - driver, sum(below_end[pid] - below[pid] for pid in others)


def _cpu_of(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.Error:
        return 0.0


def run_timed(folder: Path, clips: list[Path], engine: str) -> tuple[Result, list[Result]]:
    """Run a batch; returns seconds a clip of all that is not the stage, and the stage's times.

    What happens before the first clip and after the last one of a process does not count.
    """
    folder.mkdir()
    watch = Watch()
    begin = time.monotonic(), time.process_time()
    prepare(timed_stage(folder / "times"), clips, folder / "out", BatchOptions(engine)).run(watch)
    rows = read_times(folder / "times")
    stage_cpu = sum(row["cpu"][1] - row["cpu"][0] for row in rows)
    outside, waits = [], []
    for pid in {row["pid"] for row in rows}:
        own = [row for row in rows if row["pid"] == pid]
        outside += [after["cpu"][0] - row["cpu"][1] for row, after in pairwise(own)]
        waits += [after["wall"][0] - row["wall"][1] for row, after in pairwise(own)]
    driver, others = watch.spent({row["pid"] for row in rows})
    parts = {
        "worker, outside the stage": sum(outside) / max(len(outside), 1),
        "driver": driver / (len(clips) - 1),
        "processes of Ray": others / (len(clips) - 1),
    }
    seconds = stage_cpu / len(clips)
    return {
        "engine": engine,
        "CPU seconds a clip, stage": seconds,
        "CPU seconds a clip, added": parts,
        "added, %": 100 * sum(parts.values()) / seconds,
        "wall seconds between two clips of a worker, median": median(waits) if waits else None,
        "wall seconds to the first clip": min(row["wall"][0] for row in rows) - begin[0],
        "wall seconds": time.monotonic() - begin[0],
        "load": load(),
    }, rows


def overhead(folder: Path, engine: str) -> Result:
    """Measure what a batch adds to the work of six clips, beside a loop over them."""
    clips = copies(folder / "clips", 6)
    start = time.process_time()
    for clip in clips:
        (folder / "loop" / clip.stem).mkdir(parents=True)
        stage().run(clip, folder / "loop" / clip.stem, lambda item: None)
    loop = (time.process_time() - start) / len(clips)
    result, _ = run_timed(folder / "batch", clips, engine)
    return {"CPU seconds a clip, loop": loop, **result}


def processes(folder: Path) -> Result:
    """Measure six clips by one process and by two, alternately, two rounds."""
    clips = copies(folder / "clips", 6)
    runs: dict[int, list[Result]] = {1: [], 2: []}
    for number in range(2):
        for slots in runs:
            result, _ = run_timed(folder / f"{slots}-{number}", clips, f"local:{slots}")
            runs[slots].append(result)
    best = {slots: min(each["wall seconds"] for each in results) for slots, results in runs.items()}
    cpu = {
        n: mean(each["CPU seconds a clip, stage"] for each in found) for n, found in runs.items()
    }
    return {"wall, one by two": best[1] / best[2], "CPU, one by two": cpu[1] / cpu[2],
            "CPU seconds a clip": cpu, "wall seconds": best, "load": load()}  # fmt: skip


def kill(folder: Path, engine: str) -> Result:
    """Kill a worker in the middle of a clip, or with Ray its node; measure what is lost."""
    clips = copies(folder / "clips", 6)
    chosen, with_ray = clips[2].name, engine == "ray"
    cluster = start_cluster() if with_ray else None
    made = timed_stage(folder / "times", killed_clip=chosen, kills_node=with_ray)
    tally = prepare(made, clips, folder / "out", BatchOptions(engine)).run()
    if cluster is not None:
        import ray

        ray.shutdown()
        cluster.shutdown()
    rows = [row for row in read_times(folder / "times") if row["clip"] == chosen]
    dead, *others = sorted(rows, key=lambda row: row["wall"][0])
    after = others[0]
    return {
        "engine": engine,
        "done": tally.done,
        "frames of the clip": 280,
        "frames that ran twice": sum(row["frames"] for row in rows) - 280,
        "wall seconds from the kill to the next frame": after["first frame"] - dead["killed"],
        "load": load(),
    }


def start_cluster() -> Any:
    """Start a head without cores and two nodes of one core, on the loopback interface."""
    os.environ.update({**_VARIABLES, **_LOOPBACK, "RAY_AUTH_MODE": "disabled"})
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=100 * 2**20)
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    return cluster


def resume(folder: Path) -> Result:
    """Measure how long it takes to find 1,000 clips done."""
    clips = tiny(folder / "clips", 1000)
    first = prepare(stage(), clips, folder / "batch", BatchOptions())
    for unit in first.to_run:
        path = first.output.store.result(unit.key, ".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("done\n")
    cpu, wall = time.process_time(), time.monotonic()
    again = prepare(stage(), clips, folder / "batch", BatchOptions())
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    assert again.done == 1000 and not again.to_run
    return {"CPU seconds": cpu, "wall seconds": wall, "load": load()}


class InstantEngine:
    """Finishes each task at once, in the driver's own process."""

    slots = 1

    def __init__(self) -> None:
        self.node = "here"
        self.events: list[Event] = []

    def start(self) -> Self:
        """Be ready at once."""
        self.events.append(Event(self, {}))
        return self

    def give(self, task: Task) -> None:
        """Finish a task at once."""
        self.events.append(Event(self, Outcome(task, 8, 0.1, True)))

    def wait(self, seconds: float) -> list[Event]:
        """Return what has happened."""
        events, self.events = self.events, []
        return events

    def stop(self) -> None:
        """Do nothing."""

    def kill(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def memory(folder: Path) -> Result:
    """Measure how much the driver grows over 10,000 units."""
    process, sizes = psutil.Process(), []
    output = StageOutput(stage(), FolderStore(folder / "batch"))
    units = list(make_units(output.stage, tiny(folder / "clips", 10_000)))
    tasks = [Task(unit.key, unit.path) for unit in units]
    start = process.memory_info().rss

    def watch(tally: Tally, outcome: Outcome | None) -> None:
        if tally.done % 1000 == 0:
            sizes.append(process.memory_info().rss - start)

    Driver(InstantEngine(), [output], watch=watch).run(tasks)
    return {"growth in MiB": max(sizes) / 2**20, "units": len(tasks)}


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["overhead", "processes", "kill", "resume", "memory"])
    parser.add_argument("--on", default="local:2", help="overhead, kill: local:N or ray")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="batch-"))
    try:
        by_engine = {"overhead": overhead, "kill": kill}
        if given.what in by_engine:
            result = by_engine[given.what](folder, given.on)
        else:
            functions = {"processes": processes, "resume": resume, "memory": memory}
            result = functions[given.what](folder)
        print(json.dumps(result, indent=1))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
