"""The default net: an egocentric encoder and a plan decoder that cross-attends to it.

The agent sees a crop of its memory around itself in full detail and the whole level in coarse
blocks, both centred on itself, so what it learns in one place holds in every other.
"""

from collections.abc import Callable

import gin
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.maps import NUM_TERRAINS, ArraySpec
from remdm.nets.cross_denoiser import TOKEN_SCALE, CrossDenoiser
from remdm.nets.denoiser import OFFSET_KEY, Context
from remdm.nets.egocentric import (
    FEATURE_KEYS,
    NUM_BLOCKED,
    NUM_COARSE_CHANNELS,
    NUM_SEARCH_BUCKETS,
    NUM_VISIT_BUCKETS,
    EgocentricFeatures,
    ViewSize,
    egocentric_features,
)
from remdm.nets.memory import MemoryCore
from remdm.nets.residual import ResidualBlock
from remdm.ranks import ALONE, Ranks

CELL_SCALE = 0.5  # each of the four summed tables, so that a cell starts near scale 1


class CellEmbedding(nn.Module):
    """Sum of four small tables (terrain, visit, search, blocked), read through one table.

    The sums of all combinations are formed first (1872 rows), so that each cell costs one lookup
    instead of four; the gradient is the same.
    """

    def __init__(self, dim: int) -> None:
        """Args:
        dim: Channels per cell.
        """
        super().__init__()
        sizes = (NUM_TERRAINS, NUM_VISIT_BUCKETS, NUM_SEARCH_BUCKETS, NUM_BLOCKED)
        self.tables = nn.ParameterList(
            nn.Parameter(torch.randn(n, dim) * CELL_SCALE) for n in sizes
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Embed cell codes [..., ] of `egocentric.cell_codes`: [..., dim]."""
        terrain, visit, search, blocked = self.tables
        combined = terrain[:, None] + visit
        combined = combined[:, :, None] + search
        combined = combined[:, :, :, None] + blocked
        return F.embedding(cells, combined.flatten(0, 3))


@gin.configurable(module="remdm", denylist=["observation_spec", "width"])
class EgoEncoder(nn.Module):
    """Observation tokens: 3x3 patches of the crop (49) and of the coarse map (33).

    Attributes:
        num_tokens: Tokens per observation.
    """

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        width: int,
        *,
        crop_size: int = 21,
        patch_size: int = 3,
        cell_dim: int = 16,
        channels: int = 32,
        num_blocks: int = 2,
        coarse_rows: int = 9,
        coarse_columns: int = 33,
        block_size: int = 5,
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation; must hold the memory maps.
        width: Channels of a token.
        crop_size: Side of the crop in cells, an odd multiple of `patch_size`.
        patch_size: Side of a patch, in cells of the crop and in blocks of the coarse map.
        cell_dim: Channels of a cell's embedding.
        channels: Channels of the convolutions.
        num_blocks: Residual blocks.
        coarse_rows: Blocks of the coarse map, an odd multiple of `patch_size`.
        coarse_columns: The same for columns.
        block_size: Side of a block in cells, odd.
        """
        super().__init__()
        missing = [key for key in FEATURE_KEYS if key not in observation_spec]
        if missing:
            raise ValueError(
                f"EgoEncoder needs the observation arrays {', '.join(FEATURE_KEYS)}; "
                f"missing: {', '.join(missing)}. Choose an environment with a remembered map or "
                "another DiffusionPlannerAgent.denoiser_type."
            )
        for name, value in (
            ("crop_size", crop_size),
            ("coarse_rows", coarse_rows),
            ("coarse_columns", coarse_columns),
        ):
            if value % 2 == 0 or value % patch_size:
                raise ValueError(
                    f"{name} must be an odd multiple of patch_size={patch_size}, got {value}; "
                    f"set EgoEncoder.{name} or EgoEncoder.patch_size."
                )
        if block_size % 2 == 0:
            raise ValueError(
                f"block_size must be odd, got {block_size}; set EgoEncoder.block_size."
            )
        self.size = ViewSize(crop_size, coarse_rows, coarse_columns, block_size)
        self.patch_size = patch_size
        self.cells = CellEmbedding(cell_dim)
        self.stem = nn.Conv2d(cell_dim, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))
        self.patches = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.coarse = nn.Conv2d(NUM_COARSE_CHANNELS, width, patch_size, stride=patch_size)
        side = crop_size // patch_size
        num_coarse = (coarse_rows // patch_size) * (coarse_columns // patch_size)
        self.num_tokens = side * side + num_coarse
        self.positions = nn.Parameter(torch.randn(self.num_tokens, width) * TOKEN_SCALE)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Tokens [B, num_tokens, width] of a batch of observations."""
        return self.look(observations)[0]

    def look(self, observations: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The tokens, and what else `auxiliary_loss` reads: nothing here."""
        return (self.tokens(egocentric_features(observations, self.size)),)

    def auxiliary_loss(
        self,
        seen: tuple[Tensor, ...],
        observations: dict[str, Tensor],
        plans: Tensor,
        weights: Tensor,
        ranks: Ranks,
    ) -> dict[str, Tensor]:
        """See `Denoiser.auxiliary_loss`.

        Args:
            seen: What `look` returned beside the tokens.
            observations: What it was made of.
            plans: int64 [B, H].
            weights: float32 [B].
            ranks: The processes that have the rest of the batch.
        """
        return {}

    def tokens(self, features: EgocentricFeatures) -> Tensor:
        """Tokens [B, num_tokens, width] of ready-made features."""
        # [B, h, w, C] seen as [B, C, h, w] is the channels_last layout: no copy.
        crop = self.cells(features.cells).permute(0, 3, 1, 2)
        crop = F.relu(self.blocks(self.stem(crop)))
        near = self.patches(crop).flatten(2).transpose(1, 2)
        share = features.coarse.permute(0, 3, 1, 2) * (1.0 / self.size.block**2)
        far = self.coarse(share).flatten(2).transpose(1, 2)
        tokens = torch.cat([near, far], 1)
        return tokens + self.positions.to(tokens.dtype)


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions", "plan_horizon"])
class EgoDenoiser(CrossDenoiser):
    """Plan tokens that attend to each other and to the two egocentric views."""

    observation_keys: tuple[str, ...] = FEATURE_KEYS
    encoder: EgoEncoder

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
        encoder_type: type[EgoEncoder] = EgoEncoder,
        memory_type: Callable[[int], MemoryCore] | None = None,
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation.
        num_actions: Size of the action set.
        plan_horizon: Tokens per plan.
        width: Channels of a token.
        num_layers: Decoder layers.
        num_heads: Attention heads.
        hidden: Channels inside the feed-forward networks.
        encoder_type: Makes observation tokens of `width` channels.
        memory_type: What remembers the steps before; None for nothing.
        """
        super().__init__(
            encoder_type(observation_spec, width),
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

    def look(self, observations: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """See `CrossDenoiser.look`."""
        return self.encoder.look(observations)

    def auxiliary_loss(
        self,
        context: Context,
        observations: dict[str, Tensor],
        plans: Tensor,
        weights: Tensor,
        ranks: Ranks = ALONE,
    ) -> dict[str, Tensor]:
        """See `Denoiser.auxiliary_loss`; whatever the encoder learns by itself."""
        seen = context[2 * len(self.layers) :]
        return self.encoder.auxiliary_loss(seen, observations, plans, weights, ranks)
