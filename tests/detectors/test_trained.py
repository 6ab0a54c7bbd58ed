import json

import numpy as np
import pytest
from untrained import untrained_model

from annotate.detectors import trained
from annotate.detectors.run import DETECTORS, detector_settings, header_settings
from annotate.errors import AnnotateError, MissingWeights, PromptError, WeightsError
from annotate.items.records import Frame, Vocabulary
from annotate.weights import lineage

WORDS = Vocabulary("mugs", {"plate": {}, "mug": {}}, "5e1f" * 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return untrained_model(tmp_path_factory.mktemp("model"), ("mug", "plate"))


@pytest.fixture
def frame():
    image = np.random.default_rng(2).integers(0, 256, (120, 200, 3), np.uint8)
    return Frame("dock.mp4", 0, 0, image)


def found(frame, model, words=WORDS, **options):
    [detections] = DETECTORS.load("trained", words, model=str(model), **options).propose([frame])
    return detections


def test_classes_go_by_name_and_the_score_by_the_model(model, frame):
    boxes = found(frame, model)
    assert len(boxes) and boxes.confidence.min() >= 0.5
    assert set(boxes.class_id.tolist()) == {0, 1}
    other = found(frame, model, Vocabulary("mugs", {"cup": {"trained": "mug"}}, ""))
    mugs = boxes.class_id == 1
    assert np.array_equal(other.xyxy, boxes.xyxy[mugs]) and set(other.class_id.tolist()) == {0}
    assert len(found(frame, model, min_score=0.2)) > len(boxes)
    assert not len(found(frame, model, min_score=0.999))


def test_the_least_score_changes_no_box_that_is_kept(model, frame):
    few, many = (found(frame, model, min_score=score) for score in (0.5, 0.3))
    assert 0 < len(few) < len(many)
    assert np.array_equal(few.xyxy, many.xyxy[many.confidence >= 0.5])


def test_a_box_is_the_mean_of_those_of_its_class_round_it():
    table = np.array(
        [
            [10, 10, 50, 50, 0.8, 0],
            [14, 10, 54, 50, 0.4, 0],  # round the first
            [12, 12, 52, 52, 0.9, 1],  # of another class
            [60, 60, 90, 90, 0.7, 0],  # elsewhere
        ]
    )
    voted = trained.vote(table[[0, 3]], table)
    assert voted[0].tolist() == pytest.approx([10.8, 10, 50.8, 50, 0.8, 0])
    assert voted[1].tolist() == pytest.approx(table[3].tolist())


def test_tiles_find_more_boxes_and_all_lie_in_the_picture(model, frame):
    boxes = found(frame, model, tile=64)
    assert len(boxes) > len(found(frame, model))
    assert boxes.xyxy.min() >= 0 and (boxes.xyxy[:, 2:] <= [200, 120]).all()


def test_a_picture_larger_than_2000_pixels_and_one_of_a_few_are_read(model):
    for height, width in ((1300, 2300), (9, 30)):
        image = np.zeros((height, width, 3), np.uint8)
        boxes = found(Frame("dock.mp4", 0, 0, image), model, min_score=0.0)
        assert (boxes.xyxy <= [width, height] * 2).all()


def test_the_header_names_the_tensors(model):
    detector = DETECTORS.load("trained", WORDS, model=str(model))
    digest = lineage.read_lineage(model / "lineage.json").tensor_sha256
    assert header_settings(detector)["weights"] == {"model": digest}
    assert "min_score" in detector_settings(detector)


def test_what_cannot_be_used_is_refused_with_one_line(model, tmp_path):
    with pytest.raises(MissingWeights, match="give `model`"):
        DETECTORS.load("trained", WORDS).ready()
    with pytest.raises(WeightsError, match="no such file or folder"):
        DETECTORS.load("trained", WORDS, model=str(tmp_path / "none")).ready()
    with pytest.raises(PromptError, match="none of its classes"):
        DETECTORS.load("trained", Vocabulary("x", {"cat": {}}, ""), model=str(model)).ready()
    with pytest.raises(AnnotateError, match="min_score"):
        DETECTORS.load("trained", WORDS, model=str(model), min_score=2.0)
    other = untrained_model(tmp_path / "other", ("mug",), detector="yolo")
    with pytest.raises(WeightsError, match="trained for the detector yolo"):
        DETECTORS.load("trained", WORDS, model=str(other)).ready()
    (other / "weights.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match="changed since the training"):
        DETECTORS.load("trained", WORDS, model=str(other)).ready()
    record = json.loads((model / "lineage.json").read_text())
    assert record["detector"] == "trained"
