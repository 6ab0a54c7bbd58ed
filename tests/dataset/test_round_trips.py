"""What is exported, readers of other programs read equal; what they write is read equal."""

import json

import numpy as np
import pytest
import supervision as sv
from dataset_samples import PLATE, clip, item, items, mug
from pycocotools.coco import COCO

from annotate.dataset.build import build_dataset
from annotate.dataset.export import FORMATS, export_dataset, import_dataset
from annotate.items import masks


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
