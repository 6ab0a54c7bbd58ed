"""Two numbers a picture by an autoencoder, so that near in look and in time is near on the map.

Layers shrink geometrically to a bottleneck of two tanh units, with ELU and batch normalisation
between them. The bottleneck is held to mean 0 and spread 0.3, and random triplets to the ratios of
their distances (the log-ratio loss of Kim et al., "Deep Metric Learning Beyond Binary Supervision",
2019).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.embed import Vectors
from annotate.errors import needs

_STEPS = 4  # layers on either side of the bottleneck
_SPREAD = 0.3  # of the bottleneck
_TIMES = 2000  # that a batch is learnt from
_BATCH = 512
_NEAR_SECONDS = 30.0  # frames this far apart in a clip are as far in time as can be
_TRIPLETS, _REGULAR = 1.0, 1.0  # what the losses weigh, beside what is lost of the look


def flat(
    vectors: Vectors,
    clips: npt.NDArray[np.integer],
    seconds: npt.NDArray[np.floating],
    seed: int,
) -> npt.NDArray[np.float64]:
    """(n, 2) in -1..1; the same seed, the same map. See `plane.flat`."""
    torch = needs("torch")
    scale = float(np.sqrt(np.square(vectors, dtype=np.float64).mean())) or 1.0
    data = torch.from_numpy((vectors / scale).astype(np.float32))
    clip, time = torch.from_numpy(clips.astype(np.int64)), torch.from_numpy(seconds.astype("f4"))
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)  # so small a network only waits for several, and differs by them
        encoder, decoder = _network(vectors.shape[1])
        _learn(encoder, decoder, data, clip, time)
        torch.set_num_threads(threads)
    encoder.eval()
    with torch.inference_mode():
        parts = [encoder(part).numpy() for part in data.split(8192)]
    return np.asarray(np.concatenate(parts), np.float64)


def sizes(width: int) -> list[int]:
    """The widths of the layers, geometric from `width` to 2.

    >>> sizes(256)
    [256, 76, 23, 7, 2]
    """
    return [round(width * (2 / width) ** (step / _STEPS)) for step in range(_STEPS + 1)]


def _network(width: int) -> tuple[Any, Any]:
    nn = needs("torch").nn
    down = sizes(width)

    def stack(widths: list[int], last: Any) -> Any:
        layers: list[Any] = []
        for number, (wide, narrow) in enumerate(pairwise(widths), start=1):
            ended = number == len(widths) - 1
            inner = [nn.Linear(wide, narrow, bias=ended)]
            layers += inner if ended else [*inner, nn.BatchNorm1d(narrow), nn.ELU()]
        return nn.Sequential(*layers, *last)

    return stack(down, [nn.Tanh()]), stack(down[::-1], [])


def _learn(encoder: Any, decoder: Any, data: Any, clip: Any, time: Any) -> None:
    torch = needs("torch")
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(weights, lr=3e-3)
    slowing = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _TIMES)
    batch = min(_BATCH, len(data))
    for _ in range(_TIMES):
        some = torch.randint(len(data), (batch,)) if batch < len(data) else torch.arange(batch)
        codes = encoder(data[some])
        lost = torch.nn.functional.mse_loss(decoder(codes), data[some])
        spread = (codes.mean(0) ** 2).sum() + ((codes.std(0) - _SPREAD) ** 2).sum()
        triplets = _triplets(codes, data[some], clip[some], time[some])
        loss = lost + _REGULAR * spread + _TRIPLETS * triplets
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        slowing.step()


def _triplets(codes: Any, data: Any, clip: Any, time: Any) -> Any:
    """How far random triplets' distances on the map are from the ratios that they should have."""
    torch = needs("torch")
    first, second = torch.randperm(len(codes)), torch.randperm(len(codes))
    here = torch.arange(len(codes))
    real = (first != here) & (second != here) & (first != second)

    def ratio(a: Any, b: Any) -> Any:
        return torch.log((a + 1e-3) / (b + 1e-3))[real]

    wanted = [_apart(data, clip, time, here, other) for other in (first, second)]
    found = [(codes - codes[other]).norm(dim=1) for other in (first, second)]
    return (ratio(*found) - ratio(*wanted)).square().mean()


def _apart(data: Any, clip: Any, time: Any, here: Any, other: Any) -> Any:
    """How far frames are apart in look and in time: each is about 1 for two of different clips."""
    torch = needs("torch")
    look = (data[here] - data[other]).norm(dim=1)
    later = ((time[here] - time[other]).abs() / _NEAR_SECONDS).clamp(max=1)
    when = torch.where(clip[here] == clip[other], later, torch.ones_like(later))
    return (look / look.mean().clamp(min=1e-6) + when) / 2
