"""Run SAM 2 and EdgeTAM by `transformers`, one frame and many objects at a time.

Only modules of `Sam2VideoModel` and `EdgeTamVideoModel` are called, and methods that both have.
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

from annotate.errors import UnknownName
from annotate.items.records import Picture, Prompt
from annotate.sam2.memory import MemoryContext, MemoryLimits
from annotate.sam2.session import PRESENCE_BIAS, FramePrediction, load_model, prompt_points
from annotate.weights.load_errors import one_line_errors
from annotate.weights.store import weights_path

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class _TransformersEncodedFrame:
    """An encoded frame: feature maps, finest first."""

    features: list[torch.Tensor]  # (HW, 1, C) each
    positional_encoding: torch.Tensor  # of the coarse map
    fine_maps: list[torch.Tensor]  # the finer ones, (1, C, H, W)
    size_wh: tuple[int, int]  # of the picture


class TransformersNetwork:
    """A `Sam2VideoModel` or `EdgeTamVideoModel`, run one frame and many objects at a time."""

    corrections_stay = False  # the session of transformers treats them as any other frame

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        import torch
        from transformers import Sam2VideoVideoProcessor

        self.model = model
        self.dtype = dtype
        self.device: torch.device = model.device
        config = model.config
        max_prompted = config.max_cond_frame_num
        self.limits = MemoryLimits(
            config.num_maskmem,
            config.max_object_pointers_in_encoder,
            max_prompted if max_prompted > 0 else None,
        )
        self._resamples = config.model_type == "edgetam_video"  # memories, to a few latents
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
        """Resize and normalise a picture by the package's own processor, and encode it."""
        import torch

        video = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        inputs = self._process(videos=[video], return_tensors="pt")
        pixels = inputs.pixel_values_videos[0].to(self.device)
        output = self.model.get_image_features(pixels, return_dict=True)
        features = list(output.fpn_hidden_states)
        sizes = self.model.backbone_feature_sizes
        fine = [
            flat.permute(1, 2, 0).unflatten(2, tuple(size))
            for flat, size in zip(features[:-1], sizes[:-1], strict=True)
        ]
        height, width = picture.shape[:2]
        return _TransformersEncodedFrame(
            features, output.fpn_position_encoding[-1], fine, (width, height)
        )

    def track(
        self, encoded_frame: _TransformersEncodedFrame, contexts: Sequence[MemoryContext]
    ) -> FramePrediction:
        """Predict objects from their memories: memory attention, then the decoder."""
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
        """Predict one object from a prompted mask, or else from points and memories."""
        if prompt.mask is not None:
            return self._predict_from_mask(encoded_frame, prompt)
        points = prompt_points(prompt, encoded_frame.size_wh, self.model.image_size)
        if points is None and tracked is not None:
            return tracked
        if context is None:
            features = self._as_map(encoded_frame.features[-1] + self.model.no_memory_embedding)
        else:
            features = self._attend_memory(encoded_frame, [context])
        return self._decode(encoded_frame, features, points, first=context is None)

    def encode_memory(
        self, encoded_frame: _TransformersEncodedFrame, prediction: FramePrediction, prompted: bool
    ) -> torch.Tensor:
        """Encode mask memories, (n, T, C): a token per coarse cell, or per latent of EdgeTAM."""
        import torch

        # EdgeTAM's resampler takes one object at a time
        batches = list(prediction.split_rows()) if self._resamples else [prediction]
        tokens = [
            self._memory_tokens(
                encoded_frame.features[-1].expand(-1, len(batch.presence_logits), -1),
                batch.high_res_logits,
                batch.presence_logits,
                prompted,
            )[0]
            for batch in batches
        ]
        return torch.cat(tokens)

    def _memory_tokens(
        self,
        coarse_features: torch.Tensor,
        masks: torch.Tensor,
        presence_logits: torch.Tensor,
        prompted: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode memories as tokens, and their encodings in space; both (n, T, C)."""
        tokens, encodings = self.model._encode_new_memory(
            current_vision_feats=coarse_features,
            pred_masks_high_res=masks,
            object_score_logits=presence_logits[:, None, None],
            is_mask_from_pts=prompted,
        )
        if self._resamples:
            return tokens, encodings
        return tokens.permute(1, 0, 2), encodings.permute(1, 0, 2)

    def _attend_memory(
        self, encoded_frame: _TransformersEncodedFrame, contexts: Sequence[MemoryContext]
    ) -> torch.Tensor:
        """Condition the coarse features on the memories of each object, (n, C, H, W)."""
        import torch

        tokens, encodings = zip(*map(self._context_tokens, contexts), strict=True)
        n = len(contexts)
        tokens_per_pointer = self.model.hidden_dim // self.model.mem_dim
        extra = {"num_spatial_memory_tokens": len(contexts[0].memories)} if self._resamples else {}
        features = self.model.memory_attention(
            current_vision_features=encoded_frame.features[-1].expand(-1, n, -1),
            current_vision_position_embeddings=encoded_frame.positional_encoding.expand(-1, n, -1),
            memory=torch.stack(tokens, dim=1),
            memory_posision_embeddings=torch.stack(encodings, dim=1),  # spelt so by the package
            num_object_pointer_tokens=len(contexts[0].pointers) * tokens_per_pointer,
            **extra,
        )
        return self._as_map(features[0].transpose(0, 1))

    def _context_tokens(self, context: MemoryContext) -> tuple[torch.Tensor, torch.Tensor]:
        """Arrange one object's memories as tokens and their encodings in space and time.

        Both are (T, C). A pointer is split into tokens of the memory's width.
        """
        import torch

        model = self.model
        temporal = model.memory_temporal_positional_encoding[:, 0]
        spatial = self._spatial_encoding[0].float()
        tokens = [memory.float() for _, memory in context.memories]
        encodings = [spatial + temporal[age - 1] for age, _ in context.memories]
        ages = [age for age, _ in context.pointers]
        pointers = torch.stack([pointer for _, pointer in context.pointers])
        # only the encodings are taken from here: the pointers that it is given do not count
        placeholders, limit = [pointers[:1]] * len(ages), self.limits.max_pointers
        _, pointer_encodings = model._process_object_pointers(
            ages, placeholders, limit, 1, model.hidden_dim, self.device
        )
        tokens.append(pointers.reshape(-1, model.mem_dim))
        return torch.cat(tokens), torch.cat([*encodings, pointer_encodings[:, 0]])

    def _decode(
        self,
        encoded_frame: _TransformersEncodedFrame,
        features: torch.Tensor,
        points: Any,
        *,
        first: bool,
    ) -> FramePrediction:
        """Decode masks from features, (n, C, H, W), and a prompt, if there is one."""
        import torch

        n = len(features)
        model = self.model
        point_inputs = None if points is None else self._point_inputs(*points)
        multimask = model._use_multimask(first, point_inputs)
        if point_inputs is None:
            coordinates, labels = self._empty_point_inputs(n)
        else:
            coordinates, labels = point_inputs.values()
        sparse, dense = model.prompt_encoder(coordinates, labels, None, None)
        encoding = model.get_image_wide_positional_embeddings()
        logits, ious, tokens, presence = model.mask_decoder(
            image_embeddings=features,
            image_positional_embeddings=encoding.repeat(n, 1, 1, 1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            high_resolution_features=[
                fine_map.expand(n, -1, -1, -1) for fine_map in encoded_frame.fine_maps
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
        """Make a prediction of the chosen masks, (n, h, w).

        The mask of an absent object is empty, and its pointer is the network's own for absence.
        """
        import torch
        from torch.nn.functional import interpolate
        from transformers.models.sam2_video.modeling_sam2_video import NO_OBJ_SCORE

        model = self.model
        present = presence_logits[:, None] > 0
        logits = torch.where(present[..., None], logits, NO_OBJ_SCORE).float()[:, None]
        size = (model.image_size, model.image_size)
        high_res_logits = interpolate(logits, size=size, mode="bilinear", align_corners=False)
        pointer = model.object_pointer_proj(mask_token)
        pointer = torch.where(present, pointer, model.no_object_pointer)
        return FramePrediction(
            logits, high_res_logits, pointer, iou.float().clamp(0, 1), presence_logits.float()
        )

    def _point_inputs(self, points: Any, labels: Any) -> dict[str, torch.Tensor]:
        import torch

        return {
            "point_coords": torch.from_numpy(points)[None, None].to(self.device),
            "point_labels": torch.from_numpy(labels)[None, None].to(self.device),
        }

    def _empty_point_inputs(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        coordinates = torch.zeros(n, 1, 1, 2, device=self.device)
        return coordinates, -torch.ones(n, 1, 1, dtype=torch.int32, device=self.device)

    def _predict_from_mask(
        self, encoded_frame: _TransformersEncodedFrame, prompt: Prompt
    ) -> FramePrediction:
        """Take a prompted mask as the prediction."""
        import torch
        from torch.nn.functional import interpolate

        size = (self.model.image_size, self.model.image_size)
        mask = torch.from_numpy(np.asarray(prompt.mask, np.float32))[None, None].to(self.device)
        if mask.shape[-2:] != size:
            mask = interpolate(
                mask, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        coarse = self._as_map(encoded_frame.features[-1])
        output = self.model._use_mask_as_output(
            coarse, encoded_frame.fine_maps, (mask >= 0.5).float()
        )
        return FramePrediction(
            output.pred_masks.float(),
            output.high_res_masks.float(),
            output.object_pointer.reshape(1, -1),
            torch.ones(1, device=self.device),
            output.object_score_logits.reshape(1).float(),
        )

    def _as_map(self, flat: torch.Tensor) -> torch.Tensor:
        """Rearrange (HW, n, C) as (n, C, H, W)."""
        return flat.permute(1, 2, 0).unflatten(2, tuple(self.model.backbone_feature_sizes[-1]))


MODEL_CLASSES = {"sam2_video": "Sam2VideoModel", "edgetam_video": "EdgeTamVideoModel"}


@lru_cache(maxsize=1)  # the passes of one run share it
def load(
    name: str,
    device: str | None,
    dtype: str | None,
    size: int | None,
    compiled: bool,
    seed: int | None,
    weights_sha256: str = "",  # only a part of the cache's key: weights may be trained again
) -> TransformersNetwork:
    """Load a model by a name in the manifest or a folder's path; with a `seed`, random weights.

    Raises:
        MissingWeights, WeightsError, UnknownName: there is no such model or architecture.
        MissingPackage, AnnotateError: see `annotate.device`.
    """

    def from_weights(torch_device: torch.device) -> Any:
        return _load_folder(weights_path(name), size)

    def from_random(torch_device: torch.device) -> Any:
        model = build_random(with_input_size(_random_config(name), size))
        bias_presence(model)
        return model

    model, torch_dtype = load_model(from_weights, from_random, device, dtype, seed)
    if compiled:
        for part in (model.vision_encoder, model.memory_attention, model.memory_encoder):
            part.compile()
    return TransformersNetwork(model, torch_dtype)


def build_random(config: Any) -> Any:
    """Build the network of a configuration with random weights."""
    import transformers

    return getattr(transformers, MODEL_CLASSES[config.model_type])(config)


def with_input_size(config: Any, side: int | None) -> Any:
    """Set the side of the network's input in a configuration."""
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
    """Load the model in a folder, for an input of `size` pixels.

    Raises:
        WeightsError: it is not a model of this family.
    """
    import transformers

    problem = f"is not a network of {' or '.join(MODEL_CLASSES.values())} of transformers"
    with one_line_errors(folder, problem, "give the folder of one"):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        model_class = getattr(transformers, MODEL_CLASSES[config.model_type])
        model, report = model_class.from_pretrained(
            folder,
            config=with_input_size(config, size),
            local_files_only=True,
            output_loading_info=True,
        )
        # the package gives random numbers to weights that are not in the file
        if 2 * len(report["missing_keys"]) > len(model.state_dict()):
            raise ValueError("most weights of the network are not in its file")
    return model


def _random_config(name: str) -> Any:
    """Make the configuration of a model without its files."""
    import transformers

    if name == "edgetam-hf":
        # the package's default misspells a key, which gives another backbone
        levels = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
        backbone = transformers.TimmWrapperConfig(architecture="repvit_m1", model_args=levels)
        vision = transformers.EdgeTamVisionConfig(backbone_config=backbone)
        return transformers.EdgeTamVideoConfig(vision_config=vision)
    if name == "sam2.1-tiny-hf":
        return transformers.Sam2VideoConfig()
    raise UnknownName("architecture for random weights", name, ["edgetam-hf", "sam2.1-tiny-hf"])
