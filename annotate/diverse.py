"""The most different of many things: farthest-point choice in any space of features."""

import numpy as np
import numpy.typing as npt

Distances = npt.NDArray[np.float32]


def farthest(
    features: npt.ArrayLike, count: int, *, chosen: tuple[int, ...] | list[int] = ()
) -> list[int]:
    """The places of `count` rows of `features`, (N, D), each the farthest from all before it.

    Distance is Euclidean: bits of a hash count as they do by Hamming, rows of length 1 as they do
    by cosine. The first is the one nearest to the mean, or farthest from those `chosen` beforehand,
    which are not given back. Ties go to the lower place, so that the same rows give the same
    choice, and a smaller count its beginning.

    >>> farthest([[0.0], [1.0], [9.0], [5.0]], 3)
    [3, 0, 2]
    """
    rows = np.atleast_2d(np.asarray(features, np.float32))
    if not rows.size:
        return []
    squares = np.einsum("nd,nd->n", rows, rows)
    nearest: Distances = np.full(len(rows), np.inf, np.float32)
    for place in chosen:
        nearest = np.minimum(nearest, _to(rows[place], rows, squares))
    nearest[list(chosen)] = -1.0
    picked: list[int] = []
    while len(picked) < min(count, len(rows) - len(chosen)):
        if not picked and not chosen:
            place = int(_to(rows.mean(axis=0), rows, squares).argmin())
        else:
            place = int(nearest.argmax())
        nearest = np.minimum(nearest, _to(rows[place], rows, squares))
        nearest[[*chosen, *picked, place]] = -1.0
        picked.append(place)
    return picked


def _to(point: Distances, rows: Distances, squares: Distances) -> Distances:
    """Squared distances of a point to the rows, (N,)."""
    return np.asarray(np.maximum(squares - 2 * (rows @ point) + point @ point, 0))
