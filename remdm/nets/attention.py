"""A decoder layer whose cross-attention keys and values are made once and used many times.

Attention is written as two matrix products and a softmax. On CPUs the fused kernel's backward pass
is slow for the short sequences here (16 to 82 tokens): it took 45 % of a training step.

Axes in this file: B states, D draws (several corrupted plans of one state), H plan positions,
M observation tokens, heads, C = width / heads channels per head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Softmax attention on already scaled queries.

    Args:
        queries: [..., heads, Q, C], multiplied by C ** -0.5.
        keys: [..., heads, K, C].
        values: [..., heads, K, C].

    Returns:
        [..., heads, Q, C], dtype of `values`.
    """
    scores = torch.matmul(queries, keys.transpose(-1, -2))
    # In float32: more exact, and on CPU up to ten times faster than bfloat16 (backward pass).
    weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    return torch.matmul(weights, values)


class DecoderLayer(nn.Module):
    """Pre-norm self-attention over a plan, cross-attention to the observation, ReLU network.

    The observation's keys and values come in ready-made, so they serve every denoising step and
    every draw of the same state.
    """

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        """Args:
        width: Channels of a token.
        num_heads: Attention heads; must divide `width`.
        hidden: Channels inside the feed-forward network.
        """
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"width must be a multiple of num_heads={num_heads}, got {width}; "
                "set EgoDenoiser.width or EgoDenoiser.num_heads."
            )
        self.num_heads = num_heads
        self.head_width = width // num_heads
        self.self_norm = nn.LayerNorm(width)
        self.self_in = nn.Linear(width, 3 * width)
        self.self_out = nn.Linear(width, width)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_in = nn.Linear(width, width)
        self.cross_out = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden_in = nn.Linear(width, hidden)
        self.hidden_out = nn.Linear(hidden, width)

    def forward(self, plan: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One layer.

        Args:
            plan: [B, D, H, width].
            keys: [B, heads, M, C] of the observation.
            values: [B, heads, M, C] of the observation.

        Returns:
            [B, D, H, width].
        """
        plan = plan + self._self_attention(self.self_norm(plan))
        plan = plan + self._cross_attention(self.cross_norm(plan), keys, values)
        return plan + self.hidden_out(F.relu(self.hidden_in(self.hidden_norm(plan))))

    def _self_attention(self, plan: Tensor) -> Tensor:
        batch, draws, horizon, width = plan.shape
        split = self.self_in(plan).view(batch * draws, horizon, 3, self.num_heads, self.head_width)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(queries * self.head_width**-0.5, keys, values)
        return self.self_out(mixed.transpose(1, 2).reshape(batch, draws, horizon, width))

    def _cross_attention(self, plan: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, draws, horizon, width = plan.shape
        queries = self.cross_in(plan) * self.head_width**-0.5
        # Draws of one state are more queries to the same keys.
        queries = queries.view(batch, draws * horizon, self.num_heads, self.head_width)
        mixed = attend(queries.transpose(1, 2), keys, values)
        return self.cross_out(mixed.transpose(1, 2).reshape(batch, draws, horizon, width))


class SharedKeysValues(nn.Module):
    """Keys and values of the observation tokens for all decoder layers, in one product."""

    def __init__(self, width: int, num_heads: int, num_layers: int) -> None:
        """Args:
        width: Channels of a token.
        num_heads: Attention heads.
        num_layers: Decoder layers served.
        """
        super().__init__()
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.norm = nn.LayerNorm(width)
        # Two products rather than one: splitting one result costs a copy in the backward pass.
        self.to_keys = nn.Linear(width, num_layers * width)
        self.to_values = nn.Linear(width, num_layers * width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Args:
            tokens: [B, M, width].

        Returns:
            Keys and values, each [layers, B, heads, M, C].
        """
        batch, count, width = tokens.shape
        tokens = self.norm(tokens)
        split = (batch, count, self.num_layers, self.num_heads, width // self.num_heads)
        keys = self.to_keys(tokens).view(split).permute(2, 0, 3, 1, 4)
        values = self.to_values(tokens).view(split).permute(2, 0, 3, 1, 4)
        return keys.contiguous(), values.contiguous()
