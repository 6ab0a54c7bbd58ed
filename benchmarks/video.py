"""Measure the speed of reading videos, compared with the `ffmpeg` command, in alternating runs.

    python benchmarks/video.py [CLIP ...]

Two rows for each clip: all frames decoded to RGB, and only the keyframes. The ratio is the time of
ffmpeg divided by ours, the median of the rounds: above 1, ours is faster. The file's time of change
is set before each round, so that nothing cached in the round before is used.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from annotate.video import reader

SHIPPED = Path(__file__).parents[1] / "tests" / "clips" / "demo.mp4"


def by_ffmpeg(clip: Path, *options: str) -> None:
    """Decode to RGB with ffmpeg, and discard the frames."""
    command = ["ffmpeg", "-v", "error", "-nostdin", *options, "-i", str(clip), "-vsync", "0"]
    subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-y", os.devnull], check=True)


def seconds(work: Callable[[], object]) -> float:
    """Measure the wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def count(frames: Iterable[object]) -> int:
    """Read all frames, and count them."""
    return sum(1 for _ in frames)


def compare_clip(clip: Path, kind: str, rounds: int) -> None:
    """Print one line: frames, both times, the ratio and its range."""
    read = reader.frames if kind == "frames" else reader.keyframes
    options = () if kind == "frames" else ("-skip_frame", "nokey")
    ours, theirs = [], []
    for number in range(rounds):
        os.utime(clip, (number, number))
        theirs.append(seconds(lambda: by_ffmpeg(clip, *options)))
        ours.append(seconds(lambda: count(read(clip))))
    frames = count(read(clip))
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    our, their = statistics.median(ours), statistics.median(theirs)
    print(
        f"{clip.name:28} {kind:10} {frames:6} frames  ours {our:7.3f} s ({frames / our:6.0f}/s)  "
        f"ffmpeg {their:7.3f} s  ratio {statistics.median(ratios):5.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    """Compare the speeds on each clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path, default=[SHIPPED])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for clip in arguments.clips:
            copy = Path(shutil.copy(clip, folder))
            for kind in ("frames", "keyframes"):
                compare_clip(copy, kind, arguments.rounds)


if __name__ == "__main__":
    main()
