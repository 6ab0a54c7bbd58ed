"""The loop round a network of the SAM 2 family: one frame in, the mask of every object out.

A frame is encoded once, whatever the number of objects. Objects whose memories have one length go
through the network together. An object starts at its own first prompt and reads nothing but its own
memory, so that it is the same whoever else is followed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from annotate import masks, memory
from annotate.errors import AnnotateError
from annotate.memory import Bank, Limits, Recall, State
from annotate.records import Frame, Picture, Prompt

if TYPE_CHECKING:
    import supervision as sv
    import torch


@dataclass(frozen=True, eq=False)
class Sight:
    """What a network says of n objects on one frame, a row each.

    `logits` are the masks before the sigmoid, (n, 1, h, w), at the decoder's own size, and
    `enlarged` the same at the network's input size; `pointer` is (n, C); `iou` is (n,), 0..1;
    `presence` is (n,), before the sigmoid: the object is there where it is positive.
    """

    logits: torch.Tensor
    enlarged: torch.Tensor
    pointer: torch.Tensor
    iou: torch.Tensor
    presence: torch.Tensor

    def rows(self) -> Iterator[Sight]:
        """One object each."""
        columns = [getattr(self, field.name) for field in fields(self)]
        for row in range(len(self.presence)):
            yield Sight(*(column[row : row + 1] for column in columns))

    @staticmethod
    def join(sights: Sequence[Sight]) -> Sight:
        """Several as one."""
        import torch

        names = [field.name for field in fields(Sight)]
        return Sight(*(torch.cat([getattr(sight, name) for sight in sights]) for name in names))

    @property
    def present(self) -> bool:
        """Whether the object, of one row, is there."""
        return bool(self.presence > 0)

    @property
    def confidence(self) -> float:
        """How sure the network is, of one row: the object's presence times its mask's quality."""
        return float(self.presence.sigmoid() * self.iou)


class Network(Protocol):
    """A network of the family, and what its own predictor does with a correction."""

    limits: Limits
    device: torch.device
    dtype: torch.dtype
    corrections_stay: bool  # whether a frame of a later prompt is read for ever, like the first

    def encode(self, picture: Picture) -> Any:
        """All that is needed of a frame, whoever is looked for: the scene."""

    def track(self, scene: Any, recalls: Sequence[Recall]) -> Sight:
        """Find objects by their memories, which are of one length."""

    def answer(
        self, scene: Any, prompt: Prompt, recall: Recall | None, before: Sight | None
    ) -> Sight:
        """Find an object by a prompt; `before` is how it was tracked onto this very frame."""

    def memorise(self, scene: Any, sight: Sight, prompted: bool) -> torch.Tensor:
        """The mask memories of these objects, (n, ...)."""


def check_options(*, size: int | None, multiple: int, patience: int, batch: int | None) -> None:
    """Raise if the options that these engines share make no sense.

    Raises:
        AnnotateError: saying which, and what it may be.
    """
    if size is not None and (size < 1 or size % multiple):
        raise AnnotateError(f"size must be a multiple of {multiple}, such as 512, got {size}")
    for name, value in (("patience", patience), ("batch", batch)):
        if value is not None and value < 1:
            raise AnnotateError(f"{name} must be 1 or more, got {value}")


class Follower:
    """A pass over a clip with a network: the session of the propagators of this family."""

    def __init__(self, network: Network, patience: int, batch: int) -> None:
        self._network = network
        self._patience = patience
        self._batch = batch
        self._banks: dict[int, Bank] = {}

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Follow every object that has started onto this frame."""
        import supervision as sv

        width, height = frame.size_wh
        found = []
        for of, sight in self.look(frame, prompts).items():
            mask = picture_mask(sight, height, width) if sight.present else None
            box = None if mask is None else masks.box(mask)
            if box is not None:
                found.append((of, box, mask, sight.confidence))
        if not found:
            return sv.Detections.empty()
        ids, boxes, pictures, confidences = zip(*found, strict=True)
        return sv.Detections(
            xyxy=np.array(boxes, np.float64),
            mask=np.stack(pictures),
            confidence=np.array(confidences, np.float64),
            tracker_id=np.array(ids, np.int64),
        )

    def look(self, frame: Frame, prompts: Sequence[Prompt]) -> dict[int, Sight]:
        """What the network says of each object that has started, by object; and remember it."""
        import torch

        asked = {prompt.object_id: prompt for prompt in prompts}
        if not self._banks and not asked:
            return {}
        network = self._network
        device, low = network.device.type, network.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(device, network.dtype, enabled=low):
            scene = network.encode(frame.image)
            recalls = {of: bank.recall() for of, bank in self._banks.items()}
            sights = self._track(scene, recalls)
            for of, prompt in asked.items():
                sights[of] = network.answer(scene, prompt, recalls.get(of), sights.get(of))
            self._remember(scene, sights, set(asked))
        return sights

    def state(self) -> State:
        """The banks, as arrays."""
        return memory.to_arrays(self._banks, _to_array)

    def restore(self, state: State) -> None:
        """Take up the banks of `state`."""
        device = self._network.device
        self._banks = memory.from_arrays(
            state, self._network.limits, self._patience, lambda array: _to_tensor(array, device)
        )

    def _track(self, scene: Any, recalls: dict[int, Recall]) -> dict[int, Sight]:
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for of, recall in recalls.items():
            groups[recall.length].append(of)
        sights: dict[int, Sight] = {}
        for group in groups.values():
            for some in _chunks(group, self._batch):
                found = self._network.track(scene, [recalls[of] for of in some])
                sights.update(zip(some, found.rows(), strict=True))
        return {of: sights[of] for of in recalls}

    def _remember(self, scene: Any, sights: dict[int, Sight], asked: set[int]) -> None:
        """Into each object's bank; an object that stays lost is not worth a mask memory."""
        worth = [of for of in sights if sights[of].present or of in asked or not self._leaves(of)]
        features: dict[int, torch.Tensor] = {}
        for prompted in (False, True):
            group = [of for of in worth if (of in asked) is prompted]
            for some in _chunks(group, self._batch):
                batch = Sight.join([sights[of] for of in some])
                made = self._network.memorise(scene, batch, prompted)
                features.update((of, row.clone()) for of, row in zip(some, made, strict=True))
        for of, sight in sights.items():
            stays = of not in self._banks or (of in asked and self._network.corrections_stay)
            bank = self._banks.setdefault(of, Bank(self._network.limits, self._patience))
            pointer = sight.pointer[0].float().clone()
            bank.remember(features.get(of), pointer, prompted=stays, present=sight.present)

    def _leaves(self, of: int) -> bool:
        """Whether one more frame of absence leaves it lost."""
        return of in self._banks and self._banks[of].absent + 1 >= self._patience


def picture_mask(sight: Sight, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The mask of one row at the size of the picture, (H, W)."""
    from torch.nn.functional import interpolate

    logits = sight.logits.float()
    large = interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    mask: npt.NDArray[np.bool_] = (large[0, 0] > 0).cpu().numpy()
    return mask


def clicks(
    prompt: Prompt, size_wh: tuple[int, int], side: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]] | None:
    """A prompt's points and box as the family takes them: points (N, 2) and their labels (N,).

    They are in pixels of the network's input, a square of `side`. A box is two points before the
    others, labelled 2 and 3. None where there is neither.
    """
    points, labels = prompt.points_xy.astype(np.float32), prompt.point_labels.astype(np.int32)
    if prompt.box is not None:
        points = np.concatenate([np.array(prompt.box, np.float32).reshape(2, 2), points])
        labels = np.concatenate([np.array([2, 3], np.int32), labels])
    if not len(points):
        return None
    scaled = points / np.array(size_wh, np.float32) * np.float32(side)
    return scaled.astype(np.float32), labels


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _to_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """As NumPy, which has no bfloat16: its bits as int16."""
    import torch

    plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    array: npt.NDArray[Any] = plain.cpu().numpy()
    return array


def _to_tensor(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    import torch

    tensor = torch.from_numpy(np.array(array)).to(device)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
