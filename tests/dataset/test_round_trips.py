"""What is exported, readers of other programs read equal; what they write is read equal."""

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from dataset_samples import PLATE, clip, item, items, mug
from pycocotools.coco import COCO

from annotate.dataset.build import build_dataset
from annotate.dataset.export import FORMATS, export_dataset, import_dataset
from annotate.detectors.ultralytics import import_ultralytics
from annotate.items import masks
from annotate.items.records import Object

BRIDGE_PIXELS = 21  # between (19, 30) and (40, 8), the nearest pixels of the two parts


@pytest.fixture
def data(tmp_path):
    dock = clip(tmp_path / "dock", 2)
    lines = [item("dock", 0, PLATE, mug()), item("dock", 1, mug(30, 2))]
    return build_dataset([items(tmp_path / "i.jsonl", [dock], lines)], tmp_path / "data")


def boxes(data):
    return {s.image: [(o.label, *o.box) for o in s.item.objects] for s in data}


def test_supervision_reads_and_writes_yolo_as_we_do(tmp_path, data):
    out = tmp_path / "yolo"
    export_dataset(data, FORMATS.load("yolo"), out)
    folders = [str(out / name / "train") for name in ("images", "labels")]
    read = sv.DetectionDataset.from_yolo(*folders, str(out / "data.yaml"))
    assert read.classes == list(data.classes) and len(read) == len(data)
    expected = boxes(data)
    for path, _, detections in read:
        rows = [box[1:] for box in expected[path.rsplit("/", 1)[-1]]]
        np.testing.assert_allclose(detections.xyxy, rows, atol=0.01)
    back = tmp_path / "sv"
    read.as_yolo(str(back / "images"), str(back / "labels"), str(back / "data.yaml"))
    ours = boxes(import_dataset(back, FORMATS.load("yolo"), tmp_path / "back"))
    assert {name: [b[0] for b in rows] for name, rows in ours.items()} == {
        name: [b[0] for b in rows] for name, rows in expected.items()
    }
    for name, rows in expected.items():
        np.testing.assert_allclose([b[1:] for b in ours[name]], [b[1:] for b in rows], atol=0.05)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Skipping COCO polygon:UserWarning")
def test_pycocotools_and_supervision_read_coco_as_we_do(tmp_path, data):
    out = tmp_path / "coco"
    export_dataset(data, FORMATS.load("coco"), out)
    file = out / "annotations" / "instances_train.json"
    coco, sizes = COCO(str(file)), []
    names = {image["file_name"]: number for number, image in coco.imgs.items()}
    for sample in data:
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[names[sample.image]]))
        for obj, annotation in zip(sample.item.objects, annotations, strict=True):
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == obj.box
            if obj.mask is not None:
                sizes.append(annotation["area"])
                assert np.array_equal(coco.annToMask(annotation), masks.decode(obj.mask))
    assert len(sizes) == 2
    read = sv.DetectionDataset.from_coco(str(out / "images"), str(file))
    assert {len(detections) for *_, detections in read} == {1, 2}
    back = tmp_path / "sv"
    read.as_coco(str(back / "images"), str(back / "a.json"))
    assert json.loads((back / "a.json").read_text())["annotations"]
    ours = boxes(import_dataset(back, FORMATS.load("coco"), tmp_path / "back"))
    for name, rows in boxes(data).items():
        np.testing.assert_allclose([b[1:] for b in ours[name]], [b[1:] for b in rows], atol=0.05)


@pytest.fixture
def shapes(tmp_path):
    """Make a dataset of a box, a mask with a hole, one of two parts, and an empty frame."""
    mask = np.zeros((48, 64), bool)
    mask[30:40, 5:20] = mask[2:9, 40:64] = True
    parts = Object("a mug \U0001f375", masks.box(mask), mask=masks.encode(mask))
    fine = Object("plate", (0.123, 7.7, 33.333, 47.96))
    lines = [item("dock", 0, PLATE, mug()), item("dock", 1, fine, parts), item("dock", 2)]
    labels = ("plate", "mug", "a mug \U0001f375")
    source = items(tmp_path / "i.jsonl", [clip(tmp_path / "dock", 3)], lines, labels)
    return build_dataset([source], tmp_path / "data")


def read_with_ultralytics(data, name, out, task):
    """Read an export as `ultralytics` does to train: the classes, and the labels by image."""
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("needs ultralytics")
    export_dataset(data, FORMATS.load(name), out)
    # not `check_det_dataset`: it looks for a font in the network
    description = import_ultralytics().utils.YAML.load(out / "data.yaml")
    images = str(out / description["train"])
    reader = importlib.import_module("ultralytics.data.dataset").YOLODataset
    read = reader(img_path=images, data=description, task=task, augment=False)
    assert tuple(description["names"].values()) == data.classes
    labels = {Path(label["im_file"]).name: label for label in read.labels}
    assert set(labels) == {sample.image for sample in data}
    return labels


def box_fractions(box, size_wh):
    """Compute centre, width and height of a box as fractions of the image."""
    x1, y1, x2, y2 = box
    width, height = size_wh
    return (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height


def test_ultralytics_reads_yolo_as_we_do(tmp_path, shapes):
    labels = read_with_ultralytics(shapes, "yolo", tmp_path / "yolo", "detect")
    for sample in shapes:
        label, objects = labels[sample.image], sample.item.objects
        assert [shapes.classes[int(row)] for row in label["cls"][:, 0]] == [
            obj.label for obj in objects
        ]
        size_wh = (sample.item.width, sample.item.height)
        expected = np.reshape([box_fractions(obj.box, size_wh) for obj in objects], (-1, 4))
        np.testing.assert_allclose(label["bboxes"], expected, rtol=1e-6)


def test_ultralytics_reads_yolo_seg_as_we_do(tmp_path, shapes):
    labels = read_with_ultralytics(shapes, "yolo-seg", tmp_path / "seg", "segment")
    to_mask = importlib.import_module("ultralytics.data.utils").polygon2mask
    surplus = list[int]()
    for sample in shapes:
        label, objects = labels[sample.image], sample.item.objects
        width, height = sample.item.width, sample.item.height
        assert [shapes.classes[int(row)] for row in label["cls"][:, 0]] == [
            obj.label for obj in objects
        ]
        for obj, box, segment in zip(objects, label["bboxes"], label["segments"], strict=True):
            if obj.mask is None:
                expected = obj.box
            else:  # an outline runs through the centres of the outermost pixels, less the nudge
                x1, y1, x2, y2 = masks.box(obj.mask)
                expected = tuple(side - 0.01 for side in (x1 + 0.5, y1 + 0.5, x2 - 0.5, y2 - 0.5))
                outline = (segment * (width, height)).reshape(1, -1)
                read = to_mask((height, width), outline).astype(bool)
                written = masks.decode(obj.mask)
                assert not (written & ~read).any()
                surplus.append(np.count_nonzero(read & ~written))
            np.testing.assert_allclose(box, box_fractions(expected, (width, height)), rtol=1e-6)
    assert surplus == [0, BRIDGE_PIXELS]  # of the hole none, of the two parts their bridge
