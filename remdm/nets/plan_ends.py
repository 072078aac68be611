"""The places that plans lead to, read off the remembered map."""

import torch
from torch import Tensor

from remdm.maps import DELTAS, NUM_ACTIONS, NUM_DIRECTIONS, Action, Terrain
from remdm.nets.egocentric import WALKABLE, terrain_flags
from remdm.nets.known_cells import neighbourhoods

_HERE = 4  # among a cell and its neighbours, row by row


def plan_ends(observations: dict[str, Tensor], plans: Tensor) -> tuple[Tensor, Tensor]:
    """Where plans lead first, if all that they do works.

    That is the first place on their way that ends ways by its kind (`ends_ways`), whether the plan
    goes on behind it or not: those of `TourOracle` do, and so do executed actions. Every plan
    also ends where it stops or begins to search. A door that is kicked in or walked into is a place
    on the way like others.

    Args:
        observations: Arrays of B maps.
        plans: int64 [B, H]: actions, then END.

    Returns:
        int64 [B, 2], row and column; bool [B], whether the plan does anything and says its end.
    """
    stops = (plans >= NUM_ACTIONS) | (plans == Action.SEARCH)
    moves = (plans < NUM_DIRECTIONS) & (stops.cumsum(1) == 0)
    deltas = torch.from_numpy(DELTAS).to(plans.device)
    steps = deltas[plans.clamp(max=NUM_DIRECTIONS - 1)] * moves[..., None]
    start = observations["position"].to(torch.int64)
    arrives = moves & ends_ways(observations, start[:, None] + steps.cumsum(1))
    behind = arrives.cumsum(1) - arrives.to(torch.int64) > 0
    places = start + (steps * ~behind[..., None]).sum(1)
    return places, (stops | arrives).any(1) & (plans[:, 0] < NUM_ACTIONS)


def ends_ways(observations: dict[str, Tensor], places: Tensor) -> Tensor:
    """Whether nobody plans on behind a place: what comes next is not known there.

    So it is at shut doors and at the frontier, walkable cells never visited that border the
    unknown. Who knows where the stairs are passes them by.

    Args:
        observations: Arrays of B maps.
        places: int64 [B, P, 2], rows and columns.

    Returns:
        bool [B, P]; false off the map.
    """
    terrain = observations["terrain"]
    batch, height, width = terrain.shape
    row, column = places.unbind(-1)
    there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    first = torch.arange(batch, device=places.device)[:, None] * height
    index = ((first + row) * width + column) * there
    around = neighbourhoods(terrain, index.flatten(), Terrain.WALL).unflatten(0, index.shape)
    here = around[..., _HERE]
    walkable = torch.from_numpy(terrain_flags(WALKABLE)).to(places.device)[here]
    unvisited = observations["visited"].flatten()[index] == 0
    frontier = walkable & unvisited & (around == Terrain.UNKNOWN).any(-1)
    shut = (here == Terrain.CLOSED_DOOR) | (here == Terrain.LOCKED_DOOR)
    stairs = (terrain == Terrain.GOAL).flatten(1).any(1, keepdim=True)
    return there & torch.where(stairs, here == Terrain.GOAL, frontier | shut)
