"""Frames as vectors, by a pretrained image network; each is made once and kept on this machine.

The default is the network that ships: EfficientNet-Lite0 down to stride 16, averaged over the
picture. On the gameplay show it tells shots apart as well as the whole network does, at a fifth of
the time (`benchmarks/map.py`). Others go by a name in the manifest, or a path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from annotate import answer_cache, features
from annotate.records import Frame, Picture

Vectors = npt.NDArray[np.float32]  # (n, width), rows of length 1

DEFAULT = "efficientnet-lite0-s16"
_WIDE = 1.5  # pictures wider than so many heights are seen as two halves
_SIDE = 192  # pixels that the shipped network sees of each half
_BATCH = 16  # frames looked at together


class Embedder(Protocol):
    """An image network: `name` also says which weights, so that vectors kept under it fit it."""

    @property
    def name(self) -> str:
        """What its vectors are kept under."""

    @property
    def width(self) -> int:
        """How many numbers it gives of a picture."""

    def look(self, pictures: Sequence[Picture]) -> Vectors:
        """(n, width) of pictures of any sizes; rows need no length."""


class Shipped:
    """The shipped network, the channels of its coarsest map averaged: 112 numbers."""

    name, width = f"{DEFAULT}-mean-{_SIDE}", 112

    def look(self, pictures: Sequence[Picture]) -> Vectors:
        """One picture at a time, on one thread."""
        return np.stack([self.map(p, (_SIDE, _SIDE)).mean((0, 1)) for p in pictures])

    @staticmethod
    def map(picture: Picture, size_wh: tuple[int, int]) -> Vectors:
        """(h / 16, w / 16, 112) of the picture made `size_wh`, multiples of 16."""
        resized = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA)
        return features.coarse(np.ascontiguousarray(resized, np.uint8))


def load(name: str = DEFAULT, device: str | None = None) -> Embedder:
    """The image network of that name; see `networks.load` for those that do not ship.

    Raises:
        UnknownName, MissingWeights, MissingPackage, WeightsError: see `annotate.errors`.
    """
    if name == DEFAULT:
        return Shipped()
    from annotate import networks

    return networks.load(name, device)


def halves(picture: Picture) -> tuple[Picture, Picture]:
    """The left and the right square of a wide picture; the whole, twice, of any other.

    Squares of a picture wider than two heights would not meet: then they are halves.
    """
    height, width = picture.shape[:2]
    if width < _WIDE * height:
        return picture, picture
    side = max(height, -(-width // 2))
    return picture[:, :side], picture[:, width - side :]


def embed(pictures: Sequence[Picture], embedder: Embedder) -> Vectors:
    """(n, 2 x width): what the network says of the left half, then of the right; unit rows."""
    pairs = [halves(picture) for picture in pictures]
    views = [half for pair in pairs for half in pair[: 1 if pair[0] is pair[1] else 2]]
    seen = iter(unit(embedder.look(views))) if views else iter(())
    rows = []
    for left, right in pairs:
        first = next(seen)
        rows.append(np.concatenate([first, first if left is right else next(seen)]))
    return unit(np.array(rows, np.float32).reshape(-1, 2 * embedder.width))


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Rows made of length 1; rows of nothing stay nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


class Shelf:
    """The vectors of one clip, kept in a file that has a row for every frame.

    A row is float16; one that is not of length 1 has not been made, or was cut off. The file is
    sparse: rows never made take no room. A clip without a fingerprint, and one where nothing can be
    written, is kept in memory.
    """

    def __init__(self, embedder: Embedder, fingerprint: str, count: int) -> None:
        self.embedder = embedder
        shape = (count, 2 * embedder.width)
        folder = answer_cache.home() / "embeddings" / embedder.name
        place = folder / f"{fingerprint[:32]}.f16"
        self._rows = _mapped(place, shape) if fingerprint else np.zeros(shape, np.float16)

    def of(self, frames: Sequence[Frame]) -> Vectors:
        """(n, 2 x width), unit rows; what was looked at before is not looked at again."""
        missing = [frame for frame in frames if not self._known(frame.index)]
        if missing:
            made = embed([frame.image for frame in missing], self.embedder)
            self._rows[[frame.index for frame in missing]] = made.astype(np.float16)
        return self.rows([frame.index for frame in frames])

    def _known(self, index: int) -> bool:
        return abs(float(np.linalg.norm(self._rows[index].astype(np.float32))) - 1) < 0.01

    def rows(self, indices: Sequence[int]) -> Vectors:
        """(n, 2 x width): the vectors of frames that have been looked at."""
        return unit(self._rows[list(indices)].astype(np.float32))

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Vectors]]:
        """Each frame and its vector, (2 x width,); a few frames are held at a time."""
        waiting = iter(frames)
        while held := list(islice(waiting, _BATCH)):
            yield from zip(held, self.of(held), strict=True)


def _mapped(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float16]:
    """The rows in the file, made as long as it must be; in memory where it cannot be written."""
    bytes_ = shape[0] * shape[1] * 2
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() < bytes_:
                file.truncate(bytes_)
        return np.memmap(path, np.float16, "r+", shape=shape)
    return np.zeros(shape, np.float16)
