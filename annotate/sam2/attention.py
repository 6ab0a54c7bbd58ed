"""Compute SAM 2's memory attention on a CPU with fewer products.

The layers and weights are those of the `sam2` package. The value of a memory token is a linear map
of its 64 numbers, and the weights of an attention sum to one. So the weighted mean of the 64
numbers is computed first and mapped once, instead of mapping each token to 256. And the
self-attention of the first layer, which reads no memory, is the same for every object: it is
computed once per frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


QUERY_BATCH = 512  # queries at a time: their weights over 30,000 tokens take 60 MB


class LeanAttention:
    """The `MemoryAttention` of the `sam2` package, with layers of one head, for one object."""

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._rotations: torch.Tensor | None = None  # of each cell, (HW, C / 2), complex

    def self_attend(
        self, coarse_features: torch.Tensor, positional_encoding: torch.Tensor
    ) -> torch.Tensor:
        """Run the first self-attention on coarse features: (HW, 1, C) to (1, HW, C)."""
        attention = self._attention
        if self._rotations is None:
            side = round(len(coarse_features) ** 0.5)
            cross = attention.layers[0].cross_attn_image
            self._rotations = cross.compute_cis(end_x=side, end_y=side)
        features = coarse_features
        if attention.pos_enc_at_input:
            features = features + 0.1 * positional_encoding
        self_attended: torch.Tensor = attention.layers[0]._forward_sa(
            features.transpose(0, 1), positional_encoding.transpose(0, 1)
        )
        return self_attended

    def attend_memory(
        self,
        self_attended: torch.Tensor,
        positional_encoding: torch.Tensor,
        tokens: torch.Tensor,
        token_encodings: torch.Tensor,
        pointer_token_count: int,
    ) -> torch.Tensor:
        """Condition the features, (HW, 1, C), on one object's tokens, (T, 1, 64).

        `self_attended` is by `self_attend`. The last `pointer_token_count` tokens have no place in
        the picture, so they are not rotated.
        """
        features, positional_encoding = self_attended, positional_encoding.transpose(0, 1)
        scores = self_attended.new_empty(min(QUERY_BATCH, self_attended.shape[1]), len(tokens))
        for number, layer in enumerate(self._attention.layers):
            if number:
                features = layer._forward_sa(features, positional_encoding)
            queries = layer.norm2(features)[0]
            if layer.pos_enc_at_cross_attn_queries:
                queries = queries + positional_encoding[0]
            keys = tokens + token_encodings if layer.pos_enc_at_cross_attn_keys else tokens
            features = features + self._cross_attend(
                layer.cross_attn_image,
                queries,
                keys[:, 0],
                tokens[:, 0],
                pointer_token_count,
                scores,
            )
            hidden = layer.activation(layer.linear1(layer.norm3(features)))
            features = features + layer.linear2(hidden)
        normed: torch.Tensor = self._attention.norm(features)
        return normed.transpose(0, 1)

    def _cross_attend(
        self,
        cross_attention: Any,
        query_input: torch.Tensor,
        key_input: torch.Tensor,
        tokens: torch.Tensor,
        pointer_token_count: int,
        score_buffer: torch.Tensor,
    ) -> torch.Tensor:
        """Attend from queries, (HW, C), to tokens, (T, 64); `score_buffer` is overwritten."""
        import torch

        queries, keys = cross_attention.q_proj(query_input), cross_attention.k_proj(key_input)
        self._rotate(queries)
        self._rotate(keys[: len(keys) - pointer_token_count])
        queries *= queries.shape[1] ** -0.5
        means = tokens.new_empty(len(queries), tokens.shape[1])
        for batch, mean in zip(queries.split(QUERY_BATCH), means.split(QUERY_BATCH), strict=True):
            scores = score_buffer[: len(batch)]
            torch.mm(batch, keys.t(), out=scores)
            torch.softmax(scores, dim=-1, out=scores)
            torch.mm(scores, tokens, out=mean)
        output: torch.Tensor = cross_attention.out_proj(cross_attention.v_proj(means))
        return output

    def _rotate(self, vectors: torch.Tensor) -> None:
        """Apply the rotary position encoding in place."""
        import torch

        assert self._rotations is not None
        cells, pairs = self._rotations.shape
        torch.view_as_complex(vectors.view(-1, cells, pairs, 2)).mul_(self._rotations)
