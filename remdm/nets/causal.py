"""The autoregressive twin of a denoiser: same encoder, same size, tokens from left to right.

It is there to be compared with. `GridDenoiser(..., layer_type=CausalLayer)` and
`CausalEgoDenoiser` have every number of the denoiser; they read the plan moved by one token, with
MASK in front, attend to the left only, and learn each token from the true ones before it (teacher
forcing). They plan one token per call; `TokenByToken` keeps the keys and values of earlier tokens,
so that a call costs a token and not a plan.
"""

from typing import cast

import gin
import torch
from torch import Tensor, nn
from torch.nn import functional

from remdm.maps import ArraySpec
from remdm.nets.attention import DecoderLayer, attend
from remdm.nets.cross_denoiser import CrossDenoiser
from remdm.nets.denoiser import Context, Denoiser, select_rows
from remdm.nets.ego import EgoDenoiser
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

    @classmethod
    def like(cls, layer: DecoderLayer) -> "CausalLayer":
        """A causal layer with the numbers of another layer."""
        width, hidden = layer.hidden_in.in_features, layer.hidden_in.out_features
        made = cls(width, layer.num_heads, hidden)
        made.load_state_dict(layer.state_dict())
        return made

    def next_token(
        self, token: Tensor, before: Context, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Context]:
        """What `forward` gives at one position, from what was kept of the positions before it.

        Args:
            token: [B, 1, 1, width].
            before: Keys and values of the tokens before, each [B, heads, n, C]; empty for n = 0.
            keys: [B, heads, M, C] of the observation.
            values: [B, heads, M, C] of the observation.

        Returns:
            [B, 1, 1, width], and what to keep for the next position.
        """
        batch = len(token)
        split = self.self_in(self.self_norm(token)).view(
            batch, 1, 3, self.num_heads, self.head_width
        )
        query, *own = split.permute(2, 0, 3, 1, 4).unbind(0)
        if before:
            own = [torch.cat([old, new], 2) for old, new in zip(before, own, strict=True)]
        mixed = attend(query * self.head_width**-0.5, *own)
        token = token + self.self_out(mixed.transpose(1, 2).reshape(token.shape))
        token = token + self._cross_attention(self.cross_norm(token), keys, values)
        hidden = functional.relu(self.hidden_in(self.hidden_norm(token)))
        return token + self.hidden_out(hidden), tuple(own)


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions", "plan_horizon"])
class CausalEgoDenoiser(EgoDenoiser):
    """`EgoDenoiser` whose plan tokens see to the left only; what is bound for it counts here."""

    def __init__(
        self, observation_spec: dict[str, ArraySpec], num_actions: int, plan_horizon: int
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation.
        num_actions: Size of the action set.
        plan_horizon: Tokens per plan.
        """
        super().__init__(observation_spec, num_actions, plan_horizon)
        self.layers = nn.ModuleList(
            CausalLayer.like(cast(DecoderLayer, layer)) for layer in self.layers
        )


class TokenByToken:
    """A causal net at the plans of B states: each call takes one token and predicts the next."""

    def __init__(self, net: CrossDenoiser, context: Context, *, low: bool = False) -> None:
        """Args:
            net: Of causal layers.
            context: From `net.encode`, B states.
            low: Calls come in low precision, for which the encoding may stay as it is.

        Raises:
            ValueError: If a layer is not causal.
        """
        if not all(isinstance(layer, CausalLayer) for layer in net.layers):
            raise ValueError(
                "planning token by token needs a net of causal layers, got a "
                f"{type(net).__name__} that sees the whole plan; set "
                "AutoregressiveAgent.denoiser_type = @CausalEgoDenoiser."
            )
        self.net = net
        read = context[: 2 * len(net.layers)]
        self.context = read if low else tuple(part.float() for part in read)
        self.position = 0
        self._kept: list[Context] = [() for _ in net.layers]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits of the next token.

        Args:
            tokens: int64 [B]: the last token of each plan, MASK at its beginning.

        Returns:
            float32 [B, num_actions + 1].
        """
        net, count = self.net, len(self.net.layers)
        plan = functional.embedding(tokens, net.plan_tokens) + net.plan_positions[self.position]
        plan = plan[:, None, None]
        for index, layer in enumerate(net.layers):
            keys, values = self.context[index], self.context[count + index]
            causal = cast(CausalLayer, layer)
            plan, self._kept[index] = causal.next_token(plan, self._kept[index], keys, values)
        self.position += 1
        logits: Tensor = net.head(net.norm(plan)).float()
        return logits[:, 0, 0]

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the states only.

        Args:
            rows: int64 [b]: which, by their places among the present ones.
        """
        self.context = select_rows(self.context, rows)
        self._kept = [select_rows(part, rows) for part in self._kept]


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
