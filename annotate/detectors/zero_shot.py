"""Detect by phrases with zero-shot models of `transformers`: OWLv2, Grounding DINO.

OWL-ViT and OWLv2 take all phrases at once and score each on its own; Grounding DINO and MM
Grounding DINO read one text, so they are run once for each phrase.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from annotate.detectors.tiling import BoxTable, PhraseDetector, Tiling
from annotate.device import choose_device
from annotate.errors import AnnotateError, WeightsError, needs
from annotate.items.records import Picture, Vocabulary
from annotate.vocabulary import Phrase, detector_phrases
from annotate.weights.load_errors import one_line_errors
from annotate.weights.store import weights_path

MULTI_PHRASE_MODELS = ("owlv2", "owlvit")  # score all phrases in one run
SINGLE_PHRASE_MODELS = ("grounding-dino", "mm-grounding-dino")  # one run for each phrase


@dataclass(frozen=True)
class ZeroShotDetector(PhraseDetector):
    """Find boxes of the vocabulary's phrases (`zero-shot = "red square"`, or a list).

    `model` is a name in the manifest or the folder of an OWL-ViT, OWLv2, Grounding DINO or MM
    Grounding DINO. Boxes with a score below `min_score` are dropped. Of two boxes with an IoU over
    `nms_iou`, of whatever class, the one with the lower score is dropped; 1 keeps all. `tile`,
    `overlap` and `batch_size` are those of the detector `yolo`; `dtype` is that of the network.
    """

    vocabulary: Vocabulary
    model: str = "owlv2-base-ensemble"
    min_score: float = 0.1
    nms_iou: float = 0.5
    tile: int = 0
    overlap: float = 0.2
    batch_size: int = 4
    device: str | None = None
    dtype: str | None = "float32"

    def __post_init__(self) -> None:
        _ = self._phrases, self._tiling  # raises for wrong options at once
        if not 0 <= self.min_score < 1:
            raise AnnotateError(f"min_score must be 0 to 1, got {self.min_score}")

    @cached_property
    def _phrases(self) -> tuple[Phrase, ...]:
        return detector_phrases(self.vocabulary, "zero-shot")

    @cached_property
    def _tiling(self) -> Tiling:
        return Tiling(
            self.tile, self.overlap, self.nms_iou, self.batch_size, network_does_nms=False
        )

    @cached_property
    def _network(self) -> _Network:
        return _Network.load(self.model, self.device, self.dtype)

    def _predict(self, images: list[Picture]) -> list[BoxTable]:
        texts = [phrase.text for phrase in self._phrases]
        tables: list[list[BoxTable]] = [[np.zeros((0, 6))] for _ in images]
        for number, results in self._network.detect(images, texts, self.min_score):
            for table, result in zip(tables, results, strict=True):
                scores = result["scores"].float().cpu().numpy()
                boxes = result["boxes"].float().cpu().numpy().reshape(-1, 4)
                table.append(np.column_stack([boxes, scores, np.full(len(scores), number)]))
        return [np.concatenate(table).astype(np.float64) for table in tables]


@dataclass(frozen=True)
class _Network:
    model: Any
    image_processor: Any
    tokenizer: Any

    @staticmethod
    def load(name: str, device: str | None, dtype: str | None) -> _Network:
        """Load a model with its image processor and tokenizer, from local files only."""
        needs("torch")
        package = needs("transformers")
        package.utils.logging.disable_progress_bar()  # the command line shows its own
        folder = weights_path(name)
        if not (folder / "config.json").is_file():
            raise WeightsError(
                f"{folder} is not a folder of a transformers model: no config.json in it"
            )
        torch_device, torch_dtype = choose_device(device, dtype)
        source = {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
        with one_line_errors(folder, "cannot be used by transformers", "copy or fetch it again"):
            _check_model_type(package.AutoConfig.from_pretrained(**source).model_type, folder)
            model = package.AutoModelForZeroShotObjectDetection.from_pretrained(
                **source, dtype=torch_dtype
            )
            image_processor = package.AutoImageProcessor.from_pretrained(**source)
            tokenizer = package.AutoTokenizer.from_pretrained(**source)
        return _Network(model.eval().to(torch_device), image_processor, tokenizer)

    def detect(
        self, images: list[Picture], texts: list[str], min_score: float
    ) -> Iterator[tuple[int, list[Any]]]:
        """Yield the index of each text, and its results on each picture as of the pipeline.

        Texts share a run only where that does not change the results.
        """
        torch = needs("torch")
        multi_phrase = self.model.config.model_type in MULTI_PHRASE_MODELS
        pixels = self.image_processor(images=images, return_tensors="pt").to(self.model.device)
        pixels = pixels.to(self.model.dtype)
        sizes = torch.tensor([image.shape[:2] for image in images])
        groups = [texts] if multi_phrase else [[_grounding_dino_prompt(text)] for text in texts]
        for first, group in enumerate(groups):
            tokens = self.tokenizer(group * len(images), padding=True, return_tensors="pt")
            with torch.inference_mode():
                answer = self.model(**tokens.to(self.model.device), **pixels)
            for column in range(len(group)):
                logits = answer.logits[..., [column]] if multi_phrase else answer.logits
                output = SimpleNamespace(logits=logits, pred_boxes=answer.pred_boxes)
                yield (
                    first + column,
                    self.image_processor.post_process_object_detection(
                        output, threshold=min_score, target_sizes=sizes.to(self.model.device)
                    ),
                )


def _check_model_type(model_type: str, folder: Path) -> None:
    if model_type not in MULTI_PHRASE_MODELS + SINGLE_PHRASE_MODELS:
        known = ", ".join(MULTI_PHRASE_MODELS + SINGLE_PHRASE_MODELS)
        raise AnnotateError(f"{folder} is a model of the type {model_type}; zero-shot runs {known}")


def _grounding_dino_prompt(text: str) -> str:
    """Format a phrase as in the training of Grounding DINO: lower case, with a full stop."""
    return f"{text.lower().rstrip('. ')}."
