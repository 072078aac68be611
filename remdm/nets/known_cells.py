"""What the costs of a remembered cell depend on: what it is, and what lies around it."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from remdm.maps import NUM_TERRAINS, Terrain
from remdm.nets.egocentric import (
    NUM_SEARCH_BUCKETS,
    WALKABLE,
    search_bucket,
    terrain_flags,
    unknown_beside,
)

NUM_MAP_CODES = NUM_TERRAINS * 2 * NUM_SEARCH_BUCKETS
# Kinds of a cell: its terrain, whether it was visited, whether it borders the unknown.
FRONTIER_KIND, NUM_KINDS = NUM_TERRAINS + 1, NUM_TERRAINS + 2


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
    index = (terrain != Terrain.UNKNOWN).flatten().nonzero()[:, 0]
    there = terrain.flatten()[index].to(torch.int64)
    walkable = torch.from_numpy(terrain_flags(WALKABLE)).to(terrain.device)[there]
    visited = observations["visited"].flatten()[index] > 0
    frontier = walkable & ~visited & unknown_beside(terrain).flatten()[index]
    kinds = torch.cat([F.one_hot(there, NUM_TERRAINS), visited[:, None], frontier[:, None]], 1)
    codes = neighbourhoods(map_codes(observations), index, NUM_MAP_CODES)
    return KnownCells(index, kinds.float(), codes)


def neighbourhoods(maps: Tensor, index: Tensor, outside: int) -> Tensor:
    """A cell and its neighbours, row by row.

    Args:
        maps: Integers [B, height, width].
        index: int64 [K], places in the flattened maps.
        outside: What stands beyond the edge.

    Returns:
        int64 [K, 9].
    """
    height, width = maps.shape[1:]
    # Where a neighbour lies once every map has a rim of one cell around it.
    rimmed = F.pad(maps, (1, 1, 1, 1), value=outside).flatten()
    row = index // width
    middle = index + 2 * row + (row // height) * 2 * (width + 2) + width + 3
    window = [(width + 2) * down + right for down in (-1, 0, 1) for right in (-1, 0, 1)]
    places = middle[:, None] + torch.tensor(window, device=index.device)
    return rimmed[places].to(torch.int64)


def map_codes(observations: dict[str, Tensor]) -> Tensor:
    """int32 [B, height, width] below `NUM_MAP_CODES`: terrain, whether visited, searches."""
    code = observations["terrain"].to(torch.int32) * 2 + (observations["visited"] > 0)
    return code * NUM_SEARCH_BUCKETS + search_bucket(observations["searched"])
