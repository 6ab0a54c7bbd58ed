"""COCO files that are changed at random.

Every annotation is imported, or counted as left out or as there twice; every picture that is named
is imported or counted as left out; a picture with annotations is never imported without objects,
nor is one without, where annotations are of no known picture.
"""

import json

import cv2
import numpy as np
from hypothesis import given
from mutations import fuzz, json_bytes, outcome

from annotate.dataset.coco import CocoFormat
from annotate.dataset.export import import_dataset
from annotate.items.foreign_coco import read_id

NAMES = ("a.png", "b.png", "c.png")
MASK = {"size": [48, 64], "counts": [100, 20, 28, 20, 2904]}
VALID = {
    "info": {"clips": {"dock": {"frame_count": 9, "width": 64, "height": 48, "fingerprint": "5e"}}},
    "images": [
        {"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(NAMES, 1)
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 10, 40, 20], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5},
        {"id": 3, "image_id": 2, "category_id": 1, "segmentation": [[20, 10, 60, 10, 60, 30]]},
        {"id": 4, "image_id": 2, "category_id": 1, "segmentation": MASK, "track_id": 7},
        {"id": 5, "image_id": 1, "category_id": 2, "bbox": [1, 2, 0, 4]},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


@fuzz
@given(json_bytes(VALID))
def test_every_annotation_and_picture_is_accounted_for(tmp_path_factory, data):
    folder = _folder(tmp_path_factory)
    source = folder / "train.json"
    source.write_bytes(data)
    dataset = outcome(
        lambda: import_dataset(source, CocoFormat(), folder.parent / "imported", force=True)
    )
    if dataset is None:
        return
    report, samples, table = dataset.import_report, list(dataset), json.loads(data)
    objects = sum(len(sample.item.objects) for sample in samples)
    left_out = sum(notice.count for notice in report.skipped_rows.values())
    twice = report.notices.get("an annotation was there twice")
    assert objects + left_out + (twice.count if twice else 0) == len(table["annotations"])
    skipped = sum(notice.count for notice in report.skipped_images.values())
    images = [image for image in table["images"] if isinstance(image, dict)]
    names = [image.get("file_name") or image.get("coco_url") for image in images]
    assert len(samples) + skipped >= len({name for name in NAMES if name in names})
    labelled = {read_id(annotation, "image_id") for annotation in table["annotations"]}
    unknown = labelled - {read_id(image, "id") for image in images}
    for sample in samples:
        ids = {read_id(i, "id") for i in images if i.get("file_name") == sample.image} - {None}
        assert sample.item.objects or not (ids & labelled or unknown)


def _folder(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "fuzz-coco"
    if not folder.exists():
        folder.mkdir()
        for value, name in enumerate(NAMES):
            cv2.imwrite(str(folder / name), np.full((48, 64, 3), value, np.uint8))
    return folder
