import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import training_samples
from training_samples import LABEL, drawn_dataset

from annotate.detectors.run import DETECTORS
from annotate.detectors.trained import decode, run_session, start_session
from annotate.errors import WeightsError
from annotate.training.light import features, graph, grid, head
from annotate.training.record import measure
from annotate.training.run import Training, train
from annotate.training.trainer import TrainingFrame
from annotate.vocabulary import read_vocabulary
from annotate.weights import lineage

SIDE = 192


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return drawn_dataset(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def model(squares, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "model"
    options = {"copies": 2, "dropout": 0.0, "min_steps": 20}
    return train(Training(squares.path, output, "light", options, 24, SIDE, threads=1))


def test_a_few_drawn_frames_make_a_detector_that_no_display_deceives(model, tmp_path):
    lines = training_samples.clip(tmp_path / "pier", 24, (160, 130), 3)
    frames = [TrainingFrame(tmp_path / "pier" / f"pier-{i.frame:06d}.png", i) for i in lines]
    vocabulary = read_vocabulary(model.folder / "vocabulary.toml")
    detector = DETECTORS.load("trained", vocabulary, model=str(model.folder), min_score=0.02)
    _, results = measure(detector, frames, [LABEL])
    assert results["ap50"] >= 0.8
    best = replace(detector, min_score=None)
    for frame in frames:  # the ring is elsewhere than in training
        image = features.read_image(frame.image)
        [found] = best.propose([_frame(image)])
        middles = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2
        assert not ((np.abs(middles - [171, 141])) < 8).all(axis=1).any()


def _frame(image):
    from annotate.items.records import Frame

    return Frame("pier", 0, 0, image)


def test_the_numbers_of_the_training_are_kept(model):
    results = model.lineage.results["val"]
    assert results["ap50"] >= 0.7 and 0 < model.threshold < 1
    lines = (model.folder / "curve.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,ap50" and len(lines) == 25
    losses = [float(line.split(",")[1]) for line in lines[1:]]
    assert losses[-1] < losses[0] / 2
    assert not model.folder.with_name("model.training").exists()


def small(folder, **options):
    return drawn_dataset(folder, train=8, val=4, **options)


def short(dataset, output, **changes):
    values = {
        "options": {"copies": 2, "min_steps": 6},
        "epochs": 3,
        "image_size": 128,
        "threads": 1,
    }
    return Training(dataset.path, output, **values | changes)


def test_the_same_seed_gives_the_same_tensors_and_another_gives_others(tmp_path):
    dataset = small(tmp_path)
    runs = [train(short(dataset, tmp_path / n, seed=s)) for n, s in (("a", 0), ("b", 0), ("c", 1))]
    first, second, other = (each.lineage.tensor_sha256 for each in runs)
    assert first == second != other
    assert runs[0].lineage.deterministic


def test_another_number_of_threads_changes_the_last_digits_and_no_more(tmp_path):
    dataset = small(tmp_path)
    models = [train(short(dataset, tmp_path / str(n), epochs=1, threads=n)) for n in (1, 2)]
    one, two = (graph.read_tensors(each.weights_path) for each in models)
    assert one.keys() == two.keys()
    for name, tensor in one.items():  # weights are about 0.1, and others with another seed
        np.testing.assert_allclose(tensor, two[name], rtol=0, atol=5e-4 * np.abs(tensor).max())
    assert [each.lineage.environment["threads"] for each in models] == [1, 2]


def test_pictures_of_2000_pixels_are_trained_on_and_searched(model, tmp_path):
    dataset = drawn_dataset(tmp_path, train=2, val=2, scale=11)  # 2,112 x 1,760 pixels
    large = train(short(dataset, tmp_path / "large", epochs=1))
    assert large.lineage.image_size == 128
    lines = training_samples.clip(tmp_path / "pier", 3, (160, 130), 3, scale=11)
    frames = [TrainingFrame(tmp_path / "pier" / f"pier-{i.frame:06d}.png", i) for i in lines]
    vocabulary = read_vocabulary(model.folder / "vocabulary.toml")
    detector = DETECTORS.load("trained", vocabulary, model=str(model.folder), min_score=0.02)
    assert measure(detector, frames, [LABEL])[1]["ap50"] >= 0.7  # boxes are in its pixels


# The child kills itself at the n-th call of a function; before that it may leave half a file.
CHILD = """
import importlib, os, signal, sys
name, function, count, half = sys.argv[1:5]
module = importlib.import_module(name)
real, calls = getattr(module, function), []
def deadly(*args, **options):
    calls.append(args)
    if len(calls) == int(count):
        if half == "half":
            args[0].write_bytes(b"half a file")
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
setattr(module, function, deadly)
from pathlib import Path
from annotate.training.run import Training, train
dataset, output = map(Path, sys.argv[5:])
train(Training(dataset, output, "light", {"copies": 2, "min_steps": 6}, 3, 128, threads=1))
"""
KILLS = [
    ("annotate.training.light.features", "make_copy", 12, ""),
    ("numpy", "savez", 3, "half"),  # the state of the first epoch, after the boxes of both splits
    ("annotate.training.light.trainer", "learn", 4, ""),  # in the middle of an epoch
    ("numpy", "savez", 2, "half"),
    ("annotate.training.record", "measure", 1, ""),  # the folder of the model is half written
]


def test_a_training_that_is_killed_again_and_again_ends_with_the_same_tensors(tmp_path):
    dataset = small(tmp_path)
    unbroken = train(short(dataset, tmp_path / "unbroken"))
    output = tmp_path / "broken"
    for module, function, count, half in KILLS:
        words = [module, function, str(count), half, str(dataset.path), str(output)]
        child = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True)
        assert child.returncode == -9, child.stderr.decode()
        assert not output.exists()
    model = train(short(dataset, output))
    assert model.lineage.tensor_sha256 == unbroken.lineage.tensor_sha256
    assert (output / "curve.csv").read_bytes() == (unbroken.folder / "curve.csv").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} >= {"broken", "unbroken"}
    assert not list(tmp_path.glob("broken.*"))


def test_the_head_in_numpy_and_in_onnx_are_one(tmp_path):
    random = np.random.default_rng(3)
    tensors = head.new_head(2, random)
    tensors["last_weights"] *= 30
    size = (192, 128)
    cells = grid.make_grid(size)
    tables = [
        random.normal(size=(rows, kept)).astype(np.float16)
        for rows, kept in (
            (cells.fine_rows, features.FINE_KEPT),
            (cells.coarse_rows, features.COARSE_KEPT),
        )
    ]
    tables = [_with_margins(t, *e) for t, e in zip(tables, _maps(cells), strict=True)]
    nothing = grid.assign(cells, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    rows = features.FeatureRows(cells, *tables, nothing)
    session = start_session(graph.head_graph(tensors), 1)
    outputs = run_session(session, rows.maps())
    flat = np.concatenate([outputs[f"last{n}"][0].reshape(10, -1).T for n in range(3)])
    near, far = rows.at(np.arange(len(cells.level)))
    hidden = near @ tensors["fine_weights"] + far @ tensors["coarse_weights"]
    hidden = np.maximum(hidden + tensors["fine_bias"], 0)
    hidden = np.maximum(hidden @ tensors["second_weights"] + tensors["second_bias"], 0)
    expected = hidden @ tensors["last_weights"] + tensors["last_bias"]
    assert np.abs(flat - expected).max() < 1e-3


def _maps(cells):
    return ((cells.fine_shapes, graph.FINE_MARGIN), (cells.coarse_shapes, graph.COARSE_MARGIN))


def _with_margins(table, shapes, margin):
    """Continue random maps beyond their edges, as those of pictures are."""
    parts, start = [], 0
    for height, width in shapes:
        block = table[start : start + height * width].reshape(height, width, -1)
        inner = block[margin : height - margin, margin : width - margin]
        padded = np.pad(inner, [(margin, margin), (margin, margin), (0, 0)], mode="edge")
        parts.append(padded.reshape(height * width, -1))
        start += height * width
    return np.concatenate(parts)


def test_the_slopes_of_the_loss_are_those_of_finite_differences():
    random = np.random.default_rng(4)
    outputs = random.normal(size=(6, 4)).astype(np.float32)
    distances = random.uniform(5, 60, (6, 4)).astype(np.float32)
    _, _, slope = head.iou_loss(outputs, distances)
    logits = random.normal(size=(6, 2)).astype(np.float32)
    wanted = random.uniform(size=(6, 2)).astype(np.float32)
    _, focal_slope, _ = head.focal_loss(logits, wanted)
    step = 1e-2
    for row in range(6):
        for column in range(4):
            moved = [outputs.astype(np.float64) for _ in range(2)]
            moved[0][row, column] -= step
            moved[1][row, column] += step
            low, high = (head.iou_loss(each, distances)[1][row] for each in moved)
            assert abs((high - low) / (2 * step) - slope[row, column]) < 2e-2
        moved = [logits.astype(np.float64) for _ in range(2)]
        moved[0][row, 0] -= step
        moved[1][row, 0] += step
        low, high = (head.focal_loss(each, wanted)[0][row, 0] for each in moved)
        assert abs((high - low) / (2 * step) - focal_slope[row, 0]) < 1e-3


def test_boxes_that_the_cells_must_find_are_decoded_as_they_were():
    size = (640, 384)
    cells = grid.make_grid(size)
    boxes = np.array([[100, 80, 130, 120], [10, 20, 300, 380], [400, 100, 500, 170]], np.float32)
    targets = grid.assign(cells, boxes, np.array([1, 0, 1]))
    assert set(targets.classes.tolist()) == {0, 1}
    outputs = {
        f"last{n}": np.full((1, 10, size[1] >> n + 3, size[0] >> n + 3), -9, np.float32)
        for n in range(3)
    }
    for cell, class_id, distances in zip(*targets[:3], strict=True):
        level = cells.level[cell]
        column, row = (cells.xy[cell] // 8).astype(int)
        outputs[f"last{level}"][0, class_id, row, column] = 3
        start = 2 + 4 * class_id
        outputs[f"last{level}"][0, start : start + 4, row, column] = np.log(distances / 24)
    table = decode(outputs, 0.5)
    assert {tuple(row) for row in np.round(table[:, :4]).astype(int).tolist()} == {
        tuple(box) for box in boxes.astype(int).tolist()
    }


def test_a_training_from_a_model_begins_with_its_tensors_and_classes_go_by_name(model, tmp_path):
    tensors = graph.read_tensors(model.weights_path)
    assert lineage.tensor_sha256(tensors) == model.lineage.tensor_sha256
    assert graph.classes_of(model.weights_path) == [LABEL]
    fresh = head.new_head(2, np.random.default_rng(0))
    child = head.inherit_head(fresh, tensors, ("ring", LABEL), [LABEL])
    places = [1, 6, 7, 8, 9]
    assert np.array_equal(child["last_weights"][:, places], tensors["last_weights"])
    assert np.array_equal(child["last_bias"][places], tensors["last_bias"])
    assert np.array_equal(child["second_weights"], tensors["second_weights"])
    dataset = small(tmp_path)
    options = {"copies": 2, "min_steps": 6, "dropout": 0.0}
    losses = []
    for name, parent in (("fresh", None), ("child", str(model.folder))):
        training = short(dataset, tmp_path / name, parent=parent, options=options, epochs=1)
        made = train(training, report=lambda each: losses.append(each.loss))
    assert made.lineage.parent["tensor_sha256"] == model.lineage.tensor_sha256
    assert losses[1] < 0.75 * losses[0]
    (tmp_path / "other.onnx").write_bytes(b"other")
    with pytest.raises(WeightsError, match="not a model of the trainer light"):
        train(short(dataset, tmp_path / "none", parent=str(tmp_path / "other.onnx")))


def test_the_weights_are_one_onnx_file_that_needs_nothing_of_the_trainer(model):
    session = onnxruntime.InferenceSession(model.weights_path, providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["classes"]) == [LABEL] and notes["image_size"] == str(SIDE)
    outputs = session.run(None, {"image": np.zeros((2, 64, 128, 3), np.uint8)})
    assert [each.shape for each in outputs] == [(2, 5, 8, 16), (2, 5, 4, 8), (2, 5, 2, 4)]
