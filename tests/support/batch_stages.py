"""Clips by the hundred, and stages that end their worker or their driver, for tests of batches."""

import os
import pickle
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from annotate.batch.stages import DetectStage
from annotate.batch.worker import UnitRunner
from annotate.items.records import Vocabulary

SIZE_WH, FRAMES = (64, 48), 8
RED = Vocabulary("red.v1", {"red": {"colour": [340, 20]}}, "5e1f" * 16)


def make_clips(folder, count):
    """Write clips of 8 frames, each with a red square at its own places; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [make_clip(folder / f"c{number:04d}.mp4", number) for number in range(count)]


def make_clip(path, seed):
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = SIZE_WH
        stream.pix_fmt = "yuv420p"
        for _ in range(FRAMES):
            picture = np.full((*SIZE_WH[::-1], 3), (20, 30, 40), np.uint8)
            x, y = rng.integers(4, 40), rng.integers(4, 30)
            picture[y : y + 12, x : x + 12] = (255, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def colour_stage():
    return DetectStage("colour", RED)


@dataclass(frozen=True)
class TrapStage(DetectStage):
    """Proposes boxes, and at a frame of one clip does what `trap` says: once, or each time.

    Its results and keys are those of the plain stage.
    """

    clip: str = ""
    frame: int = 3
    trap: str = "exit"
    once: Path | None = None  # a file that is made at the first time

    def run(self, clip, folder, progress):
        def trapped(item):
            progress(item)
            if clip.name == self.clip and item.frame >= self.frame:
                spring(self.trap, self.once)

        return super().run(clip, folder, trapped)


@dataclass(frozen=True)
class ManyTrapsStage(DetectStage):
    """Proposes boxes, and ends a process once at each clip of `traps`: name -> (frame, trap)."""

    traps: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    marks: Path = Path("marks")

    def run(self, clip, folder, progress):
        frame, trap = self.traps.get(clip.name, (None, ""))

        def trapped(item):
            progress(item)
            if item.frame == frame:
                spring(trap, self.marks / clip.name)

        return super().run(clip, folder, trapped)


def spring(trap, once):
    """End or stop this process, wait until it is ended, or end its driver.

    With `once`, only at the first time: then this file is made, with the process's id.
    """
    if once is not None:
        try:
            with once.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return
    if trap == "exit":
        os._exit(7)
    if trap == "raise":
        raise ZeroDivisionError("a fault of the plugin")
    if trap == "SIGSTOP":
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    if trap == "wait":
        time.sleep(600)
    os.kill(os.getppid(), getattr(signal, trap))


def trap_stage(**trap):
    return TrapStage("colour", RED, **trap)


def run_here(prepared):
    """Run a prepared batch in this process, one clip after the other; returns the outcomes."""
    runner = UnitRunner([prepared.output])
    outcomes = [runner.run(task) for task in prepared.tasks()]
    for outcome in outcomes:
        if outcome.error:
            record = {"clip": outcome.task.clip, "reason": outcome.error}
            prepared.output.store.record_failure(outcome.task.key, record)
    return outcomes


DRIVER = """
import os, pickle, sys
from pathlib import Path

sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)

from annotate.batch.driver import Driver
from annotate.batch.run import BatchOptions, make_engine, prepare
from annotate.batch.stores import folder
from annotate.errors import AnnotateError

folder._MIN_FREE_BYTES = 0  # a test may have a very small disk

if __name__ == "__main__":
    stage, clips, out, on, silence = pickle.loads(Path(sys.argv[1]).read_bytes())
    options = BatchOptions(on)
    try:
        batch = prepare(stage, clips, out, options)
        tasks = batch.tasks()
        engine = make_engine(options, [batch.output], tasks)
        tally = Driver(engine, [batch.output], silence_seconds=silence).run(tasks)
    except AnnotateError as error:
        sys.exit(str(error))
    assert not tally.failures, tally.failures
    print(tally.done)
"""


def driver_command(folder, stage, clips, out, on, silence=600):
    """Return the words that start a driver in a process of its own; its script is in `folder`.

    It prints how many clips are done, or ends with one line and the code 1.
    """
    (folder / "driver.py").write_text(DRIVER)
    (folder / "call").write_bytes(pickle.dumps((stage, clips, out, on, silence)))
    path = os.pathsep.join(filter(None, sys.path))
    words = ("env", f"PYTHONPATH={path}", sys.executable, folder / "driver.py", folder / "call")
    return list(map(str, words))
