"""The published Craftax planner's net: one observation token, one time token, then the plan.

All tokens go through one transformer together. The game's flat observation vector passes a dense
encoder once per plan; the transformer runs again at every denoising step. Shape, parameter count
and initial values follow the published net, with `predict_end = False` to the last number:
3,333,649 in the default size on Craftax-Classic. It has known weaknesses, kept on purpose:

- One token holds all that is seen. It comes from one-hot tiles through a dense layer, which in the
  full game takes 43 % of the largest published net's parameters and knows nothing of places.
- The time in [0, 1] meets frequencies made for counting to ten thousand: most of its channels
  hardly move. `time_scale = 1000.0` makes them useful.
"""

import math
from collections.abc import Callable

import gin
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.maps import ArraySpec
from remdm.nets.denoiser import Context, Denoiser
from remdm.nets.dual_stream import NEVER
from remdm.nets.flat_tiles import flattener
from remdm.nets.memory import MemoryCore, MemoryToken
from remdm.stretch import Stretch
from remdm.tokens import mask_token, vocabulary_size

NORM_EPSILON = 1e-6
GAIN = math.sqrt(2.0)  # of the orthogonal initial weights
HEAD_GAIN = 0.01
LONGEST_WAVE = 10_000.0
NUM_PREFIX = 2  # tokens before the plan: observation and time


def dense(inputs: int, outputs: int, gain: float = GAIN, blocks: int = 1) -> nn.Linear:
    """A linear layer with orthogonal weights and zero biases.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        gain: Scale of the weights.
        blocks: Layers of equal size side by side; the weights of each are orthogonal.
    """
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        for block in layer.weight.chunk(blocks):
            nn.init.orthogonal_(block, gain)
        layer.bias.zero_()
    return layer


def wave_frequencies(width: int) -> Tensor:
    """10000 ** (-k / (width / 2)) for k below width / 2, float32."""
    half = width // 2
    return torch.exp(torch.arange(half) * (-math.log(LONGEST_WAVE) / half))


def waves(values: Tensor, frequencies: Tensor) -> Tensor:
    """Sines, then cosines, of float values [..] times frequencies [F]: [.., 2 * F]."""
    angles = values[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


class SequenceLayer(nn.Module):
    """Pre-norm transformer layer over all tokens, with dropout on what is added to them."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        """Args:
        width: Channels of a token.
        num_heads: Attention heads; must divide `width`.
        hidden: Channels inside the feed-forward network.
        dropout: Share of what is added that is dropped in training.
        """
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width, NORM_EPSILON)
        self.qkv = dense(width, 3 * width, blocks=3)
        self.out = dense(width, width)
        self.hidden_norm = nn.LayerNorm(width, NORM_EPSILON)
        self.hidden_in = dense(width, hidden)
        self.hidden_out = dense(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, width] to the same; every token reads every token."""
        split = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        # At 34 tokens, on two CPU cores, torch's fused attention took a quarter to three quarters
        # of the time of `attention.attend`.
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        x = x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        hidden = F.gelu(self.hidden_in(self.hidden_norm(x)), approximate="tanh")
        return x + self.drop(self.hidden_out(hidden))


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions", "plan_horizon"])
class SequenceDenoiser(Denoiser):
    """The published `DenoisingTransformer`: reads [observation, time, plan] as one sequence.

    Observations are packed Craftax views, or any arrays of numbers, which are read flat.
    """

    uses_time = True

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        num_actions: int,
        plan_horizon: int,
        *,
        width: int = 256,
        num_layers: int = 4,
        num_heads: int = 4,
        hidden: int = 512,
        encoder_width: int = 512,
        num_encoder_layers: int = 2,
        dropout: float = 0.1,
        time_scale: float = 1.0,
        predict_end: bool = True,
        num_blocks: int | None = None,
        num_flags: int | None = None,
        memory_type: Callable[[int], MemoryCore] | None = None,
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation: `tiles`, `flags` and `scalars` of a packed
            Craftax view, or any others of numbers.
        num_actions: Size of the action set.
        plan_horizon: Tokens per plan; 32 in the published planner.
        width: Channels of a token, an even multiple of `num_heads`.
        num_layers: Transformer layers.
        num_heads: Attention heads.
        hidden: Channels inside the feed-forward networks.
        encoder_width: Channels inside the observation's encoder.
        num_encoder_layers: Layers of the encoder before the one that makes the token.
        dropout: Share of each layer's result that is dropped in training.
        time_scale: Factor on the time in [0, 1] before its sines and cosines; 1 is published.
        predict_end: Whether the net reads END and has a class for it. The published one does
            neither: there, an END in a plan is read as MASK.
        num_blocks: Kinds of blocks in a packed view; None takes those of the game whose view has
            this size.
        num_flags: Ones and zeros of a tile behind its block; None likewise.
        memory_type: What remembers the steps before, and adds it to the observation's token; None
            for nothing, as published.

        Raises:
            ValueError: If the observations do not suit or a size does not fit.
        """
        super().__init__()
        _check(width, num_heads, num_encoder_layers, dropout)
        self.num_actions = num_actions
        self.plan_horizon = plan_horizon
        self.time_scale = time_scale
        self.predicts_end = predict_end
        self.flatten = flattener(observation_spec, num_blocks, num_flags)
        self.observation_keys = self.flatten.observation_keys
        self.encoder = _encoder(self.flatten.size, encoder_width, num_encoder_layers, width)
        self.time = nn.Sequential(
            dense(width, width), nn.GELU(approximate="tanh"), dense(width, width)
        )
        # Without END, the last row is MASK.
        rows = vocabulary_size(num_actions) if predict_end else mask_token(num_actions) + 1
        self.tokens = nn.Embedding(rows, width)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)
        self.layers = nn.ModuleList(
            SequenceLayer(width, num_heads, hidden, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width, NORM_EPSILON)
        self.head = dense(width, num_actions + int(predict_end), HEAD_GAIN)
        self.frequencies: Tensor
        self.positions: Tensor
        frequencies = wave_frequencies(width)
        places = torch.arange(NUM_PREFIX + plan_horizon, dtype=torch.float32)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("positions", waves(places, frequencies), persistent=False)
        self.past: MemoryToken | None = None
        if memory_type is not None:  # last, so that all else starts as without it
            self.past = MemoryToken(width, memory_type)
            self.memory_size = self.past.core.size

    def encode(self, observations: dict[str, Tensor]) -> Context:
        """The observation's token, [B, 1, width].

        A net with memory takes every state for the first of an episode.
        """
        return self._encoded(observations, None, None)[0]

    def encode_stretch(
        self, observations: dict[str, Tensor], stretch: Stretch, memory: Tensor | None
    ) -> tuple[Context, Tensor | None]:
        """See `Denoiser.encode_stretch`."""
        return self._encoded(observations, stretch, memory)

    def _encoded(
        self, observations: dict[str, Tensor], stretch: Stretch | None, memory: Tensor | None
    ) -> tuple[Context, Tensor | None]:
        token = self.encoder(self.flatten(observations))
        if self.past is None:
            return (token[:, None],), None
        remembered, after = self.past(token, stretch, memory)
        return (token[:, None] + remembered,), after

    def denoise(self, context: Context, zt: Tensor, t: Tensor | float | None = None) -> Tensor:
        """See `Denoiser.denoise`.

        Raises:
            ValueError: If `t` is None.
        """
        if t is None:
            raise ValueError("SequenceDenoiser reads the diffusion time; pass t.")
        plan = self.tokens(zt.clamp(max=self.tokens.num_embeddings - 1))
        when = torch.as_tensor(t, dtype=torch.float32, device=zt.device)
        time = self.time(waves(when * self.time_scale, self.frequencies))[..., None, :]
        prefix = (part.to(plan.dtype) for part in (context[0], time))
        one = (*zt.shape[:-1], 1, plan.shape[-1])
        x = torch.cat([*(part.expand(one) for part in prefix), plan], -2) + self.positions
        x = x.flatten(0, -3)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.norm(x[:, NUM_PREFIX:])).float()
        if not self.predicts_end:
            logits = F.pad(logits, (0, 1), value=NEVER)
        return logits.view(*zt.shape, self.num_actions + 1)


def _encoder(size: int, inside: int, num_layers: int, width: int) -> nn.Sequential:
    """Vectors [B, size] to [B, width] over layers of `inside` channels, the first one normed."""
    layers: list[nn.Module] = [dense(size, inside), nn.LayerNorm(inside, NORM_EPSILON), nn.ReLU()]
    for _ in range(num_layers - 1):
        layers += [dense(inside, inside), nn.ReLU()]
    return nn.Sequential(*layers, dense(inside, width))


def _check(width: int, num_heads: int, num_encoder_layers: int, dropout: float) -> None:
    """Raise ValueError for sizes that do not fit, with the names to change."""
    if width % num_heads or width % 2:
        raise ValueError(
            f"width must be even and a multiple of num_heads={num_heads}, got {width}; set "
            "SequenceDenoiser.width or SequenceDenoiser.num_heads."
        )
    if num_encoder_layers < 1:
        raise ValueError(
            f"num_encoder_layers must be at least 1, got {num_encoder_layers}; set "
            "SequenceDenoiser.num_encoder_layers."
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}; set SequenceDenoiser.dropout.")
