"""Find and track every instance of a phrase with SAM 3 by `transformers`, without points.

The package's model is called frame by frame as the clip streams, with its own detector, tracker and
association rules. What its session would keep for ever is dropped once no later frame can read it.
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
from annotate.errors import PromptError, needs
from annotate.items.records import Frame, Prompt, State
from annotate.weights import identity
from annotate.weights.load_errors import one_line_errors
from annotate.weights.store import weights_path

if TYPE_CHECKING:
    import torch

    from annotate.propagators.job import PromptedFrame


# Fields of the session that are not saved: computed again, or of this machine.
TRANSIENT_FIELDS = {
    "cache",
    "processed_frames",
    "inference_device",
    "inference_state_device",
    "video_storage_device",
    "dtype",
    "prompt_embeddings",
}


@dataclass(frozen=True)
class Sam3Propagator:
    """SAM 3: every instance of `phrase`, such as "blue robot", becomes a track.

    `model` is a name in the manifest, or a folder with the files of `Sam3VideoModel`; its weights
    are gated: their owner, Meta, must give you access first. `dtype` is bfloat16 on CUDA and
    float32 elsewhere. A backward pass numbers its tracks by itself, from 1 on.
    """

    phrase: str = ""
    model: str = "sam3-hf"
    device: str | None = None
    dtype: str | None = None

    def ready(self) -> tuple[Any, Any, torch.dtype]:
        """Load the model, its processor and its dtype, or raise what is missing."""
        if not self.phrase.strip():
            raise PromptError('sam3 finds objects by a phrase, such as "blue robot": give `phrase`')
        for package in ("torch", "torchvision", "transformers"):
            needs(package)
        return _load(self.model, self.device, self.dtype, identity.weights_sha256(self.model))

    def begin(self, prompted_frames: Iterable[PromptedFrame]) -> Sam3Session:
        """Open a pass; the only prompt is the phrase."""
        model, processor, torch_dtype = self.ready()
        return Sam3Session(model, processor, torch_dtype, self.phrase.strip())


class Sam3Session:
    """One pass over a clip: the session of `transformers`, in constant memory."""

    def __init__(self, model: Any, processor: Any, dtype: torch.dtype, phrase: str) -> None:
        self._model = model
        self._processor = processor
        self._dtype = dtype
        self._session = processor.init_video_session(inference_device=model.device)
        processor.add_text_prompt(self._session, phrase)

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Find and track the instances on this frame; track ids start from 1."""
        if prompts:
            raise PromptError(
                f"sam3 finds objects by its phrase: the points of {frame.name} are not for it"
            )
        output = self._run_model(frame)
        ids = output["object_ids"].cpu().numpy()
        if not len(ids):
            return sv.Detections.empty()
        masks: npt.NDArray[np.bool_] = output["masks"].cpu().numpy().astype(bool)
        order = np.argsort(ids)
        visible = order[masks[order].any(axis=(1, 2))]
        return sv.Detections(
            xyxy=_masks_to_xyxy(masks[visible]),
            mask=masks[visible],
            confidence=output["scores"].float().cpu().numpy()[visible].astype(np.float64),
            tracker_id=ids[visible].astype(np.int64) + 1,
        )

    def state(self) -> State:
        """Return the session, saved by PyTorch into one array of bytes."""
        import torch

        fields: dict[str, Any] = {"ticks": len(self._session.processed_frames or ())}
        for name, value in vars(self._session).items():
            if name not in TRANSIENT_FIELDS:  # `torch.load` of plain data refuses a defaultdict
                fields[name] = dict(value) if isinstance(value, defaultdict) else value
        file = io.BytesIO()
        torch.save(fields, file)
        return {"session": np.frombuffer(file.getvalue(), np.uint8)}

    def restore(self, state: State) -> None:
        """Restore the session of `state`; only plain data is unpickled."""
        import torch

        file, session = io.BytesIO(state["session"].tobytes()), self._session
        with torch.serialization.safe_globals([set]):
            fields = torch.load(file, map_location=self._model.device, weights_only=True)
        session.processed_frames = dict.fromkeys(range(fields.pop("ticks"))) or None
        for name, value in fields.items():
            if isinstance(getattr(session, name, None), defaultdict):
                getattr(session, name).clear()
                getattr(session, name).update(value)
            else:
                setattr(session, name, value)

    def _run_model(self, frame: Frame) -> dict[str, Any]:
        """Run detector and tracker on a frame: object ids, masks and scores."""
        import torch

        # time is counted in steps of the pass, so that a backward pass needs no other code
        tick = len(self._session.processed_frames or ())
        low = self._dtype != torch.float32
        device = self._model.device.type
        with torch.inference_mode(), torch.autocast(device, self._dtype, enabled=low):
            inputs = self._processor.video_processor(
                videos=[frame.image[None]], return_tensors="pt"
            )
            pixels = inputs.pixel_values_videos[0][0].to(self._model.device)
            raw = self._model(self._session, frame=pixels, frame_idx=tick)
            shape = [list(frame.image.shape[:2])]
            output: dict[str, Any] = self._processor.postprocess_outputs(self._session, raw, shape)
        self._drop_unreadable(tick)
        return output

    def _drop_unreadable(self, tick: int) -> None:
        """Drop what no later frame can read; of the pictures only their number stays."""
        session, config = self._session, self._model.config.tracker_config
        session.processed_frames[tick] = None
        session.cache.clear_all()
        for by_frame in (session.obj_id_to_tracker_score_frame_wise, session.suppressed_obj_ids):
            for past in [past for past in by_frame if past < tick]:
                del by_frame[past]
        for frames in session.frames_tracked_per_obj.values():
            frames.clear()
        for outputs in session.output_dict_per_obj.values():
            _drop_old_outputs(outputs["cond_frame_outputs"], tick, config, prompted=True)
            _drop_old_outputs(outputs["non_cond_frame_outputs"], tick, config, prompted=False)


def _drop_old_outputs(
    outputs: dict[int, dict[str, Any]], tick: int, config: Any, *, prompted: bool
) -> None:
    """Drop the mask memories of old frames; drop still older frames, unless they are prompted."""
    limit = config.max_cond_frame_num
    readable = set(sorted(outputs)[-limit:] if limit > 0 else outputs) if prompted else set()
    for past in [past for past in outputs if past not in readable]:
        if not prompted and past <= tick + 1 - config.max_object_pointers_in_encoder:
            del outputs[past]
        elif past <= tick + 1 - config.num_maskmem:
            kept = ("object_pointer", "object_score_logits")
            outputs[past] = {name: outputs[past][name] for name in kept}


def _masks_to_xyxy(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    boxes: npt.NDArray[np.float64] = sv.mask_to_xyxy(masks).astype(np.float64)
    boxes[:, 2:] += 1  # supervision's end on the last pixel, ours after it
    return boxes


@lru_cache(maxsize=1)  # the passes of one run share it; the hash is only a part of the key
def _load(
    name: str, device: str | None, dtype: str | None, weights_sha256: str
) -> tuple[Any, Any, torch.dtype]:
    import transformers

    torch_device, torch_dtype = choose_device(device, dtype)
    path = weights_path(name)
    folder, cure = _model_folder(path), "give the folder of one"
    with one_line_errors(path, "is not a Sam3VideoModel of transformers", cure):
        model = transformers.Sam3VideoModel.from_pretrained(folder, local_files_only=True)
        processor = transformers.Sam3VideoProcessor.from_pretrained(folder, local_files_only=True)
    return model.eval().to(torch_device), processor, torch_dtype


def _model_folder(path: Path) -> Path:
    """Return the folder of the files; a model of one file has the path of that file."""
    return path if path.is_dir() else path.parent
