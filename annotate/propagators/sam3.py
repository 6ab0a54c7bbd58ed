"""Find and follow every instance of a phrase with SAM 3 of `transformers`, without points.

The package's model is called frame by frame as the clip streams, with its own detector, tracker and
rules of association. What its session would keep for ever is dropped once no later frame can read
it.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import supervision as sv

from annotate.device import choose_device
from annotate.errors import PromptError, WeightsError, needs
from annotate.items.records import Frame, Prompt
from annotate.weights.store import weights_path

if TYPE_CHECKING:
    import torch

    from annotate.propagators.job import PromptedFrame, State


TRANSIENT_FIELDS = {"cache", "processed_frames", "inference_device", "inference_state_device"}
TRANSIENT_FIELDS |= {
    "video_storage_device",
    "dtype",
    "prompt_embeddings",
}  # made again, or the machine's


@dataclass(frozen=True)
class Sam3Propagator:
    """SAM 3: `phrase` says what to look for, as "blue robot"; every instance becomes a track.

    `model` is a name in the manifest, or a folder with the files of `Sam3VideoModel`; its weights
    are gated: their owner, Meta, must give you access first. `dtype` is bfloat16 on CUDA and
    float32 elsewhere. A backward pass finds its own tracks: what it numbers 1 is its first.
    """

    phrase: str = ""
    model: str = "sam3-hf"
    device: str | None = None
    dtype: str | None = None

    def ready(self) -> tuple[Any, Any, torch.dtype]:
        """The model, its processor and its numbers, or an error that says what is missing."""
        if not self.phrase.strip():
            raise PromptError('sam3 is told what to look for by a phrase, such as "blue robot"')
        for package in ("torch", "torchvision", "transformers"):
            needs(package)
        return _load(self.model, self.device, self.dtype)

    def begin(self, prompted_frames: Iterable[PromptedFrame]) -> Sam3Session:
        """Open a pass; there is nothing to learn from but the phrase."""
        model, processor, kind = self.ready()
        return Sam3Session(model, processor, kind, self.phrase.strip())


class Sam3Session:
    """One pass over a clip; the package's session, kept small."""

    def __init__(self, model: Any, processor: Any, dtype: torch.dtype, phrase: str) -> None:
        self._model = model
        self._processor = processor
        self._dtype = dtype
        self._session = processor.init_video_session(inference_device=model.device)
        processor.add_text_prompt(self._session, phrase)

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Find and follow onto this frame; the ids of tracks start from 1."""
        if prompts:
            raise PromptError(
                f"sam3 finds by its phrase: the points of {frame.name} are not for it"
            )
        found = self._run_model(frame)
        ids = found["object_ids"].cpu().numpy()
        if not len(ids):
            return sv.Detections.empty()
        masks: npt.NDArray[np.bool_] = found["masks"].cpu().numpy().astype(bool)
        order = np.argsort(ids)
        seen = order[masks[order].any(axis=(1, 2))]
        return sv.Detections(
            xyxy=_masks_to_xyxy(masks[seen]),
            mask=masks[seen],
            confidence=found["scores"].float().cpu().numpy()[seen].astype(np.float64),
            tracker_id=ids[seen].astype(np.int64) + 1,
        )

    def state(self) -> State:
        """The session as it stands, packed by PyTorch into one array of bytes."""
        import torch

        kept: dict[str, Any] = {"ticks": len(self._session.processed_frames or ())}
        for name, held in vars(self._session).items():
            if name not in TRANSIENT_FIELDS:  # PyTorch unpacks no defaultdict from plain data
                kept[name] = dict(held) if isinstance(held, defaultdict) else held
        packed = io.BytesIO()
        torch.save(kept, packed)
        return {"session": np.frombuffer(packed.getvalue(), np.uint8)}

    def restore(self, state: State) -> None:
        """Take up the session of `state`; nothing but plain data is unpacked."""
        import torch

        packed, session = io.BytesIO(state["session"].tobytes()), self._session
        with torch.serialization.safe_globals([set]):
            kept = torch.load(packed, map_location=self._model.device, weights_only=True)
        session.processed_frames = dict.fromkeys(range(kept.pop("ticks"))) or None
        for name, held in kept.items():
            if isinstance(getattr(session, name, None), defaultdict):
                getattr(session, name).clear()
                getattr(session, name).update(held)
            else:
                setattr(session, name, held)

    def _run_model(self, frame: Frame) -> dict[str, Any]:
        import torch

        # time is counted in steps of the pass, so that a backward pass is like any other
        tick = len(self._session.processed_frames or ())
        low = self._dtype != torch.float32
        device = self._model.device.type
        with torch.inference_mode(), torch.autocast(device, self._dtype, enabled=low):
            done = self._processor.video_processor(videos=[frame.image[None]], return_tensors="pt")
            pixels = done.pixel_values_videos[0][0].to(self._model.device)
            seen = self._model(self._session, frame=pixels, frame_idx=tick)
            shape = [list(frame.image.shape[:2])]
            found: dict[str, Any] = self._processor.postprocess_outputs(self._session, seen, shape)
        self._drop_unreadable(tick)
        return found

    def _drop_unreadable(self, tick: int) -> None:
        """What no later frame can read; only the count of the frames stays of their pictures."""
        session, config = self._session, self._model.config.tracker_config
        session.processed_frames[tick] = None
        session.cache.clear_all()
        for by_frame in (session.obj_id_to_tracker_score_frame_wise, session.suppressed_obj_ids):
            for past in [past for past in by_frame if past < tick]:
                del by_frame[past]
        for tracked in session.frames_tracked_per_obj.values():
            tracked.clear()
        for held in session.output_dict_per_obj.values():
            _drop_old_outputs(held["cond_frame_outputs"], tick, config, prompted=True)
            _drop_old_outputs(held["non_cond_frame_outputs"], tick, config, prompted=False)


def _drop_old_outputs(
    outputs: dict[int, dict[str, Any]], tick: int, config: Any, *, prompted: bool
) -> None:
    """Of old frames only the pointer; of older ones that nobody prompted, nothing."""
    most = config.max_cond_frame_num
    chosen = set(sorted(outputs)[-most:] if most > 0 else outputs) if prompted else set()
    for past in [past for past in outputs if past not in chosen]:
        if not prompted and past <= tick + 1 - config.max_object_pointers_in_encoder:
            del outputs[past]
        elif past <= tick + 1 - config.num_maskmem:
            kept = ("object_pointer", "object_score_logits")
            outputs[past] = {name: outputs[past][name] for name in kept}


def _masks_to_xyxy(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    boxes: npt.NDArray[np.float64] = sv.mask_to_xyxy(masks).astype(np.float64)
    boxes[:, 2:] += 1  # theirs end on the last pixel, ours after it
    return boxes


@lru_cache(maxsize=1)  # the passes of one run share it
def _load(name: str, device: str | None, dtype: str | None) -> tuple[Any, Any, torch.dtype]:
    import transformers

    place, kind = choose_device(device, dtype)
    folder = _model_folder(weights_path(name))
    try:
        model = transformers.Sam3VideoModel.from_pretrained(folder, local_files_only=True)
        processor = transformers.Sam3VideoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{folder} is not a Sam3VideoModel of transformers: {error}") from error
    return model.eval().to(place), processor, kind


def _model_folder(path: Path) -> Path:
    """Where the files lie: a model of one file is named by that."""
    return path if path.is_dir() else path.parent
