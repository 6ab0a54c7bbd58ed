"""Track objects frame by frame with a network of the SAM 2 family, in constant memory.

A frame is encoded once, whatever the number of objects. Objects with memories of the same
lengths go through the network as one batch. An object starts at its own first prompt and reads only
its own memory, so its masks are the same whichever other objects are tracked.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from annotate.device import choose_device
from annotate.errors import AnnotateError
from annotate.items.detections import tracked_detections
from annotate.items.records import Frame, Picture, Prompt, State
from annotate.items.sequences import chunks
from annotate.sam2.memory import (
    MemoryBank,
    MemoryContext,
    MemoryLimits,
    banks_from_arrays,
    banks_to_arrays,
)

if TYPE_CHECKING:
    import supervision as sv
    import torch


PRESENCE_BIAS = 6.0  # added for random weights, which would show most objects as absent


@dataclass(frozen=True, eq=False)
class FramePrediction:
    """The output of a network for n objects on one frame, a row each."""

    logits: torch.Tensor  # (n, 1, h, w): masks at the decoder's own size
    high_res_logits: torch.Tensor  # (n, 1, H, W): the same at the network's input size
    pointer: torch.Tensor  # (n, C)
    iou: torch.Tensor  # (n,): predicted, 0..1
    presence_logits: torch.Tensor  # (n,): positive where the object is visible

    def split_rows(self) -> Iterator[FramePrediction]:
        """Yield the prediction of each object."""
        columns = [getattr(self, field.name) for field in fields(self)]
        for row in range(len(self.presence_logits)):
            yield FramePrediction(*(column[row : row + 1] for column in columns))

    @staticmethod
    def join(predictions: Sequence[FramePrediction]) -> FramePrediction:
        """Concatenate predictions of one frame."""
        import torch

        names = [field.name for field in fields(FramePrediction)]
        return FramePrediction(
            *(torch.cat([getattr(each, name) for each in predictions]) for name in names)
        )

    @property
    def is_present(self) -> bool:
        """True if the object, of a single row, is visible."""
        return bool(self.presence_logits > 0)

    @property
    def confidence(self) -> float:
        """Compute the confidence of a single row: probability of presence times predicted IoU."""
        return float(self.presence_logits.sigmoid() * self.iou)


class TrackingNetwork(Protocol):
    """A network of the SAM 2 family, driven one frame at a time."""

    limits: MemoryLimits
    device: torch.device
    dtype: torch.dtype
    corrections_stay: bool  # a frame of a later prompt is read for ever, like the first one

    def encode(self, picture: Picture) -> Any:
        """Encode a frame once for all objects."""

    def track(self, encoded_frame: Any, contexts: Sequence[MemoryContext]) -> FramePrediction:
        """Predict objects from their memories; all contexts have the same lengths."""

    def predict_from_prompt(
        self,
        encoded_frame: Any,
        prompt: Prompt,
        context: MemoryContext | None,
        tracked: FramePrediction | None,
    ) -> FramePrediction:
        """Predict one object from a prompt.

        `context` is None for an object that has just started; `tracked` is its prediction by
        `track` on this very frame.
        """

    def encode_memory(
        self, encoded_frame: Any, prediction: FramePrediction, prompted: bool
    ) -> torch.Tensor:
        """Encode the mask memories of these objects, (n, ...)."""


def check_options(*, size: int | None, multiple: int, patience: int, batch: int | None) -> None:
    """Check the options that the engines of the family share.

    Raises:
        AnnotateError: names the option and what it may be.
    """
    if size is not None and (size < 1 or size % multiple):
        raise AnnotateError(f"size must be a multiple of {multiple}, such as 512, got {size}")
    for name, value in (("patience", patience), ("batch", batch)):
        if value is not None and value < 1:
            raise AnnotateError(f"{name} must be 1 or more, got {value}")


class StreamingPredictor:
    """A pass over a clip with a network: the session of the propagators of this family.

    An object that is not seen for `patience` frames is lost; `batch` is how many objects go through
    the network together.
    """

    def __init__(self, network: TrackingNetwork, patience: int, batch: int) -> None:
        self._network = network
        self._patience = patience
        self._batch = batch
        self._banks: dict[int, MemoryBank] = {}

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Track every object that has started onto this frame."""
        return _to_detections(frame, self.predict(frame, prompts))

    def preview(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Return the masks that `step` would give these objects; no memory is added."""
        ids = {prompt.object_id for prompt in prompts}
        banks = {key: bank for key, bank in self._banks.items() if key in ids}
        with self._inference():
            return _to_detections(frame, self._predict(frame, prompts, banks)[1])

    def predict(self, frame: Frame, prompts: Sequence[Prompt]) -> dict[int, FramePrediction]:
        """Predict every object that has started, by object, and add the frame to its memory."""
        if not self._banks and not prompts:
            return {}
        with self._inference():
            encoded_frame, predictions = self._predict(frame, prompts, self._banks)
            self._update_banks(encoded_frame, predictions, {each.object_id for each in prompts})
        return predictions

    @contextmanager
    def _inference(self) -> Iterator[None]:
        import torch

        device, dtype = self._network.device.type, self._network.dtype
        low = dtype != torch.float32
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=low):
            yield

    def _predict(
        self, frame: Frame, prompts: Sequence[Prompt], banks: Mapping[int, MemoryBank]
    ) -> tuple[Any, dict[int, FramePrediction]]:
        """Predict the objects of these banks and those that are prompted; also encode the frame."""
        encoded_frame = encode_once(self._network, frame.image)
        contexts = {key: bank.build_context() for key, bank in banks.items()}
        predictions = self._track_objects(encoded_frame, contexts)
        for prompt in {prompt.object_id: prompt for prompt in prompts}.values():
            object_id = prompt.object_id
            predictions[object_id] = self._network.predict_from_prompt(
                encoded_frame, prompt, contexts.get(object_id), predictions.get(object_id)
            )
        return encoded_frame, predictions

    def forget(self, object_ids: Iterable[int]) -> None:
        """Drop objects with their memories; the next prompt of one starts it again."""
        for object_id in object_ids:
            self._banks.pop(object_id, None)

    def state(self) -> State:
        """Return the memories of all objects as arrays."""
        return banks_to_arrays(self._banks, _tensor_to_array)

    def restore(self, state: State) -> None:
        """Restore the memories of `state`."""
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
        """Predict objects from memory; those with contexts of equal lengths go in batches."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for object_id, context in contexts.items():
            groups[context.lengths].append(object_id)
        predictions: dict[int, FramePrediction] = {}
        for group in groups.values():
            for batch in chunks(group, self._batch):
                rows = self._network.track(encoded_frame, [contexts[key] for key in batch])
                predictions.update(zip(batch, rows.split_rows(), strict=True))
        return {object_id: predictions[object_id] for object_id in contexts}

    def _update_banks(
        self, encoded_frame: Any, predictions: dict[int, FramePrediction], prompted_ids: set[int]
    ) -> None:
        """Add the frame to each object's bank; no mask memory is encoded for a lost object."""
        to_encode = [
            object_id
            for object_id, prediction in predictions.items()
            if prediction.is_present
            or object_id in prompted_ids
            or not self._becomes_lost(object_id)
        ]
        features: dict[int, torch.Tensor] = {}
        for prompted in (False, True):
            group = [key for key in to_encode if (key in prompted_ids) is prompted]
            for batch in chunks(group, self._batch):
                joined = FramePrediction.join([predictions[key] for key in batch])
                rows = self._network.encode_memory(encoded_frame, joined, prompted)
                features.update((key, row.clone()) for key, row in zip(batch, rows, strict=True))
        limits, corrections_stay = self._network.limits, self._network.corrections_stay
        for object_id, prediction in predictions.items():
            starts = object_id not in self._banks
            stays = starts or (object_id in prompted_ids and corrections_stay)
            bank = self._banks.setdefault(object_id, MemoryBank(limits, self._patience))
            pointer, present = prediction.pointer[0].float().clone(), prediction.is_present
            bank.remember(features.get(object_id), pointer, prompted=stays, present=present)

    def _becomes_lost(self, object_id: int) -> bool:
        """True if one more frame of absence makes the object lost."""
        bank = self._banks.get(object_id)
        return bank is not None and bank.absent_frames + 1 >= self._patience


_LAST_ENCODED: WeakKeyDictionary[TrackingNetwork, tuple[bytes, Any]] = WeakKeyDictionary()


def encode_once(network: TrackingNetwork, picture: Picture) -> Any:
    """Encode a frame, or return what was made of it when it was the last one of this network.

    So several sessions on one frame, and several clicks on it, encode it once.
    """
    digest = hashlib.blake2b(repr(picture.shape).encode() + picture.tobytes()).digest()
    last = _LAST_ENCODED.get(network)
    if last is None or last[0] != digest:
        last = _LAST_ENCODED[network] = digest, network.encode(picture)
    return last[1]


def _to_detections(frame: Frame, predictions: Mapping[int, FramePrediction]) -> sv.Detections:
    """Convert predictions by object; objects that are not visible have no row."""
    width, height = frame.size_wh
    return tracked_detections(
        (object_id, full_size_mask(each, height, width), each.confidence)
        for object_id, each in predictions.items()
        if each.is_present
    )


def full_size_mask(prediction: FramePrediction, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Enlarge the mask of a single row to the size of the picture, (H, W)."""
    from torch.nn.functional import interpolate

    logits = prediction.logits.float()
    large = interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    mask: npt.NDArray[np.bool_] = (large[0, 0] > 0).cpu().numpy()
    return mask


def prompt_points(
    prompt: Prompt, size_wh: tuple[int, int], side: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]] | None:
    """Convert a prompt to the family's points, (N, 2), and labels, (N,); None if it has neither.

    The points are in pixels of the network's input, a square of `side`. A box becomes two points
    before the others, labelled 2 and 3.
    """
    points, labels = prompt.points_xy.astype(np.float32), prompt.point_labels.astype(np.int32)
    if prompt.box is not None:
        points = np.concatenate([np.array(prompt.box, np.float32).reshape(2, 2), points])
        labels = np.concatenate([np.array([2, 3], np.int32), labels])
    if not len(points):
        return None
    scaled = points / np.array(size_wh, np.float32) * np.float32(side)
    return scaled.astype(np.float32), labels


def load_model(
    from_weights: Callable[[torch.device], Any],
    from_random: Callable[[torch.device], Any],
    device: str | None,
    dtype: str | None,
    seed: int | None,
) -> tuple[Any, torch.dtype]:
    """Load a model of the family onto a device, in inference mode; with a `seed`, random weights.

    Raises:
        MissingPackage, AnnotateError: see `annotate.device`.
    """
    import torch

    torch_device, torch_dtype = choose_device(device, dtype)
    if seed is None:
        model = from_weights(torch_device)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = from_random(torch_device)
    return model.eval().to(torch_device), torch_dtype


def _tensor_to_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """Convert a tensor to NumPy; bfloat16, which NumPy lacks, becomes its bits as int16."""
    import torch

    plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    array: npt.NDArray[Any] = plain.cpu().numpy()
    return array


def _array_to_tensor(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    import torch

    tensor = torch.from_numpy(np.array(array)).to(device)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
