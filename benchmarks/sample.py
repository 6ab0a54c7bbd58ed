"""Measure the choice of frames, compared with a naive loop of full-size SSIM by scikit-image.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/sample.py CLIP [CLIP ...]

The first table is the choice alone, on every fifth frame, held in memory as RGB: a frame is kept if
its SSIM to the last kept frame is below 0.6. Both must keep the same frames. The second table is
the default of `annotate frames`, one frame of each shot, decoding included. If `CLIP.gt.json` lists
shots, it also gives the number of scenes with a kept frame, and the kept frames per shot.
"""

import argparse
import json
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


def choose_by_full_ssim(frames: list[Frame]) -> list[int]:
    """Choose frames by the naive loop."""
    kept_frames, last = [], None
    for frame in frames:
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        if last is None or structural_similarity(last, grey, data_range=255) < THRESHOLD:
            kept_frames.append(frame.index)
            last = grey
    return kept_frames


def choose_by_thumbnail(frames: list[Frame]) -> list[int]:
    """Choose frames as `annotate` does, by thumbnails."""
    kept_indices, kept_frames = [], duplicates.kept_frames("ssim", THRESHOLD)
    for frame in frames:
        thumbnail = Thumbnail(frame)
        nearest = kept_frames.nearest(thumbnail)
        if nearest is None or nearest.similarity < THRESHOLD:
            kept_indices.append(frame.index)
            kept_frames.add(thumbnail)
    return kept_indices


def cpu_seconds(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Call `work`; returns its result and its CPU seconds, which a busy machine changes less."""
    start = time.process_time()
    result = work(*arguments)
    return result, time.process_time() - start


def sample_shots(clip: Path) -> tuple[list[int], float, int, int, int]:
    """Choose frames by default.

    Returns the kept frames, CPU seconds, scenes with a kept frame, scenes, and shots of the truth.
    """
    decisions, seconds = cpu_seconds(
        lambda: list(filter_frames(sampled_frames(clip, SamplingOptions()), FilterOptions()))
    )
    kept_frames = [decision.frame.index for decision in decisions if not decision.drop_reason]
    truth = clip.with_suffix(".gt.json")
    shots = json.loads(truth.read_text()).get("shots", []) if truth.is_file() else []
    covered = {s["scene"] for s in shots for index in kept_frames if s["start"] <= index < s["end"]}
    return kept_frames, seconds, len(covered), len({s["scene"] for s in shots}), len(shots)


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    clips = parser.parse_args().clips
    cv2.setNumThreads(1)
    print("clip\tframes\tkept\tsame choice\tnaive ms\tours ms\ttimes")
    for clip in clips:
        frames = list(reader.frames(clip, every=5))
        choose_by_thumbnail(frames[:3])
        our_choice, our_seconds = cpu_seconds(choose_by_thumbnail, frames)
        naive_choice, naive_seconds = cpu_seconds(choose_by_full_ssim, frames)
        ours_ms, naive_ms = (1000 * each / len(frames) for each in (our_seconds, naive_seconds))
        same = our_choice == naive_choice
        cells = f"{len(frames)}\t{len(our_choice)}\t{same}\t{naive_ms:.2f}\t{ours_ms:.2f}"
        print(f"{clip.name}\t{cells}\t{naive_seconds / our_seconds:.0f}")
    print("\nclip\tkept\tscenes with one\tframes a shot\tframes decoded a second")
    for clip in clips:
        kept_frames, seconds, covered, scenes, count = sample_shots(clip)
        speed = (reader.probe(clip).frame_count or 0) / seconds
        per_shot = f"{len(kept_frames) / count:.2f}" if count else ""
        print(f"{clip.name}\t{len(kept_frames)}\t{covered} of {scenes}\t{per_shot}\t{speed:.0f}")


if __name__ == "__main__":
    main()
