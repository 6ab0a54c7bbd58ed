"""SAM 2 built by Meta's own package from its own configuration, and its weights put in."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from annotate import weights
from annotate.device import choose
from annotate.errors import UnknownName, WeightsError
from annotate.sam2_network import Sam2Network

LETTERS = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
CONFIGS = {
    f"{family}-{size}": f"configs/{family}/{family}_hiera_{letter}.yaml"
    for family in ("sam2.1", "sam2")
    for size, letter in LETTERS.items()
}
PRESENCE_BIAS = 6.0  # of random weights: a network that sees nothing shows nothing of the machinery


def build(config: str, checkpoint: Path | None, device: str, overrides: Iterable[str] = ()) -> Any:
    """The package's model by its own builder, set up as its video predictor is.

    Raises:
        WeightsError: when the checkpoint is not of that architecture.
    """
    from sam2.build_sam import build_sam2

    extra = ["++model.binarize_mask_from_pts_for_mem_enc=true", *overrides]
    path = None if checkpoint is None else str(checkpoint)
    try:
        return build_sam2(config, path, device, hydra_overrides_extra=extra)
    except (RuntimeError, KeyError, OSError, ValueError) as error:
        reason = f"cannot be loaded into {config}: {error}"
        raise WeightsError(f"{checkpoint or config} {reason}") from error


@lru_cache(maxsize=1)  # the passes of one run share it
def load(
    name: str,
    device: str | None,
    dtype: str | None,
    size: int | None,
    compiled: bool,
    seed: int | None,
) -> Sam2Network:
    """The network `name`, in the manifest or a checkpoint's path; with a `seed`, random weights.

    Raises:
        MissingWeights, WeightsError, UnknownName: it cannot be had.
        MissingPackage, AnnotateError: see `annotate.device`.
    """
    import torch

    place, kind = choose(device, dtype)
    sized = () if size is None else (f"++model.image_size={size}",)
    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build(_config(name), None, str(place), sized)
        show_all(model)
    else:
        config, checkpoint = _files(name)
        model = build(config, checkpoint, str(place), sized)
    if compiled:
        for part in (model.image_encoder, model.memory_attention, model.memory_encoder):
            part.compile()
    return Sam2Network(model, kind)


def show_all(model: Any) -> None:
    """Bias random weights so that every object counts as present."""
    import torch

    head = model.sam_mask_decoder.pred_obj_score_head
    with torch.no_grad():
        (head.layers[-1] if hasattr(head, "layers") else head).bias += PRESENCE_BIAS


def _config(name: str) -> str:
    if name not in CONFIGS:
        raise UnknownName("SAM 2 model", name, CONFIGS)
    return CONFIGS[name]


def _files(name: str) -> tuple[str, Path]:
    """Configuration and checkpoint of a name in the manifest, or of a checkpoint's path."""
    path = weights.where(name)
    return CONFIGS.get(name) or _architecture(path), path


def _architecture(checkpoint: Path) -> str:
    """Which configuration a checkpoint is of, by the shapes of what it holds."""
    import torch

    try:
        held = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["model"]
        width = held["image_encoder.trunk.patch_embed.proj.weight"].shape[0]
    except (OSError, RuntimeError, KeyError, TypeError, UnpicklingError) as error:
        raise WeightsError(f"{checkpoint} is not a checkpoint of SAM 2: {error}") from error
    trunk = [key.split(".") for key in held if key.startswith("image_encoder.trunk.blocks.")]
    blocks = len({block for _, _, _, block, *_ in trunk})
    sizes = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base-plus", (144, 48): "large"}
    if (width, blocks) not in sizes:
        raise WeightsError(f"{checkpoint} is of none of the architectures {', '.join(CONFIGS)}")
    family = "sam2.1" if "no_obj_embed_spatial" in held else "sam2"
    return CONFIGS[f"{family}-{sizes[width, blocks]}"]
