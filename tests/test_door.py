"""The functions of `import annotate`, and the examples in the documentation of every module."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import supervision as sv
from PIL import Image

import annotate as door
from annotate.errors import AnnotateError, DatasetError, PromptError
from annotate.items import journal

CLICK = pd.DataFrame(
    [[[290, 330], 1, 1, 0]], columns=["point_xy", "object_id", "label", "frame_id"]
)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(door.__path__, "annotate.")
    if not module.name.endswith(("__main__", "testing.test_contracts"))
)


def test_import_annotate_imports_nothing_heavy():
    probe = (
        "import sys, annotate; dir(annotate);"
        "print([m for m in sys.modules if m in {'numpy', 'supervision', 'cv2', 'pandas', 'torch'}])"
    )
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in door.__all__:
        assert getattr(door, name).__doc__
    assert set(door.__all__) <= set(dir(door))
    with pytest.raises(AttributeError, match="no attribute 'detekt'"):
        _ = door.detekt


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name, demo):
    module = importlib.import_module(name)
    results = doctest.testmod(
        module, extraglobs={"demo_clip": str(demo)}, optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert results.failed == 0


def test_detect_yields_what_its_file_holds(demo, tmp_path):
    given = {"vocabulary": "designator.v1", "start": 3, "stop": 20, "every": 5}
    pairs = list(door.detect(str(demo), "colour", **given))
    path = door.detect(demo, "colour", output=tmp_path / "boxes.jsonl", **given)
    items = list(journal.read(path))
    assert [frame.index for frame, _ in pairs] == [item.frame for item in items] == [3, 8, 13, 18]
    for (frame, detections), item in zip(pairs, items, strict=True):
        assert frame.image.shape == (600, 800, 3)
        boxes = np.array([obj.box for obj in item.objects]).reshape(-1, 4)
        np.testing.assert_array_equal(detections.xyxy, boxes)
        assert detections.data["class_name"].tolist() == [obj.label for obj in item.objects]
    again = list(door.read_items(path))
    np.testing.assert_array_equal(again[1][1].xyxy, pairs[1][1].xyxy)
    np.testing.assert_array_equal(again[1][0].image, pairs[1][0].image)


def test_a_detector_by_name_needs_a_vocabulary(demo):
    with pytest.raises(PromptError, match=r"needs a vocabulary.*designator\.v1"):
        door.detect(demo, "colour")


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
def test_propagate_yields_what_its_file_holds(demo, tmp_path, both):
    click = CLICK.assign(frame_id=1)
    given = {"stop": 3, "fast": True, "both_directions": both}
    pairs = list(door.propagate(demo, click, **given))
    path = door.propagate(demo, click, output=tmp_path / "masks.jsonl", **given)
    items = list(journal.read(path))
    assert [frame.index for frame, _ in pairs] == [item.frame for item in items]
    assert len(items) == (3 if both else 2)
    for (_, detections), item in zip(pairs, items, strict=True):
        expected = [obj.mask["counts"] for obj in item.objects]
        assert [door_mask["counts"] for door_mask in encoded(detections)] == expected


def encoded(detections):
    from annotate.items import masks

    return [masks.encode(mask) for mask in detections.mask]


class Everything:
    """A detector of one's own: the whole picture."""

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def propose(self, frames):
        return [
            sv.Detections(
                np.array([[0, 0, *frame.size_wh]], float),
                class_id=np.array([1]),
                confidence=np.array([0.5]),
            )
            for frame in frames
        ]


def test_a_detector_of_ones_own_is_taken_as_it_is(demo, vocabulary):
    [(_, detections)] = door.detect(demo, Everything(vocabulary), stop=1)
    assert detections.xyxy.tolist() == [[0, 0, 800, 600]]
    assert detections.data["class_name"].tolist() == ["mug"]
    with pytest.raises(AnnotateError, match="Everything is not a dataclass"):
        door.detect(demo, Everything(vocabulary), stop=1, output="boxes.jsonl")


def test_frames_and_boxes_of_ones_own_become_coco(demo, tmp_path):
    pairs = []
    for frame in door.frames(demo, every=60):
        xyxy = np.array([[10, 20, 110, 80.0]][: frame.index])
        pairs.append((frame, sv.Detections(xyxy.reshape(-1, 4), class_id=np.zeros(len(xyxy), int))))
    report = door.write_coco(pairs, ["plate", "mug"], tmp_path / "coco")
    assert report.objects == 2
    made = door.import_dataset(tmp_path / "coco", "coco", tmp_path / "back")
    assert made.classes == ("plate", "mug")
    assert [len(sample.item.objects) for sample in made] == [0, 1, 1]


def test_write_coco_refuses_what_has_no_label(demo, tmp_path):
    [frame] = door.frames(demo, stop=1)
    stray = sv.Detections(np.array([[0, 0, 9, 9.0]]), class_id=np.array([3]))
    with pytest.raises(DatasetError, match=r"demo\.mp4#0: class id 3, but there are 1 labels"):
        door.write_coco([(frame, stray)], ["plate"], tmp_path / "coco")
    nameless = sv.Detections(np.array([[0, 0, 9, 9.0]]))
    with pytest.raises(DatasetError, match="no class_id"):
        door.write_coco([(frame, nameless)], ["plate"], tmp_path / "coco")
    with pytest.raises(DatasetError, match="given twice"):
        door.write_coco([(frame, sv.Detections.empty())] * 2, ["plate"], tmp_path / "coco")
    assert not (tmp_path / "coco").exists()


def test_from_clip_to_split_export_and_diff(demo, tmp_path):
    boxes = door.detect(demo, vocabulary="designator.v1", every=20, output=tmp_path / "b.jsonl")
    dataset = door.build(boxes, tmp_path / "dataset")
    assert isinstance(dataset, door.Dataset)
    assert door.export(tmp_path / "dataset", "yolo", tmp_path / "yolo").objects > 0
    corrected = door.build(boxes, tmp_path / "corrected", min_score=0.99)
    assert {change.kind for change in door.diff(dataset, corrected)} == {"deleted"}


def test_find_ranks_shots_by_likeness_to_a_reference(demo, tmp_path):
    [frame] = door.frames(demo, start=70, stop=71)
    Image.fromarray(frame.image[200:320, 540:680]).save(tmp_path / "reference.png")
    found = door.find(
        [demo], [tmp_path / "reference.png"], "Demon", output=tmp_path / "found", max_shots=1
    )
    assert [hit.video for hit in found.hits] == ["demo.mp4"]
    assert (tmp_path / "found" / "items.jsonl").exists()
