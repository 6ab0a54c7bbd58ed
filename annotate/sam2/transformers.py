"""Drive the SAM 2 family of `transformers`, one frame and many objects at a time.

Only modules of `Sam2VideoModel` and `EdgeTamVideoModel` are called, and the methods that both have.
Their inference session, which keeps every frame, is not used. Weights are read from a folder on
this machine; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate.device import choose_device
from annotate.errors import UnknownName, WeightsError
from annotate.items.records import Picture, Prompt
from annotate.sam2.session import FramePrediction, MemoryContext, MemoryLimits, prompt_points
from annotate.weights.store import weights_path

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class _TransformersEncodedFrame:
    """A frame, encoded: feature maps, finest first, (HW, 1, C), and the coarse one's positions."""

    features: list[torch.Tensor]
    positional_encoding: torch.Tensor
    fine_maps: list[torch.Tensor]
    size_wh: tuple[int, int]


class TransformersNetwork:
    """A `Sam2VideoModel` or `EdgeTamVideoModel`."""

    corrections_stay = False  # the session of transformers takes them as frames among others

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        import torch
        from transformers import Sam2VideoVideoProcessor

        self.model = model
        self.dtype = dtype
        self.device: torch.device = model.device
        config = model.config
        most = config.max_cond_frame_num
        self.limits = MemoryLimits(
            config.num_maskmem, config.max_object_pointers_in_encoder, most if most > 0 else None
        )
        self._resamples = hasattr(model, "spatial_perceiver")
        side = model.image_size
        self._process = Sam2VideoVideoProcessor(size={"height": side, "width": side})
        with torch.inference_mode():
            coarse = torch.zeros(model.backbone_feature_sizes[-1], device=self.device)
            flat = coarse.flatten()[:, None, None].expand(-1, 1, model.hidden_dim)
            masks = torch.zeros(1, 1, side, side, device=self.device)
            self._spatial_encoding = self._memory_tokens(
                flat, masks, torch.ones(1, device=self.device), False
            )[1]

    def encode(self, picture: Picture) -> _TransformersEncodedFrame:
        """Resized and normalised by the package's own processor."""
        import torch

        video = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        done = self._process(videos=[video], return_tensors="pt")
        pixels = done.pixel_values_videos[0].to(self.device)
        found = self.model.get_image_features(pixels, return_dict=True)
        features = list(found.fpn_hidden_states)
        sizes = self.model.backbone_feature_sizes
        fine = [
            flat.permute(1, 2, 0).unflatten(2, tuple(size))
            for flat, size in zip(features[:-1], sizes[:-1], strict=True)
        ]
        height, width = picture.shape[:2]
        return _TransformersEncodedFrame(
            features, found.fpn_position_encoding[-1], fine, (width, height)
        )

    def track(
        self, encoded_frame: _TransformersEncodedFrame, contexts: Sequence[MemoryContext]
    ) -> FramePrediction:
        """Memory attention, then the decoder without a prompt."""
        return self._decode(
            encoded_frame, self._attend_memory(encoded_frame, contexts), None, first=False
        )

    def predict_from_prompt(
        self,
        encoded_frame: _TransformersEncodedFrame,
        prompt: Prompt,
        context: MemoryContext | None,
        tracked: FramePrediction | None,
    ) -> FramePrediction:
        """By the mask, if there is one; else by the points, from what is remembered."""
        if prompt.mask is not None:
            return self._predict_from_mask(encoded_frame, prompt)
        points = prompt_points(prompt, encoded_frame.size_wh, self.model.image_size)
        if points is None and tracked is not None:
            return tracked
        if context is None:
            seen = self._as_map(encoded_frame.features[-1] + self.model.no_memory_embedding)
        else:
            seen = self._attend_memory(encoded_frame, [context])
        return self._decode(encoded_frame, seen, points, first=context is None)

    def encode_memory(
        self, encoded_frame: _TransformersEncodedFrame, prediction: FramePrediction, prompted: bool
    ) -> torch.Tensor:
        """(n, T, C): a token for each place of the coarse map, or each latent of EdgeTAM."""
        import torch

        # EdgeTAM's resampler takes one object at a time
        batches = list(prediction.split_rows()) if self._resamples else [prediction]
        made = [
            self._memory_tokens(
                encoded_frame.features[-1].expand(-1, len(batch.presence_logits), -1),
                batch.high_res_logits,
                batch.presence_logits,
                prompted,
            )[0]
            for batch in batches
        ]
        return torch.cat(made)

    def _memory_tokens(
        self,
        coarse_features: torch.Tensor,
        masks: torch.Tensor,
        presence_logits: torch.Tensor,
        prompted: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and where in space they belong, both (n, T, C)."""
        tokens, places = self.model._encode_new_memory(
            current_vision_feats=coarse_features,
            pred_masks_high_res=masks,
            object_score_logits=presence_logits[:, None, None],
            is_mask_from_pts=prompted,
        )
        if self._resamples:
            return tokens, places
        return tokens.permute(1, 0, 2), places.permute(1, 0, 2)

    def _attend_memory(
        self, encoded_frame: _TransformersEncodedFrame, contexts: Sequence[MemoryContext]
    ) -> torch.Tensor:
        """The coarse features, (n, C, H, W), in the light of what each object remembers."""
        import torch

        tokens, places = zip(*map(self._context_tokens, contexts), strict=True)
        n = len(contexts)
        split = self.model.hidden_dim // self.model.mem_dim
        more = {"num_spatial_memory_tokens": len(contexts[0].memories)} if self._resamples else {}
        seen = self.model.memory_attention(
            current_vision_features=encoded_frame.features[-1].expand(-1, n, -1),
            current_vision_position_embeddings=encoded_frame.positional_encoding.expand(-1, n, -1),
            memory=torch.stack(tokens, dim=1),
            memory_posision_embeddings=torch.stack(places, dim=1),  # spelt so by the package
            num_object_pointer_tokens=len(contexts[0].pointers) * split,
            **more,
        )
        return self._as_map(seen[0].transpose(0, 1))

    def _context_tokens(self, context: MemoryContext) -> tuple[torch.Tensor, torch.Tensor]:
        """One object's memories as tokens, (T, C), and where in space and time each belongs."""
        import torch

        model = self.model
        ages = model.memory_temporal_positional_encoding[:, 0]
        tokens = [memory.float() for _, memory in context.memories]
        places = [
            self._spatial_encoding[0].float() + ages[back - 1] for back, _ in context.memories
        ]
        backs = [back for back, _ in context.pointers]
        pointers = torch.stack([pointer for _, pointer in context.pointers])
        alike, most = [pointers[:1]] * len(backs), self.limits.max_pointers
        when = model._process_object_pointers(backs, alike, most, 1, model.hidden_dim, self.device)[
            1
        ]
        tokens.append(pointers.reshape(-1, model.mem_dim))
        return torch.cat(tokens), torch.cat([*places, when[:, 0]])

    def _decode(
        self,
        encoded_frame: _TransformersEncodedFrame,
        features: torch.Tensor,
        points: Any,
        *,
        first: bool,
    ) -> FramePrediction:
        import torch

        n = len(features)
        model = self.model
        given = None if points is None else self._point_inputs(*points)
        several = model._use_multimask(first, given)
        spots, labels = self._empty_point_inputs(n) if given is None else given.values()
        sparse, dense = model.prompt_encoder(spots, labels, None, None)
        logits, ious, tokens, presence = model.mask_decoder(
            image_embeddings=features,
            image_positional_embeddings=model.get_image_wide_positional_embeddings().repeat(
                n, 1, 1, 1
            ),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            high_resolution_features=[
                map_.expand(n, -1, -1, -1) for map_ in encoded_frame.fine_maps
            ],
        )
        best, rows = ious[:, 0].argmax(dim=-1), torch.arange(n, device=self.device)
        token = tokens[rows, 0, best if tokens.shape[2] > 1 else 0]
        return self._make_prediction(
            logits[rows, 0, best], ious[rows, 0, best], token, presence.reshape(n)
        )

    def _make_prediction(
        self,
        logits: torch.Tensor,
        iou: torch.Tensor,
        mask_token: torch.Tensor,
        presence_logits: torch.Tensor,
    ) -> FramePrediction:
        """Of the chosen masks, (n, h, w); what is absent is nowhere, and has no pointer."""
        import torch
        from torch.nn.functional import interpolate
        from transformers.models.sam2_video.modeling_sam2_video import NO_OBJ_SCORE

        model = self.model
        there = presence_logits[:, None] > 0
        shown = torch.where(there[..., None], logits, NO_OBJ_SCORE).float()[:, None]
        side = (model.image_size, model.image_size)
        enlarged = interpolate(shown, size=side, mode="bilinear", align_corners=False)
        pointer = torch.where(there, model.object_pointer_proj(mask_token), model.no_object_pointer)
        return FramePrediction(
            shown, enlarged, pointer, iou.float().clamp(0, 1), presence_logits.float()
        )

    def _point_inputs(self, points: Any, labels: Any) -> dict[str, torch.Tensor]:
        import torch

        return {
            "point_coords": torch.from_numpy(points)[None, None].to(self.device),
            "point_labels": torch.from_numpy(labels)[None, None].to(self.device),
        }

    def _empty_point_inputs(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        spots = torch.zeros(n, 1, 1, 2, device=self.device)
        return spots, -torch.ones(n, 1, 1, dtype=torch.int32, device=self.device)

    def _predict_from_mask(
        self, encoded_frame: _TransformersEncodedFrame, prompt: Prompt
    ) -> FramePrediction:
        """A mask that a person gave, taken as it is."""
        import torch
        from torch.nn.functional import interpolate

        size = (self.model.image_size, self.model.image_size)
        given = torch.from_numpy(np.asarray(prompt.mask, np.float32))[None, None].to(self.device)
        if given.shape[-2:] != size:
            given = interpolate(
                given, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        coarse = self._as_map(encoded_frame.features[-1])
        found = self.model._use_mask_as_output(
            coarse, encoded_frame.fine_maps, (given >= 0.5).float()
        )
        presence = found.object_score_logits.reshape(1)
        pointer = found.object_pointer.reshape(1, -1)
        enlarged = found.high_res_masks.float()
        iou = torch.ones(1, device=self.device)
        return FramePrediction(found.pred_masks.float(), enlarged, pointer, iou, presence.float())

    def _as_map(self, flat: torch.Tensor) -> torch.Tensor:
        """(HW, n, C) as (n, C, H, W)."""
        return flat.permute(1, 2, 0).unflatten(2, tuple(self.model.backbone_feature_sizes[-1]))


MODEL_CLASSES = {"sam2_video": "Sam2VideoModel", "edgetam_video": "EdgeTamVideoModel"}
PRESENCE_BIAS = 6.0  # of random weights: a network that sees nothing shows nothing of the machinery


@lru_cache(maxsize=1)  # the passes of one run share it
def load(
    name: str,
    device: str | None,
    dtype: str | None,
    size: int | None,
    compiled: bool,
    seed: int | None,
) -> TransformersNetwork:
    """Load a model of the SAM 2 family from transformers, ready for inference."""
    import torch

    place, kind = choose_device(device, dtype)
    if seed is None:
        model = _load_folder(weights_path(name), size)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build_random(with_input_size(_random_config(name), size))
        bias_presence(model)
    model = model.eval().to(place)
    if compiled:
        for part in (model.vision_encoder, model.memory_attention, model.memory_encoder):
            part.compile()
    return TransformersNetwork(model, kind)


def build_random(config: Any) -> Any:
    """The network of a configuration, its weights drawn at random."""
    import transformers

    return getattr(transformers, MODEL_CLASSES[config.model_type])(config)


def with_input_size(config: Any, side: int | None) -> Any:
    """The configuration for another size of input."""
    if side is not None:
        config.image_size = config.prompt_encoder_config.image_size = side
        sizes = [[side // stride] * 2 for stride in (4, 8, 16)]
        config.vision_config.backbone_feature_sizes = sizes
        config.memory_attention_rope_feat_sizes = sizes[-1]
    return config


def bias_presence(model: Any) -> None:
    """Bias random weights so that every object counts as present."""
    import torch

    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias += PRESENCE_BIAS


def _load_folder(folder: Path, size: int | None) -> Any:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = getattr(transformers, MODEL_CLASSES[config.model_type])
        return kind.from_pretrained(
            folder, config=with_input_size(config, size), local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (
            f"is not a network of {' or '.join(MODEL_CLASSES.values())} of transformers: {error}"
        )
        raise WeightsError(f"{folder} {reason}") from error


def _random_config(name: str) -> Any:
    import transformers

    if name == "edgetam-hf":
        # the package's own default misspells a key and comes out as another backbone
        levels = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
        backbone = transformers.TimmWrapperConfig(architecture="repvit_m1", model_args=levels)
        vision = transformers.EdgeTamVisionConfig(backbone_config=backbone)
        return transformers.EdgeTamVideoConfig(vision_config=vision)
    if name == "sam2.1-tiny-hf":
        return transformers.Sam2VideoConfig()
    raise UnknownName("architecture for random weights", name, ["edgetam-hf", "sam2.1-tiny-hf"])
