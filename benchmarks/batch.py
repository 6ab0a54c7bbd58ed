"""Measure batches: overhead over a plain loop, two processes, resuming, the driver's memory.

    python benchmarks/batch.py overhead      # CPU seconds of a batch by those of a plain loop
    python benchmarks/batch.py processes     # wall seconds of one process by those of two
    python benchmarks/batch.py resume        # seconds to find 1,000 clips done
    python benchmarks/batch.py memory        # growth of the driver over 10,000 units

The clips are copies of the bundled one under other bytes, which no setting was chosen by; `resume`
and `memory` use tiny ones. Ratios are of one run on one machine. CPU seconds are those of the
process and its children; on a busy machine they mean something, wall seconds do not.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import av

from annotate.batch.driver import Driver, Event, Tally
from annotate.batch.plan import make_units
from annotate.batch.run import BatchOptions, prepare
from annotate.batch.stages import DetectStage
from annotate.batch.stores.folder import FolderStore
from annotate.batch.worker import Outcome, StageOutput, Task
from annotate.files import packaged_file
from annotate.vocabulary import read_vocabulary

Result = dict[str, Any]


def cpu_seconds() -> float:
    """Count the CPU seconds of this process and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def measure(function: Callable[[], object]) -> tuple[float, float]:
    """Return the CPU seconds and the wall seconds of a call."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    function()
    return cpu_seconds() - cpu, time.perf_counter() - wall


def stage() -> DetectStage:
    """Make the stage that is measured."""
    return DetectStage("colour", read_vocabulary("designator.v1"))


def copies(folder: Path, count: int) -> list[Path]:
    """Make copies of the bundled clip whose contents differ: another comment in each container."""
    folder.mkdir()
    source = packaged_file("clips", "demo.mp4")
    paths = [folder / f"clip{number:02d}.mp4" for number in range(count)]
    for path in paths:
        with av.open(str(source)) as given, av.open(str(path), "w") as made:
            made.metadata["comment"] = path.stem
            streams = {each.index: made.add_stream_from_template(each) for each in given.streams}
            for packet in given.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    made.mux(packet)
    return paths


def tiny(folder: Path, count: int) -> list[Path]:
    """Make files that are clips by name alone: nothing decodes them here."""
    folder.mkdir()
    paths = [folder / f"clip{number:05d}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(number.to_bytes(4) * 500)
    return paths


def overhead(folder: Path, engine: str) -> Result:
    """Measure 3 and 6 clips by a loop and by a batch; the difference is free of the start."""
    clips = copies(folder / "clips", 6)
    runs = {}
    for name, chosen in (("half", clips[:3]), ("all", clips)):
        (folder / f"loop-{name}").mkdir()

        def loop(name: str = name, chosen: list[Path] = chosen) -> None:
            for clip in chosen:
                (folder / f"loop-{name}" / clip.stem).mkdir()
                stage().run(clip, folder / f"loop-{name}" / clip.stem, lambda item: None)

        def batch(name: str = name, chosen: list[Path] = chosen) -> None:
            prepare(stage(), chosen, folder / f"batch-{name}", BatchOptions(engine)).run()

        runs[name] = measure(loop), measure(batch)
    (loop_half, batch_half), (loop_all, batch_all) = runs["half"], runs["all"]
    per_clip = [(a[0] - b[0]) / 3 for a, b in ((loop_all, loop_half), (batch_all, batch_half))]
    return {
        "engine": engine,
        "CPU seconds a clip, loop": per_clip[0],
        "CPU seconds a clip, batch": per_clip[1],
        "ratio": per_clip[1] / per_clip[0],
        "CPU seconds to start": batch_half[0] - 3 * per_clip[1],
    }


def processes(folder: Path) -> Result:
    """Measure six clips by one process and by two."""
    clips = copies(folder / "clips", 6)
    walls = {}
    for slots in (1, 2):
        options = BatchOptions(f"local:{slots}")
        walls[slots] = measure(lambda: prepare(stage(), clips, folder / f"b{slots}", options).run())  # noqa: B023
    return {"wall seconds": {n: wall for n, (_, wall) in walls.items()},
            "ratio": walls[1][1] / walls[2][1], "load": os.getloadavg()}  # fmt: skip


def resume(folder: Path) -> Result:
    """Measure how long it takes to find 1,000 clips done."""
    clips = tiny(folder / "clips", 1000)
    first = prepare(stage(), clips, folder / "batch", BatchOptions())
    for unit in first.to_run:
        path = first.output.store.result(unit.key, ".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("done\n")
    found = []
    cpu, wall = measure(
        lambda: found.append(prepare(stage(), clips, folder / "batch", BatchOptions()))
    )
    assert found[0].done == 1000 and not found[0].to_run
    return {"CPU seconds": cpu, "wall seconds": wall, "load": os.getloadavg()}


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
    import psutil

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
    parser.add_argument("what", choices=["overhead", "processes", "resume", "memory"])
    parser.add_argument("--on", default="local:1", help="overhead: local:1 or ray")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="batch-"))
    try:
        functions = {"processes": processes, "resume": resume, "memory": memory}
        run = functions.get(given.what) or (lambda folder: overhead(folder, given.on))
        print(json.dumps(run(folder), indent=1))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
