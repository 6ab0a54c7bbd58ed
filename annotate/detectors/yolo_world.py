"""Propose boxes for phrases by YOLO-World v2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from annotate import ultralytics_network
from annotate.errors import AnnotateError, needs
from annotate.phrasing import Phrase, phrases
from annotate.records import Picture, Vocabulary
from annotate.slices import PhraseDetector, Slicing, Table
from annotate.text_features import encode
from annotate.ultralytics_network import Running


@dataclass(frozen=True)
class YoloWorldDetector(PhraseDetector):
    """Boxes for phrases, which the vocabulary gives: `yolo-world = "red square"`, or a list.

    `model` and `encoder`, what reads the phrases, are names in the manifest, or paths. Scores are
    low for things that the model was not trained on: so is `least`. Of two boxes with an IoU over
    `iou`, of whatever class, the worse is dropped. With `background`, what looks more like nothing
    at all (an empty phrase) than like any of the phrases is dropped. `size`, `tile`, `overlap`,
    `batch` and `half` are those of the detector `yolo`.
    """

    vocabulary: Vocabulary
    model: str = "yolo-world-s"
    encoder: str = "clip-vit-b-32"
    least: float = 0.02
    iou: float = 0.5
    background: bool = True
    size: int | None = None
    tile: int = 0
    overlap: float = 0.2
    batch: int = 8
    device: str | None = None
    half: bool = True

    def __post_init__(self) -> None:
        _ = self._phrases, self._slicing, self._running  # what cannot be is said at once

    def _look(self, images: list[Picture]) -> list[Table]:
        shown = list(range(len(self._phrases)))  # without the background
        return ultralytics_network.look(self._network, images, self._running, classes=shown)

    @cached_property
    def _phrases(self) -> tuple[Phrase, ...]:
        return phrases(self.vocabulary, "yolo-world")

    @cached_property
    def _slicing(self) -> Slicing:
        return Slicing(self.tile, self.overlap, self.iou, self.batch)

    @cached_property
    def _running(self) -> Running:
        return Running(self.least, self.iou, self.size, self.device, self.half)

    @cached_property
    def _network(self) -> Any:
        path = ultralytics_network.files(self.model, ["yolo-world"])
        model = ultralytics_network.load("YOLOWorld", path)
        texts = [phrase.text for phrase in self._phrases] + [""] * self.background
        if not hasattr(model.model, "txt_feats"):
            raise AnnotateError(f"{path} is no YOLO-World: what is no such network is run by yolo")
        # What its `set_classes` does, with vectors that need no encoder to be loaded.
        vectors = encode(self.encoder, texts)
        model.model.txt_feats = needs("torch").from_numpy(vectors)[None]
        model.model.model[-1].nc = len(texts)
        model.model.names = dict(enumerate(texts))
        return model
