"""Compute feature maps of a crop with a small ImageNet network, and its colour features.

The network is EfficientNet-Lite0 down to stride 16. It ships as an ONNX file and runs on one
thread, because objects are processed in parallel. `feature_grid` puts its maps of strides 4, 8 and
16, the Lab colours and their local standard deviation on one grid of stride 4.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from annotate.files import packaged_file
from annotate.items.records import Picture

Map = npt.NDArray[np.float32]

MODEL_NAME = "efficientnet-lite0-s16.onnx"
GROUP_CHANNELS = (24, 40, 112, 3, 3)  # channels: strides 4, 8 and 16, Lab, and how much Lab varies
GROUP_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 0.5)  # of each group of channels, once each has unit variance


@cache
def _session(model: str) -> Any:
    """A model that ships, on one thread: objects are what runs in parallel."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = packaged_file("models", model)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_model(model: str, arrays: Mapping[str, Map | Picture], *output_names: str) -> list[Map]:
    """All that a model that ships makes of one of each input, or only what is `wanted`."""
    inputs = {name: each[None] for name, each in arrays.items()}
    return [each[0] for each in _session(model).run(list(output_names) or None, inputs)]


def resize_chw(picture: Picture, size_wh: tuple[int, int]) -> Map:
    """A picture made smaller, as a network takes it, (3, H, W) in 0..1."""
    small = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return np.asarray(small.transpose(2, 0, 1))


class FeatureMaps(NamedTuple):
    """The maps of a crop of (H, W), channels first."""

    s4: Map  # (24, H / 4, W / 4)
    s8: Map  # (40, H / 8, W / 8)
    s16: Map  # (112, H / 16, W / 16)


class CropFeatures(NamedTuple):
    """A crop of (H, W), and what it looks like."""

    crop: Picture
    maps: FeatureMaps
    grid: Map  # (H / 4, W / 4, 182)


def crop_features(crop: Picture) -> CropFeatures:
    """What a crop of (H, W), both multiples of 16, looks like."""
    maps = feature_maps(crop)
    return CropFeatures(crop, maps, stack_maps(crop, maps))


def scaled_lab(picture: Picture) -> Map:
    """Lab, scaled to about -2..2."""
    scaled = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) / 50
    return np.asarray(scaled, np.float32)


def feature_grid(crop: Picture) -> Map:
    """A crop of (H, W), both multiples of 16, -> (H / 4, W / 4, 182)."""
    return crop_features(crop).grid


def stack_maps(crop: Picture, maps: FeatureMaps) -> Map:
    """A crop of (H, W) and its maps -> (H / 4, W / 4, 182)."""
    high, wide = crop.shape[0] // 4, crop.shape[1] // 4
    fine, *rest = [np.ascontiguousarray(each.transpose(1, 2, 0)) for each in maps]
    rest = [cv2.resize(each, (wide, high), interpolation=cv2.INTER_LINEAR) for each in rest]
    return np.concatenate([fine, *rest, colour_features(crop, (wide, high))], axis=2)


def colour_features(crop: Picture, size_wh: tuple[int, int]) -> Map:
    """Lab, and how much it varies about each pixel, (H, W, 6)."""
    colour = scaled_lab(cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA))
    spread = cv2.blur(colour * colour, (5, 5)) - cv2.blur(colour, (5, 5)) ** 2
    return np.concatenate([colour, np.sqrt(np.maximum(spread, 0))], axis=2)


def coarse_map(crop: Picture) -> Map:
    """A crop of (H, W), both multiples of 16, -> (H / 16, W / 16, 112): the deepest map alone."""
    [found] = run_model(MODEL_NAME, {"image": crop}, "s16")
    return np.ascontiguousarray(found.transpose(1, 2, 0))


def feature_maps(crop: Picture) -> FeatureMaps:
    """The maps of a crop of (H, W), both multiples of 16."""
    return FeatureMaps(*run_model(MODEL_NAME, {"image": crop}))
