"""A memory that looks back: attention to the last steps, over the borders of stretches.

After Transformer-XL (Dai et al. 2019, arXiv:1901.02860): every layer also reads what it read at
earlier steps, which is kept without a gradient, and knows of two steps only how far they lie apart.
Unlike there, a step looks back over `mem_steps` steps wherever it stands in its stretch, so that
nothing depends on how an episode was cut.

Axes in this file: R rows, S steps of a row, M remembered steps, K = M + S, C channels per head.
"""

from typing import NamedTuple

import gin
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.nets.memory import MemoryCore, checked_state
from remdm.nets.sequence import wave_frequencies, waves
from remdm.stretch import Stretch

BIAS_SCALE = 0.02


class _Sight(NamedTuple):
    """Which steps look at which.

    Attributes:
        distance: int64 [R, S, K]: steps between them, in 0..M.
        seen: bool [R, S, K].
        kept: int64 [R, M]: which of the K are remembered behind the stretch.
        worth: bool [R, M]: whether they are; the others are of no use any more.
    """

    distance: Tensor
    seen: Tensor
    kept: Tensor
    worth: Tensor


class RelativeLayer(nn.Module):
    """Pre-norm attention to steps of the past by content and by distance, and a ReLU network."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        """Args:
        width: Channels of a step.
        num_heads: Attention heads; divides `width`.
        hidden: Channels inside the feed-forward network.
        """
        super().__init__()
        self.num_heads, self.scale = num_heads, (width // num_heads) ** -0.5
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(width, 2 * width, bias=False)
        self.places = nn.Linear(width, width, bias=False)
        # The paper's u and v: what is looked for whatever the step holds.
        self.content_bias = nn.Parameter(torch.randn(width) * BIAS_SCALE)
        self.place_bias = nn.Parameter(torch.randn(width) * BIAS_SCALE)
        self.out = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden_in = nn.Linear(width, hidden)
        self.hidden_out = nn.Linear(hidden, width)

    def forward(self, steps: Tensor, past: Tensor, distances: Tensor, sight: _Sight) -> Tensor:
        """One layer.

        Args:
            steps: float32 [R, S, width].
            past: float32 [R, M, width]: what this layer read at the remembered steps.
            distances: float32 [M + 1, width]: 0..M as waves.
            sight: Which steps look at which.

        Returns:
            float32 [R, S, width].
        """
        read = self.norm(torch.cat([past, steps], 1))
        queries = self.queries(read[:, past.shape[1] :])
        keys, values = self.keys_values(read).chunk(2, -1)
        by_content = self._heads(queries + self.content_bias) @ self._heads(keys).mT
        places = self.places(distances).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        by_place = self._heads(queries + self.place_bias) @ places.mT
        distance = sight.distance[:, None].expand(-1, self.num_heads, -1, -1)
        scores = (by_content + by_place.gather(-1, distance)) * self.scale
        weights = scores.masked_fill(~sight.seen[:, None], -torch.inf).softmax(-1)
        mixed = (weights @ self._heads(values)).transpose(1, 2).flatten(2)
        steps = steps + self.out(mixed)
        return steps + self.hidden_out(F.relu(self.hidden_in(self.hidden_norm(steps))))

    def _heads(self, channels: Tensor) -> Tensor:
        """[R, L, width] to [R, heads, L, C]."""
        return channels.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


@gin.configurable(module="remdm", denylist=["channels"])
class TransformerXLMemory(MemoryCore):
    """The last `mem_steps` inputs of every layer, looked at from every step."""

    frequencies: Tensor

    def __init__(
        self,
        channels: int,
        *,
        width: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden: int = 128,
        mem_steps: int = 64,
    ) -> None:
        """Args:
            channels: Channels of a token.
            width: Channels of a step, an even multiple of `num_heads`.
            num_layers: Layers. What the last one knows may be as old as all of them together.
            num_heads: Attention heads.
            hidden: Channels inside the feed-forward networks.
            mem_steps: Steps that each layer looks back.

        Raises:
            ValueError: If a size does not fit.
        """
        super().__init__()
        if width < 1 or num_heads < 1 or width % num_heads or width % 2:
            raise ValueError(
                f"width must be even and a multiple of num_heads={num_heads}, got {width}; set "
                "TransformerXLMemory.width or TransformerXLMemory.num_heads."
            )
        if num_layers < 1 or mem_steps < 1:
            raise ValueError(
                f"a memory needs at least one layer and one step to look back, got {num_layers} "
                f"and {mem_steps}; set TransformerXLMemory.num_layers or "
                "TransformerXLMemory.mem_steps."
            )
        self.width, self.mem_steps = width, mem_steps
        self.size = 1 + num_layers * mem_steps * width
        self.read = nn.Linear(channels, width)
        self.layers = nn.ModuleList(
            RelativeLayer(width, num_heads, hidden) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.write = nn.Linear(width, channels)
        self.register_buffer("frequencies", wave_frequencies(width), persistent=False)

    def forward(
        self, seen: Tensor, stretch: Stretch, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `MemoryCore.forward`."""
        with torch.autocast(seen.device.type, enabled=False):
            held = checked_state(state, stretch.rows, self.size, seen).detach()
            known = held[:, :1]
            past = held[:, 1:].view(stretch.rows, len(self.layers), self.mem_steps, self.width)
            sight = self._sight(stretch, known)
            counted = torch.arange(self.mem_steps + 1, device=seen.device, dtype=torch.float32)
            distances = waves(counted, self.frequencies)
            steps, after = self.read(seen.float()), [sight.worth.sum(1, keepdim=True).float()]
            for layer, before in zip(self.layers, past.unbind(1), strict=True):
                after.append(_latest(before, steps.detach(), sight))
                steps = layer(steps, before, distances, sight)
            return self.write(self.norm(steps)), torch.cat(after, 1)

    def _sight(self, stretch: Stretch, known: Tensor) -> _Sight:
        """Who sees whom: later steps earlier ones of the same episode, at most M steps back.

        Args:
            stretch: The stretch.
            known: [R, 1]: how many of the remembered steps there are, the last ones.
        """
        count, real = self.mem_steps, stretch.real
        device = real.device
        slots = torch.arange(count, device=device)
        is_step = torch.cat([slots >= count - known, real], 1)
        place = torch.cat([(slots - count).expand(len(real), -1), real.cumsum(1) - 1], 1)
        episodes = (stretch.first & real).cumsum(1)
        episode = F.pad(episodes, (count, 0))
        distance = place[:, count:, None] - place[:, None]
        seen = is_step[:, None] & (episodes[:, :, None] == episode[:, None])
        seen &= (distance >= 0) & (distance <= count)
        # What is no step sees itself, so that there is something to see.
        itself = torch.eye(stretch.steps, dtype=torch.bool, device=device)
        seen = seen | F.pad(itself, (count, 0))
        worth = is_step & (episode == episodes[:, -1:])
        kept = worth.long().argsort(dim=1, stable=True)[:, -count:]  # the last that are of worth
        return _Sight(distance.clamp(0, count), seen, kept, worth.gather(1, kept))


def _latest(before: Tensor, steps: Tensor, sight: _Sight) -> Tensor:
    """What of [R, M, width] and [R, S, width] is remembered, [R, M * width]; zeros before it."""
    both = torch.cat([before, steps], 1)
    taken = both.gather(1, sight.kept[..., None].expand(-1, -1, both.shape[-1]))
    return (taken * sight.worth[..., None]).flatten(1)
