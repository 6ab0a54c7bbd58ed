"""Time the export formats on 100,000 objects, compared with the writers and readers of supervision.

    python benchmarks/formats.py [--objects 100000] [--images 400]

Every image is the same blank PNG; every object is a blob, some with a second part or a hole. The
time of the export includes reading everything back with another reader and comparing it object by
object; supervision compares nothing. Supervision holds masks of the whole image in memory, so it
works image by image here, from decoded masks (decoding is not counted). Single-threaded.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import supervision as sv
from supervision.dataset.formats.coco import (
    coco_annotations_to_detections,
    detections_to_coco_annotations,
)
from supervision.dataset.formats.yolo import (
    detections_to_yolo_annotations,
    yolo_annotations_to_detections,
)

from annotate.dataset.export import FORMATS, verify_export
from annotate.dataset.folder import Dataset, create_dataset
from annotate.items import detections, masks
from annotate.items.records import Header, Item, Object

SIZE_WH = (640, 360)
LABELS = ("plate", "mug", "spoon")


def blob(random: np.random.Generator) -> np.ndarray:
    """Make a mask about 30 pixels wide; one in four has a second part, one in four a hole."""
    width, height = SIZE_WH
    canvas = np.zeros((height, width), np.uint8)
    x, y = random.integers(40, width - 40), random.integers(40, height - 40)
    axes = random.integers(6, 20, 2).tolist()
    cv2.ellipse(canvas, (int(x), int(y)), axes, float(random.integers(0, 180)), 0, 360, 1, -1)
    if random.random() < 0.25:
        canvas[y - 2 : y + 3, x - 2 : x + 3] = 0
    if random.random() < 0.25:
        canvas[y + 24 : y + 30, x - 5 : x + 5] = 1
    return canvas.astype(bool)


def make_dataset(path: Path, object_count: int, image_count: int) -> Dataset:
    """Make a dataset of blobs."""
    random = np.random.default_rng(0)
    blobs = [masks.encode(blob(random)) for _ in range(2000)]
    boxes = [masks.box(rle) for rle in blobs]
    objects_per_image = object_count // image_count
    dataset = Dataset(path, LABELS, {"bench": {"fingerprint": "0"}})
    _, blank = cv2.imencode(".png", np.zeros((SIZE_WH[1], SIZE_WH[0], 3), np.uint8))
    with create_dataset(dataset, Header("bench")) as writer:
        for frame in range(image_count):
            choices = random.integers(0, len(blobs), objects_per_image)
            objects = [Object(LABELS[p % 3], boxes[p], None, None, blobs[p]) for p in choices]
            name = f"bench-{frame:06d}.png"
            writer.add(name, Item("bench", frame, Fraction(frame), *SIZE_WH, (*objects,)))
            (writer.images / name).write_bytes(blank.tobytes())
    return dataset


def seconds(work: Callable[[], object]) -> float:
    """Measure the seconds of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def time_format(dataset: Dataset, name: str, out: Path) -> tuple[float, float, float]:
    """Measure the seconds to write, to verify with the other reader, and to import."""
    dataset_format = FORMATS.load(name)
    out.mkdir()
    write = seconds(lambda: dataset_format.write(dataset, out))
    check = seconds(lambda: verify_export(dataset, dataset_format, out))
    read = seconds(lambda: [sample for _, sample in dataset_format.read(out).samples])
    return write, check, read


def time_supervision(dataset: Dataset, name: str, file: Path) -> tuple[float, float]:
    """Measure the seconds of supervision to write and read the same objects, image by image."""
    written = read = 0.0
    for number, sample in enumerate(dataset, start=1):
        image_detections = detections.item_to_detections(sample.item, LABELS)
        if name == "yolo":
            image_detections.mask = None
        written += seconds(partial(write_supervision, image_detections, number, name, file))
        read += seconds(partial(read_supervision, name, file))
    return written, read


def write_supervision(
    image_detections: sv.Detections, image_id: int, name: str, file: Path
) -> None:
    """Write the objects of one image with supervision."""
    if name == "coco":
        annotations, _ = detections_to_coco_annotations(
            image_detections, image_id, 1, 0.0, 1.0, 0.0
        )
        file.write_text(json.dumps(annotations, default=float))
    else:
        lines = detections_to_yolo_annotations(image_detections, SIZE_WH[::-1], 0.0, 1.0, 0.0)
        file.write_text("\n".join(lines))


def read_supervision(name: str, file: Path) -> None:
    """Read the objects of one image with supervision."""
    if name == "coco":
        coco_annotations_to_detections(json.loads(file.read_text()), SIZE_WH, with_masks=True)
    else:
        lines = file.read_text().splitlines()
        yolo_annotations_to_detections(lines, SIZE_WH, with_masks=name == "yolo-seg")


def main() -> None:
    """Print the table of times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=400)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{arguments.objects} objects on {arguments.images} images of {SIZE_WH[0]}x{SIZE_WH[1]}")
    print("format    |  ours: write  check   read | supervision: write   read | write+read ratio")
    with tempfile.TemporaryDirectory() as home:
        dataset = make_dataset(Path(home) / "data", arguments.objects, arguments.images)
        for name in ("coco", "yolo", "yolo-seg"):
            write, check, read = time_format(dataset, name, Path(home) / name)
            sv_write, sv_read = time_supervision(dataset, name, Path(home) / "supervision.txt")
            ratio = (sv_write + sv_read) / (write + read)
            print(
                f"{name:9} | {write:11.1f} {check:6.1f} {read:6.1f} s | "
                f"{sv_write:18.1f} {sv_read:6.1f} s | {ratio:.2f}x"
            )


if __name__ == "__main__":
    main()
