"""Train a detector and measure it on clips of other maps: AP by class, and the time it took.

    python benchmarks/make_detection.py detector/clips
    python benchmarks/train_detector.py build detector
    python benchmarks/train_detector.py measure detector model --trainer light

`build` makes detector/dataset (train and val, split by clip) and detector/gold, every tenth frame.
`measure` trains on the first, unless the model is there, and prints AP50 and AP of each class on
val and on gold, of all boxes with a score from 0.02 on.
"""

import argparse
import time
from pathlib import Path

from annotate.dataset.build import build_dataset
from annotate.dataset.folder import SplitRange, load_dataset, with_split
from annotate.detectors.run import DETECTORS, detect_frames
from annotate.evaluation.metrics import average_precision, filter_objects
from annotate.items.records import Frame
from annotate.training.content import read_content
from annotate.training.run import Training, train
from annotate.video.images import read_image
from annotate.vocabulary import read_vocabulary
from annotate.weights.lineage import is_model, read_model_folder

MIN_SCORE = 0.02


def build(folder: Path) -> None:
    """Build both datasets from the clips."""
    for name, parts in (("dataset", ("train", "val")), ("gold", ("gold",))):
        paths = [p for part in parts for p in sorted(folder.glob(f"clips/{part}*.items.jsonl"))]
        dataset = build_dataset(paths, folder / name, every=10, image_format="jpg")
        if len(parts) > 1:
            counts = {clip: int(entry["frame_count"]) for clip, entry in dataset.clips.items()}
            ranges = [
                SplitRange(clip, 0, count, "val" if clip.startswith("val") else "train")
                for clip, count in counts.items()
            ]
            with_split(dataset, ranges)
        print(f"{name}: {len(dataset)} frames")


def measure(folder: Path, output: Path, trainer: str) -> None:
    """Train, and print a row of each class on val and on gold."""
    if is_model(output):
        model = read_model_folder(output)
    else:
        start, cpu = time.perf_counter(), time.process_time()
        model = train(Training(folder / "dataset", output, trainer, threads=1))
        seconds = time.perf_counter() - start, time.process_time() - cpu
        print(f"{trainer}: {seconds[0]:.0f} s, {seconds[1]:.0f} CPU s of this process")
    words = read_vocabulary(model.folder / "vocabulary.toml")
    detector = DETECTORS.load(
        model.lineage.detector, words, model=str(model.folder), min_score=MIN_SCORE
    )
    for name, split in (("dataset", "val"), ("gold", "train")):
        frames = read_content(load_dataset(folder / name)).frames[split]
        truth = {(f.item.video, f.item.frame): f.item.objects for f in frames}
        pictures = (
            Frame(f.item.video, f.item.frame, f.item.seconds, read_image(f.image)) for f in frames
        )
        found = {
            (item.video, item.frame): item.objects
            for item in detect_frames(detector, pictures, "model")
        }
        for label in model.classes:
            tables = [filter_objects(each, [label]) for each in (truth, found)]
            ap, ap50 = average_precision(*tables, [label])
            part = "val" if split == "val" else "gold"
            print(f"{part} {label}: AP50 {ap50:.3f}, AP {ap:.3f}")


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=["build", "measure"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path, nargs="?", default=Path("model"))
    parser.add_argument("--trainer", default="light")
    arguments = parser.parse_args()
    if arguments.job == "build":
        build(arguments.folder)
    else:
        measure(arguments.folder, arguments.model, arguments.trainer)


if __name__ == "__main__":
    main()
