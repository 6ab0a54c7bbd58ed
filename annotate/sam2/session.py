"""Follow objects frame by frame with a network of the SAM 2 family, in constant memory.

A frame is encoded once, whatever the number of objects. Objects whose memories have the same
lengths go through the network as one batch. An object starts at its own first prompt and reads only
its own memory, so its masks are the same whichever other objects are followed.

Such a network reads every frame on which the object was prompted, the mask memories of the last few
frames and the object pointers of a few more. Everything else is dropped as the pass goes on, so the
memory of an object is as large on frame 100,000 as on frame 20.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from annotate.errors import AnnotateError
from annotate.items import masks
from annotate.items.records import Frame, Picture, Prompt

if TYPE_CHECKING:
    import supervision as sv
    import torch


State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class MemoryLimits:
    """How far back a network reads, from its own configuration.

    `memories` counts the mask memories, the prompted one included; `pointers` the object pointers;
    `prompted` the prompted frames, the latest ones, or all where it is None.
    """

    max_memories: int = 7
    max_pointers: int = 16
    max_prompted: int | None = None


@dataclass(frozen=True, eq=False)
class FrameMemory:
    """One frame as an object remembers it: its mask memory, while that can be read, its pointer.

    `tick` is the object's own time: frames since it started, without those it was lost on.
    """

    tick: int
    prompted: bool
    present: bool
    features: Any
    pointer: Any


@dataclass(frozen=True)
class MemoryContext:
    """What is read on one frame.

    `memories` are (ticks back, mask memory), where 0 stands for a prompted frame, however old;
    `pointers` are (ticks back, pointer). Prompted frames come first, then the oldest memory and the
    newest pointer.
    """

    memories: list[tuple[int, Any]]
    pointers: list[tuple[int, Any]]

    @property
    def lengths(self) -> tuple[int, int]:
        """Recalls of one length can be read together."""
        return len(self.memories), len(self.pointers)


@dataclass
class MemoryBank:
    """The memories of one object in one pass.

    An object absent for `patience` frames is lost: what it remembers of its absence is forgotten
    and its clock stands still, so that whenever it comes back, it is looked for as it was last
    seen.
    """

    limits: MemoryLimits
    patience: int
    tick: int = 0
    absent_frames: int = 0
    memories: list[FrameMemory] = field(default_factory=list)

    @property
    def is_lost(self) -> bool:
        """Whether it was absent for as long as patience lasts."""
        return self.absent_frames >= self.patience

    def build_context(self) -> MemoryContext:
        """What the network reads on the coming frame."""
        chosen = self._prompted_in_reach()
        others = [memory for memory in self.memories if memory not in chosen]
        recent = [memory for memory in others if self._age(memory) < self.limits.max_memories]
        latest = [memory for memory in others if self._age(memory) < self.limits.max_pointers]
        memories = [(0, memory.features) for memory in chosen]
        memories += [(self._age(memory), memory.features) for memory in recent]
        pointers = [(self._age(memory), memory.pointer) for memory in chosen + latest[::-1]]
        return MemoryContext(memories, pointers)

    def remember(self, features: Any, pointer: Any, *, prompted: bool, present: bool) -> None:
        """Take in the coming frame, which becomes the last; one on which it is lost is not."""
        self.absent_frames = 0 if present or prompted else self.absent_frames + 1
        if not self.is_lost:
            self.memories.append(FrameMemory(self.tick, prompted, present, features, pointer))
            self.tick += 1
        else:
            self._forget_absence()
        chosen = self._prompted_in_reach()
        self.memories = [
            kept for memory in self.memories if (kept := self._trimmed(memory, memory in chosen))
        ]

    def _prompted_in_reach(self) -> list[FrameMemory]:
        """The prompted frames that are read."""
        prompted = [memory for memory in self.memories if memory.prompted]
        return prompted[-self.limits.max_prompted :] if self.limits.max_prompted else prompted

    def _age(self, memory: FrameMemory) -> int:
        return self.tick - memory.tick

    def _tick_after_last_seen(self) -> int:
        """The tick after that on which it was last seen."""
        return 1 + max(memory.tick for memory in self.memories if memory.present or memory.prompted)

    def _forget_absence(self) -> None:
        self.tick = self._tick_after_last_seen()
        self.memories = [memory for memory in self.memories if memory.tick < self.tick]

    def _trimmed(self, memory: FrameMemory, prompted_in_reach: bool) -> FrameMemory | None:
        """What of it can be read from now on, or if the object turns out to be lost."""
        back = [
            now - memory.tick
            for now in (self.tick, self._tick_after_last_seen())
            if now > memory.tick
        ]
        if prompted_in_reach or min(back) < self.limits.max_memories:
            return memory
        return replace(memory, features=None) if min(back) < self.limits.max_pointers else None


def banks_to_arrays(
    banks: Mapping[int, MemoryBank], to_array: Callable[[Any], npt.NDArray[Any]]
) -> State:
    """Banks by object as plain arrays; `to_array` makes one of what a network remembers."""
    clocks = [(of, bank.tick, bank.absent_frames) for of, bank in banks.items()]
    kept = [(of, memory) for of, bank in banks.items() for memory in bank.memories]
    rows = [
        (of, memory.tick, memory.prompted, memory.present, memory.features is not None)
        for of, memory in kept
    ]
    state: dict[str, npt.NDArray[Any]] = {
        "clocks": np.array(clocks, np.int64).reshape(-1, 3),
        "rows": np.array(rows, np.int64).reshape(-1, 5),
    }
    features = [memory.features for _, memory in kept if memory.features is not None]
    if kept:
        state["pointers"] = np.stack([to_array(memory.pointer) for _, memory in kept])
        state["features"] = np.stack([to_array(feature) for feature in features])
    return state


def banks_from_arrays(
    state: State, limits: MemoryLimits, patience: int, from_array: Callable[[npt.NDArray[Any]], Any]
) -> dict[int, MemoryBank]:
    """The banks that `to_arrays` was given."""
    clocks = [map(int, row) for row in state["clocks"]]
    banks = {of: MemoryBank(limits, patience, tick, absent) for of, tick, absent in clocks}
    pointers = map(from_array, state.get("pointers", ()))
    features = map(from_array, state.get("features", ()))
    for of, tick, prompted, present, whole in state["rows"].tolist():
        feature = next(features) if whole else None
        memory = FrameMemory(tick, bool(prompted), bool(present), feature, next(pointers))
        banks[of].memories.append(memory)
    return banks


@dataclass(frozen=True, eq=False)
class FramePrediction:
    """What a network says of n objects on one frame, a row each.

    `logits` are the masks before the sigmoid, (n, 1, h, w), at the decoder's own size, and
    `enlarged` the same at the network's input size; `pointer` is (n, C); `iou` is (n,), 0..1;
    `presence` is (n,), before the sigmoid: the object is there where it is positive.
    """

    logits: torch.Tensor
    high_res_logits: torch.Tensor
    pointer: torch.Tensor
    iou: torch.Tensor
    presence_logits: torch.Tensor

    def split_rows(self) -> Iterator[FramePrediction]:
        """One object each."""
        columns = [getattr(self, field.name) for field in fields(self)]
        for row in range(len(self.presence_logits)):
            yield FramePrediction(*(column[row : row + 1] for column in columns))

    @staticmethod
    def join(predictions: Sequence[FramePrediction]) -> FramePrediction:
        """Several as one."""
        import torch

        names = [field.name for field in fields(FramePrediction)]
        return FramePrediction(
            *(torch.cat([getattr(sight, name) for sight in predictions]) for name in names)
        )

    @property
    def is_present(self) -> bool:
        """Whether the object, of one row, is there."""
        return bool(self.presence_logits > 0)

    @property
    def confidence(self) -> float:
        """How sure the network is, of one row: the object's presence times its mask's quality."""
        return float(self.presence_logits.sigmoid() * self.iou)


class TrackingNetwork(Protocol):
    """A network of the family, and what its own predictor does with a correction."""

    limits: MemoryLimits
    device: torch.device
    dtype: torch.dtype
    corrections_stay: bool  # whether a frame of a later prompt is read for ever, like the first

    def encode(self, picture: Picture) -> Any:
        """All that is needed of a frame, whoever is looked for: the scene."""

    def track(self, encoded_frame: Any, contexts: Sequence[MemoryContext]) -> FramePrediction:
        """Find objects by their memories, which are of one length."""

    def predict_from_prompt(
        self,
        encoded_frame: Any,
        prompt: Prompt,
        context: MemoryContext | None,
        tracked: FramePrediction | None,
    ) -> FramePrediction:
        """Find an object by a prompt; `before` is how it was tracked onto this very frame."""

    def encode_memory(
        self, encoded_frame: Any, prediction: FramePrediction, prompted: bool
    ) -> torch.Tensor:
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


class StreamingPredictor:
    """A pass over a clip with a network: the session of the propagators of this family."""

    def __init__(self, network: TrackingNetwork, patience: int, batch: int) -> None:
        self._network = network
        self._patience = patience
        self._batch = batch
        self._banks: dict[int, MemoryBank] = {}

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Follow every object that has started onto this frame."""
        import supervision as sv

        width, height = frame.size_wh
        found = []
        for of, sight in self.predict(frame, prompts).items():
            mask = full_size_mask(sight, height, width) if sight.is_present else None
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

    def predict(self, frame: Frame, prompts: Sequence[Prompt]) -> dict[int, FramePrediction]:
        """What the network says of each object that has started, by object; and remember it."""
        import torch

        asked = {prompt.object_id: prompt for prompt in prompts}
        if not self._banks and not asked:
            return {}
        network = self._network
        device, low = network.device.type, network.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(device, network.dtype, enabled=low):
            scene = network.encode(frame.image)
            recalls = {of: bank.build_context() for of, bank in self._banks.items()}
            sights = self._track_objects(scene, recalls)
            for of, prompt in asked.items():
                sights[of] = network.predict_from_prompt(
                    scene, prompt, recalls.get(of), sights.get(of)
                )
            self._update_banks(scene, sights, set(asked))
        return sights

    def state(self) -> State:
        """The banks, as arrays."""
        return banks_to_arrays(self._banks, _tensor_to_array)

    def restore(self, state: State) -> None:
        """Take up the banks of `state`."""
        device = self._network.device
        self._banks = banks_from_arrays(
            state,
            self._network.limits,
            self._patience,
            lambda array: _array_to_tensor(array, device),
        )

    def _track_objects(
        self, encoded_frame: Any, contexts: dict[int, MemoryContext]
    ) -> dict[int, FramePrediction]:
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for of, recall in contexts.items():
            groups[recall.lengths].append(of)
        sights: dict[int, FramePrediction] = {}
        for group in groups.values():
            for some in _chunks(group, self._batch):
                found = self._network.track(encoded_frame, [contexts[of] for of in some])
                sights.update(zip(some, found.split_rows(), strict=True))
        return {of: sights[of] for of in contexts}

    def _update_banks(
        self, encoded_frame: Any, predictions: dict[int, FramePrediction], prompted_ids: set[int]
    ) -> None:
        """Into each object's bank; an object that stays lost is not worth a mask memory."""
        worth = [
            of
            for of in predictions
            if predictions[of].is_present or of in prompted_ids or not self._becomes_lost(of)
        ]
        features: dict[int, torch.Tensor] = {}
        for prompted in (False, True):
            group = [of for of in worth if (of in prompted_ids) is prompted]
            for some in _chunks(group, self._batch):
                batch = FramePrediction.join([predictions[of] for of in some])
                made = self._network.encode_memory(encoded_frame, batch, prompted)
                features.update((of, row.clone()) for of, row in zip(some, made, strict=True))
        for of, sight in predictions.items():
            stays = of not in self._banks or (of in prompted_ids and self._network.corrections_stay)
            bank = self._banks.setdefault(of, MemoryBank(self._network.limits, self._patience))
            pointer = sight.pointer[0].float().clone()
            bank.remember(features.get(of), pointer, prompted=stays, present=sight.is_present)

    def _becomes_lost(self, object_id: int) -> bool:
        """Whether one more frame of absence leaves it lost."""
        return (
            object_id in self._banks and self._banks[object_id].absent_frames + 1 >= self._patience
        )


def full_size_mask(prediction: FramePrediction, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The mask of one row at the size of the picture, (H, W)."""
    from torch.nn.functional import interpolate

    logits = prediction.logits.float()
    large = interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    mask: npt.NDArray[np.bool_] = (large[0, 0] > 0).cpu().numpy()
    return mask


def prompt_points(
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


def _tensor_to_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """As NumPy, which has no bfloat16: its bits as int16."""
    import torch

    plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    array: npt.NDArray[Any] = plain.cpu().numpy()
    return array


def _array_to_tensor(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    import torch

    tensor = torch.from_numpy(np.array(array)).to(device)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
