"""Measure the detectors: accuracy on a clip with ground truth, and CPU time per frame.

    python benchmarks/detectors.py compare CLIP TRUTH.json YOLO [-o FOLDER]
    python benchmarks/detectors.py bus YOLO
    python benchmarks/detectors.py speed

`compare` runs `annotate compare` on every tenth frame: the designators by colour; by YOLO, a real
checkpoint or export, its class person for the one monster with the shape of a person. It writes the
table and the contact sheet. `bus` prints the detections on Ultralytics' example picture, and the
time. `speed` builds each architecture at its true size with random weights, which cost the same,
and prints CPU milliseconds per frame of 800x600 with one thread.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from annotate.detectors import yolo_open_vocabulary
from annotate.detectors.run import DETECTORS
from annotate.files import data_dir
from annotate.items.records import Frame, Vocabulary

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import random_networks

ROUNDS = 3
TEXTS = ("red square", "")  # the empty one is the background class of yolo-world
VOCABULARY = """{designator}

[classes.ShotgunGuy]
yolo = "person"
"""
COLUMNS = (
    "colour",
    "yolo=yolo:model={yolo}",
    'both=ensemble:members="colour, yolo",options="yolo.model={yolo}"',
    'twice=cascade:first=yolo,second=yolo,options="first.model={yolo} second.model={yolo}"',
)


def compare(clip: str, truth: str, yolo: str, out: str) -> None:
    """Write the table and the contact sheet of `annotate compare`."""
    designator = data_dir("prompts") / "vocabulary" / "designator.v1.toml"
    vocabulary = Path(tempfile.mkdtemp()) / "gameplay.v1.toml"
    vocabulary.write_text(VOCABULARY.format(designator=designator.read_text()))
    detector_options = [part for text in COLUMNS for part in ("-d", text.format(yolo=yolo))]
    arguments: list[str] = [
        "compare",
        clip,
        "-v",
        str(vocabulary),
        "--truth",
        truth,
        "--every",
        "10",
        "-o",
        out,
    ]
    subprocess.run([sys.executable, "-m", "annotate", *arguments, *detector_options], check=True)


def detect_bus(yolo: str) -> None:
    """Print the detections of a YOLO on the example picture of its package."""
    from PIL import Image

    from annotate.detectors.ultralytics import import_ultralytics

    with Image.open(import_ultralytics().utils.ASSETS / "bus.jpg") as picture:
        frame = Frame("bus.jpg", 0, Fraction(0), np.array(picture.convert("RGB")))
    vocabulary = Vocabulary("street", {"bus": {}, "person": {}}, "")
    detector = DETECTORS.load("yolo", vocabulary, model=yolo)
    [detections] = detector.propose([frame])
    assert detections.class_id is not None
    labels = [vocabulary.labels[n] for n in detections.class_id]
    counts = ", ".join(f"{labels.count(label)} {label}" for label in vocabulary.labels)
    print(f"{'yolo, ' + Path(yolo).name:38} {counts}; {cpu_milliseconds(detector, frame):8.0f} ms")


def speed() -> None:
    """Print the milliseconds per frame of every architecture that can be built."""
    import torch

    torch.set_num_threads(1)
    noise = np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8)
    frame = Frame("noise", 0, Fraction(0), noise)
    print(f"{'detector, random weights':38} CPU ms a frame  parameters")
    with tempfile.TemporaryDirectory() as folder, random_networks.seeded():
        for name, make in MAKERS.items():
            detector, count = make(Path(folder))
            print(
                f"{name:38} {cpu_milliseconds(detector, frame):14.0f} {count / 1e6:10.1f} M",
                flush=True,
            )


def cpu_milliseconds(detector: Any, frame: Frame) -> float:
    """Measure the CPU milliseconds of a frame, the minimum of some calls after a warm-up."""
    detector.propose([frame])
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        detector.propose([frame])
        times.append(time.process_time() - start)
    return min(times) * 1000


def parameter_count(network: Any) -> int:
    """Count the parameters of a network."""
    return sum(each.numel() for each in network.parameters())


def vocabulary_of(detector: str) -> Vocabulary:
    """Make a vocabulary of one class with one phrase."""
    return Vocabulary("speed", {"designator": {detector: TEXTS[0]}}, "")


def cached_text_encoder(folder: Path) -> str:
    """Fill the cache of text embeddings; phrases are encoded once, so the encoder costs nothing."""
    path = folder / "encoder.ts"
    path.write_bytes(b"never read")
    key = yolo_open_vocabulary._encoder_key(str(path))
    cache_dir = yolo_open_vocabulary.vector_cache_dir() / key
    for text in TEXTS:
        vector = np.random.default_rng(len(text)).normal(size=512).astype(np.float32)
        yolo_open_vocabulary._write_vector(
            yolo_open_vocabulary._vector_path(cache_dir, text), vector / np.linalg.norm(vector)
        )
    return str(path)


def yolo_world(folder: Path) -> tuple[Any, int]:
    """Make YOLO-World v2, small."""
    from annotate.detectors.ultralytics import import_ultralytics

    model = import_ultralytics().YOLOWorld("yolov8s-worldv2.yaml")
    model.save(folder / "world.pt")
    options = {"model": str(folder / "world.pt"), "encoder": cached_text_encoder(folder)}
    detector = DETECTORS.load("yolo-world", vocabulary_of("yolo-world"), **options)
    return detector, parameter_count(model.model)


def yoloe(folder: Path) -> tuple[Any, int]:
    """Make YOLOE 11, small, with its mask head."""
    import torch

    from annotate.detectors.ultralytics import import_ultralytics

    model = import_ultralytics().YOLOE("yoloe-11s-seg.yaml")
    model.model.set_classes(["object"], torch.randn(1, 1, 512))
    model.save(folder / "yoloe.pt")
    options = {"model": str(folder / "yoloe.pt"), "encoder": cached_text_encoder(folder)}
    return DETECTORS.load("yoloe", vocabulary_of("yoloe"), **options), parameter_count(model.model)


def yolo(folder: Path) -> tuple[Any, int]:
    """Make YOLO11, nano, unquantised."""
    from annotate.detectors.ultralytics import import_ultralytics

    model = import_ultralytics().YOLO("yolo11n.yaml")
    model.save(folder / "yolo.pt")
    vocabulary = Vocabulary("speed", {"0": {}}, "")
    detector = DETECTORS.load("yolo", vocabulary, model=str(folder / "yolo.pt"))
    return detector, parameter_count(model.model)


def owlv2(folder: Path) -> tuple[Any, int]:
    """Make OWLv2, base with patches of 16, for pictures of 960 as its released weights."""
    import transformers

    vision = {"image_size": 960, "patch_size": 16}
    config = transformers.Owlv2Config(vision_config=vision)
    model = transformers.Owlv2ForObjectDetection(config)
    model_dir = folder / "owlv2"
    model.save_pretrained(model_dir)
    size = {"height": 960, "width": 960}
    transformers.Owlv2ImageProcessor(size=size).save_pretrained(model_dir)
    random_networks.save_letter_tokenizer(
        transformers.CLIPTokenizer, model_dir, "<|startoftext|>", "<|endoftext|>"
    )
    detector = DETECTORS.load(
        "zero-shot", vocabulary_of("zero-shot"), model=str(model_dir), min_score=0.9
    )
    return detector, parameter_count(model)


MAKERS: dict[str, Callable[[Path], tuple[Any, int]]] = {
    "yolo, YOLO11n": yolo,
    "yolo-world, v2-s, one phrase": yolo_world,
    "yoloe, 11s-seg, one phrase": yoloe,
    "zero-shot, OWLv2-base/16, one phrase": owlv2,
}


def main() -> None:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="measurement", required=True)
    command = commands.add_parser("compare")
    for name in ("clip", "truth", "yolo"):
        command.add_argument(name)
    command.add_argument("-o", "--output", default="compare")
    commands.add_parser("bus").add_argument("yolo")
    commands.add_parser("speed")
    arguments = parser.parse_args()
    if arguments.measurement == "compare":
        compare(arguments.clip, arguments.truth, arguments.yolo, arguments.output)
    elif arguments.measurement == "bus":
        detect_bus(arguments.yolo)
    else:
        speed()


if __name__ == "__main__":
    main()
