"""What most nets here share: plan tokens that attend to each other and to observation tokens.

The best denoiser of masked tokens does not depend on the time (reference: Zheng et al. 2024,
arXiv:2409.02908), so the observation's keys and values are exact for every denoising step.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.nets.attention import DecoderLayer, SharedKeysValues
from remdm.nets.denoiser import OFFSET_KEY, Context, Denoiser
from remdm.nets.memory import MemoryCore, MemoryToken, Summary
from remdm.stretch import Stretch
from remdm.tokens import vocabulary_size

# Tokens and their positions start at the same scale. Positions at the usual 0.02 beside tokens of
# scale 1 drown: every position then predicts the same symbol for hundreds of updates.
TOKEN_SCALE = 0.3
HEAD_SCALE = 0.05


class CrossDenoiser(Denoiser):
    """A plan decoder over the tokens that an encoder makes of an observation; no time input.

    Subclasses choose the encoder and hand it what it reads. Where a net is `told_offset`, the
    number of executed actions at the front of the plan becomes one more observation token. Where
    it has a memory, what that holds becomes another.
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_actions: int,
        plan_horizon: int,
        *,
        width: int,
        num_layers: int,
        num_heads: int,
        hidden: int,
        layer_type: type[DecoderLayer] = DecoderLayer,
        told_offset: bool = False,
        memory_type: Callable[[int], MemoryCore] | None = None,
    ) -> None:
        """Args:
        encoder: Makes observation tokens of `width` channels.
        num_actions: Size of the action set.
        plan_horizon: Tokens per plan.
        width: Channels of a token.
        num_layers: Decoder layers.
        num_heads: Attention heads.
        hidden: Channels inside the feed-forward networks.
        layer_type: Decoder layer.
        told_offset: Whether observations come with an `offset`.
        memory_type: What remembers the steps before, made with `width`; None for nothing.
        """
        super().__init__()
        self.num_actions = num_actions
        self.plan_horizon = plan_horizon
        self.encoder = encoder
        self.memory = SharedKeysValues(width, num_heads, num_layers)
        self.plan_tokens = nn.Parameter(
            torch.randn(vocabulary_size(num_actions), width) * TOKEN_SCALE
        )
        self.plan_positions = nn.Parameter(torch.randn(plan_horizon, width) * TOKEN_SCALE)
        self.layers = nn.ModuleList(layer_type(width, num_heads, hidden) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_actions + 1)
        # Not zero: a zero head holds back everything below it, and cost 0.15 of first-action
        # accuracy after 300 updates.
        nn.init.normal_(self.head.weight, std=HEAD_SCALE)
        nn.init.zeros_(self.head.bias)
        self.offsets: nn.Parameter | None = None
        if told_offset:  # last, so that all else starts as without it
            self.observation_keys = (*self.observation_keys, OFFSET_KEY)
            self.offsets = nn.Parameter(torch.randn(plan_horizon, width) * TOKEN_SCALE)
        self.past: MemoryToken | None = None
        if memory_type is not None:  # likewise
            self.summary = Summary(width)
            self.past = MemoryToken(width, memory_type)
            self.memory_size = self.past.core.size

    @abstractmethod
    def observation_tokens(self, observations: dict[str, Tensor]) -> Tensor:
        """What the encoder makes of B observations, [B, M, width]."""

    def look(self, observations: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The tokens, and whatever else `auxiliary_loss` reads, of B observations."""
        return (self.observation_tokens(observations),)

    def encode(self, observations: dict[str, Tensor]) -> Context:
        """Keys and values per decoder layer: (keys_0, .., values_0, ..), each [B, heads, ..].

        Behind them comes what else `look` returns. Where `offset` is known to the net and missing
        in the observation, it is 0. A net with memory takes every state for the first of an
        episode.
        """
        return self._encoded(observations, None, None)[0]

    def encode_stretch(
        self, observations: dict[str, Tensor], stretch: Stretch, memory: Tensor | None
    ) -> tuple[Context, Tensor | None]:
        """See `Denoiser.encode_stretch`."""
        return self._encoded(observations, stretch, memory)

    def remember(
        self, observations: dict[str, Tensor], stretch: Stretch, memory: Tensor | None
    ) -> Tensor | None:
        """See `Denoiser.remember`; without keys and values, which nobody reads."""
        if self.past is None:
            return None
        return self.past(self.summary(self.look(observations)[0]), stretch, memory)[1]

    def _encoded(
        self, observations: dict[str, Tensor], stretch: Stretch | None, memory: Tensor | None
    ) -> tuple[Context, Tensor | None]:
        tokens, *others = self.look(observations)
        after: Tensor | None = None
        if self.past is not None:
            remembered, after = self.past(self.summary(tokens), stretch, memory)
            tokens = torch.cat([tokens, remembered], 1)
        if self.offsets is not None:
            offset = observations.get(OFFSET_KEY)
            if offset is None:
                offset = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
            told = self.offsets[offset.long()].to(tokens.dtype)
            tokens = torch.cat([tokens, told[:, None]], 1)
        keys, values = self.memory(tokens)
        return (*keys.unbind(0), *values.unbind(0), *others), after

    def denoise(self, context: Context, zt: Tensor, t: Tensor | float | None = None) -> Tensor:
        """See `Denoiser.denoise`; `t` is not read."""
        count = len(self.layers)
        tokens = zt[:, None] if zt.ndim == 2 else zt.transpose(0, 1)
        plan = F.embedding(tokens, self.plan_tokens) + self.plan_positions
        read = zip(self.layers, context[:count], context[count : 2 * count], strict=True)
        for layer, keys, values in read:
            plan = layer(plan, keys, values)
        logits = self.head(self.norm(plan)).float()
        return logits[:, 0] if zt.ndim == 2 else logits.transpose(0, 1)
