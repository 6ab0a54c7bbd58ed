"""YOLO datasets whose YAML file and label files are changed at random.

Every picture of the listed folder is imported or counted as left out; every row of a label file is
an object or counted as left out; a picture without objects has an empty label file, or is counted.
"""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import fuzz, mutated_text, outcome, text_bytes

from annotate.dataset.export import import_dataset
from annotate.dataset.yolo import YoloFormat, YoloSegFormat

NAMES = ("a", "b", "c")
YAML = "path: .\ntrain: images\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
BOXES = "1 0.5 0.5 0.25 0.5\n0 0.2 0.2 0.1 0.1\n0 0.2 0.2 0 0.1\n"
OUTLINES = "1 .1 .1 .5 .1 .3 .4\n0 .2 .2 .9 .2 .9 .9 .2 .9\n"
SCORED = "1 .5 .5 .25 .5 .9 7\n0 .2 .2 .1 .1 .25 12\n1 .5 .5 .1 .1 .5 3\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("yolo")
    (folder / "images").mkdir()
    for value, name in enumerate(NAMES):
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.full((48, 64, 3), value, np.uint8))
    return folder


@st.composite
def datasets(draw):
    """Draw the YAML file, and the label file of each picture; None is no file."""
    yaml = draw(mutated_text(YAML, 2)) if draw(st.booleans()) else YAML
    rows = draw(st.sampled_from([BOXES, OUTLINES, SCORED]))
    labels = {
        name: draw(st.just(rows) | mutated_text(rows) | st.sampled_from(["", None]))
        for name in NAMES
    }
    return yaml, labels


@fuzz
@given(datasets(), st.sampled_from([YoloFormat(), YoloSegFormat()]))
def test_every_picture_and_row_is_accounted_for(folder, dataset, dataset_format):
    yaml, labels = dataset
    shutil.rmtree(folder / "labels", ignore_errors=True)
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_bytes(text_bytes(yaml))
    for name, rows in labels.items():
        if rows is not None:
            (folder / "labels" / f"{name}.txt").write_bytes(text_bytes(rows))
    dataset = outcome(
        lambda: import_dataset(folder, dataset_format, folder.parent / "imported", force=True)
    )
    if dataset is None:
        return
    report, samples = dataset.import_report, list(dataset)
    items = {Path(sample.image).stem: sample.item for sample in samples}
    skipped = sum(notice.count for notice in report.skipped_images.values())
    assert len(samples) + skipped == len(NAMES)
    if report.skipped_images.get("no image of train has a label file"):
        return
    rows = [row for text in labels.values() for row in (text or "").splitlines() if row.strip()]
    left_out = sum(notice.count for notice in report.skipped_rows.values())
    assert sum(len(item.objects) for item in items.values()) + left_out == len(rows)
    unlabelled = [name for name in NAMES if labels[name] is None]
    assert report.unlabelled_images.count == len(unlabelled)
    for name, item in items.items():
        assert item.objects or not (labels[name] or "").replace("\ufeff", "").strip()
