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
from annotate.errors import AnnotateError, WeightsError, needs
from annotate.files import cache_dir
from annotate.items.records import Picture
from annotate.weights import manifest
from annotate.weights.load_errors import one_line_errors
from annotate.weights.store import weights_path

MAX_BOXES = 300  # of one picture
BOX_TASKS = ("detect", "segment", "pose")  # tasks of networks that give boxes
_OPENVINO_FOLDER = "_openvino_model"  # how the name of an export for OpenVINO ends
_UNNAMED_CLASSES = 999  # class0 to class998 stand for names that an export does not hold
_PROBLEM = "cannot be used by ultralytics"
_CURE = "give a checkpoint or an export of ultralytics; copy or export a damaged one again"
_LOG = logging.getLogger(__name__)
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
    if path.is_dir():
        _check_export_folder(path)
    with weights_errors(path):
        model = model_class(str(path))
    if model.task not in BOX_TASKS:
        raise AnnotateError(
            f"{path} is a network for the task {model.task!r}, which gives no boxes: "
            f"give one for {', '.join(BOX_TASKS)}"
        )
    return model


def _check_export_folder(path: Path) -> None:
    """Check a folder before the package does: it goes by the name, and its errors are long."""
    if not any(path.glob("*.xml")):
        return
    needs("openvino")
    if not path.resolve().name.endswith(_OPENVINO_FOLDER):
        raise WeightsError(
            f"{path} is an export for OpenVINO, and ultralytics knows one by the name of its "
            f"folder: rename it to {path.resolve().name}{_OPENVINO_FOLDER}"
        )


def class_names(model: Any, path: Path) -> list[str]:
    """Return the names of a model's classes, by number.

    Raises:
        WeightsError: the file cannot be loaded, or holds no names.
    """
    with weights_errors(path):
        names = [str(name) for name in model.names.values()]
    if names == [f"class{number}" for number in range(_UNNAMED_CLASSES)]:
        raise WeightsError(
            f"{path} holds no names of classes: export it with ultralytics, which writes them "
            "(metadata.yaml in a folder)"
        )
    return names


@contextmanager
def weights_errors(path: Path) -> Iterator[None]:
    """Load weights without the package's log, and with errors of one line."""
    with _quiet_log(), one_line_errors(path, _PROBLEM, _CURE):
        yield


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Send what the package logs to the log of this module, at debug."""
    logger = import_ultralytics().utils.LOGGER
    logger.addFilter(_log_at_debug)
    try:
        yield
    finally:
        logger.removeFilter(_log_at_debug)


def _log_at_debug(record: logging.LogRecord) -> bool:
    _LOG.debug("%s", record.getMessage())
    return False


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
    path = Path(str(model.model_name or "the network"))
    with _quiet_log(), one_line_errors(path, _PROBLEM):
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
