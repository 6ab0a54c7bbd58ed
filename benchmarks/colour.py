"""Measure the colour detector: its speed on one core, and its accuracy on generated designators.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/colour.py CLIP [CLIP ...]
    python benchmarks/colour.py accuracy FOLDER

Speed is in frames a second, without decoding. Every third frame of each clip is held in memory and
processed three times; the fastest pass counts, because other processes may slow the others down.
The 1280x720 clips are `shared/gameplay/dev/easy.mp4` and `hard.mp4`.

Accuracy is AP50 on the clips of `make_designators.py`: over all frames, on those with a designator
that an edge cuts together with those without any, and on those whose designators are whole.
"""

import argparse
import json
import time
from pathlib import Path

import cv2

from annotate import vocabulary
from annotate.detectors.run import DETECTORS
from annotate.evaluation.metrics import MIN_AREA, average_precision
from annotate.items.records import Object
from annotate.video import reader

LABEL = "designator"


def frames_per_second(clip: str) -> float:
    """Measure frames a second in the fastest of three passes."""
    detector = DETECTORS.load("colour", vocabulary.read_vocabulary("designator.v1"))
    frames = list(reader.frames(clip, every=3))
    detector.propose(frames[:3])
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        detector.propose(frames)
        seconds.append(time.perf_counter() - start)
    return len(frames) / min(seconds)


def accuracy(folder: Path) -> dict[str, float]:
    """Measure AP50 over all frames, and on the frames with cut and with whole designators."""
    detector = DETECTORS.load("colour", vocabulary.read_vocabulary("designator.v1"))
    found, true, is_cut = {}, {}, {}
    for clip in sorted(folder.glob("*.mp4")):
        annotations = json.loads(clip.with_suffix(".gt.json").read_text())["annotations"]
        for frame in reader.frames(clip):
            key = clip.name, frame.index
            [detections] = detector.propose([frame])
            rows = zip(detections.xyxy.tolist(), detections.confidence.tolist(), strict=True)
            found[key] = [Object(LABEL, tuple(box), score) for box, score in rows]
            here = [each for each in annotations if each["image_id"] == frame.index]
            here = [each for each in here if each["bbox"][2] * each["bbox"][3] >= MIN_AREA]
            boxes = [(x, y, x + w, y + h) for x, y, w, h in (each["bbox"] for each in here)]
            true[key] = [Object(LABEL, box) for box in boxes]
            is_cut[key] = any(each["truncated"] for each in here)
    parts = {
        "all": list(true),
        "cut": [key for key in true if is_cut[key] or not true[key]],
        "whole": [key for key in true if true[key] and not is_cut[key]],
    }
    return {
        name: average_precision({key: true[key] for key in keys}, found, [LABEL])[1]
        for name, keys in parts.items()
    }


def main() -> None:
    """Print a line for each clip, or the accuracy on a folder of clips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", help="clips, or `accuracy` and a folder")
    names = parser.parse_args().clips
    cv2.setNumThreads(1)
    if names[0] == "accuracy" and len(names) == 2:
        print({name: round(ap50, 3) for name, ap50 in accuracy(Path(names[1])).items()})
        return
    for name in names:
        clip = reader.probe(name)
        print(f"{clip.name} {clip.width}x{clip.height} {frames_per_second(name):.0f} frames/s")


if __name__ == "__main__":
    main()
