"""Project frame embeddings to two dimensions: PCA, then PaCMAP, UMAP or an autoencoder.

The autoencoder keeps frames near that are near in appearance and in time. Its layers shrink
geometrically to a bottleneck of two tanh units, with ELU and batch normalisation between. The
bottleneck is regularised to mean 0 and standard deviation 0.3, and random triplets to the ratios of
their distances (log-ratio loss: Kim et al., "Deep Metric Learning Beyond Binary Supervision",
2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.embeddings import Vectors
from annotate.errors import UnknownName, needs

_ENCODER_LAYERS = 4  # layers on either side of the bottleneck
_CODE_STD = 0.3  # of the bottleneck
_TRAINING_STEPS = 2000
_BATCH_SIZE = 512
_MAX_TIME_GAP_SECONDS = 30.0  # a larger gap counts as this one
_TRIPLET_WEIGHT, _CODE_WEIGHT = 1.0, 1.0  # of the losses; the reconstruction loss weighs 1
VectorBatches = Callable[[], Iterable[Vectors]]  # gives all rows in order, in batches, each time
PlanePoints = npt.NDArray[np.float64]  # (n, 2)
PROJECTION_METHODS = ("pacmap", "umap", "autoencoder", "pca")
_METHOD_PACKAGES = {"pacmap": "pacmap", "umap": "umap", "autoencoder": "torch"}
MAX_COMPONENTS = 256
_UMAP_NEIGHBOURS = 15
_MIN_FRAMES = 12  # fewer frames have no useful neighbourhoods: PCA is used


def project_autoencoder(
    vectors: Vectors,
    clip_index: npt.NDArray[np.integer],
    seconds: npt.NDArray[np.floating],
    seed: int,
) -> npt.NDArray[np.float64]:
    """Project embeddings by an autoencoder, (n, 2) in -1..1; see `project`."""
    torch = needs("torch")
    scale = float(np.sqrt(np.square(vectors, dtype=np.float64).mean())) or 1.0
    data = torch.from_numpy((vectors / scale).astype(np.float32))
    clip = torch.from_numpy(clip_index.astype(np.int64))
    time = torch.from_numpy(seconds.astype(np.float32))
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)  # more threads are slower here, and change the result
        encoder, decoder = _build_networks(vectors.shape[1])
        _train(encoder, decoder, data, clip, time)
        torch.set_num_threads(threads)
    encoder.eval()
    with torch.inference_mode():
        parts = [encoder(part).numpy() for part in data.split(8192)]
    return np.asarray(np.concatenate(parts), np.float64)


def layer_widths(width: int) -> list[int]:
    """Return the widths of the layers, geometric from `width` to 2.

    Examples:
        >>> layer_widths(256)
        [256, 76, 23, 7, 2]
    """
    return [
        round(width * (2 / width) ** (step / _ENCODER_LAYERS))
        for step in range(_ENCODER_LAYERS + 1)
    ]


def _build_networks(width: int) -> tuple[Any, Any]:
    nn = needs("torch").nn
    down = layer_widths(width)

    def stack(widths: list[int], last: Any) -> Any:
        layers: list[Any] = []
        for number, (wide, narrow) in enumerate(pairwise(widths), start=1):
            is_last = number == len(widths) - 1
            layers.append(nn.Linear(wide, narrow, bias=is_last))
            layers += [] if is_last else [nn.BatchNorm1d(narrow), nn.ELU()]
        return nn.Sequential(*layers, *last)

    return stack(down, [nn.Tanh()]), stack(down[::-1], [])


def _train(encoder: Any, decoder: Any, data: Any, clip: Any, time: Any) -> None:
    torch = needs("torch")
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(weights, lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _TRAINING_STEPS)
    batch = min(_BATCH_SIZE, len(data))
    for _ in range(_TRAINING_STEPS):
        rows = torch.randint(len(data), (batch,)) if batch < len(data) else torch.arange(batch)
        codes = encoder(data[rows])
        reconstruction = torch.nn.functional.mse_loss(decoder(codes), data[rows])
        regularisation = (codes.mean(0) ** 2).sum() + ((codes.std(0) - _CODE_STD) ** 2).sum()
        triplets = _triplet_loss(codes, data[rows], clip[rows], time[rows])
        loss = reconstruction + _CODE_WEIGHT * regularisation + _TRIPLET_WEIGHT * triplets
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()


def _triplet_loss(codes: Any, data: Any, clip: Any, time: Any) -> Any:
    """Compute the log-ratio loss of random triplets: code distances against target distances."""
    torch = needs("torch")
    first, second = torch.randperm(len(codes)), torch.randperm(len(codes))
    anchor = torch.arange(len(codes))
    distinct = (first != anchor) & (second != anchor) & (first != second)

    def ratio(a: Any, b: Any) -> Any:
        return torch.log((a + 1e-3) / (b + 1e-3))[distinct]

    targets = [_target_distances(data, clip, time, anchor, other) for other in (first, second)]
    distances = [(codes - codes[other]).norm(dim=1) for other in (first, second)]
    return (ratio(*distances) - ratio(*targets)).square().mean()


def _target_distances(data: Any, clip: Any, time: Any, anchor: Any, other: Any) -> Any:
    """Average the distances in appearance and in time, each scaled to about 1 between clips."""
    torch = needs("torch")
    appearance = (data[anchor] - data[other]).norm(dim=1)
    gap = ((time[anchor] - time[other]).abs() / _MAX_TIME_GAP_SECONDS).clamp(max=1)
    gap = torch.where(clip[anchor] == clip[other], gap, torch.ones_like(gap))
    return (appearance / appearance.mean().clamp(min=1e-6) + gap) / 2


def principal_components(
    vector_batches: VectorBatches, max_components: int = MAX_COMPONENTS
) -> Vectors:
    """Compute the principal components, (n, k), in two passes; k is at most `max_components`."""
    count, total, squares = 0, np.zeros(0), np.zeros((0, 0))
    for rows in vector_batches():
        rows64 = rows.astype(np.float64)
        if not count:
            total, squares = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        count, total = count + len(rows), total + rows64.sum(0)
        squares += rows64.T @ rows64
    mean = total / count
    _, axes = np.linalg.eigh(squares / count - np.outer(mean, mean))
    axes = axes[:, ::-1][:, : min(max_components, count)]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return np.concatenate([((rows - mean) @ axes).astype(np.float32) for rows in vector_batches()])


def choose_method(method: str | None) -> str:
    """Check a method of projection; None chooses PaCMAP if it is installed, else PCA.

    Raises:
        UnknownName: there is no such method.
        MissingPackage: it is not installed.
    """
    from importlib.util import find_spec

    if method is None:
        return "pacmap" if find_spec("pacmap") else "pca"
    if method not in PROJECTION_METHODS:
        raise UnknownName("method", method, PROJECTION_METHODS)
    if method != "pca":
        needs(_METHOD_PACKAGES[method])
    return method


def project(
    vectors: Vectors,
    method: str,
    clip_index: npt.NDArray[np.integer],
    seconds: npt.NDArray[np.floating],
    seed: int = 0,
) -> PlanePoints:
    """Project principal components to a plane, (n, 2), where similar frames are near.

    `clip_index` and `seconds`, (n,), are the clip and the time of each row, which only the
    autoencoder uses. The same seed gives the same result.
    """
    if len(vectors) < _MIN_FRAMES or method == "pca":
        return _project_pca(vectors)
    if method == "autoencoder":
        return project_autoencoder(vectors, clip_index, seconds, seed)
    return _project_umap(vectors, seed) if method == "umap" else _project_pacmap(vectors, seed)


def _project_pca(vectors: Vectors) -> PlanePoints:
    points = np.zeros((len(vectors), 2))
    points[:, : vectors.shape[1]] = vectors[:, :2]
    return points


def _project_pacmap(vectors: Vectors, seed: int) -> PlanePoints:
    import logging
    import warnings

    pacmap = needs("pacmap")
    logging.getLogger("pacmap").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PaCMAP warns that a seed makes it slower
        model = pacmap.PaCMAP(n_components=2, random_state=seed, apply_pca=False)
        return np.asarray(model.fit_transform(vectors, init="pca"), np.float64)


def _project_umap(vectors: Vectors, seed: int) -> PlanePoints:
    """Project by UMAP (McInnes, Healy, Melville, 2018), on one thread, which a seed needs."""
    umap = needs("umap")
    neighbours = min(_UMAP_NEIGHBOURS, len(vectors) - 1)
    model = umap.UMAP(n_components=2, n_neighbors=neighbours, random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(vectors), np.float64)


def spread_points(points: PlanePoints) -> PlanePoints:
    """Rotate points onto their main axes, and spread them over the unit square.

    The result is the mean of the scaled points and of evenly spaced ones: with even spacing alone,
    clusters could not be seen.
    """
    if len(points) < 2:
        return np.full((len(points), 2), 0.5)
    centred = points - points.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    rotated = centred @ (axes * np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]).T
    low, high = rotated.min(0), rotated.max(0)
    scaled = (rotated - low) / np.where(high > low, high - low, 1)
    return np.asarray((scaled + _even_spacing(rotated)) / 2, np.float64)


def _even_spacing(points: PlanePoints) -> PlanePoints:
    """Space points evenly over the unit square, in the same arrangement.

    The square is halved again and again, across its longer side, and its points with it.
    """
    spaced = np.empty((len(points), 2))
    pending = [(np.arange(len(points)), np.zeros(2), np.ones(2))]
    while pending:
        rows, corner, size = pending.pop()
        if len(rows) == 1:
            spaced[rows[0]] = corner + size / 2
            continue
        axis = int(size[1] > size[0])
        rows = rows[points[rows, axis].argsort(kind="stable")]
        half = len(rows) // 2
        first, second = size.copy(), size.copy()
        first[axis] *= half / len(rows)
        second[axis] -= first[axis]
        second_corner = corner.copy()
        second_corner[axis] += first[axis]
        pending += [(rows[:half], corner, first), (rows[half:], second_corner, second)]
    return spaced
