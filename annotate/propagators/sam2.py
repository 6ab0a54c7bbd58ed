"""Track objects with SAM 2 by Meta's package, or with SAM 2 and EdgeTAM by `transformers`.

Memory is constant, and many objects are tracked at a time. EdgeTAM is for machines that are too
slow for SAM 2. `sam2` gives the logits of the package's video predictor with its option
`add_all_frames_to_correct_as_cond` on, as the model was trained; `transformers` and `edgetam` give
those of the session of `transformers`. Both are compared in this order of calls: prompts on a
frame, propagate; for a correction, propagate up to and including its frame, give the points there,
and propagate on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from annotate.errors import needs
from annotate.sam2 import official, transformers
from annotate.sam2.session import StreamingPredictor, TrackingNetwork, check_options
from annotate.weights import identity

if TYPE_CHECKING:
    from annotate.propagators.job import PromptedFrame


@dataclass(frozen=True)
class _Sam2Family:
    """The options that all engines of the family have, and how they open a pass.

    `dtype` is bfloat16 on CUDA and float32 elsewhere. An object that is not seen for `patience`
    frames is lost. `batch` is how many objects go through the network together; at 1 an object's
    masks are the same to the last bit whichever others are tracked. `random_weights` is a seed: the
    true architecture with random weights, to try the engine without a download.
    """

    model: str = ""
    device: str | None = None
    dtype: str | None = None
    size: int | None = None
    compile: bool = False
    patience: int = 16
    batch: int | None = None
    random_weights: int | None = None
    independent: ClassVar[bool] = True
    causal: ClassVar[bool] = True
    forgets: ClassVar[bool] = True
    previews: ClassVar[bool] = True
    size_multiple: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_options(
            size=self.size, multiple=self.size_multiple, patience=self.patience, batch=self.batch
        )

    def ready(self) -> TrackingNetwork:
        """Load the network, or raise what is missing."""
        raise NotImplementedError

    def begin(self, prompted_frames: Iterable[PromptedFrame]) -> StreamingPredictor:
        """Open a pass. The prompted frames are not read: each prompt is used on its own frame."""
        network = self.ready()
        batch = self.batch or (1 if network.device.type == "cpu" else 8)
        return StreamingPredictor(network, self.patience, batch)

    def _load_options(self) -> tuple[Any, ...]:
        options = (self.model, self.device, self.dtype, self.size, self.compile)
        return *options, self.random_weights, identity.weights_sha256(self.model)


@dataclass(frozen=True)
class Sam2Propagator(_Sam2Family):
    """SAM 2 and 2.1, hiera tiny to large.

    `model` is a name in the manifest, or the path of a checkpoint of one of these architectures.
    `size` is the side of the network's input, a multiple of 32; 512 is about four times faster than
    1024 and less exact. `dtype` is bfloat16 on CUDA and float32 elsewhere. An object that is not
    seen for `patience` frames is lost. `batch` is how many objects go through the network together;
    at 1 an object's masks are the same to the last bit whichever others are tracked.
    `random_weights` is a seed: the true architecture with random weights.
    """

    model: str = "sam2.1-tiny"
    size_multiple: ClassVar[int] = 32

    def ready(self) -> official.Sam2Network:
        """Load the network, or raise what is missing."""
        for package in ("torch", "sam2"):
            needs(package, extra="sam2")
        return official.load(*self._load_options())


@dataclass(frozen=True)
class TransformersPropagator(_Sam2Family):
    """`Sam2VideoModel` or `EdgeTamVideoModel`.

    `model` is a name in the manifest, or a folder with a `config.json` of one of these.
    `size` is the side of the network's input, a multiple of 256; 512 is faster than 1024 and less
    exact. The other options are those of `sam2`.
    """

    model: str = "sam2.1-tiny-hf"
    size_multiple: ClassVar[int] = 256

    def ready(self) -> transformers.TransformersNetwork:
        """Load the network, or raise what is missing."""
        for package in ("torch", "torchvision", "transformers"):
            needs(package)
        return transformers.load(*self._load_options())


@dataclass(frozen=True)
class EdgeTamPropagator(TransformersPropagator):
    """EdgeTAM; the options are those of `transformers`."""

    model: str = "edgetam-hf"

    def ready(self) -> transformers.TransformersNetwork:
        """Load the network, or raise what is missing."""
        needs("timm")
        return super().ready()
