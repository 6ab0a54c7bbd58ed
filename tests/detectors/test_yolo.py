"""The `yolo` detector, on a real model exported to OpenVINO, and on one of random weights."""

import importlib.util
import shutil
from fractions import Fraction

import numpy as np
import pytest
import supervision as sv
from PIL import Image
from random_networks import PIXEL_ATOL, assert_boxes_of_package, fit_batch_norm, seeded
from sample_data import SHARED

from annotate.detectors.run import DETECTORS, Job, run_to_file
from annotate.detectors.ultralytics import import_ultralytics, weights_errors
from annotate.detectors.yolo import match_classes
from annotate.errors import AnnotateError, MissingWeights, PromptError, UnknownName, WeightsError
from annotate.items.records import Frame, Vocabulary

REAL = SHARED / "models" / "yolo11n_int8_openvino_model"
KNOWN = ["person", "traffic light", "bus"]

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own


def words(**told):
    return Vocabulary("street.v1", told, "5e1f" * 16)


STREET = words(vehicle={"yolo": ["bus", "truck"]}, person={})


@pytest.fixture(scope="module")
def ultralytics():
    """The package, as the detector imports it."""
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("needs ultralytics")
    return import_ultralytics()


@pytest.fixture
def bus(ultralytics):
    """Ultralytics' own picture: a bus, four people."""
    with Image.open(ultralytics.utils.ASSETS / "bus.jpg") as image:
        return Frame("bus.jpg", 0, Fraction(0), np.array(image.convert("RGB")))


@pytest.fixture(scope="module")
def random_yolo(ultralytics, tmp_path_factory):
    """A YOLO11n of random weights, saved as Ultralytics saves checkpoints; its path."""
    path = tmp_path_factory.mktemp("yolo") / "random.pt"
    with seeded():
        model = ultralytics.YOLO("yolo11n.yaml", task="detect")
        model.model = fit_batch_norm(
            type(model.model)("yolo11n.yaml", nc=len(KNOWN), verbose=False), 128
        )
        for level in model.model.model[-1].cv3:
            level[-1].weight.data *= 10
            level[-1].bias.data.zero_()
    model.model.names = dict(enumerate(KNOWN))
    model.save(path)
    return path


@pytest.mark.shared
def test_the_bus_and_its_people_are_found(bus):
    pytest.importorskip("openvino")
    found, again = DETECTORS.load("yolo", STREET, model=str(REAL)).propose([bus, bus])
    assert [STREET.labels[n] for n in found.class_id] == ["vehicle"] + ["person"] * 4
    assert found.data["phrase"].tolist() == ["bus"] + ["person"] * 4
    best = [[10, 230, 798, 734], [48, 397, 242, 904], [221, 405, 346, 860], [670, 392, 810, 880]]
    assert (np.diag(sv.box_iou_batch(found.xyxy[:4], np.array(best))) > 0.98).all()
    assert (found.confidence[:4] > 0.8).all()
    np.testing.assert_allclose(found.xyxy, again.xyxy, atol=PIXEL_ATOL, rtol=0)


@pytest.mark.shared
def test_squares_find_what_is_too_small_for_a_look_at_the_whole(bus):
    pytest.importorskip("openvino")
    far = np.full((1600, 1600, 3), 114, np.uint8)
    small = np.asarray(Image.fromarray(bus.image).resize((135, 180)))
    far[1200:1380, 900:1035] = small
    frame = Frame("far", 0, Fraction(0), far)
    counts = {}
    for tile in (0, 400):
        [found] = DETECTORS.load("yolo", STREET, model=str(REAL), tile=tile).propose([frame])
        counts[tile] = int((found.class_id == 1).sum())
    assert counts[400] >= 3 > counts[0]


def test_the_boxes_are_the_packages_own(ultralytics, random_yolo, bus):
    told = words(lamp={"yolo": "traffic light"}, bus={})
    detector = DETECTORS.load("yolo", told, model=str(random_yolo), min_score=0.6, input_size=160)
    [found] = detector.propose([bus])
    model = ultralytics.YOLO(random_yolo)
    bgr = np.ascontiguousarray(bus.image[..., ::-1])
    [theirs] = model.predict(
        bgr, conf=0.6, iou=0.6, imgsz=160, classes=[1, 2], device="cpu", verbose=False
    )
    assert_boxes_of_package(found, found.class_id + 1, theirs.boxes, 0.6)
    assert len(found) > 5 and set(found.class_id) == {0, 1}


def test_what_the_model_calls_a_class():
    told = words(lamp={"yolo": ["Traffic_Light"]}, bus={}, mech={"vlm": "a robot"})
    found = match_classes(told, KNOWN, "yolo11n")
    assert {number: phrase.class_id for number, phrase in found.items()} == {1: 0, 2: 1}
    assert found[1].text == "traffic light"


def test_a_class_that_the_model_does_not_know_names_the_nearest():
    with pytest.raises(UnknownName, match="no class of yolo11n 'persn'; did you mean 'person'"):
        match_classes(words(mech={"yolo": "persn"}), KNOWN, "yolo11n")


def test_a_vocabulary_of_other_things_says_what_the_model_knows():
    with pytest.raises(PromptError, match="none .* yolo11n knows: .* It knows: person, traffic"):
        match_classes(words(mech={}), KNOWN, "yolo11n")


def test_two_of_the_models_classes_that_are_one_of_ours_are_found_once():
    found = match_classes(STREET, ["bus", "truck", "person"], "m")
    assert [found[number].class_id for number in (0, 1, 2)] == [0, 0, 1]


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"model": "yolo11n"}, MissingWeights, "annotate models fetch yolo11n"),
        ({"model": "yolo11x"}, UnknownName, "no model 'yolo11x'; did you mean"),
        ({"model": "sam2.1-tiny"}, AnnotateError, "of the family sam2.*or one of yolo11n, "),
    ],
)
def test_weights_that_are_not_there_or_are_others(bus, options, error, says):
    with pytest.raises(error, match=says):
        DETECTORS.load("yolo", STREET, **options).propose([bus])


def test_what_cannot_begin_leaves_no_file(random_yolo, demo, tmp_path):
    told = words(mech={"yolo": "persn"})
    for options, vocabulary, says in (
        ({"model": "yolo11n"}, STREET, "annotate models fetch yolo11n"),
        ({"model": str(random_yolo)}, told, "did you mean 'person'"),
        ({"model": str(random_yolo), "device": "moon"}, words(bus={}), "the device 'moon'"),
    ):
        job = Job(DETECTORS.load("yolo", vocabulary, **options), "yolo", demo)
        with pytest.raises(AnnotateError, match=says):
            run_to_file(job, tmp_path / "boxes.jsonl")
        assert [path.name for path in tmp_path.iterdir() if path.name != ".cache"] == []


def test_a_file_that_is_no_network_is_said_in_one_sentence(bus, tmp_path):
    (tmp_path / "mine.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match=r"mine.pt cannot be used by ultralytics: .") as said:
        DETECTORS.load("yolo", STREET, model=str(tmp_path / "mine.pt")).propose([bus])
    assert "\n" not in str(said.value)


@pytest.fixture(scope="module")
def openvino_export(tmp_path_factory):
    """An export for OpenVINO of one sum, with the metadata of Ultralytics."""
    ov = pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("export") / "mine_openvino_model"
    picture = ov.opset13.parameter([1, 3, 64, 64], np.float32, name="images")
    weights = np.ones((1, 3, 64, 64), np.float32)
    ov.save_model(ov.Model([ov.opset13.add(picture, weights)], [picture]), folder / "mine.xml")
    (folder / "metadata.yaml").write_text(METADATA)
    return folder


METADATA = """task: detect
stride: 32
batch: 1
imgsz: [64, 64]
names: {0: person, 1: bus, 2: truck}
"""


def cut_xml(folder):
    path = folder / "mine.xml"
    path.write_bytes(path.read_bytes()[:500])


def cut_bin(folder):
    (folder / "mine.bin").write_bytes(b"")


def drop_names(folder):
    (folder / "metadata.yaml").unlink()


@pytest.mark.parametrize(
    "change, name, says",
    [
        (cut_xml, "mine_openvino_model", "cannot be used by ultralytics: .*; .* export .* again"),
        (cut_bin, "mine_openvino_model", "cannot be used by ultralytics: .*; .* export .* again"),
        (drop_names, "mine_openvino_model", "holds no names of classes: export it with"),
        (lambda folder: None, "other", "rename it to other_openvino_model"),
    ],
)
def test_an_export_that_cannot_be_read_is_one_line(
    openvino_export, tmp_path, change, name, says, capfd
):
    copy = shutil.copytree(openvino_export, tmp_path / name)
    assert DETECTORS.load("yolo", STREET, model=str(openvino_export)).ready() is None
    change(copy)
    capfd.readouterr()
    with pytest.raises(WeightsError, match=f"{name} .*{says}") as refusal:
        DETECTORS.load("yolo", STREET, model=str(copy)).ready()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name, content",
    [
        ("text.pt", b"hello\n"),
        ("empty.pt", b""),
        ("text.onnx", b"hello\n"),
        ("image.png", b"hello\n"),
    ],
)
def test_a_file_that_holds_no_network_is_one_line(ultralytics, tmp_path, name, content, capfd):
    if name.endswith(".onnx"):
        pytest.importorskip("onnxruntime")
    (tmp_path / name).write_bytes(content)
    says = f"{name} cannot be used by ultralytics: .* .*; give"
    with pytest.raises(WeightsError, match=says) as refusal:
        DETECTORS.load("yolo", STREET, model=str(tmp_path / name)).ready()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500
    assert capfd.readouterr() == ("", "")


def test_a_network_that_gives_no_boxes(ultralytics, bus, tmp_path):
    ultralytics.YOLO("yolo11n-cls.yaml", task="classify").save(tmp_path / "kinds.pt")
    with pytest.raises(AnnotateError, match="'classify', which gives no boxes"):
        DETECTORS.load("yolo", STREET, model=str(tmp_path / "kinds.pt")).propose([bus])


@pytest.mark.parametrize(
    "options, says",
    [
        ({"min_score": 1.5}, "min_score must be 0 to 1"),
        ({"input_size": 100}, "input_size must be a multiple of 32"),
        ({"tile": 5}, "tile must be 0"),
    ],
)
def test_options_that_cannot_be(options, says):
    with pytest.raises(AnnotateError, match=says):
        DETECTORS.load("yolo", STREET, **options)


def test_a_device_that_is_not_there(random_yolo, bus):
    with pytest.raises(AnnotateError, match="PyTorch cannot use the device 'cuda:77'"):
        DETECTORS.load("yolo", words(bus={}), model=str(random_yolo), device="cuda:77").propose(
            [bus]
        )


def test_the_log_of_the_package_is_for_debugging(ultralytics, tmp_path, capfd, caplog):
    import_ultralytics()  # its log goes to the stderr of this test
    with caplog.at_level("DEBUG", "annotate"), weights_errors(tmp_path):
        ultralytics.utils.LOGGER.error("a line of the package")
    assert "a line of the package" in caplog.text and capfd.readouterr().err == ""
