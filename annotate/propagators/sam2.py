"""Follow objects with SAM 2 by Meta's package, or SAM 2 and EdgeTAM by `transformers`.

Memory is constant, and many objects are followed at a time. EdgeTAM is for machines that SAM 2 is
too heavy for. `sam2` gives the logits of the package's video predictor with its option
`add_all_frames_to_correct_as_cond` on, as the model was trained; `transformers` and `edgetam` give
those of the session of `transformers`. Both are compared in this order of calls: prompts on a
frame, propagate; for a correction, propagate up to and including its frame, give the points there,
and propagate on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from annotate.errors import needs
from annotate.sam2 import official
from annotate.sam2.session import StreamingPredictor, check_options
from annotate.sam2.transformers import TransformersNetwork, load

if TYPE_CHECKING:
    from annotate.propagators.job import PromptedFrame
    from annotate.sam2.official import Sam2Network


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
    independent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(size=self.size, multiple=32, patience=self.patience, batch=self.batch)

    def ready(self) -> Sam2Network:
        """The network, or an error that says what is missing."""
        for package in ("torch", "sam2"):
            needs(package)
        return official.load(
            self.model, self.device, self.dtype, self.size, self.compile, self.random_weights
        )

    def begin(self, prompted_frames: Iterable[PromptedFrame]) -> StreamingPredictor:
        """Open a pass; the lessons are not looked at, for SAM 2 learns on the frame it is at."""
        network = self.ready()
        batch = self.batch or (1 if network.device.type == "cpu" else 8)
        return StreamingPredictor(network, self.patience, batch)


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
        return load(
            self.model, self.device, self.dtype, self.size, self.compile, self.random_weights
        )

    def begin(self, prompted_frames: Iterable[PromptedFrame]) -> StreamingPredictor:
        """Open a pass; the lessons are not looked at, for it learns on the frame it is at."""
        network = self.ready()
        batch = self.batch or (1 if network.device.type == "cpu" else 8)
        return StreamingPredictor(network, self.patience, batch)


@dataclass(frozen=True)
class EdgeTamPropagator(TransformersPropagator):
    """EdgeTAM; the options are those of `transformers`."""

    model: str = "edgetam-hf"

    def ready(self) -> TransformersNetwork:
        """The network, or an error that says what is missing."""
        needs("timm")
        return super().ready()
