"""The autoregressive twin of a denoiser: same encoder, same size, tokens from left to right.

It is there to be compared with. `GridDenoiser(..., layer_type=CausalLayer)` has every number of the
denoiser; it reads the plan moved by one token, with MASK in front, attends to the left only, learns
each token from the true ones before it (teacher forcing), and plans one token per call.
"""

import torch
from torch import Tensor
from torch.nn import functional

from remdm.nets.attention import DecoderLayer
from remdm.nets.denoiser import Context, Denoiser
from remdm.tokens import end_token, mask_token


class CausalLayer(DecoderLayer):
    """A decoder layer whose plan tokens see themselves and what is to their left."""

    def _self_attention(self, plan: Tensor) -> Tensor:
        batch, draws, horizon, width = plan.shape
        split = self.self_in(plan).view(batch * draws, horizon, 3, self.num_heads, self.head_width)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.matmul(queries * self.head_width**-0.5, keys.transpose(-1, -2))
        later = torch.ones(horizon, horizon, dtype=torch.bool, device=plan.device).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        mixed = torch.matmul(weights, values)
        return self.self_out(mixed.transpose(1, 2).reshape(batch, draws, horizon, width))


def moved_right(plans: Tensor, num_actions: int) -> Tensor:
    """What a causal net reads to predict `plans`: the tokens before each, MASK before the first.

    Args:
        plans: int64 [B, H].
        num_actions: Size of the action set.

    Returns:
        int64 [B, H].
    """
    return functional.pad(plans[:, :-1], (1, 0), value=mask_token(num_actions))


def teacher_forcing_loss(net: Denoiser, context: Context, plans: Tensor) -> Tensor:
    """Mean cross-entropy of all tokens up to and including the first END.

    Args:
        net: A denoiser of causal layers.
        context: From `net.encode`, B states.
        plans: int64 [B, H], no MASK.

    Returns:
        A scalar, in nats per token.
    """
    logits = net.denoise(context, moved_right(plans, net.num_actions))
    ends = plans == end_token(net.num_actions)
    tail = ends.cumsum(-1) > 1
    return functional.cross_entropy(logits[~tail], plans.clamp(max=net.num_actions)[~tail])


@torch.no_grad()
def plan_left_to_right(net: Denoiser, context: Context) -> tuple[Tensor, Tensor]:
    """The likeliest token at every position, each given the ones before it.

    Args:
        net: A denoiser of causal layers.
        context: From `net.encode`, B states.

    Returns:
        Plans int64 [B, H], END from the first END on; and net calls int64 [B]: one per token, the
        first END included.
    """
    end = end_token(net.num_actions)
    plans = torch.full((len(context[0]), net.plan_horizon), end, device=context[0].device)
    open_rows = torch.ones_like(plans[:, 0], dtype=torch.bool)
    calls = torch.zeros_like(plans[:, 0])
    for position in range(net.plan_horizon):
        if not bool(open_rows.any()):
            break
        calls += open_rows
        logits = net.denoise(context, moved_right(plans, net.num_actions))
        chosen = logits[:, position].argmax(-1)
        open_rows = open_rows & (chosen < net.num_actions)
        plans[:, position] = torch.where(open_rows, chosen, end)
    return plans, calls
