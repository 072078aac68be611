"""A small denoiser of plans on a grid, for benchmarks that need no game.

The encoder is a recurrent network on the cells of a grid: all cells repeat the same update, in
which each hears those of its four neighbours that it can step to. What can be found out by passing
word from cell to cell, such as which corridors end dead or how far the start is, can be learnt in
ten thousand numbers and holds for every level.

Axes in this file: B states, R rows, N columns, F marks of a cell, C channels of a cell.
"""

from collections.abc import Callable

import gin
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.maps import ArraySpec
from remdm.nets.attention import DecoderLayer
from remdm.nets.cross_denoiser import TOKEN_SCALE, CrossDenoiser
from remdm.nets.memory import MemoryCore

OBSERVATION_KEYS = ("passages", "marks")
CLOCK_SCALE = 0.1


@gin.configurable(module="remdm", denylist=["rows", "columns", "num_marks", "width"])
class GridEncoder(nn.Module):
    """One token per cell after a number of equal updates."""

    def __init__(
        self,
        rows: int,
        columns: int,
        num_marks: int,
        width: int,
        *,
        channels: int = 32,
        num_updates: int = 24,
    ) -> None:
        """Args:
        rows: Of the grid.
        columns: Of the grid.
        num_marks: Features of a cell besides its passages.
        width: Channels of a token.
        channels: Channels of a cell's state.
        num_updates: Updates of every cell: word travels as many cells. 0 reads each cell alone.
        """
        super().__init__()
        features = 4 + num_marks
        self.start = nn.Linear(features, channels)
        self.gates = nn.Linear(features, 4 * channels)
        self.inputs = nn.Linear(features, 2 * channels)
        self.mix = nn.Linear(2 * channels, 2 * channels, bias=False)
        self.clock = nn.Parameter(torch.randn(num_updates, 2 * channels) * CLOCK_SCALE)
        self.tokens = nn.Linear(channels, width)
        self.positions = nn.Parameter(torch.randn(rows * columns, width) * TOKEN_SCALE)

    def forward(self, passages: Tensor, marks: Tensor) -> Tensor:
        """Encode a batch of grids.

        Args:
            passages: [B, R, N, 4] of any dtype: 1 where one can step north, east, south, west.
            marks: [B, R, N, F] of any dtype.

        Returns:
            Tokens [B, R * N, width].
        """
        # States last but one: a neighbour's state is then one block of memory.
        grid = torch.cat([passages, marks], -1).to(self.positions.dtype).permute(1, 2, 0, 3)
        state = torch.tanh(self.start(grid))
        gates = torch.sigmoid(self.gates(grid)).unflatten(-1, (4, -1)) * grid[..., :4, None]
        north, east, south, west = gates.unbind(-2)
        inputs = self.inputs(grid)
        for tick in self.clock:
            wide = F.pad(state, (0, 0, 0, 0, 1, 1, 1, 1))  # nothing is heard from beyond the edge
            heard = wide[:-2, 1:-1] * north + wide[2:, 1:-1] * south
            heard = heard + wide[1:-1, 2:] * east + wide[1:-1, :-2] * west
            keep, new = (self.mix(torch.cat([heard, state], -1)) + inputs + tick).chunk(2, -1)
            # In mixed precision the first state is of another type.
            state = torch.lerp(torch.tanh(new), state.to(new.dtype), torch.sigmoid(keep))
        return self.tokens(state).flatten(0, 1).transpose(0, 1) + self.positions


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions", "plan_horizon"])
class GridDenoiser(CrossDenoiser):
    """Plan tokens that attend to each other and to the cells of a grid; no time input."""

    observation_keys = OBSERVATION_KEYS

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        num_actions: int,
        plan_horizon: int,
        *,
        width: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden: int = 128,
        encoder_type: type[GridEncoder] = GridEncoder,
        layer_type: type[DecoderLayer] = DecoderLayer,
        memory_type: Callable[[int], MemoryCore] | None = None,
    ) -> None:
        """Args:
            observation_spec: Arrays of one observation; must hold "passages" [R, N, 4] and
                "marks" [R, N, F], see `GridEncoder`.
            num_actions: Size of the action set.
            plan_horizon: Tokens per plan.
            width: Channels of a token.
            num_layers: Decoder layers.
            num_heads: Attention heads.
            hidden: Channels inside the feed-forward networks.
            encoder_type: Makes tokens of `width` channels.
            layer_type: Decoder layer; `CausalLayer` makes the autoregressive twin.
            memory_type: What remembers the steps before; None for nothing.

        Raises:
            ValueError: If the observations hold no such grid.
        """
        shapes = [
            observation_spec[key].shape for key in OBSERVATION_KEYS if key in observation_spec
        ]
        if [len(shape) for shape in shapes] != [3, 3] or shapes[0] != (*shapes[1][:2], 4):
            raise ValueError(
                'GridDenoiser needs the observation arrays "passages" [rows, columns, 4] and '
                f'"marks" [rows, columns, features], got {observation_spec}. Choose another '
                "DiffusionPlannerAgent.denoiser_type."
            )
        rows, columns, num_marks = shapes[1]
        super().__init__(
            encoder_type(rows, columns, num_marks, width),
            num_actions,
            plan_horizon,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden=hidden,
            layer_type=layer_type,
            memory_type=memory_type,
        )

    def observation_tokens(self, observations: dict[str, Tensor]) -> Tensor:
        """See `CrossDenoiser.observation_tokens`."""
        tokens: Tensor = self.encoder(*(observations[key] for key in OBSERVATION_KEYS))
        return tokens
