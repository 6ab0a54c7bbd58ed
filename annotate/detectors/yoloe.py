"""Propose boxes for phrases, or for what looks like an example, by YOLOE."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from annotate import ultralytics_network
from annotate.errors import AnnotateError, needs
from annotate.example import Example
from annotate.phrasing import Phrase, phrases
from annotate.records import Picture, Vocabulary
from annotate.slices import PhraseDetector, Slicing, Table
from annotate.text_features import encode
from annotate.ultralytics_network import Running, in_one_sentence

ENCODERS = {
    "mobileclip:blt": "mobileclip-blt",
    "mobileclip2:b": "mobileclip2-b",
    "clip:ViT-B/32": "clip-vit-b-32",
}


@dataclass(frozen=True)
class YoloeDetector(PhraseDetector):
    """Boxes for phrases (`yoloe = "red square"`, or a list), or for what looks like an example.

    The example is `reference`, PICTURE:X1,Y1,X2,Y2, and shows the vocabulary's one class, or the
    one that tells `yoloe` anything. `model` is a name in the manifest or a path; `encoder`, what
    reads the phrases, too: None is the one that the model was trained with. `least`, `iou`, `size`,
    `tile`, `overlap`, `batch` and `half` are those of the detector `yolo-world`.
    """

    vocabulary: Vocabulary
    model: str = "yoloe-11s-seg"
    encoder: str | None = None
    reference: str | None = None
    least: float = 0.02
    iou: float = 0.5
    size: int | None = None
    tile: int = 0
    overlap: float = 0.2
    batch: int = 8
    device: str | None = None
    half: bool = True
    reference_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        _ = self._phrases, self._slicing, self._running
        example = self._example
        object.__setattr__(self, "reference_sha256", example.sha256 if example else "")

    def _look(self, images: list[Picture]) -> list[Table]:
        return ultralytics_network.look(self._network, images, self._running)

    @cached_property
    def _example(self) -> Example | None:
        return None if self.reference is None else Example.read(self.reference)

    @cached_property
    def _phrases(self) -> tuple[Phrase, ...]:
        if self.reference is None:
            return phrases(self.vocabulary, "yoloe")
        told = list(self.vocabulary.phrases("yoloe")) or list(range(len(self.vocabulary.labels)))
        if len(told) != 1:
            raise AnnotateError(
                f"reference shows one class, and vocabulary {self.vocabulary.name} has "
                f"{len(told)}: let only the class that it shows tell yoloe a phrase"
            )
        return (Phrase(self.reference, told[0]),)

    @cached_property
    def _slicing(self) -> Slicing:
        return Slicing(self.tile, self.overlap, self.iou, self.batch)

    @cached_property
    def _running(self) -> Running:
        return Running(self.least, self.iou, self.size, self.device, self.half)

    @cached_property
    def _network(self) -> Any:
        path = ultralytics_network.files(self.model, ["yoloe"])
        model = ultralytics_network.load("YOLOE", path)
        head = model.model.model[-1] if hasattr(model.model, "get_visual_pe") else None
        if head is None or hasattr(head, "lrpc"):
            raise AnnotateError(f"{path} is no YOLOE that can be told anything: give one that can")
        with in_one_sentence(path):
            if self._example is not None:
                self._show(model, self._example)
            else:
                self._tell(model)
        return model

    def _tell(self, model: Any) -> None:
        """Give it the phrases, as its `set_classes` does."""
        torch = needs("torch")
        texts = [phrase.text for phrase in self._phrases]
        asked = getattr(model.model, "text_model", "mobileclip:blt")
        vectors = encode(self.encoder or ENCODERS[asked], texts)
        with torch.no_grad():
            told = model.model.model[-1].get_tpe(torch.from_numpy(vectors)[None])
        model.set_classes(texts, told)

    def _show(self, model: Any, example: Example) -> None:
        """Give it the example, as a prompt of its own kind."""
        bgr = np.ascontiguousarray(example.picture[..., ::-1])
        prompts = {"bboxes": np.array([example.box]), "cls": np.array([0])}
        place, _ = ultralytics_network.device(self.device)
        size = {} if self.size is None else {"imgsz": self.size}
        model.predict(
            bgr, refer_image=bgr, visual_prompts=prompts, device=place, verbose=False, **size
        )
