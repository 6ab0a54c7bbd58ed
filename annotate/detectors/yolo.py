"""Detect with any Ultralytics YOLO: pretrained, fine-tuned or exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import supervision as sv

from annotate.detectors.tiling import BoxTable, Tiling, detect_tiled
from annotate.detectors.ultralytics import InferenceOptions, find_weights, load_model, predict
from annotate.errors import PromptError, UnknownName
from annotate.items.records import Frame, Picture, Vocabulary
from annotate.vocabulary import Phrase, detector_phrases


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
