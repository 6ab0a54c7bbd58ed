"""Detect with any Ultralytics YOLO: pretrained, fine-tuned or exported.

Also loads and runs the networks of the `ultralytics` package for other modules, offline and
silently. By default the package would install missing dependencies, download missing files, collect
usage statistics and write settings into the home folder; all that is switched off before import.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import supervision as sv
from PIL import Image

from annotate.detectors.tiling import BoxTable, Tiling, detect_tiled
from annotate.device import choose_device
from annotate.errors import (
    AnnotateError,
    MissingPackage,
    PromptError,
    UnknownName,
    WeightsError,
    needs,
)
from annotate.items.records import Frame, Picture, Vocabulary
from annotate.vocabulary import Phrase, detector_phrases
from annotate.weights import manifest
from annotate.weights.store import weights_path

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    own = manifest.weights_folders()[-1].parent / "ultralytics"
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


def find_class(name: str, names: Sequence[str], model: str) -> int:
    """The number of a class of the model by its name, however it is written.

    Raises:
        UnknownName: it knows no such class; names the nearest.
    """
    plain = {_normalise(each): number for number, each in enumerate(names)}
    if _normalise(name) not in plain:
        raise UnknownName(f"class of {model}", name, names)
    return plain[_normalise(name)]


def _normalise(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


@dataclass(frozen=True)
class YoloDetector:
    """Boxes of a YOLO's own classes, under the vocabulary's names.

    A class of the vocabulary says which of the model's it is (`yolo = "person"`, or a list), or has
    the same name. `model` is a name in the manifest or a path: a checkpoint, or what was exported
    from one. `least` is the lowest score. Of two boxes of a class with an IoU over `iou` the worse
    is dropped. `size` is the side of the network's input. With a `tile`, pixels, it looks at the
    whole picture and at squares of that side which overlap by the part `overlap`. `batch` pictures
    go through at once, in half precision on CUDA.
    """

    vocabulary: Vocabulary
    model: str = "yolo11n"
    min_score: float = 0.25
    nms_iou: float = 0.6
    input_size: int | None = None
    tile: int = 0
    overlap: float = 0.2
    batch_size: int = 8
    device: str | None = None
    half: bool = True

    def __post_init__(self) -> None:
        _ = self._tiling, self._inference  # what cannot be is said at once
        if "yolo" in self.vocabulary.detectors:
            detector_phrases(self.vocabulary, "yolo")

    def ready(self) -> None:
        """Refuse to begin without weights, or with classes that they do not know.

        Raises:
            WeightsError, UnknownName, PromptError, MissingPackage: say what is missing.
        """
        _ = self._classes

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Boxes for each frame, best first."""
        if not frames:
            return []
        known = self._classes
        told = tuple(known.values())
        number = {of_model: row for row, of_model in enumerate(known)}

        def network(images: list[Picture]) -> list[BoxTable]:
            tables = predict(self._network, images, self._inference, classes=list(known))
            for table in tables:
                table[:, 5] = [number[int(of_model)] for of_model in table[:, 5]]
            return tables

        return detect_tiled(frames, told, self._tiling, network)

    @cached_property
    def _tiling(self) -> Tiling:
        return Tiling(self.tile, self.overlap, self.nms_iou, self.batch_size, agnostic=False)

    @cached_property
    def _inference(self) -> InferenceOptions:
        return InferenceOptions(
            self.min_score, self.nms_iou, self.input_size, self.device, self.half, agnostic=False
        )

    @cached_property
    def _network(self) -> Any:
        path = find_weights(self.model, ["yolo"])
        return load_model("YOLO", path)

    @cached_property
    def _classes(self) -> dict[int, Phrase]:
        """The model's classes that are looked for, by number, and what each stands for."""
        names = list(self._network.names.values())
        return match_classes(self.vocabulary, names, Path(self.model).name)


def match_classes(vocabulary: Vocabulary, names: list[str], model: str) -> dict[int, Phrase]:
    """Which of a model's classes, by number, stand for which of the vocabulary's.

    Raises:
        UnknownName: the vocabulary names a class that the model does not know.
        PromptError: no class of the vocabulary is one of the model's.
    """
    told = detector_phrases(vocabulary, "yolo") if "yolo" in vocabulary.detectors else ()
    found = {}
    for phrase in told:
        number = find_class(phrase.text, names, model)
        found[number] = Phrase(names[number], phrase.class_id)
    spoken_for = {phrase.class_id for phrase in told}
    for class_id, label in enumerate(vocabulary.labels):
        if class_id in spoken_for:
            continue
        try:
            number = find_class(label, names, model)
        except UnknownName:
            continue  # other detectors know it
        found.setdefault(number, Phrase(names[number], class_id))
    if not found:
        raise PromptError(
            f"vocabulary {vocabulary.name}: none of its classes is one that {model} knows: say "
            f'which, such as yolo = "{names[0]}", under [classes.{vocabulary.labels[0]}]. '
            f"It knows: {', '.join(names)}"
        )
    return found
