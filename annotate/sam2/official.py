"""Drive SAM 2 by Meta's own package, one frame and many objects at a time.

The model is built by the package's own builder from its own configuration. Only methods of the
package's `SAM2Base` are called: image encoder, memory attention, prompt encoder and mask decoder,
memory encoder. The bookkeeping that its video predictor adds is done by `annotate.sam2.session`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from annotate.device import choose_device
from annotate.errors import UnknownName, WeightsError
from annotate.items.records import Picture, Prompt
from annotate.sam2.attention import LeanAttention
from annotate.sam2.session import FramePrediction, MemoryContext, MemoryLimits, prompt_points
from annotate.weights.store import weights_path

if TYPE_CHECKING:
    import torch


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB, 0..1
MAX_HOLE_AREA = 8  # the predictor's `fill_hole_area`


@dataclass(eq=False)
class _Sam2EncodedFrame:
    """A frame, encoded: feature maps, finest first, (HW, 1, C), and what the decoder wants."""

    features: list[torch.Tensor]
    positional_encodings: list[torch.Tensor]
    sizes_hw: list[tuple[int, int]]
    size_wh: tuple[int, int]
    self_attended: torch.Tensor | None = None  # by the memory attention, without a memory

    def expanded_maps(self, n: int) -> list[torch.Tensor]:
        """The maps, for n objects."""
        return [feature.expand(-1, n, -1) for feature in self.features]

    def fine_maps(self, n: int) -> list[torch.Tensor]:
        """The finer maps, for n objects, (n, C, H, W)."""
        flat = zip(self.features[:-1], self.sizes_hw[:-1], strict=True)
        return [map_.permute(1, 2, 0).unflatten(2, hw).expand(n, -1, -1, -1) for map_, hw in flat]


class Sam2Network:
    """The package's `SAM2Base`, driven one frame and many objects at a time."""

    corrections_stay = True

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        import torch

        self.model = model
        self.dtype = dtype
        self.device: torch.device = model.device
        most = model.max_cond_frames_in_attn
        self.limits = MemoryLimits(
            model.num_maskmem,
            model.max_obj_ptrs_in_encoder if model.use_obj_ptrs_in_encoder else 1,
            most if most > 0 else None,
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
        """Resized and normalised as the predictor's loader of pictures does it."""
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
        """Memory attention, then the decoder without a prompt."""
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
        """By the mask alone, if that is all there is; else by the points, from what is known."""
        if prompt.mask is not None:
            tracked = self._predict_from_mask(encoded_frame, prompt)
        points = prompt_points(prompt, encoded_frame.size_wh, self.model.image_size)
        if points is None and tracked is not None:
            return tracked
        seen = (
            self._features_without_memory(encoded_frame)
            if context is None
            else self._attend_memory(encoded_frame, [context])
        )
        previous = None if tracked is None else tracked.logits.clamp(-32, 32)
        sight = self._decode(encoded_frame, seen, points, previous, first=context is None)
        return self._upsample(sight)

    def encode_memory(
        self, encoded_frame: _Sam2EncodedFrame, prediction: FramePrediction, prompted: bool
    ) -> torch.Tensor:
        """(n, C, h, w), in bfloat16 as the predictor keeps them."""
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
        """The coarse features, (n, C, H, W), in the light of what each object remembers."""
        import torch

        n, split = len(contexts), self.model.hidden_dim // self.model.mem_dim
        pieces = len(contexts[0].pointers) * split
        if self._lean_attention is not None:
            seen = torch.cat(
                [self._attend_memory_lean(encoded_frame, recall, pieces) for recall in contexts],
                dim=1,
            )
            return self._as_map(encoded_frame, seen)
        tokens, places = zip(*map(self._context_tokens, contexts), strict=True)
        seen = self.model.memory_attention(
            curr=[encoded_frame.features[-1].expand(-1, n, -1)],
            curr_pos=[encoded_frame.positional_encodings[-1].expand(-1, n, -1)],
            memory=torch.cat(tokens, dim=1),
            memory_pos=torch.cat(places, dim=1),
            num_obj_ptr_tokens=pieces,
        )
        return self._as_map(encoded_frame, seen)

    def _attend_memory_lean(
        self, encoded_frame: _Sam2EncodedFrame, context: MemoryContext, pointer_token_count: int
    ) -> torch.Tensor:
        """The same for one object, on a processor."""
        lean, place = self._lean_attention, encoded_frame.positional_encodings[-1]
        assert lean is not None
        if encoded_frame.self_attended is None:
            encoded_frame.self_attended = lean.self_attend(encoded_frame.features[-1], place)
        return lean.attend_memory(
            encoded_frame.self_attended, place, *self._context_tokens(context), pointer_token_count
        )

    def _context_tokens(self, context: MemoryContext) -> tuple[torch.Tensor, torch.Tensor]:
        """One object's memories as tokens, (T, 1, C), and where in space and time each belongs."""
        import torch

        ages = self.model.maskmem_tpos_enc
        tokens = [
            memory[None].flatten(2).permute(2, 0, 1).float() for _, memory in context.memories
        ]
        places = [self._spatial_encoding + ages[back - 1] for back, _ in context.memories]
        if context.pointers:
            pointers = torch.stack([pointer for _, pointer in context.pointers])
            pieces = pointers.reshape(-1, 1, self.model.mem_dim)
            tokens.append(pieces)
            backs = [back for back, _ in context.pointers]
            places.append(
                self._temporal_encoding(backs).repeat_interleave(len(pieces) // len(backs), dim=0)
            )
        return torch.cat(tokens), torch.cat(places)

    def _temporal_encoding(self, frames_back: list[int]) -> torch.Tensor:
        """Where in time pointers belong, (P, 1, C)."""
        import torch
        from sam2.modeling.sam2_utils import get_1d_sine_pe

        model = self.model
        if not model.add_tpos_enc_to_obj_ptrs:
            return torch.zeros(len(frames_back), 1, model.mem_dim, device=self.device)
        times = torch.tensor(frames_back).to(self.device) / (self.limits.max_pointers - 1)
        width = model.hidden_dim if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim
        when: torch.Tensor = model.obj_ptr_tpos_proj(get_1d_sine_pe(times, dim=width))
        return when[:, None]

    def _features_without_memory(self, encoded_frame: _Sam2EncodedFrame) -> torch.Tensor:
        """The coarse features of one object that remembers nothing."""
        seen: torch.Tensor = self.model._prepare_memory_conditioned_features(
            frame_idx=0,
            is_init_cond_frame=True,
            current_vision_feats=encoded_frame.features[-1:],
            current_vision_pos_embeds=encoded_frame.positional_encodings[-1:],
            feat_sizes=encoded_frame.sizes_hw[-1:],
            output_dict={},
            num_frames=1,
        )
        return seen

    def _decode(
        self,
        encoded_frame: _Sam2EncodedFrame,
        features: torch.Tensor,
        points: Any,
        previous_logits: Any,
        *,
        first: bool,
    ) -> FramePrediction:
        given = None if points is None else self._point_inputs(*points)
        _, _, ious, logits, enlarged, pointer, presence = self.model._forward_sam_heads(
            backbone_features=features,
            point_inputs=given,
            mask_inputs=previous_logits,
            high_res_features=encoded_frame.fine_maps(len(features)),
            multimask_output=self.model._use_multimask(first, given),
        )
        iou = ious.amax(dim=1).float().clamp(0, 1)
        return FramePrediction(
            self._fill_holes(logits), enlarged, pointer, iou, presence[:, 0].float()
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
        """A mask that a person gave, taken as it is."""
        import torch
        from torch.nn.functional import interpolate

        side = self.model.image_size
        given = torch.from_numpy(np.asarray(prompt.mask, np.float32))[None, None].to(self.device)
        if given.shape[-2:] != (side, side):
            resized = interpolate(
                given, size=(side, side), mode="bilinear", align_corners=False, antialias=True
            )
            given = (resized >= 0.5).float()
        seen = self._as_map(encoded_frame, encoded_frame.features[-1])
        found = self.model._use_mask_as_output(seen, encoded_frame.fine_maps(1), given)
        _, _, ious, logits, _, pointer, presence = found
        sight = FramePrediction(
            self._fill_holes(logits), logits, pointer, ious[:, 0], presence[:, 0].float()
        )
        return self._upsample(sight)

    def _as_map(self, encoded_frame: _Sam2EncodedFrame, flat: torch.Tensor) -> torch.Tensor:
        """(HW, n, C) as (n, C, H, W)."""
        return flat.permute(1, 2, 0).unflatten(2, encoded_frame.sizes_hw[-1])

    def _upsample(self, prediction: FramePrediction) -> FramePrediction:
        """Prompted masks are remembered as they were shown, so enlarged from what was shown."""
        from torch.nn.functional import interpolate

        side = self.model.image_size
        shape = (side, side)
        enlarged = interpolate(prediction.logits, size=shape, mode="bilinear", align_corners=False)
        return replace(prediction, high_res_logits=enlarged)

    def _fill_holes(self, logits: torch.Tensor) -> torch.Tensor:
        """Small holes filled, as the predictor does where the package's CUDA code was built."""
        if not self._fills_holes:
            return logits
        from sam2.utils.misc import fill_holes_in_mask_scores

        filled: torch.Tensor = fill_holes_in_mask_scores(logits, MAX_HOLE_AREA)
        return filled


SIZE_LETTERS = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
CONFIGS = {
    f"{family}-{size}": f"configs/{family}/{family}_hiera_{letter}.yaml"
    for family in ("sam2.1", "sam2")
    for size, letter in SIZE_LETTERS.items()
}
PRESENCE_BIAS = 6.0  # of random weights: a network that sees nothing shows nothing of the machinery


def build(config: str, checkpoint: Path | None, device: str, overrides: Iterable[str] = ()) -> Any:
    """The package's model by its own builder, set up as its video predictor is.

    Raises:
        WeightsError: when the checkpoint is not of that architecture.
    """
    from sam2.build_sam import build_sam2

    extra = ["++model.binarize_mask_from_pts_for_mem_enc=true", *overrides]
    path = None if checkpoint is None else str(checkpoint)
    try:
        return build_sam2(config, path, device, hydra_overrides_extra=extra)
    except (RuntimeError, KeyError, OSError, ValueError) as error:
        reason = f"cannot be loaded into {config}: {error}"
        raise WeightsError(f"{checkpoint or config} {reason}") from error


@lru_cache(maxsize=1)  # the passes of one run share it
def load(
    name: str,
    device: str | None,
    dtype: str | None,
    size: int | None,
    compiled: bool,
    seed: int | None,
) -> Sam2Network:
    """The network `name`, in the manifest or a checkpoint's path; with a `seed`, random weights.

    Raises:
        MissingWeights, WeightsError, UnknownName: it cannot be had.
        MissingPackage, AnnotateError: see `annotate.device`.
    """
    import torch

    place, kind = choose_device(device, dtype)
    sized = () if size is None else (f"++model.image_size={size}",)
    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build(_config_name(name), None, str(place), sized)
        bias_presence(model)
    else:
        config, checkpoint = _config_and_checkpoint(name)
        model = build(config, checkpoint, str(place), sized)
    if compiled:
        for part in (model.image_encoder, model.memory_attention, model.memory_encoder):
            part.compile()
    return Sam2Network(model, kind)


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
    """Configuration and checkpoint of a name in the manifest, or of a checkpoint's path."""
    path = weights_path(name)
    return CONFIGS.get(name) or _config_of_checkpoint(path), path


def _config_of_checkpoint(checkpoint: Path) -> str:
    """Which configuration a checkpoint is of, by the shapes of what it holds."""
    import torch

    try:
        held = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["model"]
        width = held["image_encoder.trunk.patch_embed.proj.weight"].shape[0]
    except (OSError, RuntimeError, KeyError, TypeError, UnpicklingError) as error:
        raise WeightsError(f"{checkpoint} is not a checkpoint of SAM 2: {error}") from error
    trunk = [key.split(".") for key in held if key.startswith("image_encoder.trunk.blocks.")]
    blocks = len({block for _, _, _, block, *_ in trunk})
    sizes = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base-plus", (144, 48): "large"}
    if (width, blocks) not in sizes:
        raise WeightsError(f"{checkpoint} is of none of the architectures {', '.join(CONFIGS)}")
    family = "sam2.1" if "no_obj_embed_spatial" in held else "sam2"
    return CONFIGS[f"{family}-{sizes[width, blocks]}"]
