"""The trainer `ultralytics`, on the YOLO11n of ../shared: nothing of it is part of this project."""

import importlib.util
from fractions import Fraction

import cv2
import numpy as np
import pytest
from sample_data import SHARED

from annotate.errors import AnnotateError, WeightsError
from annotate.files import sha256, write_text
from annotate.items.records import Frame, Item, Object, Vocabulary
from annotate.training import ultralytics
from annotate.training.trainer import TrainingFrame, TrainingPlan
from annotate.training.ultralytics import UltralyticsTrainer
from annotate.weights.lineage import Lineage

CHECKPOINT = SHARED / "models" / "yolo11n_from_int8.pt"
SIZE_WH = (160, 96)
CLASSES = ("lamp", "mug")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="needs ultralytics"
)


def training_frame(folder, number):
    """A picture with a red square, every fourth without."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 90, (SIZE_WH[1], SIZE_WH[0], 3), np.uint8)
    x, y = (int(each) for each in rng.integers(4, 50, 2))
    objects = ()
    if number % 4 != 3:
        image[y : y + 40, x : x + 40] = (40, 30, 220)
        objects = (Object(CLASSES[number % 2], (x, y, x + 40.0, y + 40.0)),)
    path = folder / f"frame-{number:02d}.png"
    cv2.imwrite(str(path), image)
    return TrainingFrame(path, Item("clip", number, Fraction(number), *SIZE_WH, objects))


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    frames = [training_frame(folder, number) for number in range(12)]
    return TrainingPlan(
        folder, "5e1f" * 16, CLASSES, frames[:8], frames[8:], 160, 2, parent=CHECKPOINT, threads=1
    )


@pytest.fixture(scope="module")
def trained(plan, tmp_path_factory):
    """The weights of a whole training, its folder and its reports."""
    folder, reports = tmp_path_factory.mktemp("trained"), []
    return UltralyticsTrainer().train(plan, folder, reports.append), folder, reports


def contents(folder):
    return {path.name: (path.stat().st_mtime_ns, sha256(path)) for path in folder.iterdir()}


@pytest.mark.shared
def test_a_training_has_no_network_and_leaves_only_weights(plan, trained):
    weights, folder, reports = trained
    assert [(each.epoch, each.epochs) for each in reports] == [(1, 2), (2, 2)]
    assert all(each.loss > 0 and 0 <= each.ap50 <= 1 for each in reports)
    assert [path.name for path in folder.iterdir()] == ["weights.pt"]
    assert weights.path == folder / "weights.pt" and weights.detector == "yolo"
    assert weights.licence == "AGPL-3.0" and weights.deterministic and weights.epochs == (1, 2)
    assert weights.settings["refused_connections"] == []
    assert weights.settings["optimizer"] == "AdamW" and weights.settings["close_mosaic"] == 1
    assert len(list(plan.dataset.iterdir())) == 12  # no cache of labels beside the pictures
    assert str(folder).encode() not in weights.path.read_bytes()


@pytest.mark.shared
def test_a_killed_training_goes_on_or_starts_again_to_the_same_tensors(plan, trained, tmp_path):
    before = contents(plan.dataset)

    def fail(report):
        raise MemoryError(report.epoch)

    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(MemoryError):
        UltralyticsTrainer().train(plan, tmp_path, fail)
    assert (tmp_path / "last.pt").exists() and (tmp_path / "best.pt").exists()
    resumed = UltralyticsTrainer(resume=True).train(plan, tmp_path, interrupt)
    assert resumed.epochs == (2, 2) and not resumed.deterministic
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]
    again = UltralyticsTrainer().train(plan, tmp_path, lambda report: None)
    assert again.tensor_sha256 == trained[0].tensor_sha256 and again.deterministic
    assert contents(plan.dataset) == before


def model_folder(folder, weights, **changes):
    values = {
        "weights": "weights.pt",
        "detector": "yolo",
        "tensor_sha256": weights.tensor_sha256,
        "file_sha256": sha256(folder / "weights.pt"),
        "licence": weights.licence,
        "classes": CLASSES,
        "threshold": 0.0125,
        "image_size": 150,
        "trainer": {},
        "dataset": {},
    }
    Lineage(**values | changes).write(folder)
    return folder


@pytest.mark.shared
def test_the_detector_takes_classes_size_and_threshold_from_the_folder(plan, trained, monkeypatch):
    from annotate.detectors import yolo
    from annotate.detectors.run import DETECTORS

    weights, folder, _ = trained
    model_folder(folder, weights)
    vocabulary = Vocabulary("mugs.v1", {"mug": {}, "lamp": {}}, "5e1f" * 16)
    detector = DETECTORS.load("yolo", vocabulary, model=str(folder))
    assert detector.min_score == 0.0125
    options = []
    predict = yolo.predict
    monkeypatch.setattr(
        yolo, "predict", lambda *given, **more: options.append(given[2]) or predict(*given, **more)
    )
    image = cv2.imread(str(plan.val[0].image))[..., ::-1].copy()
    [found] = detector.propose([Frame("clip", 8, Fraction(8), image)])
    assert options[0].input_size == 160 and options[0].min_score == 0.0125
    assert len(found) and set(found.class_id) <= {0, 1}
    assert DETECTORS.load("yolo", vocabulary, model=str(folder), min_score=0.5).min_score == 0.5


@pytest.mark.shared
def test_a_model_folder_that_was_changed_is_refused(plan, trained):
    from annotate.detectors.run import DETECTORS

    weights, folder, _ = trained
    vocabulary = Vocabulary("mugs.v1", {"mug": {}, "lamp": {}}, "5e1f" * 16)
    model_folder(folder, weights, file_sha256="0" * 64)
    with pytest.raises(WeightsError, match="changed since the training"):
        DETECTORS.load("yolo", vocabulary, model=str(folder)).ready()
    model_folder(folder, weights, detector="trained")
    with pytest.raises(WeightsError, match="trained for the detector trained: give that one"):
        DETECTORS.load("yolo", vocabulary, model=str(folder)).ready()
    assert DETECTORS.load("yolo", vocabulary).min_score == 0.25


def test_the_network_is_cut_but_for_sockets_of_this_machine():
    code = (
        "import socket\n"
        "from annotate.training.ultralytics_child import cut_network\n"
        "attempts = []\n"
        "cut_network(attempts)\n"
        "for call in (lambda: socket.create_connection(('127.0.0.1', 9)),\n"
        "             lambda: socket.socket().connect(('127.0.0.1', 9)),\n"
        "             lambda: socket.getaddrinfo('example.org', 80)):\n"
        "    try:\n        call()\n        print('no error')\n"
        "    except OSError as error:\n        assert 'no network in a training' in str(error)\n"
        "one, other = socket.socketpair()\n"
        "print(len(attempts))\n"
    )
    import subprocess
    import sys

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "3\n"


def test_the_failure_of_a_child_is_one_line(plan, tmp_path):
    log = tmp_path / "log.txt"
    write_text(log, "Traceback\n  File x\nValueError: no labels found\n")
    assert ultralytics._failure(log, 1) == "the training failed: ValueError: no labels found"
    assert "killed by signal 9" in ultralytics._failure(log, -9)


def test_options_and_weights_that_cannot_be_used(plan, tmp_path):
    for options, says in (({"batch_size": 0}, "batch_size"), ({"learning_rate": 2}, "learning_")):
        with pytest.raises(AnnotateError, match=says):
            UltralyticsTrainer(**options)
    from dataclasses import replace

    with pytest.raises(WeightsError, match=r"nowhere.pt: no such file"):
        trainer = UltralyticsTrainer(model="nowhere.pt")
        trainer.train(replace(plan, parent=None), tmp_path, lambda report: None)
    assert list(tmp_path.iterdir()) == []
