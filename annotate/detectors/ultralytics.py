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

MAX_BOXES = 300  # boxes of a picture
BOX_TASKS = ("detect", "segment", "pose")  # tasks whose networks give boxes
_OFFLINE_ENV = {
    "YOLO_OFFLINE": "True",
    "YOLO_AUTOINSTALL": "False",
    "YOLO_VERBOSE": "False",
    "ULTRALYTICS_SAFE_LOAD": "True",  # a checkpoint is data: no code in it is run
}


@dataclass(frozen=True)
class InferenceOptions:
    """Where and how a network runs.

    `least` is the lowest score. Of two boxes with an IoU over `iou` the worse is dropped, among
    those of one phrase or, if `agnostic`, among all. `size` is the side of its input; None is its
    own. `half` is heeded on CUDA only.
    """

    min_score: float
    nms_iou: float
    input_size: int | None
    device: str | None
    half: bool
    agnostic: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_score < 1:
            raise AnnotateError(f"least must be 0 to 1, got {self.min_score}")
        if self.input_size is not None and (self.input_size < 32 or self.input_size % 32):
            raise AnnotateError(f"size must be a multiple of 32 pixels, got {self.input_size}")


def import_ultralytics() -> Any:
    """The module `ultralytics`, which leaves the network and the user's settings alone.

    Raises:
        MissingPackage: it is not installed.
    """
    for name, value in _OFFLINE_ENV.items():
        os.environ.setdefault(name, value)
    own = cache_dir("ultralytics")
    os.environ.setdefault("YOLO_CONFIG_DIR", str(own))
    opener = Image.open
    found = needs("ultralytics")
    # A program that had imported it before us may be counted until now, from here on it is not.
    importlib.import_module("ultralytics.utils.events").events.enabled = False
    Image.open = opener  # the package puts one of its own in, which would install what it misses
    for handler in found.utils.LOGGER.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(sys.stderr)  # stdout is for what was asked for
    return found


def find_weights(name: str, families: Sequence[str]) -> Path:
    """The file or folder of a name in the manifest, of one of these families, or of a path.

    Raises:
        UnknownName, MissingWeights: see `weights.where`.
        AnnotateError: a model of another family.
    """
    known = manifest.all_models()
    model = known.get(name)
    if model is not None and not model.path and model.family not in families:
        fitting = [each.name for each in known.values() if each.family in families]
        raise AnnotateError(
            f"{name} is of the family {model.family}, which cannot be used here: "
            f"give the path of your own, or one of {', '.join(fitting)}"
        )
    return weights_path(name)


def load_model(class_name: str, path: Path) -> Any:
    """The package's model of the class `kind` ("YOLO", "YOLOWorld", "YOLOE") from its file.

    Raises:
        MissingPackage: what the file's format needs is not installed.
        WeightsError: it cannot be loaded as that.
    """
    if class_name != "YOLO" and (path.is_dir() or path.suffix == ".onnx"):
        raise WeightsError(
            f"{path} is an export, in which the phrases are fixed: "
            "run it by the detector yolo, or give the .pt that it was made from"
        )
    made: Callable[[str], Any] = getattr(import_ultralytics(), class_name)
    if path.is_dir() and any(path.glob("*.xml")):
        needs("openvino")
    with one_line_errors(path):
        model = made(str(path))
    if model.task not in BOX_TASKS:
        raise AnnotateError(
            f"{path} is a network for the task {model.task!r}, which gives no boxes: "
            f"give one for {', '.join(BOX_TASKS)}"
        )
    return model


def predict(
    model: Any, images: Sequence[Picture], options: InferenceOptions, **extra: Any
) -> list[BoxTable]:
    """What the model finds on each picture; `more` goes to its `predict`."""
    place, kind = resolve_device(options.device)
    arguments = {
        "conf": options.min_score,
        "iou": options.nms_iou,
        "agnostic_nms": options.agnostic,
        "max_det": MAX_BOXES,
        "device": place,
        "quantize": 16 if options.half and kind == "cuda" else None,
        "save": False,
        "verbose": False,
    }
    arguments |= {} if options.input_size is None else {"imgsz": options.input_size}
    bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    with one_line_errors(Path(str(model.model_name or "the network"))):
        results = model.predict(bgr, **arguments, **extra)
    return [np.asarray(each.boxes.data.cpu().numpy(), float).reshape(-1, 6) for each in results]


def resolve_device(name: str | None) -> tuple[str, str]:
    """What the package calls a device, and its kind: "cuda", "cpu", ...; OpenVINO's as they are.

    Raises:
        AnnotateError: there is no such device.
    """
    if name is not None and name.startswith("intel:"):
        return name, "intel"
    place, _ = choose_device(name, None)
    return str(place), place.type


@contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Say in one sentence what the package says in many."""
    try:
        yield
    except AnnotateError:
        raise
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"{path} needs {error.name}, which is not installed: pip install {error.name}"
        ) from error
    except Exception as error:  # the package raises whatever it meets
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"{path} cannot be used by ultralytics: {reason}") from error
