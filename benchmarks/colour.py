"""Measure the speed of the colour detector on one core, in frames a second, without decoding.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/colour.py CLIP [CLIP ...]

Every third frame of each clip is held in memory and processed three times; the fastest pass
counts, because other processes may slow the others down. The 1280x720 clips are
`shared/gameplay/dev/easy.mp4` and `hard.mp4`.
"""

import argparse
import time

import cv2

from annotate import vocabulary
from annotate.detectors.run import DETECTORS
from annotate.video import reader


def frames_per_second(clip: str) -> float:
    """Measure frames a second in the quickest of three passes."""
    detector = DETECTORS.load("colour", vocabulary.read_vocabulary("designator.v1"))
    frames = list(reader.frames(clip, every=3))
    detector.propose(frames[:3])
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        detector.propose(frames)
        seconds.append(time.perf_counter() - start)
    return len(frames) / min(seconds)


def main() -> None:
    """Print a line for each clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+")
    cv2.setNumThreads(1)
    for name in parser.parse_args().clips:
        clip = reader.probe(name)
        print(f"{clip.name} {clip.width}x{clip.height} {frames_per_second(name):.0f} frames/s")


if __name__ == "__main__":
    main()
