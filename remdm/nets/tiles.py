"""A net for worlds of tiles seen around the agent: Craftax, as its packed observations show it.

Every tile becomes a token, after convolutions have told it of its neighbourhood, and so does the
agent's state. Where the observation has a history (`remdm.envs.history`), every past moment is one
token more: what was seen then, and what was done.

Axes in this file: B states, R rows, N columns of tiles, K past moments, C channels.
"""

from collections.abc import Callable

import gin
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.maps import HISTORY_ACTIONS, HISTORY_PREFIX, ArraySpec
from remdm.nets.cross_denoiser import TOKEN_SCALE, CrossDenoiser
from remdm.nets.denoiser import OFFSET_KEY
from remdm.nets.memory import MemoryCore
from remdm.nets.residual import ResidualBlock

TILE_KEYS = ("tiles", "flags", "scalars")
NUM_TILES = 64  # blocks of either game, and 0 for what is not seen
GLANCE_CHANNELS = 8  # of a tile, in the memory of a past moment
SCALAR_GAIN = 10.0  # one log is 0.1 in the observation


def unpacked(flags: Tensor) -> Tensor:
    """Bits of bytes, the highest first: uint8 [..., bytes] to uint8 [..., 8 * bytes]."""
    shifts = torch.arange(7, -1, -1, device=flags.device, dtype=torch.uint8)
    return ((flags[..., None] >> shifts) & 1).flatten(-2)


def scalar_features(scalars: Tensor) -> Tensor:
    """Small counts told apart: float32 [..., S] to [..., 3 S]."""
    scaled = scalars.float()
    return torch.cat([scaled, torch.tanh(SCALAR_GAIN * scaled), (scaled > 0).float()], -1)


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions", "width"])
class TileEncoder(nn.Module):
    """Observation tokens: one per tile, one for the agent's state, one per past moment."""

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        num_actions: int,
        width: int,
        *,
        channels: int = 64,
        num_blocks: int = 2,
        glances: bool = True,
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation: `tiles` uint8 [R, N], `flags` uint8
            [R, N, bytes] of packed bits, `scalars` float32 [S]; see
            `remdm.envs.craftax.tiles.TileCodec`. With a history also `history/...` of each,
            [K, ...], and `history/actions` int8 [K].
        num_actions: Size of the action set.
        width: Channels of a token.
        channels: Channels of a tile in the convolutions.
        num_blocks: Residual blocks.
        glances: With a history, look at what was seen at each past moment; otherwise only what was
            done is known of it, which costs next to nothing.

        Raises:
            ValueError: If the observations hold no tiles.
        """
        super().__init__()
        missing = [key for key in TILE_KEYS if key not in observation_spec]
        if missing:
            raise ValueError(
                f"TileEncoder needs the observation arrays {', '.join(TILE_KEYS)}; missing: "
                f"{', '.join(missing)}. Choose a Craftax environment or another "
                "DiffusionPlannerAgent.denoiser_type."
            )
        rows, columns, num_bytes = observation_spec["flags"].shape
        (num_scalars,) = observation_spec["scalars"].shape
        self.tiles = nn.Parameter(torch.randn(NUM_TILES, channels))
        self.flags = nn.Linear(8 * num_bytes, channels, bias=False)
        self.state_in = nn.Linear(3 * num_scalars, width)
        self.state_out = nn.Linear(width, width)
        self.state_to_tiles = nn.Linear(width, channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))
        self.to_tokens = nn.Linear(channels, width)
        self.positions = nn.Parameter(torch.randn(rows * columns + 1, width) * TOKEN_SCALE)
        past = observation_spec.get(HISTORY_ACTIONS)
        self.history = 0 if past is None else past.shape[0]
        self.glances = glances
        if self.history:  # last, so that all else starts as without one
            if glances:
                self.glance_tiles = nn.Parameter(torch.randn(NUM_TILES, GLANCE_CHANNELS))
                self.glance_flags = nn.Linear(8 * num_bytes, GLANCE_CHANNELS, bias=False)
                self.glance_in = nn.Linear(
                    GLANCE_CHANNELS * rows * columns + 3 * num_scalars, width
                )
                self.glance_out = nn.Linear(width, width)
            self.past_actions = nn.Parameter(torch.randn(num_actions + 1, width) * TOKEN_SCALE)
            self.ages = nn.Parameter(torch.randn(self.history, width) * TOKEN_SCALE)
            self.nothing = nn.Parameter(torch.randn(width) * TOKEN_SCALE)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Tokens [B, R * N + 1 + K, width] of a batch of observations."""
        grid, state = self._look(*(observations[key] for key in TILE_KEYS))
        tokens = torch.cat([self.to_tokens(grid).flatten(1, 2), state[:, None]], 1)
        tokens = tokens + self.positions.to(tokens.dtype)
        if not self.history:
            return tokens
        return torch.cat([tokens, self._remember(observations).to(tokens.dtype)], 1)

    def _look(self, tiles: Tensor, flags: Tensor, scalars: Tensor) -> tuple[Tensor, Tensor]:
        """What one moment shows: tiles [B, R, N, C] that know their surroundings, state [B, w]."""
        state = self.state_out(F.relu(self.state_in(scalar_features(scalars))))
        cells = F.embedding(tiles.long(), self.tiles) + self.flags(unpacked(flags).float())
        cells = cells + self.state_to_tiles(F.relu(state))[:, None, None]
        # [B, R, N, C] seen as [B, C, R, N] is the channels_last layout: no copy.
        seen = F.relu(self.blocks(cells.permute(0, 3, 1, 2)))
        return seen.permute(0, 2, 3, 1), state

    def _glance(self, tiles: Tensor, flags: Tensor, scalars: Tensor) -> Tensor:
        """What past moments showed, [B, K, width]. No convolutions: there are many of them."""
        cells = F.embedding(tiles.long(), self.glance_tiles)
        cells = F.relu(cells + self.glance_flags(unpacked(flags).float()))
        seen = torch.cat([cells.flatten(2), scalar_features(scalars).to(cells.dtype)], -1)
        glance: Tensor = self.glance_out(F.relu(self.glance_in(seen)))
        return glance

    def _remember(self, observations: dict[str, Tensor]) -> Tensor:
        """Tokens [B, K, width] of past moments; a learnt one where the life had not begun."""
        actions = observations[HISTORY_ACTIONS].long()
        tokens = F.embedding(actions, self.past_actions)
        if self.glances:
            tokens = tokens + self._glance(*(observations[HISTORY_PREFIX + k] for k in TILE_KEYS))
        unknown = actions == len(self.past_actions) - 1
        return torch.where(unknown[..., None], self.nothing.to(tokens.dtype), tokens) + self.ages


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions", "plan_horizon"])
class TileDenoiser(CrossDenoiser):
    """Plan tokens that attend to each other, to the tiles around the agent, and to its state."""

    observation_keys: tuple[str, ...] = TILE_KEYS

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        num_actions: int,
        plan_horizon: int,
        *,
        width: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden: int = 512,
        encoder_type: type[TileEncoder] = TileEncoder,
        memory_type: Callable[[int], MemoryCore] | None = None,
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation; see `TileEncoder`.
        num_actions: Size of the action set.
        plan_horizon: Tokens per plan.
        width: Channels of a token.
        num_layers: Decoder layers.
        num_heads: Attention heads.
        hidden: Channels inside the feed-forward networks.
        encoder_type: Makes observation tokens of `width` channels.
        memory_type: What remembers the steps before; None for nothing.
        """
        encoder = encoder_type(observation_spec, num_actions, width)
        if encoder.history:
            past = tuple(HISTORY_PREFIX + key for key in TILE_KEYS if encoder.glances)
            self.observation_keys = (*TILE_KEYS, *past, HISTORY_ACTIONS)
        super().__init__(
            encoder,
            num_actions,
            plan_horizon,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden=hidden,
            told_offset=OFFSET_KEY in observation_spec,
            memory_type=memory_type,
        )

    def observation_tokens(self, observations: dict[str, Tensor]) -> Tensor:
        """See `CrossDenoiser.observation_tokens`."""
        tokens: Tensor = self.encoder(observations)
        return tokens
