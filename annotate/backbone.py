"""Compute feature maps of a crop with a small ImageNet network, and its colour features.

The network is EfficientNet-Lite0 down to stride 16. It ships as an ONNX file and runs on one
thread, because objects are processed in parallel. `feature_grid` puts its maps of strides 4, 8 and
16, the Lab colours and their local standard deviation on one grid of stride 4.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from annotate.files import packaged_file
from annotate.items.records import Picture

Map = npt.NDArray[np.float32]

MODEL_NAME = "efficientnet-lite0-s16.onnx"
GROUP_CHANNELS = (24, 40, 112, 3, 3)  # strides 4, 8 and 16, Lab, local deviation of Lab
GROUP_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 0.5)  # weight of each group, scaled to unit variance


@cache
def _session(model: str) -> Any:
    """Load a shipped model on one thread: objects are processed in parallel."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = packaged_file("models", model)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_model(model: str, arrays: Mapping[str, Map | Picture], *output_names: str) -> list[Map]:
    """Run a shipped model on one example; return all its outputs, or those of `output_names`."""
    inputs = {name: each[None] for name, each in arrays.items()}
    return [each[0] for each in _session(model).run(list(output_names) or None, inputs)]


def resize_chw(picture: Picture, size_wh: tuple[int, int]) -> Map:
    """Shrink a picture to a network's input: (3, H, W) float32 in 0..1."""
    small = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return np.asarray(small.transpose(2, 0, 1))


class FeatureMaps(NamedTuple):
    """The feature maps of a crop of (H, W), channels first."""

    s4: Map  # (24, H / 4, W / 4)
    s8: Map  # (40, H / 8, W / 8)
    s16: Map  # (112, H / 16, W / 16)


class CropFeatures(NamedTuple):
    """A crop of (H, W) with its feature maps and its feature grid."""

    crop: Picture
    maps: FeatureMaps
    grid: Map  # (H / 4, W / 4, 182)


def crop_features(crop: Picture) -> CropFeatures:
    """Compute the feature maps and the grid of a crop of (H, W), both multiples of 16."""
    maps = feature_maps(crop)
    return CropFeatures(crop, maps, stack_maps(crop, maps))


def scaled_lab(picture: Picture) -> Map:
    """Convert RGB to Lab, scaled to about -2..2: (H, W, 3)."""
    scaled = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) / 50
    return np.asarray(scaled, np.float32)


def feature_grid(crop: Picture) -> Map:
    """Compute the grid of a crop of (H, W), both multiples of 16: (H / 4, W / 4, 182)."""
    return crop_features(crop).grid


def stack_maps(crop: Picture, maps: FeatureMaps) -> Map:
    """Stack the feature maps and colours of a crop of (H, W): (H / 4, W / 4, 182)."""
    height, width = crop.shape[0] // 4, crop.shape[1] // 4
    fine, *rest = [np.ascontiguousarray(each.transpose(1, 2, 0)) for each in maps]
    rest = [cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in rest]
    return np.concatenate([fine, *rest, colour_features(crop, (width, height))], axis=2)


def colour_features(crop: Picture, size_wh: tuple[int, int]) -> Map:
    """Compute Lab and its local standard deviation at `size_wh`: (H, W, 6)."""
    colour = scaled_lab(cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA))
    spread = cv2.blur(colour * colour, (5, 5)) - cv2.blur(colour, (5, 5)) ** 2
    return np.concatenate([colour, np.sqrt(np.maximum(spread, 0))], axis=2)


def coarse_map(crop: Picture) -> Map:
    """Compute the stride 16 map of a crop of (H, W), multiples of 16: (H / 16, W / 16, 112)."""
    [deepest] = run_model(MODEL_NAME, {"image": crop}, "s16")
    return np.ascontiguousarray(deepest.transpose(1, 2, 0))


def feature_maps(crop: Picture) -> FeatureMaps:
    """Compute the feature maps of a crop of (H, W), both multiples of 16."""
    return FeatureMaps(*run_model(MODEL_NAME, {"image": crop}))


def run_parallel(pool: Executor | None, *tasks: Callable[[], Any]) -> list[Any]:
    """Run callables and return their results in order.

    The last runs on this thread, the others meanwhile on `pool`; without a pool all run here, one
    after the other. No task may depend on what another one changes.
    """
    *others, own = tasks
    if pool is None:
        return [task() for task in tasks]
    futures = [pool.submit(task) for task in others]
    last = own()
    return [*(future.result() for future in futures), last]
