"""Imagined setbacks: ways that failed, locked doors, and maps with nothing left to explore.

All are rare in episodes of the training maps, and decide those of larger ones: a boulder that does
not move, a door to be kicked in, a passage that is hidden. What they look like follows from the
rules of the memory (`remdm.envs.memory`), so the oracle can be asked what it would do then.
"""

import numpy as np

from remdm.maps import DELTAS, NUM_DIRECTIONS, Action, Terrain
from remdm.oracles.contract import Oracle

# Plans that the oracle has carried out in vain on an exhausted map, at most, and how many tokens of
# each; its searches are made up to so many times as long, as a planner's that does not go on.
MOST_ROUNDS, ROUND_HORIZON, LONGEST = 16, 24, 6
# Share of the failed ways that have a boulder in them; others fail for no reason that is seen.
BOULDER_SHARE = 0.5
LOCKED_SHARE = 0.5  # of the closed doors of a map with locked doors
_SHUT = (Terrain.CLOSED_DOOR, Terrain.LOCKED_DOOR)
_OPEN = (Terrain.FLOOR, Terrain.CORRIDOR)


def obstruct(
    observations: dict[str, np.ndarray],
    plans: np.ndarray,
    rows: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Let the first move of some rows' plans have failed, in place.

    A closed door turns out to be locked; any other way is blocked.

    Args:
        observations: By name [B, ...]; `blocked` or `terrain` change, or both for a boulder.
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
    terrain = observations["terrain"]
    found = terrain[rows, there[:, 0], there[:, 1]]
    locked = found == Terrain.CLOSED_DOOR
    bits = np.where(locked, 0, 1 << direction).astype(observations["blocked"].dtype)
    observations["blocked"][rows, here[:, 0], here[:, 1]] |= bits
    rolled = np.isin(found, _OPEN) & (rng.random(len(rows)) < BOULDER_SHARE)
    becomes = np.where(locked, Terrain.LOCKED_DOOR, np.where(rolled, Terrain.BOULDER, found))
    terrain[rows, there[:, 0], there[:, 1]] = becomes
    return rows


def lock(observations: dict[str, np.ndarray], rows: np.ndarray, rng: np.random.Generator) -> None:
    """In some rows, let half of the closed doors be known to be locked, in place.

    Args:
        observations: By name [B, ...]; `terrain` changes.
        rows: Integer indices of the rows to alter.
        rng: Source of randomness.
    """
    terrain = observations["terrain"][rows]
    chosen = (terrain == Terrain.CLOSED_DOOR) & (rng.random(terrain.shape) < LOCKED_SHARE)
    observations["terrain"][rows] = np.where(chosen, Terrain.LOCKED_DOOR, terrain)


def exhaust(
    observations: dict[str, np.ndarray],
    rows: np.ndarray,
    oracle: Oracle,
    rng: np.random.Generator,
) -> None:
    """In some rows, leave nothing to explore, and let something have been searched, in place.

    The stairs are forgotten, shut doors are walls, and all that can be walked on has been visited.
    Then the oracle carries out some plans, none of which finds anything.

    Args:
        observations: By name [B, ...]; `terrain`, `visited`, `searched` and `position` change.
        rows: Integer indices of the rows to alter.
        oracle: Plans as `MemoryOracle` does.
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
    rounds = rng.integers(MOST_ROUNDS + 1, size=len(rows))
    turns = rng.integers(1, LONGEST + 1, size=len(rows))
    for done in range(MOST_ROUNDS):
        going = rounds > done
        seen = {name: array[rows[going]] for name, array in observations.items()}
        plans = oracle.label(seen, ROUND_HORIZON)[0]
        for row, plan, times in zip(rows[going], plans, turns[going], strict=True):
            _carry_out(observations, int(row), plan, int(times))


def _carry_out(observations: dict[str, np.ndarray], row: int, plan: np.ndarray, times: int) -> None:
    """Walk and search as a plan says, each search `times` over; nothing new is found."""
    moves = plan[plan < NUM_DIRECTIONS].astype(np.int64)
    place = observations["position"][row]
    place[:] = place.astype(np.int64) + DELTAS[moves].sum(0)
    searches = times * int((plan == Action.SEARCH).sum())
    if searches:
        searched = observations["searched"][row]
        r, c = int(place[0]), int(place[1])
        around = searched[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2]
        most = np.iinfo(searched.dtype).max
        around[...] = np.minimum(around.astype(np.int64) + searches, most)
