"""Follow objects with EdgeTAM, or any video network of the SAM 2 family in `transformers`.

EdgeTAM is for the machines that SAM 2 is too heavy for. Nothing is asked of the network here: the
weights are those of a folder on this machine, and its backbone is built without any of its own. The
logits are those of the package's own session when it is used so: prompts on a frame and the model
called on it, propagate; for a correction, propagate up to and with its frame, give the points there
and propagate on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from annotate import weights
from annotate.device import choose
from annotate.errors import UnknownName, WeightsError, needs
from annotate.follow import Follower, check_options
from annotate.transformers_network import TransformersNetwork

if TYPE_CHECKING:
    from annotate.propagate import Lesson

KINDS = {"sam2_video": "Sam2VideoModel", "edgetam_video": "EdgeTamVideoModel"}
PRESENCE_BIAS = 6.0  # of random weights: a network that sees nothing shows nothing of the machinery


@dataclass(frozen=True)
class TransformersPropagator:
    """`Sam2VideoModel` or `EdgeTamVideoModel`.

    `model` is a name in the manifest, or a folder with a `config.json` of one of these.
    `size` is the side of the network's input, a multiple of 256; 512 is faster than 1024 and less
    exact. `dtype` is bfloat16 on CUDA and float32 elsewhere. An object not seen for `patience`
    frames is lost. `batch` is how many objects go through the network together; at 1 an object's
    masks are the same to the last bit whoever else is followed.
    `random_weights` is a seed: the true architecture with weights that know nothing.
    """

    model: str = "sam2.1-tiny-hf"
    device: str | None = None
    dtype: str | None = None
    size: int | None = None
    compile: bool = False
    patience: int = 16
    batch: int | None = None
    random_weights: int | None = None
    independent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(size=self.size, multiple=256, patience=self.patience, batch=self.batch)

    def ready(self) -> TransformersNetwork:
        """The network, or an error that says what is missing."""
        for package in ("torch", "torchvision", "transformers"):
            needs(package)
        return _load(
            self.model, self.device, self.dtype, self.size, self.compile, self.random_weights
        )

    def begin(self, lessons: Iterable[Lesson]) -> Follower:
        """Open a pass; the lessons are not looked at, for it learns on the frame it is at."""
        network = self.ready()
        batch = self.batch or (1 if network.device.type == "cpu" else 8)
        return Follower(network, self.patience, batch)


@dataclass(frozen=True)
class EdgeTamPropagator(TransformersPropagator):
    """EdgeTAM; the options are those of `transformers`."""

    model: str = "edgetam-hf"

    def ready(self) -> TransformersNetwork:
        """The network, or an error that says what is missing."""
        needs("timm")
        return super().ready()


@lru_cache(maxsize=1)  # the passes of one run share it
def _load(
    name: str,
    device: str | None,
    dtype: str | None,
    size: int | None,
    compiled: bool,
    seed: int | None,
) -> TransformersNetwork:
    import torch

    place, kind = choose(device, dtype)
    if seed is None:
        model = _from_folder(weights.where(name), size)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build(resized(_random_config(name), size))
        show_all(model)
    model = model.eval().to(place)
    if compiled:
        for part in (model.vision_encoder, model.memory_attention, model.memory_encoder):
            part.compile()
    return TransformersNetwork(model, kind)


def build(config: Any) -> Any:
    """The network of a configuration, its weights drawn at random."""
    import transformers

    return getattr(transformers, KINDS[config.model_type])(config)


def resized(config: Any, side: int | None) -> Any:
    """The configuration for another size of input."""
    if side is not None:
        config.image_size = config.prompt_encoder_config.image_size = side
        sizes = [[side // stride] * 2 for stride in (4, 8, 16)]
        config.vision_config.backbone_feature_sizes = sizes
        config.memory_attention_rope_feat_sizes = sizes[-1]
    return config


def show_all(model: Any) -> None:
    """Bias random weights so that every object counts as present."""
    import torch

    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias += PRESENCE_BIAS


def _from_folder(folder: Path, size: int | None) -> Any:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = getattr(transformers, KINDS[config.model_type])
        return kind.from_pretrained(folder, config=resized(config, size), local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = f"is not a network of {' or '.join(KINDS.values())} of transformers: {error}"
        raise WeightsError(f"{folder} {reason}") from error


def _random_config(name: str) -> Any:
    import transformers

    if name == "edgetam-hf":
        # the package's own default misspells a key and comes out as another backbone
        levels = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
        backbone = transformers.TimmWrapperConfig(architecture="repvit_m1", model_args=levels)
        vision = transformers.EdgeTamVisionConfig(backbone_config=backbone)
        return transformers.EdgeTamVideoConfig(vision_config=vision)
    if name == "sam2.1-tiny-hf":
        return transformers.Sam2VideoConfig()
    raise UnknownName("architecture for random weights", name, ["edgetam-hf", "sam2.1-tiny-hf"])
