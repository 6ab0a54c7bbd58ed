"""YOLO-World and its text encoder: the true architectures, weights that know nothing."""

import importlib.util
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import detector_contract
import numpy as np
import pytest
from random_networks import as_rows, assert_boxes_of_package, assert_close, fit_batch_norm, seeded

from annotate.detectors import yolo_open_vocabulary
from annotate.detectors.run import DETECTORS
from annotate.detectors.ultralytics import import_ultralytics
from annotate.errors import AnnotateError, MissingWeights, PromptError, WeightsError
from annotate.items.records import Frame, Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own

TEXTS = ["red square", "corner brackets", "health bar", ""]
SMALL_INPUT = {"min_score": 0.6, "input_size": 160}


def words(**told):
    told = {label: {"yolo-world": each} for label, each in told.items()}
    return Vocabulary("hud.v1", {"plate": {}} | told, "5e1f" * 16)


HUD = words(designator=["red square", "corner brackets"], bar="health bar")


def vectors(texts, seed=3):
    """A made-up vector of length one for each phrase."""
    made = np.random.default_rng(seed).normal(size=(len(texts), 512)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def ultralytics():
    """The package, as the detector imports it."""
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("needs ultralytics")
    return import_ultralytics()


@pytest.fixture(scope="module")
def network(ultralytics, tmp_path_factory):
    """A YOLOv8s-worldv2 of random weights, as Ultralytics saves checkpoints; its path."""
    path = tmp_path_factory.mktemp("world") / "random.pt"
    with seeded():
        model = ultralytics.YOLOWorld("yolov8s-worldv2.yaml")
        fit_batch_norm(model.model, 128)
        for level in model.model.model[-1].cv4:
            level.logit_scale.data.fill_(3.0)
            level.bias.data.zero_()
    model.save(path)
    return path


@pytest.fixture
def encoder(tmp_path):
    """A text encoder that need not run: its vectors are kept already."""
    path = tmp_path / "encoder.ts"
    path.write_bytes(b"never read")
    folder = yolo_open_vocabulary.vector_cache_dir() / yolo_open_vocabulary._encoder_key(str(path))
    for text, vector in zip(TEXTS, vectors(TEXTS), strict=True):
        yolo_open_vocabulary._write_vector(yolo_open_vocabulary._vector_path(folder, text), vector)
    return str(path)


@pytest.fixture
def noise():
    return [noisy(n) for n in range(3)]


def noisy(seed, size_wh=(160, 96)):
    shape = (size_wh[1], size_wh[0], 3)
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Frame("noise", seed, Fraction(seed), image)


def theirs(ultralytics, path, texts, frame, **given):
    """What Ultralytics' own `predict` finds, told the phrases as their documentation does."""
    import torch

    class Encoder:  # in place of CLIP, where `set_classes` asks for it
        def tokenize(self, asked):
            return torch.tensor([TEXTS.index(text) for text in asked])

        def encode_text(self, tokens):
            return torch.from_numpy(vectors(TEXTS))[tokens]

    model = ultralytics.YOLOWorld(path)
    model.model.clip_model = Encoder()
    model.model.set_classes(texts, cache_clip_model=True)
    model.model.names = texts
    bgr = np.ascontiguousarray(frame.image[..., ::-1])
    given = {"conf": 0.6, "iou": 0.5, "imgsz": 160, "agnostic_nms": True, **given}
    return model.predict(bgr, device="cpu", verbose=False, **given)[0].boxes


def test_the_boxes_are_the_packages_own(ultralytics, network, encoder, noise):
    given = {"model": str(network), "encoder": encoder, "background": False, **SMALL_INPUT}
    [found] = DETECTORS.load("yolo-world", HUD, **given).propose(noise[:1])
    number = [TEXTS.index(text) for text in found.data["phrase"]]
    boxes = theirs(ultralytics, network, TEXTS[:3], noise[0])
    assert_boxes_of_package(found, number, boxes, 0.6)
    assert len(found) > 5 and set(number) == {0, 1, 2}
    assert found.class_id.tolist() == [[1, 1, 2][each] for each in number]


def test_what_looks_more_like_nothing_is_dropped(ultralytics, network, encoder, noise):
    given = {"model": str(network), "encoder": encoder, **SMALL_INPUT}
    [found] = DETECTORS.load("yolo-world", HUD, **given).propose(noise[:1])
    boxes = theirs(ultralytics, network, TEXTS, noise[0], classes=[0, 1, 2])
    number = [TEXTS.index(text) for text in found.data["phrase"]]
    assert_boxes_of_package(found, number, boxes, 0.6)
    assert set(number) <= {0, 1, 2} and len(found) > 5
    shown = theirs(ultralytics, network, TEXTS, noise[0])
    assert (shown.cls == 3).any()  # there was something to drop


def test_it_keeps_to_the_contract_whole_and_in_squares(network, encoder, noise):
    given = {"model": str(network), "encoder": encoder, **SMALL_INPUT}
    whole = detector_contract.check(DETECTORS.load("yolo-world", HUD, **given), noise)
    assert all(len(each) for each in whole)
    detector_contract.check(
        DETECTORS.load("yolo-world", HUD, tile=96, batch_size=2, **given), noise[:2]
    )


def test_alone_or_with_others_it_finds_the_same(network, encoder, noise):
    given = {"model": str(network), "encoder": encoder, **SMALL_INPUT}
    together = DETECTORS.load("yolo-world", HUD, **given).propose(noise)
    alone = DETECTORS.load("yolo-world", HUD, batch_size=1, **given).propose(noise)
    for one, other in zip(together, alone, strict=True):
        phrases = [[TEXTS.index(text) for text in each.data["phrase"]] for each in (one, other)]
        assert_close(as_rows(one, phrases[0]), as_rows(other, phrases[1]), 0.6)


def test_a_vocabulary_that_tells_it_nothing(network):
    with pytest.raises(PromptError, match="has no phrase for yolo-world: give a class a phrase"):
        DETECTORS.load("yolo-world", words())


@pytest.mark.parametrize("model", ["yolo-world-s", "yolo-world-x"])
def test_missing_weights_name_their_cure(model, noise):
    with pytest.raises(MissingWeights, match=f"annotate models fetch {model}"):
        DETECTORS.load("yolo-world", HUD, model=model).propose(noise)


def test_a_missing_encoder_names_its_cure(network, noise):
    with pytest.raises(MissingWeights, match="annotate models fetch clip-vit-b-32"):
        DETECTORS.load("yolo-world", HUD, model=str(network)).propose(noise)


def test_another_kind_of_network(ultralytics, encoder, noise, tmp_path):
    ultralytics.YOLO("yolo11n.yaml").save(tmp_path / "other.pt")
    given = {"model": str(tmp_path / "other.pt"), "encoder": encoder}
    with pytest.raises(AnnotateError, match=r"other.pt is not a YOLO-World"):
        DETECTORS.load("yolo-world", HUD, **given).propose(noise)


def test_damaged_weights_are_one_line(network, encoder, noise, tmp_path):
    (tmp_path / "text.pt").write_bytes(b"hello\n")
    (tmp_path / "cut.pt").write_bytes(network.read_bytes()[:5000])
    for name in ("text.pt", "cut.pt"):
        given = {"model": str(tmp_path / name), "encoder": encoder}
        with pytest.raises(WeightsError, match=f"{name} cannot be used by .*; give") as refusal:
            DETECTORS.load("yolo-world", HUD, **given).propose(noise)
        assert "\n" not in str(refusal.value) and "yolo predict" not in str(refusal.value)


def test_an_export_is_for_another_detector(noise, tmp_path):
    for path in (tmp_path / "x_openvino_model", tmp_path / "x.onnx"):
        path.mkdir()
        with pytest.raises(WeightsError, match=f"{path.name} is an export, .* the detector yolo"):
            DETECTORS.load("yolo-world", HUD, model=str(path)).propose(noise)


ALONE = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("it reaches for the network")

class Refusing(socket.socket):
    __init__ = refuse

socket.socket, socket.create_connection, socket.getaddrinfo = Refusing, refuse, refuse
sys.path[:0] = {tests!r}
from test_yolo_world import HUD, SMALL_INPUT, noisy
from annotate.detectors.run import DETECTORS
given = dict(model={model!r}, encoder={encoder!r}, **SMALL_INPUT)
[found] = DETECTORS.load("yolo-world", HUD, **given).propose([noisy(0)])
print(len(found))
"""


def test_with_the_network_cut_it_finds_the_same_and_writes_nothing_of_the_users(
    network, encoder, noise, tmp_path
):
    """In a process that cannot open a socket, in a home where Ultralytics was never set up."""
    given = {"model": str(network), "encoder": encoder, **SMALL_INPUT}
    [found] = DETECTORS.load("yolo-world", HUD, **given).propose(noise[:1])
    code = ALONE.format(
        tests=[str(Path(__file__).parents[1] / "support"), str(Path(__file__).parent)],
        model=str(network),
        encoder=encoder,
    )
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("YOLO_")}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=quiet)
    assert (ran.returncode, ran.stdout) == (0, f"{len(found)}\n"), ran.stderr
    assert not (tmp_path / ".config").exists()
    [written] = tmp_path.glob("**/Ultralytics/settings.json")
    assert written.is_relative_to(tmp_path / ".cache" / "annotate")
