import json

import numpy as np
import pytest

from annotate import files
from annotate.errors import WeightsError
from annotate.weights import lineage

TENSORS = {"head": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(2, np.float32)}


def made(folder, **changes):
    """Write the folder of a model."""
    folder.mkdir()
    (folder / "weights.onnx").write_bytes(b"weights")
    values = {
        "weights": "weights.onnx",
        "detector": "trained",
        "tensor_sha256": lineage.tensor_sha256(TENSORS),
        "file_sha256": files.sha256(folder / "weights.onnx"),
        "licence": "Apache-2.0",
        "classes": ("mug", "plate"),
        "threshold": 0.4,
        "image_size": 320,
        "trainer": {"name": "light"},
        "dataset": {"sha256": "5e1f"},
        "runs": ({"epochs": [1, 3], "resumed": False},),
    }
    written = lineage.Lineage(**values | changes)
    written.write(folder)
    return written


def test_a_model_reads_back_by_its_folder_and_by_its_weights(tmp_path):
    written = made(tmp_path / "model")
    for path in (tmp_path / "model", tmp_path / "model" / "weights.onnx"):
        assert lineage.is_model(path)
        model = lineage.read_model_folder(path)
        assert model.lineage == written
        assert (model.classes, model.threshold, model.image_size) == (("mug", "plate"), 0.4, 320)
        assert model.weights_path == tmp_path / "model" / "weights.onnx"


def test_weights_that_were_changed_are_refused(tmp_path):
    made(tmp_path / "model")
    (tmp_path / "model" / "weights.onnx").write_bytes(b"others")
    with pytest.raises(WeightsError, match="changed since the training"):
        lineage.read_model_folder(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": []}, "damaged: classes"),
        ({"threshold": "high"}, "damaged: threshold"),
        ({"weights": "../weights.onnx"}, "damaged: weights"),
        ({"schema": 99}, "newer annotate"),
    ],
)
def test_a_damaged_lineage_is_one_line(tmp_path, change, reason):
    made(tmp_path / "model")
    path = tmp_path / "model" / lineage.LINEAGE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsError, match=reason):
        lineage.read_model_folder(tmp_path / "model")
    path.write_text("[1")
    with pytest.raises(WeightsError, match="not JSON"):
        lineage.read_model_folder(tmp_path / "model")
    path.unlink()
    with pytest.raises(WeightsError, match="not there"):
        lineage.read_model_folder(tmp_path / "model")


def test_the_hash_of_tensors_sees_names_shapes_types_and_values():
    others = [
        {**TENSORS, "bias": np.zeros(2, np.float64)},
        {**TENSORS, "bias": np.zeros((1, 2), np.float32)},
        {**TENSORS, "bias": np.array([0, 1e-9], np.float32)},
        {"head": TENSORS["head"], "offset": TENSORS["bias"]},
    ]
    hashes = {lineage.tensor_sha256(each) for each in [TENSORS, *others]}
    assert len(hashes) == 5
    swapped = {name: TENSORS[name] for name in ("bias", "head")}
    swapped["head"] = swapped["head"].astype(">f4")
    assert lineage.tensor_sha256(swapped) == lineage.tensor_sha256(TENSORS)
