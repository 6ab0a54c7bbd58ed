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
_TRAINING_STEPS = 2000  # that a batch is learnt from
_BATCH_SIZE = 512
_MAX_TIME_GAP_SECONDS = 30.0  # frames this far apart in a clip are as far in time as can be
_TRIPLET_WEIGHT, _CODE_WEIGHT = 1.0, 1.0  # what the losses weigh, beside what is lost of the look


def project_autoencoder(
    vectors: Vectors,
    clip_index: npt.NDArray[np.integer],
    seconds: npt.NDArray[np.floating],
    seed: int,
) -> npt.NDArray[np.float64]:
    """(n, 2) in -1..1; the same seed, the same map. See `plane.flat`."""
    torch = needs("torch")
    scale = float(np.sqrt(np.square(vectors, dtype=np.float64).mean())) or 1.0
    data = torch.from_numpy((vectors / scale).astype(np.float32))
    clip, time = (
        torch.from_numpy(clip_index.astype(np.int64)),
        torch.from_numpy(seconds.astype("f4")),
    )
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)  # so small a network only waits for several, and differs by them
        encoder, decoder = _build_networks(vectors.shape[1])
        _train(encoder, decoder, data, clip, time)
        torch.set_num_threads(threads)
    encoder.eval()
    with torch.inference_mode():
        parts = [encoder(part).numpy() for part in data.split(8192)]
    return np.asarray(np.concatenate(parts), np.float64)


def layer_widths(width: int) -> list[int]:
    """The widths of the layers, geometric from `width` to 2.

    >>> sizes(256)
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
            ended = number == len(widths) - 1
            inner = [nn.Linear(wide, narrow, bias=ended)]
            layers += inner if ended else [*inner, nn.BatchNorm1d(narrow), nn.ELU()]
        return nn.Sequential(*layers, *last)

    return stack(down, [nn.Tanh()]), stack(down[::-1], [])


def _train(encoder: Any, decoder: Any, data: Any, clip: Any, time: Any) -> None:
    torch = needs("torch")
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(weights, lr=3e-3)
    slowing = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _TRAINING_STEPS)
    batch = min(_BATCH_SIZE, len(data))
    for _ in range(_TRAINING_STEPS):
        some = torch.randint(len(data), (batch,)) if batch < len(data) else torch.arange(batch)
        codes = encoder(data[some])
        lost = torch.nn.functional.mse_loss(decoder(codes), data[some])
        spread = (codes.mean(0) ** 2).sum() + ((codes.std(0) - _CODE_STD) ** 2).sum()
        triplets = _triplet_loss(codes, data[some], clip[some], time[some])
        loss = lost + _CODE_WEIGHT * spread + _TRIPLET_WEIGHT * triplets
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        slowing.step()


def _triplet_loss(codes: Any, data: Any, clip: Any, time: Any) -> Any:
    """How far random triplets' distances on the map are from the ratios that they should have."""
    torch = needs("torch")
    first, second = torch.randperm(len(codes)), torch.randperm(len(codes))
    here = torch.arange(len(codes))
    real = (first != here) & (second != here) & (first != second)

    def ratio(a: Any, b: Any) -> Any:
        return torch.log((a + 1e-3) / (b + 1e-3))[real]

    wanted = [_target_distances(data, clip, time, here, other) for other in (first, second)]
    found = [(codes - codes[other]).norm(dim=1) for other in (first, second)]
    return (ratio(*found) - ratio(*wanted)).square().mean()


def _target_distances(data: Any, clip: Any, time: Any, here: Any, other: Any) -> Any:
    """How far frames are apart in look and in time: each is about 1 for two of different clips."""
    torch = needs("torch")
    look = (data[here] - data[other]).norm(dim=1)
    later = ((time[here] - time[other]).abs() / _MAX_TIME_GAP_SECONDS).clamp(max=1)
    when = torch.where(clip[here] == clip[other], later, torch.ones_like(later))
    return (look / look.mean().clamp(min=1e-6) + when) / 2


VectorBatches = Callable[
    [], Iterable[Vectors]
]  # all rows in order, some at a time, as often as wanted
PlanePoints = npt.NDArray[np.float64]  # (n, 2)

PROJECTION_METHODS = ("pacmap", "umap", "autoencoder", "pca")
_METHOD_PACKAGES = {"pacmap": "pacmap", "umap": "umap", "autoencoder": "torch"}
MAX_COMPONENTS = 256
_UMAP_NEIGHBOURS = 15  # neighbours that UMAP keeps near
_MIN_FRAMES = 12  # pictures: with fewer there are no neighbourhoods to speak of


def principal_components(
    vector_batches: VectorBatches, max_components: int = MAX_COMPONENTS
) -> Vectors:
    """(n, k) principal components, k at most `most`; two passes, only these are held."""
    count, total, squares = 0, np.zeros(0), np.zeros((0, 0))
    for rows in vector_batches():
        rows64 = rows.astype(np.float64)
        if not count:
            total, squares = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        count, total = count + len(rows), total + rows64.sum(0)
        squares += rows64.T @ rows64
    middle = total / count
    _, axes = np.linalg.eigh(squares / count - np.outer(middle, middle))
    axes = axes[:, ::-1][:, : min(max_components, count)]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return np.concatenate(
        [((rows - middle) @ axes).astype(np.float32) for rows in vector_batches()]
    )


def choose_method(method: str | None) -> str:
    """The method asked for, or the best that is installed.

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
    """(n, 2) of components; what looks alike is near. The autoencoder also keeps time together.

    `clips` numbers the clip of each row, `seconds` says when in it. The same seed, the same map.
    """
    if len(vectors) < _MIN_FRAMES or method == "pca":
        return _project_pca(vectors)
    if method == "autoencoder":
        return project_autoencoder(vectors, clip_index, seconds, seed)
    return _project_umap(vectors, seed) if method == "umap" else _project_pacmap(vectors, seed)


def _project_pca(vectors: Vectors) -> PlanePoints:
    two = np.zeros((len(vectors), 2))
    two[:, : vectors.shape[1]] = vectors[:, :2]
    return two


def _project_pacmap(vectors: Vectors, seed: int) -> PlanePoints:
    import logging
    import warnings

    pacmap = needs("pacmap")
    logging.getLogger("pacmap").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed makes it slower
        model = pacmap.PaCMAP(n_components=2, random_state=seed, apply_pca=False)
        return np.asarray(model.fit_transform(vectors, init="pca"), np.float64)


def _project_umap(vectors: Vectors, seed: int) -> PlanePoints:
    """McInnes, Healy, Melville, "UMAP", 2018; on one thread, as a seed wants it."""
    umap = needs("umap")
    near = min(_UMAP_NEIGHBOURS, len(vectors) - 1)
    model = umap.UMAP(n_components=2, n_neighbors=near, random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(vectors), np.float64)


def spread_points(points: PlanePoints) -> PlanePoints:
    """The plane turned onto its main axes and stretched to fill the unit square.

    Half way to an even filling, in which every frame has as much room as any other; all the way,
    clusters would no longer be told apart.
    """
    if len(points) < 2:
        return np.full((len(points), 2), 0.5)
    centred = points - points.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    turned = centred @ (axes * np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]).T
    low, high = turned.min(0), turned.max(0)
    scaled = (turned - low) / np.where(high > low, high - low, 1)
    return np.asarray((scaled + _even_spacing(turned)) / 2, np.float64)


def _even_spacing(points: PlanePoints) -> PlanePoints:
    """Points in the same arrangement, evenly over the unit square.

    The square is halved again and again, across its longer side, and its points with it.
    """
    places = np.empty((len(points), 2))
    waiting = [(np.arange(len(points)), np.zeros(2), np.ones(2))]
    while waiting:
        rows, corner, size = waiting.pop()
        if len(rows) == 1:
            places[rows[0]] = corner + size / 2
            continue
        axis = int(size[1] > size[0])
        rows = rows[points[rows, axis].argsort(kind="stable")]
        half = len(rows) // 2
        first, second = size.copy(), size.copy()
        first[axis] *= half / len(rows)
        second[axis] -= first[axis]
        moved = corner.copy()
        moved[axis] += first[axis]
        waiting += [(rows[:half], corner, first), (rows[half:], moved, second)]
    return places
