"""Measure `annotate next` on many frames: time, memory, and what each part takes.

    python benchmarks/next_frames.py [--frames 10000 100000]

The clip is made of coloured blocks, with objects that walk and flicker, three on each frame on
average. Each size is a process of its own, so that peaks of memory can be compared.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from annotate.active_learning import run as next_run
from annotate.active_learning.selection import SelectionOptions
from annotate.items import journal
from annotate.items.records import Header, Item, Object
from annotate.progress import no_progress
from annotate.video import reader
from annotate.video.writer import VideoWriter

SIZE_WH, RATE = (64, 48), 30


def write_clip(path: Path, count: int, noise: np.random.Generator) -> None:
    """Write a clip that shows another picture every three seconds."""
    with VideoWriter(path, Fraction(RATE), SIZE_WH) as out:
        scene = np.zeros((*SIZE_WH[::-1], 3))
        for n in range(count):
            if n % 90 == 0:
                scene = np.repeat(np.repeat(noise.integers(0, 255, (6, 8, 3)), 8, 0), 8, 1)
            out.write(scene.astype(np.uint8))


def objects_at(frame: int, noise: np.random.Generator) -> Iterator[Object]:
    """Yield the objects of a frame."""
    for track in range(4):
        if noise.random() > 0.75:
            continue  # flickers
        x = (7 * track + frame * 0.2) % 50
        box = (x, 5.0 + 8 * track, x + 12.0, 15.0 + 8 * track)
        yield Object(("monster", "marker")[track == 3], box, round(noise.uniform(0.2, 0.95), 3))


def write_inputs(folder: Path, count: int) -> Path:
    """Write a clip and its items."""
    noise = np.random.default_rng(0)
    clip, items = folder / "clip.mp4", folder / "items.jsonl"
    write_clip(clip, count, noise)
    lines = (
        Item("clip.mp4", n, Fraction(n, RATE), *SIZE_WH, tuple(objects_at(n, noise)))
        for n in range(count)
    )
    journal.write(items, Header("detect", videos=reader.header_entry(reader.probe(clip))), lines)
    return items


def measure(items: Path) -> dict[str, Any]:
    """Run in a child: seconds of each part, and the peak of memory beyond that of the imports."""
    import cv2  # noqa: F401  # imported before the first reading of memory

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sources, marks = next_run.NextSources([items]), {}
    start, cpu = time.perf_counter(), time.process_time()

    def progress(name: str, total: int | None, unit: str = "frames") -> Any:
        marks[name] = time.perf_counter() - start
        return no_progress(name, total, unit)

    listed = next_run.next_frames(sources, SelectionOptions(40), progress=progress)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "cpu": round(time.process_time() - cpu, 2),
        "signals": round(marks["features"] - marks["signals"], 2),
        "features": round(seconds - marks["features"], 2),
        "memory MB": (peak - before) // 1024,
        "frames": len(listed),
    }


def main() -> None:
    """Measure each size in a child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--child", type=Path)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child)))
        return
    for count in given.frames:
        with tempfile.TemporaryDirectory() as folder:
            items = write_inputs(Path(folder), count)
            words = [sys.executable, __file__, "--child", items]
            found = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            print(count, found.strip(), flush=True)


if __name__ == "__main__":
    main()
