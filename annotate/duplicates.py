"""Which frames show what a frame that was kept already shows: by structure, hash or network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from annotate import hashes, ssim
from annotate.errors import UnknownName
from annotate.glance import Glance
from annotate.records import Picture

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[Picture]], Vectors]  # pictures -> (n, width), rows of length 1


@dataclass(frozen=True)
class Like:
    """The kept frame that a frame is most like, and how much: 1 is the same."""

    video: str
    frame: int
    similarity: float


class Memory(Protocol):
    """Remembers kept frames."""

    def nearest(self, glance: Glance) -> Like | None:
        """The kept frame most like this one, of those that it is compared with."""

    def keep(self, glance: Glance) -> None:
        """Remember this frame, which `nearest` was asked about last."""


class LastKept:
    """Structural similarity, SSIM, to the frame kept last of the same clip."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._last: tuple[Glance, ssim.Windows] | None = None
        self._now: ssim.Windows | None = None

    def nearest(self, glance: Glance) -> Like | None:
        """The frame kept last; None at the beginning of a clip."""
        self._now = ssim.Windows(glance.grey, glance.ignored)
        if self._last is None or self._last[0].frame.video != glance.frame.video:
            return None
        last, windows = self._last
        alike = ssim.similarity(windows, self._now, self._threshold)
        return Like(last.frame.video, last.frame.index, alike)

    def keep(self, glance: Glance) -> None:
        """Forget the one before."""
        if self._now is not None:
            self._last = (glance, self._now)


class AllKept:
    """Rows of features of all frames kept so far, of any clip."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._rows = np.zeros((0, 0))
        self._names: list[tuple[str, int]] = []
        self._now: npt.NDArray[Any] = np.zeros(0)

    def nearest(self, glance: Glance) -> Like | None:
        """The most alike of all."""
        self._now = self._features.of(glance)
        if not self._names:
            return None
        alike = self._features.alike(self._now, self._rows[: len(self._names)])
        place = int(alike.argmax())
        return Like(*self._names[place], float(alike[place]))

    def keep(self, glance: Glance) -> None:
        """Remember its row; there is room for twice as many whenever there is none."""
        count = len(self._names)
        if count == len(self._rows):
            rows = np.zeros((max(2 * count, 64), *self._now.shape), self._now.dtype)
            if count:
                rows[:count] = self._rows
            self._rows = rows
        self._rows[count] = self._now
        self._names.append((glance.frame.video, glance.frame.index))


class Features(Protocol):
    """What pictures are compared by."""

    def of(self, glance: Glance) -> npt.NDArray[Any]:
        """A row."""

    def alike(self, row: npt.NDArray[Any], rows: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        """(n,) similarities up to 1."""

    def space(self, glance: Glance) -> Vectors:
        """(width,): where the picture lies among others, by Euclidean distance."""


class Hashed:
    """The perceptual hash: the share of its 64 bits that are the same."""

    def of(self, glance: Glance) -> npt.NDArray[Any]:
        """A number."""
        return np.asarray(hashes.phash([glance.small])[0])

    def alike(self, row: npt.NDArray[Any], rows: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        """1 for the same hash, about a half for any other."""
        return np.asarray(1 - hashes.distances(int(row), rows) / hashes.BITS)

    def space(self, glance: Glance) -> Vectors:
        """(64,): the bits."""
        return np.asarray(hashes.bits(self.of(glance).reshape(1))[0])


@dataclass(frozen=True)
class Embedded:
    """The vector that a pretrained image network makes: cosine."""

    embed: Embed

    def of(self, glance: Glance) -> npt.NDArray[Any]:
        """(width,)."""
        return np.asarray(self.embed([glance.frame.image])[0])

    def alike(self, row: npt.NDArray[Any], rows: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        """-1 to 1."""
        return np.asarray(rows @ row)

    def space(self, glance: Glance) -> Vectors:
        """(width,): the vector itself."""
        return np.asarray(self.of(glance), np.float32)


THRESHOLDS = {"ssim": 0.6, "hash": 1 - 10 / hashes.BITS, "embedding": 0.95}


def threshold(method: str, given: float | None = None) -> float:
    """The similarity from which on frames are duplicates.

    Raises:
        UnknownName: there is no such way of telling.
    """
    if method not in THRESHOLDS:
        raise UnknownName("way of telling duplicates", method, THRESHOLDS)
    return THRESHOLDS[method] if given is None else given


def features(method: str) -> Features:
    """What frames are compared by; for the budget the hash stands in for structure."""
    if method != "embedding":
        return Hashed()
    from annotate import embed

    network = embed.load()
    return Embedded(lambda pictures: embed.embed(pictures, network))


def memory(method: str, least: float) -> Memory:
    """An empty one; `least` is the threshold."""
    return LastKept(least) if method == "ssim" else AllKept(features(method))
