"""How much a search from each cell can be hoped to find, learned from plans that search."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.maps import NUM_TERRAINS, Terrain
from remdm.nets.known_cells import neighbourhoods

# A search misses what hides beside it in 6 of 7 cases; where the decay that is learned starts.
MISS = 6.0 / 7.0
# Chances start alike, and move by orders of magnitude: a hidden door is a hundred times as likely
# before a door as beside any corridor.
FIRST_CHANCE, LOG_SPEED, LOG_RANGE = 0.05, 4.0, 12.0
# Added to what can be found, so that its logarithm stays finite where all has been searched.
HARDLY = 1e-4


class Hiding(nn.Module):
    """Expected finds of one search, from what lies around the cells within its reach.

    What is hidden at a cell with some chance is still there after n searches beside it with that
    chance times exp(-decay * n): the exponential detection function of search theory (Stone 1975,
    Theory of Optimal Search, 2.2). A search reaches a cell and its eight neighbours.
    """

    def __init__(self, channels: int) -> None:
        """Args:
        channels: Hidden channels.
        """
        super().__init__()
        self.terrain = nn.Parameter(torch.randn(9 * (NUM_TERRAINS + 1), channels) / 3)
        self.mix = nn.Linear(channels, channels)
        self.chance = nn.Linear(channels, 1)
        nn.init.constant_(self.chance.bias, math.log(FIRST_CHANCE) / LOG_SPEED)
        self.decay = nn.Parameter(torch.tensor(math.log(math.expm1(-math.log(MISS)))))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """float32 [B, height, width]: what one more search from each cell would find."""
        terrain, searched = observations["terrain"], observations["searched"]
        known = (terrain != Terrain.UNKNOWN).float()
        # What is neither known nor beside the known is out of reach.
        near = F.max_pool2d(known, 3, 1, 1).flatten().nonzero()[:, 0]
        around = neighbourhoods(terrain.to(torch.int32), near, NUM_TERRAINS)
        rows = torch.arange(9, device=near.device) * (NUM_TERRAINS + 1)
        hidden = F.relu(F.embedding_bag(around + rows, self.terrain, mode="sum"))
        logs = LOG_SPEED * self.chance(F.relu(self.mix(hidden)))[:, 0]
        tried = searched.flatten()[near].float()
        left = logs.clamp(-LOG_RANGE, 0.0) - F.softplus(self.decay) * tried
        finds = torch.zeros(known.numel(), device=near.device).index_copy(0, near, left.exp())
        return F.avg_pool2d(finds.view_as(known), 3, 1, 1, divisor_override=1)


def log_hope(finds: Tensor) -> Tensor:
    """The logarithm of expected finds, never less than that of `HARDLY`."""
    return torch.log(finds + HARDLY)
