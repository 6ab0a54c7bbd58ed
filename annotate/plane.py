"""Many numbers a picture -> two: principal components, then PaCMAP, UMAP or an autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from annotate.embed import Vectors
from annotate.errors import UnknownName, needs

Chunks = Callable[[], Iterable[Vectors]]  # all rows in order, some at a time, as often as wanted
Plane = npt.NDArray[np.float64]  # (n, 2)

METHODS = ("pacmap", "umap", "autoencoder", "pca")
_PACKAGES = {"pacmap": "pacmap", "umap": "umap", "autoencoder": "torch"}
COMPONENTS = 256
_NEAR = 15  # neighbours that UMAP keeps near
_FEW = 12  # pictures: with fewer there are no neighbourhoods to speak of


def components(chunks: Chunks, most: int = COMPONENTS) -> Vectors:
    """(n, k) principal components, k at most `most`; two passes, only these are held."""
    count, total, squares = 0, np.zeros(0), np.zeros((0, 0))
    for rows in chunks():
        rows64 = rows.astype(np.float64)
        if not count:
            total, squares = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        count, total = count + len(rows), total + rows64.sum(0)
        squares += rows64.T @ rows64
    middle = total / count
    _, axes = np.linalg.eigh(squares / count - np.outer(middle, middle))
    axes = axes[:, ::-1][:, : min(most, count)]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return np.concatenate([((rows - middle) @ axes).astype(np.float32) for rows in chunks()])


def choose(method: str | None) -> str:
    """The method asked for, or the best that is installed.

    Raises:
        UnknownName: there is no such method.
        MissingPackage: it is not installed.
    """
    from importlib.util import find_spec

    if method is None:
        return "pacmap" if find_spec("pacmap") else "pca"
    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    if method != "pca":
        needs(_PACKAGES[method])
    return method


def flat(
    vectors: Vectors,
    method: str,
    clips: npt.NDArray[np.integer],
    seconds: npt.NDArray[np.floating],
    seed: int = 0,
) -> Plane:
    """(n, 2) of components; what looks alike is near. The autoencoder also keeps time together.

    `clips` numbers the clip of each row, `seconds` says when in it. The same seed, the same map.
    """
    if len(vectors) < _FEW or method == "pca":
        return _first_two(vectors)
    if method == "autoencoder":
        from annotate import autoencoder

        return autoencoder.flat(vectors, clips, seconds, seed)
    return _umap(vectors, seed) if method == "umap" else _pacmap(vectors, seed)


def _first_two(vectors: Vectors) -> Plane:
    two = np.zeros((len(vectors), 2))
    two[:, : vectors.shape[1]] = vectors[:, :2]
    return two


def _pacmap(vectors: Vectors, seed: int) -> Plane:
    import logging
    import warnings

    pacmap = needs("pacmap")
    logging.getLogger("pacmap").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed makes it slower
        model = pacmap.PaCMAP(n_components=2, random_state=seed, apply_pca=False)
        return np.asarray(model.fit_transform(vectors, init="pca"), np.float64)


def _umap(vectors: Vectors, seed: int) -> Plane:
    """McInnes, Healy, Melville, "UMAP", 2018; on one thread, as a seed wants it."""
    umap = needs("umap")
    near = min(_NEAR, len(vectors) - 1)
    model = umap.UMAP(n_components=2, n_neighbors=near, random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(vectors), np.float64)


def stretched(plane: Plane) -> Plane:
    """The plane turned onto its main axes and stretched to fill the unit square.

    Half way to an even filling, in which every frame has as much room as any other; all the way,
    clusters would no longer be told apart.
    """
    if len(plane) < 2:
        return np.full((len(plane), 2), 0.5)
    centred = plane - plane.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    turned = centred @ (axes * np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]).T
    low, high = turned.min(0), turned.max(0)
    scaled = (turned - low) / np.where(high > low, high - low, 1)
    return np.asarray((scaled + _even(turned)) / 2, np.float64)


def _even(plane: Plane) -> Plane:
    """Points in the same arrangement, evenly over the unit square.

    The square is halved again and again, across its longer side, and its points with it.
    """
    places = np.empty((len(plane), 2))
    waiting = [(np.arange(len(plane)), np.zeros(2), np.ones(2))]
    while waiting:
        rows, corner, size = waiting.pop()
        if len(rows) == 1:
            places[rows[0]] = corner + size / 2
            continue
        axis = int(size[1] > size[0])
        rows = rows[plane[rows, axis].argsort(kind="stable")]
        half = len(rows) // 2
        first, second = size.copy(), size.copy()
        first[axis] *= half / len(rows)
        second[axis] -= first[axis]
        moved = corner.copy()
        moved[axis] += first[axis]
        waiting += [(rows[:half], corner, first), (rows[half:], moved, second)]
    return places
