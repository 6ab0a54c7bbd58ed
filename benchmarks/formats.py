"""100,000 objects written and read back, beside supervision's own writers and readers.

    python benchmarks/formats.py [--objects 100000] [--pictures 400]

Each picture is the same blank PNG; each object is a blob with, now and then, a second part and a
hole. Ours includes reading everything back with another reader and comparing it object by object;
supervision compares nothing. It holds a whole picture for every mask, so it works picture by
picture here, from masks that are already decoded (decoding is not counted). Single-threaded.
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
    """A mask of about 30 pixels across; one in four has a second part, one in four a hole."""
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


def made(path: Path, object_count: int, picture_count: int) -> Dataset:
    """A dataset of blobs."""
    random = np.random.default_rng(0)
    blobs = [masks.encode(blob(random)) for _ in range(2000)]
    boxes = [masks.box(rle) for rle in blobs]
    each = object_count // picture_count
    made = Dataset(path, LABELS, {"bench": {"fingerprint": "0"}})
    _, blank = cv2.imencode(".png", np.zeros((SIZE_WH[1], SIZE_WH[0], 3), np.uint8))
    with create_dataset(made, Header("bench")) as draft:
        for frame in range(picture_count):
            picks = random.integers(0, len(blobs), each)
            things = [Object(LABELS[p % 3], boxes[p], None, None, blobs[p]) for p in picks]
            name = f"bench-{frame:06d}.png"
            draft.add(name, Item("bench", frame, Fraction(frame), *SIZE_WH, (*things,)))
            (draft.images / name).write_bytes(blank.tobytes())
    return made


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ours(data: Dataset, name: str, out: Path) -> tuple[float, float, float]:
    """Seconds to write, to compare through the other reader, and to read in."""
    way = FORMATS.load(name)
    out.mkdir()
    write = seconds(lambda: way.write(data, out))
    check = seconds(lambda: verify_export(data, way, out))
    read = seconds(lambda: [sample for _, sample in way.read(out).samples])
    return write, check, read


def supervisions(data: Dataset, name: str, file: Path) -> tuple[float, float]:
    """Seconds for supervision to write and to read the same objects, picture by picture."""
    written = read = 0.0
    for number, sample in enumerate(data, start=1):
        found = detections.item_to_detections(sample.item, LABELS)
        if name == "yolo":
            found.mask = None
        written += seconds(partial(write_theirs, found, number, name, file))
        read += seconds(partial(read_theirs, name, file))
    return written, read


def write_theirs(found: sv.Detections, image_id: int, name: str, file: Path) -> None:
    """Supervision writes the objects of one picture."""
    if name == "coco":
        annotations, _ = detections_to_coco_annotations(found, image_id, 1, 0.0, 1.0, 0.0)
        file.write_text(json.dumps(annotations, default=float))
    else:
        lines = detections_to_yolo_annotations(found, SIZE_WH[::-1], 0.0, 1.0, 0.0)
        file.write_text("\n".join(lines))


def read_theirs(name: str, file: Path) -> None:
    """Supervision reads the objects of one picture."""
    if name == "coco":
        coco_annotations_to_detections(json.loads(file.read_text()), SIZE_WH, with_masks=True)
    else:
        lines = file.read_text().splitlines()
        yolo_annotations_to_detections(lines, SIZE_WH, with_masks=name == "yolo-seg")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=400)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{given.objects} objects on {given.pictures} pictures of {SIZE_WH[0]}x{SIZE_WH[1]}")
    print("format    |  ours: write  check   read | supervision: write   read | write+read ratio")
    with tempfile.TemporaryDirectory() as home:
        data = made(Path(home) / "data", given.objects, given.pictures)
        for name in ("coco", "yolo", "yolo-seg"):
            write, check, read = ours(data, name, Path(home) / name)
            their_write, their_read = supervisions(data, name, Path(home) / "theirs.txt")
            ratio = (their_write + their_read) / (write + read)
            print(
                f"{name:9} | {write:11.1f} {check:6.1f} {read:6.1f} s | "
                f"{their_write:18.1f} {their_read:6.1f} s | {ratio:.2f}x"
            )


if __name__ == "__main__":
    main()
