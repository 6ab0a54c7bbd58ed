"""Propose boxes by any YOLO of Ultralytics: as it comes, fine-tuned, or exported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import supervision as sv

from annotate import ultralytics_network
from annotate.errors import PromptError, UnknownName
from annotate.phrasing import Phrase, phrases
from annotate.records import Frame, Picture, Vocabulary
from annotate.slices import Slicing, Table, look
from annotate.ultralytics_network import Running


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
    least: float = 0.25
    iou: float = 0.6
    size: int | None = None
    tile: int = 0
    overlap: float = 0.2
    batch: int = 8
    device: str | None = None
    half: bool = True

    def __post_init__(self) -> None:
        _ = self._slicing, self._running  # what cannot be is said at once
        if "yolo" in self.vocabulary.detectors:
            phrases(self.vocabulary, "yolo")

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

        def network(images: list[Picture]) -> list[Table]:
            tables = ultralytics_network.look(
                self._network, images, self._running, classes=list(known)
            )
            for table in tables:
                table[:, 5] = [number[int(of_model)] for of_model in table[:, 5]]
            return tables

        return look(frames, told, self._slicing, network)

    @cached_property
    def _slicing(self) -> Slicing:
        return Slicing(self.tile, self.overlap, self.iou, self.batch, agnostic=False)

    @cached_property
    def _running(self) -> Running:
        return Running(self.least, self.iou, self.size, self.device, self.half, agnostic=False)

    @cached_property
    def _network(self) -> Any:
        path = ultralytics_network.files(self.model, ["yolo"])
        return ultralytics_network.load("YOLO", path)

    @cached_property
    def _classes(self) -> dict[int, Phrase]:
        """The model's classes that are looked for, by number, and what each stands for."""
        names = list(self._network.names.values())
        return classes(self.vocabulary, names, Path(self.model).name)


def classes(vocabulary: Vocabulary, names: list[str], model: str) -> dict[int, Phrase]:
    """Which of a model's classes, by number, stand for which of the vocabulary's.

    Raises:
        UnknownName: the vocabulary names a class that the model does not know.
        PromptError: no class of the vocabulary is one of the model's.
    """
    told = phrases(vocabulary, "yolo") if "yolo" in vocabulary.detectors else ()
    found = {}
    for phrase in told:
        number = ultralytics_network.find_class(phrase.text, names, model)
        found[number] = Phrase(names[number], phrase.class_id)
    spoken_for = {phrase.class_id for phrase in told}
    for class_id, label in enumerate(vocabulary.labels):
        if class_id in spoken_for:
            continue
        try:
            number = ultralytics_network.find_class(label, names, model)
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
