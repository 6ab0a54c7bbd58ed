"""Detect with any Ultralytics YOLO: pretrained, fine-tuned or exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import supervision as sv

from annotate.detectors.tiling import BoxTable, Tiling, detect_tiled
from annotate.detectors.ultralytics import (
    InferenceOptions,
    class_names,
    find_weights,
    load_model,
    predict,
)
from annotate.errors import PromptError, UnknownName, WeightsError
from annotate.items.records import Frame, Picture, Vocabulary
from annotate.vocabulary import Phrase, detector_phrases
from annotate.weights import lineage
from annotate.weights.lineage import TrainedModel

_MIN_SCORE = 0.25  # of weights that do not tell one


def find_class(name: str, names: Sequence[str], model: str) -> int:
    """Find the index of a class by its name, whatever its case, hyphens and underscores.

    Raises:
        UnknownName: the model has no such class; names the nearest.
    """
    index_by_name = {_normalise(each): index for index, each in enumerate(names)}
    if _normalise(name) not in index_by_name:
        raise UnknownName(f"class of {model}", name, names)
    return index_by_name[_normalise(name)]


def _normalise(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


@dataclass(frozen=True)
class YoloDetector:
    """Find boxes of a YOLO's own classes, under the vocabulary's names.

    A class of the vocabulary names the class of the model (`yolo = "person"`, or a list), or has
    the same name. `model` is a name in the manifest or a path: a checkpoint, an export, or the
    folder that `annotate train` wrote. Boxes with a score below `min_score`, by default 0.25 or the
    threshold of that folder, are dropped. Of two boxes of a class with an IoU over `nms_iou`, the
    one with the lower score is dropped. `input_size` is the side of the network's input in pixels,
    by default that of the model. With `tile`, in pixels, the network runs on the whole picture and
    on square tiles of that side, which overlap by the fraction `overlap`. `batch_size` pictures go
    through together, with `half` in float16 on CUDA.
    """

    vocabulary: Vocabulary
    model: str = "yolo11n"
    min_score: float | None = None
    nms_iou: float = 0.6
    input_size: int | None = None
    tile: int = 0
    overlap: float = 0.2
    batch_size: int = 8
    device: str | None = None
    half: bool = True

    def __post_init__(self) -> None:
        if self.min_score is None:  # the header of a file of items has the number
            object.__setattr__(self, "min_score", self._default_min_score())
        _ = self._tiling, self._inference  # raises for wrong options at once
        if "yolo" in self.vocabulary.detectors:
            detector_phrases(self.vocabulary, "yolo")

    def ready(self) -> None:
        """Check for weights that know the classes.

        Raises:
            WeightsError, UnknownName, PromptError, MissingPackage: say what is missing.
        """
        _ = self._classes

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes for each frame, best first."""
        if not frames:
            return []
        model_classes = list(self._classes)
        phrases = tuple(self._classes.values())
        phrase_index = {number: row for row, number in enumerate(model_classes)}
        options = self._inference
        if options.input_size is None and self._trained is not None:
            options = replace(options, input_size=-(-self._trained.image_size // 32) * 32)

        def network(images: list[Picture]) -> list[BoxTable]:
            tables = predict(self._network, images, options, classes=model_classes)
            for table in tables:
                table[:, 5] = [phrase_index[int(number)] for number in table[:, 5]]
            return tables

        return detect_tiled(frames, phrases, self._tiling, network)

    @cached_property
    def _tiling(self) -> Tiling:
        return Tiling(self.tile, self.overlap, self.nms_iou, self.batch_size, agnostic=False)

    @cached_property
    def _inference(self) -> InferenceOptions:
        assert self.min_score is not None
        return InferenceOptions(
            self.min_score, self.nms_iou, self.input_size, self.device, self.half, agnostic=False
        )

    def _default_min_score(self) -> float:
        """Return the threshold of a trained model's folder; 0.25 for other weights."""
        path = Path(self.model).expanduser()
        if not lineage.is_model(path):
            return _MIN_SCORE
        folder = path if path.is_dir() else path.parent
        return lineage.read_lineage(folder / lineage.LINEAGE_FILE).threshold

    @cached_property
    def _trained(self) -> TrainedModel | None:
        """The folder of a trained model, unchanged since the training; None for other weights."""
        path = find_weights(self.model, ["yolo"])
        if not lineage.is_model(path):
            return None
        model = lineage.read_model_folder(path)
        if model.lineage.detector != "yolo":
            raise WeightsError(
                f"{self.model}: trained for the detector {model.lineage.detector}: give that one"
            )
        return model

    @cached_property
    def _network(self) -> Any:
        return load_model("YOLO", self._path)

    @property
    def _path(self) -> Path:
        trained = self._trained
        return find_weights(self.model, ["yolo"]) if trained is None else trained.weights_path

    @cached_property
    def _classes(self) -> dict[int, Phrase]:
        """The model's classes to look for, by number, with the phrase of each."""
        names = class_names(self._network, self._path)
        return match_classes(self.vocabulary, names, Path(self.model).name)


def match_classes(
    vocabulary: Vocabulary, names: list[str], model: str, detector: str = "yolo"
) -> dict[int, Phrase]:
    """Match a model's classes, by number, to the classes of the vocabulary.

    The phrases of `detector` in the vocabulary name classes of the model.

    Raises:
        UnknownName: the vocabulary names a class that the model does not know.
        PromptError: no class of the vocabulary is a class of the model.
    """
    phrases = detector_phrases(vocabulary, detector) if detector in vocabulary.detectors else ()
    matches = {}
    for phrase in phrases:
        number = find_class(phrase.text, names, model)
        matches[number] = Phrase(names[number], phrase.class_id)
    prompted = {phrase.class_id for phrase in phrases}
    for class_id, label in enumerate(vocabulary.labels):
        if class_id in prompted:
            continue
        try:
            number = find_class(label, names, model)
        except UnknownName:
            continue  # a class for other detectors
        matches.setdefault(number, Phrase(names[number], class_id))
    if not matches:
        raise PromptError(
            f"vocabulary {vocabulary.name}: none of its classes is one that {model} knows: name "
            f'one, such as {detector} = "{names[0]}", under [classes.{vocabulary.labels[0]}]. '
            f"It knows: {', '.join(names)}"
        )
    return matches
