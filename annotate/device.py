"""Choose the PyTorch device and dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from annotate.errors import AnnotateError, UnknownName, needs

if TYPE_CHECKING:
    import torch


DTYPES = ("float32", "bfloat16", "float16")


def choose_device(device: str | None, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """What was asked for, or the best there is: CUDA in bfloat16, else Metal or CPU in float32.

    Raises:
        MissingPackage: no PyTorch.
        UnknownName: no such dtype.
        AnnotateError: no such device, or not on this machine.
    """
    torch = needs("torch")
    if dtype is not None and dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    place = torch.device("cpu")
    try:
        place = torch.device(device or _best_device())
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise AnnotateError(f"PyTorch cannot use the device {device!r}: {reason}") from error
    return place, getattr(torch, dtype or ("bfloat16" if place.type == "cuda" else "float32"))


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
