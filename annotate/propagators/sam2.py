"""Follow objects with SAM 2 by Meta's own package, in constant memory and many at a time.

The model is built by the package's own builder from its own configuration. The logits are those of
its video predictor when that is used so, with its option `add_all_frames_to_correct_as_cond` on, as
the model was trained: prompts on a frame, propagate; for a correction, propagate up to and with its
frame, give the points there, propagate on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from annotate import weights
from annotate.device import choose
from annotate.errors import UnknownName, WeightsError, needs
from annotate.follow import Follower, check_options
from annotate.sam2_network import Sam2Network

if TYPE_CHECKING:
    from annotate.propagate import Lesson

LETTERS = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
CONFIGS = {
    f"{family}-{size}": f"configs/{family}/{family}_hiera_{letter}.yaml"
    for family in ("sam2.1", "sam2")
    for size, letter in LETTERS.items()
}
PRESENCE_BIAS = 6.0  # of random weights: a network that sees nothing shows nothing of the machinery


@dataclass(frozen=True)
class Sam2Propagator:
    """SAM 2 and 2.1, hiera tiny to large.

    `model` is a name in the manifest, or the path of a checkpoint of one of these architectures.
    `size` is the side of the network's input, a multiple of 32; 512 is about four times faster than
    1024 and less exact. `dtype` is bfloat16 on CUDA and float32 elsewhere. An object not seen for
    `patience` frames is lost. `batch` is how many go through the network together; at 1 an object's
    masks are the same to the last bit whoever else is followed.
    `random_weights` is a seed: the true architecture with weights that know nothing.
    """

    model: str = "sam2.1-tiny"
    device: str | None = None
    dtype: str | None = None
    size: int | None = None
    compile: bool = False
    patience: int = 16
    batch: int | None = None
    random_weights: int | None = None

    def __post_init__(self) -> None:
        check_options(size=self.size, multiple=32, patience=self.patience, batch=self.batch)

    def begin(self, lessons: Iterable[Lesson]) -> Follower:
        """Open a pass; the lessons are not looked at, for SAM 2 learns on the frame it is at."""
        for package in ("torch", "sam2"):
            needs(package)
        network = _load(
            self.model, self.device, self.dtype, self.size, self.compile, self.random_weights
        )
        batch = self.batch or (1 if network.device.type == "cpu" else 8)
        return Follower(network, self.patience, batch)


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
def _load(
    name: str,
    device: str | None,
    dtype: str | None,
    size: int | None,
    compiled: bool,
    seed: int | None,
) -> Sam2Network:
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
