"""Load and run networks of the `ultralytics` package, offline and silently.

By default the package would install missing dependencies, download missing files, collect usage
statistics and write settings into the home folder; all that is switched off before import.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from annotate.detectors.tiling import BoxTable
from annotate.device import choose_device
from annotate.errors import AnnotateError, MissingPackage, WeightsError, needs
from annotate.files import cache_dir
from annotate.items.records import Picture
from annotate.weights import manifest
from annotate.weights.store import weights_path

MAX_BOXES = 300  # of one picture
BOX_TASKS = ("detect", "segment", "pose")  # tasks of networks that give boxes
_OFFLINE_ENV = {
    "YOLO_OFFLINE": "True",
    "YOLO_AUTOINSTALL": "False",
    "YOLO_VERBOSE": "False",
    "ULTRALYTICS_SAFE_LOAD": "True",  # no code in a checkpoint is run
}


@dataclass(frozen=True)
class InferenceOptions:
    """The device, the input size and the NMS settings of a network.

    Boxes with a score below `min_score` are dropped. Of two boxes with an IoU over `nms_iou`, the
    one with the lower score is dropped, among those of one class or, if `agnostic`, among all.
    `input_size` is the side of the network's input in pixels; None is that of the model. `half`
    (float16) applies on CUDA only.
    """

    min_score: float
    nms_iou: float
    input_size: int | None
    device: str | None
    half: bool
    agnostic: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_score < 1:
            raise AnnotateError(f"min_score must be 0 to 1, got {self.min_score}")
        if self.input_size is not None and (self.input_size < 32 or self.input_size % 32):
            raise AnnotateError(
                f"input_size must be a multiple of 32 pixels, got {self.input_size}"
            )


def import_ultralytics() -> Any:
    """Import `ultralytics` so that it uses no network and does not touch the user's settings.

    Raises:
        MissingPackage: it is not installed.
    """
    for name, value in _OFFLINE_ENV.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("YOLO_CONFIG_DIR", str(cache_dir("ultralytics")))
    image_open = Image.open
    ultralytics = needs("ultralytics")
    # The package may have been imported earlier, without the variables above: no statistics now.
    importlib.import_module("ultralytics.utils.events").events.enabled = False
    Image.open = image_open  # the package replaces it by one that installs missing packages
    for handler in ultralytics.utils.LOGGER.handlers:
        if type(handler) is logging.StreamHandler:
            handler.stream = sys.stderr  # stdout is for results; the old stream may be closed
    return ultralytics


def find_weights(name: str, families: Sequence[str]) -> Path:
    """Find the file or folder of a model of one of `families` in the manifest, or of a path.

    Raises:
        UnknownName, MissingWeights: see `weights_path`.
        AnnotateError: a model of another family.
    """
    models = manifest.all_models()
    model = models.get(name)
    if model is not None and not model.path and model.family not in families:
        fitting = [each.name for each in models.values() if each.family in families]
        raise AnnotateError(
            f"{name} is of the family {model.family}, which cannot be used here: "
            f"give the path of your own, or one of {', '.join(fitting)}"
        )
    return weights_path(name)


def load_model(class_name: str, path: Path) -> Any:
    """Load a model of an `ultralytics` class ("YOLO", "YOLOWorld", "YOLOE") from its file.

    Raises:
        MissingPackage: a package that the file's format needs is not installed.
        WeightsError: the file cannot be loaded as that class.
        AnnotateError: the network gives no boxes.
    """
    if class_name != "YOLO" and (path.is_dir() or path.suffix == ".onnx"):
        raise WeightsError(
            f"{path} is an export, in which the phrases are fixed: run it with "
            "the detector yolo, or give the .pt that it was exported from"
        )
    model_class: Callable[[str], Any] = getattr(import_ultralytics(), class_name)
    if path.is_dir() and any(path.glob("*.xml")):
        needs("openvino")
    with one_line_errors(path):
        model = model_class(str(path))
    if model.task not in BOX_TASKS:
        raise AnnotateError(
            f"{path} is a network for the task {model.task!r}, which gives no boxes: "
            f"give one for {', '.join(BOX_TASKS)}"
        )
    return model


def predict(
    model: Any, images: Sequence[Picture], options: InferenceOptions, **extra: Any
) -> list[BoxTable]:
    """Run the model on pictures; `extra` goes to the `predict` of the package."""
    device, device_type = resolve_device(options.device)
    arguments = {
        "conf": options.min_score,
        "iou": options.nms_iou,
        "agnostic_nms": options.agnostic,
        "max_det": MAX_BOXES,
        "device": device,
        "quantize": 16 if options.half and device_type == "cuda" else None,
        "save": False,
        "verbose": False,
    }
    arguments |= {} if options.input_size is None else {"imgsz": options.input_size}
    bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    with one_line_errors(Path(str(model.model_name or "the network"))):
        results = model.predict(bgr, **arguments, **extra)
    return [np.asarray(each.boxes.data.cpu().numpy(), float).reshape(-1, 6) for each in results]


def resolve_device(name: str | None) -> tuple[str, str]:
    """Return a device's name for the package, and its type: "cuda", "cpu", or "intel" (OpenVINO).

    Raises:
        AnnotateError: there is no such device.
    """
    if name is not None and name.startswith("intel:"):
        return name, "intel"
    device, _ = choose_device(name, None)
    return str(device), device.type


@contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Turn any exception of the package into an error of one line."""
    try:
        yield
    except AnnotateError:
        raise
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"{path} needs {error.name}, which is not installed: pip install {error.name}"
        ) from error
    except Exception as error:  # the package raises exceptions of many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"{path} cannot be used by ultralytics: {reason}") from error
