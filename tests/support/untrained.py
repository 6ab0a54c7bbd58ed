"""A model of the trainer `light` that was not trained: random weights, in a complete folder."""

import numpy as np

from annotate.files import sha256, write_text
from annotate.training.light import features, graph, head
from annotate.training.record import vocabulary_toml
from annotate.weights import lineage


def untrained_model(folder, classes, **changes):
    """Write the folder of a model; boxes are everywhere, some above the threshold of 0.5."""
    random = np.random.default_rng(6)
    tensors = head.new_head(len(classes), random)
    tensors["last_weights"] *= 20
    tensors["last_bias"][: len(classes)] = -1
    for kind, rows, kept in (
        ("fine", graph.FINE_CHANNELS, features.FINE_KEPT),
        ("coarse", graph.COARSE_CHANNELS, features.COARSE_KEPT),
    ):
        tensors[f"{kind}_reduce"] = (random.normal(size=(rows, kept)) / rows).astype(np.float32)
        tensors[f"{kind}_shift"] = np.zeros(kept, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.onnx").write_bytes(graph.detector_graph(tensors, {}))
    write_text(folder / lineage.VOCABULARY_FILE, vocabulary_toml(tuple(classes)))
    values = {
        "weights": "weights.onnx",
        "detector": "trained",
        "tensor_sha256": lineage.tensor_sha256(tensors),
        "file_sha256": sha256(folder / "weights.onnx"),
        "licence": "Apache-2.0",
        "classes": tuple(classes),
        "threshold": 0.5,
        "image_size": 320,
        "trainer": {"name": "light"},
        "dataset": {"path": str(folder / "gone"), "sha256": "5e1f" * 16},
    }
    lineage.Lineage(**values | changes).write(folder)
    return folder
