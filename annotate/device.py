"""Choose the PyTorch device and dtype, and count the cores of this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from annotate.errors import AnnotateError, UnknownName, needs

if TYPE_CHECKING:
    import torch


DTYPES = ("float32", "bfloat16", "float16")


def choose_device(device: str | None, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """Choose the device and dtype of a model: as given, or the best of this machine.

    The best is CUDA in bfloat16, else Metal or the CPU in float32.

    Raises:
        MissingPackage: PyTorch is not installed.
        UnknownName: no such dtype.
        AnnotateError: PyTorch knows no such device, or this machine has none.
    """
    torch = needs("torch")
    if dtype is not None and dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    chosen = torch.device("cpu")
    try:
        chosen = torch.device(device or _best_device())
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise AnnotateError(f"PyTorch cannot use the device {device!r}: {reason}") from error
    return chosen, getattr(torch, dtype or ("bfloat16" if chosen.type == "cuda" else "float32"))


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_cores() -> list[int]:
    """List the cores that this process may use: those of its job, where a scheduler limits it.

    Returns [] where the system does not say.
    """
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def core_count() -> int:
    """Return the number of cores that this process may use."""
    return len(usable_cores()) or os.cpu_count() or 1
