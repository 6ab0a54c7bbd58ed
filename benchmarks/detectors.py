"""Which detector when: what each finds on a clip with known truth, and what each costs.

    python benchmarks/detectors.py found CLIP TRUTH.json YOLO [-o FOLDER]
    python benchmarks/detectors.py bus YOLO
    python benchmarks/detectors.py speed

`found` is `annotate compare` on every tenth frame: the designators by colour; by YOLO, a real
checkpoint or export, what it calls a person for the one monster that is shaped like one. `bus` is
Ultralytics' own picture. `speed` builds each architecture at its true size with random weights:
what it costs does not depend on what it knows. CPU milliseconds a frame of 800x600, one thread.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
TEXTS = ("red square", "")  # and the background of yolo-world
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


def found(clip: str, truth: str, yolo: str, out: str) -> None:
    """The table and the sheet of `annotate compare`."""
    designator = data_dir("prompts") / "vocabulary" / "designator.v1.toml"
    words = Path(tempfile.mkdtemp()) / "gameplay.v1.toml"
    words.write_text(VOCABULARY.format(designator=designator.read_text()))
    asked = [part for text in COLUMNS for part in ("-d", text.format(yolo=yolo))]
    told: list[str] = [
        "compare",
        clip,
        "-v",
        str(words),
        "--truth",
        truth,
        "--every",
        "10",
        "-o",
        out,
    ]
    subprocess.run([sys.executable, "-m", "annotate", *told, *asked], check=True)


def bus(yolo: str) -> None:
    """What a YOLO finds on the picture that its package ships."""
    from PIL import Image

    from annotate.detectors.ultralytics import import_ultralytics

    with Image.open(import_ultralytics().utils.ASSETS / "bus.jpg") as picture:
        frame = Frame("bus.jpg", 0, Fraction(0), np.array(picture.convert("RGB")))
    words = Vocabulary("street", {"bus": {}, "person": {}}, "")
    detector = DETECTORS.load("yolo", words, model=yolo)
    [seen] = detector.propose([frame])
    labels = [words.labels[n] for n in seen.class_id]
    counts = ", ".join(f"{labels.count(label)} {label}" for label in words.labels)
    print(f"{'yolo, ' + Path(yolo).name:38} {counts}; {cpu(detector, frame):8.0f} ms")


def speed() -> None:
    """Milliseconds a frame of every architecture that can be built."""
    import torch

    torch.set_num_threads(1)
    noise = np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8)
    frame = Frame("noise", 0, Fraction(0), noise)
    print(f"{'detector, random weights':38} CPU ms a frame  parameters")
    with tempfile.TemporaryDirectory() as folder, random_networks.seeded():
        for name, make in MAKERS.items():
            detector, count = make(Path(folder))
            print(f"{name:38} {cpu(detector, frame):14.0f} {count / 1e6:10.1f} M", flush=True)


def cpu(detector: Any, frame: Frame) -> float:
    """Milliseconds of processor time for a frame, least of some; the first call loads."""
    detector.propose([frame])
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        detector.propose([frame])
        times.append(time.process_time() - start)
    return min(times) * 1000


def parameters(network: Any) -> int:
    """How many numbers a network has learnt."""
    return sum(each.numel() for each in network.parameters())


def words(detector: str) -> Vocabulary:
    """One class, told one phrase."""
    return Vocabulary("speed", {"designator": {detector: TEXTS[0]}}, "")


def encoder(folder: Path) -> str:
    """A text encoder whose vectors are kept already: phrases are read once, not for each frame."""
    path = folder / "encoder.ts"
    path.write_bytes(b"never read")
    kept = yolo_open_vocabulary.vector_cache_dir() / yolo_open_vocabulary._encoder_key(str(path))
    for text in TEXTS:
        vector = np.random.default_rng(len(text)).normal(size=512).astype(np.float32)
        yolo_open_vocabulary._write_vector(
            yolo_open_vocabulary._vector_path(kept, text), vector / np.linalg.norm(vector)
        )
    return str(path)


def yolo_world(folder: Path) -> tuple[Any, int]:
    """YOLO-World v2, small."""
    from annotate.detectors.ultralytics import import_ultralytics

    model = import_ultralytics().YOLOWorld("yolov8s-worldv2.yaml")
    model.save(folder / "world.pt")
    options = {"model": str(folder / "world.pt"), "encoder": encoder(folder)}
    made = DETECTORS.load("yolo-world", words("yolo-world"), **options)
    return made, parameters(model.model)


def yoloe(folder: Path) -> tuple[Any, int]:
    """YOLOE 11, small, with its masks' head."""
    import torch

    from annotate.detectors.ultralytics import import_ultralytics

    model = import_ultralytics().YOLOE("yoloe-11s-seg.yaml")
    model.model.set_classes(["thing"], torch.randn(1, 1, 512))
    model.save(folder / "yoloe.pt")
    options = {"model": str(folder / "yoloe.pt"), "encoder": encoder(folder)}
    return DETECTORS.load("yoloe", words("yoloe"), **options), parameters(model.model)


def yolo(folder: Path) -> tuple[Any, int]:
    """YOLO11, nano, unquantised."""
    from annotate.detectors.ultralytics import import_ultralytics

    model = import_ultralytics().YOLO("yolo11n.yaml")
    model.save(folder / "yolo.pt")
    told = Vocabulary("speed", {"0": {}}, "")
    return DETECTORS.load("yolo", told, model=str(folder / "yolo.pt")), parameters(model.model)


def owlv2(folder: Path) -> tuple[Any, int]:
    """OWLv2, base with patches of 16: pictures of 960, as its released weights have them."""
    import transformers
    from test_zero_shot import _letters

    vision = {"image_size": 960, "patch_size": 16}
    config = transformers.Owlv2Config(vision_config=vision)
    model = transformers.Owlv2ForObjectDetection(config)
    place = folder / "owlv2"
    model.save_pretrained(place)
    size = {"height": 960, "width": 960}
    transformers.Owlv2ImageProcessor(size=size).save_pretrained(place)
    _letters(transformers.CLIPTokenizer, place, "<|startoftext|>", "<|endoftext|>")
    made = DETECTORS.load("zero-shot", words("zero-shot"), model=str(place), min_score=0.9)
    return made, parameters(model)


MAKERS: dict[str, Callable[[Path], tuple[Any, int]]] = {
    "yolo, YOLO11n": yolo,
    "yolo-world, v2-s, one phrase": yolo_world,
    "yoloe, 11s-seg, one phrase": yoloe,
    "zero-shot, OWLv2-base/16, one phrase": owlv2,
}


def main() -> None:
    """Measure what is asked for."""
    told: Iterator[str] = iter(sys.argv[1:])
    what = next(told, "")
    if what == "found":
        clip, truth, model, *rest = told
        found(clip, truth, model, rest[1] if len(rest) == 2 else "compare")
    elif what == "bus":
        bus(next(told))
    elif what == "speed":
        speed()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
