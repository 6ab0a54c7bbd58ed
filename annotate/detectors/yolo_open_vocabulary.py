"""Detect by phrases with YOLO-World v2 and YOLOE, or by an example box with YOLOE.

Phrases are encoded by CLIP for YOLO-World and by MobileCLIP for YOLOE. A phrase's vector is cached
on this machine under the SHA-256 of the encoder and of the phrase: what was encoded before
needs neither weights nor packages. An example is an image and the box in it that shows the object.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
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
from annotate.detectors.ultralytics import InferenceOptions, one_line_errors
from annotate.errors import AnnotateError, MissingPackage, PromptError, WeightsError, needs
from annotate.items.records import Box, Picture, Vocabulary
from annotate.video import reader
from annotate.vocabulary import Phrase, detector_phrases
from annotate.weights import manifest
from annotate.weights.store import weights_path


@dataclass(frozen=True)
class Example:
    """A picture, and the box, xyxy in its pixels, of what it shows."""

    picture: Picture = field(repr=False, compare=False)
    box: Box

    @property
    def sha256(self) -> str:
        """The picture's, of its size and pixels: what it shows, wherever it lies."""
        content = hashlib.sha256(repr(self.picture.shape).encode())
        content.update(self.picture.tobytes())
        return content.hexdigest()

    @staticmethod
    def parse(text: str) -> Example:
        """`PICTURE:X1,Y1,X2,Y2`, the picture being an image, or a clip by its first picture.

        Raises:
            PromptError: not so written, or the box is not inside the picture.
            VideoError: no such picture, or none that can be read.
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
                "the left top corner first"
            )
        return Example(picture, (x1, y1, x2, y2))


TextVectors = npt.NDArray[np.float32]  # (n, width)
_BATCH_SIZE = 64  # phrases
_LOAD_ERRORS = (RuntimeError, OSError, pickle.UnpicklingError, LookupError, TypeError, ValueError)


def encode_phrases(encoder: str, texts: Iterable[str]) -> TextVectors:
    """A vector for each phrase, in order; `encoder` is a name in the manifest, or a path.

    Raises:
        UnknownName, MissingWeights: see `weights.where`.
        MissingPackage: `clip` or PyTorch is not installed.
        WeightsError: the file is no text encoder.
    """
    wanted = list(texts)
    folder = vector_cache_dir() / _encoder_key(encoder)
    known = {text: _read_vector(_vector_path(folder, text)) for text in wanted}
    missing = [text for text, vector in known.items() if vector is None]
    for start in range(0, len(missing), _BATCH_SIZE):
        some = missing[start : start + _BATCH_SIZE]
        for text, vector in zip(some, _run_encoder(weights_path(encoder), some), strict=True):
            known[text] = vector
            _write_vector(_vector_path(folder, text), vector)
    return np.stack([np.asarray(known[text], np.float32) for text in wanted])


def vector_cache_dir() -> Path:
    """The folder of what was encoded on this machine."""
    return files.cache_dir("phrases")


def _encoder_key(encoder: str) -> str:
    model = manifest.all_models().get(encoder)
    listed = "" if model is None else model.files[0].sha256
    return (listed or files.sha256(weights_path(encoder)))[:16]


def _vector_path(folder: Path, text: str) -> Path:
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"


def _read_vector(path: Path) -> TextVectors | None:
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    good = vector.ndim == 1 and vector.dtype == np.float32 and np.isfinite(vector).all()
    return vector if good else None


def _write_vector(path: Path, vector: TextVectors) -> None:
    """Keep a vector; where nothing can be written it is made again the next time."""
    part = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.save(file, vector)
        part.replace(path)


def _run_encoder(path: Path, texts: list[str]) -> TextVectors:
    torch = needs("torch")
    tokens = _import_clip().tokenize(texts, truncate=True)
    try:
        with torch.inference_mode():
            vectors = _load_encoder(path)(tokens).float()
    except _LOAD_ERRORS as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} is no text encoder that can be used: {reason}") from error
    return np.asarray(vectors.cpu().numpy(), np.float32)


@lru_cache(maxsize=1)
def _load_encoder(path: Path) -> Any:
    """What makes vectors of tokens: MobileCLIP as TorchScript, else CLIP; on the CPU."""
    if path.suffix == ".ts":
        return needs("torch").jit.load(path, map_location="cpu")
    model, _ = _import_clip().load(str(path), device="cpu")

    def unit(tokens: Any) -> Any:
        vectors = model.eval().encode_text(tokens).float()
        return vectors / vectors.norm(p=2, dim=-1, keepdim=True)

    return unit


def _import_clip() -> Any:
    """OpenAI's package of that name; there is another, which manages the clipboard."""
    found = needs("clip")
    if not hasattr(found, "tokenize"):
        raise MissingPackage(
            "the package `clip` that is installed is another one, for the clipboard: "
            "pip uninstall clip, then pip install --force-reinstall 'annotate-local[clip]'"
        )
    return found


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
        _ = self._phrases, self._tiling, self._inference  # what cannot be is said at once

    def _predict(self, images: list[Picture]) -> list[BoxTable]:
        shown = list(range(len(self._phrases)))  # without the background
        return ultralytics.predict(self._network, images, self._inference, classes=shown)

    @cached_property
    def _phrases(self) -> tuple[Phrase, ...]:
        return detector_phrases(self.vocabulary, "yolo-world")

    @cached_property
    def _tiling(self) -> Tiling:
        return Tiling(self.tile, self.overlap, self.nms_iou, self.batch_size)

    @cached_property
    def _inference(self) -> InferenceOptions:
        return InferenceOptions(
            self.min_score, self.nms_iou, self.input_size, self.device, self.half
        )

    @cached_property
    def _network(self) -> Any:
        path = ultralytics.find_weights(self.model, ["yolo-world"])
        model = ultralytics.load_model("YOLOWorld", path)
        texts = [phrase.text for phrase in self._phrases] + [""] * self.background
        if not hasattr(model.model, "txt_feats"):
            raise AnnotateError(f"{path} is no YOLO-World: what is no such network is run by yolo")
        # What its `set_classes` does, with vectors that need no encoder to be loaded.
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
        told = list(self.vocabulary.phrases("yoloe")) or list(range(len(self.vocabulary.labels)))
        if len(told) != 1:
            raise AnnotateError(
                f"reference shows one class, and vocabulary {self.vocabulary.name} has "
                f"{len(told)}: let only the class that it shows tell yoloe a phrase"
            )
        return (Phrase(self.reference, told[0]),)

    @cached_property
    def _tiling(self) -> Tiling:
        return Tiling(self.tile, self.overlap, self.nms_iou, self.batch_size)

    @cached_property
    def _inference(self) -> InferenceOptions:
        return InferenceOptions(
            self.min_score, self.nms_iou, self.input_size, self.device, self.half
        )

    @cached_property
    def _network(self) -> Any:
        path = ultralytics.find_weights(self.model, ["yoloe"])
        model = ultralytics.load_model("YOLOE", path)
        head = model.model.model[-1] if hasattr(model.model, "get_visual_pe") else None
        if head is None or hasattr(head, "lrpc"):
            raise AnnotateError(f"{path} is no YOLOE that can be told anything: give one that can")
        with one_line_errors(path):
            if self._example is not None:
                self._set_example(model, self._example)
            else:
                self._set_phrases(model)
        return model

    def _set_phrases(self, model: Any) -> None:
        """Give it the phrases, as its `set_classes` does."""
        torch = needs("torch")
        texts = [phrase.text for phrase in self._phrases]
        asked = getattr(model.model, "text_model", "mobileclip:blt")
        vectors = encode_phrases(self.encoder or TEXT_ENCODERS[asked], texts)
        with torch.no_grad():
            told = model.model.model[-1].get_tpe(torch.from_numpy(vectors)[None])
        model.set_classes(texts, told)

    def _set_example(self, model: Any, example: Example) -> None:
        """Give it the example, as a prompt of its own kind."""
        bgr = np.ascontiguousarray(example.picture[..., ::-1])
        prompts = {"bboxes": np.array([example.box]), "cls": np.array([0])}
        place, _ = ultralytics.resolve_device(self.device)
        size = {} if self.input_size is None else {"imgsz": self.input_size}
        model.predict(
            bgr, refer_image=bgr, visual_prompts=prompts, device=place, verbose=False, **size
        )
