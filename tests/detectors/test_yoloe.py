"""YOLOE, told phrases or shown an example: the true architecture, weights that know nothing."""

import importlib.util
from fractions import Fraction

import detector_contract
import numpy as np
import pytest
from PIL import Image
from random_networks import as_rows, assert_boxes_of_package, assert_close, fit_batch_norm, seeded

from annotate.detectors import yolo_open_vocabulary
from annotate.detectors.run import DETECTORS, detector_settings
from annotate.detectors.ultralytics import import_ultralytics
from annotate.errors import AnnotateError, MissingWeights, PromptError, VideoError
from annotate.items.records import Frame, Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own

TEXTS = ["red square", "health bar"]
HUD = Vocabulary("hud.v1", {"bar": {"yoloe": TEXTS[1]}, "plate": {"yoloe": TEXTS[0]}}, "5e" * 32)
ONE = Vocabulary("mech.v1", {"mech": {}}, "5e" * 32)
BOX = (20, 10, 90, 80)
GIVEN = {"min_score": 0.6, "input_size": 160}
THEIRS = {"conf": 0.6, "imgsz": 160, "iou": 0.5, "device": "cpu", "verbose": False}


@pytest.fixture(scope="module")
def ultralytics():
    """The package, as the detector imports it."""
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("needs ultralytics")
    return import_ultralytics()


@pytest.fixture(scope="module")
def network(ultralytics, tmp_path_factory):
    """A YOLOE-11s-seg of random weights, as Ultralytics saves checkpoints; its path."""
    import torch

    path = tmp_path_factory.mktemp("yoloe") / "random.pt"
    with seeded():
        model = ultralytics.YOLOE("yoloe-11s-seg.yaml")
        model.model.set_classes(["thing"], torch.randn(1, 1, 512))
        fit_batch_norm(model.model, 128)
        for weight in model.model.model[-1].reprta.parameters():  # zeros until they are trained
            torch.nn.init.normal_(weight, std=0.3)
        for level in model.model.model[-1].cv4:
            level.logit_scale.data.fill_(3.0)
            level.bias.data.zero_()
    model.save(path)
    return str(path)


def vectors(texts):
    made = np.random.default_rng(3).normal(size=(len(texts), 512)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture
def encoder(tmp_path):
    """A text encoder that need not run: its vectors are kept already."""
    path = tmp_path / "encoder.ts"
    path.write_bytes(b"never read")
    folder = yolo_open_vocabulary.vector_cache_dir() / yolo_open_vocabulary._encoder_key(str(path))
    for text, vector in zip(TEXTS, vectors(TEXTS), strict=True):
        yolo_open_vocabulary._write_vector(yolo_open_vocabulary._vector_path(folder, text), vector)
    return str(path)


def noisy(seed, size_wh=(160, 96)):
    shape = (size_wh[1], size_wh[0], 3)
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Frame("noise", seed, Fraction(seed), image)


def bgr(frame):
    return np.ascontiguousarray(frame.image[..., ::-1])


@pytest.fixture
def reference(tmp_path):
    Image.fromarray(noisy(9).image).save(tmp_path / "mech.png")
    return f"{tmp_path / 'mech.png'}:{','.join(map(str, BOX))}"


def test_told_phrases_the_boxes_are_the_packages_own(ultralytics, network, encoder):
    import torch

    detector = DETECTORS.load("yoloe", HUD, model=network, encoder=encoder, **GIVEN)
    [found, _, _] = detector_contract.check(detector, [noisy(n) for n in range(3)])
    [alone] = detector.propose([noisy(0)])
    model = ultralytics.YOLOE(network)
    told = vectors(TEXTS)[::-1].copy()  # in the order of the classes
    with torch.no_grad():
        model.set_classes(TEXTS[::-1], model.model.model[-1].get_tpe(torch.from_numpy(told)[None]))
    [theirs] = model.predict(bgr(noisy(0)), **THEIRS)
    number = [TEXTS[::-1].index(text) for text in alone.data["phrase"]]
    assert_boxes_of_package(alone, number, theirs.boxes, 0.6)
    assert len(alone) > 5 and set(number) == {0, 1}
    assert alone.class_id.tolist() == number
    assert_close(as_rows(found, found.class_id), as_rows(alone, alone.class_id), 0.6)


def test_shown_an_example_the_boxes_are_the_packages_own(ultralytics, network, reference):
    detector = DETECTORS.load("yoloe", ONE, model=network, reference=reference, **GIVEN)
    found, other = detector.propose([noisy(0)]), detector.propose([noisy(1)])
    model = ultralytics.YOLOE(network)
    prompts = {"bboxes": np.array([BOX], float), "cls": np.array([0])}
    shown = {"refer_image": bgr(noisy(9)), "visual_prompts": prompts}
    [theirs] = model.predict(bgr(noisy(0)), **shown, **THEIRS)
    assert_boxes_of_package(found[0], found[0].class_id, theirs.boxes, 0.6)
    assert len(found[0]) > 5
    assert set(found[0].data["phrase"]) == {reference} and set(found[0].class_id) == {0}
    [again] = model.predict(bgr(noisy(1)), **THEIRS)
    assert_boxes_of_package(other[0], other[0].class_id, again.boxes, 0.6)


def test_the_example_is_stamped_by_what_it_shows(network, reference):
    made = lambda: DETECTORS.load("yoloe", ONE, model=network, reference=reference)  # noqa: E731
    before = detector_settings(made())
    path = reference.partition(":")[0]
    with Image.open(path) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    after = detector_settings(made())
    assert before["reference"] == after["reference"]
    assert before["reference_sha256"] != after["reference_sha256"]
    assert len(after["reference_sha256"]) == 64
    assert detector_settings(DETECTORS.load("yoloe", HUD))["reference_sha256"] == ""


def test_another_box_is_another_example(network, reference):
    finds = []
    for shown in (reference, reference.replace("20,10", "60,50")):
        detector = DETECTORS.load("yoloe", ONE, model=network, reference=shown, **GIVEN)
        finds.append(detector.propose([noisy(0)])[0].confidence)
    assert not np.array_equal(*finds)


def test_an_example_of_which_class():
    with pytest.raises(AnnotateError, match=r"reference shows one class, and .* hud.v1 has 2"):
        DETECTORS.load("yoloe", HUD, reference=_saved())
    told = Vocabulary("hud.v1", {"bar": {}, "plate": {"yoloe": "plate"}}, "5e" * 32)
    assert DETECTORS.load("yoloe", told, reference=_saved())._phrases[0].class_id == 1


def _saved():
    Image.fromarray(noisy(9).image).save("mech.png")
    return "mech.png:1,2,30,40"


@pytest.mark.parametrize(
    "text, error, says",
    [
        ("mech.png", PromptError, "expected PICTURE:X1,Y1,X2,Y2"),
        ("mech.png:1,2,3", PromptError, "expected PICTURE:X1,Y1,X2,Y2"),
        ("mech.png:1,2,300,40", PromptError, "inside the picture of 160x96"),
        ("mech.png:nan,2,30,40", PromptError, "inside the picture of 160x96"),
        ("mecj.png:1,2,30,40", VideoError, "mecj.png"),
    ],
)
def test_examples_that_cannot_be(text, error, says):
    _saved()
    with pytest.raises(error, match=says):
        DETECTORS.load("yoloe", ONE, reference=text)


def test_the_encoder_is_the_one_that_the_model_was_trained_with(ultralytics, network, tmp_path):
    with pytest.raises(MissingWeights, match="annotate models fetch mobileclip-blt"):
        DETECTORS.load("yoloe", HUD, model=network).propose([noisy(0)])
    ultralytics.YOLOE("yoloe-26n-seg.yaml").save(tmp_path / "newer.pt")
    with pytest.raises(MissingWeights, match="annotate models fetch mobileclip2-b"):
        DETECTORS.load("yoloe", HUD, model=str(tmp_path / "newer.pt")).propose([noisy(0)])


def test_another_kind_of_network(ultralytics, tmp_path):
    ultralytics.YOLO("yolo11n.yaml").save(tmp_path / "other.pt")
    with pytest.raises(AnnotateError, match=r"other.pt is not a YOLOE that takes prompts"):
        DETECTORS.load("yoloe", HUD, model=str(tmp_path / "other.pt")).propose([noisy(0)])
