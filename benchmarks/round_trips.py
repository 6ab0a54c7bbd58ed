"""Compare what we export and import with datumaro and FiftyOne: one line a pair, nothing is timed.

    python benchmarks/round_trips.py --datumaro PYTHON --fiftyone PYTHON

PYTHON is the interpreter of an environment where that package is installed; it needs nothing of
ours. This file runs there too, as `PYTHON round_trips.py read|write PACKAGE FORMAT FOLDER RECORDS`,
and the two sides exchange folders and a JSON file of records: `{image: [[class, box, mask]]}`, with
boxes in pixels (x1, y1, x2, y2) and masks as packed bits in hexadecimal, or null.

The dataset has boxes, a mask with a hole, one of two parts, an empty frame, and names with spaces
and an emoji. Two records are equal where no side of a box differs by more than 0.01 pixel and no
pixel of a mask differs. An outline of `yolo-seg` is filled by `cv2.fillPoly`, as Ultralytics does,
and its box is that of the filled pixels; two parts are joined by a line of one pixel.
FiftyOne is used without its database, by its importers and exporters; its environment needs
pycocotools too. datumaro reads no outlines of YOLO.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT = 96, 64
CLASSES = ("plate", "a big mug", "mug \U0001f375")
TOLERANCE_PX = 0.01
Records = dict[str, list[list[Any]]]


def pack(mask: np.ndarray) -> str:
    """Write a mask as text."""
    return np.packbits(mask.astype(bool)).tobytes().hex()


def unpack(text: str) -> np.ndarray:
    """Read the mask that `pack` wrote."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    return bits[: WIDTH * HEIGHT].reshape(HEIGHT, WIDTH).astype(bool)


def mask_box(mask: np.ndarray) -> list[float]:
    """Find the box of a mask."""
    rows, columns = np.nonzero(mask)
    return [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def make_records() -> Records:
    """Make the objects of four images."""
    holed, parts = np.zeros((2, HEIGHT, WIDTH), bool)
    holed[10:40, 20:50] = True
    holed[20:30, 30:35] = False
    parts[5:15, 60:90] = parts[45:60, 8:30] = True
    plate = [CLASSES[0], [3.25, 4.5, 40.125, 60.75], None]
    holed_row = [CLASSES[1], mask_box(holed), pack(holed)]
    parts_row = [CLASSES[2], mask_box(parts), pack(parts)]
    names = [f"the dock \U0001f6a2-{number:06d}.png" for number in range(4)]
    rows = [[plate], [holed_row, parts_row], [], [plate, holed_row]]
    return dict(zip(names, rows, strict=True))


def compare(expected: Records, actual: Records) -> str:
    """Describe in words what differs, or "equal"."""
    expected = {Path(name).stem: rows for name, rows in expected.items()}
    actual = {Path(name).stem: rows for name, rows in actual.items()}
    if set(expected) != set(actual):
        missing, surplus = sorted(set(expected) - set(actual)), sorted(set(actual) - set(expected))
        return f"images missing: {missing}, surplus: {surplus}"
    problems, error, lost, surplus = list[str](), 0.0, 0, 0
    for name, rows in expected.items():
        ours, theirs = (sorted(each, key=lambda row: row[0]) for each in (rows, actual[name]))
        if [row[0] for row in ours] != [row[0] for row in theirs]:
            problems.append(f"{name}: {[row[0] for row in ours]} is {[row[0] for row in theirs]}")
            continue
        for (label, box, mask), (_, read_box, read_mask) in zip(ours, theirs, strict=True):
            error = max(error, *np.abs(np.subtract(box, read_box)))
            if (mask is None) != (read_mask is None):
                problems.append(f"{label}: a mask {'appeared' if mask is None else 'is lost'}")
            elif mask is not None:
                pixels, read_pixels = unpack(mask), unpack(read_mask)
                lost += np.count_nonzero(pixels & ~read_pixels)
                surplus += np.count_nonzero(read_pixels & ~pixels)
    if error > TOLERANCE_PX:
        problems.append(f"boxes by up to {error:.3f} px")
    if lost or surplus:
        problems.append(f"masks: {lost} pixels lost, {surplus} surplus")
    return "; ".join(dict.fromkeys(problems)) or "equal"


def make_dataset(path: Path, records: Records) -> Any:
    """Write the records as a dataset of ours."""
    from fractions import Fraction

    from annotate.dataset.folder import Dataset, create_dataset
    from annotate.items import masks
    from annotate.items.records import Header, Item, Object

    dataset = Dataset(path, CLASSES, {"the dock \U0001f6a2": {"fingerprint": "0"}})
    with create_dataset(dataset, Header("bench")) as writer:
        for number, (name, rows) in enumerate(records.items()):
            objects = [
                Object(label, tuple(box), mask=masks.encode(unpack(mask)) if mask else None)
                for label, box, mask in rows
            ]
            size = (WIDTH, HEIGHT)
            writer.add(
                name, Item("the dock \U0001f6a2", number, Fraction(number), *size, (*objects,))
            )
            save_image(writer.images / name, number)
    return dataset


def save_image(path: Path, number: int) -> None:
    """Save a grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8))[1])


def import_records(source: Path, name: str, out: Path) -> Records:
    """Import a folder of another program; return the records."""
    from annotate.dataset.export import FORMATS, import_dataset
    from annotate.items import masks

    return {
        sample.image: [
            [obj.label, [*obj.box], pack(masks.decode(obj.mask)) if obj.mask else None]
            for obj in sample.item.objects
        ]
        for sample in import_dataset(source, FORMATS.load(name), out)
    }


def expected_records(records: Records, format_name: str) -> Records:
    """Reduce the records to what a format can hold."""
    if format_name != "yolo":
        return records
    return {name: [[label, box, None] for label, box, _ in rows] for name, rows in records.items()}


def run_peer(python: str, *arguments: str | Path) -> str:
    """Run this file in another interpreter; return the last line of its error, or nothing."""
    command = [python, __file__, *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["FIFTYONE_DO_NOT_TRACK"] = "true"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return f"failed: {(done.stderr.strip().splitlines() or [str(done.returncode)])[-1]}"


def compare_export(python: str, package: str, name: str, options: Any, home: Path) -> str:
    """Export, read with the package, compare."""
    from annotate.dataset.export import FORMATS, export_dataset

    records, out = make_records(), home / "export"
    dataset = make_dataset(home / "data", records)
    export_dataset(dataset, FORMATS.load(name, **options), out)
    problem = run_peer(python, "read", package, name, out, home / "read.json")
    if problem:
        return problem
    return compare(expected_records(records, name), json.loads((home / "read.json").read_text()))


def compare_import(python: str, package: str, name: str, folder: str, home: Path) -> str:
    """Write with the package, import, compare."""
    from annotate.errors import AnnotateError

    records = {folder + image: rows for image, rows in make_records().items()}
    (home / "records.json").write_text(json.dumps(records))
    problem = run_peer(python, "write", package, name, home / "theirs", home / "records.json")
    if problem:
        return problem
    try:
        read = import_records(home / "theirs", name.removesuffix("-darknet"), home / "back")
    except AnnotateError as error:
        return f"refused: {error}"
    result = compare(expected_records(records, name.removesuffix("-darknet")), read)
    if name != "coco" or result == "equal":
        return result
    return f"{result}; against what pycocotools reads: {compare(pycocotools_read(home), read)}"


def pycocotools_read(home: Path) -> Records:
    """Read the COCO files below a folder with pycocotools, where a writer changes the masks."""
    from pycocotools.coco import COCO

    records = Records()
    for file in (home / "theirs").rglob("*.json"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints progress
            coco = COCO(str(file))
        for image_id, image in coco.imgs.items():
            rows = records.setdefault(Path(image["file_name"]).name, [])
            for each in coco.imgToAnns[image_id]:
                x, y, width, height = each["bbox"]
                mask = pack(coco.annToMask(each)) if each.get("segmentation") else None
                label = coco.cats[each["category_id"]]["name"]
                rows.append([label, [x, y, x + width, y + height], mask])
    return records


def datumaro_read(format_name: str, folder: Path) -> Records:
    """Read a folder with datumaro; the parts of an object share a group."""
    import datumaro as dm
    from pycocotools import mask as coco_masks

    importer = "coco" if format_name == "coco" else "yolo"
    dataset, records = dm.Dataset.import_from(str(folder), importer), Records()
    labels = dataset.categories()[dm.AnnotationType.label]
    for item in dataset:
        groups = dict[Any, list[Any]]()
        for number, each in enumerate(item.annotations):
            groups.setdefault((each.group or f"-{number}", each.label), []).append(each)
        rows = records[Path(item.media.path).name] = []
        for (_, label), parts in groups.items():
            canvas, box = None, None
            for part in parts:
                if part.type == dm.AnnotationType.bbox:
                    box = part.points
                    continue
                if part.type == dm.AnnotationType.mask:
                    filled = part.image
                else:
                    rles = coco_masks.frPyObjects([part.points], HEIGHT, WIDTH)
                    filled = coco_masks.decode(coco_masks.merge(rles))
                canvas = filled.astype(bool) | (canvas if canvas is not None else False)
            box = mask_box(canvas) if box is None else box
            text = None if canvas is None else pack(canvas)
            rows.append([labels[label].name, [float(side) for side in box], text])
    return records


def datumaro_write(format_name: str, folder: Path, records: Records) -> None:
    """Write the records with datumaro."""
    import datumaro as dm

    samples = []
    for number, (name, rows) in enumerate(records.items()):
        annotations: list[Any] = []
        for group, (label, (x1, y1, x2, y2), mask) in enumerate(rows, start=1):
            common = {"label": CLASSES.index(label), "id": group, "group": group}
            if mask is not None and format_name == "coco":
                annotations.append(dm.Mask(image=unpack(mask), **common))
            else:
                annotations.append(dm.Bbox(x1, y1, x2 - x1, y2 - y1, **common))
        pixels = np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8)
        samples.append(
            dm.DatasetItem(
                id=str(Path(name).with_suffix("")),
                subset="train" if number else "val",  # it refuses to write YOLO without both
                media=dm.Image.from_numpy(data=pixels, ext=".png"),
                annotations=annotations,
            )
        )
    exporter = {"coco": "coco_instances", "yolo": "yolo_ultralytics", "yolo-darknet": "yolo"}
    dataset = dm.Dataset.from_iterable(samples, categories=list(CLASSES))
    dataset.export(str(folder), exporter[format_name], save_media=True)


def fiftyone_importer(format_name: str, folder: Path) -> Any:
    """Make FiftyOne's importer of a folder of ours; unlike its datasets it needs no database."""
    if format_name != "coco":
        from fiftyone.utils.yolo import YOLOv5DatasetImporter

        kind = "detections" if format_name == "yolo" else "polylines"
        yaml = str(folder / "data.yaml")
        return YOLOv5DatasetImporter(yaml_path=yaml, split="train", label_type=kind)
    from fiftyone.utils.coco import COCODetectionDatasetImporter

    return COCODetectionDatasetImporter(
        data_path=str(folder / "images"),
        labels_path=str(folder / "annotations" / "instances_train.json"),
        label_types=["detections", "segmentations"],
    )


def fiftyone_read(format_name: str, folder: Path) -> Records:
    """Read a folder with FiftyOne; a mask is placed in the box that it gives."""
    import fiftyone as fo

    records = Records()
    with fiftyone_importer(format_name, folder) as importer:
        for image_path, _, labels in importer:
            fields = labels if isinstance(labels, dict) else {"detections": labels}
            rows = records[Path(image_path).name] = []
            if isinstance(labels, fo.Polylines):
                rows += [outline_row(each.label, each.points[0]) for each in labels.polylines]
                continue
            if masked := fields.get("segmentations"):  # only the objects that have a mask
                rows += [fiftyone_row(each) for each in masked.detections]
            if boxes := fields.get("detections"):
                read = [row[:2] for row in rows]
                plain = [fiftyone_row(each) for each in boxes.detections]
                rows += [row for row in plain if row[:2] not in read]
    return records


def outline_row(label: str, points: Any) -> list[Any]:
    """Make the record of an outline of fractions of the image; one of four points is a box."""
    outline = np.multiply(points, (WIDTH, HEIGHT))
    if len(outline) == 4:
        return [label, [*outline.min(axis=0), *outline.max(axis=0)], None]
    filled = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), np.int32(outline)[None], 1)
    return [label, mask_box(filled), pack(filled)]


def fiftyone_row(detection: Any) -> list[Any]:
    """Make the record of a detection."""
    x, y, width, height = detection.bounding_box
    box = [x * WIDTH, y * HEIGHT, (x + width) * WIDTH, (y + height) * HEIGHT]
    if detection.mask is None:
        return [detection.label, box, None]
    canvas = np.zeros((HEIGHT, WIDTH), bool)
    x1, y1 = round(box[0]), round(box[1])
    rows, columns = detection.mask.shape
    canvas[y1 : y1 + rows, x1 : x1 + columns] = detection.mask
    return [detection.label, box, pack(canvas)]


def fiftyone_exporter(format_name: str, folder: Path, pictures: Path) -> Any:
    """Make FiftyOne's exporter to a folder."""
    options = {"export_dir": str(folder), "classes": list(CLASSES), "rel_dir": str(pictures)}
    if format_name == "coco":
        from fiftyone.utils.coco import COCODetectionDatasetExporter

        return COCODetectionDatasetExporter(**options)
    from fiftyone.utils.yolo import YOLOv5DatasetExporter

    return YOLOv5DatasetExporter(split="train", **options)


def fiftyone_write(format_name: str, folder: Path, records: Records) -> None:
    """Write the records with FiftyOne."""
    import fiftyone as fo

    pictures = folder.with_name("pictures")
    with fiftyone_exporter(format_name, folder, pictures) as exporter:
        for number, (name, rows) in enumerate(records.items()):
            save_image(pictures / name, number)
            detections = []
            for label, (x1, y1, x2, y2), text in rows:
                box = [x1 / WIDTH, y1 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT]
                mask = unpack(text)[int(y1) : int(y2), int(x1) : int(x2)] if text else None
                detections.append(fo.Detection(label=label, bounding_box=box, mask=mask))
            metadata = fo.ImageMetadata(width=WIDTH, height=HEIGHT)
            path = str(pictures / name)
            exporter.export_sample(path, fo.Detections(detections=detections), metadata=metadata)


def run_as_peer(action: str, package: str, format_name: str, folder: Path, file: Path) -> None:
    """Do one half of a round trip, in the interpreter of the package."""
    functions = {
        ("read", "datumaro"): datumaro_read,
        ("read", "fiftyone"): fiftyone_read,
        ("write", "datumaro"): datumaro_write,
        ("write", "fiftyone"): fiftyone_write,
    }
    if action == "read":
        file.write_text(json.dumps(functions[action, package](format_name, folder)))
    else:
        functions[action, package](format_name, folder, json.loads(file.read_text()))


EXPORTS = (("coco", {}), ("coco", {"polygons": True}), ("yolo", {}), ("yolo-seg", {}))
IMPORTS = {"datumaro": ("coco", "yolo", "yolo-darknet"), "fiftyone": ("coco", "yolo")}


def main() -> None:
    """Print a line for each pair."""
    if sys.argv[1:2] in (["read"], ["write"]):
        run_as_peer(*sys.argv[1:4], Path(sys.argv[4]), Path(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--datumaro", metavar="PYTHON", default="")
    parser.add_argument("--fiftyone", metavar="PYTHON", default="")
    arguments = parser.parse_args()
    for package in ("datumaro", "fiftyone"):
        if not (python := getattr(arguments, package)):
            continue
        for name, options in EXPORTS:
            with tempfile.TemporaryDirectory() as home:
                result = compare_export(python, package, name, options, Path(home))
            words = "".join(f" {key}" for key in options)
            print(f"we write {name}{words}, {package} reads: {result}", flush=True)
        for name in IMPORTS[package]:
            for folder in ("", "a tour/"):
                with tempfile.TemporaryDirectory() as home:
                    result = compare_import(python, package, name, folder, Path(home))
                words = " with folders" if folder else ""
                print(f"{package} writes {name}{words}, we read: {result}", flush=True)


if __name__ == "__main__":
    main()
