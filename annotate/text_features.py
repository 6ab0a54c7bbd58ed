"""Phrases as vectors, by the text encoders of YOLO-World and YOLOE; each is made once.

CLIP reads phrases for the one, MobileCLIP for the other. A vector is kept on this machine under the
encoder's sha256 and the phrase's: what was asked before needs neither weights nor packages.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate import download, manifest, weights
from annotate.errors import MissingPackage, WeightsError, needs

Vectors = npt.NDArray[np.float32]  # (n, width)
_BATCH = 64  # phrases
_UNUSABLE = (RuntimeError, OSError, pickle.UnpicklingError, LookupError, TypeError, ValueError)


def encode(encoder: str, texts: Iterable[str]) -> Vectors:
    """A vector for each phrase, in order; `encoder` is a name in the manifest, or a path.

    Raises:
        UnknownName, MissingWeights: see `weights.where`.
        MissingPackage: `clip` or PyTorch is not installed.
        WeightsError: the file is no text encoder.
    """
    wanted = list(texts)
    folder = kept() / _key(encoder)
    known = {text: _read(_place(folder, text)) for text in wanted}
    missing = [text for text, vector in known.items() if vector is None]
    for start in range(0, len(missing), _BATCH):
        some = missing[start : start + _BATCH]
        for text, vector in zip(some, _run(weights.where(encoder), some), strict=True):
            known[text] = vector
            _write(_place(folder, text), vector)
    return np.stack([np.asarray(known[text], np.float32) for text in wanted])


def kept() -> Path:
    """The folder of what was encoded on this machine."""
    return manifest.folders()[-1].parent / "phrases"


def _key(encoder: str) -> str:
    model = manifest.manifest().get(encoder)
    listed = "" if model is None else model.files[0].sha256
    return (listed or download.sha256(weights.where(encoder)))[:16]


def _place(folder: Path, text: str) -> Path:
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"


def _read(path: Path) -> Vectors | None:
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    good = vector.ndim == 1 and vector.dtype == np.float32 and np.isfinite(vector).all()
    return vector if good else None


def _write(path: Path, vector: Vectors) -> None:
    """Keep a vector; where nothing can be written it is made again the next time."""
    part = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.save(file, vector)
        part.replace(path)


def _run(path: Path, texts: list[str]) -> Vectors:
    torch = needs("torch")
    tokens = _clip().tokenize(texts, truncate=True)
    try:
        with torch.inference_mode():
            vectors = _load(path)(tokens).float()
    except _UNUSABLE as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} is no text encoder that can be used: {reason}") from error
    return np.asarray(vectors.cpu().numpy(), np.float32)


@lru_cache(maxsize=1)
def _load(path: Path) -> Any:
    """What makes vectors of tokens: MobileCLIP as TorchScript, else CLIP; on the CPU."""
    if path.suffix == ".ts":
        return needs("torch").jit.load(path, map_location="cpu")
    model, _ = _clip().load(str(path), device="cpu")

    def unit(tokens: Any) -> Any:
        vectors = model.eval().encode_text(tokens).float()
        return vectors / vectors.norm(p=2, dim=-1, keepdim=True)

    return unit


def _clip() -> Any:
    """OpenAI's package of that name; there is another, which manages the clipboard."""
    found = needs("clip")
    if not hasattr(found, "tokenize"):
        raise MissingPackage(
            "the package `clip` that is installed is another one, for the clipboard: "
            "pip uninstall clip, then pip install --force-reinstall 'annotate-local[clip]'"
        )
    return found
