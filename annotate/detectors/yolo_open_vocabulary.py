"""Detect by phrases with YOLO-World v2 and YOLOE, or by an example box with YOLOE.

Phrases are encoded by CLIP for YOLO-World and by MobileCLIP for YOLOE. A phrase's vector is cached
on this machine under the SHA-256 of the encoder and of the phrase: a phrase that was encoded before
needs neither weights nor packages. An example is an image and the box in it that shows the object.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate import files
from annotate.detectors import ultralytics
from annotate.detectors.tiling import BoxTable, PhraseDetector, Tiling
from annotate.detectors.ultralytics import InferenceOptions, weights_errors
from annotate.errors import (
    AnnotateError,
    MissingPackage,
    OutputError,
    PromptError,
    needs,
)
from annotate.items.records import Box, Picture, Vocabulary
from annotate.items.sequences import chunks
from annotate.video import reader
from annotate.vocabulary import Phrase, detector_phrases
from annotate.weights import manifest
from annotate.weights.load_errors import one_line_errors
from annotate.weights.store import weights_path


@dataclass(frozen=True)
class Example:
    """A picture, and the box of an object in it, xyxy in pixels."""

    picture: Picture = field(repr=False, compare=False)
    box: Box

    @property
    def sha256(self) -> str:
        """The SHA-256 of the picture's size and pixels, wherever its file is."""
        content = hashlib.sha256(repr(self.picture.shape).encode())
        content.update(self.picture.tobytes())
        return content.hexdigest()

    @staticmethod
    def parse(text: str) -> Example:
        """Parse `PICTURE:X1,Y1,X2,Y2`; the picture is an image, or the first frame of a clip.

        Raises:
            PromptError: not in this form, or the box is not inside the picture.
            VideoError: there is no such picture, or it cannot be read.
        """
        path, _, corners = text.rpartition(":")
        try:
            x1, y1, x2, y2 = map(float, corners.split(","))
        except ValueError:
            expected = "expected PICTURE:X1,Y1,X2,Y2, such as mech.png:10,20,50,60"
            raise PromptError(f"reference {text!r}: {expected}") from None
        picture = next(iter(reader.frames_at(Path(path), [0]))).image
        height, width = picture.shape[:2]
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise PromptError(
                f"reference {text!r}: expected a box inside the picture of {width}x{height}, "
                "with its top left corner first"
            )
        return Example(picture, (x1, y1, x2, y2))


TextVectors = npt.NDArray[np.float32]  # (n, width)
_BATCH_SIZE = 64  # phrases


def encode_phrases(encoder: str, texts: Iterable[str]) -> TextVectors:
    """Encode phrases into vectors, (n, width), from the cache where possible.

    `encoder` is a name in the manifest, or a path.

    Raises:
        UnknownName, MissingWeights: see `weights_path`.
        MissingPackage: `clip` or PyTorch is not installed.
        WeightsError: the file is not a text encoder.
    """
    phrases = list(texts)
    folder = vector_cache_dir() / _encoder_key(encoder)
    vectors = {text: _read_vector(_vector_path(folder, text)) for text in phrases}
    missing = [text for text, vector in vectors.items() if vector is None]
    for batch in chunks(missing, _BATCH_SIZE):
        for text, vector in zip(batch, _run_encoder(weights_path(encoder), batch), strict=True):
            vectors[text] = vector
            _write_vector(_vector_path(folder, text), vector)
    return np.stack([np.asarray(vectors[text], np.float32) for text in phrases])


def vector_cache_dir() -> Path:
    """Return the cache folder of encoded phrases."""
    return files.cache_dir("phrases")


def _encoder_key(encoder: str) -> str:
    model = manifest.all_models().get(encoder)
    manifest_sha256 = "" if model is None else model.files[0].sha256
    return (manifest_sha256 or files.sha256(weights_path(encoder)))[:16]


def _vector_path(folder: Path, text: str) -> Path:
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"


def _read_vector(path: Path) -> TextVectors | None:
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    valid = vector.ndim == 1 and vector.dtype == np.float32 and np.isfinite(vector).all()
    return vector if valid else None


def _write_vector(path: Path, vector: TextVectors) -> None:
    """Write a vector to the cache; if that fails, the phrase is encoded again the next time."""
    with (
        contextlib.suppress(OutputError),
        files.atomic_file(path, parents=True, concurrent=True) as draft,
    ):
        np.save(draft, vector)


def _run_encoder(path: Path, texts: list[str]) -> TextVectors:
    torch = needs("torch", extra="clip")
    tokens = _import_clip().tokenize(texts, truncate=True)
    cure = "give `encoder` the file of CLIP or MobileCLIP"
    with (
        one_line_errors(path, "is not a text encoder that can be used", cure),
        torch.inference_mode(),
    ):
        vectors = _load_encoder(path)(tokens).float()
    return np.asarray(vectors.cpu().numpy(), np.float32)


@lru_cache(maxsize=1)
def _load_encoder(path: Path) -> Any:
    """Load the text encoder on the CPU: MobileCLIP as TorchScript, or else CLIP."""
    if path.suffix == ".ts":
        return needs("torch").jit.load(path, map_location="cpu")
    model, _ = _import_clip().load(str(path), device="cpu")

    def encode(tokens: Any) -> Any:
        vectors = model.eval().encode_text(tokens).float()
        return vectors / vectors.norm(p=2, dim=-1, keepdim=True)

    return encode


def _import_clip() -> Any:
    """Import OpenAI's `clip`; another package of that name manages the clipboard."""
    clip = needs("clip")
    if not hasattr(clip, "tokenize"):
        raise MissingPackage(
            "the installed package `clip` is another one, for the clipboard: "
            "pip uninstall clip, then pip install --force-reinstall 'annotate-local[clip]'"
        )
    return clip


class _OpenVocabularyDetector(PhraseDetector):
    """What YOLO-World and YOLOE make of the options that both have."""

    min_score: float
    nms_iou: float
    input_size: int | None
    tile: int
    overlap: float
    batch_size: int
    device: str | None
    half: bool

    @cached_property
    def _tiling(self) -> Tiling:
        return Tiling(self.tile, self.overlap, self.nms_iou, self.batch_size)

    @cached_property
    def _inference(self) -> InferenceOptions:
        return InferenceOptions(
            self.min_score, self.nms_iou, self.input_size, self.device, self.half
        )


@dataclass(frozen=True)
class YoloWorldDetector(_OpenVocabularyDetector):
    """Find boxes of the vocabulary's phrases (`yolo-world = "red square"`, or a list).

    `model` and the text `encoder` are names in the manifest, or paths. Scores are low for objects
    that the model was not trained on, and so is `min_score`. Of two boxes with an IoU over
    `nms_iou`, of whatever class, the one with the lower score is dropped. With `background`, a box
    that fits an empty phrase better than each of the phrases is dropped. `input_size`, `tile`,
    `overlap`, `batch_size` and `half` are those of the detector `yolo`.
    """

    vocabulary: Vocabulary
    model: str = "yolo-world-s"
    encoder: str = "clip-vit-b-32"
    min_score: float = 0.02
    nms_iou: float = 0.5
    background: bool = True
    input_size: int | None = None
    tile: int = 0
    overlap: float = 0.2
    batch_size: int = 8
    device: str | None = None
    half: bool = True

    def __post_init__(self) -> None:
        _ = self._phrases, self._tiling, self._inference  # raises for wrong options at once

    def _predict(self, images: list[Picture]) -> list[BoxTable]:
        classes = list(range(len(self._phrases)))  # without the background
        return ultralytics.predict(self._network, images, self._inference, classes=classes)

    @cached_property
    def _phrases(self) -> tuple[Phrase, ...]:
        return detector_phrases(self.vocabulary, "yolo-world")

    @cached_property
    def _network(self) -> Any:
        path = ultralytics.find_weights(self.model, ["yolo-world"])
        model = ultralytics.load_model("YOLOWorld", path)
        texts = [phrase.text for phrase in self._phrases] + [""] * self.background
        if not hasattr(model.model, "txt_feats"):
            raise AnnotateError(
                f"{path} is not a YOLO-World network: run it with the detector yolo"
            )
        # As the package's `set_classes`, but with cached vectors, which need no encoder.
        vectors = encode_phrases(self.encoder, texts)
        model.model.txt_feats = needs("torch").from_numpy(vectors)[None]
        model.model.model[-1].nc = len(texts)
        model.model.names = dict(enumerate(texts))
        return model


TEXT_ENCODERS = {
    "mobileclip:blt": "mobileclip-blt",
    "mobileclip2:b": "mobileclip2-b",
    "clip:ViT-B/32": "clip-vit-b-32",
}


@dataclass(frozen=True)
class YoloeDetector(_OpenVocabularyDetector):
    """Find boxes of phrases (`yoloe = "red square"`, or a list), or of objects like an example.

    The example is `reference`, PICTURE:X1,Y1,X2,Y2. It shows the vocabulary's only class, or the
    only class with a `yoloe` entry. `model` is a name in the manifest or a path, and so is the text
    `encoder`: None is the one that the model was trained with. `min_score`, `nms_iou`,
    `input_size`, `tile`, `overlap`, `batch_size` and `half` are those of the detector `yolo-world`.
    """

    vocabulary: Vocabulary
    model: str = "yoloe-11s-seg"
    encoder: str | None = None
    reference: str | None = None
    min_score: float = 0.02
    nms_iou: float = 0.5
    input_size: int | None = None
    tile: int = 0
    overlap: float = 0.2
    batch_size: int = 8
    device: str | None = None
    half: bool = True
    reference_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        _ = self._phrases, self._tiling, self._inference
        example = self._example
        object.__setattr__(self, "reference_sha256", example.sha256 if example else "")

    def _predict(self, images: list[Picture]) -> list[BoxTable]:
        return ultralytics.predict(self._network, images, self._inference)

    @cached_property
    def _example(self) -> Example | None:
        return None if self.reference is None else Example.parse(self.reference)

    @cached_property
    def _phrases(self) -> tuple[Phrase, ...]:
        if self.reference is None:
            return detector_phrases(self.vocabulary, "yoloe")
        labels = self.vocabulary.labels
        class_ids = list(self.vocabulary.phrases("yoloe")) or list(range(len(labels)))
        if len(class_ids) != 1:
            raise AnnotateError(
                f"reference shows one class, and vocabulary {self.vocabulary.name} has "
                f"{len(class_ids)}: give a yoloe phrase only to the class that it shows"
            )
        return (Phrase(self.reference, class_ids[0]),)

    @cached_property
    def _network(self) -> Any:
        path = ultralytics.find_weights(self.model, ["yoloe"])
        model = ultralytics.load_model("YOLOE", path)
        head = model.model.model[-1] if hasattr(model.model, "get_visual_pe") else None
        if head is None or hasattr(head, "lrpc"):
            raise AnnotateError(f"{path} is not a YOLOE that takes prompts: give one that does")
        with weights_errors(path):
            if self._example is not None:
                self._set_example(model, self._example)
            else:
                self._set_phrases(model)
        return model

    def _set_phrases(self, model: Any) -> None:
        """Set the phrases of the model, as `set_classes` of the package does."""
        torch = needs("torch")
        texts = [phrase.text for phrase in self._phrases]
        text_model = getattr(model.model, "text_model", "mobileclip:blt")
        vectors = encode_phrases(self.encoder or TEXT_ENCODERS[text_model], texts)
        with torch.no_grad():
            prompts = model.model.model[-1].get_tpe(torch.from_numpy(vectors)[None])
        model.set_classes(texts, prompts)

    def _set_example(self, model: Any, example: Example) -> None:
        """Set the example of the model, as a visual prompt."""
        bgr = np.ascontiguousarray(example.picture[..., ::-1])
        prompts = {"bboxes": np.array([example.box]), "cls": np.array([0])}
        device, _ = ultralytics.resolve_device(self.device)
        size = {} if self.input_size is None else {"imgsz": self.input_size}
        model.predict(
            bgr, refer_image=bgr, visual_prompts=prompts, device=device, verbose=False, **size
        )
