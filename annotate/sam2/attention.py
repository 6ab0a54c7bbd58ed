"""Compute SAM 2's memory attention on a CPU with fewer products.

The layers and weights are those of the `sam2` package. The value of a memory token is a linear map
of its 64 numbers, and the weights of an attention sum to one: so the weighted mean is taken of the
64 numbers and mapped once, instead of mapping each token to 256. And the self-attention of the
first layer, which reads no memory, is the same for every object: it is computed once per frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


QUERY_BATCH = 512  # at a time: their weights, over 30,000 tokens, are 60 MB


class LeanAttention:
    """`MemoryAttention` of the `sam2` package, its layers of one head, called one object a time."""

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._rotations: torch.Tensor | None = None  # of each place, (HW, C / 2), complex

    def self_attend(
        self, coarse_features: torch.Tensor, positional_encoding: torch.Tensor
    ) -> torch.Tensor:
        """What no memory has a part in: of a frame's coarse features, (HW, 1, C), (1, HW, C)."""
        attention = self._attention
        if self._rotations is None:
            side = round(len(coarse_features) ** 0.5)
            cross = attention.layers[0].cross_attn_image
            self._rotations = cross.compute_cis(end_x=side, end_y=side)
        seen = (
            coarse_features + 0.1 * positional_encoding
            if attention.pos_enc_at_input
            else coarse_features
        )
        begun: torch.Tensor = attention.layers[0]._forward_sa(
            seen.transpose(0, 1), positional_encoding.transpose(0, 1)
        )
        return begun

    def attend_memory(
        self,
        self_attended: torch.Tensor,
        positional_encoding: torch.Tensor,
        tokens: torch.Tensor,
        token_encodings: torch.Tensor,
        pointer_token_count: int,
    ) -> torch.Tensor:
        """The features, (HW, 1, C), in the light of one object's tokens, (T, 1, 64).

        The last `unplaced` tokens belong nowhere in the picture.
        """
        seen, positional_encoding = self_attended, positional_encoding.transpose(0, 1)
        weights = self_attended.new_empty(min(QUERY_BATCH, self_attended.shape[1]), len(tokens))
        for number, layer in enumerate(self._attention.layers):
            if number:
                seen = layer._forward_sa(seen, positional_encoding)
            asked = layer.norm2(seen)[0]
            asked = asked + positional_encoding[0] if layer.pos_enc_at_cross_attn_queries else asked
            keyed = tokens + token_encodings if layer.pos_enc_at_cross_attn_keys else tokens
            read = self._cross_attend(
                layer.cross_attn_image,
                asked,
                keyed[:, 0],
                tokens[:, 0],
                pointer_token_count,
                weights,
            )
            seen = seen + read
            seen = seen + layer.linear2(layer.activation(layer.linear1(layer.norm3(seen))))
        normed: torch.Tensor = self._attention.norm(seen)
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
        """What the queries `asked`, (HW, C), find among the tokens, (T, 64)."""
        import torch

        queries, keys = cross_attention.q_proj(query_input), cross_attention.k_proj(key_input)
        self._rotate(queries)
        self._rotate(keys[: len(keys) - pointer_token_count])
        queries *= queries.shape[1] ** -0.5
        means = tokens.new_empty(len(queries), tokens.shape[1])
        for some, mean in zip(queries.split(QUERY_BATCH), means.split(QUERY_BATCH), strict=True):
            scores = score_buffer[: len(some)]
            torch.mm(some, keys.t(), out=scores)
            torch.softmax(scores, dim=-1, out=scores)
            torch.mm(scores, tokens, out=mean)
        found: torch.Tensor = cross_attention.out_proj(cross_attention.v_proj(means))
        return found

    def _rotate(self, vectors: torch.Tensor) -> None:
        """Turn each pair of numbers, in place, by where in the picture their token lies."""
        import torch

        assert self._rotations is not None
        places, pairs = self._rotations.shape
        torch.view_as_complex(vectors.view(-1, places, pairs, 2)).mul_(self._rotations)
