"""The seed's net: a glyph crop and the whole glyph map as tokens before the plan tokens.

All tokens go through one transformer together, so the observation's own tokens are computed once
per plan and the transformer runs again at every denoising step. Its shape, parameter count and
initial values follow the seed (5,241,935 numbers with a head of 12 actions, 4,956,012 without the
global stream). It has known weaknesses, kept on purpose: 8 pooled cells for the whole map, no
memory, no coordinates relative to the agent, no norm before the head.

`attention` says what observation tokens read. In the seed ("joint") they read the plan, so all that
they become changes with every step. With "prefix" they read each other only; the diffusion time is
added to plan tokens alone, so the observation's keys and values of every layer are made once per
plan and are exact at all its steps. Both have the same parameters.
"""

from collections.abc import Sequence
from typing import cast

import gin
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.maps import ArraySpec
from remdm.nets.attention import attend
from remdm.nets.denoiser import Context, Denoiser
from remdm.nets.egocentric import egocentric_crop
from remdm.ranks import ALONE, Ranks
from remdm.registry import unknown_name_message
from remdm.tokens import vocabulary_size

NUM_GLYPHS = 6000  # rows of the glyph tables; NetHack has 5976
LOCAL_SIZE = 9  # cells along the side of the crop
LOCAL_PADDING = 13  # glyph shown beyond the map's edge
GLOBAL_GRID = (2, 4)  # cells that the whole map is pooled to
INITIAL_GATE = -3.0  # global tokens start at sigmoid(-3) = 5 % of their size
# Logit of END in a head that never learnt it; finite, so that it can be multiplied by 0.
NEVER = -1e9
ATTENTIONS = ("joint", "prefix")

Projected = tuple[Tensor, Tensor, Tensor]


class LocalStream(nn.Module):
    """One token from the 9x9 glyphs around the agent."""

    def __init__(self, width: int) -> None:
        """Args:
        width: Channels of the token.
        """
        super().__init__()
        self.glyphs = nn.Embedding(NUM_GLYPHS, 64)
        self.first = nn.Conv2d(64, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 64, 3, padding=1)
        self.out = nn.Linear(64 * LOCAL_SIZE**2, width)

    def forward(self, crop: Tensor) -> Tensor:
        """Token [B, 1, width] of glyphs int32 [B, 9, 9]."""
        x = self.glyphs(crop).permute(0, 3, 1, 2)
        x = F.gelu(self.second(F.gelu(self.first(x))))
        return self.out(x.flatten(1))[:, None]


class GlobalStream(nn.Module):
    """Eight tokens from all glyphs of the level."""

    def __init__(self, width: int) -> None:
        """Args:
        width: Channels of a token.
        """
        super().__init__()
        self.glyphs = nn.Embedding(NUM_GLYPHS, 32)
        self.first = nn.Conv2d(32, 32, 5, stride=2, padding=2)
        self.second = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.out = nn.Linear(64, width)

    def forward(self, glyphs: Tensor) -> Tensor:
        """Tokens [B, 8, width] of glyphs int32 [B, height, width]."""
        x = self.glyphs(glyphs).permute(0, 3, 1, 2)
        x = F.gelu(self.second(F.gelu(self.first(x))))
        return self.out(F.adaptive_avg_pool2d(x, GLOBAL_GRID).flatten(2).transpose(1, 2))


class JointLayer(nn.Module):
    """Pre-norm transformer layer over observation and plan tokens together, GELU."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        """Args:
        width: Channels of a token.
        num_heads: Attention heads; must divide `width`.
        hidden: Channels inside the feed-forward network.
        """
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"width must be a multiple of num_heads={num_heads}, got {width}; set "
                "DualStreamDenoiser.width or DualStreamDenoiser.num_heads."
            )
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden_in = nn.Linear(width, hidden)
        self.hidden_out = nn.Linear(hidden, width)
        # Initial values as in torch's own attention module.
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, width] to the same; every token reads every token."""
        return self.mix(x, *self.project(x))

    def project(self, x: Tensor) -> Projected:
        """Scaled queries, keys and values of tokens [B, tokens, width]: [B, heads, tokens, C]."""
        batch, count, width = x.shape
        head_width = width // self.num_heads
        split = self.qkv(self.norm(x)).view(batch, count, 3, self.num_heads, head_width)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        return queries * head_width**-0.5, keys, values

    def mix(
        self,
        x: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """The rest of the layer.

        Args:
            x: Tokens [B, tokens, width].
            queries: Of these tokens, [B, heads, tokens, C].
            keys: Of all tokens that they read, [B, heads, read, C].
            values: The same.
            rows: int64 [n]: which of the B * tokens tokens are wanted; all when None.

        Returns:
            [B, tokens, width], or [n, width].
        """
        mixed = attend(queries, keys, values).transpose(1, 2).reshape(x.shape)
        if rows is not None:
            x, mixed = x.flatten(0, 1)[rows], mixed.flatten(0, 1)[rows]
        x = x + self.out(mixed)
        return x + self.hidden_out(F.gelu(self.hidden_in(self.hidden_norm(x))))


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions", "plan_horizon"])
class DualStreamDenoiser(Denoiser):
    """The seed's `LocalDiffusionPlannerWithGlobal`; without global stream its local variant."""

    observation_keys = ("glyphs", "position")
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
        hidden: int = 1024,
        time_bins: int = 100,
        attention: str = "joint",
        use_global_stream: bool = True,
        predict_end: bool = True,
        goal_loss_weight: float = 0.5,
        goal_glyph: int = 2383,
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation.
        num_actions: Size of the action set.
        plan_horizon: Tokens per plan; 64 in the seed.
        width: Channels of a token.
        num_layers: Transformer layers.
        num_heads: Attention heads.
        hidden: Channels inside the feed-forward networks.
        time_bins: Rows of the table of diffusion times.
        attention: What observation tokens read: "joint", all tokens as in the seed, or "prefix",
            each other only, so that they are computed once per plan. The same parameters mean
            different nets under the two: train with the one that plans.
        use_global_stream: Whether the net sees more than its 9x9 crop.
        predict_end: Whether the head has a class for END; the seed's has none.
        goal_loss_weight: Weight of the goal head's loss; 0 leaves it untrained.
        goal_glyph: What the goal head looks for; NetHack's stairs down.

        Raises:
            ValueError: If the observation has no glyphs or `attention` is unknown.
        """
        super().__init__()
        missing = [key for key in self.observation_keys if key not in observation_spec]
        if missing:
            raise ValueError(
                f"DualStreamDenoiser needs the observation arrays "
                f"{', '.join(self.observation_keys)}; missing: {', '.join(missing)}. "
                "Choose another DiffusionPlannerAgent.denoiser_type."
            )
        if attention not in ATTENTIONS:
            raise ValueError(
                unknown_name_message("DualStreamDenoiser.attention", attention, ATTENTIONS)
            )
        self.attention = attention
        self.num_actions = num_actions
        self.plan_horizon = plan_horizon
        self.predicts_end = predict_end
        self.time_bins = time_bins
        self.goal_loss_weight = goal_loss_weight
        self.goal_glyph = goal_glyph
        self.local_stream = LocalStream(width)
        self.global_stream = GlobalStream(width) if use_global_stream else None
        if use_global_stream:
            self.gate = nn.Parameter(torch.tensor(INITIAL_GATE))
            self.goal_head = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, 2))
            # Processes that train together wait for the gradients of all that is to be trained.
            self.goal_head.requires_grad_(goal_loss_weight != 0)
        self.tokens = nn.Embedding(vocabulary_size(num_actions), width)
        self.times = nn.Embedding(time_bins, width)
        self.positions = nn.Embedding(plan_horizon, width)
        layers = nn.ModuleList(JointLayer(width, num_heads, hidden) for _ in range(num_layers))
        self.layers = cast("Sequence[JointLayer]", layers)  # a ModuleList does not say of what
        self.head = nn.Linear(width, num_actions + int(predict_end))

    def encode(self, observations: dict[str, Tensor]) -> Context:
        """What `denoise` reads, and last, with a global stream, the goal head's guess [B, 2].

        First come, for joint attention, the observation tokens [B, M, width], M = 9 or 1 without
        global stream; for prefix attention, keys and values of those tokens in each layer,
        (keys_0, .., values_0, ..), each [B, heads, M, C].
        """
        glyphs = observations["glyphs"].to(torch.int32)
        crop = egocentric_crop(glyphs, observations["position"], LOCAL_SIZE, LOCAL_PADDING)
        tokens: Tensor = self.local_stream(crop)
        guess: Context = ()
        if self.global_stream is not None:
            whole = self.global_stream(glyphs)
            tokens = torch.cat([tokens, whole * torch.sigmoid(self.gate).to(whole.dtype)], 1)
            guess = (self.goal_head(whole.mean(1)),)
        if self.attention == "joint":
            return (tokens, *guess)
        return (*self._keys_values(tokens), *guess)

    def _keys_values(self, tokens: Tensor) -> Context:
        """Keys, then values, of observation tokens [B, M, width] that read each other only."""
        last = len(self.layers) - 1
        ready = []
        for index, layer in enumerate(self.layers):
            projected = layer.project(tokens)
            ready.append(projected[1:])
            if index < last:  # what leaves the last layer is read by nobody
                tokens = layer.mix(tokens, *projected)
        return (*(keys for keys, _ in ready), *(values for _, values in ready))

    def denoise(self, context: Context, zt: Tensor, t: Tensor | float | None = None) -> Tensor:
        """See `Denoiser.denoise`; `t` is cut into `time_bins` equal bins.

        Raises:
            ValueError: If `t` is None.
        """
        return self._denoise(context, zt, t, None)

    def denoise_hidden(
        self, context: Context, zt: Tensor, t: Tensor | float | None, hidden: Tensor
    ) -> Tensor:
        """See `Denoiser.denoise_hidden`; the last layer's network runs for hidden tokens only.

        Raises:
            ValueError: If `t` is None.
        """
        if torch.compiler.is_compiling():  # how many there are would be another graph each time
            return self._denoise(context, zt, t, None)
        return self._denoise(context, zt, t, hidden)

    def _denoise(
        self, context: Context, zt: Tensor, t: Tensor | float | None, hidden: Tensor | None
    ) -> Tensor:
        if t is None:
            raise ValueError("DualStreamDenoiser reads the diffusion time; pass t.")
        # The guard keeps 0.29 * 100 = 28.999998 in bin 29.
        time = torch.as_tensor(t, dtype=torch.float32, device=zt.device) * self.time_bins + 1e-4
        bins = time.to(torch.int64).clamp(0, self.time_bins - 1).expand(zt.shape[:-1])
        plan = self.tokens(zt) + self.times(bins)[..., None, :] + self.positions.weight
        read = self._read_jointly if self.attention == "joint" else self._read_prefix
        rows = None if hidden is None else hidden.flatten().nonzero()[:, 0]
        logits = self.head(read(context, plan, rows)).float()
        if rows is not None:
            nothing = logits.new_zeros(zt.numel(), logits.shape[-1])
            logits = nothing.index_copy(0, rows, logits)
        if not self.predicts_end:
            logits = F.pad(logits, (0, 1), value=NEVER)
        return logits.view(*zt.shape, self.num_actions + 1)

    def _read_jointly(self, context: Context, plan: Tensor, rows: Tensor | None) -> Tensor:
        """Plan tokens [.., B, H, width] after all layers beside the observation tokens' own.

        Args:
            context: From `encode`.
            plan: Plan tokens before the first layer.
            rows: int64 [n]: the tokens that are wanted, counted over all; all when None.

        Returns:
            [plans, H, width], or [n, width].
        """
        seen = context[0].expand(*plan.shape[:-2], -1, -1)
        x = torch.cat([seen.to(plan.dtype), plan], -2).flatten(0, -3)
        *layers, last = self.layers
        for layer in layers:
            x = layer(x)
        # What the observation's own tokens become in the last layer is read by nobody.
        queries, keys, values = last.project(x)
        horizon = self.plan_horizon
        return last.mix(x[:, -horizon:], queries[:, :, -horizon:], keys, values, rows)

    def _read_prefix(self, context: Context, plan: Tensor, rows: Tensor | None) -> Tensor:
        """The same where the observation's tokens are ready-made."""
        count, x = len(self.layers), plan.flatten(0, -3)
        for index, layer in enumerate(self.layers):
            queries, *own = layer.project(x)
            keys, values = (
                torch.cat([_repeated(ready, plan).to(mine.dtype), mine], 2)
                for ready, mine in zip(context[index : 2 * count : count], own, strict=True)
            )
            x = layer.mix(x, queries, keys, values, rows if index == count - 1 else None)
        return x

    def auxiliary_loss(
        self,
        context: Context,
        observations: dict[str, Tensor],
        plans: Tensor,
        weights: Tensor,
        ranks: Ranks = ALONE,
    ) -> dict[str, Tensor]:
        """`goal_error`, weighted."""
        if self.global_stream is None or not self.goal_loss_weight:
            return {}
        error = self.goal_error(context, observations, ranks)
        return {"goal_loss": self.goal_loss_weight * error}

    def goal_error(
        self, context: Context, observations: dict[str, Tensor], ranks: Ranks = ALONE
    ) -> Tensor:
        """Mean squared error of the guessed stairs, over the states where they are in view.

        Args:
            context: From `encode`, of a net with a global stream.
            observations: What it was made of.
            ranks: See `auxiliary_loss`.
        """
        target, visible = goal_position(observations["glyphs"], self.goal_glyph)
        error = (context[-1].float() - target).square().mean(1) * visible
        (seen,) = ranks.means(visible.sum())
        return error.sum() / torch.where(seen == 0, 1.0, seen)


def _repeated(ready: Tensor, plan: Tensor) -> Tensor:
    """[B, heads, M, C] for every draw of plans [.., B, H, width]: [rows, heads, M, C]."""
    if plan.ndim == 3:
        return ready
    return ready.expand(*plan.shape[:-2], *ready.shape[1:]).flatten(0, -4)


def goal_position(glyphs: Tensor, goal_glyph: int) -> tuple[Tensor, Tensor]:
    """Where the goal is drawn.

    Args:
        glyphs: integers [B, height, width].
        goal_glyph: The symbol looked for.

    Returns:
        float32 [B, 2]: row / (height - 1) and column / (width - 1) of its first place, 0 where
        there is none; float32 [B]: 1 where there is one.
    """
    _, height, width = glyphs.shape
    found = (glyphs == goal_glyph).flatten(1)
    visible = found.any(1)
    index = found.to(torch.uint8).argmax(1)
    rows = index.div(width, rounding_mode="floor") / (height - 1)
    columns = (index % width) / (width - 1)
    return torch.stack([rows, columns], 1) * visible[:, None], visible.float()
