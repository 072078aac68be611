"""Imagined setbacks: ways that failed, and maps with nothing left to explore.

Both are rare in episodes of the training maps, and decide those of larger ones: a boulder that
does not move, a passage that is hidden. What they look like follows from the rules of the memory
(`remdm.envs.memory`), so the oracle can be asked what it would do then.
"""

import numpy as np

from remdm.maps import DELTAS, NUM_DIRECTIONS, Terrain

# Turns that one imagined visit to a search place takes, and the most visits to one map.
SEARCH_TURNS = 5
MOST_VISITS = 12
# Share of the failed ways that have a boulder in them; others fail for no reason that is seen.
BOULDER_SHARE = 0.5
_SHUT = (Terrain.CLOSED_DOOR, Terrain.LOCKED_DOOR)
_OPEN = (Terrain.FLOOR, Terrain.CORRIDOR)


def obstruct(
    observations: dict[str, np.ndarray],
    plans: np.ndarray,
    rows: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Let the first move of some rows' plans have failed, in place.

    Args:
        observations: By name [B, ...]; `blocked` and, where a boulder is in the way, `terrain`
            change.
        plans: Integer tokens [B, plan_horizon] of these observations.
        rows: Integer indices of the rows to alter.
        rng: Source of randomness.

    Returns:
        The rows whose plan did begin with a move; the others are as they were.
    """
    rows = rows[plans[rows, 0] < NUM_DIRECTIONS]
    direction = plans[rows, 0].astype(np.int64)
    here = observations["position"][rows].astype(np.int64)
    there = here + DELTAS[direction]
    bits = (1 << direction).astype(observations["blocked"].dtype)
    observations["blocked"][rows, here[:, 0], here[:, 1]] |= bits
    terrain = observations["terrain"]
    found = terrain[rows, there[:, 0], there[:, 1]]
    rolled = np.isin(found, _OPEN) & (rng.random(len(rows)) < BOULDER_SHARE)
    terrain[rows, there[:, 0], there[:, 1]] = np.where(rolled, Terrain.BOULDER, found)
    return rows


def exhaust(
    observations: dict[str, np.ndarray], rows: np.ndarray, rng: np.random.Generator
) -> None:
    """In some rows, leave nothing to explore, and something searched already, in place.

    The stairs are forgotten, shut doors are walls, all that can be walked on has been visited, and
    the agent has searched at a few places, each for some turns.

    Args:
        observations: By name [B, ...]; `terrain`, `visited` and `searched` change.
        rows: Integer indices of the rows to alter.
        rng: Source of randomness.
    """
    for row in rows:
        terrain, visited = observations["terrain"][row], observations["visited"][row]
        terrain[terrain == Terrain.GOAL] = Terrain.FLOOR
        terrain[np.isin(terrain, _SHUT)] = Terrain.WALL
        walked = ~np.isin(terrain, (Terrain.UNKNOWN, Terrain.WALL, Terrain.HAZARD))
        new = walked & (visited == 0)
        steps = int(observations["step"][row])
        visited[new] = rng.integers(1, steps + 2, size=int(new.sum()))
        _search_somewhere(observations["searched"][row], np.argwhere(walked), rng)


def _search_somewhere(searched: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> None:
    for row, col in places[rng.integers(len(places), size=rng.integers(MOST_VISITS + 1))]:
        around = searched[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
        turns = SEARCH_TURNS * int(rng.integers(1, 5))
        around[...] = np.minimum(around.astype(np.int64) + turns, np.iinfo(searched.dtype).max)
