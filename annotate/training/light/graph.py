"""Build the ONNX graphs of `light`: the features of a picture, the head, and both in one file.

The features are computed at three scales of the picture, 1, 1/2 and 1/4, on grids of 8 pixels of
each scale: a fine map of colours and of the trunk's strides 4 and 8, and a coarse map, on every
second cell, of stride 16. Both are reduced by a fixed linear map and scaled to unit variance. The
head sees 7 x 7 fine cells, two cells apart, and 3 x 3 coarse cells round each cell. Beyond the
picture's edge the maps are continued, so that a head cannot know where in the picture a cell is.

`onnx` builds the graphs, the same for training and for use; nothing is traced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.backbone import MODEL_NAME
from annotate.errors import WeightsError, needs
from annotate.files import packaged_file

Array = npt.NDArray[np.float32]
Tensors = dict[str, Array]
LEVELS = 3  # scales of the picture: 1, 1/2, 1/4
CELL_PX = 8  # side of a cell, in pixels of its scale
SIDE_MULTIPLE = 64  # of a picture's sides: the coarsest map has whole cells
COLOURS = 21  # of a cell: mean, extremes and extreme lines of three colour channels
FINE_CHANNELS = COLOURS + 24 + 40  # before they are reduced
COARSE_CHANNELS = 112
FINE_SIDE = 7  # cells that the head sees across, two cells apart
FINE_MARGIN, COARSE_MARGIN = FINE_SIDE - 1, 1  # cells by which a map is continued
FINE_OFFSETS = tuple(
    (dy, dx)
    for dy in range(-FINE_MARGIN, FINE_MARGIN + 1, 2)
    for dx in range(-FINE_MARGIN, FINE_MARGIN + 1, 2)
)
COARSE_OFFSETS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
_OPSET, _IR_VERSION = 17, 8
# luminance, red against green, blue against yellow; of R, G and B in 0..255
_COLOUR_KERNEL = np.array([[0.299, 0.587, 0.114], [1.0, -1.0, 0.0], [-0.5, -0.5, 1.0]], np.float32)[
    :, :, None, None
]


class _Graph:
    """An ONNX graph under construction; `add` appends a node and returns its output's name."""

    def __init__(self) -> None:
        self.helper = needs("onnx").helper
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(self.helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self.constants:
            array = np.ascontiguousarray(value)
            self.constants[name] = needs("onnx").numpy_helper.from_array(array, name)
        return name

    def model(self, inputs: Sequence[Any], outputs: Sequence[str], notes: Mapping[str, str]) -> Any:
        kind = needs("onnx").TensorProto.FLOAT
        infos = [
            self.helper.make_tensor_value_info(o, kind, ["n", None, None, None]) for o in outputs
        ]
        graph = self.helper.make_graph(
            self.nodes, "light", list(inputs), infos, list(self.constants.values())
        )
        opset = [self.helper.make_opsetid("", _OPSET)]
        model = self.helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
        self.helper.set_model_props(model, dict(notes))
        return model


@cache
def _trunk() -> Any:
    onnx = needs("onnx")
    path = packaged_file("models", MODEL_NAME)
    return onnx.version_converter.convert_version(onnx.load(str(path)), _OPSET)


def _add_trunk(graph: _Graph, picture: str, level: int) -> dict[str, str]:
    """Add the trunk for one scale; its constants are shared by all scales."""
    onnx, trunk = needs("onnx"), _trunk().graph
    kept = {each.name: each for each in trunk.initializer}
    names = {each.name: each.name for each in trunk.initializer} | {trunk.input[0].name: picture}
    graph.constants |= kept
    for node in trunk.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = ""
        names |= {output: f"l{level}_{output}" for output in node.output}
        copy.input[:] = [names.get(each, each) for each in node.input]
        copy.output[:] = [names[each] for each in node.output]
        graph.nodes.append(copy)
    return {name: names[name] for name in ("s4", "s8", "s16")}


def _add_maps(graph: _Graph) -> list[tuple[str, str]]:
    """Add the fine and the coarse map of each scale of the input `image`."""
    add, constant = graph.add, graph.constant
    chw = add("Transpose", "image", name="chw", perm=[0, 3, 1, 2])
    pixels = add("Cast", chw, name="pixels", to=1)
    kernel = constant("colour_kernel", _COLOUR_KERNEL / 64)
    colours = add("Conv", pixels, kernel, name="colours")
    minus = add("Neg", colours, name="minus_colours")
    maps, scaled = [], pixels
    for level in range(LEVELS):
        picture = "image"
        if level:
            pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
            scaled = add("AveragePool", scaled, name=f"scaled{level}", **pool)
            rounded = add("Round", scaled, name=f"rounded{level}")
            whole = add("Cast", rounded, name=f"whole{level}", to=2)
            picture = add("Transpose", whole, name=f"picture{level}", perm=[0, 2, 3, 1])
        trunk = _add_trunk(graph, picture, level)
        cell = {"kernel_shape": [CELL_PX << level] * 2, "strides": [CELL_PX << level] * 2}
        mean = add("AveragePool", colours, name=f"mean{level}", **cell)
        extremes = []
        for name, source in (("high", colours), ("low", minus)):
            extremes.append(add("MaxPool", source, name=f"{name}{level}", **cell))
            extremes += _add_lines(graph, source, f"{name}{level}", CELL_PX << level)
        pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
        # the head sees every second cell: each extreme is that of a cell and its next ones
        joined = add("Concat", *extremes, name=f"extremes{level}", axis=1)
        pair = {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [0, 0, 1, 1]}
        joined = add("MaxPool", joined, name=f"paired{level}", **pair)
        fine4 = add("AveragePool", trunk["s4"], name=f"fine4_{level}", **pool)
        parts = [mean, joined, fine4, trunk["s8"]]
        maps.append((add("Concat", *parts, name=f"all_fine{level}", axis=1), trunk["s16"]))
    return maps


def _add_lines(graph: _Graph, source: str, name: str, side: int) -> list[str]:
    """Add the highest mean of a row of a cell, and of a column: thin straight lines stand out."""
    lines = []
    for kind, along, across in (("row", [1, side], [side, 1]), ("column", [side, 1], [1, side])):
        means = graph.add(
            "AveragePool", source, name=f"{name}_{kind}s", kernel_shape=along, strides=along
        )
        line = graph.add(
            "MaxPool", means, name=f"{name}_{kind}", kernel_shape=across, strides=across
        )
        lines.append(line)
    return lines


def _image_input(graph: _Graph) -> Any:
    kind = needs("onnx").TensorProto.UINT8
    return graph.helper.make_tensor_value_info("image", kind, ["n", "H", "W", 3])


def feature_graph(reduction: Mapping[str, Array] | None = None) -> bytes:
    """Build the graph of the maps `fine0`, `coarse0` ... of `image`, reduced if a map is given."""
    graph = _Graph()
    outputs = []
    for level, pair in enumerate(_add_maps(graph)):
        for kind, source in zip(("fine", "coarse"), pair, strict=True):
            kept = source if reduction is None else _add_reduction(graph, reduction, kind, source)
            outputs.append(graph.add("Identity", kept, name=f"{kind}{level}"))
    return bytes(graph.model([_image_input(graph)], outputs, {}).SerializeToString())


def _add_reduction(graph: _Graph, tensors: Mapping[str, Array], kind: str, name: str) -> str:
    kernel = graph.constant(f"{kind}_reduce", tensors[f"{kind}_reduce"].T[:, :, None, None])
    bias = graph.constant(f"{kind}_shift", tensors[f"{kind}_shift"])
    return graph.add("Conv", name, kernel, bias, name=f"reduced_{name}")


def _add_head(
    graph: _Graph, tensors: Mapping[str, Array], fine: str, coarse: str, level: int
) -> str:
    """Add the head on the reduced maps of one scale; returns its output, (n, 5 C, H, W)."""
    add, constant = graph.add, graph.constant
    width = tensors["fine_bias"].shape[0]

    def context(name: str, source: str, side: int, margin: int, dilation: int) -> str:
        weights = tensors[f"{name}_weights"].reshape(side, side, -1, width)
        kernel = constant(f"{name}_kernel", weights.transpose(3, 2, 0, 1))
        sides = constant(f"{name}_sides", np.array([0, 0, margin, margin] * 2, np.int64))
        padded = add("Pad", source, sides, name=f"{name}_padded{level}", mode="edge")
        return add("Conv", padded, kernel, name=f"{name}_seen{level}", dilations=[dilation] * 2)

    near = context("fine", fine, FINE_SIDE, FINE_MARGIN, 2)
    far = context("coarse", coarse, 3, COARSE_MARGIN, 1)
    twice = constant("twice", np.array([1, 1, 2, 2], np.float32))
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    far = add("Resize", far, "", twice, name=f"far{level}", nearest_mode="floor", **nearest)
    both = add("Add", near, far, name=f"both{level}")
    bias = constant("fine_bias_map", tensors["fine_bias"][None, :, None, None])
    hidden = add("Relu", add("Add", both, bias, name=f"biased{level}"), name=f"hidden{level}")
    for layer in ("second", "last"):
        kernel = constant(f"{layer}_kernel", tensors[f"{layer}_weights"].T[:, :, None, None])
        shift = constant(f"{layer}_shift", tensors[f"{layer}_bias"])
        hidden = add("Conv", hidden, kernel, shift, name=f"{layer}{level}")
        if layer == "second":
            hidden = add("Relu", hidden, name=f"second_hidden{level}")
    return hidden


def head_graph(tensors: Mapping[str, Array]) -> bytes:
    """Build the graph of the head alone: `last0` ... of the reduced maps `fine0`, `coarse0` ..."""
    graph, kind = _Graph(), needs("onnx").TensorProto.FLOAT
    inputs, outputs = [], []
    for level in range(LEVELS):
        for name in ("fine", "coarse"):
            shape = ["n", None, f"{name}H{level}", f"{name}W{level}"]
            inputs.append(graph.helper.make_tensor_value_info(f"{name}{level}", kind, shape))
        outputs.append(_add_head(graph, tensors, f"fine{level}", f"coarse{level}", level))
    return bytes(graph.model(inputs, outputs, {}).SerializeToString())


def detector_graph(tensors: Mapping[str, Array], notes: Mapping[str, str]) -> bytes:
    """Build the whole graph: `last0` ... of `image`; `notes` go into its metadata."""
    graph = _Graph()
    outputs = []
    for level, (fine, coarse) in enumerate(_add_maps(graph)):
        reduced = [
            _add_reduction(graph, tensors, kind, name)
            for kind, name in (("fine", fine), ("coarse", coarse))
        ]
        outputs.append(_add_head(graph, tensors, reduced[0], reduced[1], level))
    return bytes(graph.model([_image_input(graph)], outputs, notes).SerializeToString())


def read_tensors(path: Path) -> Tensors:
    """Read the tensors back from a file that `detector_graph` made, as they were given to it.

    Raises:
        WeightsError: it is no such file.
    """
    onnx = needs("onnx")
    problem = f"{path}: not a model of the trainer light"
    try:
        model = onnx.load(str(path))
        arrays = {e.name: onnx.numpy_helper.to_array(e) for e in model.graph.initializer}
        tensors = {
            f"{name}_weights": arrays[f"{name}_kernel"].transpose(2, 3, 1, 0)
            for name in ("fine", "coarse", "second", "last")
        }
        tensors = {name: each.reshape(-1, each.shape[-1]) for name, each in tensors.items()}
        tensors["fine_bias"] = arrays["fine_bias_map"].ravel()
        tensors |= {f"{name}_bias": arrays[f"{name}_shift"] for name in ("second", "last")}
        for kind in ("fine", "coarse"):
            tensors[f"{kind}_reduce"] = arrays[f"{kind}_reduce"][:, :, 0, 0].T
            tensors[f"{kind}_shift"] = arrays[f"{kind}_shift"]
    except Exception as error:  # protobuf, a missing name, an unreadable file
        raise WeightsError(f"{problem}: {error}") from None
    return {name: np.array(each) for name, each in tensors.items()}


def classes_of(path: Path) -> list[str]:
    """Read the classes of a model that `detector_graph` made, from the notes in its file."""
    notes = {each.key: each.value for each in needs("onnx").load(str(path)).metadata_props}
    return [str(name) for name in json.loads(notes["classes"])]
