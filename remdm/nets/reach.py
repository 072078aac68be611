"""An egocentric encoder that also sees how far things are, over the whole remembered map.

Every cell of the map has a cost of entering it and a cost of ending there, which follow from what
it is and what lies around it; `remdm.nets.reach_kernel` finds the cheapest ways, exactly and
however long, and the decoder is shown what they cost from the cells around the agent. What is worth
walking to, what can be walked on and where to search is learned from the plans alone.
"""

import gin
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.maps import DELTAS, NUM_DIRECTIONS, NUM_TERRAINS, ArraySpec, Terrain
from remdm.nets.cross_denoiser import TOKEN_SCALE
from remdm.nets.ego import EgoEncoder
from remdm.nets.egocentric import egocentric_crop, egocentric_features
from remdm.nets.hiding import Hiding, log_hope
from remdm.nets.known_cells import FRONTIER_KIND, NUM_KINDS, NUM_MAP_CODES, known_cells
from remdm.nets.reach_losses import end_loss, way_loss
from remdm.nets.ways import MARGIN, cheapest_ways, first_steps
from remdm.ranks import Ranks

# Where costs start: 1 for a step, 0.05 more for a diagonal one, 400 for ending anywhere.
STEP_SCALE, SOURCE_SCALE = 4.0, 20.0
ENTER_BIAS, SLANT_BIAS, SOURCE_BIAS = -1.25, -5.0, 20.0
WARY_BIAS = 1.0
# Where an informed encoder starts: 300 for a step into a wall or the unknown and for one that has
# failed, 60 for ending at the frontier or in a closed door, 6 more in a locked one, 0 for ending at
# the stairs. This is near to what `MemoryOracle` prefers: a prior.
SOLID, SOLID_ENTER, INFORMED_WARY = (Terrain.UNKNOWN, Terrain.WALL), 75.0, 75.0
INFORMED_ENDS = {
    FRONTIER_KIND: -17.0,
    Terrain.CLOSED_DOOR: -17.0,
    Terrain.LOCKED_DOOR: -16.7,
    Terrain.GOAL: -50.0,
}
# 10 less for ending where a search finds e times as much; only where nothing else ends a way.
HOPE_WEIGHT = 0.5
# What a cell's kind adds to its costs learns this many times faster than other weights: costs
# have to move by tens, and an update of Adam moves a weight by little more than 0.001.
KIND_SPEED, KIND_GRADIENT = 40.0, 0.02
# Ways are shown this far before the agent.
HORIZON = 18.0
# Places whose way costs more than this are equally far for `end_loss`; no label is as long.
FARTHEST = 200.0
_FIRST_DIAGONAL = 4


def _fast(weight: Tensor) -> Tensor:
    """`KIND_SPEED * weight`, whose gradient is small beside others when their norm is clipped.

    Adam does not look at the scale of a gradient, so this changes nothing but the clipping.
    """
    slow = KIND_GRADIENT * weight
    return slow + ((KIND_SPEED - KIND_GRADIENT) * weight).detach()


def ordinary(kinds: Tensor) -> Tensor:
    """float32 [K, 1]: 0 for the kinds that end a way by themselves, else 1."""
    return 1.0 - kinds[:, list(INFORMED_ENDS)].amax(1, keepdim=True)


def terrain_beside(observations: dict[str, Tensor]) -> Tensor:
    """float32 [B, 8, NUM_TERRAINS]: what lies beside the agent in each direction, one-hot."""
    around = egocentric_crop(observations["terrain"], observations["position"], 3)
    row, column = (torch.from_numpy(DELTAS).to(around.device) + 1).unbind(1)
    return F.one_hot(around[:, row, column].to(torch.int64), NUM_TERRAINS).float()


@gin.configurable(module="remdm", denylist=["observation_spec", "width"])
class ReachEncoder(EgoEncoder):
    """`EgoEncoder` whose crop shows learned distances; more tokens tell of the way ahead.

    One weighs the eight next steps, and one for each of `way_tokens` steps says where the cheapest
    way goes: a plan of several actions needs to know where its way ends and turns.
    """

    scale: Tensor

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        width: int,
        *,
        fields: int = 1,
        map_dim: int = 16,
        map_channels: int = 24,
        informed: bool = True,
        way_loss_weight: float = 1.0,
        end_loss_weight: float = 1.0,
        way_tokens: int = 16,
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation; must hold the memory maps.
        width: Channels of a token.
        fields: Distances of their own costs; more than one cost time and won nothing.
        map_dim: Channels of a cell's embedding, on the whole map.
        map_channels: Channels of the convolution over the whole map.
        informed: Whether costs start from what kinds of cells mean: walls and the unknown are dear
            to enter, and the frontier, shut doors and the stairs are where ways end. Without, all
            cells start alike; near places are learned as fast, far ones much later.
        way_loss_weight: Weight of `reach_losses.way_loss`.
        end_loss_weight: Weight of `reach_losses.end_loss`.
        way_tokens: Steps of the cheapest way that the decoder is told one by one; 0 for none.

        Raises:
            ValueError: If `way_tokens` is negative.
        """
        if way_tokens < 0:
            raise ValueError(f"ReachEncoder.way_tokens must be at least 0, got {way_tokens}.")
        super().__init__(observation_spec, width)
        self.way_loss_weight, self.end_loss_weight = way_loss_weight, end_loss_weight
        self.fields = fields
        cell_dim, channels = self.stem.in_channels, self.stem.out_channels
        self.stem = nn.Conv2d(cell_dim + fields, channels, 3, padding=1)
        self.map_cells = nn.Parameter(torch.randn(NUM_MAP_CODES, map_dim))
        self.map_conv = nn.Conv2d(map_dim, map_channels, 3, padding=1)
        self.map_mix = nn.Linear(map_channels, map_channels)
        # What lies around a cell decides only whether a way ends there: differences between the
        # steps of a way would add up and drown what it is to be compared with.
        self.ending = nn.Linear(map_channels, fields, bias=False)
        self.hiding = Hiding(map_channels)
        self.hope = nn.Parameter(torch.full((fields,), HOPE_WEIGHT))
        bias = torch.tensor([SOURCE_BIAS, ENTER_BIAS, SLANT_BIAS])
        self.bias = nn.Parameter(bias.repeat_interleave(fields))
        kinds = torch.zeros(3 * fields, NUM_KINDS)
        if informed:
            for kind, source in INFORMED_ENDS.items():
                kinds[:fields, kind] = source / KIND_SPEED
            kinds[fields : 2 * fields, SOLID] = SOLID_ENTER / KIND_SPEED
        self.kinds = nn.Parameter(kinds)
        wary = INFORMED_WARY if informed else WARY_BIAS
        self.wary = nn.Parameter(torch.full((fields,), wary / KIND_SPEED))
        scale = torch.tensor([SOURCE_SCALE, STEP_SCALE, STEP_SCALE])
        self.register_buffer("scale", scale, persistent=False)
        self.next_steps = nn.Linear(fields * (2 * NUM_DIRECTIONS + 1 + NUM_TERRAINS), width)
        self.next_position = nn.Parameter(torch.randn(width) * TOKEN_SCALE)
        self.num_tokens += 1 + way_tokens
        self.way_tokens = way_tokens
        if way_tokens:
            self.way = nn.Linear(fields * (NUM_DIRECTIONS + 1 + NUM_TERRAINS), width)
            self.way_positions = nn.Parameter(torch.randn(way_tokens, width) * TOKEN_SCALE)

    def step_costs(self, observations: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Costs of ending, entering and slanting, each float32 [B, fields, height, width].

        A remembered cell's costs depend on its kind and, where that is no end by itself, on what
        lies around it; the unknown has one cost, learned as well.
        """
        batch, height, width = observations["terrain"].shape
        known = known_cells(observations)
        with torch.autocast(known.kinds.device.type, enabled=False):
            hidden = F.relu(self.map_mix(F.relu(self._surroundings(known.codes))))
            kinds = _fast(self.kinds)
            by_kind = self.bias + F.linear(known.kinds, kinds)
            ending, passing = by_kind.split([self.fields, 2 * self.fields], 1)
            hope = log_hope(self.hiding(observations).flatten()[known.place])
            around = self.ending(hidden) - self.hope * hope[:, None]
            costs = F.softplus(torch.cat([ending + ordinary(known.kinds) * around, passing], 1))
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
        """Tokens [B, num_tokens, width]; unless a plan is made, also what `auxiliary_loss` reads.

        That is how much longer each next step makes the way, float32 [B, fields, 8], 0 for the
        best direction; and the costs of ending, entering and slanting.
        """
        features = egocentric_features(observations, self.size)
        position = observations["position"]
        source, enter, slant = self.step_costs(observations)
        wary = self._wary()
        blocked = observations["blocked"]
        with torch.autocast(source.device.type, enabled=False):
            distance, parent = cheapest_ways(source, enter, slant, wary, blocked, position)
            near = self._around(distance, position, self.size.crop)
            middle = self.size.crop // 2
            here = near[:, :, middle, middle]
            nearer = (here[:, :, None, None] - near).clamp(-MARGIN, HORIZON) / MARGIN
            worse = self._worse(near, here, enter, slant, wary, observations)
            shown = [torch.exp(-worse.clamp(min=0)), worse.clamp(-MARGIN, MARGIN) / MARGIN]
            # Whether the way goes on through a locked door is said together, not left to be found.
            shown.append(shown[0] @ terrain_beside(observations))
            steps = torch.cat([*(x.flatten(1) for x in shown), torch.log1p(here)], 1)
        crop = self.cells(features.cells).permute(0, 3, 1, 2)
        # Both in channels_last layout, as convolutions want it: otherwise each of them copies.
        nearer = nearer.to(crop.dtype).contiguous(memory_format=torch.channels_last)
        crop = torch.cat([crop, nearer], 1)
        crop = F.relu(self.blocks(self.stem(crop)))
        parts = [self.patches(crop).flatten(2).transpose(1, 2)]
        share = features.coarse.permute(0, 3, 1, 2) * (1.0 / self.size.block**2)
        parts.append(self.coarse(share).flatten(2).transpose(1, 2))
        seen = torch.cat(parts, 1)
        seen = seen + self.positions.to(seen.dtype)
        told = self.next_steps(steps) + self.next_position
        told = told.to(seen.dtype)[:, None]
        tokens = torch.cat([seen + told, told], 1)
        if self.way_tokens:
            tokens = torch.cat([tokens, self._way_ahead(parent, observations).to(seen.dtype)], 1)
        if torch.is_inference_mode_enabled():  # the maps are large, and copied with every choice
            return (tokens,)
        return tokens, worse, source, enter, slant

    def _way_ahead(self, parent: Tensor, observations: dict[str, Tensor]) -> Tensor:
        """A token [B, way_tokens, width] for each step of the cheapest way, and what it enters."""
        terrain = observations["terrain"]
        width = terrain.shape[2]
        steps, cells = first_steps(parent, observations["position"], width, self.way_tokens)
        entered = terrain.flatten(1).gather(1, cells.flatten(1)).view_as(cells).long()
        told = [F.one_hot(steps, NUM_DIRECTIONS + 1), F.one_hot(entered, NUM_TERRAINS)]
        shown = torch.cat(told, -1).transpose(1, 2).flatten(2).float()
        way: Tensor = self.way(shown) + self.way_positions
        return way

    def auxiliary_loss(
        self,
        seen: tuple[Tensor, ...],
        observations: dict[str, Tensor],
        plans: Tensor,
        weights: Tensor,
        ranks: Ranks,
    ) -> dict[str, Tensor]:
        """See `EgoEncoder.auxiliary_loss` and `remdm.nets.reach_losses`."""
        worse, source, enter, slant = seen
        losses = {}
        if self.way_loss_weight:
            loss = way_loss(worse, plans, weights, ranks)
            losses["way_loss"] = self.way_loss_weight * loss
        if self.end_loss_weight:
            known = (observations["terrain"] != Terrain.UNKNOWN)[:, None]
            costs = torch.where(known, source + self._far(enter, slant, observations), 2 * FARTHEST)
            loss = end_loss(costs, observations, plans, weights, ranks)
            losses["end_loss"] = self.end_loss_weight * loss
        return losses

    @torch.no_grad()
    def _far(self, enter: Tensor, slant: Tensor, observations: dict[str, Tensor]) -> Tensor:
        """What the ways from each cell to the agent cost, [B, fields, height, width].

        Those of the agent to each cell differ little: they enter the cell and not the agent's own,
        and meet failed steps in the other direction.
        """
        position = observations["position"]
        source = torch.full_like(enter, 2 * FARTHEST).flatten(2)
        row, column = position.to(torch.int64).unbind(1)
        here = row * enter.shape[3] + column
        source.scatter_(2, here[:, None, None].expand(-1, self.fields, 1), 0.0)
        ways = (enter, slant, self._wary(), observations["blocked"], position)
        return cheapest_ways(source.view_as(enter), *ways, margin=FARTHEST).distance

    def _wary(self) -> Tensor:
        """float32 [fields]: what a step that has failed costs more."""
        return STEP_SCALE * F.softplus(_fast(self.wary.float()))

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
