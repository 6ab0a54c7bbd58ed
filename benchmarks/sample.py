"""Choosing frames against the naive loop: full-size SSIM by scikit-image, frame by frame.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/sample.py CLIP [CLIP ...]

First the choice itself, on every fifth frame, held in memory as RGB: a frame is kept where its SSIM
to the one kept last is below 0.6. Both must keep the same frames. Then the default of `annotate
frames`, one frame of each shot, decoding and all; of clips with a `.gt.json` beside them that tells
of shots, how many of those have a frame, and how many frames there are a shot.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from skimage.metrics import structural_similarity

from annotate.items.records import Frame
from annotate.sampling import duplicates
from annotate.sampling.filter import FilterOptions, SamplingOptions, filter_frames, sampled_frames
from annotate.sampling.thumbnail import Thumbnail
from annotate.video import reader

THRESHOLD = duplicates.DEFAULT_THRESHOLDS["ssim"]


def naive(frames: list[Frame]) -> list[int]:
    """The frames that the loop everybody writes first keeps."""
    kept, last = [], None
    for frame in frames:
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        if last is None or structural_similarity(last, grey, data_range=255) < THRESHOLD:
            kept.append(frame.index)
            last = grey
    return kept


def ours(frames: list[Frame]) -> list[int]:
    """The frames that ours keeps."""
    kept, kept_frames = [], duplicates.kept_frames("ssim", THRESHOLD)
    for frame in frames:
        thumbnail = Thumbnail(frame)
        nearest = kept_frames.nearest(thumbnail)
        if nearest is None or nearest.similarity < THRESHOLD:
            kept.append(frame.index)
            kept_frames.add(thumbnail)
    return kept


def timed(work: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    """What `work` gives, and its seconds of processor time: others may use the machine."""
    start = time.process_time()
    found = work(*given)
    return found, time.process_time() - start


def sample_shots(clip: Path) -> tuple[list[int], float, int, int, int]:
    """Frames kept by default, and seconds; of the shots that a truth tells of, those with one."""
    decisions, seconds = timed(
        lambda: list(filter_frames(sampled_frames(clip, SamplingOptions()), FilterOptions()))
    )
    kept = [decision.frame.index for decision in decisions if not decision.drop_reason]
    truth = clip.with_suffix(".gt.json")
    shots = json.loads(truth.read_text()).get("shots", []) if truth.is_file() else []
    covered = {s["scene"] for s in shots for index in kept if s["start"] <= index < s["end"]}
    return kept, seconds, len(covered), len({s["scene"] for s in shots}), len(shots)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    clips = [Path(name) for name in sys.argv[1:]]
    print("clip\tframes\tkept\tsame choice\tnaive ms\tours ms\ttimes")
    for clip in clips:
        frames = list(reader.frames(clip, every=5))
        ours(frames[:3])
        (mine, quick), (theirs, slow) = timed(ours, frames), timed(naive, frames)
        each = 1000 / len(frames)
        cells = (
            f"{len(frames)}\t{len(mine)}\t{mine == theirs}\t{slow * each:.2f}\t{quick * each:.2f}"
        )
        print(f"{clip.name}\t{cells}\t{slow / quick:.0f}")
    print("\nclip\tkept\tscenes with one\tframes a shot\tframes decoded a second")
    for clip in clips:
        kept, seconds, seen, scenes, count = sample_shots(clip)
        speed = (reader.probe(clip).frame_count or 0) / seconds
        a_shot = f"{len(kept) / count:.2f}" if count else ""
        print(f"{clip.name}\t{len(kept)}\t{seen} of {scenes}\t{a_shot}\t{speed:.0f}")
