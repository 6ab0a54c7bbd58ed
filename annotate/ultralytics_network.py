"""Networks of the `ultralytics` package: loaded and run on this machine alone, in silence.

The package would install what it misses, fetch what it does not find, count its users, and write
settings into the user's home. Here it is told not to before it is imported.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from annotate import manifest, weights
from annotate.device import choose
from annotate.errors import AnnotateError, MissingPackage, UnknownName, WeightsError, needs
from annotate.records import Picture
from annotate.slices import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 300  # boxes of a picture
BOXES = ("detect", "segment", "pose")  # tasks whose networks give boxes
_QUIET = {
    "YOLO_OFFLINE": "True",
    "YOLO_AUTOINSTALL": "False",
    "YOLO_VERBOSE": "False",
    "ULTRALYTICS_SAFE_LOAD": "True",  # a checkpoint is data: no code in it is run
}


@dataclass(frozen=True)
class Running:
    """Where and how a network runs.

    `least` is the lowest score. Of two boxes with an IoU over `iou` the worse is dropped, among
    those of one phrase or, if `agnostic`, among all. `size` is the side of its input; None is its
    own. `half` is heeded on CUDA only.
    """

    least: float
    iou: float
    size: int | None
    device: str | None
    half: bool
    agnostic: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.least < 1:
            raise AnnotateError(f"least must be 0 to 1, got {self.least}")
        if self.size is not None and (self.size < 32 or self.size % 32):
            raise AnnotateError(f"size must be a multiple of 32 pixels, got {self.size}")


def package() -> Any:
    """The module `ultralytics`, which leaves the network and the user's settings alone.

    Raises:
        MissingPackage: it is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    own = manifest.folders()[-1].parent / "ultralytics"
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


def files(name: str, families: Sequence[str]) -> Path:
    """The file or folder of a name in the manifest, of one of these families, or of a path.

    Raises:
        UnknownName, MissingWeights: see `weights.where`.
        AnnotateError: a model of another family.
    """
    known = manifest.manifest()
    model = known.get(name)
    if model is not None and not model.path and model.family not in families:
        fitting = [each.name for each in known.values() if each.family in families]
        raise AnnotateError(
            f"{name} is of the family {model.family}, which cannot be used here: "
            f"give the path of your own, or one of {', '.join(fitting)}"
        )
    return weights.where(name)


def load(kind: str, path: Path) -> Any:
    """The package's model of the class `kind` ("YOLO", "YOLOWorld", "YOLOE") from its file.

    Raises:
        MissingPackage: what the file's format needs is not installed.
        WeightsError: it cannot be loaded as that.
    """
    if kind != "YOLO" and (path.is_dir() or path.suffix == ".onnx"):
        raise WeightsError(
            f"{path} is an export, in which the phrases are fixed: "
            "run it by the detector yolo, or give the .pt that it was made from"
        )
    made: Callable[[str], Any] = getattr(package(), kind)
    if path.is_dir() and any(path.glob("*.xml")):
        needs("openvino")
    with in_one_sentence(path):
        model = made(str(path))
    if model.task not in BOXES:
        raise AnnotateError(
            f"{path} is a network for the task {model.task!r}, which gives no boxes: "
            f"give one for {', '.join(BOXES)}"
        )
    return model


def look(model: Any, images: Sequence[Picture], running: Running, **more: Any) -> list[Table]:
    """What the model finds on each picture; `more` goes to its `predict`."""
    place, kind = device(running.device)
    arguments = {
        "conf": running.least,
        "iou": running.iou,
        "agnostic_nms": running.agnostic,
        "max_det": MOST,
        "device": place,
        "quantize": 16 if running.half and kind == "cuda" else None,
        "save": False,
        "verbose": False,
    }
    arguments |= {} if running.size is None else {"imgsz": running.size}
    bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    with in_one_sentence(Path(str(model.model_name or "the network"))):
        results = model.predict(bgr, **arguments, **more)
    return [np.asarray(each.boxes.data.cpu().numpy(), float).reshape(-1, 6) for each in results]


def device(name: str | None) -> tuple[str, str]:
    """What the package calls a device, and its kind: "cuda", "cpu", ...; OpenVINO's as they are.

    Raises:
        AnnotateError: there is no such device.
    """
    if name is not None and name.startswith("intel:"):
        return name, "intel"
    place, _ = choose(name, None)
    return str(place), place.type


@contextmanager
def in_one_sentence(path: Path) -> Iterator[None]:
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


def find_class(name: str, names: Sequence[str], model: str) -> int:
    """The number of a class of the model by its name, however it is written.

    Raises:
        UnknownName: it knows no such class; names the nearest.
    """
    plain = {_plain(each): number for number, each in enumerate(names)}
    if _plain(name) not in plain:
        raise UnknownName(f"class of {model}", name, names)
    return plain[_plain(name)]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())
