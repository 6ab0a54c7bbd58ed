"""Follow objects with SAM 2 by Meta's own package, in constant memory and many at a time.

The model is built by the package's own builder from its own configuration. The logits are those of
its video predictor when that is used so, with its option `add_all_frames_to_correct_as_cond` on, as
the model was trained: prompts on a frame, propagate; for a correction, propagate up to and with its
frame, give the points there, propagate on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from annotate import sam2_model
from annotate.errors import needs
from annotate.follow import Follower, check_options

if TYPE_CHECKING:
    from annotate.propagate import Lesson
    from annotate.sam2_network import Sam2Network


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
        return sam2_model.load(
            self.model, self.device, self.dtype, self.size, self.compile, self.random_weights
        )

    def begin(self, lessons: Iterable[Lesson]) -> Follower:
        """Open a pass; the lessons are not looked at, for SAM 2 learns on the frame it is at."""
        network = self.ready()
        batch = self.batch or (1 if network.device.type == "cpu" else 8)
        return Follower(network, self.patience, batch)
