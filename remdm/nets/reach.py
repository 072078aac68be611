"""An egocentric encoder that also sees how far things are, over the whole remembered map.

Small convolutions give every cell of the map a cost of entering it and a cost of ending there, in
a few channels; `remdm.nets.reach_kernel` finds the cheapest ways, exactly and however long; the
decoder is shown what they cost from the cells around the agent. What is worth walking to and what
can be walked on is learned from the plans alone.
"""

import math
from typing import Any, NamedTuple

import gin
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.maps import DELTAS, NUM_DIRECTIONS, NUM_TERRAINS, ArraySpec, Terrain
from remdm.nets.cross_denoiser import TOKEN_SCALE
from remdm.nets.ego import EgoEncoder
from remdm.nets.egocentric import (
    NUM_SEARCH_BUCKETS,
    WALKABLE,
    egocentric_crop,
    egocentric_features,
    search_bucket,
    terrain_flags,
    unknown_beside,
)
from remdm.nets.reach_kernel import spread, spread_backward
from remdm.ranks import Ranks

NUM_MAP_CODES = NUM_TERRAINS * 2 * NUM_SEARCH_BUCKETS
# Where costs start: 1 for a step, 0.05 more for a diagonal one, 400 for ending anywhere.
STEP_SCALE, SOURCE_SCALE = 4.0, 20.0
ENTER_BIAS, SLANT_BIAS, SOURCE_BIAS = -1.25, -5.0, 20.0
WARY_BIAS = 1.0
# Where an informed encoder starts: 300 for a step into a wall or the unknown and for one that has
# failed, 60 for ending at the frontier, 0 for ending at the stairs. This is near to what
# `MemoryOracle` prefers: a prior.
SOLID, SOLID_ENTER, INFORMED_WARY = (Terrain.UNKNOWN, Terrain.WALL), 75.0, 75.0
FRONTIER_SOURCE, GOAL_SOURCE = -17.0, -50.0
# What a cell's kind adds to its costs learns this many times faster than other weights: costs
# have to move by tens, and an update of Adam moves a weight by little more than 0.001.
KIND_SPEED, KIND_GRADIENT = 40.0, 0.02
# Ways are followed exactly this far beyond the agent's own distance, and shown this far before it.
MARGIN = 6.0
HORIZON = 18.0
# How much worse a step can be said to be; what is farther off learns nothing more.
WORST = 30.0
# A direction that makes the way one step longer is this many nats less likely; costs of a step that
# had to grow for certainty would let the way to far places look dear.
WAY_SHARPNESS = 4.0
# Kinds of a cell: its terrain, whether it was visited, whether it borders the unknown.
FRONTIER_KIND, NUM_KINDS = NUM_TERRAINS + 1, NUM_TERRAINS + 2
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


def _fast(weight: Tensor) -> Tensor:
    """`KIND_SPEED * weight`, whose gradient is small beside others when their norm is clipped.

    Adam does not look at the scale of a gradient, so this changes nothing but the clipping.
    """
    slow = KIND_GRADIENT * weight
    return slow + ((KIND_SPEED - KIND_GRADIENT) * weight).detach()


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


class KnownCells(NamedTuple):
    """The remembered cells of all maps of a batch, one after another.

    Attributes:
        place: int64 [K], where in the flattened [B, height, width].
        kinds: float32 [K, NUM_KINDS]: terrain, visited, frontier.
        codes: int64 [K, 9], of the cell and its neighbours, row by row, below `NUM_MAP_CODES`;
            `NUM_MAP_CODES` off the map.
    """

    place: Tensor
    kinds: Tensor
    codes: Tensor


def known_cells(observations: dict[str, Tensor]) -> KnownCells:
    """What the costs of remembered cells depend on; most of a map is unknown."""
    terrain = observations["terrain"]
    height, width = terrain.shape[1:]
    index = (terrain != Terrain.UNKNOWN).flatten().nonzero()[:, 0]
    there = terrain.flatten()[index].to(torch.int64)
    walkable = torch.from_numpy(terrain_flags(WALKABLE)).to(terrain.device)[there]
    visited = observations["visited"].flatten()[index] > 0
    frontier = walkable & ~visited & unknown_beside(terrain).flatten()[index]
    kinds = torch.cat([F.one_hot(there, NUM_TERRAINS), visited[:, None], frontier[:, None]], 1)
    # Where a neighbour lies once every map has a rim of one cell around it.
    codes = F.pad(map_codes(observations), (1, 1, 1, 1), value=NUM_MAP_CODES).flatten()
    row = index // width
    middle = index + 2 * row + (row // height) * 2 * (width + 2) + width + 3
    window = [(width + 2) * down + right for down in (-1, 0, 1) for right in (-1, 0, 1)]
    places = middle[:, None] + torch.tensor(window, device=index.device)
    return KnownCells(index, kinds.float(), codes[places].to(torch.int64))


def map_codes(observations: dict[str, Tensor]) -> Tensor:
    """int32 [B, height, width] below `NUM_MAP_CODES`: terrain, whether visited, searches."""
    code = observations["terrain"].to(torch.int32) * 2 + (observations["visited"] > 0)
    return code * NUM_SEARCH_BUCKETS + search_bucket(observations["searched"])


@gin.configurable(module="remdm", denylist=["observation_spec", "width"])
class ReachEncoder(EgoEncoder):
    """`EgoEncoder` whose crop shows learned distances, and one token of the agent's next steps."""

    scale: Tensor

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        width: int,
        *,
        fields: int = 3,
        map_dim: int = 16,
        map_channels: int = 24,
        informed: bool = True,
        way_loss_weight: float = 1.0,
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation; must hold the memory maps.
        width: Channels of a token.
        fields: Kinds of distance; each has its own costs.
        map_dim: Channels of a cell's embedding, on the whole map.
        map_channels: Channels of the convolution over the whole map.
        informed: Whether costs start from what kinds of cells mean: walls and the unknown are dear
            to enter, and the frontier and the stairs are where ways end. Without, all cells
            start alike; near places are learned as fast, far ones much later.
        way_loss_weight: Weight of `auxiliary_loss`.
        """
        super().__init__(observation_spec, width)
        self.way_loss_weight = way_loss_weight
        self.fields = fields
        cell_dim, channels = self.stem.in_channels, self.stem.out_channels
        self.stem = nn.Conv2d(cell_dim + fields, channels, 3, padding=1)
        self.map_cells = nn.Parameter(torch.randn(NUM_MAP_CODES, map_dim))
        self.map_conv = nn.Conv2d(map_dim, map_channels, 3, padding=1)
        self.map_mix = nn.Linear(map_channels, map_channels)
        # What lies around a cell decides only whether a way ends there: differences between the
        # steps of a way would add up and drown what it is to be compared with.
        self.ending = nn.Linear(map_channels, fields, bias=False)
        bias = torch.tensor([SOURCE_BIAS, ENTER_BIAS, SLANT_BIAS])
        self.bias = nn.Parameter(bias.repeat_interleave(fields))
        kinds = torch.zeros(3 * fields, NUM_KINDS)
        if informed:
            kinds[:fields, FRONTIER_KIND] = FRONTIER_SOURCE / KIND_SPEED
            kinds[:fields, Terrain.GOAL] = GOAL_SOURCE / KIND_SPEED
            kinds[fields : 2 * fields, SOLID] = SOLID_ENTER / KIND_SPEED
        self.kinds = nn.Parameter(kinds)
        wary = INFORMED_WARY if informed else WARY_BIAS
        self.wary = nn.Parameter(torch.full((fields,), wary / KIND_SPEED))
        scale = torch.tensor([SOURCE_SCALE, STEP_SCALE, STEP_SCALE])
        self.register_buffer("scale", scale, persistent=False)
        self.next_steps = nn.Linear(fields * (2 * NUM_DIRECTIONS + 1), width)
        self.next_position = nn.Parameter(torch.randn(width) * TOKEN_SCALE)
        self.num_tokens += 1

    def step_costs(self, observations: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Costs of ending, entering and slanting, each float32 [B, fields, height, width].

        A remembered cell's costs depend on its kind and on what lies around it; the unknown has
        one cost, learned as well.
        """
        batch, height, width = observations["terrain"].shape
        known = known_cells(observations)
        with torch.autocast(known.kinds.device.type, enabled=False):
            hidden = F.relu(self.map_mix(F.relu(self._surroundings(known.codes))))
            kinds = _fast(self.kinds)
            by_kind = self.bias + F.linear(known.kinds, kinds)
            ending, passing = by_kind.split([self.fields, 2 * self.fields], 1)
            costs = F.softplus(torch.cat([ending + self.ending(hidden), passing], 1))
            unknown = F.softplus(self.bias + kinds[:, Terrain.UNKNOWN])
            scale = self.scale.repeat_interleave(self.fields)
            maps = (unknown * scale).expand(batch * height * width, -1)
            maps = maps.index_copy(0, known.place, costs * scale)
        source, enter, slant = maps.view(batch, height, width, -1).permute(0, 3, 1, 2).chunk(3, 1)
        return source, enter, slant

    def _surroundings(self, codes: Tensor) -> Tensor:
        """`map_conv` of the embedded codes [K, 9], as a sum of nine rows of one table."""
        rows = torch.einsum("nd,cdk->knc", self.map_cells, self.map_conv.weight.flatten(2))
        rows = F.pad(rows, (0, 0, 0, 1)).flatten(0, 1)  # off the map: nothing
        first = torch.arange(codes.shape[1], device=codes.device) * (NUM_MAP_CODES + 1)
        summed: Tensor = F.embedding_bag(codes + first, rows, mode="sum")
        assert self.map_conv.bias is not None
        return summed + self.map_conv.bias

    def look(self, observations: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Tokens [B, num_tokens, width], and how much longer each next step makes the way.

        The second is float32 [B, fields, 8]: 0 for the best direction.
        """
        features = egocentric_features(observations, self.size)
        position = observations["position"]
        source, enter, slant = self.step_costs(observations)
        wary = STEP_SCALE * F.softplus(_fast(self.wary.float()))
        blocked = observations["blocked"]
        with torch.autocast(source.device.type, enabled=False):
            distance = distances(source, enter, slant, wary, blocked, position)
            near = self._around(distance, position, self.size.crop)
            middle = self.size.crop // 2
            here = near[:, :, middle, middle]
            nearer = (here[:, :, None, None] - near).clamp(-MARGIN, HORIZON) / MARGIN
            worse = self._worse(near, here, enter, slant, wary, observations)
            shown = [torch.exp(-worse.clamp(min=0)), worse.clamp(-MARGIN, MARGIN) / MARGIN]
            steps = torch.cat([*(x.flatten(1) for x in shown), torch.log1p(here)], 1)
        crop = self.cells(features.cells).permute(0, 3, 1, 2)
        # Both in channels_last layout, as convolutions want it: otherwise each of them copies.
        nearer = nearer.to(crop.dtype).contiguous(memory_format=torch.channels_last)
        crop = torch.cat([crop, nearer], 1)
        crop = F.relu(self.blocks(self.stem(crop)))
        tokens = [self.patches(crop).flatten(2).transpose(1, 2)]
        share = features.coarse.permute(0, 3, 1, 2) * (1.0 / self.size.block**2)
        tokens.append(self.coarse(share).flatten(2).transpose(1, 2))
        seen = torch.cat(tokens, 1)
        seen = seen + self.positions.to(seen.dtype)
        told = self.next_steps(steps) + self.next_position
        told = told.to(seen.dtype)[:, None]
        return torch.cat([seen + told, told], 1), worse

    def auxiliary_loss(
        self, seen: tuple[Tensor, ...], plans: Tensor, weights: Tensor, ranks: Ranks
    ) -> dict[str, Tensor]:
        """Cross-entropy of the labels' first moves under the ways alone.

        A step is as likely as `exp(-WAY_SHARPNESS * worse)`, in each field, and the fields are
        mixed evenly; so does a value iteration network act (Tamar et al. 2016, arXiv:1602.02867).
        Without it, costs learn only through the plans' tokens, and take much longer.
        """
        if not self.way_loss_weight:
            return {}
        (worse,) = seen
        first = plans[:, 0]
        moves = first < NUM_DIRECTIONS
        weight = weights * moves
        chosen = first.clamp(max=NUM_DIRECTIONS - 1)[:, None, None].expand(-1, self.fields, 1)
        log_probs = (-WAY_SHARPNESS * worse.clamp(max=WORST)).log_softmax(-1)
        nats = math.log(self.fields) - log_probs.gather(2, chosen)[:, :, 0].logsumexp(1)
        (total,) = ranks.means(weight.sum())
        total = torch.where(total == 0, 1.0, total)
        return {"way_loss": self.way_loss_weight * (nats * weight).sum() / total}

    def _around(self, fields: Tensor, position: Tensor, size: int) -> Tensor:
        """The square around the agent [B, C, size, size]; far away off the map."""
        count = fields.shape[1]
        places = position.repeat_interleave(count, 0)
        cut = egocentric_crop(fields.flatten(0, 1), places, size, outside=1000)
        return cut.unflatten(0, (-1, count))

    def _worse(
        self,
        near: Tensor,
        here: Tensor,
        enter: Tensor,
        slant: Tensor,
        wary: Tensor,
        observations: dict[str, Tensor],
    ) -> Tensor:
        """How much more it costs to begin with each of the eight steps, [B, fields, 8]."""
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
        return torch.stack(ways, -1) - here[:, :, None]
