"""Run SAM 2 by Meta's own package, one frame and many objects at a time.

The model is built by the package's own builder from its own configuration. Only methods of the
package's `SAM2Base` are called: image encoder, memory attention, prompt encoder and mask decoder,
memory encoder. What its video predictor adds to them is done by `annotate.sam2.session`, in
constant memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from annotate.errors import UnknownName, WeightsError
from annotate.items.records import Picture, Prompt
from annotate.sam2.attention import LeanAttention
from annotate.sam2.memory import MemoryContext, MemoryLimits
from annotate.sam2.session import PRESENCE_BIAS, FramePrediction, load_model, prompt_points
from annotate.weights.load_errors import one_line_errors
from annotate.weights.store import weights_path

if TYPE_CHECKING:
    import torch


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB, 0..1
MAX_HOLE_AREA = 8  # pixels: the `fill_hole_area` of the package's predictor


@dataclass(eq=False)
class _Sam2EncodedFrame:
    """An encoded frame: feature maps, finest first."""

    features: list[torch.Tensor]  # (HW, 1, C) each
    positional_encodings: list[torch.Tensor]
    sizes_hw: list[tuple[int, int]]  # of the feature maps
    size_wh: tuple[int, int]  # of the picture
    self_attended: torch.Tensor | None = None  # see `LeanAttention.self_attend`

    def expanded_maps(self, n: int) -> list[torch.Tensor]:
        """Expand the feature maps to n objects."""
        return [feature.expand(-1, n, -1) for feature in self.features]

    def fine_maps(self, n: int) -> list[torch.Tensor]:
        """Expand the finer feature maps to n objects, (n, C, H, W)."""
        pairs = zip(self.features[:-1], self.sizes_hw[:-1], strict=True)
        return [flat.permute(1, 2, 0).unflatten(2, hw).expand(n, -1, -1, -1) for flat, hw in pairs]


class Sam2Network:
    """The package's `SAM2Base`, run one frame and many objects at a time."""

    corrections_stay = True

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        import torch

        self.model = model
        self.dtype = dtype
        self.device: torch.device = model.device
        max_prompted = model.max_cond_frames_in_attn
        self.limits = MemoryLimits(
            model.num_maskmem,
            model.max_obj_ptrs_in_encoder if model.use_obj_ptrs_in_encoder else 1,
            max_prompted if max_prompted > 0 else None,
        )
        lean = self.device.type == "cpu" and dtype == torch.float32
        self._lean_attention = LeanAttention(model.memory_attention) if lean else None
        self._fills_holes = self.device.type == "cuda" and find_spec("sam2._C") is not None
        side = model.sam_image_embedding_size
        with torch.inference_mode():
            blank = torch.zeros(1, model.mem_dim, side, side, device=self.device)
            self._spatial_encoding = (
                model.memory_encoder.position_encoding(blank).flatten(2).permute(2, 0, 1)
            )

    def encode(self, picture: Picture) -> _Sam2EncodedFrame:
        """Resize and normalise a picture as the package's predictor does, and encode it."""
        import torch

        side = self.model.image_size
        resized = np.asarray(Image.fromarray(picture).resize((side, side))) / 255.0
        pixels = torch.from_numpy(resized).permute(2, 0, 1).float()
        pixels -= torch.tensor(IMAGENET_MEAN)[:, None, None]
        pixels /= torch.tensor(IMAGENET_STD)[:, None, None]
        encoded = self.model.forward_image(pixels[None].to(self.device))
        _, features, positions, sizes = self.model._prepare_backbone_features(encoded)
        height, width = picture.shape[:2]
        return _Sam2EncodedFrame(features, positions, sizes, (width, height))

    def track(
        self, encoded_frame: _Sam2EncodedFrame, contexts: Sequence[MemoryContext]
    ) -> FramePrediction:
        """Predict objects from their memories: memory attention, then the decoder."""
        return self._decode(
            encoded_frame, self._attend_memory(encoded_frame, contexts), None, None, first=False
        )

    def predict_from_prompt(
        self,
        encoded_frame: _Sam2EncodedFrame,
        prompt: Prompt,
        context: MemoryContext | None,
        tracked: FramePrediction | None,
    ) -> FramePrediction:
        """Predict one object from a prompted mask alone, or else from points and memories."""
        if prompt.mask is not None:
            tracked = self._predict_from_mask(encoded_frame, prompt)
        points = prompt_points(prompt, encoded_frame.size_wh, self.model.image_size)
        if points is None and tracked is not None:
            return tracked
        features = (
            self._features_without_memory(encoded_frame)
            if context is None
            else self._attend_memory(encoded_frame, [context])
        )
        previous = None if tracked is None else tracked.logits.clamp(-32, 32)
        prediction = self._decode(encoded_frame, features, points, previous, first=context is None)
        return self._upsample(prediction)

    def encode_memory(
        self, encoded_frame: _Sam2EncodedFrame, prediction: FramePrediction, prompted: bool
    ) -> torch.Tensor:
        """Encode mask memories, (n, C, h, w), in bfloat16 as the package's predictor keeps them."""
        import torch

        features, _ = self.model._encode_new_memory(
            current_vision_feats=encoded_frame.expanded_maps(len(prediction.presence_logits)),
            feat_sizes=encoded_frame.sizes_hw,
            pred_masks_high_res=prediction.high_res_logits,
            object_score_logits=prediction.presence_logits[:, None],
            is_mask_from_pts=prompted,
        )
        return features.to(torch.bfloat16)

    def _attend_memory(
        self, encoded_frame: _Sam2EncodedFrame, contexts: Sequence[MemoryContext]
    ) -> torch.Tensor:
        """Condition the coarse features on the memories of each object, (n, C, H, W)."""
        import torch

        n, tokens_per_pointer = len(contexts), self.model.hidden_dim // self.model.mem_dim
        pointer_tokens = len(contexts[0].pointers) * tokens_per_pointer
        if self._lean_attention is not None:
            rows = [self._attend_memory_lean(encoded_frame, c, pointer_tokens) for c in contexts]
            return self._as_map(encoded_frame, torch.cat(rows, dim=1))
        tokens, encodings = zip(*map(self._context_tokens, contexts), strict=True)
        features = self.model.memory_attention(
            curr=[encoded_frame.features[-1].expand(-1, n, -1)],
            curr_pos=[encoded_frame.positional_encodings[-1].expand(-1, n, -1)],
            memory=torch.cat(tokens, dim=1),
            memory_pos=torch.cat(encodings, dim=1),
            num_obj_ptr_tokens=pointer_tokens,
        )
        return self._as_map(encoded_frame, features)

    def _attend_memory_lean(
        self, encoded_frame: _Sam2EncodedFrame, context: MemoryContext, pointer_token_count: int
    ) -> torch.Tensor:
        """Condition the coarse features on the memories of one object, on a CPU."""
        lean, encoding = self._lean_attention, encoded_frame.positional_encodings[-1]
        assert lean is not None
        if encoded_frame.self_attended is None:
            encoded_frame.self_attended = lean.self_attend(encoded_frame.features[-1], encoding)
        tokens, token_encodings = self._context_tokens(context)
        return lean.attend_memory(
            encoded_frame.self_attended, encoding, tokens, token_encodings, pointer_token_count
        )

    def _context_tokens(self, context: MemoryContext) -> tuple[torch.Tensor, torch.Tensor]:
        """Arrange one object's memories as tokens and their encodings in space and time.

        Both are (T, 1, C). A pointer is split into tokens of the memory's width.
        """
        import torch

        temporal = self.model.maskmem_tpos_enc
        tokens = [
            memory[None].flatten(2).permute(2, 0, 1).float() for _, memory in context.memories
        ]
        encodings = [self._spatial_encoding + temporal[age - 1] for age, _ in context.memories]
        if context.pointers:
            ages = [age for age, _ in context.pointers]
            pointers = torch.stack([pointer for _, pointer in context.pointers])
            tokens.append(pointers.reshape(-1, 1, self.model.mem_dim))
            repeats = len(tokens[-1]) // len(ages)
            encodings.append(self._temporal_encoding(ages).repeat_interleave(repeats, dim=0))
        return torch.cat(tokens), torch.cat(encodings)

    def _temporal_encoding(self, frames_back: list[int]) -> torch.Tensor:
        """Encode the ages of pointers, (P, 1, C)."""
        import torch
        from sam2.modeling.sam2_utils import get_1d_sine_pe

        model = self.model
        if not model.add_tpos_enc_to_obj_ptrs:
            return torch.zeros(len(frames_back), 1, model.mem_dim, device=self.device)
        times = torch.tensor(frames_back).to(self.device) / (self.limits.max_pointers - 1)
        width = model.hidden_dim if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim
        encoding: torch.Tensor = model.obj_ptr_tpos_proj(get_1d_sine_pe(times, dim=width))
        return encoding[:, None]

    def _features_without_memory(self, encoded_frame: _Sam2EncodedFrame) -> torch.Tensor:
        """Prepare the coarse features for one object without a memory."""
        features: torch.Tensor = self.model._prepare_memory_conditioned_features(
            frame_idx=0,
            is_init_cond_frame=True,
            current_vision_feats=encoded_frame.features[-1:],
            current_vision_pos_embeds=encoded_frame.positional_encodings[-1:],
            feat_sizes=encoded_frame.sizes_hw[-1:],
            output_dict={},
            num_frames=1,
        )
        return features

    def _decode(
        self,
        encoded_frame: _Sam2EncodedFrame,
        features: torch.Tensor,
        points: Any,
        previous_logits: Any,
        *,
        first: bool,
    ) -> FramePrediction:
        """Decode masks from features, (n, C, H, W), and a prompt, if there is one."""
        point_inputs = None if points is None else self._point_inputs(*points)
        _, _, ious, logits, high_res_logits, pointer, presence = self.model._forward_sam_heads(
            backbone_features=features,
            point_inputs=point_inputs,
            mask_inputs=previous_logits,
            high_res_features=encoded_frame.fine_maps(len(features)),
            multimask_output=self.model._use_multimask(first, point_inputs),
        )
        iou = ious.amax(dim=1).float().clamp(0, 1)
        return FramePrediction(
            self._fill_holes(logits), high_res_logits, pointer, iou, presence[:, 0].float()
        )

    def _point_inputs(self, points: Any, labels: Any) -> dict[str, torch.Tensor]:
        import torch

        return {
            "point_coords": torch.from_numpy(points)[None].to(self.device),
            "point_labels": torch.from_numpy(labels)[None].to(self.device),
        }

    def _predict_from_mask(
        self, encoded_frame: _Sam2EncodedFrame, prompt: Prompt
    ) -> FramePrediction:
        """Take a prompted mask as the prediction."""
        import torch
        from torch.nn.functional import interpolate

        side = self.model.image_size
        mask = torch.from_numpy(np.asarray(prompt.mask, np.float32))[None, None].to(self.device)
        if mask.shape[-2:] != (side, side):
            resized = interpolate(
                mask, size=(side, side), mode="bilinear", align_corners=False, antialias=True
            )
            mask = (resized >= 0.5).float()
        features = self._as_map(encoded_frame, encoded_frame.features[-1])
        _, _, ious, logits, _, pointer, presence = self.model._use_mask_as_output(
            features, encoded_frame.fine_maps(1), mask
        )
        prediction = FramePrediction(
            self._fill_holes(logits), logits, pointer, ious[:, 0], presence[:, 0].float()
        )
        return self._upsample(prediction)

    def _as_map(self, encoded_frame: _Sam2EncodedFrame, flat: torch.Tensor) -> torch.Tensor:
        """Rearrange (HW, n, C) as (n, C, H, W)."""
        return flat.permute(1, 2, 0).unflatten(2, encoded_frame.sizes_hw[-1])

    def _upsample(self, prediction: FramePrediction) -> FramePrediction:
        """Enlarge the output masks for the memory: prompted masks are remembered as output."""
        from torch.nn.functional import interpolate

        side = self.model.image_size
        high_res_logits = interpolate(
            prediction.logits, size=(side, side), mode="bilinear", align_corners=False
        )
        return replace(prediction, high_res_logits=high_res_logits)

    def _fill_holes(self, logits: torch.Tensor) -> torch.Tensor:
        """Fill small holes, as the predictor does where the package's CUDA extension was built."""
        if not self._fills_holes:
            return logits
        from sam2.utils.misc import fill_holes_in_mask_scores

        filled: torch.Tensor = fill_holes_in_mask_scores(logits, MAX_HOLE_AREA)
        return filled


_CURE = "give a whole checkpoint of SAM 2, or the name of a model, such as sam2.1-tiny"
SIZE_LETTERS = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
CONFIGS = {
    f"{family}-{size}": f"configs/{family}/{family}_hiera_{letter}.yaml"
    for family in ("sam2.1", "sam2")
    for size, letter in SIZE_LETTERS.items()
}


def build(config: str, checkpoint: Path | None, device: str, overrides: Iterable[str] = ()) -> Any:
    """Build a model by the package's own builder, set up as its video predictor is.

    Raises:
        WeightsError: the checkpoint is of another architecture.
    """
    from sam2.build_sam import build_sam2

    extra = ["++model.binarize_mask_from_pts_for_mem_enc=true", *overrides]
    path = None if checkpoint is None else str(checkpoint)
    with one_line_errors(checkpoint or Path(config), f"cannot be loaded into {config}", _CURE):
        return build_sam2(config, path, device, hydra_overrides_extra=extra)


@lru_cache(maxsize=1)  # the passes of one run share it
def load(
    name: str,
    device: str | None,
    dtype: str | None,
    size: int | None,
    compiled: bool,
    seed: int | None,
    weights_sha256: str = "",  # only a part of the cache's key: weights may be trained again
) -> Sam2Network:
    """Load SAM 2 by a name in the manifest or a checkpoint's path; with a `seed`, random weights.

    Raises:
        MissingWeights, WeightsError, UnknownName: there is no such checkpoint or architecture.
        MissingPackage, AnnotateError: see `annotate.device`.
    """
    overrides = () if size is None else (f"++model.image_size={size}",)

    def from_weights(torch_device: torch.device) -> Any:
        config, checkpoint = _config_and_checkpoint(name)
        return build(config, checkpoint, str(torch_device), overrides)

    def from_random(torch_device: torch.device) -> Any:
        model = build(_config_name(name), None, str(torch_device), overrides)
        bias_presence(model)
        return model

    model, torch_dtype = load_model(from_weights, from_random, device, dtype, seed)
    if compiled:
        for part in (model.image_encoder, model.memory_attention, model.memory_encoder):
            part.compile()
    return Sam2Network(model, torch_dtype)


def bias_presence(model: Any) -> None:
    """Bias random weights so that every object counts as present."""
    import torch

    head = model.sam_mask_decoder.pred_obj_score_head
    with torch.no_grad():
        (head.layers[-1] if hasattr(head, "layers") else head).bias += PRESENCE_BIAS


def _config_name(name: str) -> str:
    if name not in CONFIGS:
        raise UnknownName("SAM 2 model", name, CONFIGS)
    return CONFIGS[name]


def _config_and_checkpoint(name: str) -> tuple[str, Path]:
    """Find the configuration and the checkpoint of a name in the manifest, or of a path."""
    path = weights_path(name)
    return CONFIGS.get(name) or _config_of_checkpoint(path), path


def _config_of_checkpoint(checkpoint: Path) -> str:
    """Recognise the configuration of a checkpoint by the names and shapes of its tensors."""
    import torch

    with one_line_errors(checkpoint, "is not a checkpoint of SAM 2", _CURE):
        tensors = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["model"]
        width = tensors["image_encoder.trunk.patch_embed.proj.weight"].shape[0]
    trunk = [key.split(".") for key in tensors if key.startswith("image_encoder.trunk.blocks.")]
    blocks = len({block for _, _, _, block, *_ in trunk})
    sizes = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base-plus", (144, 48): "large"}
    if (width, blocks) not in sizes:
        known = ", ".join(CONFIGS)
        raise WeightsError(f"{checkpoint} is none of the architectures that are known: {known}")
    family = "sam2.1" if "no_obj_embed_spatial" in tensors else "sam2"
    return CONFIGS[f"{family}-{sizes[width, blocks]}"]
