"""An egocentric encoder that also sees how far things are, over the whole remembered map.

Small convolutions give every cell of the map a cost of entering it and a cost of ending there, in
a few channels; `remdm.nets.reach_kernel` finds the cheapest ways, exactly and however long; the
decoder is shown what they cost from the cells around the agent. What is worth walking to and what
can be walked on is learned from the plans alone.
"""

from typing import Any

import gin
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.maps import DELTAS, NUM_DIRECTIONS, NUM_TERRAINS, ArraySpec, Terrain
from remdm.nets.cross_denoiser import TOKEN_SCALE
from remdm.nets.ego import EgoEncoder
from remdm.nets.egocentric import (
    DOORS,
    NUM_COARSE_CHANNELS,
    NUM_SEARCH_BUCKETS,
    WALKABLE,
    egocentric_crop,
    egocentric_features,
    search_bucket,
    terrain_flags,
    unknown_beside,
)
from remdm.nets.reach_kernel import spread, spread_backward

NUM_MAP_CODES = NUM_TERRAINS * 2 * NUM_SEARCH_BUCKETS
# Costs start near 1 for a step, 0.05 more for a diagonal one, and 12 for ending anywhere.
STEP_SCALE, SOURCE_SCALE = 4.0, 20.0
# What a cell's kind adds to its costs learns this many times faster than other weights: costs have
# to grow from 1 to tens, and an update of Adam moves a weight by little more than 0.001.
KIND_SPEED = 10.0
ENTER_BIAS, SLANT_BIAS, SOURCE_BIAS = -1.25, -5.0, -0.2
WARY_BIAS = 1.0
COST_INIT = 0.1
# Where an informed encoder starts, by kind of `map_kinds`: unknown, wall, visited, unvisited, goal,
# door, frontier. Ways end for 0 at the stairs, 60 at the frontier and 200 elsewhere; a step into a
# wall costs 75. This is near to what `MemoryOracle` prefers: a prior, which training may change.
INFORMED_SOURCE = (1.0, 1.0, 1.0, 1.0, -2.0, 0.0, -0.7)
INFORMED_ENTER = (2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0)
# Ways are followed exactly this far beyond the agent's own distance, and shown this far before it.
MARGIN = 6.0
HORIZON = 18.0
_FIRST_DIAGONAL = 4


class _Distances(torch.autograd.Function):
    """`reach_kernel.spread` with its gradient, computed on the CPU in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        source: Tensor,
        enter: Tensor,
        slant: Tensor,
        wary: Tensor,
        blocked: Tensor,
        position: Tensor,
    ) -> Tensor:
        batch, channels, height, width = source.shape
        distance = np.empty((batch, channels, height * width), np.float32)
        parent = np.empty(distance.shape, np.int8)
        order = np.empty(distance.shape, np.int16)
        done = np.empty((batch, channels), np.int32)
        walls, place = _array(blocked), _array(position)
        spread(
            _array(source),
            _array(enter),
            _array(slant),
            walls,
            _array(wary),
            place,
            MARGIN,
            distance,
            parent,
            order,
            done,
        )
        ctx.ways = (walls, place, parent, order, done)
        ctx.shape = source.shape
        return torch.from_numpy(distance).to(source.device).view(source.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        walls, place, parent, order, done = ctx.ways
        source, enter, slant = (np.zeros(ctx.shape, np.float32) for _ in range(3))
        wary = np.zeros(ctx.shape[:2], np.float32)
        used = _array(gradient.float().flatten(2)).copy()
        spread_backward(used, walls, place, parent, order, done, source, enter, slant, wary)
        found = (source, enter, slant, wary.sum(0))
        return *(torch.from_numpy(x).to(gradient.device) for x in found), None, None


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def distances(
    source: Tensor, enter: Tensor, slant: Tensor, wary: Tensor, blocked: Tensor, position: Tensor
) -> Tensor:
    """Cost of the cheapest way from every cell to where it ends, by `reach_kernel`.

    Args:
        source: float32 [B, C, height, width], cost of ending in a cell.
        enter: float32 [B, C, height, width], cost of entering it; not negative.
        slant: float32 [B, C, height, width], added at both ends of a diagonal step.
        wary: float32 [C], added to steps that have failed.
        blocked: uint8 [B, height, width] of direction bits.
        position: uint8 [B, 2], the agent's cell.

    Returns:
        float32 [B, C, height, width], at most `MARGIN` more than at the agent's cell. Gradients
        flow to the first four.
    """
    found: Tensor = _Distances.apply(source, enter, slant, wary, blocked, position)
    return found


def map_kinds(observations: dict[str, Tensor]) -> Tensor:
    """float32 [B, 7, height, width]: unknown, and the six kinds of `COARSE_CHANNELS`, per cell."""
    terrain = observations["terrain"]
    index = terrain.to(torch.int64)

    def among(members: tuple[Terrain, ...]) -> Tensor:
        return torch.from_numpy(terrain_flags(members)).to(terrain.device)[index]

    visited = observations["visited"] > 0
    unvisited = among(WALKABLE) & ~visited
    kinds = [terrain == Terrain.UNKNOWN, terrain == Terrain.WALL, visited, unvisited]
    kinds += [terrain == Terrain.GOAL, among(DOORS), unvisited & unknown_beside(terrain)]
    return torch.stack(kinds, 1).float()


def map_codes(observations: dict[str, Tensor]) -> Tensor:
    """int32 [B, height, width] below `NUM_MAP_CODES`: terrain, whether visited, searches."""
    code = observations["terrain"].to(torch.int32) * 2 + (observations["visited"] > 0)
    return code * NUM_SEARCH_BUCKETS + search_bucket(observations["searched"])


@gin.configurable(module="remdm", denylist=["observation_spec", "width"])
class ReachEncoder(EgoEncoder):
    """`EgoEncoder` whose crop shows learned distances, and one token of the agent's next steps."""

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        width: int,
        *,
        fields: int = 3,
        map_dim: int = 16,
        map_channels: int = 24,
        informed: bool = True,
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation; must hold the memory maps.
        width: Channels of a token.
        fields: Kinds of distance; each has its own costs.
        map_dim: Channels of a cell's embedding, on the whole map.
        map_channels: Channels of the convolution over the whole map.
        informed: Whether costs start from what kinds of cells mean: walls and the unknown are dear
            to enter, and the frontier and the stairs are where ways end. Without, all cells
            start alike, and it takes longer to learn the same.
        """
        super().__init__(observation_spec, width)
        self.fields = fields
        cell_dim, channels = self.stem.in_channels, self.stem.out_channels
        self.stem = nn.Conv2d(cell_dim + fields, channels, 3, padding=1)
        self.map_cells = nn.Parameter(torch.randn(NUM_MAP_CODES, map_dim))
        self.map_conv = nn.Conv2d(map_dim, map_channels, 3, padding=1)
        self.map_mix = nn.Conv2d(map_channels, map_channels, 1)
        self.costs = nn.Conv2d(map_channels, 3 * fields, 1)
        with torch.no_grad():
            bias = torch.tensor([SOURCE_BIAS, ENTER_BIAS, SLANT_BIAS])
            assert self.costs.bias is not None
            self.costs.bias.copy_(bias.repeat_interleave(fields))
            # Chance differences between cells would add up along a way and drown short detours.
            self.costs.weight.mul_(COST_INIT)
        self.kinds = nn.Parameter(torch.zeros(3 * fields, NUM_COARSE_CHANNELS + 1))
        if informed:
            with torch.no_grad():
                start = torch.tensor([INFORMED_SOURCE, INFORMED_ENTER])
                self.kinds[: 2 * fields] = start.repeat_interleave(fields, 0)
        self.wary = nn.Parameter(torch.full((fields,), WARY_BIAS))
        self.next_steps = nn.Linear(fields * (2 * NUM_DIRECTIONS + 1), width)
        self.next_position = nn.Parameter(torch.randn(width) * TOKEN_SCALE)
        self.num_tokens += 1

    def step_costs(self, observations: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Costs of ending, entering and slanting, each float32 [B, fields, height, width]."""
        cells = F.embedding(map_codes(observations), self.map_cells).permute(0, 3, 1, 2)
        hidden = F.relu(self.map_mix(F.relu(self.map_conv(cells))))
        with torch.autocast(hidden.device.type, enabled=False):
            kinds = self.kinds[:, :, None, None] * KIND_SPEED
            costs = self.costs(hidden.float()) + F.conv2d(map_kinds(observations), kinds)
            source, enter, slant = F.softplus(costs).chunk(3, 1)
        return SOURCE_SCALE * source, STEP_SCALE * enter, STEP_SCALE * slant

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Tokens [B, num_tokens, width] of a batch of observations."""
        features = egocentric_features(observations, self.size)
        position = observations["position"]
        source, enter, slant = self.step_costs(observations)
        wary = STEP_SCALE * F.softplus(self.wary.float())
        blocked = observations["blocked"]
        with torch.autocast(source.device.type, enabled=False):
            distance = distances(source, enter, slant, wary, blocked, position)
            near = self._around(distance, position, self.size.crop)
            middle = self.size.crop // 2
            here = near[:, :, middle, middle]
            nearer = (here[:, :, None, None] - near).clamp(-MARGIN, HORIZON) / MARGIN
            steps = self._next_steps(near, here, enter, slant, wary, observations)
        crop = self.cells(features.cells).permute(0, 3, 1, 2)
        crop = torch.cat([crop, nearer.to(crop.dtype)], 1)
        crop = F.relu(self.blocks(self.stem(crop)))
        tokens = [self.patches(crop).flatten(2).transpose(1, 2)]
        share = features.coarse.permute(0, 3, 1, 2) * (1.0 / self.size.block**2)
        tokens.append(self.coarse(share).flatten(2).transpose(1, 2))
        seen = torch.cat(tokens, 1)
        seen = seen + self.positions.to(seen.dtype)
        told = self.next_steps(steps) + self.next_position
        told = told.to(seen.dtype)[:, None]
        return torch.cat([seen + told, told], 1)

    def _around(self, fields: Tensor, position: Tensor, size: int) -> Tensor:
        """The square around the agent [B, C, size, size]; far away off the map."""
        count = fields.shape[1]
        places = position.repeat_interleave(count, 0)
        cut = egocentric_crop(fields.flatten(0, 1), places, size, outside=1000)
        return cut.unflatten(0, (-1, count))

    def _next_steps(
        self,
        near: Tensor,
        here: Tensor,
        enter: Tensor,
        slant: Tensor,
        wary: Tensor,
        observations: dict[str, Tensor],
    ) -> Tensor:
        """How good each of the eight steps is, and the way's cost [B, fields * 17]."""
        position, blocked = observations["position"], observations["blocked"]
        middle = near.shape[-1] // 2
        around = near[:, :, middle - 1 : middle + 2, middle - 1 : middle + 2]
        costs = around + self._around(enter, position, 3)
        slants = self._around(slant, position, 3)
        bits = egocentric_crop(blocked, position, 1)[:, 0]
        ways = []
        for d, (row, column) in enumerate(DELTAS.tolist()):
            way = costs[:, :, 1 + row, 1 + column]
            if d >= _FIRST_DIAGONAL:
                way = way + slants[:, :, 1 + row, 1 + column] + slants[:, :, 1, 1]
            ways.append(way + ((bits >> d) & 1) * wary)
        worse = torch.stack(ways, -1) - here[:, :, None]
        shown = [torch.exp(-worse.clamp(min=0)), worse.clamp(-MARGIN, MARGIN) / MARGIN]
        return torch.cat([*(x.flatten(1) for x in shown), torch.log1p(here)], 1)
